//! The bytes of open files: READ, WRITE, FLUSH, FSYNC, and the commit they wait for.
//!
//! Owns how a read is merged from staged bytes and the version beneath, and when a commit is due:
//! a flush is dirty where a change made through its own handle is not in S3. Must not know names.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{MutexGuard, RwLockReadGuard, oneshot};

use super::attr::{Fh, FileKind, Seek};
use super::handle::Handle;
use super::inode::{Inode, LINK_MAX};
use super::{Error, Result, Vfs};
use crate::naming::Key;
use crate::store::{self, ErrorKind, Operation, Version};
use crate::units::ByteRange;
use crate::write::{self, Slice, Staged, Target};

/// A read is begun again when the inode moves on beneath it; each time needs a commit of this
/// mount or a truncate in the middle of a read.
const READ_TRIES: u32 = 5;

/// While it lives, an inode's name does not move.
type Stands<'a> = (RwLockReadGuard<'a, ()>, MutexGuard<'a, ()>);

impl Vfs {
    /// The bytes at `offset`; fewer than `size` only at the end of the file.
    ///
    /// # Errors
    /// [`Error::Stale`] where the version opened is gone from the store; the store's.
    pub async fn read(&self, fh: Fh, offset: u64, size: u32) -> Result<Bytes> {
        let handle = self.handle(fh)?;
        if !handle.flags.read {
            return Err(Error::BadHandle);
        }
        let range = ByteRange::at(offset, u64::from(size));
        let bytes = self.read_tried(&handle, range).await?;
        // Another reader may have learnt meanwhile that what this one has read is wrong.
        if handle.inode.state().damaged {
            let error = store::Error::new(Operation::Get, ErrorKind::NotAsStored);
            return Err(error.with_key(&self.key_or_last(&handle.inode)).into());
        }
        Ok(bytes)
    }

    async fn read_tried(&self, handle: &Handle, range: ByteRange) -> Result<Bytes> {
        for _ in 1..READ_TRIES {
            let before = handle.inode.state().version.clone();
            match self.read_once(handle, range).await {
                Err(Moved::On) => {}
                Err(Moved::IntoUpload) => self.checkpoint(&handle.inode).await?,
                // A version that was deleted is as gone as one that was replaced.
                Err(Moved::Failed(Error::Store(error)))
                    if error.is_changed() || error.is_not_found() =>
                {
                    // A commit or a rename of this mount moves the inode on, or just has: its new
                    // version has the bytes.
                    if handle.inode.state().version == before {
                        self.wait_until_it_stands(&handle.inode).await;
                    }
                    if handle.inode.state().version == before {
                        return Err(Error::Stale);
                    }
                }
                Err(Moved::Failed(error)) => {
                    if matches!(&error, Error::Store(error) if error.is_not_as_stored()) {
                        self.give_up_damaged(&handle.inode);
                    }
                    return Err(error);
                }
                Ok(bytes) => return Ok(bytes),
            }
        }
        self.read_once(handle, range).await.map_err(|moved| match moved {
            Moved::On | Moved::IntoUpload => Error::Stale,
            Moved::Failed(error) => error,
        })
    }

    /// The object did not arrive as it was stored, which was seen only after its first bytes were
    /// given out: the kernel has those in its pages, so who opens the name from now on gets
    /// another inode, and reads anew.
    pub(super) fn give_up_damaged(&self, inode: &Inode) {
        if inode.staged().is_none() {
            self.table().lose(inode.ino);
            inode.state().damaged = true;
        }
    }

    /// Makes an object of what only an unfinished upload has, so that it can be read and changed.
    pub(super) async fn checkpoint(&self, inode: &Arc<Inode>) -> Result<()> {
        if inode.state().unlinked {
            // Nothing is sent of it any more, and the upload was given up.
            return Err(Error::Stale);
        }
        // By itself, so that it goes on where whoever reads gives up waiting: a commit that is cut
        // off in its middle would take what the upload alone has with it.
        let (vfs, inode) = (self.clone(), Arc::clone(inode));
        let (done, committed) = oneshot::channel();
        self.0.tasks.spawn(async move {
            // Nobody may be waiting any more.
            let _nobody_waits = done.send(vfs.commit(&inode).await);
        });
        committed.await.unwrap_or(Err(Error::TimedOut))
    }

    async fn read_once(&self, handle: &Handle, range: ByteRange) -> Result<Bytes, Moved> {
        let (staged, version) = {
            let state = handle.inode.state();
            (state.staged.clone(), state.version.clone())
        };
        match (staged, version) {
            (Some(staged), _) => read_staged(handle, &staged, range).await,
            (None, Some(version)) => read_version(handle, &version, range).await,
            (None, None) => Ok(Bytes::new()),
        }
    }

