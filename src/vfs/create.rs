//! New names: CREATE, MKNOD, MKDIR, SYMLINK.
//!
//! Owns what a new file, directory or link costs and when it is in S3: a file with its first
//! commit, everything else before the verb answers. Must not know bytes of files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bytes::Bytes;

use super::attr::{Caller, Entry, FileKind, Ino, OpenFlags, Opened};
use super::inode::{Inode, State};
use super::settings::ExclusiveCreate;
use super::{Error, Metadata, Result, Vfs};
use crate::naming::{DIRECTORY_CONTENT_TYPE, Key, Name};
use crate::store::{Condition, Payload, PutRequest, Version};
use crate::write;

/// `S_ISGID` of a directory's mode: what is made in it has its group, and directories the bit.
const SET_GROUP_ID: u16 = 0o2000;

impl Vfs {
    /// Makes a file and opens it; opens it where it exists.
    ///
    /// # Errors
    /// [`Error::Exists`] for O_EXCL on a file that is there; [`Error::Write`].
    pub async fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        perm: u16,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(Entry, Opened)> {
        self.check_writable()?;
        let name = self.name(name)?;
        if let Some(inode) = self.resolve(parent, &name).await? {
            if flags.exclusive {
                return Err(Error::Exists);
            }
            let opened = self.open(inode.ino, flags).await?;
            return Ok((self.entry(&inode, self.metadata_ttl()), opened));
        }
        let state = self.new_state(parent, perm, caller)?;
        let inode = self.insert(parent, &name, FileKind::File, state)?;
        let begun = self.begin_file(&inode, flags).await;
        match begun.and_then(|()| self.add_handle(&inode, flags)) {
            Ok(opened) => Ok((self.entry(&inode, self.metadata_ttl()), opened)),
            Err(error) => {
                // A name that nobody could open must not stay.
                inode.state().detached = true;
                self.table().lose(inode.ino);
                Err(error)
            }
        }
    }

    async fn begin_file(&self, inode: &Arc<Inode>, flags: OpenFlags) -> Result<()> {
        self.begin_empty(inode, flags.exclusive).await?;
        if flags.exclusive && self.settings().exclusive_create == ExclusiveCreate::Open {
            self.claim(inode).await
        } else {
            self.commit_empty_later(inode);
            Ok(())
        }
    }

    /// Wins or loses the name now: a lock across mounts.
    async fn claim(&self, inode: &Arc<Inode>) -> Result<()> {
        match self.commit(inode).await {
            Err(Error::Write(write::Error::Exists { .. })) => Err(Error::Exists),
            other => other,
        }
    }

    /// A new file has something to commit although it has no bytes.
    async fn begin_empty(&self, inode: &Arc<Inode>, exclusive: bool) -> Result<()> {
        let key = self.table().key(inode.ino).ok_or(Error::NotFound)?;
        // The object of an unlinked file that is still open stands there: it is being replaced.
        let replaced = self.spare(&key).await;
        {
            let mut state = inode.state();
            state.exclusive = exclusive && replaced.is_none();
            state.hides = replaced.is_some().then_some(key);
        }
        let staged = self.stage(inode)?;
        staged.replaces(replaced);
        staged.touch();
        Ok(())
    }

    /// What is made in a directory is its caller's; of a set-group-id one it has the group.
    fn new_state(&self, parent: Ino, perm: u16, caller: Caller) -> Result<State> {
        let directory = self.inode(parent)?;
        let group = {
            let state = directory.state();
            (state.perm & SET_GROUP_ID != 0).then_some(state.gid)
        };
        let caller = Caller { gid: group.unwrap_or(caller.gid), ..caller };
        Ok(self.own_state(perm, caller))
    }

    fn own_state(&self, perm: u16, caller: Caller) -> State {
        let clock = &self.0.clock;
        State::created(self.settings(), perm, caller, clock.now(), clock.wall())
    }

