//! One mount's place in the journal.
//!
//! Owns the folder's layout and its lock. Must not know what the files in it mean.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Slots tried before the folder is called full: far beyond the mounts one machine can serve.
const SLOTS_MAX: u32 = 1024;

/// A locked slot; the lock goes with the value or with the process, however it ends.
#[derive(Debug)]
pub struct Slot {
    folder: PathBuf,
    _lock: Flock<File>,
}

/// What a mount that died left in the slot this one took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leftover {
    /// Staged files whose close() had not returned 0.
    pub files: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Slot {
    /// Locks the first free slot of `volume` below `cache_dir`, making folders as needed (mode
    /// 0700: the files are other people's bytes).
    ///
    /// # Errors
    /// The disk's, when a folder or lock file cannot be made.
    pub fn acquire(cache_dir: &Path, volume: &str) -> io::Result<(Self, Leftover)> {
        let volume = cache_dir.join("journal").join(volume);
        for number in 0..SLOTS_MAX {
            let folder = volume.join(number.to_string());
            create_private(&folder)?;
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join("lock"))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    let leftover = clear(&folder)?;
                    return Ok((Self { folder, _lock: lock }, leftover));
                }
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => return Err(errno.into()),
            }
        }
        Err(io::Error::other(format!("all {SLOTS_MAX} slots of {} are taken", volume.display())))
    }

    /// Where the mount's staged files lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Removes staged files that a dead mount left: no close() or fsync() of theirs had returned 0, or
/// they would have been committed and removed.
fn clear(folder: &Path) -> io::Result<Leftover> {
    use std::os::unix::fs::MetadataExt;
    let mut leftover = Leftover::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "stage") {
            leftover.files += 1;
            leftover.bytes += entry.metadata()?.blocks() * 512;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(leftover)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_live_mounts_never_share_a_slot() {
        let root = tempfile::tempdir().unwrap();
        let (first, _) = Slot::acquire(root.path(), "v").unwrap();
        let (second, _) = Slot::acquire(root.path(), "v").unwrap();
        assert_ne!(first.folder(), second.folder());
        let freed = first.folder().to_owned();
        fs::write(freed.join("7.stage"), b"never acknowledged").unwrap();
        drop(first);
        let (third, leftover) = Slot::acquire(root.path(), "v").unwrap();
        assert_eq!(third.folder(), freed);
        assert_eq!(leftover.files, 1);
        assert!(!freed.join("7.stage").exists());
    }
}
