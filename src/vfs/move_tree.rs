//! The objects below one prefix moved below another.
//!
//! Owns the order that loses nothing: what is to move is written down before it is copied, every
//! copy is made before the first delete is sent, and that all are made is on disk before that. A
//! page of a listing at a time, so that memory does not grow with the directory. Must not know
//! inodes: the caller has made sure that nothing else moves.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};

use super::deletes::KEYS_PER_REQUEST;
use super::move_list::{MoveList, moved_key};
use super::{Error, Result, Vfs};
use crate::journal::{Kind, Record};
use crate::naming::{Key, MAX_KEY_BYTES, NameError, Prefix};
use crate::store::{
    self, Condition, Deletion, ListLine, ListRequest, Payload, Properties, PutRequest, Version,
};
use crate::write;

/// Keys copied at once.
pub(super) const COPIES_IN_FLIGHT_MAX: usize = 32;

/// DeleteObjects under way at once: 4 000 keys.
const DELETES_IN_FLIGHT_MAX: usize = 4;

/// Whoever waits longer is told in the log how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// A rename in the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MoveIntent {
    /// One object; `id` is the commit id that its copy is given, where it is given one.
    File {
        from: Version,
        to: Key,
        #[serde(default)]
        id: Option<String>,
    },
    /// Every object below a prefix; `list` is the list's file beside the log.
    Tree { from: String, to: String, list: String },
}

/// What of a rename is done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MoveStep {
    /// The one object has its copy.
    Copied(Version),
    /// Every object has its copy, and deletes may have begun.
    AllCopied,
    /// None was carried out, and the copies go again.
    TakingBack,
}

/// An object that has moved.
pub(super) struct Moved {
    pub(super) source: Version,
    pub(super) copy: Version,
}

/// A tree that stands in both places.
pub(super) struct Copied {
    /// What went to the destinations that were asked for.
    pub(super) moved: HashMap<Key, Moved>,
    list: MoveList,
    record: Record,
    /// The source that is gone already.
    deleted: Option<Key>,
}

/// A move under way.
struct Tree<'a> {
    old: &'a Prefix,
    new: &'a Prefix,
    list: MoveList,
    record: Record,
    /// Destinations whose versions the caller needs.
    wanted: HashSet<Key>,
    moved: HashMap<Key, Moved>,
    copied: usize,
    told: Instant,
}

/// Some of a page's copies could not be made.
struct Broken {
    error: Error,
    /// Copies that were made.
    made: Vec<Version>,
    /// Sources and destinations of copies that may have been.
    unsure: Vec<(Version, Key)>,
}

impl Broken {
    const fn before_any(error: Error) -> Self {
        Self { error, made: Vec::new(), unsure: Vec::new() }
    }
}

/// A source and its destination, and what came of the copy.
type Tried<'a> = (&'a Version, Key, Result<Version>);

struct Page {
    sources: Vec<Version>,
    next: Option<String>,
}

impl Vfs {
    /// Copies every object below `old` to the same place below `new`, which is free; of the
    /// `wanted` destinations it is told what went there. The caller then lets the sources go.
    ///
    /// # Errors
    /// The store's, and then nothing has moved.
    pub(super) async fn copy_tree(
        &self,
        old: &Prefix,
        new: &Prefix,
        wanted: HashSet<Key>,
    ) -> Result<Copied> {
        let mut tree = self.begin_tree(old, new, wanted).await?;
        let result = self.copy_pages(&mut tree).await;
        let Tree { list, record, moved, .. } = tree;
        match result {
            Ok(()) => {
                self.note_copied(&list, &record).await;
                Ok(Copied { moved, list, record, deleted: None })
            }
            Err((whole, broken)) => {
                self.take_back(&list, old, new, whole, broken.made, broken.unsure).await;
                end(list, &record);
                Err(broken.error)
            }
        }
    }

