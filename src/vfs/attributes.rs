//! Attributes that are set: SETATTR and extended attributes, and how they reach S3.
//!
//! Owns the rule that a change that changes nothing sends nothing, and that a change of a clean
//! file waits a moment for company: the next commit or a rename carries it, otherwise one
//! self-copy. Must not know bytes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::attr::{Attr, Fh, FileKind, Ino, NewTime, SetAttr};
use super::inode::{Inode, State};
use super::{Error, Metadata, Result, Vfs};
use crate::naming::{DIRECTORY_CONTENT_TYPE, Key};
use crate::posix_metadata::{self, PosixMetadata};
use crate::store::{Condition, ErrorKind, Payload, PutRequest, Version};
use crate::write;

/// The attribute that no object has and no list names, so that nobody copies it: how much of a file
/// is on local disk. `s3pod warm` asks for it.
const ON_DISK: &str = "user.s3pod.cached";
/// `XATTR_CREATE` of setxattr(2).
const XATTR_CREATE: i32 = 1;
/// `XATTR_REPLACE` of setxattr(2).
const XATTR_REPLACE: i32 = 2;

impl Vfs {
    /// Changes attributes. A new size without a handle is in S3 when this answers.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] for what `--metadata list` cannot keep; [`Error::Stale`]; the
    /// store's.
    pub async fn setattr(
        &self,
        ino: Ino,
        fh: Option<Fh>,
        change: SetAttr,
    ) -> Result<(Attr, Duration)> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        self.check_owner(&inode).await?;
        if fh.is_none() {
            self.revalidate(&inode).await?;
        }
        if let Some(size) = change.size {
            self.set_size(&inode, fh, size).await?;
        }
        if self.apply(&inode, &change)? {
            self.send_attributes_soon(&inode).await?;
        }
        Ok((inode.attr(), self.metadata_ttl()))
    }

    /// The kernel decides by the owner that it was told who may change attributes. Of a file that
    /// only a listing had told of it was told a default.
    ///
    /// # Errors
    /// [`Error::Stale`] where the owner is another: the kernel looks the name up and decides again.
    async fn check_owner(&self, inode: &Arc<Inode>) -> Result<()> {
        if !self.is_unread(inode) {
            return Ok(());
        }
        let told = inode.attr();
        self.learn(inode).await?;
        let owner = |attr: &Attr| (attr.uid, attr.gid, attr.perm);
        if owner(&told) == owner(&inode.attr()) { Ok(()) } else { Err(Error::Stale) }
    }

    async fn set_size(&self, inode: &Arc<Inode>, fh: Option<Fh>, size: u64) -> Result<()> {
        if inode.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        let handle = fh.map(|fh| self.handle(fh)).transpose()?;
        self.before_change(inode).await?;
        self.learn_to_write(inode).await?;
        self.resize(inode, size, handle.as_deref()).await?;
        if handle.is_some() {
            return Ok(());
        }
        let committed = self.commit(inode).await;
        if committed.is_err() {
            // No close will come that tries it again.
            self.retry_later(inode);
        }
        self.let_go(inode);
        committed
    }

    /// Applies what changes; false where nothing does. With `--metadata list` nothing is kept of
    /// it, so only a touch is taken.
    fn apply(&self, inode: &Inode, change: &SetAttr) -> Result<bool> {
        let now = self.0.clock.wall();
        let mut state = inode.state();
        let time = |time: NewTime| match time {
            NewTime::Now => now,
            NewTime::At(time) => time,
        };
        let mtime = change.mtime.map(time);
        let keeps_owner = change.uid.is_none_or(|uid| uid == state.uid)
            && change.gid.is_none_or(|gid| gid == state.gid);
        let keeps_perm = change.perm.is_none_or(|perm| perm == state.perm);
        let keeps_time = mtime.is_none_or(|time| time == state.mtime);
        let changes = !(keeps_owner && keeps_perm && keeps_time);
        let is_touch = matches!(change.mtime, Some(NewTime::Now)) && keeps_owner && keeps_perm;
        if changes && !is_touch && self.settings().metadata == Metadata::List {
            return Err(Error::NotPermitted("owner, mode and times need --metadata posix"));
        }
        if let Some(atime) = change.atime.map(time) {
            (state.atime, state.ctime) = (Some(atime), now);
        }
        if !changes {
            return Ok(false);
        }
        let before = (state.perm, state.uid, state.gid, state.mtime);
        let new = |new: Option<u32>, old| new.unwrap_or(old);
        state.perm = change.perm.unwrap_or(state.perm);
        (state.uid, state.gid) = (new(change.uid, state.uid), new(change.gid, state.gid));
        state.mtime = mtime.unwrap_or(state.mtime);
        if !state.attributes_fit(inode.kind, self.settings()) {
            (state.perm, state.uid, state.gid, state.mtime) = before;
            return Err(Error::AttributesTooBig);
        }
        state.mtime_is_explicit |= mtime.is_some();
        state.mtime_is_guess &= mtime.is_none();
        state.changed_attributes(now);
        Ok(true)
    }

    /// Sends changed attributes now or, with `--attr-delay`, in a moment.
    pub(super) async fn send_attributes_soon(&self, inode: &Arc<Inode>) -> Result<()> {
        let delay = self.settings().attr_delay;
        if delay.is_zero() {
            return self.send_attributes(inode).await;
        }
        let Ok(room) = Arc::clone(&self.0.held).try_acquire_owned() else {
            return self.send_attributes(inode).await;
        };
        self.hold(inode).await;
        let (core, inode) = (Arc::downgrade(&self.0), Arc::downgrade(inode));
        self.0.tasks.spawn(async move {
            let _until_it_was_tried = room;
            tokio::time::sleep(delay).await;
            let (Some(core), Some(inode)) = (core.upgrade(), inode.upgrade()) else { return };
            let vfs = Self(core);
            if let Err(error) = vfs.send_attributes(&inode).await {
                tracing::error!(ino = inode.ino.0, %error, "attributes are not in S3 yet");
                vfs.retry_later(&inode);
            }
            vfs.table().collect(inode.ino);
        });
        Ok(())
    }

    /// Sends attributes that S3 does not have, unless a commit that is due will carry them.
    ///
    /// # Errors
    /// The store's; the attributes stay dirty.
    pub(super) async fn send_attributes(&self, inode: &Arc<Inode>) -> Result<()> {
        let _places_stand = self.0.namespace.read().await;
        let _one_at_a_time = inode.commit.lock().await;
        let is_due = {
            let state = inode.state();
            state.attributes_dirty && !state.unlinked && !state.detached
        };
        if !is_due || inode.is_dirty() {
            return Ok(());
        }
        if inode.kind == FileKind::Directory {
            return self.send_directory(inode).await;
        }
        let (Some(version), Some(key)) = (Self::version_of(inode), self.table().key(inode.ino))
        else {
            // Nowhere to send them: the name stands for another object by now.
            if Self::version_of(inode).is_some() {
                inode.state().drop_held();
            }
            return Ok(());
        };
        self.learn_properties(inode).await?;
        self.repay(&key).await?;
        let (mut properties, epoch) = self.properties_now(inode, &key);
        properties.user_metadata.insert(write::COMMIT_ID.to_owned(), write::new_commit_id());
        let unchanged = Condition::Unchanged(Version::clone(&version));
        let copied =
            self.0.engine.copy(&version, &key, Some(properties.clone()), &unchanged).await?;
        let copied = Arc::new(copied);
        let mut state = inode.state();
        if let Some(staged) = &state.staged {
            // The version it lies over has just been replaced by our own copy.
            staged.rebase(Arc::clone(&copied));
        }
        state.committed(copied, properties, self.0.clock.now());
        state.attributes_sent(epoch);
        Ok(())
    }

    /// A directory's attributes are its marker's; the marker is written anew.
    async fn send_directory(&self, inode: &Arc<Inode>) -> Result<()> {
        let Some(key) = self.table().prefix(inode.ino).and_then(|prefix| prefix.marker()) else {
            inode.state().drop_held();
            return Ok(());
        };
        self.learn_marker(inode, &key).await?;
        let (mut properties, epoch) = self.properties_now(inode, &key);
        let sent = match Self::version_of(inode).filter(|marker| marker.size > 0) {
            // Some tools keep something in it.
            Some(marker) => {
                let unchanged = Condition::Unchanged(Version::clone(&marker));
                let given = Some(properties.clone());
                let copied = self.0.engine.copy(&marker, &key, given, &unchanged).await;
                copied.inspect_err(|error| {
                    if matches!(error, write::Error::Store(error) if error.is_changed()) {
                        // Another client has written it anew, which is learnt the next time.
                        let mut state = inode.state();
                        (state.properties, state.version) = (None, None);
                    }
                })?
            }
            None => {
                properties.content_type = Some(DIRECTORY_CONTENT_TYPE.to_owned());
                let (properties, condition) = (properties.clone(), Condition::None);
                let request = PutRequest { key, properties, condition };
                self.0.store.put(&request, &Payload::Bytes(Bytes::new())).await?
            }
        };
        let mut state = inode.state();
        state.committed(Arc::new(sent), properties, self.0.clock.now());
        state.knowledge.has_marker = true;
        state.attributes_sent(epoch);
        Ok(())
    }

    /// Reads what must survive of a directory's marker, where nobody has.
    async fn learn_marker(&self, inode: &Arc<Inode>, key: &Key) -> Result<()> {
        if inode.state().properties.is_none() {
            match self.0.store.head(key).await {
                Ok(head) => {
                    let mut state = inode.state();
                    state.tags_unread = head.tag_count > 0;
                    state.version = Some(Arc::new(head.version));
                    state.properties = Some(head.properties);
                }
                // Whoever may not look at it may still write it.
                Err(error) if error.is_not_found() || *error.kind() == ErrorKind::Denied => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.learn_tags(inode).await
    }

    fn properties_now(&self, inode: &Inode, key: &Key) -> (crate::store::Properties, u64) {
        let state = inode.state();
        let mtime = Some(state.mtime);
        (state.properties_for(inode.kind, key, self.settings(), mtime), state.attributes_epoch)
    }

    /// The value of a `user.*` attribute.
    ///
    /// # Errors
    /// [`Error::NoData`] where there is none.
    pub async fn getxattr(&self, ino: Ino, name: &OsStr) -> Result<Bytes> {
        let inode = self.inode(ino)?;
        self.learn(&inode).await?;
        let name = name.to_str().ok_or(Error::NoData)?;
        if name == ON_DISK {
            return self.on_disk(&inode).await;
        }
        let state = inode.state();
        state.xattrs.get(name).map(|value| Bytes::copy_from_slice(value)).ok_or(Error::NoData)
    }

    /// How many bytes of the file's version are in the cache's folder, in decimal.
    async fn on_disk(&self, inode: &Inode) -> Result<Bytes> {
        let version = inode.state().version.clone();
        let version = version.filter(|_| !inode.is_dirty()).ok_or(Error::NoData)?;
        Ok(self.0.cache.on_disk(&version).await.to_string().into())
    }

    /// The names of the `user.*` attributes, each followed by a NUL.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub async fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        let inode = self.inode(ino)?;
        self.learn(&inode).await?;
        if !self.is_believed(&inode) {
            // The kernel asks for no attributes before this.
            self.revalidate(&inode).await?;
        }
        let state = inode.state();
        let mut names = BytesMut::new();
        for name in state.xattrs.keys() {
            names.put_slice(name.as_bytes());
            names.put_u8(0);
        }
        Ok(names.freeze())
    }

    /// Sets a `user.*` attribute.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::NoData`] for setxattr(2)'s flags;
    /// [`Error::AttributesTooBig`] beyond S3's 2 KiB; [`Error::NotSupported`].
    pub async fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        self.check_writable()?;
        let inode = self.xattr_inode(ino)?;
        self.learn(&inode).await?;
        let name = name.to_str().ok_or(Error::Invalid)?;
        {
            let mut state = inode.state();
            match (flags, state.xattrs.get(name)) {
                (XATTR_CREATE, Some(_)) => return Err(Error::Exists),
                (XATTR_REPLACE, None) => return Err(Error::NoData),
                (_, Some(old)) if old == value => return Ok(()),
                _ => {}
            }
            let before = state.xattrs.clone();
            state.xattrs.insert(name.to_owned(), value.to_owned());
            if !state.attributes_fit(inode.kind, self.settings()) {
                state.xattrs = before;
                return Err(Error::AttributesTooBig);
            }
            state.changed_attributes(self.0.clock.wall());
        }
        self.send_attributes_soon(&inode).await
    }

    /// Takes a `user.*` attribute away.
    ///
    /// # Errors
    /// [`Error::NoData`] where there is none; [`Error::NotSupported`].
    pub async fn removexattr(&self, ino: Ino, name: &OsStr) -> Result<()> {
        self.check_writable()?;
        let inode = self.xattr_inode(ino)?;
        self.learn(&inode).await?;
        let name = name.to_str().ok_or(Error::NoData)?;
        {
            let mut state = inode.state();
            if !state.remove_xattr(name) {
                return Err(Error::NoData);
            }
            state.changed_attributes(self.0.clock.wall());
        }
        self.send_attributes_soon(&inode).await
    }

    fn xattr_inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        if self.settings().metadata == Metadata::List {
            return Err(Error::NotSupported("extended attributes need --metadata posix"));
        }
        self.inode(ino)
    }
}

impl State {
    /// Takes an attribute away wherever it stands; false where there was none.
    fn remove_xattr(&mut self, name: &str) -> bool {
        let xattrs = std::mem::take(&mut self.xattrs);
        let mut metadata = PosixMetadata { xattrs, ..PosixMetadata::default() };
        let properties = self.properties.get_or_insert_default();
        let user_metadata = &mut properties.user_metadata;
        let was_there = posix_metadata::remove_xattr(name, &mut metadata, user_metadata);
        self.xattrs = metadata.xattrs;
        self.removed_xattrs.insert(name.to_owned());
        was_there
    }

    /// An attribute has changed and S3 does not know.
    pub(super) fn changed_attributes(&mut self, now: std::time::SystemTime) {
        self.ctime = now;
        self.attributes_dirty = true;
        self.attributes_epoch += 1;
    }
}
