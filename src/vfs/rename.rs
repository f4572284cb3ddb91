//! RENAME: of files by one server-side copy, of directories by one per key.
//!
//! Owns the order that loses nothing: every copy is made before the first delete is sent. Must
//! not know how a copy is made.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::attr::{FileKind, Ino, RenameMode};
use super::inode::Inode;
use super::{Error, Result, Vfs};
use crate::naming::{Key, MAX_KEY_BYTES, Name, NameError, Prefix};
use crate::store::{Condition, ListLine, ListRequest, Payload, Properties, PutRequest, Version};
use crate::write;

/// Keys copied at once when a directory moves.
const COPIES_IN_FLIGHT_MAX: usize = 32;

/// Keys per DeleteObjects, S3's limit.
const DELETES_PER_REQUEST: usize = 1000;

/// DeleteObjects under way at once: 4 000 keys.
const DELETES_IN_FLIGHT_MAX: usize = 4;

/// A rename whose names have been looked up.
struct Move {
    source: Arc<Inode>,
    replaced: Option<Arc<Inode>>,
    from: (Ino, Name),
    to: (Ino, Name),
    mode: RenameMode,
}

impl Vfs {
    /// Moves a name.
    ///
    /// # Errors
    /// As rename(2); the store's, and then nothing has moved.
    pub async fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Result<()> {
        let (name, source) = self.existing(parent, name).await?;
        let new_name = self.name(new_name)?;
        let replaced = self.resolve(new_parent, &new_name).await?;
        if let Some(replaced) = &replaced {
            if replaced.ino == source.ino {
                return Ok(());
            }
            check_kinds(&source, replaced, mode)?;
        }
        let (from, to) = ((parent, name), (new_parent, new_name));
        let rename = Move { source, replaced, from, to, mode };
        if self.shows_in_the_store(&rename.source) {
            // What was closed before this name moved is seen before it moves.
            self.settle_backlog().await?;
        }
        if rename.source.kind == FileKind::Directory {
            let _nothing_else_moves = self.0.namespace.write().await;
            self.rename_directory(&rename).await
        } else {
            let _places_stand = self.0.namespace.read().await;
            self.rename_file(&rename).await
        }
    }

    async fn rename_file(&self, rename: &Move) -> Result<()> {
        let (source, replaced) = (&rename.source, rename.replaced.as_ref());
        // Two inodes, the smaller number first (`vfs/mod.rs`).
        let mut both: Vec<&Arc<Inode>> = replaced.into_iter().chain([source]).collect();
        both.sort_by_key(|inode| inode.ino);
        let mut guards = Vec::new();
        for inode in both {
            guards.push(inode.commit.lock().await);
        }
        let (parent, name) = &rename.to;
        let key = self.table().key_at(*parent, name).ok_or(Error::NotFound)??;
        let mut stands_there = self.spare(&key).await;
        if let Some(replaced) = replaced {
            self.before_it_goes(replaced).await?;
            self.outlive_object(replaced).await;
            stands_there |= Self::version_of(replaced).is_some();
            stands_there |= replaced.state().hides.is_some();
        }
        if is_in_store(source) {
            self.commit_locked(source, false).await?;
            self.before_it_goes(source).await?;
            self.move_object(rename, &key, stands_there).await?;
        } else {
            self.move_unsent(source, &key, stands_there).await?;
        }
        if let Some(replaced) = replaced {
            self.take_name_now(*parent, name, replaced);
        }
        self.relink(rename);
        let promised = self.promise_anew(source, replaced.is_some()).await;
        if let Some(replaced) = replaced {
            self.abandon(replaced).await;
        }
        promised
    }

    /// True where the rename is one that other clients see happen.
    fn shows_in_the_store(&self, source: &Arc<Inode>) -> bool {
        source.kind == FileKind::Directory
            || Self::version_of(source).is_some()
            || self.has_earlier_stage(source)
    }

    /// What was promised under the old name is promised under the new one, and in any case before
    /// the promise of what it replaces ends.
    async fn promise_anew(&self, source: &Arc<Inode>, replaces: bool) -> Result<()> {
        let is_promised = |staged: Arc<write::Staged>| staged.promised_epoch() > 0;
        if !self.settings().write_back || !(replaces || source.staged().is_some_and(is_promised)) {
            return Ok(());
        }
        self.promise_locked(source).await
    }

    /// A file that is not in S3 yet just follows its name; what it hides does not.
    async fn move_unsent(&self, source: &Arc<Inode>, key: &Key, stands_there: bool) -> Result<()> {
        let hidden = source.state().hides.clone();
        if let Some(hidden) = hidden {
            self.delete_object(&hidden).await?;
        }
        let mut state = source.state();
        state.hides = stands_there.then(|| key.clone());
        state.exclusive &= !stands_there;
        Ok(())
    }

