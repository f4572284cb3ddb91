//! Files that are handed to the kernel (FUSE passthrough).
//!
//! Owns the registrations: one per inode, kept until the last of its handles is released. Must not
//! know which files may be handed over.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fuser::{BackingId, Errno, FileHandle, FopenFlags, ReplyOpen};

use super::reply::{self, Answer};
use crate::cache::WholeFile;
use crate::vfs::{Fh, Ino, Opened, Vfs};

/// What the kernel reads by itself.
#[derive(Debug, Default)]
pub(super) struct Backings(Mutex<Registered>);

#[derive(Debug, Default)]
struct Registered {
    by_inode: HashMap<Ino, Weak<BackingId>>,
    by_handle: HashMap<Fh, (Ino, Arc<BackingId>)>,
}

impl Backings {
    /// Answers an OPEN: with the file that the kernel is to read, where there is one and it takes
    /// it.
    pub(super) fn opened(&self, reply: ReplyOpen, vfs: &Vfs, ino: Ino, answer: Answer<Opened>) {
        let opened = match answer {
            Ok(opened) => opened,
            Err(errno) => return reply.error(errno),
        };
        let (fh, flags) = (FileHandle(opened.fh.0), reply::open_flags(&opened));
        let Some(whole) = &opened.backing else { return reply.opened(fh, flags) };
        match self.register(&reply, ino, opened.fh, whole) {
            Ok(backing) => {
                tracing::debug!(ino = ino.0, "the kernel reads the file by itself");
                // No other flag goes with it: FOPEN_PASSTHROUGH_MASK, fs/fuse/iomode.c.
                reply.opened_passthrough(fh, FopenFlags::empty(), &backing);
            }
            Err(error) => {
                refused(vfs, &error);
                match vfs.read_here(opened.fh) {
                    Ok(()) => reply.opened(fh, flags),
                    Err(_) => reply.error(Errno::EIO),
                }
            }
        }
    }

    fn register(
        &self,
        reply: &ReplyOpen,
        ino: Ino,
        fh: Fh,
        whole: &WholeFile,
    ) -> io::Result<Arc<BackingId>> {
        // Held over the ioctl, so that there is never a second one for an inode.
        let mut registered = self.registered();
        let backing = match registered.by_inode.get(&ino).and_then(Weak::upgrade) {
            Some(backing) => backing,
            None => Arc::new(reply.open_backing(whole.file())?),
        };
        registered.by_inode.insert(ino, Arc::downgrade(&backing));
        registered.by_handle.insert(fh, (ino, Arc::clone(&backing)));
        Ok(backing)
    }

    /// The handle was released; the registration goes with the last of an inode's.
    pub(super) fn released(&self, fh: Fh) {
        let mut registered = self.registered();
        let Some((ino, backing)) = registered.by_handle.remove(&fh) else { return };
        drop(backing);
        if registered.by_inode.get(&ino).is_some_and(|backing| backing.strong_count() == 0) {
            registered.by_inode.remove(&ino);
        }
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
