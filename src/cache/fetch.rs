//! How missing blocks are fetched: one GET for a run of neighbours.
//!
//! Owns the GET, the memory it is granted, and when it may go: at once where somebody waits for
//! it, in its turn where it runs ahead of a reader, and as far as its reader has come where a
//! reader's share of the memory is less than one GET. Promises: what is demanded never waits for
//! what is not; bytes that a checksum of the store proves wrong are given to nobody, as far as the
//! object is small enough to be held back until then; of a larger one the block that completes it
//! is, and nothing of it stays here. Must not know who reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::BLOCK_SIZE;
use super::disk::Disk;
use super::flight::{Call, Landing};
use super::memory::{Block, Memory};
use super::pool::{Buffer, Pool, Promise};
use super::proof::{self, Arriving, Condemned, Proofs};
use super::rate::{Finished, Rate};
use crate::bound::Bound;
use crate::budget::{Budget, Grant};
use crate::clock::Clock;
use crate::store::{Error, ErrorKind, GetPin, GetRequest, ObjectStore, Operation, Result, Version};
use crate::units::{ByteRange, MIB};

/// Up to this size an object is fetched whole, whatever is wanted of it, and given out when its
/// checksum has been seen to be right: a store tells that only of all of it, which takes 11 ms to
/// arrive at 90 MB/s, about what its first byte takes.
const VERIFIED_MAX: u64 = MIB;

/// True for an object that comes with one GET, and is compared before anybody has its bytes.
pub(super) const fn is_small(version: &Version) -> bool {
    version.size <= VERIFIED_MAX
}

/// A drained GET whose reader does not come on is given up after this, so that its connection
/// serves others; coming back costs one more GET.
const DRAIN_IDLE: Duration = Duration::from_secs(2);

/// A drained GET that found no memory looks again after this, or when its reader comes on.
const LOOKED_FOR_MEMORY: Duration = Duration::from_millis(10);

/// Bodies whose checksum was wrong.
const DAMAGED: &str = "s3pod_cache_damaged_bodies_total";

/// On what terms a run is fetched.
#[derive(Debug)]
pub(super) enum Terms {
    /// Somebody waits.
    Demand,
    /// Ahead of a reader, into memory that was free, when a request is, as long as he reads on.
    Ahead(Room, Weak<()>),
    /// As far as the reader has come; the request is free already.
    Drain {
        /// How far the body may be read, in the object.
        until: watch::Receiver<u64>,
        reader: Weak<()>,
        slot: DrainSlot,
    },
}

/// Memory for a run that nobody waits for, and what its blocks will lie in.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) grant: Grant,
    pub(super) promise: Promise,
}

impl Room {
    /// The part of it for a run of blocks; none where it is not enough.
    pub(super) fn split(&mut self, run: &[Landing]) -> Option<Self> {
        let grant = self.grant.split(run.iter().map(|landing| landing.range().len()).sum())?;
        Some(Self { grant, promise: self.promise.split(run.len()) })
    }
}

/// The right to keep a GET open for a reader: one of those that run ahead, and not of the last.
#[derive(Debug)]
pub(super) struct DrainSlot(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

/// What a fetch needs.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) budget: Arc<Budget>,
    pub(super) memory: Arc<Memory>,
    pub(super) disk: Option<Disk>,
    pub(super) pool: Arc<Pool>,
    pub(super) proofs: Arc<Proofs>,
    rate: Mutex<Rate>,
    clock: Clock,
    /// GETs ahead of readers at once: a few requests are left for those who wait.
    ahead: Bound,
    /// GETs of those that are kept open for readers; the others are left for what ends soon.
    drains: Bound,
}

/// Of so many requests, those that may run ahead of readers, and those that may be kept open.
fn shares(requests: u32) -> (u32, u32) {
    let kept_free = (requests / 8).max(1);
    (requests.saturating_sub(kept_free).max(1), requests / 2)
}