    /// Copies the object to its new key, with whatever attributes wait, and deletes the old one.
    async fn move_object(&self, rename: &Move, key: &Key, stands_there: bool) -> Result<()> {
        let source = &rename.source;
        let Some(version) = Self::version_of(source) else { return Ok(()) };
        let waiting = source.state().attributes_dirty;
        self.learn_head(source).await?;
        if waiting {
            self.learn_properties(source).await?;
        }
        let (properties, placement, epoch) = {
            let state = source.state();
            let own = || {
                let mtime = Some(state.mtime);
                let mut own = state.properties_for(source.kind, key, self.settings(), mtime);
                own.user_metadata.insert(write::COMMIT_ID.to_owned(), write::new_commit_id());
                own
            };
            let placement = state.properties.as_ref().map(Properties::placement);
            (waiting.then(own), placement.unwrap_or_default(), state.attributes_epoch)
        };
        let condition = match rename.mode {
            RenameMode::NoReplace if !stands_there => Condition::Absent,
            _ => Condition::None,
        };
        self.keep_directory(rename.from.0).await;
        let engine = &self.0.engine;
        let copied = match properties.clone() {
            None => engine.copy_placed(&version, key, placement, &condition).await,
            given => engine.copy(&version, key, given, &condition).await,
        };
        let copied = copied.map_err(|error| copy_failed(error, rename.mode))?;
        if let Err(error) = self.delete_object(&version.key).await {
            if !stands_there && let Err(error) = self.delete_object(key).await {
                tracing::warn!(%key, %error, "the copy of a failed rename stays in the bucket");
            }
            return Err(error);
        }
        let copied = Arc::new(copied);
        let mut state = source.state();
        state.version = Some(Arc::clone(&copied));
        state.seen = self.0.clock.now();
        if let Some(properties) = properties {
            state.properties = Some(properties);
            state.attributes_dirty = state.attributes_epoch != epoch;
        }
        if let Some(staged) = &state.staged {
            // Its base is the object that is gone. It may have been written to meanwhile.
            staged.rebase(copied);
        }
        Ok(())
    }

    fn relink(&self, rename: &Move) {
        let (now, wall) = (self.0.clock.now(), self.0.clock.wall());
        rename.source.state().ctime = wall;
        let mut table = self.table();
        table.relink(rename.source.ino, rename.to.0, &rename.to.1);
        if let Some(directory) = table.get(rename.from.0) {
            directory.state().name_gone(&rename.from.1, now, wall);
        }
        if let Some(directory) = table.get(rename.to.0) {
            directory.state().name_made(&rename.to.1, now, wall);
        }
    }

    async fn rename_directory(&self, rename: &Move) -> Result<()> {
        let (old, new) = {
            let table = self.table();
            let old = table.prefix(rename.source.ino).ok_or(Error::NotFound)?;
            let (parent, name) = &rename.to;
            (old, table.prefix(*parent).ok_or(Error::NotFound)?.directory(name)?)
        };
        if new.as_str().starts_with(old.as_str()) {
            return Err(Error::Invalid);
        }
        if let Some(replaced) = &rename.replaced {
            self.remove_empty(replaced).await?;
            self.take_name(rename.to.0, &rename.to.1, replaced).await;
        }
        self.commit_edits_below(rename.source.ino).await?;
        // One that failed is there again, and moves with the others.
        let _failed = self.settle_deletes(&old).await;
        let versions = self.keys_below(&old, &new).await?;
        for version in &versions {
            self.repay(&version.key).await?;
            self.spare(&moved_key(&version.key, &old, &new)).await;
        }
        self.keep_directory(rename.from.0).await;
        let moved = self.copy_all(&versions, &old, &new).await?;
        self.delete_all(versions.iter().map(|version| version.key.clone()).collect()).await;
        self.relink(rename);
        self.repoint(rename.source.ino, &moved);
        Ok(())
    }

    /// Commits the files below that are edits of an object: their base is about to move. What was
    /// never committed just follows its name.
    async fn commit_edits_below(&self, ino: Ino) -> Result<()> {
        let below = self.table().subtree(ino);
        for inode in below.iter().filter(|inode| inode.is_dirty()) {
            if is_in_store(inode) {
                let _one_at_a_time = inode.commit.lock().await;
                self.commit_locked(inode, false).await?;
            }
        }
        Ok(())
    }

    /// Every object below a directory, but for those of unlinked files.
    async fn keys_below(&self, old: &Prefix, new: &Prefix) -> Result<Vec<Version>> {
        let mut request = ListRequest { prefix: old.as_str().to_owned(), ..ListRequest::default() };
        let mut versions = Vec::new();
        loop {
            let page = self.0.store.list(&request).await?;
            for line in page.lines {
                let ListLine::Object(version) = line else { continue };
                if moved_key(&version.key, old, new).as_str().len() > MAX_KEY_BYTES {
                    return Err(NameError::KeyTooLong.into());
                }
                if !self.is_going(&version.key) {
                    versions.push(version);
                }
            }
            match page.next {
                Some(next) => request.continuation = Some(next),
                None => return Ok(versions),
            }
        }
    }

