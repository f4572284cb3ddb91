//! A version's files while blocks are added to them.
//!
//! Owns the writing side: the lock that makes one mount the only writer of a version, the order of
//! writes, and the name of the data file. Promises: a block's record is written when its bytes
//! are, so that a kill between the two leaves an absent block; the name says "whole" only while
//! every record is there. Must not know how much room there is.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::BLOCK_SIZE;
use super::folder::{Folder, Kind, allocated, is_passing};
use super::format::{Identity, RECORD_SIZE, Record, crc32c};
use crate::units::KIB;

/// Records read at once when they are counted.
pub(super) const COUNTED: u64 = 64 * KIB / RECORD_SIZE;

/// One version, locked for writing.
#[derive(Debug)]
pub(super) struct Draft {
    identity: Arc<Identity>,
    folder: Arc<Folder>,
    meta: Flock<File>,
    /// None while the file is whole: then nothing is written to it.
    data: Option<File>,
    present: u64,
}

/// What stands in a version's place.
enum Opened {
    Ready(Draft),
    /// Another mount is writing it, or removed it just now.
    Busy,
    /// Not this version's files.
    Foreign,
}

impl Draft {
    /// Opens or makes the version's files; none while another mount writes them. `on_damage` hears
    /// of files that were not this version's and are replaced.
    pub(super) fn open(
        folder: &Arc<Folder>,
        identity: &Arc<Identity>,
        on_damage: impl Fn(),
    ) -> io::Result<Option<Self>> {
        // Once for what is there, and once more where that had to go.
        for _ in 0..2 {
            match Self::try_open(folder, identity)? {
                Opened::Ready(draft) => return Ok(Some(draft)),
                Opened::Busy => return Ok(None),
                Opened::Foreign => {
                    on_damage();
                    // New files, since whoever has the old ones open must not see them change.
                    folder.remove(identity.id)?;
                }
            }
        }
        Ok(None)
    }

