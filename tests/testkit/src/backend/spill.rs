//! Where large bodies go instead of memory: one unlinked temporary file.
//!
//! Owns the file, the hand-out of its extents and their return: an extent is punched out when
//! its last user drops it, so a long run does not fill the disk. Must not know objects.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use nix::fcntl::{FallocateFlags, fallocate};

use super::content::Content;

/// Bodies up to this size stay in memory: a temporary file would only slow the many small ones.
const KEEP_IN_MEMORY: u64 = 1024 * 1024;
/// Extents start on page boundaries, so that punching one frees whole pages.
const PAGE: u64 = 4096;

/// The spill file, or none: then every body stays in memory.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    file: Option<Arc<File>>,
    next: AtomicU64,
}

impl Spill {
    pub(crate) fn in_memory() -> Self {
        Self::default()
    }

    pub(crate) fn in_folder(folder: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        Ok(Self { file: Some(Arc::new(file)), next: AtomicU64::new(0) })
    }

    /// Room for a body that announced `expected` bytes.
    pub(crate) fn sink(&self, expected: u64) -> Sink {
        match &self.file {
            Some(file) if expected > KEEP_IN_MEMORY => {
                let room = expected.next_multiple_of(PAGE);
                let position = self.next.fetch_add(room, Ordering::Relaxed);
                let extent = SpilledExtent { file: Arc::clone(file), position, room };
                Sink::File { extent: Arc::new(extent), written: 0 }
            }
            _ => {
                let capacity = usize::try_from(expected).unwrap_or(0).min(64 << 20);
                Sink::Memory(BytesMut::with_capacity(capacity))
            }
        }
    }
}

/// A stretch of the spill file that one or more bodies point into.
#[derive(Debug)]
pub(crate) struct SpilledExtent {
    file: Arc<File>,
    position: u64,
    room: u64,
}

impl SpilledExtent {
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for SpilledExtent {
    fn drop(&mut self) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (Ok(position), Ok(room)) = (self.position.try_into(), self.room.try_into()) else {
            return;
        };
        // A file system that cannot punch keeps the bytes until the server stops.
        let _ = fallocate(&*self.file, flags, position, room);
    }
}

/// A body being received.
#[derive(Debug)]
pub(crate) enum Sink {
    Memory(BytesMut),
    File { extent: Arc<SpilledExtent>, written: u64 },
}

impl Sink {
    pub(crate) fn write(&mut self, frame: &Bytes) -> io::Result<()> {
        match self {
            Self::Memory(buffer) => buffer.extend_from_slice(frame),
            Self::File { extent, written } => {
                let end = *written + frame.len() as u64;
                if end > extent.room {
                    return Err(io::Error::other("the body is longer than announced"));
                }
                extent.file.write_all_at(frame, extent.position + *written)?;
                *written = end;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Content {
        match self {
            Self::Memory(buffer) => Content::from_bytes(buffer.freeze()),
            Self::File { extent, written } => Content::spilled(extent, written),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_large_body_is_read_back_and_its_room_is_returned() {
        let spill = Spill::in_folder(&std::env::temp_dir()).unwrap();
        let frame = Bytes::from(super::super::content::synthetic_bytes(5, 0..2 << 20));
        let mut sink = spill.sink(frame.len() as u64);
        sink.write(&frame).unwrap();
        let content = sink.finish();
        assert_eq!(content.slice(100..200).to_bytes().unwrap(), frame.slice(100..200));
        assert_eq!(content.to_bytes().unwrap(), frame);
        let file = Arc::clone(spill.file.as_ref().unwrap());
        assert!(file.metadata().unwrap().blocks() > 0);
        drop(content);
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
