//! Deletes and renames that an earlier mount began and did not end, ended.
//!
//! Owns what each of them comes to after a crash: an acknowledged delete is carried out, a rename
//! whose copies were all made is finished, any other is taken back. Promises: an object goes only
//! where it is still the version that the journal speaks of, and a copy only where its source is
//! still there. Must not know commits: those follow when the names stand.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::deletes::DeleteIntent;
use super::move_list::{MoveList, moved_key};
use super::move_tree::{MoveIntent, MoveStep};
use super::{Result, Vfs};
use crate::journal::{Kind, Pending, Record};
use crate::naming::Key;
use crate::store::{self, Deletion, ListLine, ListRequest, ObjectStore, Version};
use crate::write;

/// Objects looked at at once.
const HEADS_IN_FLIGHT_MAX: usize = 32;

/// Keys gathered before they are deleted.
const KEYS_MAX: usize = 10_000;

/// An object as a listing shows it, asked for in key order.
struct Cursor {
    store: Arc<dyn ObjectStore>,
    request: ListRequest,
    lines: VecDeque<Version>,
    is_over: bool,
}

impl Vfs {
    /// Ends what earlier mounts began with names. What cannot be ended now waits for the next
    /// mount with the same `--cache-dir`.
    pub(super) async fn end_leftovers(&self, pending: &[Pending]) {
        if self.settings().read_only {
            return;
        }
        self.end_deletes_of(pending).await;
        for one in pending.iter().filter(|one| one.kind == Kind::Move) {
            let (intent, steps) = match (one.intent(), one.steps()) {
                (Ok(intent), Ok(steps)) => (intent, steps),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%error, "the journal has a rename nobody can read");
                    continue;
                }
            };
            match self.end_move(intent, &steps, &one.record()).await {
                Ok(()) => one.record().end(),
                Err(error) => {
                    tracing::error!(%error, "an unfinished rename waits for another mount");
                }
            }
        }
    }

    async fn end_deletes_of(&self, pending: &[Pending]) {
        let mut looks: Vec<BoxFuture<'_, Option<(Version, Record)>>> = Vec::new();
        for one in pending.iter().filter(|one| one.kind == Kind::Delete) {
            match one.intent::<DeleteIntent>() {
                Ok(intent) => looks.push(self.look_at(intent.version, one.record()).boxed()),
                Err(error) => {
                    tracing::error!(%error, "the journal has a delete nobody can read");
                }
            }
        }
        let due: Vec<(Version, Record)> = futures::stream::iter(looks)
            .buffer_unordered(HEADS_IN_FLIGHT_MAX)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if due.is_empty() {
            return;
        }
        tracing::info!(files = due.len(), "an earlier mount had unlinked these; deleting them");
        let objects: Vec<Deletion> =
            due.iter().map(|(version, _)| Deletion::from(version.clone())).collect();
        let failed = self.delete_all(&objects).await;
        for (Version { key, .. }, record) in due {
            match failed.iter().find(|(failed, _)| *failed == key) {
                None => record.end(),
                Some((_, error)) if error.is_changed() => record.end(),
                Some((key, error)) => {
                    tracing::error!(%key, %error, "an unlinked file is back until another mount");
                }
            }
        }
    }

    /// The version, where the object is still the one that was unlinked.
    async fn look_at(&self, version: Version, record: Record) -> Option<(Version, Record)> {
        match self.0.store.head(&version.key).await {
            Ok(head) if head.version.is_same(&version) => Some((head.version, record)),
            // It went before the crash, and may have been made again since.
            Ok(_) => {
                record.end();
                None
            }
            Err(error) if error.is_not_found() => {
                record.end();
                None
            }
            Err(error) => {
                let key = &version.key;
                tracing::error!(%key, %error, "an unlinked file is back until another mount");
                None
            }
        }
    }

    async fn end_move(
        &self,
        intent: MoveIntent,
        steps: &[MoveStep],
        record: &Record,
    ) -> Result<()> {
        match intent {
            MoveIntent::File { from, to } => self.end_file(&from, &to, steps).await,
            MoveIntent::Tree { from, to, list } => {
                let Some(folder) = record.folder() else { return Ok(()) };
                let list = MoveList::open(folder, &list).map_err(write::Error::Journal)?;
                if steps.iter().any(|step| matches!(step, MoveStep::AllCopied)) {
                    tracing::info!(%from, %to, "finishing an earlier mount's rename");
                    self.finish_tree(&list, &from).await?;
                } else {
                    tracing::info!(%from, %to, "taking an earlier mount's rename back");
                    self.undo_tree(&list, &from, &to).await?;
                }
                list.remove();
                Ok(())
            }
        }
    }

    /// An object that has a copy goes. Where nobody noted the copy, the same bytes are proof.
    async fn end_file(&self, from: &Version, to: &Key, steps: &[MoveStep]) -> Result<()> {
        let Some(source) = self.head_of(&from.key).await? else { return Ok(()) };
        let Some(copy) = self.head_of(to).await? else { return Ok(()) };
        let noted = steps
            .iter()
            .any(|step| matches!(step, MoveStep::Copied(version) if version.is_same(&copy)));
        let is_copy = noted || (from.etag.is_some() && copy.has_bytes_of(from));
        if source.is_same(from) && is_copy {
            self.delete_version(&source).await?;
            tracing::info!(from = %from.key, %to, "an earlier mount's rename is finished");
        }
        Ok(())
    }

    async fn head_of(&self, key: &Key) -> Result<Option<Version>> {
        Ok(self.ask(key, false).await?.map(|head| head.version.clone()))
    }

    /// Every copy was made: the sources that are still there go.
    async fn finish_tree(&self, list: &MoveList, from: &str) -> Result<()> {
        let mut standing = Cursor::new(self, from);
        let (mut due, mut markers) = (Vec::new(), Vec::new());
        for source in list.sources().map_err(write::Error::Journal)? {
            let still = standing.find(&source.key).await?;
            if let Some(still) = still.filter(|still| still.is_same(&source)) {
                self.delete_later(still, &mut due, &mut markers).await;
            }
        }
        due.append(&mut markers);
        self.delete_in_order(due.into_iter()).await;
        Ok(())
    }

    /// Nothing was deleted yet: copies whose source is still there go again.
    async fn undo_tree(&self, list: &MoveList, from: &str, to: &str) -> Result<()> {
        let made = list.copies().map_err(write::Error::Journal)?;
        let made: HashMap<Key, Version> =
            made.into_iter().map(|copy| (copy.key.clone(), copy)).collect();
        let (mut sources, mut copies) = (Cursor::new(self, from), Cursor::new(self, to));
        let (mut due, mut markers) = (Vec::new(), Vec::new());
        for source in list.sources().map_err(write::Error::Journal)? {
            let still = sources.find(&source.key).await?;
            let Some(copy) = copies.find(&moved_key(&source.key, from, to)).await? else {
                continue;
            };
            let is_ours = copy.has_bytes_of(&source)
                || made.get(&copy.key).is_some_and(|made| made.is_same(&copy));
            if is_ours && still.is_some_and(|still| still.is_same(&source)) {
                self.delete_later(copy, &mut due, &mut markers).await;
            }
        }
        due.append(&mut markers);
        self.delete_in_order(due.into_iter()).await;
        Ok(())
    }

    /// Gathers objects, and deletes the files among them where they are many. Markers wait for the
    /// end: what is below a directory goes before it.
    async fn delete_later(
        &self,
        version: Version,
        due: &mut Vec<Deletion>,
        markers: &mut Vec<Deletion>,
    ) {
        let objects = if version.key.is_marker() { markers } else { &mut *due };
        objects.push(Deletion::from(version));
        if due.len() >= KEYS_MAX {
            self.delete_in_order(std::mem::take(due).into_iter()).await;
        }
    }
}

impl Cursor {
    fn new(vfs: &Vfs, prefix: &str) -> Self {
        let request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
        let store = Arc::clone(&vfs.0.store);
        Self { store, request, lines: VecDeque::new(), is_over: false }
    }

    /// The object under `key`; keys are asked for in order.
    async fn find(&mut self, key: &Key) -> store::Result<Option<Version>> {
        loop {
            while let Some(first) = self.lines.front() {
                if first.key > *key {
                    return Ok(None);
                }
                let found = self.lines.pop_front().filter(|found| found.key == *key);
                if found.is_some() {
                    return Ok(found);
                }
            }
            if self.is_over {
                return Ok(None);
            }
            let page = self.store.list(&self.request).await?;
            self.lines.extend(page.lines.into_iter().filter_map(|line| match line {
                ListLine::Object(version) => Some(version),
                ListLine::Prefix(_) => None,
            }));
            self.is_over = page.next.is_none();
            self.request.continuation = page.next;
        }
    }
}
