//! The staging file of one inode: what is not in S3 yet.
//!
//! Owns a sparse local file and the account of which of its bytes count: `dirty` ones that S3
//! does not have as an object, `present` ones that equal the file's content (dirty, or brought
//! from the store), `punched` ones that only an unfinished upload has, `copied` ones that are
//! another object's. Everything else is the base version's, up to where it was last truncated, or
//! a hole. Must not know uploads, keys or the store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::copied::{Copied, CopiedRun};
use super::extents::Extents;
use super::plan::Edit;
use super::staging::{Quota, Staging};
use crate::naming::Key;
use crate::store::Version;
use crate::units::ByteRange;

/// Earlier commits under the file's name that are remembered, since they may still arrive. An
/// unanswered one took the operation timeout, and a file that was emptied again and again waits
/// before half as many of its closes do, so an older one than these arrives no more. 35 bytes each
/// in a record of the journal.
const UNKNOWN_MAX: usize = 128;

/// Where a byte of a staged file is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// In the staging file.
    Dirty(ByteRange),
    /// In the base version, at the same offset.
    Base(ByteRange),
    /// In another object.
    Copied(CopiedRun),
    /// Only in an unfinished upload, which must be completed before anybody can read them.
    Sent(ByteRange),
    /// Nowhere: zeros.
    Hole(ByteRange),
}

impl Slice {
    /// Where in the file.
    pub const fn range(&self) -> ByteRange {
        match self {
            Self::Dirty(range) | Self::Base(range) | Self::Sent(range) | Self::Hole(range) => {
                *range
            }
            Self::Copied(run) => run.range,
        }
    }
}

/// Why bytes were not staged.
#[derive(Debug)]
pub(super) enum StageError {
    /// The quota has no room for so many bytes.
    Full {
        wanted: u64,
    },
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
    /// The file was moved to where nobody looks for it here: its name may be another's by now.
    is_gone: AtomicBool,
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
    /// Bytes no object has.
    pub(super) dirty: Extents,
    /// Bytes of the staging file that equal the file's content.
    pub(super) present: Extents,
    /// Dirty bytes that left the staging file: only the running upload has them.
    pub(super) punched: Extents,
    /// Bytes that are another object's; never dirty.
    pub(super) copied: Copied,
    /// Counts what left the staging file, so that a reader knows whether it read bytes or a hole.
    pub(super) lets_go: u64,
    /// The number of the last change; grows with each.
    pub(super) epoch: u64,
    /// The epoch that S3 has.
    pub(super) committed: u64,
    /// Ids of commits that were sent and never answered: any of them may still arrive.
    pub(super) unknown: Vec<String>,
}

impl Account {
    /// Bytes that are neither dirty nor any object's: zeros that S3 does not have.
    pub(super) fn holes(&self) -> Extents {
        let mut holes = Extents::default();
        holes.insert(ByteRange::new(self.base_len.min(self.size), self.size));
        for range in self.dirty.iter().chain(self.copied.iter().map(|run| run.range)) {
            holes.remove(range);
        }
        holes
    }

    /// The file as a plan needs it; `holes` are its own.
    pub(super) fn edit<'a>(&'a self, holes: &'a Extents) -> Edit<'a> {
        Edit {
            base_size: self.base.is_some().then_some(self.base_len),
            dirty: &self.dirty,
            holes,
            copied: &self.copied,
            size: self.size,
        }
    }

    /// Bytes beyond `size` are gone, bytes up to it are zeros.
    pub(super) fn cut(&mut self, size: u64) {
        self.present.truncate(size);
        self.dirty.truncate(size);
        self.punched.truncate(size);
        self.copied.truncate(size);
        self.base_len = self.base_len.min(size);
        self.size = size;
    }

    /// The bytes of `run.range` are another object's.
    pub(super) fn take_copy(&mut self, run: CopiedRun) {
        self.dirty.remove(run.range);
        self.size = self.size.max(run.range.end);
        self.copied.insert(run);
    }

    /// Where the bytes of `range`, none of which are present, are.
    fn absent(&self, range: ByteRange, slices: &mut Vec<Slice>) {
        for (part, punched) in self.punched.slices(range) {
            if punched {
                slices.push(Slice::Sent(part));
                continue;
            }
            let mut from = part.start;
            for run in self.copied.within(part) {
                self.beneath(ByteRange::new(from, run.range.start), slices);
                from = run.range.end;
                slices.push(Slice::Copied(run));
            }
            self.beneath(ByteRange::new(from, part.end), slices);
        }
    }