    /// Copies every object; if one cannot be copied, the copies made so far are taken back.
    async fn copy_all(
        &self,
        versions: &[Version],
        old: &Prefix,
        new: &Prefix,
    ) -> Result<HashMap<Key, Version>> {
        let engine = &self.0.engine;
        let mut copies: Vec<BoxFuture<'_, Result<(Key, Version)>>> = Vec::new();
        for version in versions {
            let key = moved_key(&version.key, old, new);
            let copy = async move {
                let copied = match engine.copy(version, &key, None, &Condition::None).await {
                    Err(error) if version.key.is_marker() => {
                        self.remake(version, &key, error).await?
                    }
                    copied => copied?,
                };
                Ok((key, copied))
            };
            copies.push(copy.boxed());
        }
        let copying = futures::stream::iter(copies).buffer_unordered(COPIES_IN_FLIGHT_MAX);
        let copied: Result<HashMap<Key, Version>> = copying.try_collect().await;
        if copied.is_err() {
            self.delete_all(versions.iter().map(|v| moved_key(&v.key, old, new)).collect()).await;
        }
        copied
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

    /// Deletes keys whose objects have been copied; one that stays is a second copy, not a loss.
    ///
    /// Takes the keys in byte order and deletes a directory's marker after everything below it:
    /// SeaweedFS 4.48 says that it deleted the marker of a directory that is not empty, and keeps
    /// the directory.
    async fn delete_all(&self, keys: Vec<Key>) {
        let (markers, files): (Vec<Key>, Vec<Key>) =
            keys.into_iter().rev().partition(Key::is_marker);
        self.delete_batches(&files, DELETES_IN_FLIGHT_MAX).await;
        self.delete_batches(&markers, 1).await;
    }

    async fn delete_batches(&self, keys: &[Key], in_flight_max: usize) {
        let mut requests = Vec::new();
        for batch in keys.chunks(DELETES_PER_REQUEST) {
            requests.push(self.0.store.delete_many(batch));
        }
        let mut answers = futures::stream::iter(requests).buffer_unordered(in_flight_max);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(failed) => {
                    for (key, error) in failed {
                        tracing::warn!(%key, %error, "an old copy stays in the bucket");
                    }
                }
                Err(error) => tracing::warn!(%error, "old copies stay in the bucket"),
            }
        }
    }

    /// The inodes below a moved directory are those of the copies now.
    fn repoint(&self, ino: Ino, moved: &HashMap<Key, Version>) {
        let now = self.0.clock.now();
        let below = self.table().subtree(ino);
        for inode in below {
            let key = match inode.kind {
                FileKind::Directory => self.table().prefix(inode.ino).and_then(|p| p.marker()),
                _ => self.table().key(inode.ino),
            };
            let mut state = inode.state();
            if let Some(version) = key.and_then(|key| moved.get(&key)) {
                let version = Arc::new(version.clone());
                if let Some(staged) = &state.staged {
                    staged.rebase(Arc::clone(&version));
                }
                state.version = Some(version);
                state.hides = None;
                state.exclusive = false;
                state.seen = now;
            }
        }
    }
}

/// True where the store has something of the file under its key, be it an unfinished upload that
/// alone has some bytes.
fn is_in_store(inode: &Inode) -> bool {
    Vfs::version_of(inode).is_some() || inode.staged().is_some_and(|staged| staged.is_in_upload())
}

fn moved_key(key: &Key, old: &Prefix, new: &Prefix) -> Key {
    let rest = old.strip(key.as_str()).unwrap_or_default();
    Key::new(format!("{new}{rest}"))
}

fn copy_failed(error: write::Error, mode: RenameMode) -> Error {
    match error {
        write::Error::Store(error) if error.is_changed() => match mode {
            RenameMode::NoReplace => Error::Exists,
            RenameMode::Replace => Error::Stale,
        },
        other => other.into(),
    }
}

fn check_kinds(source: &Inode, replaced: &Inode, mode: RenameMode) -> Result<()> {
    let is_directory = |inode: &Inode| inode.kind == FileKind::Directory;
    match (mode, is_directory(source), is_directory(replaced)) {
        (RenameMode::NoReplace, ..) => Err(Error::Exists),
        (RenameMode::Replace, true, false) => Err(Error::NotDirectory),
        (RenameMode::Replace, false, true) => Err(Error::IsDirectory),
        _ => Ok(()),
    }
}
