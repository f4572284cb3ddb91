//! Blocks in memory: which there are, and in which order they go.
//!
//! Owns the resident blocks. How many fit is the budget's business: a block brings the grant it
//! was fetched under, and eviction gives it back as soon as no reader holds the block. The order
//! is that of last use, except that a block which its reader has passed goes first: the kernel
//! has those pages, and a long read would push everything else out. Must not know where blocks
//! come from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use lru::LruCache;

use super::{BLOCK_SIZE, BlockKey};
use crate::budget::Grant;
use crate::clock::Clock;
use crate::store::Version;
use crate::units::ByteRange;

/// Blocks looked at for one that nobody waits for, from the end that goes first.
const LOOKED_AT_MAX: usize = 256;

/// One block's bytes and the memory they are counted under.
#[derive(Debug)]
pub struct Block {
    start: u64,
    bytes: Bytes,
    /// For whom it was fetched ahead.
    reader: Weak<()>,
    /// Somebody has had bytes of it.
    is_read: AtomicBool,
    _grant: Option<Grant>,
}

impl Block {
    /// A block whose first byte is at `start` of its object.
    pub const fn new(start: u64, bytes: Bytes, grant: Option<Grant>) -> Self {
        Self { start, bytes, reader: Weak::new(), is_read: AtomicBool::new(false), _grant: grant }
    }

    /// Marks a block that was fetched before anybody asked for it.
    pub(super) fn ahead_of(self, reader: Weak<()>) -> Self {
        Self { reader, ..self }
    }

    /// Its reader has not come by yet, and still reads.
    fn is_awaited(&self) -> bool {
        self.reader.strong_count() > 0 && !self.is_read.load(Ordering::Relaxed)
    }

    /// All of its bytes.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The bytes of the block that lie in `range` of the object.
    pub fn slice(&self, range: ByteRange) -> Bytes {
        self.is_read.store(true, Ordering::Relaxed);
        let own = ByteRange::at(self.start, self.bytes.len() as u64);
        let wanted = own.intersect(range);
        let index = |at: u64| usize::try_from(at - self.start).unwrap_or(usize::MAX);
        if wanted.is_empty() {
            Bytes::new()
        } else {
            self.bytes.slice(index(wanted.start)..index(wanted.end))
        }
    }
}

/// The resident blocks.
#[derive(Debug)]
pub(super) struct Memory(Mutex<LruCache<BlockKey, Arc<Block>>>);

impl Default for Memory {
    fn default() -> Self {
        Self(Mutex::new(LruCache::unbounded()))
    }
}

impl Memory {
    pub(super) fn get(&self, key: &BlockKey) -> Option<Arc<Block>> {
        self.lock().get(key).map(Arc::clone)
    }

    pub(super) fn has(&self, key: &BlockKey) -> bool {
        self.lock().contains(key)
    }

    /// Keeps a block, unless other bytes may come to be known under its key.
    pub(super) fn insert(&self, key: BlockKey, block: Arc<Block>) {
        if !key.version.is_certain(Clock::system().wall()) {
            return;
        }
        self.lock().put(key, block);
    }

    /// The reader for whom these blocks were fetched needs them no more: they go before all others.
    pub(super) fn passed(&self, keys: impl Iterator<Item = BlockKey>) {
        let mut blocks = self.lock();
        for key in keys {
            blocks.demote(&key);
        }
    }

    /// Lets go of every block of a version.
    pub(super) fn forget(&self, version: &Version) {
        let mut blocks = self.lock();
        let own = blocks.iter().filter(|(key, _)| *key.version == *version);
        let own: Vec<BlockKey> = own.map(|(key, _)| key.clone()).collect();
        for key in own {
            blocks.pop(&key);
        }
    }

    /// Lets go of at least `bytes`, or of everything.
    pub(super) fn evict(&self, bytes: u64) {
        let mut blocks = self.lock();
        for _ in 0..bytes.div_ceil(BLOCK_SIZE) {
            if blocks.pop_lru().is_none() {
                return;
            }
        }
    }

    /// Lets go of `bytes` that no reader is about to need, as far as there are such.
    pub(super) fn evict_idle(&self, bytes: u64) {
        let mut blocks = self.lock();
        let wanted = usize::try_from(bytes.div_ceil(BLOCK_SIZE)).unwrap_or(usize::MAX);
        let looked_at = blocks.iter().rev().take(LOOKED_AT_MAX);
        let idle = looked_at.filter(|(_, block)| !block.is_awaited());
        let idle: Vec<BlockKey> = idle.take(wanted).map(|(key, _)| key.clone()).collect();
        for key in idle {
            blocks.pop(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<BlockKey, Arc<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::naming::Key;

    fn key(index: u64) -> BlockKey {
        let version = Version {
            key: Key::from("f"),
            etag: Some("\"1\"".into()),
            version_id: None,
            size: 100 * BLOCK_SIZE,
            last_modified: UNIX_EPOCH,
        };
        BlockKey { version: Arc::new(version), index }
    }

    fn with(readers: &[&Arc<()>]) -> Memory {
        let memory = Memory::default();
        for (index, reader) in readers.iter().enumerate() {
            let (key, bytes) = (key(index as u64), Bytes::from_static(&[0; 16]));
            let block = Block::new(key.range().start, bytes, None);
            memory.insert(key, Arc::new(block.ahead_of(Arc::downgrade(reader))));
        }
        memory
    }

    fn left(memory: &Memory) -> Vec<u64> {
        (0..100).filter(|index| memory.has(&key(*index))).collect()
    }

    #[test]
    fn what_a_reader_is_about_to_need_makes_no_room_for_others() {
        let (here, gone) = (Arc::default(), Arc::default());
        let memory = with(&[&here, &here, &gone, &here]);
        drop(gone);
        memory.get(&key(0)).unwrap().slice(ByteRange::new(0, 8));
        memory.evict_idle(10 * BLOCK_SIZE);
        assert_eq!(left(&memory), [1, 3], "one was read, and one is nobody's");
        memory.evict(BLOCK_SIZE);
        assert_eq!(left(&memory), [3], "who waits comes before who will");
    }

    #[test]
    fn what_was_passed_goes_first() {
        let reader = Arc::default();
        let memory = with(&[&reader, &reader, &reader]);
        memory.passed([key(2)].into_iter());
        memory.evict(BLOCK_SIZE);
        assert_eq!(left(&memory), [0, 1]);
    }
}
