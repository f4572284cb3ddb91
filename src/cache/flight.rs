//! Blocks on their way: one flight per block, whoever asks.
//!
//! Owns the map of blocks that a GET is bringing and those who wait for them. Who waits is woken
//! as soon as the bytes are there that he wants, although the block is not whole. A flight that
//! fails tells everyone who waits; one that is given up makes them ask anew. Must not know how a
//! GET is made, nor who reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::BlockKey;
use super::memory::{Block, Memory};
use crate::store::{Error, Result};
use crate::units::ByteRange;

/// What there is of a block on its way.
#[derive(Debug, Default)]
struct Arrived {
    /// Its first bytes, where somebody wanted no more.
    prefix: Bytes,
    outcome: Option<Result<Arc<Block>>>,
}

/// One GET, as those see it who wait for some of its blocks.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// Up to where somebody waits. What is partly on disk is several GETs, each of which looks.
    demanded: watch::Sender<u64>,
}

impl Call {
    fn demand(&self, end: u64) {
        self.demanded.send_if_modified(|demanded| {
            let is_more = *demanded < end;
            *demanded = end.max(*demanded);
            is_more
        });
    }

    /// Up to where somebody waits; 0 where nobody does.
    pub(super) fn demanded(&self) -> u64 {
        *self.demanded.borrow()
    }

    /// Waits until somebody waits for what is at `place`, or behind it.
    pub(super) async fn is_demanded(&self, place: u64) {
        // It lives as long as this call does.
        let _ = self.demanded.subscribe().wait_for(|demanded| *demanded > place).await;
    }
}

/// A block on its way.
#[derive(Clone, Debug)]
struct Coming {
    arrived: watch::Receiver<Arrived>,
    /// The least offset in the block up to which somebody wants it; `u64::MAX` for the whole.
    wanted: Arc<AtomicU64>,
    call: Arc<Call>,
}

type Waiting = HashMap<BlockKey, Coming>;

/// The blocks on their way.
#[derive(Debug, Default)]
pub(super) struct Flights(Arc<Mutex<Waiting>>);

/// A block that is there or will be.
#[derive(Debug)]
pub(super) struct Pending {
    key: BlockKey,
    found: Found,
}

#[derive(Debug)]
enum Found {
    Here(Arc<Block>),
    Coming(Coming),
}

/// Bytes of a block, whole or its beginning.
#[derive(Debug)]
pub(super) enum Piece {
    Whole(Arc<Block>),
    Prefix(u64, Bytes),
}

impl Piece {
    /// The bytes that lie in `range` of the object.
    pub(super) fn slice(&self, range: ByteRange) -> Bytes {
        match self {
            Self::Whole(block) => block.slice(range),
            Self::Prefix(start, bytes) => Block::new(*start, bytes.clone(), None).slice(range),
        }
    }
}

impl Pending {
    /// Where the block's bytes are in the object.
    pub(super) fn range(&self) -> ByteRange {
        self.key.range()
    }

    /// Says that somebody waits for the block now.
    pub(super) fn demand(&self) {
        if let Found::Coming(coming) = &self.found {
            coming.call.demand(self.key.range().end);
        }
    }

    /// The block's bytes up to the end of `range`; none where the flight was given up.
    pub(super) async fn wait(self, range: ByteRange) -> Option<Result<Piece>> {
        let Coming { mut arrived, wanted, .. } = match self.found {
            Found::Here(block) => return Some(Ok(Piece::Whole(block))),
            Found::Coming(coming) => coming,
        };
        let own = self.key.range();
        let end = own.intersect(range).end - own.start;
        loop {
            if end < own.len() {
                wanted.fetch_min(end, Ordering::AcqRel);
            }
            {
                let seen = arrived.borrow_and_update();
                if let Some(outcome) = &seen.outcome {
                    return Some(outcome.clone().map(Piece::Whole));
                }
                if seen.prefix.len() as u64 >= end {
                    return Some(Ok(Piece::Prefix(own.start, seen.prefix.clone())));
                }
            }
            if arrived.changed().await.is_err() {
                let outcome = arrived.borrow().outcome.clone();
                return outcome.map(|outcome| outcome.map(Piece::Whole));
            }
        }
    }
}

/// The duty to bring one block: [`Landing::land`] fulfils it, dropping it gives it up.
#[derive(Debug)]
pub(super) struct Landing {
    key: BlockKey,
    arrived: watch::Sender<Arrived>,
    wanted: Arc<AtomicU64>,
    flights: Arc<Mutex<Waiting>>,
    memory: Arc<Memory>,
}

impl Landing {
    /// Which block.
    pub(super) const fn key(&self) -> &BlockKey {
        &self.key
    }

    /// Where the block's bytes are in the object.
    pub(super) fn range(&self) -> ByteRange {
        self.key.range()
    }

    /// `filled` is the block's beginning: it is shown to those who want no more.
    pub(super) fn progress(&self, filled: &[u8]) {
        if self.wanted.load(Ordering::Acquire) == u64::MAX {
            return;
        }
        let wanted = self.wanted.swap(u64::MAX, Ordering::AcqRel);
        if wanted <= filled.len() as u64 {
            let prefix = Bytes::copy_from_slice(filled);
            self.arrived.send_modify(|arrived| arrived.prefix = prefix);
        } else {
            self.wanted.fetch_min(wanted, Ordering::AcqRel);
        }
    }

    pub(super) fn land(self, block: Arc<Block>) {
        self.memory.insert(self.key.clone(), Arc::clone(&block));
        self.arrived.send_modify(|arrived| arrived.outcome = Some(Ok(block)));
    }

    pub(super) fn fail(self, error: &Error) {
        self.arrived.send_modify(|arrived| arrived.outcome = Some(Err(error.clone())));
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

    /// The block from memory or from a flight under way; else a new duty to bring it with `call`.
    pub(super) fn join_or_begin(
        &self,
        key: BlockKey,
        memory: &Arc<Memory>,
        call: &Arc<Call>,
    ) -> (Pending, Option<Landing>) {
        let mut waiting = self.lock();
        if let Some(coming) = waiting.get(&key) {
            let found = Found::Coming(coming.clone());
            return (Pending { key, found }, None);
        }
        // Under the lock, since a landing block enters memory before it leaves the map.
        if let Some(block) = memory.get(&key) {
            return (Pending { key, found: Found::Here(block) }, None);
        }
        let (sender, arrived) = watch::channel(Arrived::default());
        let wanted = Arc::new(AtomicU64::new(u64::MAX));
        let coming = Coming { arrived, wanted: Arc::clone(&wanted), call: Arc::clone(call) };
        waiting.insert(key.clone(), coming.clone());
        let (flights, memory) = (Arc::clone(&self.0), Arc::clone(memory));
        let landing = Landing { key: key.clone(), arrived: sender, wanted, flights, memory };
        (Pending { key, found: Found::Coming(coming) }, Some(landing))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::BLOCK_SIZE;
    use super::*;

    #[test]
    fn whoever_waits_wakes_each_get_that_brings_what_is_before_him() {
        let call = Call::default();
        let mut gets = [0, 4, 8].map(|block| Box::pin(call.is_demanded(block * BLOCK_SIZE)));
        let mut woken = || gets.each_mut().map(|get| get.now_or_never().is_some());
        assert_eq!(woken(), [false; 3]);
        call.demand(5 * BLOCK_SIZE);
        assert_eq!(woken(), [true, true, false]);
        assert_eq!(call.demanded(), 5 * BLOCK_SIZE);
        assert!(call.is_demanded(4 * BLOCK_SIZE).now_or_never().is_some(), "he waits still");
    }
}