    /// The base, and behind its end a hole.
    fn beneath(&self, range: ByteRange, slices: &mut Vec<Slice>) {
        let base = range.intersect(ByteRange::new(0, self.base_len));
        if !base.is_empty() {
            slices.push(Slice::Base(base));
        }
        let hole = ByteRange::new(range.start.max(self.base_len), range.end);
        if !hole.is_empty() {
            slices.push(Slice::Hole(hole));
        }
    }
}

/// What is believed of the bytes of a staging file that an earlier process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// They were brought to disk before somebody was told of them.
    Synced,
    /// The file may have its size from before a power cut, and holes in place of its bytes.
    Looked,
}

/// True where the disk has nothing at some of `wanted`.
fn has_holes(file: &File, wanted: &Extents) -> io::Result<bool> {
    for range in wanted.iter() {
        let hole = lseek(file, range.start.cast_signed(), Whence::SeekHole)?;
        if hole.cast_unsigned() < range.end {
            return Ok(true);
        }
    }
    Ok(false)
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
            punched: Extents::default(),
            copied: Copied::default(),
            lets_go: 0,
            epoch,
            committed: epoch,
            unknown: Vec::new(),
        };
        let (file, staging) = (Arc::new(file), Arc::clone(staging));
        let (account, is_kept) = (Mutex::new(account), AtomicBool::new(false));
        let is_gone = AtomicBool::new(false);
        Ok(Self { file, path, staging, account, is_kept, is_gone })
    }

    /// The staging file of an earlier process, as `account` says it was. All of it is dirty.
    pub(super) fn resume(
        staging: &Arc<Staging>,
        path: &Path,
        mut account: Account,
        trust: Trust,
    ) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let is_short = file.metadata()?.len() < account.present.end();
        if is_short || trust == Trust::Looked && has_holes(&file, &account.present)? {
            // A power cut took what had been promised to nobody, or somebody has cut it.
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it lacks what was in it"));
        }
        // What was written behind the end since then was promised to nobody.
        file.set_len(account.size)?;
        staging.charge_whatever(account.present.total());
        (account.epoch, account.committed) = (staging.next_epoch(), 0);
        let (file, path, staging) = (Arc::new(file), Some(path.to_owned()), Arc::clone(staging));
        let (account, is_kept) = (Mutex::new(account), AtomicBool::new(true));
        let is_gone = AtomicBool::new(false);
        Ok(Self { file, path, staging, account, is_kept, is_gone })
    }

    /// Whether the file outlives this process.
    pub(super) fn keep(&self, is_kept: bool) {
        self.is_kept.store(is_kept, Ordering::Relaxed);
    }

    /// The file lies somewhere else now.
    pub(super) fn moved_away(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
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
        self.store(&mut account, range, bytes, Quota::Kept)?;
        account.dirty.insert(range);
        account.copied.remove(range);
        account.size = account.size.max(range.end);
        account.epoch = self.staging.next_epoch();
        Ok(())
    }

    /// The bytes of `run.range` are another object's; the account alone changes.
    pub(super) fn copy_in(&self, run: CopiedRun) -> Result<(), StageError> {
        let mut account = self.account();
        let range = run.range;
        if range.end > account.size {
            self.file.set_len(range.end).map_err(StageError::Disk)?;
        }
        account.take_copy(run);
        // Bytes that stay on the disk count no more either way.
        let _takes_room = self.let_go(&mut account, range);
        let stays: u64 = account.present.within(range).map(|part| part.len()).sum();
        account.present.remove(range);
        self.staging.refund(stays);
        account.epoch = self.staging.next_epoch();
        Ok(())
    }

    /// Brings bytes of an object into the file; they do not become dirty.
    pub(super) fn fill(&self, offset: u64, bytes: &[u8], quota: Quota) -> Result<(), StageError> {
        let range = ByteRange::at(offset, bytes.len() as u64);
        self.store(&mut self.account(), range, bytes, quota)
    }

    /// What was copied of the object `key` and is present is the file's own from now on.
    pub(super) fn adopt_copied(&self, key: &Key) {
        let mut account = self.account();
        let runs: Vec<CopiedRun> =
            account.copied.iter().filter(|run| run.version.key == *key).cloned().collect();
        for run in runs {
            let present: Vec<ByteRange> = account.present.within(run.range).collect();
            for range in present {
                account.copied.remove(range);
                account.dirty.insert(range);
            }
        }
    }

    fn store(
        &self,
        account: &mut Account,
        range: ByteRange,
        bytes: &[u8],
        quota: Quota,
    ) -> Result<(), StageError> {
        let covered: u64 = account
            .present
            .slices(range)
            .iter()
            .filter(|(_, covered)| *covered)
            .map(|(slice, _)| slice.len())
            .sum();
        let fresh = range.len() - covered;
        if !self.staging.charge(fresh, quota) {
            return Err(StageError::Full { wanted: fresh });
        }
        if let Err(error) = self.file.write_all_at(bytes, range.start) {
            self.staging.refund(fresh);
            self.undo(account, range);
            return Err(StageError::Disk(error));
        }
        account.present.insert(range);
        Ok(())
    }

    /// What a write that failed has left where nothing was: a hole is sent as zeros, and so it must
    /// be some. A disk that cannot even do that takes no further write.
    fn undo(&self, account: &Account, range: ByteRange) {
        let _as_far_as_it_goes = self.file.set_len(account.size);
        for gap in account.present.gaps(range.intersect(ByteRange::new(0, account.size))) {
            let _as_far_as_it_goes = punch_hole(&self.file, gap);
        }
    }

    /// Sets the size: bytes beyond it are gone, bytes up to it are zeros.
    pub(super) fn truncate(&self, size: u64) -> Result<(), StageError> {
        let mut account = self.account();
        self.file.set_len(size).map_err(StageError::Disk)?;
        let before = account.present.total();
        account.cut(size);
        self.staging.refund(before - account.present.total());
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
        let mut slices = Vec::new();
        for (part, present) in account.present.slices(range) {
            if present {
                slices.push(Slice::Dirty(part));
            } else {
                account.absent(part, &mut slices);
            }
        }
        (account.base.clone(), slices)
    }

    /// Reads bytes of the staging file. What is not present reads as zeros, so whoever calls
    /// keeps the account from changing.
    pub(super) fn read(&self, range: ByteRange) -> io::Result<Bytes> {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    /// Reads bytes that are present; an early end where they are not any more.
    pub(super) fn read_present(&self, range: ByteRange) -> io::Result<Bytes> {
        loop {
            let before = {
                let account = self.account();
                if !account.present.contains(range) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                account.lets_go
            };
            let bytes = self.read(range)?;
            // What left the file meanwhile may have been read as zeros.
            if self.account().lets_go == before {
                return Ok(bytes);
            }
        }
    }

    /// Lets bytes go from the staging file that the running upload has.
    pub(super) fn punch(&self, range: ByteRange) -> io::Result<()> {
        let mut account = self.account();
        let only_here: Vec<ByteRange> = account
            .present
            .within(range)
            .flat_map(|part| account.dirty.within(part).collect::<Vec<_>>())
            .collect();
        for &part in &only_here {
            self.let_go(&mut account, part)?;
            account.punched.insert(part);
        }
        Ok(())
    }

    /// True where the staging file has every byte of `range`, holes being zeros.
    pub(super) fn is_whole(&self, range: ByteRange) -> bool {
        let slices = self.slices(range);
        slices.iter().all(|slice| matches!(slice, Slice::Dirty(_) | Slice::Hole(_)))
    }

    /// Lets bytes go from the staging file that an object has, but for `kept`, until `enough`.
    pub(super) fn drop_clean(&self, kept: &Extents, enough: impl Fn() -> bool) -> io::Result<()> {
        let mut account = self.account();
        let clean: Vec<ByteRange> = account
            .present
            .iter()
            .flat_map(|part| account.dirty.gaps(part).collect::<Vec<_>>())
            .flat_map(|part| kept.gaps(part).collect::<Vec<_>>())
            .collect();
        for part in clean {
            if enough() {
                return Ok(());
            }
            self.let_go(&mut account, part)?;
        }
        Ok(())
    }

    /// Takes bytes out of the staging file; what they are is the caller's business.
    fn let_go(&self, account: &mut Account, range: ByteRange) -> io::Result<()> {
        let parts: Vec<ByteRange> = account.present.within(range).collect();
        for part in parts {
            account.lets_go += 1;
            punch_hole(&self.file, part)?;
            account.present.remove(part);
            self.staging.refund(part.len());
        }
        Ok(())
    }

    /// S3 has everything up to `epoch` as `version`; nothing changed since.
    pub(super) fn committed(&self, version: Arc<Version>, epoch: u64) {
        let mut account = self.account();
        account.base_len = version.size;
        account.base = Some(version);
        account.dirty.clear();
        account.punched.clear();
        account.copied = Copied::default();
        account.committed = epoch;
        account.unknown.clear();
    }

    /// The same bytes as those of the version underneath are `version` now.
    pub(super) fn rebase(&self, version: Arc<Version>) {
        let mut account = self.account();
        account.base_len = account.base_len.min(version.size);
        if let Some(old) = account.base.replace(Arc::clone(&version)) {
            account.copied.rebase(&old, &version);
        }
    }

    /// An earlier commit of this very file has become `version`: what was another version's of the
    /// same object stands in its own place there, and what changed since is dirty.
    pub(super) fn rebase_committed(&self, version: Arc<Version>) {
        let mut account = self.account();
        account.base_len = account.base_len.min(version.size);
        account.copied.settle_in(&version);
        account.base = Some(version);
    }

    /// An upload that was given up has become `version` after all: it has what was punched, and
    /// nothing else of it is sure to be the file's still.
    pub(super) fn rebase_punched(&self, version: Arc<Version>) {
        let mut account = self.account();
        account.base_len = account.punched.end();
        account.base = Some(version);
        let punched = std::mem::take(&mut account.punched);
        for range in punched.iter() {
            account.dirty.remove(range);
        }
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

fn punch_hole(file: &File, range: ByteRange) -> io::Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (start, len) = (range.start.try_into(), range.len().try_into());
    let (Ok(start), Ok(len)) = (start, len) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    Ok(fallocate(file, hole, start, len)?)
}

impl Drop for Stage {
    fn drop(&mut self) {
        let account = self.account.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.staging.refund(account.present.total());
        let stays = self.is_kept.load(Ordering::Relaxed) || self.is_gone.load(Ordering::Relaxed);
        if let Some(path) = self.path.as_ref().filter(|_| !stays) {
            // Somebody may have emptied the folder.
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
        assert!(matches!(stage.write_at(16, &[3]), Err(StageError::Full { .. })));
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
    fn what_the_upload_has_can_be_punched_and_is_not_read_as_zeros() {
        for folder in [Some(tempfile::tempdir().unwrap()), None] {
            let staging = Staging::new(folder.as_ref().map(|f| f.path()), 1 << 20);
            let stage = Stage::create(&staging, Some(version(100))).unwrap();
            stage.write_at(100, &[7; 300]).unwrap();
            stage.fill(90, &[1; 10], Quota::Kept).unwrap();
            stage.punch(r(80, 200)).unwrap();
            assert_eq!(
                stage.slices(r(80, 400)),
                [
                    Slice::Base(r(80, 90)),
                    Slice::Dirty(r(90, 100)),
                    Slice::Sent(r(100, 200)),
                    Slice::Dirty(r(200, 400))
                ]
            );
            assert_eq!(staging.used(), 210);
            let gone = stage.read_present(r(150, 250)).unwrap_err();
            assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(&stage.read_present(r(200, 202)).unwrap()[..], [7; 2]);
            stage.drop_clean(&Extents::new(), || false).unwrap();
            assert_eq!(
                (staging.used(), stage.slices(r(90, 100))),
                (200, vec![Slice::Base(r(90, 100))])
            );
            // The upload that has them became an object that nobody waited for.
            stage.rebase_punched(version(400));
            assert_eq!(
                stage.slices(r(0, 400)),
                [Slice::Base(r(0, 200)), Slice::Dirty(r(200, 400))]
            );
            assert_eq!(stage.account().dirty.iter().collect::<Vec<_>>(), [r(200, 400)]);
        }
    }

    #[test]
    fn copied_bytes_are_anothers_until_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(Some(folder.path()), 1 << 20);
        let stage = Stage::create(&staging, Some(version(100))).unwrap();
        stage.write_at(0, &[1; 30]).unwrap();
        let source = Arc::new(Version { key: "other".into(), ..Version::clone(&version(50)) });
        let run = |range, from| CopiedRun { range, version: Arc::clone(&source), from };
        stage.copy_in(run(r(10, 20), 5)).unwrap();
        stage.copy_in(run(r(110, 120), 0)).unwrap();
        assert_eq!(staging.used(), 20);
        assert_eq!(
            stage.slices(r(0, 200)),
            [
                Slice::Dirty(r(0, 10)),
                Slice::Copied(run(r(10, 20), 5)),
                Slice::Dirty(r(20, 30)),
                Slice::Base(r(30, 100)),
                Slice::Hole(r(100, 110)),
                Slice::Copied(run(r(110, 120), 0)),
            ]
        );
        assert_eq!(stage.account().holes().iter().collect::<Vec<_>>(), [r(100, 110)]);
        stage.write_at(12, b"ab").unwrap();
        stage.fill(14, b"cd", Quota::Kept).unwrap();
        stage.adopt_copied(&"other".into());
        stage.truncate(115).unwrap();
        assert_eq!(
            stage.account().copied.iter().cloned().collect::<Vec<_>>(),
            [run(r(10, 12), 5), run(r(16, 20), 11), run(r(110, 115), 0)]
        );
        assert_eq!(&stage.read_present(r(12, 16)).unwrap()[..], b"abcd");
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
