//! What the pod's own containers know of each other's end, by the volume that they share.
//!
//! Where a pod has no grace left, kubelet tells all of them at once, and one that is just being
//! started may not hear it. Owns a lock, which a server holds as long as it lives, another one,
//! which the janitor holds until it is told to end, and a mark, which it leaves behind. Promises:
//! once the janitor has gone, no server mounts; who is killed holds nothing. Must not know mounts.

use std::fs::{self, File};
use std::io;
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use s3pod::mount::Failure;

/// Nobody but root writes to the shared volume.
const MARK: &str = ".s3pod-ended";

/// Has a lock on it as long as a janitor will take away what a server leaves.
const JANITOR: &str = ".s3pod-janitor";

/// Root's alone: whoever may open a file may lock it.
const OWN: u32 = 0o600;

/// A server that ends asks for the janitor's lock, which takes it for a moment.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The file that the janitor of a volume has locked.
pub(super) fn janitor_of(volume: &Path) -> PathBuf {
    volume.join(JANITOR)
}

/// Says that a janitor is there, as long as the file is kept.
pub(super) fn attend(volume: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(OWN).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(janitor_of(volume))?;
    for _ in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_LOOKS),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another janitor is there already"))
}

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
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_janitor_is_seen_as_long_as_it_is_there_and_nobody_else_can_look_like_one() {
        let volume = tempfile::tempdir().unwrap();
        let volume = volume.path();
        let janitor = attend(volume).unwrap();
        let file = janitor_of(volume);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let seen = File::open(&file).unwrap();
        assert!(matches!(seen.try_lock_shared(), Err(fs::TryLockError::WouldBlock)));
        let second = attend(volume).unwrap_err().to_string();
        assert!(second.contains("another janitor"), "{second}");
        drop(janitor);
        seen.try_lock_shared().unwrap();
        drop(seen);
        drop(attend(volume).unwrap());
    }

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
