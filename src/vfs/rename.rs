//! RENAME: of files by one server-side copy, of directories by one per key.
//!
//! Owns which inodes follow their names and which objects must move for it. Must not know how a
//! copy is made, nor in which order many are (`move_tree`).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use super::attr::{FileKind, Ino, RenameMode};
use super::commit::Cause;
use super::inode::Inode;
use super::listed::Listing;
use super::move_list::moved_key;
use super::move_tree::{Copied, MoveIntent, MoveStep, Moved};
use super::{Error, Metadata, Result, Vfs};
use crate::journal::{Ending, Kind, Record};
use crate::naming::{Key, MAX_KEY_BYTES, Name, NameError, Prefix, content_type};
use crate::posix_metadata;
use crate::store::{Condition, Properties, Version};
use crate::write;

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
        if self.table().key(source.ino).is_none() {
            // The commit that this has waited for has lost it its name.
            return Err(Error::NotFound);
        }
        self.find_given_up(source).await?;
        let (parent, name) = &rename.to;
        let key = self.table().key_at(*parent, name).ok_or(Error::NotFound)??;
        let mut spared = self.spare(&key).await;
        let mut stands_there = spared.is_some();
        if let Some(replaced) = replaced {
            self.before_it_goes(replaced).await?;
            self.outlive_object(replaced).await;
            stands_there |= Self::version_of(replaced).is_some();
            stands_there |= replaced.state().hides.is_some();
            spared = spared.or_else(|| replaced.staged()?.take_replaced());
        }
        let staged = source.staged();
        let nothing_is_written = self.hold_still(source, staged.as_deref()).await?;
        if Self::version_of(source).is_some() {
            self.move_object(rename, &key, stands_there, spared).await?;
        } else {
            self.move_unsent(source, &key, stands_there, spared).await?;
            if rename.mode == RenameMode::NoReplace && !stands_there {
                // Whether another client has made the name is decided by the commit.
                source.state().exclusive = true;
            }
        }
        if let Some(replaced) = replaced {
            self.discharge(replaced);
            self.take_name_now(*parent, name, replaced);
        }
        self.relink(rename);
        drop(nothing_is_written);
        let mut promised = self.promise_anew(source, replaced.is_some()).await;
        if promised.is_err() {
            // What cannot be promised is done.
            promised = self.commit_locked(source, Cause::Call).await;
        }
        // What was acknowledged of it stays in the journal until the other is.
        if let Some(replaced) = replaced.filter(|_| promised.is_ok()) {
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

    /// What was written down under the old name is so under the new one, and with `--write-back` it
    /// is promised before the promise of what it replaces ends.
    async fn promise_anew(&self, source: &Arc<Inode>, replaces: bool) -> Result<()> {
        self.records_follow(source).await?;
        if replaces && self.settings().write_back { self.promise(source).await } else { Ok(()) }
    }

    /// A file that is not in S3 yet just follows its name; what it hides does not.
    async fn move_unsent(
        &self,
        source: &Arc<Inode>,
        key: &Key,
        stands_there: bool,
        spared: Option<Ending>,
    ) -> Result<()> {
        let hidden = source.state().hides.clone();
        if let Some(hidden) = hidden {
            self.delete_object(&hidden).await?;
        }
        if let Some(staged) = source.staged() {
            staged.replaces(spared);
        }
        let mut state = source.state();
        state.hides = stands_there.then(|| key.clone());
        state.exclusive &= !stands_there;
        Ok(())
    }

    /// Copies the object to its new key, with whatever attributes wait, and deletes the old one.
    async fn move_object(
        &self,
        rename: &Move,
        key: &Key,
        stands_there: bool,
        spared: Option<Ending>,
    ) -> Result<()> {
        let source = &rename.source;
        let (properties, epoch) = self.carried(source, key).await?;
        let Some(version) = Self::version_of(source) else { return Ok(()) };
        let condition = match rename.mode {
            RenameMode::NoReplace if !stands_there => Condition::Absent,
            _ => Condition::None,
        };
        self.keep_directory(rename.from.0).await;
        let id = properties.as_ref().and_then(|given| given.user_metadata.get(write::COMMIT_ID));
        let record = self.note_move(&version, key, id.cloned());
        let copied = self.0.engine.copy(&version, key, properties.clone(), &condition).await;
        // The copy may be the same bytes as what stood there, so before its source goes.
        drop(spared);
        let copied = match copied {
            Ok(copied) => self.delete_moved(&version, copied, stands_there, &record).await,
            Err(error) => Err(copy_failed(error, rename.mode)),
        };
        record.end();
        let copied = copied?;
        let copied = Arc::new(copied);
        let mut state = source.state();
        state.version = Some(Arc::clone(&copied));
        state.seen = self.0.clock.now();
        if let Some(properties) = properties {
            state.properties = Some(properties);
            state.attributes_sent(epoch);
        }
        if let Some(staged) = &state.staged {
            // Its base is the object that is gone. It may have been written to meanwhile.
            staged.rebase(copied);
        }
        Ok(())
    }

    /// The properties that a moved object's copy must be given: those whose change waits for
    /// company, and those that the store does not take over by itself. None where it takes all.
    async fn carried(&self, source: &Arc<Inode>, key: &Key) -> Result<(Option<Properties>, u64)> {
        self.learn(source).await?;
        if source.state().properties.is_none() {
            self.learn_properties(source).await?;
        }
        let waits = source.state().attributes_dirty;
        let is_plain = source.state().properties.as_ref().is_none_or(Properties::is_plain);
        let fits = source.state().attributes_fit(source.kind, self.settings());
        let is_guessed_anew = fits && Self::is_guessed_anew(source, key);
        let lacks_time = fits && self.lacks_time(source);
        if is_plain && !waits && !is_guessed_anew && !lacks_time {
            return Ok((None, source.state().attributes_epoch));
        }
        // The tags, too.
        self.learn_properties(source).await?;
        self.learn_mtime(source).await;
        let state = source.state();
        let mut properties = if waits {
            state.properties_for(source.kind, key, self.settings(), Some(state.mtime))
        } else {
            state.properties.clone().unwrap_or_default()
        };
        if lacks_time {
            posix_metadata::keep_time(state.mtime, &mut properties.user_metadata);
        }
        if is_guessed_anew {
            properties.content_type = Some(content_type(key).to_owned());
        }
        if waits || is_guessed_anew || lacks_time {
            // By it the copy is known where its answer is lost.
            properties.user_metadata.insert(write::COMMIT_ID.to_owned(), write::new_commit_id());
        }
        Ok((Some(properties), state.attributes_epoch))
    }

    /// True where the object's time is all there is of the file's, and its copy will have another.
    fn lacks_time(&self, source: &Inode) -> bool {
        if self.settings().metadata == Metadata::List {
            return false;
        }
        let state = source.state();
        let said = state.properties.as_ref().map(|kept| posix_metadata::read(&kept.user_metadata));
        said.is_some_and(|said| said.mtime.is_none())
    }

    /// True where the content type is what the old name stands for, and the new one stands for
    /// another: whoever writes aside and renames means the name it gets.
    fn is_guessed_anew(source: &Inode, key: &Key) -> bool {
        let Some(version) = Self::version_of(source) else { return false };
        let (before, now) = (content_type(&version.key), content_type(key));
        let state = source.state();
        let kept = state.properties.as_ref().and_then(|kept| kept.content_type.as_deref());
        before != now && kept == Some(before)
    }

    /// Notes that an object is to move, so that after a crash it does not stay under both names. A
    /// journal that cannot be written loses nothing but that.
    fn note_move(&self, from: &Arc<Version>, to: &Key, id: Option<String>) -> Record {
        let intent = MoveIntent::File { from: Version::clone(from), to: to.clone(), id };
        let begun = self.0.engine.journal().begin(Kind::Move, &[], &intent);
        begun.unwrap_or_else(|error| {
            tracing::warn!(key = %from.key, %error, "the journal does not know of a rename");
            Record::none()
        })
    }

    /// Deletes an object whose copy is made; where it cannot be deleted, the copy goes again.
    async fn delete_moved(
        &self,
        source: &Version,
        copied: Version,
        stands_there: bool,
        record: &Record,
    ) -> Result<Version> {
        if let Err(error) = record.note(&MoveStep::Copied(copied.clone())) {
            tracing::warn!(key = %source.key, %error, "the journal does not know of a copy");
        }
        let Err(error) = self.delete_version(source).await else { return Ok(copied) };
        let key = &copied.key;
        if !error.is_refusal() {
            // It may be carried out yet, and then the copy is all there is.
            return match self.0.store.head(&source.key).await {
                Err(error) if error.is_not_found() => Ok(copied),
                _ => {
                    tracing::warn!(from = %source.key, to = %key, "both stay in the bucket");
                    Err(error)
                }
            };
        }
        if !stands_there && let Err(error) = self.delete_version(&copied).await {
            tracing::warn!(%key, %error, "the copy of a failed rename stays in the bucket");
        }
        Err(error)
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
        match (&rename.replaced, rename.mode) {
            (Some(replaced), _) => drop(self.check_empty(replaced).await?),
            // What is not known here may have come since it was looked for.
            (None, RenameMode::NoReplace) => {
                if self.first_standing(new.as_str(), |_| true).await?.is_some() {
                    return Err(Error::Exists);
                }
            }
            (None, RenameMode::Replace) => {}
        }
        self.commit_edits_below(rename.source.ino).await?;
        self.repay_below(&old).await?;
        let staged = self.staged_below(rename.source.ino);
        let mut nothing_is_written = Vec::with_capacity(staged.len());
        for (inode, staged) in &staged {
            let _one_at_a_time = inode.commit.lock().await;
            nothing_is_written.push(self.hold_still(inode, Some(staged)).await?);
        }
        // One that failed is there again, and moves with the others.
        let _failed = self.settle_deletes(&old).await;
        let wanted = self.destinations(rename.source.ino, &old, &new)?;
        self.keep_directory(rename.from.0).await;
        let copied = match self.copy_tree(&old, &new, wanted.keys().cloned().collect()).await {
            Ok(copied) => self.delete_first(copied, &old, &new).await,
            Err(error) => Err(error),
        };
        if let Some(replaced) = &rename.replaced {
            match &copied {
                Ok(copied) => self.replace_directory(rename, replaced, &new, copied).await,
                // Its marker may have been among what was taken back.
                Err(_) => self.keep_directory_anew(replaced).await,
            }
        }
        let copied = copied?;
        self.hide_what_stands(wanted).await;
        // Whoever reads goes on in the copies before what they were made of is gone.
        self.relink(rename);
        self.forget_listings_below(rename.source.ino);
        self.repoint(rename.source.ino, &copied.moved).await;
        drop(nothing_is_written);
        self.records_below_follow(&rename.source).await;
        self.delete_sources(copied).await;
        Ok(())
    }

    /// What listings brought of a directory that moved speaks of keys that are gone.
    fn forget_listings_below(&self, ino: Ino) {
        let below = self.table().subtree(ino);
        for directory in below.iter().filter(|inode| inode.kind == FileKind::Directory) {
            directory.state().knowledge.listing = Listing::default();
        }
    }

    /// The empty directory goes, and its marker where no other has replaced it.
    async fn replace_directory(
        &self,
        rename: &Move,
        replaced: &Arc<Inode>,
        place: &Prefix,
        copied: &Copied,
    ) {
        let marker = place.marker().filter(|marker| !copied.moved.contains_key(marker));
        if let Some(marker) = marker
            && let Err(error) = self.delete_object(&marker).await
        {
            tracing::warn!(key = %marker, %error, "it keeps the attributes of what it replaced");
        }
        self.take_name(rename.to.0, &rename.to.1, replaced).await;
    }

    /// The keys under which the objects of the inodes below will stand.
    ///
    /// # Errors
    /// [`Error::Name`] where one is too long.
    fn destinations(
        &self,
        ino: Ino,
        old: &Prefix,
        new: &Prefix,
    ) -> Result<HashMap<Key, Arc<Inode>>> {
        let below = self.table().subtree(ino);
        let keys = below.into_iter().filter_map(|inode| Some((self.object_of(&inode)?, inode)));
        let moved = keys.map(|(key, inode)| {
            let key = moved_key(&key, old.as_str(), new.as_str());
            let is_too_long = key.as_str().len() > MAX_KEY_BYTES;
            if is_too_long { Err(NameError::KeyTooLong.into()) } else { Ok((key, inode)) }
        });
        moved.collect()
    }

    /// What is not in S3 yet just follows its name, and replaces what an unlinked file has left
    /// there.
    async fn hide_what_stands(&self, destinations: HashMap<Key, Arc<Inode>>) {
        for (key, inode) in destinations {
            let is_unsent = inode.kind != FileKind::Directory && Self::version_of(&inode).is_none();
            if is_unsent && let Some(spared) = self.spare(&key).await {
                let mut state = inode.state();
                state.exclusive = false;
                state.hides = Some(key);
                drop(state);
                if let Some(staged) = inode.staged() {
                    staged.replaces(Some(spared));
                }
            }
        }
    }

    /// Commits the files below that are edits of an object: their base is about to move. What was
    /// never committed just follows its name.
    async fn commit_edits_below(&self, ino: Ino) -> Result<()> {
        let below = self.table().subtree(ino);
        for inode in below.iter().filter(|inode| inode.is_dirty()) {
            if Self::is_in_store(inode) {
                let _one_at_a_time = inode.commit.lock().await;
                self.commit_locked(inode, Cause::Call).await?;
            }
        }
        Ok(())
    }

    /// The inodes below a moved directory are those of the copies now.
    async fn repoint(&self, ino: Ino, moved: &HashMap<Key, Moved>) {
        let below = self.table().subtree(ino);
        for inode in below {
            let Some(key) = self.object_of(&inode) else { continue };
            let before = Self::version_of(&inode);
            if before.is_none() && inode.kind != FileKind::Directory {
                // It is not in the store yet: what moved is an object that it hides, or another
                // client's.
                let hidden = moved.get(&key).filter(|_| inode.state().hides.is_some());
                if let (Some(it), Some(staged)) = (hidden, inode.staged()) {
                    // What goes with the next commit is the copy.
                    staged.replaces(self.note_delete(&it.copy).ok().map(Ending::new));
                }
                let mut state = inode.state();
                state.hides = state.hides.take().map(|_| key);
                continue;
            }
            let version = match (moved.get(&key), before) {
                (Some(it), before) => Self::copy_of(&inode, before.as_deref(), it),
                (None, None) => continue,
                (None, Some(before)) if before.key == key => continue,
                (None, Some(before)) => self.found_moved(&before, &key).await,
            };
            match version {
                Some(version) => self.stand_on(&inode, version),
                None => self.table().lose(inode.ino),
            }
        }
    }

    /// The copy that an inode stands for; none where what moved is another client's object, of
    /// which whoever has the file open must read nothing.
    fn copy_of(inode: &Inode, before: Option<&Version>, it: &Moved) -> Option<Version> {
        let is_meant = inode.kind == FileKind::Directory
            || before.is_some_and(|before| before.is_same(&it.source));
        is_meant.then(|| it.copy.clone())
    }

    /// The copy of an object that was looked up while it moved. A tag of its own, as of a copy in
    /// parts, does not say whose copy it is.
    async fn found_moved(&self, before: &Version, key: &Key) -> Option<Version> {
        let found = self.0.store.head(key).await.ok()?.version;
        let expected = Version { key: key.clone(), ..before.clone() };
        found.is_same(&expected).then_some(found)
    }

    fn stand_on(&self, inode: &Inode, version: Version) {
        let version = Arc::new(version);
        let mut state = inode.state();
        if let Some(staged) = &state.staged {
            staged.rebase(Arc::clone(&version));
        }
        state.version = Some(version);
        state.hides = None;
        state.exclusive = false;
        state.seen = self.0.clock.now();
    }

    /// The key of an inode's object: a directory's is its marker.
    fn object_of(&self, inode: &Inode) -> Option<Key> {
        let table = self.table();
        match inode.kind {
            FileKind::Directory => table.prefix(inode.ino).and_then(|prefix| prefix.marker()),
            _ => table.key(inode.ino),
        }
    }
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
