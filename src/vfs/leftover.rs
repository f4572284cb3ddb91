//! Deletes and renames that an earlier mount began and did not end, ended.
//!
//! Owns what each of them comes to after a crash: an acknowledged delete is carried out, a rename
//! whose copies were all made is finished, any other is taken back. Promises: an object goes only
//! where it is still the version that the journal speaks of, and a copy only where its source is
//! still there. Must not know commits: those follow when the names stand.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::deletes::DeleteIntent;
use super::move_list::{MoveList, moved_key};
use super::move_tree::{COPIES_IN_FLIGHT_MAX, MoveIntent, MoveStep};
use super::{Result, Vfs};
use crate::journal::{Kind, Pending, Record};
use crate::naming::Key;
use crate::store::{self, Deletion, ListLine, ListRequest, ObjectStore, Version};
use crate::units::MIB;
use crate::write::{self, COMMIT_ID};

/// Objects looked at at once.
const HEADS_IN_FLIGHT_MAX: usize = 32;

/// Keys gathered before they are deleted.
const KEYS_MAX: usize = 10_000;

/// What a store copies of one object in a second, at the least: CopyObject within a region makes
/// 100 MiB and more.
const COPIED_PER_SECOND: u64 = 128 * MIB;

/// How often a copy that may be under way is asked for.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An object as a listing shows it, asked for in key order.
struct Cursor {
    store: Arc<dyn ObjectStore>,
    request: ListRequest,
    lines: VecDeque<Version>,
    is_over: bool,
}

/// A directory whose rename is finished after a crash; what else the journal says of what is below
/// it may still say it under the old name.
#[derive(Debug)]
struct Renamed {
    from: String,
    to: String,
    own_tags: HashMap<Key, Version>,
    list: MoveList,
    record: Record,
    /// All that stood under the old name is gone.
    is_over: bool,
}

/// All of them, in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Renames(Vec<Renamed>);

impl Renames {
    /// Nothing in the journal speaks of an old name any more.
    pub(super) fn end(self) {
        for Renamed { list, record, .. } in self.0.into_iter().filter(|one| one.is_over) {
            list.remove();
            record.end();
        }
    }

    /// Those that the record is of a time before: what was written down later means the name.
    fn since<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = &'a Renamed> {
        self.0.iter().filter(|renamed| record.is_before(&renamed.record))
    }

    /// Where the object of a key stands now of which the record speaks.
    pub(super) fn key(&self, key: Key, record: &Record) -> Key {
        self.since(record).fold(key, |key, renamed| {
            let is_below = key.as_str().starts_with(&renamed.from);
            if is_below { moved_key(&key, &renamed.from, &renamed.to) } else { key }
        })
    }

    /// The version that stands there for this one.
    pub(super) fn version(&self, version: Version, record: &Record) -> Version {
        self.since(record).fold(version, |version, renamed| {
            if !version.key.as_str().starts_with(&renamed.from) {
                return version;
            }
            let key = moved_key(&version.key, &renamed.from, &renamed.to);
            renamed.own_tags.get(&key).cloned().unwrap_or(Version { key, ..version })
        })
    }
}

fn by_key(versions: Vec<Version>) -> HashMap<Key, Version> {
    versions.into_iter().map(|version| (version.key.clone(), version)).collect()
}

