//! The only retry policy: what failed in passing is tried again, with jitter and within bounds.
//!
//! Owns [`Retry`] and [`RetryPolicy`]. Promises: a call ends within `op_timeout` of its last
//! progress plus the deadline of one request; a body broken off midway goes on where it stopped,
//! pinned to the version it began with, and all of it is compared with the checksum that came with
//! its beginning; an error that may be the echo of an earlier attempt's success says so
//! ([`Error::is_ambiguous`]). Must not know which store it talks to.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{
    Checksum, Condition, CopyRequest, Deletion, Error, ErrorKind, GetPin, GetRequest, GetResponse,
    ListPage, ListRequest, ObjectHead, ObjectStore, Operation, PartTag, PartTarget, Payload,
    Properties, PutRequest, Result, Summing, Upload, UploadId, Version,
};
use crate::clock::Clock;
use crate::naming::Key;
use crate::units::ByteRange;

/// When and how often a request is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long a call may go without progress (a byte of a body, a deleted key).
    pub op_timeout: Duration,
    /// The first delay, before jitter; each later one is twice as long.
    pub first_delay: Duration,
    /// The longest delay, before jitter.
    pub max_delay: Duration,
    /// At most so many attempts without progress.
    pub max_attempts: u32,
}

impl Default for RetryPolicy {
    /// A minute: at 50 ms doubling to 5 s, jitter included, 17 to 25 attempts fit into it.
    fn default() -> Self {
        Self {
            op_timeout: Duration::from_secs(60),
            first_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(5),
            max_attempts: 30,
        }
    }
}

impl RetryPolicy {
    fn delays(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.first_delay)
            .with_max_delay(self.max_delay)
            .with_max_times(self.max_attempts as usize)
            .with_jitter()
            .build()
    }
}

/// Repeats what failed in passing.
#[derive(Debug)]
pub struct Retry<S> {
    inner: Arc<S>,
    policy: Arc<RetryPolicy>,
    clock: Clock,
}

/// What one call has used of its budget.
struct Budget {
    policy: Arc<RetryPolicy>,
    clock: Clock,
    since: Instant,
    delays: ExponentialBackoff,
    attempts: u32,
    /// An attempt ended without an answer, so what it asked may have been done.
    lost: bool,
}

impl Budget {
    fn new(policy: &Arc<RetryPolicy>, clock: &Clock) -> Self {
        Self {
            policy: Arc::clone(policy),
            clock: clock.clone(),
            since: clock.now(),
            delays: policy.delays(),
            attempts: 0,
            lost: false,
        }
    }

    fn remaining(&self) -> Duration {
        let used = self.clock.now().saturating_duration_since(self.since);
        self.policy.op_timeout.saturating_sub(used)
    }

    /// Time counts only while somebody waits: a reader may leave a body alone for as long as it
    /// likes.
    fn starts(&mut self) {
        self.since = self.clock.now();
    }

    fn progressed(&mut self) {
        self.starts();
        if self.attempts > 0 {
            self.attempts = 0;
            self.delays = self.policy.delays();
        }
    }

