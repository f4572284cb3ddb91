//! Whether an object arrived as it was stored, where it came in pieces.
//!
//! Owns the checksums of the pieces that came, by version, until they are all of it, and the
//! comparison with what the store keeps of the whole. Promises: nothing is asked of the store for
//! it; a version of which the store has told nothing costs nothing, and what is kept of the others
//! is bounded. Must not know who told, nor what becomes of bytes that are wrong.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::Notify;

use crate::store::{Checksum, Error, ErrorKind, Operation, Summed, Summing, Version};

/// Versions that are being compared: those that were opened last.
const VERSIONS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");

/// Pieces of one version that do not adjoin, some 50 bytes each: one that is read here and there
/// will not be whole for long, and the table stays below a MiB.
const PIECES_MAX: usize = 64;

/// What is known of versions that come in pieces.
#[derive(Debug)]
pub(super) struct Proofs {
    known: Mutex<LruCache<Arc<Version>, Known>>,
    /// Some version was wrong once: who reads has to look.
    any_wrong: AtomicBool,
    /// Versions that are going.
    going: AtomicUsize,
    gone: Notify,
}

/// A version whose checksum the store has told.
#[derive(Debug)]
struct Known {
    told: Checksum,
    seen: Seen,
    /// Bytes of it were given out that are not what was stored, and nobody has been told yet.
    is_wrong: bool,
}

#[derive(Debug)]
enum Seen {
    /// By their start; none adjoins another.
    Pieces(BTreeMap<u64, Summed>),
    /// It was compared.
    Proven,
    /// It is read here and there: only all of it at once can be compared.
    Scattered,
    /// It was compared, and is not what was stored: what is kept of it goes.
    Going,
}

impl Default for Seen {
    fn default() -> Self {
        Self::Pieces(BTreeMap::new())
    }
}

impl Seen {
    /// Adds a piece that came; one that came before, in part, is left out unless it lies within.
    fn add(&mut self, mut start: u64, mut sum: Summed) {
        let Self::Pieces(pieces) = self else { return };
        let end = start + sum.len();
        let overlaps = |(from, other): (&u64, &Summed)| {
            let to = from + other.len();
            (*from < end && to > start).then_some((*from, to))
        };
        let overlapping: Vec<(u64, u64)> = pieces.iter().filter_map(overlaps).collect();
        if sum.is_empty() || overlapping.iter().any(|(from, to)| *from < start || *to > end) {
            return;
        }
        for (from, _) in overlapping {
            pieces.remove(&from);
        }
        if let Some((before, other)) = pieces.range(..start).next_back()
            && before + other.len() == start
        {
            (start, sum) = (*before, other.then(sum));
        }
        if let Some(next) = pieces.remove(&end) {
            sum = sum.then(next);
        }
        pieces.insert(start, sum);
        if pieces.len() > PIECES_MAX {
            *self = Self::Scattered;
        }
    }

    /// What all of the pieces come to, where they are `size` bytes.
    fn whole(&self, size: u64) -> Option<Summed> {
        match self {
            Self::Pieces(pieces) => pieces.get(&0).copied().filter(|sum| sum.len() == size),
            _ => None,
        }
    }
}

impl Default for Proofs {
    fn default() -> Self {
        let known = Mutex::new(LruCache::new(VERSIONS_MAX));
        let (any_wrong, going) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { known, any_wrong, going, gone: Notify::new() }
    }
}

impl Proofs {
    /// The store has told the checksum of a version.
    pub(super) fn expect(&self, version: &Arc<Version>, told: Checksum) {
        // Without an entity tag other bytes may be told as the same version.
        if version.etag.is_none() {
            return;
        }
        let mut known = self.lock();
        match known.get_mut(version) {
            Some(known) if known.told == told => {}
            Some(Known { told: before, seen: Seen::Going, .. }) => *before = told,
            Some(known) => (known.told, known.seen) = (told, Seen::default()),
            None => {
                let new = Known { told, seen: Seen::default(), is_wrong: false };
                known.put(Arc::clone(version), new);
            }
        }
    }

    /// What all of a version is to be compared with, where it was not yet.
    pub(super) fn open(&self, version: &Arc<Version>) -> Option<Checksum> {
        let mut known = self.lock();
        let known = known.get(version)?;
        (!matches!(known.seen, Seen::Proven)).then_some(known.told)
    }

