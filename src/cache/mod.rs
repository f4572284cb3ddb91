//! Blocks of object versions, fetched once whoever asks.
//!
//! Owns where the bytes of a version are found: in memory, on disk, on their way, or in the store.
//! A block is 128 KiB of one version, so nothing here is ever invalidated: another version is
//! another key. Promises: one flight per block; a reader wakes when his bytes are there, not when
//! the whole GET is over; every byte held is taken from the budget, and what nobody waits for takes
//! only what is free. Must not know handles, patterns or inodes.

mod bring;
mod demand;
mod disk;
mod fetch;
mod flight;
mod memory;
mod pool;
mod proof;
mod rate;
mod share;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::watch;

use crate::bound::Bound;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::store::{Checksum, ObjectStore, Result, Version};
use crate::tasks::Tasks;
use crate::units::{ByteRange, KIB, MIB};

use fetch::{Fetcher, Terms};
use flight::{Call, Flights, Landing};
use memory::Memory;
use share::Shares;

pub use demand::Demand;
pub use disk::{Disk, DiskSettings, DiskSnapshot, Seal, WholeFile};
pub use memory::Block;

/// Bytes of a block: the kernel's default read-ahead, so that a small random read fetches little
/// and a request of 1 MiB joins eight.
pub const BLOCK_SIZE: u64 = 128 * KIB;

/// The longest run of blocks that one GET fetches.
pub const RUN_SIZE_MAX: u64 = 8 * MIB;

/// GETs under way at once, where nobody says.
const REQUESTS: u32 = 64;

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
    fetcher: Arc<Fetcher>,
    flights: Flights,
    shares: Mutex<Shares>,
    streams: AtomicU64,
    /// Half of the budget, in KiB: what is being read may hold that much and wait for more.
    reading: Bound,
    clock: Clock,
    tasks: Tasks,
}

impl Cache {
    /// An empty cache that lives within `budget`.
    pub fn new(store: Arc<dyn ObjectStore>, budget: Arc<Budget>) -> Self {
        Self::with_requests(store, budget, REQUESTS)
    }

    /// The same over a store that serves so many requests at once.
    pub fn with_requests(store: Arc<dyn ObjectStore>, budget: Arc<Budget>, requests: u32) -> Self {
        Self::over(store, budget, requests, None)
    }

