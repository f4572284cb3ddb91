//! Blocks on their way: one flight per block, whoever asks.
//!
//! Owns the map of blocks that a GET is bringing and those who wait for them, and the GET itself
//! ([`fly`]). A flight that fails, or that is dropped, tells everyone who waits and leaves no
//! trace, so that the next reader asks anew. Must not know who reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::watch;

use super::memory::{Block, Memory};
use super::pool::{Buffer, Pool, Promise};
use super::{BLOCK_SIZE, BlockKey};
use crate::budget::{Budget, Grant};
use crate::store::{Error, ErrorKind, GetPin, GetRequest, ObjectStore, Operation, Result, Version};
use crate::units::ByteRange;

type Outcome = Option<Result<Arc<Block>>>;
type Waiting = HashMap<BlockKey, watch::Receiver<Outcome>>;

/// The blocks on their way.
#[derive(Debug, Default)]
pub(super) struct Flights(Arc<Mutex<Waiting>>);

/// A block that is there or will be.
pub(super) enum Pending {
    Here(Arc<Block>),
    Coming(watch::Receiver<Outcome>),
}

impl Pending {
    pub(super) async fn wait(self) -> Result<Arc<Block>> {
        let mut coming = match self {
            Self::Here(block) => return Ok(block),
            Self::Coming(coming) => coming,
        };
        let outcome = coming.wait_for(Option::is_some).await.ok().and_then(|seen| seen.clone());
        outcome.unwrap_or_else(|| {
            // The flight was cancelled with the cache: the mount is ending.
            Err(Error::new(Operation::Get, ErrorKind::Connection("the mount is ending".into())))
        })
    }
}

/// The duty to bring one block: [`Landing::land`] fulfils it, dropping it reports a failure.
pub(super) struct Landing {
    key: BlockKey,
    outcome: watch::Sender<Outcome>,
    flights: Arc<Mutex<Waiting>>,
    memory: Arc<Memory>,
}

impl Landing {
    fn land(self, block: Block) {
        let block = Arc::new(block);
        self.memory.insert(self.key.clone(), Arc::clone(&block));
        self.outcome.send_replace(Some(Ok(block)));
    }

    fn fail(self, error: &Error) {
        self.outcome.send_replace(Some(Err(error.clone())));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Flights {
    pub(super) fn has(&self, key: &BlockKey) -> bool {
        self.lock().contains_key(key)
    }

    /// The block from memory or from a flight under way; else a new duty to bring it.
    pub(super) fn join_or_begin(
        &self,
        key: &BlockKey,
        memory: &Arc<Memory>,
    ) -> (Pending, Option<Landing>) {
        let mut waiting = self.lock();
        if let Some(coming) = waiting.get(key) {
            return (Pending::Coming(coming.clone()), None);
        }
        // Under the lock, since a landing block enters memory before it leaves the map.
        if let Some(block) = memory.get(key) {
            return (Pending::Here(block), None);
        }
        let (outcome, coming) = watch::channel(None);
        waiting.insert(key.clone(), coming.clone());
        let (flights, memory) = (Arc::clone(&self.0), Arc::clone(memory));
        let landing = Landing { key: key.clone(), outcome, flights, memory };
        (Pending::Coming(coming), Some(landing))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches a run of adjacent blocks with one GET and lands each as soon as it is full.
pub(super) async fn fly(
    store: Arc<dyn ObjectStore>,
    budget: Arc<Budget>,
    pool: Arc<Pool>,
    version: Arc<Version>,
    run: Vec<Landing>,
) {
    let Some(range) = span(&run) else { return };
    // Before the grant: what is evicted for it is what these blocks will lie in.
    let promise = pool.promise(run.len());
    let grant = budget.take(range.len()).await;
    let mut run = run.into_iter();
    if let Err(error) = land_all(&*store, &version, range, (grant, promise), &mut run).await {
        run.for_each(|landing| landing.fail(&error));
    }
}

fn span(run: &[Landing]) -> Option<ByteRange> {
    let (first, last) = (run.first()?, run.last()?);
    Some(ByteRange::new(first.key.range().start, last.key.range().end))
}

async fn land_all(
    store: &dyn ObjectStore,
    version: &Version,
    range: ByteRange,
    (mut grant, mut promise): (Grant, Promise),
    run: &mut std::vec::IntoIter<Landing>,
) -> Result<()> {
    let pin = GetPin::Version(version.clone());
    let mut body = store.get(&GetRequest { pin, range: Some(range) }).await?.body;
    let mut spare = Bytes::new();
    while let Some(wanted) = run.as_slice().first().map(|landing| landing.key.range()) {
        let bytes = fill(&mut body, &mut spare, wanted, &mut promise).await?;
        let landed = Block::new(wanted.start, bytes, grant.split(wanted.len()));
        if let Some(landing) = run.next() {
            landing.land(landed);
        }
    }
    Ok(())
}

/// Gathers exactly one block from the body's frames; what is left of the last frame stays spare.
/// The copy is wanted: a slice of a frame would keep the whole frame in memory, uncounted.
async fn fill(
    body: &mut (impl StreamExt<Item = Result<Bytes>> + Unpin),
    spare: &mut Bytes,
    wanted: ByteRange,
    promise: &mut Promise,
) -> Result<Bytes> {
    let size = usize::try_from(wanted.len()).unwrap_or(usize::MAX);
    let mut bytes = Gathered::new(wanted, promise);
    while bytes.len() < size {
        if spare.is_empty() {
            *spare = match body.next().await {
                Some(frame) => frame?,
                None => {
                    let said = format!("the body ended {} bytes early", size - bytes.len());
                    return Err(Error::new(Operation::Get, ErrorKind::Damaged(said)));
                }
            };
        }
        bytes.append(&spare.split_to(spare.len().min(size - bytes.len())));
    }
    Ok(bytes.freeze())
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
        match self {
            Self::Whole(buffer) => buffer.len(),
            Self::Short(bytes) => bytes.len(),
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
