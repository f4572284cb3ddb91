//! The staging file of one inode: what is not in S3 yet.
//!
//! Owns a sparse local file and the account of which of its bytes count: `dirty` ones that S3
//! does not have, `present` ones that equal the file's content (dirty, or brought from the base).
//! Everything else is the base version's, up to where it was last truncated, or a hole. Must not
//! know uploads, keys or the store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::extents::Extents;
use crate::store::Version;
use crate::units::ByteRange;

/// Unanswered commits of one file that are remembered. Each took the operation timeout, so an
/// older one than these arrives no more.
const UNKNOWN_MAX: usize = 8;

/// Where staging files lie, and their quota.
#[derive(Debug)]
pub struct Staging {
    /// None keeps them in memory.
    folder: Option<PathBuf>,
    quota: u64,
    used: AtomicU64,
    next: AtomicU64,
    /// Counts every change of every file, so that the stages of one inode, one after the other,
    /// never give the same epoch twice.
    epochs: AtomicU64,
}

impl Staging {
    /// Staging files in `folder`, or in memory where there is none, at most `quota` bytes
    /// together.
    pub fn new(folder: Option<&Path>, quota: u64) -> Arc<Self> {
        let (used, next, epochs) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { folder: folder.map(Path::to_owned), quota, used, next, epochs })
    }

    fn create(&self) -> io::Result<(File, Option<PathBuf>)> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("{number}.stage");
            let Some(folder) = &self.folder else {
                let memory = memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC)?;
                return Ok((File::from(memory), None));
            };
            let path = folder.join(name);
            match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((file, Some(path))),
                // An earlier mount's, whose commit is being taken up.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The quota in bytes.
    pub const fn quota(&self) -> u64 {
        self.quota
    }

    /// Bytes staged by all files together.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Charges what is there already.
    fn charge_whatever(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn charge(&self, bytes: u64) -> bool {
        let within = |used: u64| used.checked_add(bytes).filter(|&total| total <= self.quota);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    fn refund(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Where a byte of a staged file is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// In the staging file.
    Dirty(ByteRange),
    /// In the base version, at the same offset.
    Base(ByteRange),
    /// Nowhere: zeros.
    Hole(ByteRange),
}

/// Why bytes were not staged.
#[derive(Debug)]
pub(super) enum StageError {
    Full,
    Disk(io::Error),
}

/// One inode's staging file; removed when dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Stage {
    file: Arc<File>,
    path: Option<PathBuf>,
    staging: Arc<Staging>,
    account: Mutex<Account>,
    /// The journal speaks of the file: it outlives this process.
    is_kept: AtomicBool,
}

/// What the bytes of the file are.
#[derive(Debug, Clone)]
pub(super) struct Account {
    /// The file's size in bytes.
    pub(super) size: u64,
    /// The version underneath.
    pub(super) base: Option<Arc<Version>>,
    /// Bytes of the base that are still the file's: its size, or less after a truncate.
    pub(super) base_len: u64,
    /// Bytes S3 does not have.
    pub(super) dirty: Extents,
    /// Bytes of the staging file that equal the file's content.
    pub(super) present: Extents,
    /// The number of the last change; grows with each.
    pub(super) epoch: u64,
    /// The epoch that S3 has.
    pub(super) committed: u64,
    /// Ids of commits that were sent and never answered: any of them may still arrive.
    pub(super) unknown: Vec<String>,
}

impl Account {
    /// Bytes that are neither dirty nor the base's: zeros that S3 does not have.
    pub(super) fn holes(&self) -> Extents {
        let mut holes = Extents::default();
        holes.insert(ByteRange::new(self.base_len.min(self.size), self.size));
        for range in self.dirty.iter() {
            holes.remove(range);
        }
        holes
    }
}

impl Stage {
    /// An empty staging file over `base`, all of whose bytes still count.
    pub(super) fn create(staging: &Arc<Staging>, base: Option<Arc<Version>>) -> io::Result<Self> {
        let (file, path) = staging.create()?;
        let size = base.as_ref().map_or(0, |base| base.size);
        file.set_len(size)?;
        let epoch = staging.next_epoch();
        let account = Account {
            size,
            base,
            base_len: size,
            dirty: Extents::default(),
            present: Extents::default(),
            epoch,
            committed: epoch,
            unknown: Vec::new(),
        };
        let (file, staging) = (Arc::new(file), Arc::clone(staging));
        let (account, is_kept) = (Mutex::new(account), AtomicBool::new(false));
        Ok(Self { file, path, staging, account, is_kept })
    }

    /// The staging file of an earlier process, as `account` says it was. All of it is dirty.
    pub(super) fn resume(
        staging: &Arc<Staging>,
        path: &Path,
        mut account: Account,
    ) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        // What was written behind the end since then was promised to nobody.
        file.set_len(account.size)?;
        staging.charge_whatever(account.present.total());
        (account.epoch, account.committed) = (staging.next_epoch(), 0);
        let (file, path, staging) = (Arc::new(file), Some(path.to_owned()), Arc::clone(staging));
        let (account, is_kept) = (Mutex::new(account), AtomicBool::new(true));
        Ok(Self { file, path, staging, account, is_kept })
    }

    /// Whether the file outlives this process.
    pub(super) fn keep(&self, is_kept: bool) {
        self.is_kept.store(is_kept, Ordering::Relaxed);
    }

    /// The file's name in its folder; none for one in memory.
    pub(super) fn name(&self) -> Option<&str> {
        self.path.as_deref()?.file_name()?.to_str()
    }

    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Where the file lies; none for one in memory.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stages bytes; the account changes only when they are in the file.
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StageError> {
        let range = ByteRange::at(offset, bytes.len() as u64);
        let mut account = self.account();
        self.store(&mut account, range, bytes)?;
        account.dirty.insert(range);
        account.size = account.size.max(range.end);
        account.epoch = self.staging.next_epoch();
        Ok(())
    }

    /// Brings bytes of the base into the file; they do not become dirty.
    pub(super) fn fill(&self, offset: u64, bytes: &[u8]) -> Result<(), StageError> {
        let range = ByteRange::at(offset, bytes.len() as u64);
        self.store(&mut self.account(), range, bytes)
    }

    fn store(
        &self,
        account: &mut Account,
        range: ByteRange,
        bytes: &[u8],
    ) -> Result<(), StageError> {
        let covered: u64 = account
            .present
            .slices(range)
            .iter()
            .filter(|(_, covered)| *covered)
            .map(|(slice, _)| slice.len())
            .sum();
        let fresh = range.len() - covered;
        if !self.staging.charge(fresh) {
            return Err(StageError::Full);
        }
        if let Err(error) = self.file.write_all_at(bytes, range.start) {
            self.staging.refund(fresh);
            return Err(StageError::Disk(error));
        }
        account.present.insert(range);
        Ok(())
    }

    /// Sets the size: bytes beyond it are gone, bytes up to it are zeros.
    pub(super) fn truncate(&self, size: u64) -> Result<(), StageError> {
        let mut account = self.account();
        self.file.set_len(size).map_err(StageError::Disk)?;
        let before = account.present.total();
        account.present.truncate(size);
        self.staging.refund(before - account.present.total());
        account.dirty.truncate(size);
        account.base_len = account.base_len.min(size);
        account.size = size;
        account.epoch = self.staging.next_epoch();
        Ok(())
    }

    /// Counts a change that has no bytes: the file is to exist.
    pub(super) fn touch(&self) {
        self.account().epoch = self.staging.next_epoch();
    }

    /// Where the bytes of `range`, cut to the size, are.
    pub(super) fn slices(&self, range: ByteRange) -> Vec<Slice> {
        self.view(range).1
    }

    /// The version underneath and where the bytes of `range` are, as of one moment: a commit in
    /// between would make one of them the other's future.
    pub(super) fn view(&self, range: ByteRange) -> (Option<Arc<Version>>, Vec<Slice>) {
        let account = self.account();
        let range = range.intersect(ByteRange::new(0, account.size));
        let base = ByteRange::new(0, account.base_len);
        let mut slices = Vec::new();
        for (part, covered) in account.present.slices(range) {
            if covered {
                slices.push(Slice::Dirty(part));
                continue;
            }
            let split = part.intersect(base);
            if !split.is_empty() {
                slices.push(Slice::Base(split));
            }
            let hole = ByteRange::new(part.start.max(account.base_len), part.end);
            if !hole.is_empty() {
                slices.push(Slice::Hole(hole));
            }
        }
        (account.base.clone(), slices)
    }

    /// Reads bytes that are present.
    pub(super) fn read(&self, range: ByteRange) -> io::Result<Bytes> {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    /// S3 has everything up to `epoch` as `version`; nothing changed since.
    pub(super) fn committed(&self, version: Arc<Version>, epoch: u64) {
        let mut account = self.account();
        account.base_len = version.size;
        account.base = Some(version);
        account.dirty = Extents::default();
        account.committed = epoch;
        account.unknown.clear();
    }

    /// The same bytes as those of the version underneath are `version` now.
    pub(super) fn rebase(&self, version: Arc<Version>) {
        let mut account = self.account();
        account.base_len = account.base_len.min(version.size);
        account.base = Some(version);
    }

    /// A commit was sent and not answered.
    pub(super) fn unanswered(&self, id: &str) {
        let mut account = self.account();
        if account.unknown.len() == UNKNOWN_MAX {
            account.unknown.remove(0);
        }
        account.unknown.push(id.to_owned());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let account = self.account.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.staging.refund(account.present.total());
        if let Some(path) = self.path.as_ref().filter(|_| !self.is_kept.load(Ordering::Relaxed)) {
            // Gone already where the bytes were moved for recovery.
            let _gone_already = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn version(size: u64) -> Arc<Version> {
        let (key, etag) = ("k".into(), Some("\"e\"".into()));
        Arc::new(Version {
            key,
            etag,
            version_id: None,
            size,
            last_modified: SystemTime::UNIX_EPOCH,
        })
    }

    fn r(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end)
    }

    #[test]
    fn a_write_hides_the_base_and_a_truncate_cuts_it() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(Some(folder.path()), 1 << 20);
        let stage = Stage::create(&staging, Some(version(100))).unwrap();
        stage.write_at(10, b"0123456789").unwrap();
        assert_eq!(
            stage.slices(r(0, 200)),
            [Slice::Base(r(0, 10)), Slice::Dirty(r(10, 20)), Slice::Base(r(20, 100))]
        );
        stage.truncate(15).unwrap();
        stage.truncate(50).unwrap();
        assert_eq!(
            stage.slices(r(0, 200)),
            [Slice::Base(r(0, 10)), Slice::Dirty(r(10, 15)), Slice::Hole(r(15, 50))]
        );
        assert_eq!(stage.account().holes().iter().collect::<Vec<_>>(), [r(15, 50)]);
        assert_eq!(&stage.read(r(10, 16)).unwrap()[..], b"01234\0");
        assert_eq!(staging.used(), 5);
    }

    #[test]
    fn the_quota_refuses_what_does_not_fit_and_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(Some(folder.path()), 16);
        let stage = Stage::create(&staging, None).unwrap();
        stage.write_at(0, &[1; 16]).unwrap();
        stage.write_at(8, &[2; 8]).unwrap();
        assert!(matches!(stage.write_at(16, &[3]), Err(StageError::Full)));
        assert_eq!(stage.account().size, 16);
        drop(stage);
        assert_eq!(staging.used(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_a_folder_bytes_are_staged_in_memory() {
        let staging = Staging::new(None, 16);
        let stage = Stage::create(&staging, None).unwrap();
        stage.write_at(3, b"abc").unwrap();
        assert_eq!(&stage.read(r(0, 6)).unwrap()[..], b"\0\0\0abc");
        assert!(stage.path().is_none());
    }

    #[test]
    fn after_a_commit_nothing_is_dirty_and_everything_is_still_there() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(Some(folder.path()), 1 << 20);
        let stage = Stage::create(&staging, None).unwrap();
        stage.write_at(4, b"abcd").unwrap();
        let epoch = stage.account().epoch;
        stage.committed(version(8), epoch);
        assert!(stage.account().dirty.is_empty());
        assert_eq!(stage.slices(r(0, 8)), [Slice::Base(r(0, 4)), Slice::Dirty(r(4, 8))]);
    }
}