impl Fetcher {
    /// A fetcher that may have `requests` GETs under way, and keeps what they bring on `disk`.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        budget: Arc<Budget>,
        memory: Arc<Memory>,
        requests: u32,
        disk: Option<Disk>,
    ) -> Self {
        let clock = Clock::system();
        let (ahead, drains) = shares(requests);
        Self {
            store,
            proofs: Arc::default(),
            budget,
            memory,
            disk,
            pool: Pool::new(BLOCK_SIZE as usize),
            rate: Mutex::new(Rate::new(clock.now())),
            clock,
            ahead: Bound::new(ahead),
            drains: Bound::new(drains),
        }
    }

    /// Another number of requests.
    pub(super) async fn resize(&self, requests: u32) {
        let (ahead, drains) = shares(requests);
        self.ahead.resize(ahead).await;
        self.drains.resize(drains).await;
    }

    /// Memory for `bytes` that nobody waits for; what no reader is about to need makes room.
    pub(super) fn spare(&self, bytes: u64) -> Option<Grant> {
        self.budget.try_take(bytes).or_else(|| {
            self.memory.evict_idle(bytes);
            self.budget.try_take(bytes)
        })
    }

    /// The same for blocks of so many bytes together.
    pub(super) fn room(&self, blocks: usize, bytes: u64) -> Option<Room> {
        // Before the grant: what is evicted for it is what these blocks will lie in.
        let promise = self.pool.promise(blocks);
        let grant = self.spare(bytes)?;
        Some(Room { grant, promise })
    }

    /// The right to keep a GET open for a reader.
    pub(super) fn drain_slot(&self) -> Option<DrainSlot> {
        let [drain, ahead] = [&self.drains, &self.ahead].map(|bound| bound.try_take(1));
        Some(DrainSlot([drain?, ahead?]))
    }

    /// Bytes to have on their way in GETs of `request` bytes, where that is known.
    pub(super) fn window(&self, request: u64) -> Option<u64> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).window(request)
    }

    /// Fetches a run of adjacent blocks with one GET and lands each as soon as it is full.
    pub(super) async fn fly(
        self: Arc<Self>,
        version: Arc<Version>,
        run: Vec<Landing>,
        call: Arc<Call>,
        terms: Terms,
    ) {
        let Some(range) = span(&run) else { return };
        let mut flight = Flight { fetcher: &self, version: &version, range, run: run.into() };
        let flown = match terms {
            Terms::Demand => {
                // Before the grant, as for what runs ahead.
                let promise = self.pool.promise(flight.run.len());
                let grant = self.budget.take(range.len()).await;
                flight.land(Supply { promise, grants: Grants::Whole(grant) }).await
            }
            Terms::Ahead(Room { grant, promise }, reader) => {
                let _turn = tokio::select! {
                    biased;
                    turn = self.ahead.take(1) => Some(turn),
                    () = call.is_demanded(range.start) => None,
                };
                if is_pointless(&reader, &call, range) {
                    return;
                }
                let grants = Grants::Ahead(grant, reader, &call);
                flight.land(Supply { promise, grants }).await
            }
            Terms::Drain { until, reader, slot: _slot } => {
                // One buffer at a time: the next is asked for when this one has landed.
                let promise = self.pool.promise(1);
                let grants = Grants::Each { fetcher: &self, until, reader, call: &call };
                flight.land(Supply { promise, grants }).await
            }
        };
        if let Err(error) = flown {
            flight.run.into_iter().for_each(|landing| landing.fail(&error));
        }
    }

    /// A piece of an object begins to come; none where there is nothing to compare. A small object
    /// is compared where it comes as a whole.
    pub(super) fn arriving(&self, version: &Arc<Version>, start: u64) -> Option<Arriving> {
        (!is_small(version)).then(|| self.proofs.begin(version, start)).flatten()
    }

    /// An object came whole and is not what was stored: all of it goes. What was given out cannot
    /// be taken back, so who reads on is told ([`Proofs::take_wrong`]).
    pub(super) async fn remove(&self, condemned: Condemned) {
        let version = condemned.version();
        count_damage(&proof::wrong(version));
        if let Some(disk) = &self.disk {
            disk.let_go(version).await;
        }
        self.memory.forget(version);
    }

    fn finished(&self, started: Instant, answered: Instant, bytes: u64) {
        let now = self.clock.now();
        let get = Finished {
            bytes,
            first_byte: answered.saturating_duration_since(started),
            body: now.saturating_duration_since(answered),
        };
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).finished(now, get);
    }
}

fn span(run: &[Landing]) -> Option<ByteRange> {
    let (first, last) = (run.first()?, run.last()?);
    Some(ByteRange::new(first.range().start, last.range().end))
}

/// The buffers and the memory of a run's blocks.
struct Supply<'a> {
    promise: Promise,
    grants: Grants<'a>,
}

enum Grants<'a> {
    Whole(Grant),
    Ahead(Grant, Weak<()>, &'a Call),
    Each { fetcher: &'a Fetcher, until: watch::Receiver<u64>, reader: Weak<()>, call: &'a Call },
}

/// The memory of one block, and whom it runs ahead of where nobody has asked for it yet.
struct Granted {
    grant: Option<Grant>,
    reader: Weak<()>,
}

impl Grants<'_> {
    /// Waits until the next block may come; none where nobody will want it.
    async fn next(&mut self, block: ByteRange) -> Option<Granted> {
        match self {
            Self::Whole(grant) => {
                Some(Granted { grant: grant.split(block.len()), reader: Weak::new() })
            }
            Self::Ahead(_, reader, call) if is_pointless(reader, call, block) => None,
            Self::Ahead(grant, reader, call) => {
                let is_demanded = call.demanded() >= block.end;
                let reader = if is_demanded { Weak::new() } else { Weak::clone(reader) };
                Some(Granted { grant: grant.split(block.len()), reader })
            }
            Self::Each { fetcher, until, reader, call } => {
                drained(fetcher, until, reader, (call, block)).await
            }
        }
    }
}

