//! What the pod's own containers know of each other's end, by the volume that they share.
//!
//! Where a pod has no grace left, kubelet tells all of them at once, and one that is just being
//! started may not hear it. Owns a lock, which a server holds as long as it lives, and a mark,
//! which the janitor leaves behind. Promises: once the janitor has gone, no server mounts; a
//! server that is killed holds nothing. Must not know mounts.

use std::fs::{self, File};
use std::io;
use std::os::fd::IntoRawFd as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use s3pod::mount::Failure;

/// Nobody but root writes to the shared volume.
const MARK: &str = ".s3pod-ended";

/// Says that a server begins, until this process ends, whatever program it is by then.
pub(super) fn begin(volume: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::passing(format!("{} cannot be locked: {error}", volume.display()))
    };
    let lock = enter(volume).map_err(failed)?.ok_or_else(|| {
        Failure::passing("the pod is ending and its janitor has gone, so nothing is mounted")
    })?;
    fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|errno| failed(errno.into()))?;
    // Closed with the process.
    let _lasting = lock.into_raw_fd();
    Ok(())
}

/// A server's lock; none where the janitor has gone.
fn enter(volume: &Path) -> io::Result<Option<File>> {
    let folder = File::open(volume)?;
    folder.lock_shared()?;
    Ok(fs::symlink_metadata(volume.join(MARK)).is_err().then_some(folder))
}

/// Takes back what an earlier janitor left that was started anew.
pub(super) fn reopen(volume: &Path) -> io::Result<()> {
    match fs::remove_file(volume.join(MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lets no server begin from here on; false while one lives.
pub(super) fn close(volume: &Path) -> io::Result<bool> {
    let folder = File::open(volume)?;
    match folder.try_lock() {
        Ok(()) => File::create(volume.join(MARK)).map(|_| true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_waits_for_who_has_begun_and_lets_nobody_begin_after_it() {
        let volume = tempfile::tempdir().unwrap();
        let volume = volume.path();
        let servers = [enter(volume).unwrap(), enter(volume).unwrap()];
        assert!(servers.iter().all(Option::is_some), "there may be several");
        assert!(!close(volume).unwrap());
        drop(servers);
        assert!(close(volume).unwrap());
        assert!(enter(volume).unwrap().is_none());
        let said = begin(volume).unwrap_err().to_string();
        assert!(said.contains("the pod is ending"), "{said}");
        reopen(volume).unwrap();
        reopen(volume).unwrap();
        assert!(enter(volume).unwrap().is_some());
    }
}
