//! Conditions for stores that may not know them.
//!
//! Owns what is known of a store's conditional requests: PUT and Complete are asked each for
//! itself, before the first request that needs the answer, with an `If-Match` that cannot hold; a
//! copy and a delete just carry theirs. Promises: where the store keeps a kind of condition it is
//! sent; where it ignores or refuses it the request goes without, so that the last writer wins,
//! and that is said once. Must not know what a condition is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;

use super::trace::{Trace, Traces, Unnoted, Wiped};
use super::{
    Condition, CopyRequest, Deletion, Error, ErrorKind, GetRequest, GetResponse, ListPage,
    ListRequest, ObjectHead, ObjectStore, PartTag, PartTarget, Payload, Properties, PutRequest,
    Result, Upload, UploadId, Version,
};
use crate::naming::{Key, Prefix};
use crate::units::ByteRange;

/// What the keys that are asked with begin with. A store that keeps conditions never holds one.
const PROBE: &str = ".s3pod-probe-";

/// An entity tag that no object has: an MD5 of nothing but zeros, in one part of none.
const NO_TAG: &str = "\"00000000000000000000000000000000-0\"";

/// Sends conditions only where the store keeps them.
#[derive(Debug)]
pub struct Conditional<S> {
    inner: S,
    /// Where probe keys stand: what is known of one place of a bucket need not hold elsewhere,
    /// and a policy may allow no other.
    prefix: Prefix,
    traces: Arc<dyn Traces>,
    put: OnceCell<bool>,
    complete: OnceCell<bool>,
    /// The store refuses a condition on a copy's destination.
    copy_refuses: AtomicBool,
    /// The store refuses a condition on a delete.
    delete_refuses: AtomicBool,
    /// A version without an entity tag was seen.
    tagless: AtomicBool,
}

impl<S: ObjectStore> Conditional<S> {
    /// Asks below `prefix` what `inner` can do.
    pub fn new(inner: S, prefix: Prefix) -> Self {
        let unknown = OnceCell::new;
        Self {
            inner,
            prefix,
            traces: Arc::new(Unnoted),
            put: unknown(),
            complete: unknown(),
            copy_refuses: AtomicBool::new(false),
            delete_refuses: AtomicBool::new(false),
            tagless: AtomicBool::new(false),
        }
    }

    /// Notes in `traces` what the questions leave while they are asked.
    #[must_use]
    pub fn noting(self, traces: Arc<dyn Traces>) -> Self {
        Self { traces, ..self }
    }

    fn probe_key(&self) -> Key {
        Key::new(format!("{}{PROBE}{:016x}", self.prefix, fastrand::u64(..)))
    }

    async fn put_keeps(&self) -> Result<bool> {
        self.put.get_or_try_init(|| self.probe_put()).await.copied()
    }

    async fn complete_keeps(&self) -> Result<bool> {
        self.complete.get_or_try_init(|| self.probe_complete()).await.copied()
    }

    async fn probe_put(&self) -> Result<bool> {
        let answer = self.put_in_vain(|key| Condition::Unchanged(no_version(key))).await;
        if is_odd(&answer) {
            // It is about the condition only where the same request without one is taken.
            self.put_in_vain(|_| Condition::None).await?;
        }
        judge("PUT", answer)
    }

    async fn put_in_vain(&self, condition: impl Fn(&Key) -> Condition) -> Result<()> {
        let key = self.probe_key();
        let (properties, condition) = (Properties::default(), condition(&key));
        let request = PutRequest { key: key.clone(), properties, condition };
        let trace = Trace::Object(key);
        let wiped = self.traces.note(&trace);
        let answer = self.inner.put(&request, &Payload::Bytes(Bytes::new())).await;
        self.end(&trace, wiped, answer.is_ok()).await;
        answer.map(drop)
    }

    async fn probe_complete(&self) -> Result<bool> {
        let answer = self.complete_in_vain(|key| Condition::Unchanged(no_version(key))).await;
        if is_odd(&answer) {
            self.complete_in_vain(|_| Condition::None).await?;
        }
        judge("Complete", answer)
    }