    /// The same over what is on `disk`.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        budget: Arc<Budget>,
        requests: u32,
        disk: Option<Disk>,
    ) -> Self {
        let memory = Arc::new(Memory::default());
        let reclaimed = Arc::downgrade(&memory);
        budget.set_reclaimer(move |bytes| {
            if let Some(memory) = reclaimed.upgrade() {
                memory.evict(bytes);
            }
        });
        let shares = Mutex::new(Shares::new(shared(budget.limit())));
        let reading = Bound::new(reading(budget.limit()));
        Self(Arc::new(Inner {
            fetcher: Arc::new(Fetcher::new(store, budget, memory, requests, disk)),
            flights: Flights::default(),
            shares,
            streams: AtomicU64::new(0),
            reading,
            clock: Clock::system(),
            tasks: Tasks::new(),
        }))
    }

    /// Fits itself to a budget that has changed, or is about to shrink, to `limit` bytes, and to
    /// so many requests.
    pub async fn resize(&self, limit: u64, requests: u32) {
        self.shares().set_total(shared(limit));
        self.0.fetcher.resize(requests).await;
        self.0.reading.resize(reading(limit)).await;
    }

    /// The cache on disk may take other sizes from here on; what is too much there goes.
    pub async fn resize_disk(&self, size: u64, table: u64) {
        if let Some(disk) = self.disk() {
            disk.resize(size, table).await;
        }
    }

    /// The bytes of `range` of `version`, cut to its size.
    ///
    /// # Errors
    /// What the store said of the GET that was to bring one of the blocks.
    pub async fn get_or_fetch(&self, version: &Arc<Version>, range: ByteRange) -> Result<Bytes> {
        self.demand(version, range).await.bytes().await
    }

    /// What of `range` is in memory or on disk, in order and block by block; nothing is fetched.
    pub fn at_hand(
        &self,
        version: &Arc<Version>,
        range: ByteRange,
    ) -> impl Stream<Item = (u64, Bytes)> {
        let range = range.intersect(ByteRange::new(0, version.size));
        let cache = self.clone();
        let blocks = stream::iter(blocks_of(version, range));
        blocks.filter_map(move |key| {
            let cache = cache.clone();
            async move {
                let block = match cache.memory().get(&key) {
                    Some(block) => block,
                    None => cache.read_back(&key).await?,
                };
                Some((key.range().intersect(range).start, block.slice(range)))
            }
        })
    }

    async fn read_back(&self, key: &BlockKey) -> Option<Arc<Block>> {
        let disk = self.disk()?;
        let own = key.range();
        let grant = self.0.fetcher.budget.take(own.len()).await;
        let bytes = disk.block(&key.version, key.index, &self.0.fetcher.pool).await?;
        Some(Arc::new(Block::new(own.start, bytes, Some(grant))))
    }

    /// Begins to fetch what is missing of `range`, and does not wait; what has not come when
    /// `reader` is dropped stays away. False where there is no memory for it that nobody needs.
    pub fn prefetch(&self, version: &Arc<Version>, range: ByteRange, reader: &Arc<()>) -> bool {
        let range = range.intersect(ByteRange::new(0, version.size));
        // What would not be kept is not worth fetching ahead.
        if range.is_empty() || !version.is_certain(self.0.clock.wall()) {
            return true;
        }
        let missing = blocks_of(version, range).filter(|key| !self.has(key));
        let lengths: Vec<u64> = missing.map(|key| key.range().len()).collect();
        if lengths.is_empty() {
            return true;
        }
        // Before anything is begun: who joins what is then given up has to ask anew.
        let room = self.0.fetcher.room(lengths.len(), lengths.iter().sum());
        let Some(mut room) = room else { return false };
        let mut fits = true;
        self.find(version, range, |run, call| match room.split(&run) {
            Some(room) if fits => {
                let terms = Terms::Ahead(room, Arc::downgrade(reader));
                self.launch(version, run, call, terms);
            }
            _ => fits = false,
        });
        fits
    }

    /// Keeps one GET open that brings what is missing of `range`, as far as `until` says. None
    /// where no request is free for it, or the object comes whole; else how far it reaches.
    pub fn drain(
        &self,
        version: &Arc<Version>,
        range: ByteRange,
        until: &watch::Receiver<u64>,
        reader: &Arc<()>,
    ) -> Option<u64> {
        let range = range.intersect(ByteRange::new(0, version.size));
        let comes_whole = fetch::is_small(version);
        if range.is_empty() || comes_whole || !version.is_certain(self.0.clock.wall()) {
            return None;
        }
        let mut slot = Some(self.0.fetcher.drain_slot()?);
        let mut end = range.end;
        self.find(version, range, |run, call| match slot.take() {
            Some(slot) => {
                let (until, reader) = (until.clone(), Arc::downgrade(reader));
                self.launch(version, run, call, Terms::Drain { until, reader, slot });
            }
            None => end = run.first().map_or(end, |landing| landing.range().start.min(end)),
        });
        Some(end)
    }

    /// The reader has passed `range`: its blocks may go before all others.
    pub fn passed(&self, version: &Arc<Version>, range: ByteRange) {
        let whole = blocks_of(version, range).filter(|key| key.range().end <= range.end);
        self.memory().passed(whole);
    }

    /// A number for a stream of reads, of this mount.
    pub fn new_stream(&self) -> u64 {
        self.0.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// A stream is read: how many bytes it may have ahead, its share of the memory.
    pub fn share(&self, stream: u64) -> u64 {
        let now = self.0.clock.now();
        self.shares().touch(stream, now)
    }

    /// A stream is over.
    pub fn leave(&self, stream: u64) {
        self.shares().leave(stream);
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.0.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes fill the way to the store in GETs of `request` bytes, where that is known.
    pub fn way(&self, request: u64) -> Option<u64> {
        self.0.fetcher.window(request)
    }

    /// Keeps the bytes of a whole object of at most one block, which somebody has fetched for
    /// something else.
    pub async fn keep_small(&self, version: &Arc<Version>, bytes: Bytes) {
        if bytes.is_empty() || bytes.len() as u64 != version.size || version.size > BLOCK_SIZE {
            return;
        }
        let grant = self.0.fetcher.budget.take(version.size).await;
        let key = BlockKey { version: Arc::clone(version), index: 0 };
        let block = Arc::new(Block::new(0, bytes, Some(grant)));
        if let Some(disk) = self.disk() {
            disk.offer(version, 0, &block);
        }
        self.memory().insert(key, block);
    }

    /// True where every byte of `range` is in memory or on its way.
    pub fn is_known(&self, version: &Arc<Version>, range: ByteRange) -> bool {
        blocks_of(version, range.intersect(ByteRange::new(0, version.size)))
            .all(|key| self.has(&key))
    }

    fn has(&self, key: &BlockKey) -> bool {
        self.memory().has(key) || self.0.flights.has(key)
    }

    /// True where the bytes of a whole object are in memory or on their way, or, as far as they
    /// fit into one block, on disk.
    pub fn is_near(&self, version: &Arc<Version>) -> bool {
        let is_on_disk = || self.disk().is_some_and(|disk| disk.has(version));
        self.is_known(version, ByteRange::new(0, version.size))
            || (version.size <= BLOCK_SIZE && is_on_disk())
    }

    /// Ends when the version's last block has come to the disk. False where nobody will tell:
    /// there is no disk, or others are waited for instead. It waits from this call on.
    pub fn when_whole(&self, version: &Version) -> impl Future<Output = bool> + use<> {
        let whole = self.disk().map(|disk| disk.when_whole(version));
        async move {
            match whole {
                Some(whole) => whole.await,
                None => false,
            }
        }
    }

    /// The version's file on disk, if it is whole, this process has read and verified each of its
    /// blocks, and nobody has touched it since.
    pub fn whole_file(&self, version: &Version) -> Option<WholeFile> {
        self.disk()?.whole_file(version)
    }

    /// The same, after the file was verified, and compared with what the store keeps of the
    /// object; that takes as long as reading it.
    pub async fn verified_file(&self, version: &Arc<Version>) -> Option<WholeFile> {
        let disk = self.disk()?;
        if let Some(file) = disk.whole_file(version) {
            return Some(file);
        }
        let fetcher = &self.0.fetcher;
        let told = fetcher.proofs.open(version);
        let read = disk.read_through(version, told.map(|told| told.kind), &fetcher.pool).await?;
        if read.summed() != told {
            // Somebody may have seen it before, and had it removed.
            let condemned = read.is_untouched().then(|| fetcher.proofs.condemn(version));
            if let Some(condemned) = condemned.flatten() {
                fetcher.remove(condemned).await;
            }
            return None;
        }
        if told.is_some() {
            fetcher.proofs.note_proven(version);
        }
        disk.trust(&read);
        disk.whole_file(version)
    }

    /// Bytes of the version that are on disk, once what was fetched is there or was refused.
    pub async fn on_disk(&self, version: &Version) -> u64 {
        match self.disk() {
            Some(disk) => {
                disk.flush().await;
                disk.present(version).await
            }
            None => 0,
        }
    }

    /// The store has told what it keeps of all of the version's bytes: once all of them have come,
    /// they are compared with it. Small ones are where they come.
    pub fn expect(&self, version: &Arc<Version>, told: Checksum) {
        if !fetch::is_small(version) {
            self.0.fetcher.proofs.expect(version, told);
        }
    }

    /// True once after a version that was read turned out not to be what was stored: who has read
    /// of it, and has not been told by an error, is to be.
    pub fn takes_damage(&self, version: &Arc<Version>) -> bool {
        self.0.fetcher.proofs.take_wrong(version)
    }

    /// Waits until what was fetched is on disk, or was refused there.
    pub async fn flush(&self) {
        if let Some(disk) = self.disk() {
            disk.flush().await;
        }
    }

    fn disk(&self) -> Option<&Disk> {
        self.0.fetcher.disk.as_ref()
    }

    fn memory(&self) -> &Arc<Memory> {
        &self.0.fetcher.memory
    }

    /// Finds each block of `range`; what is missing is given to `order` in runs.
    fn find(
        &self,
        version: &Arc<Version>,
        range: ByteRange,
        mut order: impl FnMut(Vec<Landing>, Arc<Call>),
    ) -> Vec<flight::Pending> {
        let mut pending = Vec::new();
        let mut run: Vec<Landing> = Vec::new();
        let mut call = Arc::new(Call::default());
        for key in blocks_of(version, range) {
            let run_is_full = run.len() as u64 * BLOCK_SIZE >= RUN_SIZE_MAX;
            if run_is_full {
                order(std::mem::take(&mut run), std::mem::take(&mut call));
            }
            let (found, landing) = self.0.flights.join_or_begin(key, self.memory(), &call);
            pending.push(found);
            if landing.is_none() && !run.is_empty() {
                order(std::mem::take(&mut run), std::mem::take(&mut call));
            }
            run.extend(landing);
        }
        if !run.is_empty() {
            order(run, call);
        }
        pending
    }

    fn launch(&self, version: &Arc<Version>, run: Vec<Landing>, call: Arc<Call>, terms: Terms) {
        let (fetcher, version) = (Arc::clone(&self.0.fetcher), Arc::clone(version));
        self.0.tasks.spawn(fetcher.bring(version, run, call, terms));
    }
}

/// What of a budget streams may fill ahead of them: the rest is for reads under way, and for
/// writers.
const fn shared(limit: u64) -> u64 {
    limit / 4 * 3
}

/// What reads under way may hold, in KiB.
fn reading(limit: u64) -> u32 {
    u32::try_from(limit / KIB / 2).unwrap_or(u32::MAX)
}

/// The keys of the blocks that `range` touches; `range` lies within the object.
fn blocks_of(version: &Arc<Version>, range: ByteRange) -> impl Iterator<Item = BlockKey> {
    let first = range.start / BLOCK_SIZE;
    let end = if range.is_empty() { first } else { range.end.div_ceil(BLOCK_SIZE) };
    (first..end).map(|index| BlockKey { version: Arc::clone(version), index })
}