/// The reader went elsewhere, and nobody else waits.
fn is_pointless(reader: &Weak<()>, call: &Call, range: ByteRange) -> bool {
    reader.strong_count() == 0 && call.demanded() <= range.start
}

async fn drained(
    fetcher: &Fetcher,
    until: &mut watch::Receiver<u64>,
    reader: &Weak<()>,
    (call, block): (&Call, ByteRange),
) -> Option<Granted> {
    loop {
        if call.demanded() >= block.end {
            let grant = Some(fetcher.budget.take(block.len()).await);
            return Some(Granted { grant, reader: Weak::new() });
        }
        let may_come = *until.borrow_and_update() >= block.end;
        if may_come && let Some(grant) = fetcher.spare(block.len()) {
            return Some(Granted { grant: Some(grant), reader: Weak::clone(reader) });
        }
        let patience = if may_come { LOOKED_FOR_MEMORY } else { DRAIN_IDLE };
        tokio::select! {
            () = call.is_demanded(block.start) => {}
            moved = until.changed() => if moved.is_err() && call.demanded() < block.end {
                return None;
            },
            () = tokio::time::sleep(patience) => if !may_come { return None },
        }
    }
}

/// A GET under way.
struct Flight<'a> {
    fetcher: &'a Fetcher,
    version: &'a Arc<Version>,
    /// From the first wanted block to the last.
    range: ByteRange,
    /// What has not landed yet.
    run: VecDeque<Landing>,
}

impl Flight<'_> {
    async fn land(&mut self, supply: Supply<'_>) -> Result<()> {
        if is_small(self.version) {
            self.land_verified(supply).await
        } else {
            self.land_as_it_comes(supply).await
        }
    }

    /// Lands each block when it is full, the last one when what came is not seen to be wrong.
    async fn land_as_it_comes(&mut self, mut supply: Supply<'_>) -> Result<()> {
        let is_drained = matches!(supply.grants, Grants::Each { .. });
        let mut arriving = self.fetcher.arriving(self.version, self.range.start);
        let mut body = self.open(Some(self.range)).await?;
        while let Some(landing) = self.run.front() {
            let wanted = landing.range();
            let Some(granted) = supply.grants.next(wanted).await else {
                // Before others come for the rest: what came counts.
                drop(arriving);
                self.run.clear();
                return Ok(());
            };
            let bytes = body.fill(wanted, &mut supply.promise, Some(landing)).await?;
            if let Some(arriving) = &mut arriving {
                arriving.update(&bytes);
            }
            let is_last = self.run.len() == 1;
            let arrived = arriving.take_if(|_| is_last);
            if let Some(condemned) = arrived.and_then(Arriving::settle) {
                self.fetcher.remove(condemned).await;
                // Who waits asks anew, and is told.
                self.run.clear();
                return Ok(());
            }
            if is_drained {
                supply.promise = self.fetcher.pool.promise(1);
            }
            let block = Block::new(wanted.start, bytes, granted.grant);
            if let Some(landing) = self.run.pop_front() {
                self.landed(landing, block.ahead_of(granted.reader));
            }
        }
        if !is_drained {
            self.fetcher.finished(body.started, body.answered, self.range.len());
        }
        Ok(())
    }

    /// Lands blocks of a small object when the checksum of all of it has been compared; what was
    /// wrong is fetched once more.
    async fn land_verified(&mut self, mut supply: Supply<'_>) -> Result<()> {
        let blocks = match self.gather(&mut supply.promise).await {
            Err(error) if error.is_damage() => {
                count_damage(&error);
                self.gather(&mut supply.promise).await.inspect_err(|error| {
                    if error.is_damage() {
                        count_damage(error);
                    }
                })?
            }
            gathered => gathered?,
        };
        for (start, bytes) in blocks {
            let Some(landing) = self.run.pop_front() else { break };
            // Nobody wants the rest any more.
            let Some(granted) = supply.grants.next(landing.range()).await else { break };
            let block = Block::new(start, bytes, granted.grant);
            self.landed(landing, block.ahead_of(granted.reader));
        }
        Ok(())
    }

    fn landed(&self, landing: Landing, block: Block) {
        let block = Arc::new(block);
        if let Some(disk) = &self.fetcher.disk {
            disk.offer(&landing.key().version, landing.key().index, &block);
        }
        landing.land(block);
    }

    /// Fetches all of the object, and keeps what is wanted of it.
    async fn gather(&self, promise: &mut Promise) -> Result<Vec<(u64, Bytes)>> {
        let mut body = self.open(None).await?;
        let mut blocks = Vec::with_capacity(self.run.len());
        for landing in &self.run {
            let wanted = landing.range();
            body.pass_to(wanted.start).await?;
            blocks.push((wanted.start, body.fill(wanted, promise, None).await?));
        }
        body.pass_to(self.version.size).await?;
        body.end().await?;
        self.fetcher.finished(body.started, body.answered, self.version.size);
        Ok(blocks)
    }

    /// A store tells the checksum of an object only to those who ask for all of it: no `range`.
    async fn open(&self, range: Option<ByteRange>) -> Result<Body> {
        let pin = GetPin::Version(Version::clone(self.version));
        let wanted = range.unwrap_or(ByteRange::new(0, self.version.size));
        let started = self.fetcher.clock.now();
        let response = self.fetcher.store.get(&GetRequest { pin, range }).await?;
        if response.range != wanted {
            let said = format!("asked for {wanted}, and {} came", response.range);
            let error = Error::new(Operation::Get, ErrorKind::Damaged(said));
            return Err(error.with_key(&self.version.key));
        }
        let answered = self.fetcher.clock.now();
        let (frames, at) = (response.body, wanted.start);
        Ok(Body { frames, spare: Bytes::new(), at, started, answered })
    }
}