    /// Writes bytes; they are staged when this answers, and parts that are full leave.
    ///
    /// # Errors
    /// [`Error::Write`] where they cannot be staged.
    pub async fn write(&self, fh: Fh, offset: u64, bytes: Bytes) -> Result<u32> {
        let handle = self.handle(fh)?;
        if !handle.flags.write {
            return Err(Error::BadHandle);
        }
        let inode = &handle.inode;
        let end = offset.saturating_add(bytes.len() as u64);
        self.check_room(inode, end)?;
        let before = inode.state().size();
        let key = self.key_or_last(inode);
        loop {
            let staged = self.stage(inode)?;
            let target = || self.standing_target(inode);
            let epoch = match staged.write_at(offset, &bytes, &key, target).await {
                Err(write::Error::InUpload { .. }) => {
                    self.checkpoint(inode).await?;
                    continue;
                }
                Err(write::Error::StagingFull { .. }) if target().is_none() => {
                    self.wait_until_it_stands(inode).await;
                    staged.advance(target).await;
                    continue;
                }
                written => written?,
            };
            if is_current(inode, &staged) {
                handle.changed(epoch);
                break;
            }
        }
        self.charge(inode, before);
        self.touch_times(inode);
        Ok(u32::try_from(bytes.len()).unwrap_or(u32::MAX))
    }