    fn insert(&self, parent: Ino, name: &Name, kind: FileKind, state: State) -> Result<Arc<Inode>> {
        let now = self.0.clock.now();
        let mut table = self.table();
        let prefix = table.prefix(parent).ok_or(Error::NotFound)?;
        match kind {
            FileKind::Directory => drop(prefix.directory(name)?),
            _ => drop(prefix.file(name)?),
        }
        if table.child(parent, name).is_some() {
            return Err(Error::Exists);
        }
        let directory = table.get(parent).ok_or(Error::NotFound)?;
        directory.state().name_made(name, now, self.0.clock.wall());
        table.insert(parent, name, kind, state).ok_or(Error::NotFound)
    }

    /// Makes a directory, which is its marker object.
    ///
    /// # Errors
    /// [`Error::Exists`]; the store's.
    pub async fn mkdir(
        &self,
        parent: Ino,
        name: &OsStr,
        perm: u16,
        caller: Caller,
    ) -> Result<Entry> {
        let name = self.free_name(parent, name).await?;
        let _places_stand = self.0.namespace.read().await;
        let prefix = self.table().prefix(parent).ok_or(Error::NotFound)?.directory(&name)?;
        let marker = prefix.marker().ok_or(Error::Invalid)?;
        let above = self.inode(parent)?.state().perm;
        let mut state = self.new_state(parent, perm | above & SET_GROUP_ID, caller)?;
        if self.settings().metadata == Metadata::List {
            state.perm = self.settings().dir_mode;
        }
        self.put_whole(&marker, FileKind::Directory, &mut state, Bytes::new()).await?;
        state.knowledge.made(self.0.clock.now());
        let inode = self.insert(parent, &name, FileKind::Directory, state)?;
        Ok(self.entry(&inode, self.metadata_ttl()))
    }

