//! A bound on the requests in flight.
//!
//! Owns [`Limit`], the decorator that lets at most so many requests run at once; the others wait
//! in order. What sends or copies bytes never gets the last permits, so that whoever looks
//! something up does not wait behind a queue of uploads. A GET counts until its body is finished
//! or dropped, since that is how long it holds a connection. Must not know what is asked.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Condition, CopyRequest, Deletion, Error, GetRequest, GetResponse, ListPage, ListRequest,
    ObjectHead, ObjectStore, PartTag, PartTarget, Payload, Properties, PutRequest, Result, Upload,
    UploadId, Version,
};
use crate::bound::Bound;
use crate::naming::Key;
use crate::units::ByteRange;

/// Bounds the requests in flight.
#[derive(Debug)]
pub struct Limit<S> {
    inner: S,
    requests: Arc<Requests>,
}

/// How many requests may be in flight.
#[derive(Debug)]
pub struct Requests {
    all: Bound,
    /// Those among them that send or copy bytes, each for as long as these take.
    sending: Bound,
}

impl Requests {
    /// So many at once, and at least one.
    pub fn new(count: u32) -> Self {
        let count = count.max(1);
        Self { all: Bound::new(count), sending: Bound::new(sending(count)) }
    }

    /// Changes the number, as [`Bound::resize`].
    pub async fn resize(&self, count: u32) {
        let count = count.max(1);
        tokio::join!(self.all.resize(count), self.sending.resize(sending(count)));
    }
}

/// Three of four, as of what is read ahead.
fn sending(count: u32) -> u32 {
    (count - count / 4).max(1)
}

impl<S: ObjectStore> Limit<S> {
    /// At most `in_flight` requests at once, and at least one.
    pub fn new(inner: S, in_flight: u32) -> Self {
        Self::within(inner, Arc::new(Requests::new(in_flight)))
    }

    /// At most so many as `requests` says.
    pub const fn within(inner: S, requests: Arc<Requests>) -> Self {
        Self { inner, requests }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        self.requests.all.take(1).await
    }

    /// In this order: whoever waits for the first holds nothing.
    async fn permit_to_send(&self) -> [OwnedSemaphorePermit; 2] {
        let sending = self.requests.sending.take(1).await;
        [sending, self.permit().await]
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for Limit<S> {
    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        let _permit = self.permit().await;
        self.inner.head(key).await
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        let _permit = self.permit().await;
        self.inner.tags(version).await
    }

    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        let permit = self.permit().await;
        let response = self.inner.get(request).await?;
        let mut held = Some(permit);
        let mut body = response.body;
        let body = futures::stream::poll_fn(move |cx| {
            let frame = body.poll_next_unpin(cx);
            if matches!(frame, std::task::Poll::Ready(None | Some(Err(_)))) {
                drop(held.take());
            }
            frame
        });
        Ok(GetResponse { body: body.boxed(), ..response })
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let _permit = self.permit().await;
        self.inner.list(request).await
    }

    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version> {
        let _permit = self.permit_to_send().await;
        self.inner.put(request, payload).await
    }

    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId> {
        let _permit = self.permit().await;
        self.inner.create_upload(key, properties).await
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        let _permit = self.permit_to_send().await;
        self.inner.upload_part(part, payload).await
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        let _permit = self.permit_to_send().await;
        self.inner.copy_part(part, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        condition: &Condition,
    ) -> Result<Version> {
        let _permit = self.permit().await;
        self.inner.complete_upload(upload, parts, condition).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.abort_upload(upload).await
    }

    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version> {
        let _permit = self.permit_to_send().await;
        self.inner.copy(source, request).await
    }

    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.delete(key, condition).await
    }

    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        let _permit = self.permit().await;
        self.inner.delete_many(objects).await
    }
}