    /// Where an upload of the inode would go, as long as that is kept; none while the name moves.
    /// An upload cannot follow it, and may alone have what was let go of the file.
    fn standing_target<'a>(&'a self, inode: &'a Inode) -> Option<(Target, Stands<'a>)> {
        let stands = (self.0.namespace.try_read().ok()?, inode.commit.try_lock().ok()?);
        Some((inode.target(&self.key_or_last(inode), self.settings(), false), stands))
    }

    /// Waits for whoever moves the inode's name, or sends it.
    async fn wait_until_it_stands(&self, inode: &Inode) {
        let _places_stand = self.0.namespace.read().await;
        let _one_at_a_time = inode.commit.lock().await;
    }

    /// The key of an inode, or for messages about one that lost its name, the last it had.
    pub(super) fn key_or_last(&self, inode: &Inode) -> Key {
        let key = self.table().key(inode.ino);
        let version = || inode.state().version.as_ref().map(|version| version.key.clone());
        key.or_else(version).unwrap_or_else(|| Key::from("(unlinked)"))
    }

    /// The staged changes of an inode, begun where there are none yet.
    pub(super) fn stage(&self, inode: &Inode) -> Result<Arc<Staged>> {
        // Every write comes by here: the key, a walk up the tree, is for the first alone.
        if let Some(staged) = inode.staged() {
            return Ok(staged);
        }
        let key = self.key_or_last(inode);
        let mut state = inode.state();
        if let Some(staged) = &state.staged {
            return Ok(Arc::clone(staged));
        }
        if state.ways.is_backed() {
            // Opened so while this change was on its way: it is made to another inode.
            return Err(Error::Stale);
        }
        let staged = self.0.engine.stage(&key, state.version.clone())?;
        if state.unlinked {
            staged.stay_local();
        }
        state.staged = Some(Arc::clone(&staged));
        Ok(staged)
    }

    /// The bytes have just changed.
    pub(super) fn touch_times(&self, inode: &Inode) {
        let now = self.0.clock.wall();
        let mut state = inode.state();
        (state.mtime, state.ctime, state.mtime_is_explicit) = (now, now, false);
        state.mtime_is_guess = false;
        state.written = Some(self.0.clock.now());
    }

    /// Makes room for `len` bytes at `offset`, which costs nothing in S3; only the plain mode.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for a mode, [`Error::Write`].
    pub async fn fallocate(&self, fh: Fh, offset: u64, len: u64, mode: i32) -> Result<()> {
        let handle = self.handle(fh)?;
        if !handle.flags.write {
            return Err(Error::BadHandle);
        }
        if mode != 0 {
            return Err(Error::NotSupported("only plain fallocate"));
        }
        let end = offset.checked_add(len).ok_or(Error::TooBig)?;
        if end > handle.inode.attr().size {
            self.resize(&handle.inode, end, Some(&handle)).await?;
        }
        Ok(())
    }

    /// Sets the size of a file; the change is not committed yet.
    pub(super) async fn resize(
        &self,
        inode: &Arc<Inode>,
        size: u64,
        handle: Option<&Handle>,
    ) -> Result<()> {
        self.check_room(inode, size)?;
        let before = inode.state().size();
        let key = self.key_or_last(inode);
        self.leave_promised(inode, size).await?;
        let epoch = loop {
            let staged = self.stage(inode)?;
            let epoch = match staged.truncate(size, &key).await {
                Err(write::Error::InUpload { .. }) => {
                    self.checkpoint(inode).await?;
                    continue;
                }
                cut => cut?,
            };
            if is_current(inode, &staged) {
                break epoch;
            }
        };
        if let Some(handle) = handle {
            handle.changed(epoch);
        }
        self.charge(inode, before);
        self.touch_times(inode);
        Ok(())
    }

    /// Bytes that were promised are not cut away before they are in S3: a file that is emptied is
    /// written into another stage, any other cut waits. One of a file that the store does not take
    /// waits for nothing, and is promised before it is made.
    async fn leave_promised(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        if !self.settings().write_back {
            return Ok(());
        }
        let Some(staged) = inode.staged() else { return Ok(()) };
        if !staged.is_acknowledged() || size >= staged.size() {
            return Ok(());
        }
        if size > 0 {
            return self.settle_backlog().await;
        }
        self.room_for_earlier(inode).await?;
        let later = self.0.engine.stage(&self.key_or_last(inode), inode.state().version.clone())?;
        later.follow(&staged);
        let mut state = inode.state();
        // Unless another call has just done the same.
        if state.staged.as_ref().is_some_and(|current| Arc::ptr_eq(current, &staged)) {
            if state.unlinked {
                later.stay_local();
            }
            state.staged = Some(later);
        }
        Ok(())
    }

    /// Where data, or a hole, begins at or after `offset`. Only what this mount truncated up is
    /// known to be a hole; the end of the file is one.
    ///
    /// # Errors
    /// [`Error::NoData`] at or beyond the end.
    pub async fn lseek(&self, fh: Fh, offset: u64, seek: Seek) -> Result<u64> {
        let handle = self.handle(fh)?;
        let size = handle.inode.attr().size;
        if offset >= size {
            return Err(Error::NoData);
        }
        let rest = ByteRange::new(offset, size);
        let slices = match handle.inode.staged() {
            Some(staged) => staged.view(rest).1,
            None => vec![Slice::Base(rest)],
        };
        let wanted = |slice: &Slice| matches!(slice, Slice::Hole(_)) == (seek == Seek::Hole);
        let found = slices.iter().find(|slice| wanted(slice)).map(|slice| slice.range().start);
        match (found, seek) {
            (Some(start), _) => Ok(start),
            (None, Seek::Hole) => Ok(size),
            (None, Seek::Data) => Err(Error::NoData),
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything else, and for what is too long for one; the store's.
    pub async fn readlink(&self, ino: super::Ino) -> Result<Bytes> {
        let inode = self.inode(ino)?;
        if inode.kind != FileKind::Symlink {
            return Err(Error::Invalid);
        }
        let (target, version) = {
            let state = inode.state();
            (state.link_target.clone(), state.version.clone())
        };
        if let Some(target) = target {
            return Ok(target);
        }
        let Some(version) = version else { return Err(Error::NotFound) };
        if version.size > LINK_MAX {
            return Err(Error::Invalid);
        }
        let whole = ByteRange::new(0, version.size);
        let target = self.0.cache.get_or_fetch(&version, whole).await?;
        inode.state().link_target = Some(target.clone());
        Ok(target)
    }
}

/// False where a clean stage was let go (by a rename, or a self-copy) while it was being changed:
/// the change must be made again over the version that is current.
pub(super) fn is_current(inode: &Inode, staged: &Arc<Staged>) -> bool {
    inode.staged().is_some_and(|current| Arc::ptr_eq(&current, staged))
}

/// Why a read must be tried again, or not.
enum Moved {
    /// The bytes went elsewhere between finding and reading them.
    On,
    /// Only an unfinished upload has the bytes.
    IntoUpload,
    Failed(Error),
}

async fn read_version(
    handle: &Handle,
    version: &Arc<Version>,
    range: ByteRange,
) -> Result<Bytes, Moved> {
    handle.reader.read_at(version, range).await.map_err(|error| Moved::Failed(error.into()))
}

async fn read_staged(handle: &Handle, staged: &Staged, range: ByteRange) -> Result<Bytes, Moved> {
    let (base, slices) = staged.view(range);
    let mut joined = BytesMut::new();
    for slice in slices {
        match (slice, &base) {
            (Slice::Dirty(part), _) => match staged.read(part) {
                Ok(bytes) => joined.extend_from_slice(&bytes),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(Moved::On);
                }
                Err(source) => {
                    let key = base.as_ref().map_or_else(|| "(new)".into(), |b| b.key.clone());
                    return Err(Moved::Failed(write::Error::Staging { key, source }.into()));
                }
            },
            (Slice::Base(part), Some(base)) => {
                let bytes = read_version(handle, base, part).await?;
                if bytes.len() as u64 != part.len() {
                    return Err(Moved::On);
                }
                joined.extend_from_slice(&bytes);
            }
            (Slice::Base(_), None) => return Err(Moved::On),
            (Slice::Copied(run), _) => {
                let bytes = read_version(handle, &run.version, run.source()).await?;
                joined.extend_from_slice(&bytes);
            }
            (Slice::Sent(_), _) => return Err(Moved::IntoUpload),
            (Slice::Hole(part), _) => {
                let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
                joined.resize(joined.len() + len, 0);
            }
        }
    }
    Ok(joined.freeze())
}
