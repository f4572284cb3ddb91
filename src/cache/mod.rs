//! Blocks of object versions, fetched once whoever asks.
//!
//! Owns where the bytes of a version are found: in memory, on their way, or in the store. A block
//! is 128 KiB of one version, so nothing here is ever invalidated: another version is another
//! key. Promises: one flight per block; a reader wakes when its blocks are there, not when the
//! whole GET is over; every byte held is taken from the budget. Must not know handles, patterns
//! or inodes.

mod flight;
mod memory;
mod pool;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::store::{ObjectStore, Result, Version};
use crate::tasks::Tasks;
use crate::units::{ByteRange, KIB, MIB};

use flight::Flights;
use memory::Memory;
use pool::Pool;

pub use memory::Block;

/// Bytes of a block: the kernel's default read-ahead, so that a small random read fetches little
/// and a request of 1 MiB joins eight.
pub const BLOCK_SIZE: u64 = 128 * KIB;

/// The longest run of blocks that one GET fetches.
pub const RUN_SIZE_MAX: u64 = 8 * MIB;

/// A block of a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// Whose bytes.
    pub version: Arc<Version>,
    /// From 0, in units of [`BLOCK_SIZE`].
    pub index: u64,
}

impl BlockKey {
    /// The block's bytes within the object; the last block is short.
    pub fn range(&self) -> ByteRange {
        ByteRange::at(self.index * BLOCK_SIZE, BLOCK_SIZE)
            .intersect(ByteRange::new(0, self.version.size))
    }
}

/// The cache in front of a store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    budget: Arc<Budget>,
    memory: Arc<Memory>,
    flights: Flights,
    pool: Arc<Pool>,
    tasks: Tasks,
}

impl Cache {
    /// An empty cache that lives within `budget`.
    pub fn new(store: Arc<dyn ObjectStore>, budget: Arc<Budget>) -> Self {
        let memory = Arc::new(Memory::default());
        let reclaimed = Arc::downgrade(&memory);
        budget.set_reclaimer(move |bytes| {
            if let Some(memory) = reclaimed.upgrade() {
                memory.evict(bytes);
            }
        });
        let (flights, tasks) = (Flights::default(), Tasks::new());
        let pool = Pool::new(BLOCK_SIZE as usize);
        Self(Arc::new(Inner { store, budget, memory, flights, pool, tasks }))
    }

    /// The bytes of `range` of `version`, cut to its size.
    ///
    /// # Errors
    /// What the store said of the GET that was to bring one of the blocks.
    pub async fn get_or_fetch(&self, version: &Arc<Version>, range: ByteRange) -> Result<Bytes> {
        let range = range.intersect(ByteRange::new(0, version.size));
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut pending = self.request(version, range);
        if pending.len() == 1
            && let Some(first) = pending.pop()
        {
            return Ok(first.wait().await?.slice(range));
        }
        let mut blocks = Vec::with_capacity(pending.len());
        for block in pending {
            blocks.push(block.wait().await?);
        }
        // Only now, since it is counted nowhere: the kernel has up to 64 reads of 1 MiB waiting.
        let mut joined = BytesMut::with_capacity(usize::try_from(range.len()).unwrap_or(0));
        for block in blocks {
            joined.extend_from_slice(&block.slice(range));
        }
        Ok(joined.freeze())
    }

    /// What of `range` is in memory, in order; nothing is fetched.
    pub fn at_hand(&self, version: &Arc<Version>, range: ByteRange) -> Vec<(u64, Bytes)> {
        let range = range.intersect(ByteRange::new(0, version.size));
        let found = blocks_of(version, range).filter_map(|key| {
            let block = self.0.memory.get(&key)?;
            Some((key.range().intersect(range).start, block.slice(range)))
        });
        found.collect()
    }

    /// Begins to fetch what is missing of `range`, and does not wait.
    pub fn prefetch(&self, version: &Arc<Version>, range: ByteRange) {
        let range = range.intersect(ByteRange::new(0, version.size));
        // What would not be kept is not worth fetching ahead.
        if !range.is_empty() && version.is_certain(Clock::system().wall()) {
            drop(self.request(version, range));
        }
    }

    /// Keeps the bytes of a whole object of at most one block, which somebody has fetched for
    /// something else.
    pub async fn keep_small(&self, version: &Arc<Version>, bytes: Bytes) {
        if bytes.is_empty() || bytes.len() as u64 != version.size || version.size > BLOCK_SIZE {
            return;
        }
        let grant = self.0.budget.take(version.size).await;
        let key = BlockKey { version: Arc::clone(version), index: 0 };
        self.0.memory.insert(key, Arc::new(Block::new(0, bytes, Some(grant))));
    }

    /// True where every byte of `range` is in memory or on its way.
    pub fn is_known(&self, version: &Arc<Version>, range: ByteRange) -> bool {
        blocks_of(version, range.intersect(ByteRange::new(0, version.size)))
            .all(|key| self.0.memory.has(&key) || self.0.flights.has(&key))
    }

    /// Finds or orders each block of `range`; what is missing goes out in runs.
    fn request(&self, version: &Arc<Version>, range: ByteRange) -> Vec<flight::Pending> {
        let mut pending = Vec::new();
        let mut run: Vec<flight::Landing> = Vec::new();
        for key in blocks_of(version, range) {
            let (found, landing) = self.0.flights.join_or_begin(&key, &self.0.memory);
            pending.push(found);
            let run_is_full = run.len() as u64 * BLOCK_SIZE >= RUN_SIZE_MAX;
            if (landing.is_none() || run_is_full) && !run.is_empty() {
                self.launch(version, std::mem::take(&mut run));
            }
            run.extend(landing);
        }
        if !run.is_empty() {
            self.launch(version, run);
        }
        pending
    }

    fn launch(&self, version: &Arc<Version>, run: Vec<flight::Landing>) {
        let (store, budget) = (Arc::clone(&self.0.store), Arc::clone(&self.0.budget));
        let (version, pool) = (Arc::clone(version), Arc::clone(&self.0.pool));
        self.0.tasks.spawn(flight::fly(store, budget, pool, version, run));
    }
}

/// The keys of the blocks that `range` touches; `range` lies within the object.
fn blocks_of(version: &Arc<Version>, range: ByteRange) -> impl Iterator<Item = BlockKey> {
    let first = range.start / BLOCK_SIZE;
    let end = if range.is_empty() { first } else { range.end.div_ceil(BLOCK_SIZE) };
    (first..end).map(|index| BlockKey { version: Arc::clone(version), index })
}
