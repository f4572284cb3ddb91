//! Blocks on local disk, by version.
//!
//! Owns the disk's part of the cache: files that outlive the mount, one sparse file per version,
//! bounded in bytes and by what must stay free. Promises: what it gives are the bytes that were
//! fetched, checked again at each read; damage, a full disk, a failing one, or files of another
//! program are a miss and a number, never an error, and so is a disk that does not answer; a reader
//! never waits for a write. Mounts that share a folder share what they read. Must not know how
//! blocks are fetched.
//!
//! ```text
//!   land ──> offer ──> queue ──> writer ──> draft ──> files      eviction <── room
//!   look ──> opened ──> read back, checked ──> land
//! ```

mod back;
mod counters;
mod draft;
mod eviction;
mod folder;
mod format;
mod opened;
mod room;
mod turns;
mod wanted;
mod whole;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::pool::Pool;
use super::{BLOCK_SIZE, Block};
use crate::clock::Clock;
use crate::store::{ChecksumKind, Version};
use crate::units::MIB;

use counters::Counters;
use folder::Folder;
use format::Identity;
use opened::{OpenFiles, Opened};
use room::{Bounds, Room};
use turns::Turns;
use wanted::Wanted;
use whole::{Seals, Verdict};
use writer::{Desk, Said, Writer};

pub(super) use back::{Held, Means};
pub use counters::DiskSnapshot;
pub(super) use whole::ReadThrough;
pub use whole::{Seal, WholeFile};

/// The most that waits to be written, whatever memory there is: what a disk of 500 MiB/s writes
/// in an eighth of a second.
const QUEUE_MAX: u64 = 64 * MIB;

/// What the disk cache has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// The mount's cache folder.
    pub folder: PathBuf,
    /// Endpoint and bucket: what makes a key one object in the world.
    pub place: String,
    /// Bytes on disk that all versions may take together.
    pub size: u64,
    /// Bytes of the file system that must stay free.
    pub free_min: u64,
    /// Bytes of memory for blocks that wait to be written.
    pub queue: u64,
    /// Bytes of memory for the table of versions.
    pub table: u64,
}

/// The cache on disk; cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Arc<str>,
    folder: Arc<Folder>,
    room: Arc<Room>,
    counters: Arc<Counters>,
    said: Arc<Said>,
    opened: Arc<OpenFiles>,
    seals: Seals,
    wanted: Arc<Wanted>,
    turns: Turns,
    verifications: Arc<Semaphore>,
    writer: Writer,
}

impl Disk {
    /// Opens the cache below the settings' folder and begins to count what is there.
    ///
    /// # Errors
    /// The disk's, where the folder cannot be made or written to.
    pub fn open(settings: &DiskSettings, clock: Clock) -> io::Result<Self> {
        let folder = Arc::new(Folder::create(&settings.folder)?);
        let counters = Arc::new(Counters::default());
        let bounds =
            Bounds { size: settings.size, free_min: settings.free_min, table: settings.table };
        let room = Room::new(Arc::clone(&folder), bounds, Arc::clone(&counters), clock.clone());
        let (room, place) = (Arc::new(room), Arc::from(settings.place.as_str()));
        let said = Arc::new(Said::new(Arc::clone(&counters), Arc::clone(&folder)));
        let (opened, wanted) = (Arc::new(OpenFiles::default()), Arc::new(Wanted::default()));
        let desk = Desk {
            place: Arc::clone(&place),
            folder: Arc::clone(&folder),
            room: Arc::clone(&room),
            counters: Arc::clone(&counters),
            opened: Arc::clone(&opened),
            said: Arc::clone(&said),
            wanted: Arc::clone(&wanted),
            clock,
        };
        let blocks = (settings.queue.min(QUEUE_MAX) / BLOCK_SIZE).max(8);
        let writer = Writer::start(desk, usize::try_from(blocks).unwrap_or(8))?;
        Ok(Self(Arc::new(Inner {
            place,
            folder,
            room,
            counters,
            turns: Turns::new(Arc::clone(&said)),
            said,
            opened,
            seals: Seals::default(),
            wanted,
            verifications: Arc::new(Semaphore::new(1)),
            writer,
        })))
    }

    /// Keeps a block that was fetched, if the disk keeps up.
    pub(super) fn offer(&self, version: &Arc<Version>, index: u64, block: &Arc<Block>) {
        if version.etag.is_some() {
            self.0.writer.write(version, index, block);
        }
    }

    /// May take other sizes from here on, as the settings have them; what is too much goes first.
    pub async fn resize(&self, size: u64, table: u64) {
        self.0.writer.resize(size, table).await;
    }

    /// Waits until everything that was offered is written or refused.
    pub async fn flush(&self) {
        self.0.writer.flush().await;
    }

    /// True for a version of which something is on disk, as far as this mount knows.
    pub(super) fn has(&self, version: &Version) -> bool {
        Identity::new(&self.0.place, version).is_some_and(|one| self.0.room.has(one.id))
    }

