//! The cache's folder: where a version's files lie.
//!
//! Owns names, fan-out, permissions, and how files are opened, removed and counted. Promises: what
//! is not a regular file under a name of ours is never read, followed or waited for, and nothing
//! under another name is touched. Must not know what is in the files.
//!
//! ```text
//!   cache/<format>/<h>/<h>/<id>.meta      head and records
//!                          <id>.partial   the object, with holes
//!                          <id>.whole     the object, complete
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::format::{FORMAT, Id};
use crate::clock::Clock;

/// Folders that hold files: two levels of one hexadecimal digit. A million versions are 8 000
/// files in each, which every file system looks up at once, and few versions are few folders to
/// walk.
pub(super) const LEAVES: u16 = 256;

/// A file without its counterpart is being made by somebody, unless it is older than this.
const ORPHAN_AGE: Duration = Duration::from_secs(60);

/// Which of a version's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Meta,
    Partial,
    Whole,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Meta, Self::Partial, Self::Whole];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Partial => "partial",
            Self::Whole => "whole",
        }
    }
}

/// A version that a census found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: Id,
    /// Allocated bytes of its files.
    pub(super) bytes: u64,
}

/// The folder of all mounts that share a cache folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The cache's folder below `cache_dir`, made where it is missing, for this user alone; proves
    /// that a file can be written to it.
    pub(super) fn create(cache_dir: &Path) -> io::Result<Self> {
        let root = cache_dir.join("cache").join(FORMAT);
        private().create(&root)?;
        tempfile::tempfile_in(&root)?;
        Ok(Self { root })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    /// Where a version's file is, if it is there.
    pub(super) fn path_of(&self, id: Id, kind: Kind) -> PathBuf {
        self.leaf(u16::from(id.0[0])).join(format!("{id}.{}", kind.suffix()))
    }

    /// Opens a file; none where there is none.
    pub(super) fn open(&self, id: Id, kind: Kind, write: bool) -> io::Result<Option<File>> {
        // Never waits for the other end of a FIFO that somebody has put there.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let opened = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags)
            .open(self.path_of(id, kind));
        match opened {
            Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
            Ok(_) => Err(io::Error::other("not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a file that is not there yet, for this user alone.
    pub(super) fn create_file(&self, id: Id, kind: Kind) -> io::Result<File> {
        let path = self.path_of(id, kind);
        let create =
            || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private().create(self.leaf(u16::from(id.0[0])))?;
                create()
            }
            created => created,
        }
    }

    /// Gives a file its other name.
    pub(super) fn rename(&self, id: Id, from: Kind, to: Kind) -> io::Result<()> {
        fs::rename(self.path_of(id, from), self.path_of(id, to))
    }

    /// Removes a version's files, the metadata first, so that no crash leaves records without
    /// their bytes. Who has them open goes on reading.
    pub(super) fn remove(&self, id: Id) -> io::Result<()> {
        for kind in Kind::ALL {
            match fs::remove_file(self.path_of(id, kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The versions in one of the [`LEAVES`] folders. What a crash left of one is removed.
    pub(super) fn census(&self, leaf: u16) -> io::Result<Vec<Found>> {
        let entries = match fs::read_dir(self.leaf(leaf)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut versions: BTreeMap<Id, Seen> = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let Some((id, kind)) = entry.file_name().to_str().and_then(parse) else { continue };
            // Gone meanwhile is gone.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && u16::from(id.0[0]) == leaf {
                versions.entry(id).or_default().add(kind, &metadata);
            }
        }
        let complete = |(id, seen): (Id, Seen)| {
            if seen.is_orphan() {
                // It is nobody's: if this fails, the next census tries again.
                let _ = self.remove(id);
                return None;
            }
            Some(Found { id, bytes: seen.bytes })
        };
        Ok(versions.into_iter().filter_map(complete).collect())
    }

    /// Bytes that this user may still write to the file system.
    pub(super) fn free(&self) -> io::Result<u64> {
        let space = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(space.blocks_available().saturating_mul(space.fragment_size()))
    }

    fn leaf(&self, number: u16) -> PathBuf {
        let (first, second) = (number >> 4 & 0xf, number & 0xf);
        self.root.join(format!("{first:x}")).join(format!("{second:x}"))
    }
}

/// What a census sees of one version.
#[derive(Default)]
struct Seen {
    bytes: u64,
    has_meta: bool,
    has_data: bool,
    youngest: Duration,
}

impl Seen {
    fn add(&mut self, kind: Kind, metadata: &fs::Metadata) {
        self.bytes += allocated(metadata);
        match kind {
            Kind::Meta => self.has_meta = true,
            Kind::Partial | Kind::Whole => self.has_data = true,
        }
        let changed = Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
        self.youngest = self.youngest.max(changed);
    }

    fn is_orphan(&self) -> bool {
        let now = Clock::system().wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        !(self.has_meta && self.has_data) && self.youngest + ORPHAN_AGE < now
    }
}

/// Bytes that a file takes on disk.
pub(super) fn allocated(metadata: &fs::Metadata) -> u64 {
    // st_blocks counts 512 bytes whatever the file system's blocks are.
    metadata.blocks() * 512
}

/// True for a failure that says nothing of the file: the process or the machine was short of
/// something, or was interrupted.
pub(super) fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EAGAIN, Errno::EINTR];
    passing.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn parse(name: &str) -> Option<(Id, Kind)> {
    let (id, suffix) = name.split_once('.')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.suffix() == suffix)?;
    Some((Id::parse(id)?, kind))
}

fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const ID: Id = Id([0xa7; 16]);

    #[test]
    fn files_are_for_their_user_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path()).unwrap();
        let file = folder.create_file(ID, Kind::Partial).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let path = folder.path_of(ID, Kind::Partial);
        assert_eq!(
            path.strip_prefix(root.path()).unwrap().to_str().unwrap(),
            format!("cache/1/a/7/{ID}.partial")
        );
        for above in path.ancestors().skip(1).take_while(|above| *above != root.path()) {
            assert_eq!(fs::metadata(above).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn what_is_no_file_of_ours_is_not_read_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path()).unwrap();
        drop(folder.create_file(ID, Kind::Meta).unwrap());
        drop(folder.create_file(ID, Kind::Whole).unwrap());
        let leaf = folder.leaf(0xa7);
        std::os::unix::fs::symlink("/etc/passwd", folder.path_of(ID, Kind::Partial)).unwrap();
        fs::write(leaf.join("notes.txt"), "mine").unwrap();
        fs::create_dir(
            leaf.join(format!("{}.meta", Id([0xa7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]))),
        )
        .unwrap();
        assert!(folder.open(ID, Kind::Partial, false).is_err());
        assert_eq!(folder.census(0xa7).unwrap(), [Found { id: ID, bytes: 0 }]);
        nix::unistd::mkfifo(
            &folder.path_of(Id([0; 16]), Kind::Meta),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap_err();
        fs::create_dir_all(folder.leaf(0)).unwrap();
        nix::unistd::mkfifo(
            &folder.path_of(Id([0; 16]), Kind::Meta),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        assert!(folder.open(Id([0; 16]), Kind::Meta, false).is_err());
        assert_eq!(fs::read_dir(leaf).unwrap().count(), 5);
    }

    #[test]
    fn half_a_version_goes_once_nobody_can_be_making_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path()).unwrap();
        drop(folder.create_file(ID, Kind::Partial).unwrap());
        assert_eq!(folder.census(0xa7).unwrap().len(), 1, "it is being made");
        let old = Seen { bytes: 0, has_meta: false, has_data: true, youngest: Duration::ZERO };
        assert!(old.is_orphan());
        assert!(!Seen { has_meta: true, ..old }.is_orphan());
    }
}
