//! A number of permits that may change while some of them are out.
//!
//! Owns [`Bound`]. Promises: permits are granted in order of asking; whoever asks for more than
//! there can ever be gets them all, so that the wait ends, also where the number shrinks while he
//! waits; what is out when it shrinks is not taken back, but nobody gets more until it has come
//! back. Must not know what a permit is for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// So many permits.
#[derive(Debug)]
pub struct Bound {
    permits: Arc<Semaphore>,
    size: watch::Sender<u32>,
}

impl Bound {
    /// A bound of `size` permits.
    pub fn new(size: u32) -> Self {
        Self { permits: Arc::new(Semaphore::new(size as usize)), size: watch::Sender::new(size) }
    }

    /// How many there are, in use or not.
    pub fn size(&self) -> u32 {
        *self.size.borrow()
    }

    /// How many nobody has.
    pub fn available(&self) -> usize {
        self.permits.available_permits()
    }

    /// Takes `count` permits if they are there now.
    pub fn try_take(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        let wanted = count.min(self.size());
        let is_nothing = wanted == 0 && count > 0;
        let taken = || Arc::clone(&self.permits).try_acquire_many_owned(wanted).ok();
        if is_nothing { None } else { taken() }
    }

    /// Takes `count` permits, waiting for its turn.
    pub async fn take(&self, count: u32) -> OwnedSemaphorePermit {
        if let Some(taken) = self.try_take(count) {
            return taken;
        }
        let mut size = self.size.subscribe();
        loop {
            let wanted = count.min(*size.borrow_and_update());
            let taken = Arc::clone(&self.permits).acquire_many_owned(wanted);
            tokio::select! {
                biased;
                taken = taken => return taken.expect("the semaphore is never closed"),
                // Its turn is lost then, which is rare.
                () = falls_below(wanted, &mut size) => {}
            }
        }
    }

    /// Changes the number, and waits until those that are too many have come back. One change at
    /// a time.
    pub async fn resize(&self, size: u32) {
        let before = self.size.send_replace(size);
        match size.checked_sub(before) {
            Some(more) => self.permits.add_permits(more as usize),
            None => {
                let surplus = Arc::clone(&self.permits).acquire_many_owned(before - size).await;
                surplus.expect("the semaphore is never closed").forget();
            }
        }
    }
}

/// Waits until there are fewer permits than somebody waits for.
async fn falls_below(wanted: u32, size: &mut watch::Receiver<u32>) {
    while *size.borrow_and_update() >= wanted {
        size.changed().await.expect("the bound outlives who waits for it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn more_permits_let_in_who_waits() {
        let bound = Arc::new(Bound::new(2));
        let both = bound.take(2).await;
        let mut third = Box::pin(bound.take(1));
        assert!(third.as_mut().now_or_never().is_none());
        bound.resize(3).await;
        drop(third.await);
        assert_eq!((bound.size(), bound.available()), (3, 1));
        drop(both);
        assert_eq!(bound.available(), 3);
    }

    #[tokio::test]
    async fn fewer_permits_are_waited_for_and_nobody_waits_for_more_than_there_are() {
        let bound = Arc::new(Bound::new(8));
        let six = bound.take(6).await;
        let mut all = Box::pin(bound.take(100));
        assert!(all.as_mut().now_or_never().is_none());
        let mut resized = Box::pin(bound.resize(4));
        assert!(resized.as_mut().now_or_never().is_none(), "six are out");
        assert_eq!(bound.size(), 4);
        assert!(all.as_mut().now_or_never().is_none());
        drop(six);
        resized.await;
        assert_eq!(all.await.num_permits(), 4);
        assert_eq!(bound.available(), 4);
    }
}