    /// The numbers.
    pub fn snapshot(&self) -> DiskSnapshot {
        self.0.room.complete(self.0.counters.snapshot())
    }

    /// Ends when the version's last block was written. False where nobody will tell.
    pub(super) fn when_whole(&self, version: &Version) -> impl Future<Output = bool> + use<> {
        let identity = Identity::new(&self.0.place, version);
        let told = identity.map(|identity| self.0.wanted.wait(identity.id));
        async move {
            match told {
                Some(told) => told.await.is_ok(),
                None => false,
            }
        }
    }

    /// The version's file, if it is whole and this process has verified it.
    pub(super) fn whole_file(&self, version: &Version) -> Option<WholeFile> {
        let identity = Identity::new(&self.0.place, version)?;
        let file = self.0.seals.file(&self.0.folder, identity.id)?;
        self.0.room.used(identity.id);
        Some(file)
    }

    /// Reads all of the version's file, if it is whole, for as long as that takes; one at a time.
    pub(super) async fn read_through(
        &self,
        version: &Version,
        kind: Option<ChecksumKind>,
        pool: &Arc<Pool>,
    ) -> Option<ReadThrough> {
        let turn = Arc::clone(&self.0.verifications).acquire_owned().await.ok()?;
        let identity = Arc::new(Identity::new(&self.0.place, version)?);
        let (disk, pool) = (self.clone(), Arc::clone(pool));
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            match whole::read_through(&disk.0.folder, &identity, kind, &pool) {
                Ok(Verdict::Sound(read)) => return Some(read),
                Ok(Verdict::NotWhole) => {}
                Ok(Verdict::Damaged(index)) => disk.is_damaged(&identity, index),
                Err(error) => disk.failed(&identity, &error),
            }
            None
        });
        read.await.ok().flatten()
    }

    /// A version's file may be given out from now on, as long as nobody touches it.
    pub(super) fn trust(&self, read: &ReadThrough) {
        self.0.seals.put(read);
    }

    /// Removes a version that is not what it should be.
    pub(super) async fn let_go(&self, version: &Version) {
        let Some(identity) = Identity::new(&self.0.place, version) else { return };
        self.0.seals.forget(identity.id);
        let identity = Arc::new(identity);
        self.0.writer.remove_surely(&identity).await;
        // Whoever comes from now on finds nothing of it.
        self.0.writer.flush().await;
        self.0.opened.close(identity.id);
    }

    /// A block is not as it was written.
    fn is_damaged(&self, identity: &Arc<Identity>, index: u64) {
        self.0.counters.damaged.add(1);
        // The files may have been replaced since they were opened.
        self.0.opened.close(identity.id);
        self.0.writer.forget(identity, index);
    }

    /// A version's files cannot be read, or are not its own: they go, so that they fail once. What
    /// passes leaves them, and was a miss.
    fn failed(&self, identity: &Arc<Identity>, error: &io::Error) {
        if folder::is_passing(error) {
            return self.0.said.failure(error);
        }
        self.0.opened.close(identity.id);
        let is_foreign = error.kind() == io::ErrorKind::InvalidData;
        if is_foreign {
            self.0.counters.damaged.add(1);
        } else {
            self.0.said.failure(error);
        }
        self.0.writer.remove(identity, is_foreign);
    }

    /// The version's files, if they are there. Blocks, on the disk.
    fn opened(&self, identity: &Arc<Identity>) -> Option<Arc<Opened>> {
        let known = self.0.opened.get(identity.id);
        if let Some(opened) = known.filter(|opened| opened.identity == *identity) {
            return Some(opened);
        }
        match Opened::open(&self.0.folder, identity) {
            Ok(found) => {
                let opened = Arc::new(found?);
                self.0.opened.put(&opened);
                Some(opened)
            }
            Err(error) => {
                self.failed(identity, &error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use bytes::Bytes;
    use nix::errno::Errno;

    use super::*;
    use crate::naming::Key;
    use crate::units::GIB;

    #[tokio::test]
    async fn who_could_not_open_a_file_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = DiskSettings {
            folder: folder.path().to_owned(),
            place: "here".to_owned(),
            size: GIB,
            free_min: 0,
            queue: MIB,
            table: MIB,
        };
        let disk = Disk::open(&settings, Clock::system()).unwrap();
        let version = Arc::new(Version {
            key: Key::from("f"),
            etag: Some("\"1\"".into()),
            version_id: None,
            size: 5,
            last_modified: UNIX_EPOCH,
        });
        disk.offer(&version, 0, &Arc::new(Block::new(0, Bytes::from_static(b"hello"), None)));
        disk.flush().await;
        let identity = Arc::new(Identity::new("here", &version).unwrap());
        for (errno, left) in
            [(Errno::EMFILE, 5), (Errno::ENFILE, 5), (Errno::ENOMEM, 5), (Errno::EIO, 0)]
        {
            disk.failed(&identity, &io::Error::from(errno));
            disk.flush().await;
            assert_eq!(disk.present(&version).await, left, "{errno}");
        }
        assert_eq!(disk.snapshot().errors, 4);
    }
}
