//! What the store costs: every request counted and timed.
//!
//! Owns [`Metered`], the innermost decorator, so that each attempt counts, and [`Counters`], the
//! same numbers for callers in the process (progress lines, tests that assert request counts), and
//! whether the store still knows who asks. Must not know who exports the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use async_trait::async_trait;
use futures::StreamExt;

use super::{
    Condition, CopyRequest, Deletion, Error, GetRequest, GetResponse, ListPage, ListRequest,
    ObjectHead, ObjectStore, Operation, PartTag, PartTarget, Payload, Properties, PutRequest,
    Result, Upload, UploadId, Version,
};
use crate::clock::Clock;
use crate::naming::Key;
use crate::units::ByteRange;

/// Requests, by operation and outcome (`ok` or the kind of error).
const REQUESTS: &str = "s3pod_store_requests_total";
/// Seconds from the call to the answer (for a GET: to its headers).
const SECONDS: &str = "s3pod_store_request_seconds";
/// Bytes of bodies that arrived.
const BYTES_IN: &str = "s3pod_store_received_bytes_total";
/// Bytes of payloads that the store took.
const BYTES_OUT: &str = "s3pod_store_sent_bytes_total";
/// Bodies of GETs that ended in an error, by its kind.
const BROKEN_BODIES: &str = "s3pod_store_broken_bodies_total";

/// How many requests were made and how many bytes moved since the start.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [AtomicU64; Operation::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// What the first of the refusals said that nothing has followed but more of them.
    stranger: Mutex<Option<String>>,
}

impl Counters {
    /// Requests of one kind, each attempt counted, whatever came of it.
    pub fn requests(&self, operation: Operation) -> u64 {
        self.requests[operation as usize].load(Ordering::Relaxed)
    }

    /// Requests of every kind.
    pub fn total(&self) -> u64 {
        self.requests.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of object bodies that arrived.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes of payloads that the store acknowledged.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// What the store says of the credentials, since it last took them; none where it does.
    pub fn refused_credentials(&self) -> Option<String> {
        self.stranger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note<T>(&self, result: &Result<T>) {
        let is_refused =
            |error: &Error| matches!(error.kind(), super::ErrorKind::Unauthenticated(_));
        let mut stranger = self.stranger.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => *stranger = None,
            Err(error) if is_refused(error) => {
                stranger.get_or_insert_with(|| error.to_string());
            }
            Err(_) => {}
        }
    }

    fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::counter!(BYTES_IN).increment(bytes as u64);
    }

    fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        metrics::counter!(BYTES_OUT).increment(bytes);
    }
}

/// Counts and times the requests.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    clock: Clock,
    counters: Arc<Counters>,
}

impl<S: ObjectStore> Metered<S> {
    /// Meters what goes to `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, clock: Clock::system(), counters: Arc::default() }
    }

    /// The numbers, which go on counting.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Counts the request when it leaves: one that is never answered was made all the same.
    fn start(&self, operation: Operation) -> Instant {
        self.counters.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
        self.clock.now()
    }

    fn done<T>(&self, operation: Operation, started: Instant, result: Result<T>) -> Result<T> {
        self.counters.note(&result);
        let outcome = result.as_ref().map_or_else(|error| error.kind().as_str(), |_| "ok");
        let operation = operation.as_str();
        metrics::counter!(REQUESTS, "operation" => operation, "outcome" => outcome).increment(1);
        let seconds = self.clock.now().saturating_duration_since(started).as_secs_f64();
        metrics::histogram!(SECONDS, "operation" => operation).record(seconds);
        result
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for Metered<S> {
    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        let started = self.start(Operation::Head);
        self.done(Operation::Head, started, self.inner.head(key).await)
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        let started = self.start(Operation::Tags);
        self.done(Operation::Tags, started, self.inner.tags(version).await)
    }

    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        let started = self.start(Operation::Get);
        let response = self.done(Operation::Get, started, self.inner.get(request).await)?;
        let counters = self.counters();
        let mut body = response.body;
        let body = futures::stream::poll_fn(move |cx| {
            let frame = body.poll_next_unpin(cx);
            match &frame {
                Poll::Ready(Some(Ok(bytes))) => counters.received(bytes.len()),
                Poll::Ready(Some(Err(error))) => {
                    metrics::counter!(BROKEN_BODIES, "kind" => error.kind().as_str()).increment(1);
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            frame
        });
        Ok(GetResponse { body: body.boxed(), ..response })
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let started = self.start(Operation::List);
        self.done(Operation::List, started, self.inner.list(request).await)
    }

    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version> {
        let started = self.start(Operation::Put);
        let version = self.done(Operation::Put, started, self.inner.put(request, payload).await)?;
        self.counters.sent(payload.len());
        Ok(version)
    }

    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId> {
        let started = self.start(Operation::CreateUpload);
        let result = self.inner.create_upload(key, properties).await;
        self.done(Operation::CreateUpload, started, result)
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        let started = self.start(Operation::UploadPart);
        let result = self.inner.upload_part(part, payload).await;
        let tag = self.done(Operation::UploadPart, started, result)?;
        self.counters.sent(payload.len());
        Ok(tag)
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        let started = self.start(Operation::CopyPart);
        let result = self.inner.copy_part(part, source, range).await;
        self.done(Operation::CopyPart, started, result)
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        condition: &Condition,
    ) -> Result<Version> {
        let started = self.start(Operation::CompleteUpload);
        let result = self.inner.complete_upload(upload, parts, condition).await;
        self.done(Operation::CompleteUpload, started, result)
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let started = self.start(Operation::AbortUpload);
        self.done(Operation::AbortUpload, started, self.inner.abort_upload(upload).await)
    }

    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version> {
        let started = self.start(Operation::Copy);
        self.done(Operation::Copy, started, self.inner.copy(source, request).await)
    }

    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()> {
        let started = self.start(Operation::Delete);
        self.done(Operation::Delete, started, self.inner.delete(key, condition).await)
    }

    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        let started = self.start(Operation::DeleteMany);
        self.done(Operation::DeleteMany, started, self.inner.delete_many(objects).await)
    }
}