    /// Waits for the next attempt, or gives the error back where there is to be none.
    async fn after(&mut self, error: Error) -> Result<()> {
        let error = if self.lost { error.after_lost_answer() } else { error };
        self.lost |= error.kind().is_unanswered() && !error.operation().is_read();
        self.attempts += 1;
        if !is_worth_repeating(&error) || self.attempts >= self.policy.max_attempts {
            return Err(error);
        }
        let remaining = self.remaining();
        let asked = error.retry_after().unwrap_or_default();
        // A store that wants to be left alone for longer is tried within the time there is.
        let asked = if asked < remaining { asked } else { remaining / 2 };
        let delay = self.delays.next().unwrap_or(self.policy.max_delay).max(asked);
        if delay >= remaining {
            return Err(error);
        }
        tracing::debug!(%error, ?delay, attempt = self.attempts, "the request is repeated");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// A Complete refused for another writer (409) cannot be repeated on the same upload: S3 asks for
/// a new one.
fn is_worth_repeating(error: &Error) -> bool {
    let refused_for_good =
        error.operation() == Operation::CompleteUpload && *error.kind() == ErrorKind::Conflict;
    error.kind().is_transient() && !refused_for_good
}

impl<S: ObjectStore> Retry<S> {
    /// Repeats the requests to `inner` as `policy` says.
    pub fn new(inner: S, policy: RetryPolicy, clock: Clock) -> Self {
        Self { inner: Arc::new(inner), policy: Arc::new(policy), clock }
    }

    fn budget(&self) -> Budget {
        Budget::new(&self.policy, &self.clock)
    }

    /// Repeats a request whose every attempt is cut off when the budget is used up.
    async fn within<T, F, A>(
        &self,
        operation: Operation,
        key: Option<&Key>,
        attempt: F,
    ) -> Result<T>
    where
        F: Fn() -> A + Send + Sync,
        A: Future<Output = Result<T>> + Send,
        T: Send,
    {
        self.repeat(&mut self.budget(), operation, key, attempt).await
    }

    async fn repeat<T, F, A>(
        &self,
        budget: &mut Budget,
        operation: Operation,
        key: Option<&Key>,
        attempt: F,
    ) -> Result<T>
    where
        F: Fn() -> A + Send + Sync,
        A: Future<Output = Result<T>> + Send,
        T: Send,
    {
        loop {
            let result = match tokio::time::timeout(budget.remaining(), attempt()).await {
                Ok(result) => result,
                Err(_) => Err(timed_out(operation, key)),
            };
            match result {
                Ok(value) => return Ok(value),
                Err(error) => budget.after(error).await?,
            }
        }
    }

    /// Repeats a request that moves or makes many bytes: an attempt under way is not cut off,
    /// since the store beneath sees whether it still makes progress and ends it where not.
    async fn through<T, F, A>(&self, attempt: F) -> Result<T>
    where
        F: Fn() -> A + Send + Sync,
        A: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let mut budget = self.budget();
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => budget.after(error).await?,
            }
        }
    }
}

fn timed_out(operation: Operation, key: Option<&Key>) -> Error {
    let error = Error::new(operation, ErrorKind::Timeout);
    match key {
        Some(key) => error.with_key(key),
        None => error,
    }
}

/// A body that is taken up again where it broke off.
struct Resumed<S> {
    inner: Arc<S>,
    budget: Budget,
    version: Version,
    left: ByteRange,
    body: Option<BoxStream<'static, Result<Bytes>>>,
    /// Of a whole object, whose rest comes without a checksum: what it is to be, and what it was.
    compared: Option<(Checksum, Summing)>,
    is_divisible: bool,
}

impl<S: ObjectStore> Resumed<S> {
    async fn frame(&mut self) -> Result<Option<Bytes>> {
        self.budget.starts();
        loop {
            let Some(body) = &mut self.body else {
                match self.reopen().await {
                    Ok(body) => self.body = Some(body),
                    Err(error) => self.budget.after(error).await?,
                }
                continue;
            };
            let error = match body.next().await {
                Some(Ok(bytes)) => {
                    let start = self.left.start + bytes.len() as u64;
                    self.left = ByteRange::new(start, self.left.end);
                    self.budget.progressed();
                    if let Some((_, summing)) = &mut self.compared {
                        summing.update(&bytes);
                    }
                    return Ok(Some(bytes));
                }
                None if self.left.is_empty() => return self.ended(),
                None => damaged(&self.version.key, "the body ended early"),
                Some(Err(error)) => error,
            };
            // Dropped before anything else is asked: it may hold the last permit.
            self.body = None;
            if self.left.is_empty() {
                return Err(error); // All bytes came, and then proved wrong.
            }
            if !self.is_divisible {
                return Err(damaged(&self.version.key, "it broke off, and is compared whole"));
            }
            self.budget.after(error).await?;
        }
    }

