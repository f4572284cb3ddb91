//! A bound on the requests in flight.
//!
//! Owns [`Limit`], the decorator that lets at most so many requests run at once; the others wait
//! in order. A GET counts until its body is finished or dropped, since that is how long it holds a
//! connection. Must not know what is asked.

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
    in_flight: Arc<Bound>,
}

impl<S: ObjectStore> Limit<S> {
    /// At most `in_flight` requests at once, and at least one.
    pub fn new(inner: S, in_flight: u32) -> Self {
        Self::within(inner, Arc::new(Bound::new(in_flight.max(1))))
    }

    /// At most so many as `in_flight` has permits.
    pub const fn within(inner: S, in_flight: Arc<Bound>) -> Self {
        Self { inner, in_flight }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        self.in_flight.take(1).await
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
        let _permit = self.permit().await;
        self.inner.put(request, payload).await
    }

    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId> {
        let _permit = self.permit().await;
        self.inner.create_upload(key, properties).await
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        let _permit = self.permit().await;
        self.inner.upload_part(part, payload).await
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        let _permit = self.permit().await;
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
        let _permit = self.permit().await;
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
