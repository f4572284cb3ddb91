//! Names to inodes, and whether what is known of them is still so.
//!
//! Owns LOOKUP and GETATTR, the questions they cost, and the rule that a remote replacement is a
//! new inode. Must not know handles or bytes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attr::{Attr, Entry, Fh, FileKind, Ino};
use super::inode::{Inode, State, kind_of};
use super::knowledge::Listed;
use super::table::Table;
use super::{Error, Metadata, Result, Vfs};
use crate::naming::{Key, Name, NameError, Prefix};
use crate::store::{ListLine, ListRequest, ObjectHead, Version};

/// What stands under a name in the store.
pub(super) enum Found {
    Nothing,
    /// An object, with everything a HEAD says.
    Object(Box<ObjectHead>),
    /// An object, as a listing shows it.
    Listed(Arc<Version>),
    /// A directory, with its marker where it has one that was asked for.
    Directory(Option<Box<ObjectHead>>),
}

impl Vfs {
    /// The inode under a name.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        // A name that no key can have is not there; creating it says why.
        let name = match Name::new(name) {
            Ok(name) => name,
            Err(NameError::Invalid | NameError::NotUtf8) => return Err(Error::NotFound),
            Err(error) => return Err(error.into()),
        };
        let inode = self.resolve(parent, &name).await?.ok_or(Error::NotFound)?;
        let is_local = inode.state().version.is_none() || inode.is_dirty();
        let ttl = self.settings().metadata_ttl;
        let attr_ttl = if is_local || self.is_fresh(&inode) { ttl } else { Duration::ZERO };
        Ok(self.entry(&inode, attr_ttl))
    }

    /// The inode under a name, asking the store only where memory does not say.
    pub(super) async fn resolve(&self, parent: Ino, name: &Name) -> Result<Option<Arc<Inode>>> {
        let directory = self.inode(parent)?;
        if directory.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        let known = self.table().child(parent, name);
        if known.as_ref().is_some_and(|inode| inode.state().unlinked) {
            // Its delete is on the way.
            return Ok(None);
        }
        if let Some(inode) = &known
            && (inode.kind != FileKind::Directory || self.is_fresh(inode))
        {
            // A file past its TTL is answered from memory too: its attributes get no TTL, so the
            // GETATTR or OPEN that follows asks the store.
            return Ok(known);
        }
        let (now, ttl) = (self.0.clock.now(), self.settings().metadata_ttl);
        let hint = {
            let mut state = directory.state();
            if known.is_none() && state.knowledge.is_absent(name, ttl, now) {
                return Ok(None);
            }
            state.knowledge.take_listed(name, now)
        };
        let prefix = self.table().prefix(parent).ok_or(Error::NotFound)?;
        let found = self.find(&prefix, name, hint).await?;
        if self.table().prefix(parent) != Some(prefix) {
            // The directory was renamed meanwhile, and what was found may be gone from there.
            return Err(Error::Stale);
        }
        Ok(self.adopt(parent, name, found, now))
    }

    /// Asks the store what stands under a name.
    async fn find(&self, prefix: &Prefix, name: &Name, hint: Option<Listed>) -> Result<Found> {
        let key = prefix.file(name)?;
        if self.is_going(&key) {
            return self.find_directory(&prefix.directory(name)?).await;
        }
        match (hint, self.settings().metadata) {
            (Some(Listed::File(version)), Metadata::List) if version.key == key => {
                Ok(Found::Listed(version))
            }
            (Some(Listed::File(_)), Metadata::Posix) => self.find_object(&key).await,
            (Some(Listed::Directory), Metadata::List) => Ok(Found::Directory(None)),
            (Some(Listed::Directory), Metadata::Posix) => {
                self.find_directory(&prefix.directory(name)?).await
            }
            _ => {
                let directory = prefix.directory(name)?;
                let (below, object) =
                    tokio::join!(self.find_directory(&directory), self.find_object(&key));
                // The directory wins over a file of the same name.
                match below? {
                    Found::Nothing => object,
                    directory => Ok(directory),
                }
            }
        }
    }

    pub(super) async fn find_object(&self, key: &Key) -> Result<Found> {
        if self.settings().metadata == Metadata::Posix {
            return match self.0.store.head(key).await {
                Ok(head) => Ok(Found::Object(Box::new(head))),
                Err(error) if error.is_not_found() => Ok(Found::Nothing),
                Err(error) => Err(error.into()),
            };
        }
        let first = self.first_below(key.as_str()).await?;
        Ok(match first {
            // The prefix itself sorts before everything that it begins.
            Some(ListLine::Object(version)) if version.key == *key => {
                Found::Listed(Arc::new(version))
            }
            _ => Found::Nothing,
        })
    }

    async fn find_directory(&self, prefix: &Prefix) -> Result<Found> {
        match self.first_below(prefix.as_str()).await? {
            None => Ok(Found::Nothing),
            Some(ListLine::Object(version))
                if version.key.as_str() == prefix.as_str()
                    && self.settings().metadata == Metadata::Posix =>
            {
                let marker = self.0.store.head(&version.key).await;
                Ok(Found::Directory(marker.ok().map(Box::new)))
            }
            Some(_) => Ok(Found::Directory(None)),
        }
    }

    /// The first line of the listing of everything that begins with `prefix`.
    async fn first_below(&self, prefix: &str) -> Result<Option<ListLine>> {
        let request =
            ListRequest { prefix: prefix.to_owned(), max_keys: Some(1), ..ListRequest::default() };
        Ok(self.0.store.list(&request).await?.lines.into_iter().next())
    }

    /// Makes the tree say what the store said. An inode whose object was replaced keeps its
    /// handles and loses its name; local changes are never overwritten by what the store says, nor
    /// is what became known after it was `asked`.
    pub(super) fn adopt(
        &self,
        parent: Ino,
        name: &Name,
        found: Found,
        asked: Instant,
    ) -> Option<Arc<Inode>> {
        let now = self.0.clock.now();
        let mut table = self.table();
        let known = table.child(parent, name);
        if let Some(inode) = &known
            && (inode.state().seen > asked
                || confirm(inode, &found, now, self)
                || has_local(&table, inode))
        {
            return known;
        }
        if let Some(inode) = known {
            table.lose(inode.ino);
        }
        let settings = self.settings();
        let (kind, mut state) = match &found {
            Found::Nothing => {
                if let Some(directory) = table.get(parent) {
                    directory.state().knowledge.gone(name, now);
                }
                return None;
            }
            Found::Object(head) => (kind_of(head, settings), State::of_head(head, settings, now)),
            Found::Listed(version) => {
                let state = State::of_version(Arc::clone(version), settings, now);
                (FileKind::File, state)
            }
            Found::Directory(Some(head)) => {
                (FileKind::Directory, State::of_head(head, settings, now))
            }
            Found::Directory(None) => {
                (FileKind::Directory, State::implicit_directory(settings, now))
            }
        };
        state.knowledge.has_marker = matches!(found, Found::Directory(Some(_)));
        if let Some(directory) = table.get(parent) {
            directory.state().knowledge.forget(name);
        }
        table.insert(parent, name, kind, state)
    }

    /// The attributes of an inode. Through a handle, and for what is changed here, they come from
    /// memory; otherwise the store is asked when the TTL is over.
    ///
    /// # Errors
    /// [`Error::Stale`] where another object, or none, stands under the name: the kernel looks the
    /// name up again.
    pub async fn getattr(&self, ino: Ino, fh: Option<Fh>) -> Result<(Attr, Duration)> {
        let inode = self.inode(ino)?;
        let ttl = self.settings().metadata_ttl;
        if fh.is_none() {
            self.revalidate(&inode).await?;
        }
        Ok((inode.attr(), ttl))
    }

    /// Asks the store, where the TTL is over, whether the inode is still the current one.
    ///
    /// # Errors
    /// [`Error::Stale`] where it is not; its name is free then for the next lookup.
    pub(super) async fn revalidate(&self, inode: &Arc<Inode>) -> Result<()> {
        if inode.state().detached {
            return Err(Error::Stale);
        }
        let is_ours = inode.kind == FileKind::Directory || inode.is_dirty();
        if is_ours || inode.state().unlinked || self.is_fresh(inode) {
            return Ok(());
        }
        let Some(key) = self.table().key(inode.ino) else { return Ok(()) };
        let before = inode.state().version.clone();
        let found = self.find_object(&key).await?;
        let moved_on = {
            let state = inode.state();
            state.unlinked || state.version != before
        };
        if moved_on || inode.is_dirty() || confirm(inode, &found, self.0.clock.now(), self) {
            return Ok(());
        }
        self.table().lose(inode.ino);
        Err(Error::Stale)
    }
}