    async fn begin_tree<'a>(
        &self,
        old: &'a Prefix,
        new: &'a Prefix,
        wanted: HashSet<Key>,
    ) -> Result<Tree<'a>> {
        let journal = self.0.engine.journal();
        let name = MoveList::fresh_name();
        let (from, to) = (old.as_str().to_owned(), new.as_str().to_owned());
        let intent = MoveIntent::Tree { from, to, list: name.clone() };
        let record = journal
            .begin(Kind::Move, &[&name], &intent)
            .map_err(|error| Error::from(write::Error::Journal(error)))?;
        let list = MoveList::create(journal.folder(), &name);
        let synced = journal.sync().await;
        match list.and_then(|list| synced.map(|()| list)) {
            Ok(list) => {
                let (moved, told) = (HashMap::new(), self.0.clock.now());
                Ok(Tree { old, new, list, record, wanted, moved, copied: 0, told })
            }
            Err(error) => {
                record.end();
                Err(write::Error::Journal(error).into())
            }
        }
    }

    /// Copies page after page; the next is listed meanwhile. On a failure also says how many
    /// sources have been copied in whole pages.
    async fn copy_pages(&self, tree: &mut Tree<'_>) -> Result<(), (usize, Broken)> {
        let (old, new) = (tree.old, tree.new);
        let mut coming = Some(self.page_of(old, new, None).await);
        while let Some(page) = coming {
            let broken = |error| (tree.copied, Broken::before_any(error));
            let page = page.map_err(broken)?;
            if let Err(error) = tree.list.add(&page.sources) {
                return Err(broken(write::Error::Journal(error).into()));
            }
            let next = page.next;
            let following = async {
                match next {
                    Some(next) => Some(self.page_of(old, new, Some(next)).await),
                    None => None,
                }
            };
            let copying = self.copy_page(&tree.list, &page.sources, old, new);
            let (copied, following) = tokio::join!(copying, following);
            let copied = copied.map_err(|broken| (tree.copied, broken))?;
            tree.copied += page.sources.len();
            let wanted = copied.into_iter().filter(|it| tree.wanted.contains(&it.copy.key));
            tree.moved.extend(wanted.map(|it| (it.copy.key.clone(), it)));
            self.tell(tree);
            coming = following;
        }
        Ok(())
    }

    fn tell(&self, tree: &mut Tree<'_>) {
        let now = self.0.clock.now();
        if now.duration_since(tree.told) >= PROGRESS_EVERY {
            tree.told = now;
            let (from, to, copied) = (tree.old, tree.new, tree.copied);
            tracing::info!(%from, %to, copied, "a directory is being renamed");
        }
    }

    /// A page of the objects below a directory, but for those of unlinked files.
    async fn page_of(&self, old: &Prefix, new: &Prefix, next: Option<String>) -> Result<Page> {
        let prefix = old.as_str().to_owned();
        let request = ListRequest { prefix, continuation: next, ..ListRequest::default() };
        let page = self.0.store.list(&request).await?;
        let mut sources = Vec::with_capacity(page.lines.len());
        for line in page.lines {
            let ListLine::Object(version) = line else { continue };
            if self.is_going(&version) {
                continue;
            }
            let key = moved_key(&version.key, old.as_str(), new.as_str());
            if key.as_str().len() > MAX_KEY_BYTES {
                return Err(NameError::KeyTooLong.into());
            }
            sources.push(version);
        }
        Ok(Page { sources, next: page.next })
    }

    /// Copies a page's objects. After a failure no further copy begins, and those on their way are
    /// waited for, so that they can be taken back.
    async fn copy_page(
        &self,
        list: &MoveList,
        sources: &[Version],
        old: &Prefix,
        new: &Prefix,
    ) -> Result<Vec<Moved>, Broken> {
        let has_failed = AtomicBool::new(false);
        let mut copies: Vec<BoxFuture<'_, Option<Tried<'_>>>> = Vec::new();
        for source in sources {
            let key = moved_key(&source.key, old.as_str(), new.as_str());
            let has_failed = &has_failed;
            let copy = async move {
                if has_failed.load(Ordering::Relaxed) {
                    return None;
                }
                let copied = self.copy_one(list, source, &key).await;
                has_failed.fetch_or(copied.is_err(), Ordering::Relaxed);
                Some((source, key, copied))
            };
            copies.push(copy.boxed());
        }
        let copying = futures::stream::iter(copies).buffer_unordered(COPIES_IN_FLIGHT_MAX);
        let tried: Vec<_> = copying.filter_map(std::future::ready).collect().await;
        sort_out(tried)
    }

    async fn copy_one(&self, list: &MoveList, source: &Version, key: &Key) -> Result<Version> {
        // Others may have copies that are not made yet.
        self.repay(&source.key).await?;
        // An unlinked file's object may stand there; it is being replaced.
        let _until_it_is_replaced = self.spare(key).await;
        let properties = self.special(source).await?;
        let copied = match self.0.engine.copy(source, key, properties, &Condition::None).await {
            Err(error) if source.key.is_marker() => self.remake(source, key, error).await?,
            copied => copied?,
        };
        if copied.etag != source.etag
            && let Err(error) = list.add_copy(&copied)
        {
            return Err(write::Error::Journal(error).into());
        }
        Ok(copied)
    }

    /// The properties of an object that the store would not give to its copy; none where it takes
    /// all of them over. No listing tells, so each object is asked.
    async fn special(&self, source: &Version) -> Result<Option<Properties>> {
        if source.key.is_marker() {
            return Ok(None);
        }
        let head = self.0.store.head(&source.key).await?;
        if head.properties.is_plain() {
            return Ok(None);
        }
        let mut properties = head.properties;
        if head.tag_count > 0 {
            properties.tags = self.0.store.tags(source).await?;
        }
        Ok(Some(properties))
    }

    /// Makes a directory's marker under another key where the store would not copy it: SeaweedFS
    /// 4.48 answers a CopyObject of a key that ends in a slash with NoSuchKey.
    async fn remake(&self, marker: &Version, key: &Key, error: write::Error) -> Result<Version> {
        let is_refusal = matches!(&error, write::Error::Store(error) if error.is_not_found());
        if !is_refusal || marker.size > 0 {
            return Err(error.into());
        }
        let properties = self.0.store.head(&marker.key).await?.properties;
        let request = PutRequest { key: key.clone(), properties, condition: Condition::None };
        Ok(self.0.store.put(&request, &Payload::Bytes(Bytes::new())).await?)
    }

    /// From here on a crash finishes the move.
    async fn note_copied(&self, list: &MoveList, record: &Record) {
        let noted = record.note(&MoveStep::AllCopied).and_then(|()| list.sync());
        let synced = match noted {
            Ok(()) => self.0.engine.journal().sync().await,
            Err(error) => Err(error),
        };
        if let Err(error) = synced {
            // Whoever found this after a crash would take the copies back for lost ones.
            tracing::warn!(%error, "a crash from here on would leave a directory under two names");
        }
    }

    /// Every copy is made. The first source goes before anything else, so that whoever may copy
    /// and not delete has no directory under two names; a file before markers, as below.
    ///
    /// # Errors
    /// The store's, where it will not delete, and then nothing has moved.
    pub(super) async fn delete_first(
        &self,
        copied: Copied,
        old: &Prefix,
        new: &Prefix,
    ) -> Result<Copied> {
        let Some(first) = first_to_go(&copied, old, new) else { return Ok(copied) };
        match self.delete_version(&first).await {
            Ok(()) => Ok(Copied { deleted: Some(first.key), ..copied }),
            Err(error) if error.is_refusal() => {
                self.take_all_back(copied, old, new).await;
                Err(error)
            }
            Err(error) => {
                // It may be carried out yet.
                tracing::warn!(key = %first.key, %error, "asked for once more");
                Ok(copied)
            }
        }
    }

    /// The copies of all sources, none of which has gone, go again.
    async fn take_all_back(&self, copied: Copied, old: &Prefix, new: &Prefix) {
        let Copied { list, record, .. } = copied;
        let noted = record.note(&MoveStep::TakingBack);
        if noted.is_ok() && self.0.engine.journal().sync().await.is_ok() {
            self.take_back(&list, old, new, usize::MAX, Vec::new(), Vec::new()).await;
        } else {
            // A crash in the middle would take the sources, too.
            tracing::warn!(%old, %new, "a directory stands under two names");
        }
        end(list, &record);
    }

    /// The other sources go. One that stays is a second copy, not a loss.
    pub(super) async fn delete_sources(&self, copied: Copied) {
        let Copied { list, record, deleted, .. } = copied;
        match list.sources() {
            Ok(sources) => {
                let rest = sources.filter(|source| Some(&source.key) != deleted.as_ref());
                // What stays was said.
                let _as_far_as_it_goes = self.delete_in_order(rest.map(Deletion::from)).await;
            }
            Err(error) => tracing::warn!(%error, "a renamed directory stays under its old name"),
        }
        end(list, &record);
    }

    /// Deletes the copies: all of the first `whole` sources', those `made` of the next, and of the
    /// others what turns out to be one. What another client has put there is none.
    async fn take_back(
        &self,
        list: &MoveList,
        old: &Prefix,
        new: &Prefix,
        whole: usize,
        mut made: Vec<Version>,
        unsure: Vec<(Version, Key)>,
    ) {
        for (source, key) in unsure {
            let found = self.0.store.head(&key).await.map(|head| head.version);
            made.extend(found.ok().filter(|found| found.has_bytes_of(&source)));
        }
        let (sources, own_tags) = match (list.sources(), list.copies()) {
            (Ok(sources), Ok(copies)) => (sources, copies),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%new, %error, "copies of a failed rename stay in the bucket");
                return;
            }
        };
        let own_tags: HashMap<Key, Version> =
            own_tags.into_iter().map(|copy| (copy.key.clone(), copy)).collect();
        let copy_of = |source: Version| {
            let key = moved_key(&source.key, old.as_str(), new.as_str());
            own_tags.get(&key).cloned().unwrap_or(Version { key, ..source })
        };
        let copies = sources.take(whole).map(copy_of).chain(made);
        // What stays was said.
        let _as_far_as_it_goes = self.delete_in_order(copies.map(Deletion::from)).await;
    }

    /// Deletes objects, files first and then directories' markers from below: SeaweedFS 4.48 says
    /// that it deleted the marker of a directory that is not empty, and keeps the directory.
    ///
    /// # Errors
    /// The store's, of one of those that stay; all others go.
    pub(super) async fn delete_in_order(
        &self,
        objects: impl Iterator<Item = Deletion> + Send,
    ) -> store::Result<()> {
        let (mut markers, mut batch, mut gone) = (Vec::new(), Vec::new(), Ok(()));
        let mut sending: FuturesUnordered<BoxFuture<'_, store::Result<()>>> =
            FuturesUnordered::new();
        for object in objects {
            if object.key.is_marker() {
                markers.push(object);
                continue;
            }
            batch.push(object);
            if batch.len() == KEYS_PER_REQUEST {
                if sending.len() >= DELETES_IN_FLIGHT_MAX
                    && let Some(sent) = sending.next().await
                {
                    gone = gone.and(sent);
                }
                sending.push(self.delete_batch(std::mem::take(&mut batch)).boxed());
            }
        }
        sending.push(self.delete_batch(batch).boxed());
        while let Some(sent) = sending.next().await {
            gone = gone.and(sent);
        }
        markers.reverse();
        for batch in markers.chunks(KEYS_PER_REQUEST) {
            gone = gone.and(self.delete_batch(batch.to_vec()).await);
        }
        gone
    }

    async fn delete_batch(&self, objects: Vec<Deletion>) -> store::Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let deleted = self.0.store.delete_many(&objects).await;
        let failed = deleted.inspect_err(|error| {
            tracing::warn!(%error, "old copies stay in the bucket");
        })?;
        let mut gone = Ok(());
        for (key, error) in failed {
            if error.is_changed() {
                tracing::info!(%key, "another client has written this anew; it stays");
            } else {
                tracing::warn!(%key, %error, "an old copy stays in the bucket");
                gone = Err(error);
            }
        }
        gone
    }
}