    /// A piece begins to come, from `start`; none where it need not be looked at.
    pub(super) fn begin(self: &Arc<Self>, version: &Arc<Version>, start: u64) -> Option<Arriving> {
        let kind = match self.lock().get(version)? {
            Known { told, seen: Seen::Pieces(_), .. } => told.kind,
            _ => return None,
        };
        let (proofs, version) = (Arc::clone(self), Arc::clone(version));
        Some(Arriving { proofs, version, start, summing: Summing::new(kind) })
    }

    /// All of a version was seen to be what was told.
    pub(super) fn note_proven(&self, version: &Arc<Version>) {
        let mut known = self.lock();
        let known = known.get_mut(version).filter(|known| !matches!(known.seen, Seen::Going));
        if let Some(known) = known {
            known.seen = Seen::Proven;
        }
    }

    /// What is kept of a version is not what was stored. None where it goes already.
    pub(super) fn condemn(self: &Arc<Self>, version: &Arc<Version>) -> Option<Condemned> {
        let mut known = self.lock();
        let known = known.get_mut(version).filter(|known| !matches!(known.seen, Seen::Going))?;
        known.seen = Seen::Going;
        self.going.fetch_add(1, Ordering::AcqRel);
        Some(Condemned { proofs: Arc::clone(self), version: Arc::clone(version) })
    }

    /// Waits while a version goes: what came in between would be kept, and not be compared.
    pub(super) async fn is_steady(&self, version: &Arc<Version>) {
        loop {
            let gone = self.gone.notified();
            let is_going = || {
                let known = self.lock();
                known.peek(version).is_some_and(|known| matches!(known.seen, Seen::Going))
            };
            if self.going.load(Ordering::Acquire) == 0 || !is_going() {
                return;
            }
            gone.await;
        }
    }

