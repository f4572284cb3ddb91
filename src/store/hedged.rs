//! A second request where the first is unusually slow.
//!
//! Owns [`Hedged`], the decorator that races a GET whose answer takes longer than nearly all
//! recent ones did: most such answers are slow because of one connection or one machine behind
//! the store, which a second request does not meet. Promises: at most one more request for a GET,
//! at most one for fifty GETs beyond a small burst, and none before there is something to compare
//! with. It stands beneath the bound on requests, so that time spent in that queue is not taken
//! for a slow store. Must not know what is read.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};

use super::{
    Condition, CopyRequest, Deletion, Error, GetRequest, GetResponse, ListPage, ListRequest,
    ObjectHead, ObjectStore, PartTag, PartTarget, Payload, Properties, PutRequest, Result, Upload,
    UploadId, Version,
};
use crate::clock::Clock;
use crate::naming::Key;
use crate::units::ByteRange;

/// Answers that are compared with. The 99th percentile of fewer than a hundred is the slowest one.
const REMEMBERED: usize = 256;

/// Before so many answers there is no telling what is slow.
const ENOUGH: usize = 64;

/// An answer is late when it takes so many times as long as the 99th of a hundred, and so much
/// longer at least: on a fast network the scheduler alone makes differences of milliseconds.
const MARGIN: f64 = 1.5;
const MARGIN_MIN: Duration = Duration::from_millis(20);

/// Hundredths of a second request that each GET earns: 2 %.
const EARNED: u32 = 2;
const PRICE: u32 = 100;

/// Second requests that may be saved up. They hold buffers of their own, so that is also how much
/// memory they may take beyond what is set aside for requests: 4 times 512 KiB.
const BURST: u32 = 4;

/// Races slow GETs.
#[derive(Debug)]
pub struct Hedged<S> {
    inner: Arc<S>,
    clock: Clock,
    waits: Arc<Mutex<Waits>>,
}

/// How long answers took, and how many second requests may be made.
#[derive(Debug)]
struct Waits {
    recent: Vec<Duration>,
    next: usize,
    earned: u32,
    /// Counted anew at every 16th answer: sorting 256 durations takes 2 us.
    late: Option<Duration>,
    answers: u64,
}

impl Default for Waits {
    fn default() -> Self {
        let earned = BURST * PRICE;
        Self { recent: Vec::with_capacity(REMEMBERED), next: 0, earned, late: None, answers: 0 }
    }
}

impl Waits {
    fn answered(&mut self, wait: Duration) {
        if self.recent.len() < REMEMBERED {
            self.recent.push(wait);
        } else {
            self.recent[self.next] = wait;
            self.next = (self.next + 1) % REMEMBERED;
        }
        self.earned = (self.earned + EARNED).min(BURST * PRICE);
        self.answers += 1;
        if self.recent.len() >= ENOUGH && (self.late.is_none() || self.answers.is_multiple_of(16)) {
            let mut sorted = self.recent.clone();
            sorted.sort_unstable();
            let percentile = sorted[(sorted.len() * 99).div_ceil(100).max(1) - 1];
            self.late = Some(percentile.mul_f64(MARGIN).max(percentile + MARGIN_MIN));
        }
    }

    fn take(&mut self) -> bool {
        let has = self.earned >= PRICE;
        if has {
            self.earned -= PRICE;
        }
        has
    }
}

impl<S: ObjectStore> Hedged<S> {
    /// Races what is slow of the GETs to `inner`.
    pub fn new(inner: S, clock: Clock) -> Self {
        Self { inner: Arc::new(inner), clock, waits: Arc::default() }
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer that comes first; a failure only where the other one fails too.
    async fn race<A>(&self, first: A, second: A) -> Result<GetResponse>
    where
        A: Future<Output = Result<GetResponse>> + Send + Unpin,
    {
        metrics::counter!("s3pod_store_hedged_total").increment(1);
        match select(first, second).await {
            Either::Left((Ok(response), _)) | Either::Right((Ok(response), _)) => Ok(response),
            Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore + 'static> ObjectStore for Hedged<S> {
    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        let started = self.clock.now();
        let late = self.waits().late;
        let mut first = self.inner.get(request);
        let answer = match late {
            None => first.await,
            Some(late) => match tokio::time::timeout(late, &mut first).await {
                Ok(answer) => answer,
                Err(_) if self.waits().take() => self.race(first, self.inner.get(request)).await,
                Err(_) => first.await,
            },
        };
        // Of a refusal it is not known which work it took.
        if answer.is_ok() {
            let wait = self.clock.now().saturating_duration_since(started);
            self.waits().answered(wait);
        }
        answer
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.inner.head(key).await
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        self.inner.tags(version).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
    }

    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version> {
        self.inner.put(request, payload).await
    }

    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId> {
        self.inner.create_upload(key, properties).await
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        self.inner.upload_part(part, payload).await
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        self.inner.copy_part(part, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        condition: &Condition,
    ) -> Result<Version> {
        self.inner.complete_upload(upload, parts, condition).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.inner.abort_upload(upload).await
    }

    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version> {
        self.inner.copy(source, request).await
    }

    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()> {
        self.inner.delete(key, condition).await
    }

    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        self.inner.delete_many(objects).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(answers: impl IntoIterator<Item = u64>) -> Waits {
        let mut waits = Waits::default();
        answers.into_iter().for_each(|millis| waits.answered(Duration::from_millis(millis)));
        waits
    }

    #[test]
    fn late_is_later_than_nearly_all_and_by_a_margin() {
        assert_eq!(after([1; ENOUGH - 1]).late, None);
        assert_eq!(after([1; ENOUGH]).late, Some(Duration::from_millis(21)));
        // Two of a hundred take a second: that is as it is there.
        let slow = (0..200).map(|number| if number % 50 == 0 { 1000 } else { 10 });
        assert_eq!(after(slow).late, Some(Duration::from_millis(1500)));
        let once = (0..256).map(|number| if number == 9 { 1000 } else { 100 });
        assert_eq!(after(once).late, Some(Duration::from_millis(150)));
    }

    #[test]
    fn what_was_slow_long_ago_is_forgotten() {
        let answers = (0..300).map(|_| 900).chain((0..300).map(|_| 10));
        assert_eq!(after(answers).late, Some(Duration::from_millis(30)));
    }

    #[test]
    fn second_requests_are_a_burst_and_two_in_a_hundred() {
        let mut waits = after([1; 100]);
        let burst = std::iter::repeat_with(|| waits.take()).take_while(|has| *has).count();
        assert_eq!(burst, BURST as usize);
        let mut made = 0;
        for _ in 0..1_000 {
            waits.answered(Duration::from_millis(1));
            made += u32::from(waits.take());
        }
        assert_eq!(made, 20);
    }
}