    /// Makes a symbolic link, an object whose body is the target.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] with `--metadata list`; [`Error::Exists`]; the store's.
    pub async fn symlink(
        &self,
        parent: Ino,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> Result<Entry> {
        if self.settings().metadata == Metadata::List {
            return Err(Error::NotPermitted("symbolic links need --metadata posix"));
        }
        let body = Bytes::copy_from_slice(target.as_bytes());
        let mut state = self.new_state(parent, 0o777, caller)?;
        state.link_target = Some(body.clone());
        self.make(parent, name, FileKind::Symlink, state, body).await
    }

    /// Makes an empty file, a FIFO, or the name of a socket.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] for devices, and for all but files with `--metadata list`.
    pub async fn mknod(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> Result<Entry> {
        let kind = match FileKind::from_mode(mode) {
            Some(kind @ (FileKind::File | FileKind::Fifo | FileKind::Socket)) => kind,
            _ => {
                return Err(Error::NotPermitted(
                    "whoever writes to a bucket must not make devices",
                ));
            }
        };
        if kind != FileKind::File && self.settings().metadata == Metadata::List {
            return Err(Error::NotPermitted("FIFOs and sockets need --metadata posix"));
        }
        let state = self.new_state(parent, (mode & 0o7777) as u16, caller)?;
        self.make(parent, name, kind, state, Bytes::new()).await
    }

    /// Makes something that is in S3 before the verb answers.
    async fn make(
        &self,
        parent: Ino,
        name: &OsStr,
        kind: FileKind,
        mut state: State,
        body: Bytes,
    ) -> Result<Entry> {
        let name = self.free_name(parent, name).await?;
        let _places_stand = self.0.namespace.read().await;
        let key = self.table().key_at(parent, &name).ok_or(Error::NotFound)??;
        if let Some(_until_it_is_gone) = self.spare(&key).await {
            self.delete_object(&key).await?;
        }
        self.put_whole(&key, kind, &mut state, body).await?;
        let inode = self.insert(parent, &name, kind, state)?;
        Ok(self.entry(&inode, self.metadata_ttl()))
    }

    async fn free_name(&self, parent: Ino, name: &OsStr) -> Result<Name> {
        self.check_writable()?;
        let name = self.name(name)?;
        if self.resolve(parent, &name).await?.is_some() {
            return Err(Error::Exists);
        }
        Ok(name)
    }

    /// Stores a small object that must not exist yet.
    async fn put_whole(
        &self,
        key: &Key,
        kind: FileKind,
        state: &mut State,
        body: Bytes,
    ) -> Result<()> {
        let mut properties = state.properties_for(kind, key, self.settings(), Some(state.mtime));
        if kind == FileKind::Directory {
            properties.content_type = Some(DIRECTORY_CONTENT_TYPE.to_owned());
        }
        let id = write::new_commit_id();
        properties.user_metadata.insert(write::COMMIT_ID.to_owned(), id.clone());
        let request = PutRequest { key: key.clone(), properties, condition: Condition::Absent };
        let version = match self.0.store.put(&request, &Payload::Bytes(body)).await {
            Ok(version) => version,
            Err(error) if error.is_changed() && error.is_ambiguous() => {
                self.own_version(key, &id).await.ok_or(Error::Exists)?
            }
            Err(error) if error.is_changed() => return Err(Error::Exists),
            Err(error) => return Err(error.into()),
        };
        state.committed(Arc::new(version), request.properties, self.0.clock.now());
        Ok(())
    }

    /// The object under a key where it is the one that was stored with this id: an earlier attempt
    /// was done, only its answer got lost.
    async fn own_version(&self, key: &Key, id: &str) -> Option<Version> {
        let head = self.0.store.head(key).await.ok()?;
        let found = head.properties.user_metadata.get(write::COMMIT_ID);
        found.is_some_and(|found| found == id).then_some(head.version)
    }

    /// Makes sure that a directory outlives its last name: it gets a marker before the first name
    /// in it is taken away.
    pub(super) async fn keep_directory(&self, ino: Ino) {
        let Ok(directory) = self.inode(ino) else { return };
        if directory.state().knowledge.has_marker {
            return;
        }
        let (perm, owner) = (
            self.settings().dir_mode,
            Caller { uid: self.settings().uid, gid: self.settings().gid },
        );
        self.put_marker(&directory, perm, owner).await;
    }

    /// The same for a directory whose marker may have gone, with its mode and owner.
    pub(super) async fn keep_directory_anew(&self, directory: &Inode) {
        let (perm, owner) = {
            let state = directory.state();
            (state.perm, Caller { uid: state.uid, gid: state.gid })
        };
        self.put_marker(directory, perm, owner).await;
    }

    async fn put_marker(&self, directory: &Inode, perm: u16, owner: Caller) {
        let prefix = self.table().prefix(directory.ino);
        let Some(marker) = prefix.and_then(|prefix| prefix.marker()) else { return };
        let mut state = self.own_state(perm, owner);
        match self.put_whole(&marker, FileKind::Directory, &mut state, Bytes::new()).await {
            Ok(()) => {
                let mut own = directory.state();
                own.version = state.version.take();
                own.properties = state.properties.take();
                own.knowledge.has_marker = true;
            }
            Err(Error::Exists) => directory.state().knowledge.has_marker = true,
            Err(error) => {
                tracing::warn!(key = %marker, %error, "the directory may vanish when it is empty");
            }
        }
    }

    /// Deletes one object, now.
    pub(super) async fn delete_object(&self, key: &Key) -> Result<()> {
        Ok(self.0.store.delete(key, &Condition::None).await?)
    }

    /// Deletes one version, now; what another client has put in its place stays.
    pub(super) async fn delete_version(&self, version: &Version) -> Result<()> {
        let condition = Condition::Unchanged(version.clone());
        match self.0.store.delete(&version.key, &condition).await {
            Err(error) if !error.is_changed() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The version that is in S3, if any.
    pub(super) fn version_of(inode: &Inode) -> Option<Arc<Version>> {
        inode.state().version.clone()
    }
}
