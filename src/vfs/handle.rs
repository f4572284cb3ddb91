//! Open files: OPEN and RELEASE, and the table of handles.
//!
//! Owns what one open file description knows: how it was opened, how it reads, and the last
//! change made through it that may not be in S3. Must not know how bytes are found or sent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attr::{Fh, FileKind, Ino, OpenFlags, Opened};
use super::commit::Cause;
use super::inode::Inode;
use super::passthrough::may_pass;
use super::readdir::Listing;
use super::{Error, Result, Vfs};
use crate::read::Reader;
use crate::store::ErrorKind;
use crate::write::Staged;

/// One open file description, with all its dups.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) inode: Arc<Inode>,
    pub(super) flags: OpenFlags,
    pub(super) reader: Reader,
    /// The epoch of the last change made through this handle; 0 for none.
    last_change: AtomicU64,
    /// The kernel reads it by itself.
    pub(super) is_backed: AtomicBool,
}

impl Handle {
    /// Notes a change made through this handle.
    pub(super) fn changed(&self, epoch: u64) {
        self.last_change.fetch_max(epoch, Ordering::Relaxed);
    }

    /// True where a change made through this handle is neither in S3 nor promised.
    pub(super) fn is_dirty(&self) -> bool {
        let kept = |staged: Arc<Staged>| staged.committed_epoch().max(staged.promised_epoch());
        let committed = self.inode.staged().map(kept);
        committed.is_some_and(|epoch| self.last_change.load(Ordering::Relaxed) > epoch)
    }
}

/// The open files and directories of a mount. Numbers count up and are never pointers.
#[derive(Debug, Default)]
pub(super) struct Handles {
    files: Mutex<HashMap<Fh, Arc<Handle>>>,
    listings: Mutex<HashMap<Fh, Arc<Listing>>>,
    last: AtomicU64,
}

impl Handles {
    fn number(&self) -> Fh {
        Fh(self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Fh, Arc<Handle>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listings(&self) -> MutexGuard<'_, HashMap<Fh, Arc<Listing>>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_listing(&self, listing: Listing) -> Fh {
        let fh = self.number();
        self.listings().insert(fh, Arc::new(listing));
        fh
    }

    pub(super) fn listing(&self, fh: Fh) -> Result<Arc<Listing>> {
        self.listings().get(&fh).cloned().ok_or(Error::BadHandle)
    }

    pub(super) fn remove_listing(&self, fh: Fh) {
        self.listings().remove(&fh);
    }
}

impl Vfs {
    /// Opens a file. Opening asks the store where the TTL is over, and for a file to be written
    /// also for what of it must survive.
    ///
    /// # Errors
    /// [`Error::Stale`] where the name stands for another object by now: the kernel looks it up
    /// and opens again. [`Error::ReadOnly`]; the store's.
    pub async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let inode = self.inode(ino)?;
        if flags.write || flags.truncate {
            self.check_writable()?;
        }
        if inode.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        if flags.truncate && inode.state().executions > 0 {
            // With FUSE_ATOMIC_O_TRUNC the kernel looks only when the file is cut already.
            return Err(Error::Executed);
        }
        let is_read = flags.read && !flags.truncate;
        self.note_open(&inode);
        self.revalidate_for(&inode, is_read).await?;
        if !may_pass(flags) {
            self.before_change(&inode).await?;
        }
        if flags.write || flags.truncate {
            self.learn_to_write(&inode).await?;
        }
        let opened = self.add_handle(&inode, flags)?;
        if flags.truncate
            && let Err(error) = self.empty(&inode).await
        {
            self.drop_handle(opened.fh);
            return Err(error);
        }
        Ok(opened)
    }

