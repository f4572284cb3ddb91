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

/// Staged files that a mount which died had promised to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leftover {
    /// Staged files whose close() had not returned 0.
    pub files: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Slot {
    /// Locks the first free slot of `volume` below `journal_dir`, making folders as needed (mode
    /// 0700: the files are other people's bytes), and with it every other slot that a mount left
    /// and nobody holds.
    ///
    /// # Errors
    /// The disk's, when a folder or lock file cannot be made.
    pub fn acquire(journal_dir: &Path, volume: &str) -> io::Result<(Self, Vec<Self>)> {
        let volume = journal_dir.join("journal").join(volume);
        let mut slots = Vec::new();
        for number in 0..SLOTS_MAX {
            let folder = volume.join(number.to_string());
            // Slots are made in order, so behind the first that is missing there is none.
            if !slots.is_empty() && !folder.exists() {
                break;
            }
            slots.extend(Self::lock(folder)?);
        }
        let mut slots = slots.into_iter();
        match slots.next() {
            Some(own) => Ok((own, slots.collect())),
            None => {
                let said = format!("all {SLOTS_MAX} slots of {} are taken", volume.display());
                Err(io::Error::other(said))
            }
        }
    }

    /// Locks one slot; none where a live mount holds it.
    fn lock(folder: PathBuf) -> io::Result<Option<Self>> {
        create_private(&folder)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self { folder, _lock: lock })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Where the mount's staged files and its log lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_live_mounts_never_share_a_slot() {
        let root = tempfile::tempdir().unwrap();
        let (first, _) = Slot::acquire(root.path(), "v").unwrap();
        let (second, others) = Slot::acquire(root.path(), "v").unwrap();
        assert_ne!(first.folder(), second.folder());
        assert!(others.is_empty());
        let freed = first.folder().to_owned();
        drop(first);
        let (third, _) = Slot::acquire(root.path(), "v").unwrap();
        assert_eq!(third.folder(), freed);
    }

    #[test]
    fn a_mount_takes_over_every_slot_that_nobody_holds() {
        let root = tempfile::tempdir().unwrap();
        let (first, _) = Slot::acquire(root.path(), "v").unwrap();
        let (second, _) = Slot::acquire(root.path(), "v").unwrap();
        let (third, _) = Slot::acquire(root.path(), "v").unwrap();
        let folders = [first.folder().to_owned(), third.folder().to_owned()];
        drop((first, third));
        let (own, others) = Slot::acquire(root.path(), "v").unwrap();
        assert_eq!(own.folder(), folders[0]);
        assert_eq!(others.iter().map(Slot::folder).collect::<Vec<_>>(), [&folders[1]]);
        drop(second);
    }
}