fn count_damage(error: &Error) {
    metrics::counter!(DAMAGED).increment(1);
    tracing::warn!(%error, "an object did not arrive as it was stored");
}

/// The body of a GET, cut into blocks.
struct Body {
    frames: BoxStream<'static, Result<Bytes>>,
    /// What is left of the last frame.
    spare: Bytes,
    /// Where that is in the object.
    at: u64,
    started: Instant,
    answered: Instant,
}

impl Body {
    /// Gathers exactly one block; `shown` tells of its progress. The copy is wanted: a slice of a
    /// frame would keep the whole frame in memory, uncounted.
    async fn fill(
        &mut self,
        wanted: ByteRange,
        promise: &mut Promise,
        shown: Option<&Landing>,
    ) -> Result<Bytes> {
        let size = usize::try_from(wanted.len()).unwrap_or(usize::MAX);
        let mut bytes = Gathered::new(wanted, promise);
        while bytes.len() < size {
            bytes.append(&self.next(size - bytes.len()).await?);
            if let Some(landing) = shown {
                landing.progress(bytes.filled());
            }
        }
        Ok(bytes.freeze())
    }

    /// Lets go of what comes before `place`: somebody has it already.
    async fn pass_to(&mut self, place: u64) -> Result<()> {
        while self.at < place {
            self.next(usize::try_from(place - self.at).unwrap_or(usize::MAX)).await?;
        }
        Ok(())
    }

    /// The next bytes, of `missing` that are to come.
    async fn next(&mut self, missing: usize) -> Result<Bytes> {
        if self.spare.is_empty() {
            let Some(frame) = self.frames.next().await else { return Err(ended_early(missing)) };
            self.spare = frame?;
        }
        let next = self.spare.split_to(self.spare.len().min(missing));
        self.at += next.len() as u64;
        Ok(next)
    }

    /// Waits for the end of a body all of whose bytes have come.
    async fn end(&mut self) -> Result<()> {
        match self.frames.next().await {
            None => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(more)) => {
                let said = format!("{} bytes more than the object has", more.len());
                Err(Error::new(Operation::Get, ErrorKind::Damaged(said)))
            }
        }
    }
}

fn ended_early(missing: usize) -> Error {
    let said = format!("the body ended {missing} bytes early");
    Error::new(Operation::Get, ErrorKind::Damaged(said))
}

/// A block while it is gathered. The short block at an object's end, and with it every small
/// object, takes only what it needs.
enum Gathered {
    Whole(Buffer),
    Short(BytesMut),
}

impl Gathered {
    fn new(wanted: ByteRange, promise: &mut Promise) -> Self {
        if wanted.len() == BLOCK_SIZE {
            Self::Whole(promise.buffer())
        } else {
            Self::Short(BytesMut::with_capacity(usize::try_from(wanted.len()).unwrap_or(0)))
        }
    }

    fn len(&self) -> usize {
        self.filled().len()
    }

    fn filled(&self) -> &[u8] {
        match self {
            Self::Whole(buffer) => buffer.as_ref(),
            Self::Short(bytes) => bytes,
        }
    }

    fn append(&mut self, part: &[u8]) {
        match self {
            Self::Whole(buffer) => buffer.append(part),
            Self::Short(bytes) => bytes.extend_from_slice(part),
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Whole(buffer) => buffer.freeze(),
            Self::Short(bytes) => bytes.freeze(),
        }
    }
}