    async fn complete_in_vain(&self, condition: impl Fn(&Key) -> Condition) -> Result<()> {
        let key = self.probe_key();
        let id = self.inner.create_upload(&key, &Properties::default()).await?;
        let upload = Upload { key: key.clone(), id };
        let (object, unfinished) = (Trace::Object(key), Trace::Upload(upload.clone()));
        let wiped = [&object, &unfinished].map(|trace| self.traces.note(trace));
        let answer = self.complete_a_byte(&upload, &condition(&upload.key)).await;
        let [no_object, no_upload] = wiped;
        self.end(&object, no_object, answer.is_ok()).await;
        self.end(&unfinished, no_upload, answer.is_err()).await;
        answer
    }

    async fn complete_a_byte(&self, upload: &Upload, condition: &Condition) -> Result<()> {
        let target = PartTarget { upload: upload.clone(), number: 1 };
        let byte = Payload::Bytes(Bytes::from_static(b"?"));
        let part = self.inner.upload_part(&target, &byte).await?;
        self.inner.complete_upload(upload, &[part], condition).await.map(drop)
    }

    /// Wipes what a question has left, where it `stands`. What cannot be wiped stays noted.
    async fn end(&self, trace: &Trace, wiped: Wiped, stands: bool) {
        let gone = if stands { trace.wipe(&self.inner).await } else { Ok(()) };
        match gone {
            Ok(()) => wiped(),
            Err(error) => tracing::warn!(?trace, %error, "this of ours stays in the bucket"),
        }
    }

    /// Says once that versions are told apart by size and time alone.
    fn look_at(&self, version: &Version) {
        if version.etag.is_none() && !self.tagless.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the store gives no strong ETags: versions are told apart by size and time, and \
                 an edit does not see another writer's: the last one wins"
            );
        }
    }

    /// Says once that a delete takes whatever stands there.
    fn refused_on_delete(&self, error: Error) {
        if !self.delete_refuses.swap(true, Ordering::Relaxed) {
            drop(judge("DELETE", Err(error)));
        }
    }

    /// Deletes those of the failed ones whose condition was refused without one.
    async fn delete_without(&self, failed: Vec<(Key, Error)>) -> Result<Vec<(Key, Error)>> {
        let (refused, mut failed): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|(_, error)| is_refusal(error));
        let plain: Vec<Deletion> =
            refused.iter().map(|(key, _)| Deletion::from(key.clone())).collect();
        let still = self.inner.delete_many(&plain).await?;
        if still.len() < plain.len()
            && let Some((_, error)) = refused.into_iter().next()
        {
            self.refused_on_delete(error);
        }
        failed.extend(still);
        Ok(failed)
    }

    /// The version as the store will tell it from now on. Where it has no entity tag its time is
    /// all there is, and that of an answer may be later than that of the object.
    async fn settled(&self, version: Version, written: Option<&Properties>) -> Version {
        self.look_at(&version);
        // A proxy weakens the tags in headers, and leaves alone those in the body of an answer.
        if version.etag.is_some() && !self.tagless.load(Ordering::Relaxed) {
            return version;
        }
        let is_ours = |head: &ObjectHead| {
            let metadata = &head.properties.user_metadata;
            head.version.size == version.size
                && written.is_none_or(|written| written.user_metadata == *metadata)
        };
        match self.inner.head(&version.key).await {
            Ok(head) if is_ours(&head) => head.version,
            _ => version,
        }
    }
}

/// No version of `key`.
fn no_version(key: &Key) -> Version {
    Version {
        key: key.clone(),
        etag: Some(NO_TAG.into()),
        version_id: None,
        size: 0,
        last_modified: UNIX_EPOCH,
    }
}

