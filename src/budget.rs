//! One budget of memory for everything that holds file bytes.
//!
//! Owns how many bytes are taken and who waits. Bytes are granted in order of asking, in whole
//! KiB. What holds bytes that it can do without (the block cache) registers a reclaimer, which is
//! asked whenever someone would wait. The budget may change while bytes of it are taken. Must not
//! know what the bytes are for.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::bound::Bound;
use crate::units::KIB;

/// While someone waits, the reclaimer is asked again this often: bytes that were in use when it
/// was asked first may have become spare.
const RECLAIM_EVERY: Duration = Duration::from_millis(20);

/// A bounded number of bytes.
pub struct Budget {
    kibibytes: Bound,
    reclaim: OnceLock<Box<dyn Fn(u64) + Send + Sync>>,
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Grant {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { kibibytes: Bound::new(permits(limit / KIB)), reclaim: OnceLock::new() })
    }

    /// The whole budget in bytes.
    pub fn limit(&self) -> u64 {
        u64::from(self.kibibytes.size()) * KIB
    }

    /// Bytes that nobody holds.
    pub fn available(&self) -> u64 {
        self.kibibytes.available() as u64 * KIB
    }

    /// Changes the whole budget, and waits until what is taken fits into it. One change at a time.
    pub async fn resize(&self, limit: u64) {
        let surplus = self.limit().saturating_sub(limit);
        self.pressing(surplus, self.kibibytes.resize(permits(limit / KIB))).await;
    }

    /// Registers what gives bytes back when asked for so many; the first registration stays.
    pub fn set_reclaimer(&self, reclaim: impl Fn(u64) + Send + Sync + 'static) {
        // A second cache on one budget would be a second composition root.
        let _first_stays = self.reclaim.set(Box::new(reclaim));
    }

    /// Takes `bytes` if they are there now, without waiting and without pushing anyone out.
    pub fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Grant> {
        let permit = self.kibibytes.try_take(permits(bytes.div_ceil(KIB)))?;
        Some(Grant { permit })
    }

    /// Takes `bytes`, waiting for its turn. A request larger than the whole budget is granted the
    /// whole budget, so that it ends.
    pub async fn take(self: &Arc<Self>, bytes: u64) -> Grant {
        let wanted = self.kibibytes.take(permits(bytes.div_ceil(KIB)));
        Grant { permit: self.pressing(bytes, wanted).await }
    }

    /// Waits for something that `bytes` given back would let happen.
    async fn pressing<T>(&self, bytes: u64, awaited: impl Future<Output = T>) -> T {
        tokio::pin!(awaited);
        loop {
            tokio::select! {
                biased;
                done = &mut awaited => return done,
                () = self.press(bytes) => {}
            }
        }
    }

    async fn press(&self, bytes: u64) {
        if let Some(reclaim) = self.reclaim.get() {
            reclaim(bytes);
        }
        tokio::time::sleep(RECLAIM_EVERY).await;
    }
}

fn permits(kibibytes: u64) -> u32 {
    u32::try_from(kibibytes).unwrap_or(u32::MAX)
}

impl Grant {
    /// Splits off `bytes` of this grant; none where it holds fewer.
    pub fn split(&mut self, bytes: u64) -> Option<Self> {
        let permits = usize::try_from(bytes.div_ceil(KIB)).ok()?;
        self.permit.split(permits).map(|permit| Self { permit })
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limit", &self.limit())
            .field("available", &self.available())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn bytes_come_back_when_a_grant_is_dropped() {
        let budget = Budget::new(64 * KIB);
        let grant = budget.take(48 * KIB).await;
        assert_eq!(budget.available(), 16 * KIB);
        assert!(budget.try_take(32 * KIB).is_none());
        drop(grant);
        assert_eq!(budget.available(), 64 * KIB);
    }

    #[tokio::test]
    async fn more_than_everything_is_everything() {
        let budget = Budget::new(8 * KIB);
        let grant = budget.take(1 << 40).await;
        assert_eq!(budget.available(), 0);
        drop(grant);
    }

    #[tokio::test]
    async fn whoever_waits_presses_the_reclaimer() {
        let budget = Budget::new(8 * KIB);
        let spare = Arc::new(Mutex::new(vec![budget.take(8 * KIB).await]));
        let reclaimed = Arc::clone(&spare);
        budget.set_reclaimer(move |_| reclaimed.lock().unwrap().clear());
        let grant = budget.take(4 * KIB).await;
        assert!(spare.lock().unwrap().is_empty());
        assert_eq!(budget.available(), 4 * KIB);
        drop(grant);
    }

    #[tokio::test]
    async fn a_budget_that_shrinks_presses_the_reclaimer_too() {
        let budget = Budget::new(8 * KIB);
        let spare = Arc::new(Mutex::new(vec![budget.take(6 * KIB).await]));
        let reclaimed = Arc::clone(&spare);
        budget.set_reclaimer(move |_| reclaimed.lock().unwrap().clear());
        budget.resize(4 * KIB).await;
        assert_eq!((budget.limit(), budget.available()), (4 * KIB, 4 * KIB));
        budget.resize(16 * KIB).await;
        assert_eq!((budget.limit(), budget.available()), (16 * KIB, 16 * KIB));
    }
}
