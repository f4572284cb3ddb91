//! A version's files while blocks are read from them.
//!
//! Owns the reading side: which blocks are there, and their bytes as they were written. Promises:
//! bytes that do not match their checksum are never given out. Must not know who reads.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use nix::errno::Errno;
use nix::sys::uio::preadv;

use super::super::BLOCK_SIZE;
use super::super::pool::{Buffer, Promise};
use super::draft::{COUNTED, has_head, read_records};
use super::folder::{Folder, Kind};
use super::format::{Id, Identity, Record, crc32c};

/// One version, open for reading.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) identity: Arc<Identity>,
    meta: File,
    data: File,
}

/// Versions that stay open for reading, two descriptors each.
const OPENED_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// The versions that were read last, and stay open.
#[derive(Debug)]
pub(super) struct OpenFiles(Mutex<LruCache<Id, Arc<Opened>>>);

impl Default for OpenFiles {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(OPENED_MAX)))
    }
}

impl OpenFiles {
    pub(super) fn get(&self, id: Id) -> Option<Arc<Opened>> {
        self.lock().get(&id).map(Arc::clone)
    }

    pub(super) fn put(&self, opened: &Arc<Opened>) {
        self.lock().put(opened.identity.id, Arc::clone(opened));
    }

    /// Closes a version, as soon as nobody reads it.
    pub(super) fn close(&self, id: Id) {
        self.lock().pop(&id);
    }

    /// Closes what another mount has removed: an open file keeps its place on disk.
    pub(super) fn close_removed(&self) {
        let all: Vec<_> = self.lock().iter().map(|(_, opened)| Arc::clone(opened)).collect();
        for opened in all.iter().filter(|opened| opened.is_removed()) {
            self.close(opened.identity.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Id, Arc<Opened>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a block that was read.
pub(super) enum Block {
    Sound(Bytes),
    Damaged,
}

impl Opened {
    /// Opens the version's files; none where they are not there.
    ///
    /// # Errors
    /// The disk's, or that the files are not this version's ([`io::ErrorKind::InvalidData`]).
    pub(super) fn open(folder: &Folder, identity: &Arc<Identity>) -> io::Result<Option<Self>> {
        let Some(meta) = folder.open(identity.id, Kind::Meta, false)? else { return Ok(None) };
        if meta.metadata()?.len() == 0 {
            // Somebody is making it.
            return Ok(None);
        }
        if !has_head(&meta, identity)? {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = None;
        // The name may change in between, and then again: three looks see every order.
        for kind in [Kind::Whole, Kind::Partial, Kind::Whole] {
            if data.is_none() {
                data = folder.open(identity.id, kind, false)?;
            }
        }
        let Some(data) = data else { return Ok(None) };
        if data.metadata()?.len() != identity.size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Some(Self { identity: Arc::clone(identity), meta, data }))
    }

    /// True where somebody has removed the files meanwhile.
    pub(super) fn is_removed(&self) -> bool {
        self.meta.metadata().map_or(true, |metadata| metadata.nlink() == 0)
    }

    /// What is known of `count` blocks from `first` on.
    pub(super) fn look(&self, first: u64, count: usize) -> io::Result<Vec<Record>> {
        let records = read_records(&self.meta, &self.identity, first, count)?;
        let known = (first..).zip(records).map(|(index, record)| self.identity.read(index, record));
        Ok(known.chain(std::iter::repeat(Record::Absent)).take(count).collect())
    }

    /// True for a block that is present, and as it was written.
    pub(super) fn is_sound(&self, index: u64) -> io::Result<bool> {
        let Some(Record::Present { checksum }) = self.look(index, 1)?.pop() else {
            return Ok(false);
        };
        let mut bytes = vec![0; usize::try_from(self.identity.block_len(index)).unwrap_or(0)];
        let read =
            read_vectored(&self.data, &mut [IoSliceMut::new(&mut bytes)], index * BLOCK_SIZE)?;
        Ok(read == bytes.len() && crc32c(&[&bytes]) == checksum)
    }

    /// Bytes of all present blocks.
    pub(super) fn present(&self) -> io::Result<u64> {
        let (blocks, mut at, mut bytes) = (self.identity.blocks(), 0, 0);
        while at < blocks {
            let count = COUNTED.min(blocks - at);
            let records = self.look(at, usize::try_from(count).unwrap_or(0))?;
            let is_present = |record: &Record| matches!(record, Record::Present { .. });
            let present = (at..).zip(&records).filter(|(_, record)| is_present(record));
            bytes += present.map(|(index, _)| self.identity.block_len(index)).sum::<u64>();
            at += count;
        }
        Ok(bytes)
    }

    /// Reads adjacent blocks with one call, given their checksums.
    pub(super) fn read(
        &self,
        first: u64,
        checksums: &[u32],
        promise: &mut Promise,
    ) -> io::Result<Vec<Block>> {
        let lengths = (first..).zip(checksums).map(|(index, _)| self.identity.block_len(index));
        let mut frames: Vec<Frame> = lengths.map(|length| Frame::new(length, promise)).collect();
        let mut slices: Vec<IoSliceMut<'_>> =
            frames.iter_mut().map(|frame| IoSliceMut::new(frame.bytes_mut())).collect();
        let read = read_vectored(&self.data, &mut slices, first * BLOCK_SIZE)?;
        let mut end = 0;
        let check = |(frame, checksum): (Frame, &u32)| {
            end += frame.len();
            let bytes = frame.freeze();
            // A short read is a file that somebody has cut.
            if end <= read && crc32c(&[&bytes]) == *checksum {
                Block::Sound(bytes)
            } else {
                Block::Damaged
            }
        };
        Ok(frames.into_iter().zip(checksums).map(check).collect())
    }

    /// The data file, for whoever passes it on.
    pub(super) const fn data(&self) -> &File {
        &self.data
    }
}

/// Fills `slices` from `offset` on; how many bytes there were.
fn read_vectored(file: &File, mut slices: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while !slices.is_empty() {
        let at = i64::try_from(offset + read as u64).unwrap_or(i64::MAX);
        match preadv(file, slices, at) {
            Ok(0) => break,
            Ok(more) => {
                read += more;
                IoSliceMut::advance_slices(&mut slices, more);
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(read)
}

/// The memory of one block that is being read.
enum Frame {
    Whole(Buffer),
    /// The short block at an object's end takes only what it needs.
    Short(Vec<u8>),
}

impl Frame {
    fn new(length: u64, promise: &mut Promise) -> Self {
        if length == BLOCK_SIZE {
            Self::Whole(promise.buffer())
        } else {
            Self::Short(vec![0; usize::try_from(length).unwrap_or(0)])
        }
    }

    const fn len(&self) -> usize {
        match self {
            Self::Whole(_) => BLOCK_SIZE as usize,
            Self::Short(bytes) => bytes.len(),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Whole(buffer) => buffer.fill(),
            Self::Short(bytes) => bytes,
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Whole(buffer) => buffer.freeze(),
            Self::Short(bytes) => bytes.into(),
        }
    }
}