    fn try_open(folder: &Arc<Folder>, identity: &Arc<Identity>) -> io::Result<Opened> {
        let (file, is_new) = match folder.open(identity.id, Kind::Meta, true) {
            Ok(Some(file)) => (file, false),
            Ok(None) => match folder.create_file(identity.id, Kind::Meta) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Ok(Opened::Busy);
                }
                created => (created?, true),
            },
            Err(error) if is_passing(&error) => return Err(error),
            Err(_) => return Ok(Opened::Foreign),
        };
        let meta = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(meta) => meta,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(Opened::Busy),
            Err((_, errno)) => return Err(errno.into()),
        };
        if meta.metadata()?.nlink() == 0 {
            return Ok(Opened::Busy);
        }
        if !is_new && !has_head(&meta, identity)? {
            return Ok(Opened::Foreign);
        }
        let Some((data, is_named_whole)) = open_data(folder, identity, is_new)? else {
            return Ok(Opened::Foreign);
        };
        if is_new {
            // Last: for a reader a version is there once it has a head.
            meta.write_all_at(&identity.head, 0)?;
        }
        let (folder, identity) = (Arc::clone(folder), Arc::clone(identity));
        let mut draft = Self { identity, folder, meta, data: Some(data), present: 0 };
        draft.present = draft.count()?;
        draft.name(is_named_whole)?;
        Ok(Opened::Ready(draft))
    }

    /// Whose files these are.
    pub(super) const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// True where every block is there.
    pub(super) const fn is_whole(&self) -> bool {
        self.data.is_none()
    }

    /// True where somebody has removed the files meanwhile.
    pub(super) fn is_removed(&self) -> io::Result<bool> {
        Ok(self.meta.metadata()?.nlink() == 0)
    }

    /// Writes adjacent blocks from `first` on, except those that are there; says how many.
    pub(super) fn write(&mut self, first: u64, blocks: &[Bytes]) -> io::Result<u64> {
        let Some(data) = &self.data else { return Ok(0) };
        let mut records = read_records(&self.meta, &self.identity, first, blocks.len())?;
        records.resize(blocks.len(), [0; 8]);
        let mut written = 0;
        for ((index, block), record) in (first..).zip(blocks).zip(&mut records) {
            if matches!(self.identity.read(index, *record), Record::Present { .. }) {
                continue;
            }
            data.write_all_at(block, index * BLOCK_SIZE)?;
            *record = self.identity.record(index, crc32c(&[block]));
            written += 1;
        }
        if written > 0 {
            self.meta.write_all_at(&records.concat(), self.identity.record_at(first))?;
            self.present += written;
            if self.present == self.identity.blocks() {
                // Two threads of one process never have two drafts of a version, but a block may
                // have been damaged since: the name is given for what is there.
                self.present = self.count()?;
                self.name(false)?;
            }
        }
        Ok(written)
    }

    /// Forgets a block that turned out damaged.
    pub(super) fn forget(&mut self, index: u64) -> io::Result<()> {
        if self.data.is_none() {
            // The name first: it must not say more than the records.
            self.folder.rename(self.identity.id, Kind::Whole, Kind::Partial)?;
            self.data = self.folder.open(self.identity.id, Kind::Partial, true)?;
        }
        self.meta.write_all_at(&[0; 8], self.identity.record_at(index))?;
        self.present = self.count()?;
        Ok(())
    }

    /// Allocated bytes of both files.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        let data = match &self.data {
            Some(data) => data.metadata()?,
            None => std::fs::metadata(self.folder.path_of(self.identity.id, Kind::Whole))?,
        };
        Ok(allocated(&data) + allocated(&self.meta.metadata()?))
    }

    /// Gives the data file the name that its records allow.
    fn name(&mut self, is_named_whole: bool) -> io::Result<()> {
        let is_whole = self.present == self.identity.blocks();
        match (is_named_whole, is_whole) {
            (false, true) => self.folder.rename(self.identity.id, Kind::Partial, Kind::Whole)?,
            (true, false) => self.folder.rename(self.identity.id, Kind::Whole, Kind::Partial)?,
            _ => {}
        }
        if is_whole {
            self.data = None;
        }
        Ok(())
    }

    fn count(&self) -> io::Result<u64> {
        let (blocks, mut at, mut present) = (self.identity.blocks(), 0, 0);
        while at < blocks {
            let count = COUNTED.min(blocks - at);
            let records = read_records(&self.meta, &self.identity, at, count as usize)?;
            if records.is_empty() {
                break;
            }
            let is_present = |(index, record): (u64, &[u8; 8])| {
                matches!(self.identity.read(index, *record), Record::Present { .. })
            };
            present += (at..).zip(&records).filter(|one| is_present(*one)).count() as u64;
            at += count;
        }
        Ok(present)
    }
}

/// True where a metadata file is this version's.
pub(super) fn has_head(meta: &File, identity: &Identity) -> io::Result<bool> {
    let mut head = vec![0; identity.head.len()];
    match meta.read_exact_at(&mut head, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| head == identity.head),
    }
}

/// The records from a block's on, as far as the file goes.
pub(super) fn read_records(
    meta: &File,
    identity: &Identity,
    first: u64,
    count: usize,
) -> io::Result<Vec<[u8; 8]>> {
    let mut bytes = vec![0; count * RECORD_SIZE as usize];
    let mut from = At(meta, identity.record_at(first));
    let mut length = 0;
    while length < bytes.len() {
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes[..length].as_chunks().0.to_vec())
}

/// A file read from a place on, without moving the place that it shares.
struct At<'f>(&'f File, u64);

impl io::Read for At<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(bytes, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// The data file and whether it is named whole; none where what is there is of another size.
fn open_data(
    folder: &Folder,
    identity: &Identity,
    is_new: bool,
) -> io::Result<Option<(File, bool)>> {
    for (kind, is_whole) in [(Kind::Whole, true), (Kind::Partial, false)] {
        match folder.open(identity.id, kind, true) {
            Ok(None) => {}
            Ok(Some(data)) if !is_new && data.metadata()?.len() == identity.size => {
                return Ok(Some((data, is_whole)));
            }
            Err(error) if is_passing(&error) => return Err(error),
            // New records know nothing of old bytes.
            Ok(Some(_)) | Err(_) => return Ok(None),
        }
    }
    if !is_new {
        return Ok(None);
    }
    let data = folder.create_file(identity.id, Kind::Partial)?;
    data.set_len(identity.size)?;
    Ok(Some((data, false)))
}