    /// True once after a version was found to be wrong: who has read of it has to be told.
    pub(super) fn take_wrong(&self, version: &Arc<Version>) -> bool {
        if !self.any_wrong.load(Ordering::Acquire) {
            return false;
        }
        let mut known = self.lock();
        known.get_mut(version).is_some_and(|known| std::mem::take(&mut known.is_wrong))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Arc<Version>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What those are told who have read of a version that is wrong.
pub(super) fn wrong(version: &Version) -> Error {
    Error::new(Operation::Get, ErrorKind::NotAsStored).with_key(&version.key)
}

/// The duty to remove what is kept of a version that is wrong. Dropping it says that it is done:
/// from then on pieces are compared anew, and who reads is told.
#[derive(Debug)]
pub(super) struct Condemned {
    proofs: Arc<Proofs>,
    version: Arc<Version>,
}

impl Condemned {
    /// Which version.
    pub(super) const fn version(&self) -> &Arc<Version> {
        &self.version
    }
}

impl Drop for Condemned {
    fn drop(&mut self) {
        if let Some(known) = self.proofs.lock().get_mut(&self.version) {
            (known.seen, known.is_wrong) = (Seen::default(), true);
        }
        self.proofs.any_wrong.store(true, Ordering::Release);
        self.proofs.going.fetch_sub(1, Ordering::AcqRel);
        self.proofs.gone.notify_waiters();
    }
}

/// A piece on its way. What came of it counts, however far that was.
#[derive(Debug)]
pub(super) struct Arriving {
    proofs: Arc<Proofs>,
    version: Arc<Version>,
    start: u64,
    summing: Summing,
}

impl Arriving {
    /// The next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.summing.update(bytes);
    }

    /// The piece has come, all of it. Where it was the last of the version, and they are not what
    /// the store keeps, the duty to remove them.
    pub(super) fn settle(self) -> Option<Condemned> {
        let (proofs, version) = (Arc::clone(&self.proofs), Arc::clone(&self.version));
        drop(self);
        {
            let mut known = proofs.lock();
            let known = known.get_mut(&version)?;
            let whole = known.seen.whole(version.size)?;
            if whole.checksum() == known.told {
                known.seen = Seen::Proven;
                return None;
            }
        }
        proofs.condemn(&version)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(known) = self.proofs.lock().get_mut(&self.version) {
            known.seen.add(self.start, self.summing.summed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures::FutureExt;

    use super::*;
    use crate::naming::Key;
    use crate::store::ChecksumKind;

    const BYTES: &[u8] = b"the quick brown fox";

    fn summed(bytes: &[u8]) -> Summed {
        let mut summing = Summing::new(ChecksumKind::Crc64Nvme);
        summing.update(bytes);
        summing.summed()
    }

    fn version(key: &str, size: usize) -> Arc<Version> {
        Arc::new(Version {
            key: Key::from(key),
            etag: Some("\"1\"".into()),
            version_id: None,
            size: size as u64,
            last_modified: SystemTime::UNIX_EPOCH,
        })
    }

    /// What the comparison comes to when these pieces have come.
    fn come(proofs: &Arc<Proofs>, version: &Arc<Version>, pieces: &[(u64, &[u8])]) -> Vec<bool> {
        let settle = |(start, bytes): &(u64, &[u8])| {
            let mut arriving = proofs.begin(version, *start)?;
            arriving.update(bytes);
            Some(arriving.settle().is_none())
        };
        pieces.iter().map_while(settle).collect()
    }

    #[test]
    fn pieces_in_any_order_come_to_the_whole() {
        for cuts in [[0, 4, 10], [4, 10, 0], [10, 0, 4], [10, 4, 0]] {
            let mut seen = Seen::default();
            for start in cuts {
                assert_eq!(seen.whole(BYTES.len() as u64), None);
                let end = [4, 10, BYTES.len()].into_iter().find(|end| *end > start).unwrap();
                seen.add(start as u64, summed(&BYTES[start..end]));
            }
            assert_eq!(seen.whole(BYTES.len() as u64), Some(summed(BYTES)));
        }
    }

    #[test]
    fn what_came_twice_counts_once() {
        let mut seen = Seen::default();
        seen.add(4, summed(&BYTES[4..8]));
        seen.add(6, summed(&BYTES[6..10]));
        assert!(matches!(&seen, Seen::Pieces(pieces) if pieces.len() == 1), "{seen:?}");
        seen.add(0, summed(&BYTES[..12]));
        seen.add(12, summed(&BYTES[12..]));
        assert_eq!(seen.whole(BYTES.len() as u64), Some(summed(BYTES)));
    }

    #[test]
    fn a_wrong_byte_is_seen_by_the_piece_that_comes_last_and_told_once() {
        let (proofs, version) = (Arc::new(Proofs::default()), version("a", BYTES.len()));
        assert!(proofs.begin(&version, 0).is_none(), "nothing was told of it");
        proofs.expect(&version, summed(BYTES).checksum());
        assert_eq!(come(&proofs, &version, &[(4, b"quack brown fox")]), [true]);
        let mut last = proofs.begin(&version, 0).unwrap();
        last.update(b"the ");
        let condemned = last.settle().unwrap();
        assert!(proofs.condemn(&version).is_none() && proofs.begin(&version, 0).is_none());
        assert!(proofs.is_steady(&version).now_or_never().is_none(), "it is about to go");
        assert!(!proofs.take_wrong(&version));
        drop(condemned);
        assert!(proofs.is_steady(&version).now_or_never().is_some());
        let pieces = [(4, &BYTES[4..]), (0, &BYTES[..4])];
        assert_eq!(come(&proofs, &version, &pieces), [true, true]);
        assert_eq!(proofs.open(&version), None, "it is proven");
        assert!(proofs.begin(&version, 0).is_none());
        assert!(proofs.take_wrong(&version));
        assert!(!proofs.take_wrong(&version));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let proofs = Arc::new(Proofs::default());
        let told = summed(BYTES).checksum();
        let first = version("first", 1 << 20);
        proofs.expect(&first, told);
        for index in 0..2 * PIECES_MAX as u64 {
            come(&proofs, &first, &[(index * 100, BYTES)]);
        }
        assert!(proofs.begin(&first, 0).is_none(), "it is read here and there");
        assert_eq!(proofs.open(&first), Some(told), "all of it at once can be compared");
        for number in 0..VERSIONS_MAX.get() {
            proofs.expect(&version(&number.to_string(), 5), told);
        }
        assert_eq!(proofs.open(&first), None);
    }
}