impl Vfs {
    /// Ends what earlier mounts began with names. What cannot be ended now waits for the next
    /// mount with the same `--cache-dir`.
    pub(super) async fn end_leftovers(&self, pending: &[Pending]) -> Renames {
        let (mut renames, began) = (Renames::default(), self.0.clock.now());
        self.end_deletes_of(pending).await;
        for one in pending.iter().filter(|one| one.kind == Kind::Move) {
            let (intent, steps) = match (one.intent(), one.steps()) {
                (Ok(intent), Ok(steps)) => (intent, steps),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%error, "the journal has a rename nobody can read");
                    continue;
                }
            };
            if one.is_unsure() {
                // A step that is missing may say that the copies are being taken back.
                tracing::error!("the journal was damaged behind a rename; both names stay");
                one.record().end();
                continue;
            }
            match self.end_move(intent, &steps, &one.record(), began).await {
                Ok(Some(renamed)) => renames.0.push(renamed),
                Ok(None) => one.record().end(),
                Err(error) => {
                    tracing::error!(%error, "an unfinished rename waits for another mount");
                }
            }
        }
        renames
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
            Ok(head) if is_still(&head.version, &version) => Some((head.version, record)),
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
        began: Instant,
    ) -> Result<Option<Renamed>> {
        match intent {
            MoveIntent::File { from, to, id } => {
                self.end_file(&from, &to, id.as_deref(), (steps, began)).await?;
                Ok(None)
            }
            MoveIntent::Tree { from, to, list } => {
                let Some(folder) = record.folder() else { return Ok(None) };
                let list = MoveList::open(folder, &list).map_err(write::Error::Journal)?;
                let own_tags = by_key(list.copies().map_err(write::Error::Journal)?);
                let is_made = matches!(steps.last(), Some(MoveStep::AllCopied));
                let mut is_over = true;
                if is_made {
                    tracing::info!(%from, %to, "finishing an earlier mount's rename");
                    is_over = match self.finish_tree(&list, (&from, &to), &own_tags).await {
                        Ok(()) => true,
                        Err(error) => {
                            tracing::error!(%error, "old names stay until another mount");
                            false
                        }
                    };
                } else {
                    tracing::info!(%from, %to, "taking an earlier mount's rename back");
                    self.undo_tree(&list, (&from, &to), &own_tags, began).await?;
                }
                if !is_made {
                    list.remove();
                    return Ok(None);
                }
                let record = record.clone();
                Ok(Some(Renamed { from, to, own_tags, list, record, is_over }))
            }
        }
    }

    /// An object that has a copy goes. Where nobody noted the copy, it says itself that it is one.
    async fn end_file(
        &self,
        from: &Version,
        to: &Key,
        id: Option<&str>,
        (steps, began): (&[MoveStep], Instant),
    ) -> Result<()> {
        let Some(source) = self.head_of(&from.key).await? else { return Ok(()) };
        if !is_still(&source, from) {
            return Ok(());
        }
        let copy = match self.head_of(to).await? {
            Some(copy) => copy,
            None => {
                let under_way = vec![(from.clone(), to.clone())];
                match self.late_copies(under_way, id, began).await?.pop() {
                    Some(late) => late,
                    None => return Ok(()),
                }
            }
        };
        let noted = steps
            .iter()
            .any(|step| matches!(step, MoveStep::Copied(version) if version.is_same(&copy)));
        if noted || self.is_copy(from, &copy, id).await? {
            self.delete_version(&source).await?;
            tracing::info!(from = %from.key, %to, "an earlier mount's rename is finished");
        }
        Ok(())
    }

    /// True where `copy` is what this mount's rename of `source`, which still stands, has made: it
    /// has its bytes by the entity tag, or where the store gave it another one, the metadata of
    /// the very commit that made the source, or the id that the copy was given.
    async fn is_copy(&self, source: &Version, copy: &Version, id: Option<&str>) -> Result<bool> {
        if copy.size != source.size || copy.has_bytes_of(source) {
            return Ok(copy.has_bytes_of(source));
        }
        let original = self.ask(&source.key, false).await?;
        let (Some(original), Some(found)) = (original, self.ask(&copy.key, false).await?) else {
            return Ok(false);
        };
        let (original, found) =
            (&original.properties.user_metadata, &found.properties.user_metadata);
        let is_given = id.is_some_and(|id| found.get(COMMIT_ID).is_some_and(|own| own == id));
        Ok(is_given || original.contains_key(COMMIT_ID) && original == found)
    }

    async fn head_of(&self, key: &Key) -> Result<Option<Version>> {
        Ok(self.ask(key, false).await?.map(|head| head.version.clone()))
    }

    /// Every copy was made: the sources that are still there go. Somebody may have put them there
    /// again since, or taken the copies away.
    async fn finish_tree(
        &self,
        list: &MoveList,
        (from, to): (&str, &str),
        own_tags: &HashMap<Key, Version>,
    ) -> Result<()> {
        let (mut sources, mut copies) = (Cursor::new(self, from), Cursor::new(self, to));
        let (mut due, mut markers, mut gone) = (Vec::new(), Vec::new(), Ok(()));
        for source in list.sources().map_err(write::Error::Journal)? {
            let still = sources.find(&source.key).await?;
            let copy = copies.find(&moved_key(&source.key, from, to)).await?;
            let is_copied = copy.is_some_and(|copy| match own_tags.get(&copy.key) {
                Some(made) => made.is_same(&copy),
                None => copy.size == source.size && copy.etag == source.etag,
            });
            if let Some(still) = still.filter(|still| is_copied && is_still(still, &source)) {
                gone = gone.and(self.delete_later(still, &mut due, &mut markers).await);
            }
        }
        due.append(&mut markers);
        gone = gone.and(self.delete_in_order(due.into_iter()).await);
        Ok(gone?)
    }

    /// Nothing was deleted yet: copies whose source is still there go again.
    async fn undo_tree(
        &self,
        list: &MoveList,
        (from, to): (&str, &str),
        own_tags: &HashMap<Key, Version>,
        began: Instant,
    ) -> Result<()> {
        let (mut sources, mut copies) = (Cursor::new(self, from), Cursor::new(self, to));
        let (mut due, mut markers, mut under_way) = (Vec::new(), Vec::new(), Vec::new());
        let mut gone = Ok(());
        for source in list.sources().map_err(write::Error::Journal)? {
            let still = sources.find(&source.key).await?.filter(|still| still.is_same(&source));
            let key = moved_key(&source.key, from, to);
            let Some(copy) = copies.find(&key).await? else {
                // Copies are begun in this order, and so many at once.
                if still.is_some() && under_way.len() < COPIES_IN_FLIGHT_MAX {
                    under_way.push((source, key));
                }
                continue;
            };
            if still.is_none() {
                continue;
            }
            let is_noted = own_tags.get(&copy.key).is_some_and(|made| made.is_same(&copy));
            if is_noted || self.is_copy(&source, &copy, None).await? {
                gone = gone.and(self.delete_later(copy, &mut due, &mut markers).await);
            }
        }
        for late in self.late_copies(under_way, None, began).await? {
            gone = gone.and(self.delete_later(late, &mut due, &mut markers).await);
        }
        due.append(&mut markers);
        gone = gone.and(self.delete_in_order(due.into_iter()).await);
        Ok(gone?)
    }

    /// Copies that the dead mount may have asked for just before: the store goes on with one that
    /// was begun, however long it takes, and it would show up later under a name that nobody gave.
    /// All of them were begun before this mount, at `began`, so nobody waits for each anew.
    async fn late_copies(
        &self,
        mut under_way: Vec<(Version, Key)>,
        id: Option<&str>,
        began: Instant,
    ) -> Result<Vec<Version>> {
        // A larger one is copied in parts, and what of those is late belongs to no upload.
        under_way.retain(|(source, _)| store::is_one_copy(source));
        let largest = under_way.iter().map(|(source, _)| source.size).max().unwrap_or(0);
        let patience = Duration::from_secs(1 + largest / COPIED_PER_SECOND);
        let until = began + patience;
        let mut late = Vec::new();
        while !under_way.is_empty() && self.0.clock.now() < until {
            tokio::time::sleep(LOOK_AGAIN).await;
            let looks: Vec<BoxFuture<'_, Result<Option<Version>>>> =
                under_way.iter().map(|(_, key)| self.head_of(key).boxed()).collect();
            let found = futures::future::try_join_all(looks).await?;
            let mut still = Vec::new();
            for ((source, key), copy) in under_way.into_iter().zip(found) {
                match copy {
                    None => still.push((source, key)),
                    Some(copy) if self.is_copy(&source, &copy, id).await? => late.push(copy),
                    Some(_) => {}
                }
            }
            under_way = still;
        }
        Ok(late)
    }

    /// Gathers objects, and deletes the files among them where they are many. Markers wait for the
    /// end: what is below a directory goes before it.
    async fn delete_later(
        &self,
        version: Version,
        due: &mut Vec<Deletion>,
        markers: &mut Vec<Deletion>,
    ) -> store::Result<()> {
        let objects = if version.key.is_marker() { markers } else { &mut *due };
        objects.push(Deletion::from(version));
        if due.len() < KEYS_MAX {
            return Ok(());
        }
        self.delete_in_order(std::mem::take(due).into_iter()).await
    }
}

/// True for the object that was unlinked, and not for one with the same bytes that was made since:
/// two empty files have one entity tag. What was noted of the time is never before the object's.
fn is_still(found: &Version, unlinked: &Version) -> bool {
    let is_older = found.last_modified <= unlinked.last_modified;
    found.is_same(unlinked) && (is_older || unlinked.last_modified == SystemTime::UNIX_EPOCH)
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
