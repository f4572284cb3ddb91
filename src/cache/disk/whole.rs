//! Whole files that may be read without us.
//!
//! Owns which whole files this process has verified, block by block, and how it is seen that one
//! was touched since. Promises: a file is given out only while inode, size, mtime and ctime are
//! what they were before it was verified, and what was verified is on the disk. Must not know who
//! reads the file then.

use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::super::pool::Pool;
use super::folder::{Folder, Kind};
use super::format::{Id, Identity, Record};
use super::opened::{Block, Opened};
use crate::store::{Checksum, ChecksumKind, Summing};

/// Verified files that are remembered, 120 bytes each.
const SEALS_MAX: NonZeroUsize = NonZeroUsize::new(8 * 1024).expect("8 192 is not zero");

/// Blocks that are verified at once, each in memory.
const STEP: u64 = 8;

/// A file's state, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds of the last change of its bytes.
    pub mtime: (i64, i64),
    /// Seconds and nanoseconds of the last change of anything.
    pub ctime: (i64, i64),
}

impl From<&Metadata> for Seal {
    fn from(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file that is a version's bytes, all of them and nothing else, open for reading only.
#[derive(Debug)]
pub struct WholeFile {
    file: File,
    seal: Seal,
}

impl WholeFile {
    /// The open file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// What it looked like when it was verified.
    pub const fn seal(&self) -> Seal {
        self.seal
    }

    /// True while nobody has touched it since.
    pub fn is_untouched(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| Seal::from(&metadata) == self.seal)
    }
}

/// The verified files.
#[derive(Debug)]
pub(super) struct Seals(Mutex<LruCache<Id, Seal>>);

impl Default for Seals {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SEALS_MAX)))
    }
}

impl Seals {
    /// The version's file, if it is verified and untouched.
    pub(super) fn file(&self, folder: &Folder, id: Id) -> Option<WholeFile> {
        let seal = *self.lock().get(&id)?;
        let file = folder.open(id, Kind::Whole, false).ok().flatten();
        let whole = file.map(|file| WholeFile { file, seal }).filter(WholeFile::is_untouched);
        if whole.is_none() {
            self.lock().pop(&id);
        }
        whole
    }

    /// Remembers a file that was read through.
    pub(super) fn put(&self, read: &ReadThrough) {
        self.lock().put(read.id, read.whole.seal);
    }

    pub(super) fn forget(&self, id: Id) {
        self.lock().pop(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Id, Seal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A whole file, each block of which was as it was written.
#[derive(Debug)]
pub(in crate::cache) struct ReadThrough {
    id: Id,
    whole: WholeFile,
    summed: Option<Checksum>,
}

impl ReadThrough {
    /// The checksum of all bytes, where one was wanted.
    pub(in crate::cache) const fn summed(&self) -> Option<Checksum> {
        self.summed
    }

    /// True while nobody has touched the file, nor removed it.
    pub(in crate::cache) fn is_untouched(&self) -> bool {
        self.whole.is_untouched()
    }
}

/// What reading a whole file came to.
#[derive(Debug)]
pub(super) enum Verdict {
    Sound(ReadThrough),
    NotWhole,
    /// The first block that is not as it was written.
    Damaged(u64),
}

/// Reads every block of the version's file, if it is whole, and takes a checksum of that kind.
pub(super) fn read_through(
    folder: &Folder,
    identity: &Arc<Identity>,
    kind: Option<ChecksumKind>,
    pool: &Arc<Pool>,
) -> io::Result<Verdict> {
    let Some(file) = folder.open(identity.id, Kind::Whole, false)? else {
        return Ok(Verdict::NotWhole);
    };
    let seal = Seal::from(&file.metadata()?);
    let Some(opened) = Opened::open(folder, identity)? else { return Ok(Verdict::NotWhole) };
    if Seal::from(&opened.data().metadata()?) != seal {
        return Ok(Verdict::NotWhole);
    }
    // Before it is read: pages that cannot be written back are dropped without touching the seal,
    // and whoever reads the file then finds what was on the disk before.
    opened.data().sync_data()?;
    let (mut at, mut summing) = (0, kind.map(Summing::new));
    while at < identity.blocks() {
        let count = STEP.min(identity.blocks() - at);
        if let Some(damaged) = first_unsound(&opened, at, count, pool, &mut summing)? {
            return Ok(Verdict::Damaged(damaged));
        }
        at += count;
    }
    if Seal::from(&opened.data().metadata()?) != seal {
        return Ok(Verdict::NotWhole);
    }
    let summed = summing.map(|summing| summing.summed().checksum());
    Ok(Verdict::Sound(ReadThrough { id: identity.id, whole: WholeFile { file, seal }, summed }))
}

fn first_unsound(
    opened: &Opened,
    first: u64,
    count: u64,
    pool: &Arc<Pool>,
    summing: &mut Option<Summing>,
) -> io::Result<Option<u64>> {
    let count = usize::try_from(count).unwrap_or(0);
    let records = opened.look(first, count)?;
    let present = |record: &Record| match record {
        Record::Present { checksum } => Some(*checksum),
        Record::Absent | Record::Damaged => None,
    };
    let checksums: Vec<u32> = records.iter().map_while(present).collect();
    let read = opened.read(first, &checksums, &mut pool.promise(checksums.len()))?;
    let mut sound = 0;
    for block in &read {
        let Block::Sound(bytes) = block else { break };
        if let Some(summing) = summing {
            summing.update(bytes);
        }
        sound += 1;
    }
    Ok((sound < count).then_some(first + sound as u64))
}