/// The source that is deleted first: best a file that nobody here knows, since who looks one up
/// just then finds neither name; a marker only where there are no files, as below.
fn first_to_go(copied: &Copied, old: &Prefix, new: &Prefix) -> Option<Version> {
    let files = || Some(copied.list.sources().ok()?.filter(|source| !source.key.is_marker()));
    let is_known = |source: &Version| {
        copied.moved.contains_key(&moved_key(&source.key, old.as_str(), new.as_str()))
    };
    let unknown = files()?.find(|source| !is_known(source));
    unknown.or_else(|| files()?.next()).or_else(|| copied.list.sources().ok()?.next())
}

/// What came of a page's copies.
fn sort_out(tried: Vec<Tried<'_>>) -> Result<Vec<Moved>, Broken> {
    let (mut moved, mut unsure, mut first) = (Vec::new(), Vec::new(), None);
    for (source, key, copied) in tried {
        match copied {
            Ok(copy) => moved.push(Moved { source: source.clone(), copy }),
            Err(error) => {
                unsure.push((source.clone(), key));
                first.get_or_insert(error);
            }
        }
    }
    match first {
        None => Ok(moved),
        Some(error) => {
            let made = moved.into_iter().map(|it| it.copy).collect();
            Err(Broken { error, made, unsure })
        }
    }
}

/// The move is over. In this order: an intent whose list is gone means nothing to whoever finds it.
fn end(list: MoveList, record: &Record) {
    list.remove();
    record.end();
}