    /// Registers a handle on an inode.
    ///
    /// # Errors
    /// [`Error::Stale`] where the file was unlinked meanwhile and nobody has it open: its object
    /// is going.
    pub(super) fn add_handle(&self, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Opened> {
        {
            let mut table = self.table();
            if inode.state().unlinked && table.opens(inode.ino) == 0 {
                return Err(Error::Stale);
            }
            table.opened(inode.ino);
        }
        self.expect(inode);
        let backing = match self.open_way(inode, flags) {
            Ok(backing) => backing,
            Err(error) => {
                self.table().closed(inode.ino);
                return Err(error);
            }
        };
        inode.state().executions += u32::from(flags.execute);
        let reader = Reader::new(self.0.cache.clone(), self.settings().window_max);
        let handle = Handle {
            inode: Arc::clone(inode),
            flags,
            reader,
            last_change: AtomicU64::new(0),
            is_backed: AtomicBool::new(backing.is_some()),
        };
        let fh = self.0.handles.number();
        self.0.handles.files().insert(fh, Arc::new(handle));
        // The kernel's pages belong to the inode, and an inode is one version plus this mount's
        // own changes, which went through those pages.
        Ok(Opened { fh, keep_cache: true, backing })
    }

    /// Has what is read of the inode compared with what the store keeps of it, where that is known.
    fn expect(&self, inode: &Inode) {
        let state = inode.state();
        if let (Some(version), Some(checksum)) = (&state.version, state.checksum) {
            self.0.cache.expect(version, checksum);
        }
    }

    fn drop_handle(&self, fh: Fh) -> Option<(Arc<Handle>, u64)> {
        let handle = self.0.handles.files().remove(&fh)?;
        handle.inode.state().executions -= u32::from(handle.flags.execute);
        Self::close_way(&handle.inode, handle.is_backed.load(Ordering::Relaxed));
        let still_open = self.table().closed(handle.inode.ino);
        Some((handle, still_open))
    }

    pub(super) fn handle(&self, fh: Fh) -> Result<Arc<Handle>> {
        let handle = self.0.handles.files().get(&fh).cloned().ok_or(Error::BadHandle)?;
        if handle.inode.state().detached { Err(Error::Stale) } else { Ok(handle) }
    }

    /// O_TRUNC: the file is empty now, and in S3 with the first write that follows, at the last
    /// close, or after a moment.
    async fn empty(&self, inode: &Arc<Inode>) -> Result<()> {
        self.resize(inode, 0, None).await?;
        self.commit_empty_later(inode);
        Ok(())
    }

    /// Commits the inode after a moment if it is still empty and nobody else has; again and again
    /// while that fails. What is written meanwhile goes with whoever closes the file, whole.
    pub(super) fn commit_empty_later(&self, inode: &Arc<Inode>) {
        let (core, inode) = (Arc::downgrade(&self.0), Arc::downgrade(inode));
        let mut delay = self.settings().empty_delay;
        self.0.tasks.spawn(async move {
            loop {
                tokio::time::sleep(delay).await;
                let (Some(core), Some(inode)) = (core.upgrade(), inode.upgrade()) else { return };
                let is_empty = inode.staged().is_some_and(|staged| staged.size() == 0);
                let vfs = Self(core);
                if !inode.is_dirty() || !is_empty || vfs.commit_empty(&inode).await.is_ok() {
                    return;
                }
                delay = vfs.settings().retry_delay;
            }
        });
    }

    async fn commit_empty(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.settings().write_back && self.promise_empty(inode).await.is_ok() {
            return Ok(());
        }
        self.try_in_background(inode, Cause::Empty).await
    }

    /// Closes a file: what is not in S3 yet is committed, and an unlinked file's object goes.
    ///
    /// # Errors
    /// None that anybody waits for; a failed commit is logged, stays staged and is tried again.
    pub async fn release(&self, fh: Fh) -> Result<()> {
        let Some((handle, still_open)) = self.drop_handle(fh) else { return Err(Error::BadHandle) };
        let inode = &handle.inode;
        if handle.flags.write && inode.is_dirty() {
            self.commit_in_background(inode).await;
        }
        if still_open == 0 {
            self.last_close(inode).await;
        }
        Ok(())
    }

    async fn last_close(&self, inode: &Arc<Inode>) {
        self.delete_doomed(Some(inode.ino)).await;
        self.let_go(inode);
        self.table().collect(inode.ino);
    }

    /// Reads what must survive a commit over the object, where a listing was all that was seen.
    pub(super) async fn learn_properties(&self, inode: &Arc<Inode>) -> Result<()> {
        self.learn(inode).await?;
        let Some(version) = inode.state().version.clone() else { return Ok(()) };
        if inode.state().properties.is_none() {
            let head = self.0.store.head(&version.key).await?;
            if !head.version.is_same(&version) {
                self.table().lose(inode.ino);
                return Err(Error::Stale);
            }
            let mut state = inode.state();
            state.tags_unread = head.tag_count > 0;
            state.checksum = head.checksum;
            state.properties = Some(head.properties);
        }
        self.learn_tags(inode).await
    }

    /// The same before a change of bytes, which is refused where no commit could carry what the
    /// object has besides ours.
    ///
    /// # Errors
    /// [`Error::AttributesTooBig`], the store's.
    pub(super) async fn learn_to_write(&self, inode: &Arc<Inode>) -> Result<()> {
        self.learn_properties(inode).await?;
        let fits = inode.state().attributes_may_fit(inode.kind, self.settings());
        if fits { Ok(()) } else { Err(Error::AttributesTooBig) }
    }

    /// Reads the tags that an object is known to have, of which its head tells only the number.
    pub(super) async fn learn_tags(&self, inode: &Arc<Inode>) -> Result<()> {
        let version = {
            let state = inode.state();
            state.version.clone().filter(|_| state.tags_unread)
        };
        let Some(version) = version else { return Ok(()) };
        let tags = match self.0.store.tags(&version).await {
            Ok(tags) => tags,
            // Another client has taken it away, which the condition of the commit will find.
            Err(error) if error.is_not_found() => return Ok(()),
            // Losing tags that may not be read would be worse than not writing.
            Err(error) if *error.kind() == ErrorKind::Unsupported => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let mut state = inode.state();
        if let Some(properties) = &mut state.properties {
            properties.tags = tags;
        }
        state.tags_unread = false;
        Ok(())
    }
}
