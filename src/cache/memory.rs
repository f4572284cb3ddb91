//! Blocks in memory, least recently used first out.
//!
//! Owns the resident blocks. How many fit is the budget's business: a block brings the grant it
//! was fetched under, and eviction gives it back as soon as no reader holds the block. Must not
//! know where blocks come from.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use super::{BLOCK_SIZE, BlockKey};
use crate::budget::Grant;
use crate::clock::Clock;
use crate::units::ByteRange;

/// One block's bytes and the memory they are counted under.
#[derive(Debug)]
pub struct Block {
    start: u64,
    bytes: Bytes,
    _grant: Option<Grant>,
}

impl Block {
    /// A block whose first byte is at `start` of its object.
    pub const fn new(start: u64, bytes: Bytes, grant: Option<Grant>) -> Self {
        Self { start, bytes, _grant: grant }
    }

    /// The bytes of the block that lie in `range` of the object.
    pub fn slice(&self, range: ByteRange) -> Bytes {
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

    /// Lets go of at least `bytes`, or of everything.
    pub(super) fn evict(&self, bytes: u64) {
        let mut blocks = self.lock();
        for _ in 0..bytes.div_ceil(BLOCK_SIZE) {
            if blocks.pop_lru().is_none() {
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<BlockKey, Arc<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
