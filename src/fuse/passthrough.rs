//! Files that are handed to the kernel (FUSE passthrough).
//!
//! Owns the registrations: one per inode, kept until the last of its handles is released, made by
//! this process or, where it may not, by whoever does it for it. Must not know which files may be
//! handed over.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use fuser::{BackingId, Errno, FileHandle, FopenFlags, ReplyOpen};
use tokio::sync::OnceCell;

use super::registrar::Registrar;
use super::reply::{self, Answer};
use crate::cache::WholeFile;
use crate::vfs::{Fh, Ino, Opened, Vfs};

/// Of the requests to /dev/fuse itself: FUSE_DEV_IOC_MAGIC and FUSE_DEV_IOC_BACKING_CLOSE of
/// linux/fuse.h.
const DEVICE_MAGIC: u8 = 229;
const BACKING_CLOSE: u8 = 2;

/// What the kernel reads by itself.
#[derive(Debug, Default)]
pub(super) struct Backings {
    registered: Mutex<Registered>,
    /// Who does it for a process that may not.
    registrar: OnceLock<Arc<dyn Registrar>>,
}

#[derive(Debug, Default)]
struct Registered {
    by_inode: HashMap<Ino, Weak<Slot>>,
    by_handle: HashMap<Fh, (Ino, Arc<Slot>)>,
}

/// An inode's one registration, for as long as one of its handles is open. What was refused stays
/// so: an inode is read in one way at a time.
type Slot = OnceCell<Option<Backing>>;

#[derive(Debug)]
enum Backing {
    Own(BackingId),
    Brokered { number: u32, registrar: Arc<dyn Registrar> },
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Self::Brokered { number, registrar } = self {
            registrar.unregister(*number);
        }
    }
}

impl Backings {
    /// From now on files are registered by somebody else.
    pub(super) fn use_registrar(&self, registrar: Arc<dyn Registrar>) {
        // A connection begins once.
        let _ = self.registrar.set(registrar);
    }

    /// Answers an OPEN: with the file that the kernel is to read, where there is one and it takes
    /// it. Inside the runtime's context.
    pub(super) fn opened(
        self: &Arc<Self>,
        reply: ReplyOpen,
        vfs: &Vfs,
        ino: Ino,
        answer: Answer<Opened>,
    ) {
        let opened = match answer {
            Ok(opened) => opened,
            Err(errno) => return reply.error(errno),
        };
        let Some(whole) = opened.backing.clone() else {
            return reply.opened(FileHandle(opened.fh.0), reply::open_flags(&opened));
        };
        let slot = self.slot(ino, opened.fh);
        let Some(registrar) = self.registrar.get().cloned() else {
            self.register_here(&slot, || ask_kernel(&reply, vfs, &whole));
            return send(reply, vfs, &opened, slot.get().and_then(Option::as_ref));
        };
        let vfs = vfs.clone();
        // It waits for an answer, which a thread that reads requests must not.
        tokio::spawn(async move {
            let ask = || async { ask(&registrar, &whole).await };
            let backing = slot.get_or_init(ask).await;
            send(reply, &vfs, &opened, backing.as_ref());
        });
    }

    /// Fills a slot that is empty. The lock is held over the call, so that there is never a second
    /// registration of an inode.
    fn register_here(&self, slot: &Slot, ask: impl FnOnce() -> Option<Backing>) {
        let _alone = self.registered();
        if !slot.initialized() {
            // It was looked at under the lock.
            let _ = slot.set(ask());
        }
    }

    fn slot(&self, ino: Ino, fh: Fh) -> Arc<Slot> {
        let mut registered = self.registered();
        let known = registered.by_inode.get(&ino).and_then(Weak::upgrade);
        let slot = known.unwrap_or_default();
        registered.by_inode.insert(ino, Arc::downgrade(&slot));
        registered.by_handle.insert(fh, (ino, Arc::clone(&slot)));
        slot
    }

    /// The handle was released; the registration goes with the last of an inode's.
    pub(super) fn released(&self, fh: Fh) {
        let mut registered = self.registered();
        let Some((ino, slot)) = registered.by_handle.remove(&fh) else { return };
        drop(slot);
        if registered.by_inode.get(&ino).is_some_and(|slot| slot.strong_count() == 0) {
            registered.by_inode.remove(&ino);
        }
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By this process's own privilege.
fn ask_kernel(reply: &ReplyOpen, vfs: &Vfs, whole: &WholeFile) -> Option<Backing> {
    match reply.open_backing(whole.file()) {
        Ok(backing) => Some(Backing::Own(backing)),
        Err(error) => {
            refused(vfs, &error);
            None
        }
    }
}

/// By somebody else's.
async fn ask(registrar: &Arc<dyn Registrar>, whole: &WholeFile) -> Option<Backing> {
    match registrar.register(whole.file()).await {
        Ok(number) => Some(Backing::Brokered { number, registrar: Arc::clone(registrar) }),
        Err(error) => {
            tracing::debug!(%error, "nobody registered a cached file with the kernel");
            None
        }
    }
}

/// Answers an OPEN that is to read from a whole file: so where it is registered.
fn send(reply: ReplyOpen, vfs: &Vfs, opened: &Opened, backing: Option<&Backing>) {
    let fh = FileHandle(opened.fh.0);
    let Some(backing) = backing else {
        return match vfs.read_here(opened.fh) {
            Ok(()) => reply.opened(fh, reply::open_flags(opened)),
            Err(_) => reply.error(Errno::EIO),
        };
    };
    tracing::debug!(fh = opened.fh.0, "the kernel reads the file by itself");
    // No other flag goes with it: FOPEN_PASSTHROUGH_MASK, fs/fuse/iomode.c.
    match backing {
        Backing::Own(backing) => reply.opened_passthrough(fh, FopenFlags::empty(), backing),
        Backing::Brokered { number, .. } => {
            // SAFETY: the number is a registration on this very connection, and stays one: the
            // slot takes it back when the last handle is released, and the wrapper does not.
            #[expect(unsafe_code, reason = "fuser cannot know who registered a number")]
            let wrapped = unsafe { reply.wrap_backing(*number) };
            reply.opened_passthrough(fh, FopenFlags::empty(), &wrapped);
            let _ = wrapped.into_raw();
        }
    }
}

nix::ioctl_write_ptr!(backing_close, DEVICE_MAGIC, BACKING_CLOSE, u32);

/// Takes a registration back.
pub(super) fn close_backing(device: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    // SAFETY: the kernel reads four bytes at the pointer, which a reference to a u32 has.
    #[expect(unsafe_code, reason = "fuser closes only what it has opened itself")]
    unsafe { backing_close(device.as_raw_fd(), &raw const number) }?;
    Ok(())
}

/// Without CAP_SYS_ADMIN in the first user namespace every file is refused; a cache on a stacked
/// file system (overlayfs) is too deep.
fn refused(vfs: &Vfs, error: &io::Error) {
    let is_final = matches!(
        error.raw_os_error(),
        Some(nix::libc::EPERM | nix::libc::EOPNOTSUPP | nix::libc::ENOTTY | nix::libc::ELOOP)
    );
    if is_final {
        tracing::info!(%error, "the kernel takes no cached files here: they are read by s3pod");
        vfs.without_passthrough();
    } else {
        tracing::debug!(%error, "the kernel did not take a cached file");
    }
}