/// True where S3 lacks something of the inode, or of what is below it, so that what the store says
/// cannot end it.
fn has_local(table: &Table, inode: &Inode) -> bool {
    table.subtree(inode.ino).iter().any(|inode| inode.is_dirty())
}

/// True where `found` is what the inode already is; then it is fresh again.
fn confirm(inode: &Inode, found: &Found, now: Instant, vfs: &Vfs) -> bool {
    let mut state = inode.state();
    let is_same = match (found, inode.kind) {
        (Found::Directory(_), FileKind::Directory) => true,
        (Found::Object(head), FileKind::File | FileKind::Symlink | FileKind::Fifo) => {
            let is_same = state.version.as_ref().is_some_and(|own| own.is_same(&head.version));
            if is_same && state.properties.is_none() {
                state.properties = Some(head.properties.clone());
                state.tags_unread = head.tag_count > 0;
            }
            // A self-copy elsewhere changes the metadata and not the ETag.
            let metadata_moved = state.properties.as_ref() != Some(&head.properties);
            if is_same && metadata_moved && !state.attributes_dirty {
                *state = renewed(&mut state, head, vfs, now);
            }
            is_same
        }
        (Found::Listed(version), FileKind::File) => {
            state.version.as_ref().is_some_and(|own| own.is_same(version))
        }
        _ => false,
    };
    if is_same {
        state.seen = now;
    }
    is_same
}

/// The state of the same bytes under changed metadata; what is open stays as it is.
fn renewed(state: &mut State, head: &ObjectHead, vfs: &Vfs, now: Instant) -> State {
    let mut renewed = State::of_head(head, vfs.settings(), now);
    renewed.staged = state.staged.take();
    renewed.version = state.version.take();
    renewed.attributes_epoch = state.attributes_epoch;
    renewed.retrying = state.retrying;
    (renewed.unlinked, renewed.detached) = (state.unlinked, state.detached);
    renewed
}