/// What the answer to a request that must fail says of the store; an error where it says nothing.
fn judge(operation: &'static str, answer: Result<()>) -> Result<bool> {
    let (keeps, how) = match answer {
        Ok(()) => (false, "ignores"),
        Err(error) => match error.kind() {
            ErrorKind::Changed | ErrorKind::NotFound => (true, "keeps"),
            ErrorKind::Unsupported | ErrorKind::Other(_) => (false, "refuses"),
            // Who may not ask here is told by the request itself.
            ErrorKind::Denied => (true, "may keep"),
            _ => return Err(error),
        },
    };
    if keeps {
        tracing::debug!(operation, "the store {how} conditions");
    } else {
        tracing::warn!(
            operation,
            "the store {how} conditions: where two writers change one object the last one wins"
        );
    }
    Ok(keeps)
}

/// True for an answer that may be about anything: a quota, or a key that is switched off.
fn is_odd(answer: &Result<()>) -> bool {
    answer.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::Other(_)))
}

/// True where the store has meant the condition. Any other answer may be about something else, and
/// a request that goes without its condition cannot be taken back.
fn is_refusal(error: &Error) -> bool {
    *error.kind() == ErrorKind::Unsupported
}

/// True where the store may not be asked to keep it: there is nothing to send.
fn is_empty(condition: &Condition) -> bool {
    match condition {
        Condition::None => true,
        Condition::Absent => false,
        Condition::Unchanged(version) => version.etag.is_none(),
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for Conditional<S> {
    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        let head = self.inner.head(key).await?;
        self.look_at(&head.version);
        Ok(head)
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        self.inner.tags(version).await
    }

    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        self.inner.get(request).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
    }

    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version> {
        let version = if is_empty(&request.condition) || self.put_keeps().await? {
            self.inner.put(request, payload).await?
        } else {
            let plain = PutRequest { condition: Condition::None, ..request.clone() };
            self.inner.put(&plain, payload).await?
        };
        Ok(self.settled(version, Some(&request.properties)).await)
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
        let keeps = is_empty(condition) || self.complete_keeps().await?;
        let condition = if keeps { condition } else { &Condition::None };
        let version = self.inner.complete_upload(upload, parts, condition).await?;
        Ok(self.settled(version, None).await)
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.inner.abort_upload(upload).await
    }

    /// A copy is pinned to its source, so that no other version is ever taken; only where the
    /// store refuses the condition on the destination does the copy go without.
    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version> {
        let plain = || CopyRequest { condition: Condition::None, ..request.clone() };
        if is_empty(&request.condition) {
            return self.inner.copy(source, request).await;
        }
        if self.copy_refuses.load(Ordering::Relaxed) {
            return self.inner.copy(source, &plain()).await;
        }
        match self.inner.copy(source, request).await {
            Err(error) if is_refusal(&error) => {
                let copied = self.inner.copy(source, &plain()).await?;
                if !self.copy_refuses.swap(true, Ordering::Relaxed) {
                    drop(judge("COPY", Err(error)));
                }
                Ok(copied)
            }
            copied => copied,
        }
    }

    /// A store that ignores the condition deletes as one that is not asked to keep it, so nobody
    /// has to know beforehand.
    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()> {
        if *condition == Condition::Absent || is_empty(condition) {
            return self.inner.delete(key, condition).await;
        }
        if self.delete_refuses.load(Ordering::Relaxed) {
            return self.inner.delete(key, &Condition::None).await;
        }
        match self.inner.delete(key, condition).await {
            Err(error) if is_refusal(&error) => {
                self.inner.delete(key, &Condition::None).await?;
                self.refused_on_delete(error);
                Ok(())
            }
            deleted => deleted,
        }
    }

    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        let plain =
            || objects.iter().map(|one| Deletion::from(one.key.clone())).collect::<Vec<_>>();
        if objects.iter().all(|one| is_empty(&one.condition)) {
            return self.inner.delete_many(objects).await;
        }
        if self.delete_refuses.load(Ordering::Relaxed) {
            return self.inner.delete_many(&plain()).await;
        }
        match self.inner.delete_many(objects).await {
            Err(error) if is_refusal(&error) => {
                let failed = self.inner.delete_many(&plain()).await?;
                self.refused_on_delete(error);
                Ok(failed)
            }
            Ok(failed) if failed.iter().any(|(_, error)| is_refusal(error)) => {
                self.delete_without(failed).await
            }
            deleted => deleted,
        }
    }
}
