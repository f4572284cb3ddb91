//! Bytes that somebody waits for.
//!
//! Owns one read: the memory that reads under way may hold, the blocks it found or ordered, and
//! how they are joined. Promises: reads that wait for more never hold all of the memory, so that
//! one of them always goes on. Must not know how blocks are fetched.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use super::fetch::{Terms, is_small};
use super::flight::{Pending, Piece};
use super::{BLOCK_SIZE, Cache, proof};
use crate::store::{Error, ErrorKind, Operation, Result, Version};
use crate::units::{ByteRange, KIB};

/// A flight that was given up is asked for again so often. What this read has begun itself is
/// given up only when the mount ends; but each time it may meet what others have just begun ahead
/// of a reader and are about to give up.
const TRIES: u32 = 100;

/// A read under way: what is missing was ordered.
#[derive(Debug)]
pub struct Demand {
    cache: Cache,
    version: Arc<Version>,
    range: ByteRange,
    pending: Vec<Pending>,
    missed: u64,
    _admitted: Option<OwnedSemaphorePermit>,
}

impl Cache {
    /// Finds `range` of `version`, cut to its size, and orders what is missing.
    pub async fn demand(&self, version: &Arc<Version>, range: ByteRange) -> Demand {
        let range = range.intersect(ByteRange::new(0, version.size));
        let mut demand = Demand {
            cache: self.clone(),
            version: Arc::clone(version),
            range,
            pending: Vec::new(),
            missed: 0,
            _admitted: None,
        };
        if !range.is_empty() {
            demand._admitted = Some(self.admitted(range).await);
            demand.order();
        }
        demand
    }

    async fn admitted(&self, range: ByteRange) -> OwnedSemaphorePermit {
        let blocks = range.end.div_ceil(BLOCK_SIZE) - range.start / BLOCK_SIZE;
        let permits = u32::try_from(blocks * BLOCK_SIZE / KIB).unwrap_or(u32::MAX);
        self.0.reading.take(permits).await
    }
}

impl Demand {
    /// Bytes that were neither there nor on their way.
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// Where anything is missing of a small object, all of it is ordered: it comes with the GET.
    fn order(&mut self) {
        let comes_whole =
            is_small(&self.version) && !self.cache.is_known(&self.version, self.range);
        let whole = ByteRange::new(0, self.version.size);
        let sought = if comes_whole { whole } else { self.range };
        let mut missed = 0;
        let pending = self.cache.find(&self.version, sought, |run, call| {
            missed += run.iter().map(|landing| landing.range().len()).sum::<u64>();
            self.cache.launch(&self.version, run, call, Terms::Demand);
        });
        let range = self.range;
        let is_asked = |pending: &Pending| !pending.range().intersect(range).is_empty();
        self.pending = pending.into_iter().filter(is_asked).collect();
        self.pending.iter().for_each(Pending::demand);
        self.missed += missed;
    }

    /// Waits for the bytes.
    ///
    /// # Errors
    /// What the store said of the GET that was to bring one of the blocks.
    pub async fn bytes(mut self) -> Result<Bytes> {
        for attempt in 0..TRIES {
            if self.cache.takes_damage(&self.version) {
                return Err(proof::wrong(&self.version));
            }
            if attempt > 0 {
                // Whoever gives up what is met gets his turn.
                tokio::task::yield_now().await;
                self.order();
            }
            if let Some(found) = self.pieces().await {
                return found.map(|pieces| self.joined(&pieces));
            }
        }
        let ending = ErrorKind::Connection("the mount is ending".to_owned());
        Err(Error::new(Operation::Get, ending).with_key(&self.version.key))
    }

    /// None where a flight was given up.
    async fn pieces(&mut self) -> Option<Result<Vec<Piece>>> {
        let mut pieces = Vec::with_capacity(self.pending.len());
        // The last one first: when it has landed the others of its flight have, so that a read of
        // eight blocks is woken once.
        for pending in std::mem::take(&mut self.pending).into_iter().rev() {
            match pending.wait(self.range).await? {
                Ok(piece) => pieces.push(piece),
                Err(error) => return Some(Err(error)),
            }
        }
        pieces.reverse();
        Some(Ok(pieces))
    }

    /// The copy is made when all is there, since it is counted nowhere: the kernel has up to 64
    /// reads of 1 MiB waiting.
    fn joined(&self, pieces: &[Piece]) -> Bytes {
        if let [only] = pieces {
            return only.slice(self.range);
        }
        let mut joined = BytesMut::with_capacity(usize::try_from(self.range.len()).unwrap_or(0));
        for piece in pieces {
            joined.extend_from_slice(&piece.slice(self.range));
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::memory::Block;
    use super::super::{BlockKey, flight::Landing};
    use super::*;
    use crate::budget::Budget;
    use crate::naming::Key;
    use crate::store::s3::{Credentials, S3Settings, S3Store};
    use crate::units::MIB;

    /// A cache in front of nothing.
    async fn cache() -> Cache {
        let [access_key_id, secret_access_key] = ["key", "secret"].map(str::to_owned);
        let settings = S3Settings {
            endpoint_url: Some("http://127.0.0.1:9".to_owned()),
            region: Some("us-east-1".to_owned()),
            credentials: Some(Credentials {
                access_key_id,
                secret_access_key,
                session_token: None,
            }),
            ..S3Settings::new("bucket")
        };
        let store = S3Store::connect(settings).await.unwrap();
        Cache::new(Arc::new(store), Budget::new(64 * MIB))
    }

    fn begin(cache: &Cache, key: &BlockKey) -> Landing {
        let (call, memory) = (Arc::default(), cache.memory());
        cache.0.flights.join_or_begin(key.clone(), memory, &call).1.unwrap()
    }

    #[tokio::test]
    async fn a_read_outlasts_flights_that_are_given_up() {
        let cache = cache().await;
        let version = Arc::new(Version {
            key: Key::from("f"),
            etag: Some("\"1\"".into()),
            version_id: None,
            size: 5,
            last_modified: UNIX_EPOCH,
        });
        let key = BlockKey { version: Arc::clone(&version), index: 0 };
        let mut landing = begin(&cache, &key);
        let (own, range) = (cache.clone(), key.range());
        let reading = tokio::spawn(async move { own.get_or_fetch(&version, range).await });
        for _ in 0..10 {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            drop(landing);
            landing = begin(&cache, &key);
        }
        landing.land(Arc::new(Block::new(0, Bytes::from_static(b"hello"), None)));
        assert_eq!(reading.await.unwrap().unwrap(), "hello");
    }
}
