//! One budget of memory for everything that holds file bytes.
//!
//! Owns how many bytes are taken and who waits. Bytes are granted in order of asking, in whole
//! KiB. What holds bytes that it can do without (the block cache) registers a reclaimer, which is
//! asked whenever someone would wait. Must not know what the bytes are for.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::KIB;

/// While someone waits, the reclaimer is asked again this often: bytes that were in use when it
/// was asked first may have become spare.
const RECLAIM_EVERY: Duration = Duration::from_millis(20);

/// A bounded number of bytes.
pub struct Budget {
    permits: Arc<Semaphore>,
    limit: u64,
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
        let permits = usize::try_from(limit / KIB).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            limit,
            reclaim: OnceLock::new(),
        })
    }

    /// The whole budget in bytes.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that nobody holds.
    pub fn available(&self) -> u64 {
        self.permits.available_permits() as u64 * KIB
    }

    /// Registers what gives bytes back when asked for so many; the first registration stays.
    pub fn set_reclaimer(&self, reclaim: impl Fn(u64) + Send + Sync + 'static) {
        // A second cache on one budget would be a second composition root.
        let _first_stays = self.reclaim.set(Box::new(reclaim));
    }

    /// Takes `bytes` if they are there now, without waiting and without pushing anyone out.
    pub fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Grant> {
        let permits = self.permits_for(bytes);
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(permits).ok()?;
        Some(Grant { permit })
    }

    /// Takes `bytes`, waiting for its turn. A request larger than the whole budget is granted the
    /// whole budget, so that it ends.
    pub async fn take(self: &Arc<Self>, bytes: u64) -> Grant {
        let permits = self.permits_for(bytes);
        let wanted = Arc::clone(&self.permits).acquire_many_owned(permits);
        tokio::pin!(wanted);
        loop {
            let taken = tokio::select! {
                biased;
                taken = &mut wanted => taken,
                () = self.press(bytes) => continue,
            };
            let permit = taken.expect("the semaphore is never closed");
            return Grant { permit };
        }
    }

    async fn press(&self, bytes: u64) {
        if let Some(reclaim) = self.reclaim.get() {
            reclaim(bytes);
        }
        tokio::time::sleep(RECLAIM_EVERY).await;
    }

    fn permits_for(&self, bytes: u64) -> u32 {
        let whole = (self.limit / KIB).min(u64::from(u32::MAX));
        u32::try_from(bytes.div_ceil(KIB).min(whole)).unwrap_or(u32::MAX)
    }
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
            .field("limit", &self.limit)
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
}