    /// All bytes came, perhaps in pieces that nobody has compared.
    fn ended(&self) -> Result<Option<Bytes>> {
        let is_wrong = |(told, summing): &(Checksum, Summing)| summing.summed().checksum() != *told;
        match &self.compared {
            Some(compared) if is_wrong(compared) => {
                Err(damaged(&self.version.key, "what came in pieces has another checksum"))
            }
            _ => Ok(None),
        }
    }

    /// Asks for the rest of the same version. The future borrows nothing: a body is not `Sync`.
    fn reopen(&self) -> impl Future<Output = Result<BoxStream<'static, Result<Bytes>>>> + use<S> {
        let inner = Arc::clone(&self.inner);
        let left = self.left;
        let pin = GetPin::Version(self.version.clone());
        let request = GetRequest { pin, range: Some(left) };
        let patience = self.budget.remaining();
        async move {
            let key = request.pin.key();
            let answer = tokio::time::timeout(patience, inner.get(&request)).await;
            let response = answer.map_err(|_| timed_out(Operation::Get, Some(key)))??;
            if response.range == left {
                Ok(response.body)
            } else {
                Err(damaged(key, "the rest of the body is of another length"))
            }
        }
    }
}

fn damaged(key: &Key, what: &str) -> Error {
    Error::new(Operation::Get, ErrorKind::Damaged(what.to_owned())).with_key(key)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore + 'static> ObjectStore for Retry<S> {
    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        self.within(Operation::Head, Some(key), || self.inner.head(key)).await
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        self.within(Operation::Tags, Some(&version.key), || self.inner.tags(version)).await
    }

    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        let mut budget = self.budget();
        let key = Some(request.pin.key());
        let response =
            self.repeat(&mut budget, Operation::Get, key, || self.inner.get(request)).await?;
        let told = response.head.checksum.filter(|_| request.range.is_none());
        let resumed = Resumed {
            inner: Arc::clone(&self.inner),
            budget,
            version: response.head.version.clone(),
            left: response.range,
            body: Some(response.body),
            compared: told.map(|told| (told, Summing::new(told.kind))),
            is_divisible: response.is_divisible,
        };
        let body = futures::stream::try_unfold(resumed, |mut resumed| async move {
            Ok(resumed.frame().await?.map(|bytes| (bytes, resumed)))
        });
        Ok(GetResponse { body: body.boxed(), ..response })
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.within(Operation::List, None, || self.inner.list(request)).await
    }

    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version> {
        self.through(|| self.inner.put(request, payload)).await
    }

    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId> {
        let create = || self.inner.create_upload(key, properties);
        self.within(Operation::CreateUpload, Some(key), create).await
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        self.through(|| self.inner.upload_part(part, payload)).await
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        self.through(|| self.inner.copy_part(part, source, range)).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        condition: &Condition,
    ) -> Result<Version> {
        self.through(|| self.inner.complete_upload(upload, parts, condition)).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let abort = || self.inner.abort_upload(upload);
        self.within(Operation::AbortUpload, Some(&upload.key), abort).await
    }

    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version> {
        self.through(|| self.inner.copy(source, request)).await
    }

    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()> {
        self.within(Operation::Delete, Some(key), || self.inner.delete(key, condition)).await
    }

    /// Keys that failed in passing are asked again, without the others; each key that is gone is
    /// progress.
    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        let mut budget = self.budget();
        let mut left = objects.to_vec();
        let mut failed = Vec::new();
        loop {
            let delete = || self.inner.delete_many(&left);
            let refused = self.repeat(&mut budget, Operation::DeleteMany, None, delete).await?;
            let (again, for_good): (Vec<_>, Vec<_>) =
                refused.into_iter().partition(|(_, error)| is_worth_repeating(error));
            failed.extend(for_good);
            if again.len() < left.len() {
                budget.progressed();
            }
            let Some((_, error)) = again.first() else { return Ok(failed) };
            let sign = Error::new(error.operation(), error.kind().clone())
                .with_retry_after(error.retry_after());
            if budget.after(sign).await.is_err() {
                failed.extend(again);
                return Ok(failed);
            }
            left.retain(|object| again.iter().any(|(key, _)| *key == object.key));
        }
    }
}
