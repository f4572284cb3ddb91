//! PUT and multipart uploads.
//!
//! Owns how bytes leave: with a CRC-32 in a header, computed here in one pass, so that the body
//! needs no trailer and no SHA-256. Must not know where the bytes come from.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::interceptors::{context, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::payload::{self, Body, Progress};
use super::{S3Store, error, properties, version};
use crate::clock::Clock;
use crate::naming::Key;
use crate::store::{
    Condition, Error, ErrorKind, Operation, PartTag, PartTarget, Payload, Properties, PutRequest,
    Result, Upload, UploadId, Version,
};

pub(super) async fn put(
    store: &S3Store,
    request: &PutRequest,
    payload: &Payload,
) -> Result<Version> {
    store.with_checksums(|checked| put_once(store, request, payload, checked)).await
}

async fn put_once(
    store: &S3Store,
    request: &PutRequest,
    payload: &Payload,
    checked: bool,
) -> Result<Version> {
    let key = &request.key;
    let crc32 = if checked { Some(checksum(Operation::Put, key, payload).await?) } else { None };
    let (body, progress) = Body::new(payload);
    let (if_match, if_none_match) = conditions(&request.condition);
    let headers = properties::headers(&request.properties, &store.defaults);
    let answered = AnsweredAt::default();
    let send = store
        .client
        .put_object()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .body(body.into_stream())
        .content_length(signed(payload.len()))
        .set_checksum_crc32(crc32)
        .set_if_match(if_match)
        .set_if_none_match(if_none_match)
        .set_request_payer(store.payer.clone())
        .customize()
        .map_request(move |request| properties::apply(&headers, request))
        .interceptor(answered.clone())
        .disable_payload_signing()
        .send();
    let answer = store.watched(Operation::Put, key, &progress, send).await;
    let answer = answer.map_err(|error| unmet(error, &request.condition))?;
    let told = version::Told {
        etag: answer.e_tag(),
        version_id: answer.version_id(),
        size: payload.len(),
        last_modified: answered.get(),
    };
    Ok(told.of(key))
}

pub(super) async fn create_upload(
    store: &S3Store,
    key: &Key,
    properties: &Properties,
) -> Result<UploadId> {
    store.with_checksums(|checked| create_once(store, key, properties, checked)).await
}

async fn create_once(
    store: &S3Store,
    key: &Key,
    properties: &Properties,
    checked: bool,
) -> Result<UploadId> {
    let headers = properties::headers(properties, &store.defaults);
    let request = store
        .client
        .create_multipart_upload()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .set_checksum_algorithm(checked.then_some(ChecksumAlgorithm::Crc32))
        .set_request_payer(store.payer.clone())
        .customize()
        .map_request(move |request| properties::apply(&headers, request));
    let operation = Operation::CreateUpload;
    let answer = store.within(operation, key, store.read_timeout, request.send()).await?;
    match answer.upload_id {
        Some(id) if !id.is_empty() => Ok(UploadId(id.into())),
        _ => Err(incomplete(operation, key, "an upload id")),
    }
}

pub(super) async fn upload_part(
    store: &S3Store,
    part: &PartTarget,
    payload: &Payload,
) -> Result<PartTag> {
    store.with_checksums(|checked| upload_once(store, part, payload, checked)).await
}

async fn upload_once(
    store: &S3Store,
    part: &PartTarget,
    payload: &Payload,
    checked: bool,
) -> Result<PartTag> {
    let (operation, key) = (Operation::UploadPart, &part.upload.key);
    let crc32 = if checked { Some(checksum(operation, key, payload).await?) } else { None };
    let (body, progress) = Body::new(payload);
    let send = store
        .client
        .upload_part()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .upload_id(&*part.upload.id.0)
        .part_number(part_number(part.number))
        .body(body.into_stream())
        .content_length(signed(payload.len()))
        .set_checksum_crc32(crc32.clone())
        .set_request_payer(store.payer.clone())
        .customize()
        .disable_payload_signing()
        .send();
    let answer = store.watched(operation, key, &progress, send).await?;
    let etag =
        version::part_etag(answer.e_tag()).ok_or_else(|| incomplete(operation, key, "an ETag"))?;
    let size = payload.len();
    Ok(PartTag { number: part.number, size, etag, crc32: crc32.map(Into::into) })
}

pub(super) async fn complete_upload(
    store: &S3Store,
    upload: &Upload,
    parts: &[PartTag],
    condition: &Condition,
) -> Result<Version> {
    let (operation, key) = (Operation::CompleteUpload, &upload.key);
    let (if_match, if_none_match) = conditions(condition);
    let answered = AnsweredAt::default();
    let completed = parts.iter().map(|part| {
        CompletedPart::builder()
            .part_number(part_number(part.number))
            .e_tag(&*part.etag)
            .set_checksum_crc32(part.crc32.as_deref().map(str::to_owned))
            .build()
    });
    let parts_list = CompletedMultipartUpload::builder().set_parts(Some(completed.collect()));
    let send = store
        .client
        .complete_multipart_upload()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .upload_id(&*upload.id.0)
        .multipart_upload(parts_list.build())
        .set_if_match(if_match)
        .set_if_none_match(if_none_match)
        .set_request_payer(store.payer.clone())
        .customize()
        .interceptor(answered.clone())
        .send();
    let answer = store.within(operation, key, store.attempt_timeout, send).await;
    let answer = answer.map_err(|error| unmet(error, condition))?;
    // An answer without any of them broke off: S3 begins it before it knows how it ends.
    if answer.e_tag().or(answer.location()).or(answer.key()).is_none() {
        return Err(incomplete(operation, key, "the object's name"));
    }
    let told = version::Told {
        etag: answer.e_tag(),
        version_id: answer.version_id(),
        size: parts.iter().map(|part| part.size).sum(),
        last_modified: answered.get(),
    };
    Ok(told.of(key))
}

pub(super) async fn abort_upload(store: &S3Store, upload: &Upload) -> Result<()> {
    let send = store
        .client
        .abort_multipart_upload()
        .bucket(&*store.bucket)
        .key(upload.key.as_str())
        .upload_id(&*upload.id.0)
        .set_request_payer(store.payer.clone())
        .send();
    let operation = Operation::AbortUpload;
    match store.within(operation, &upload.key, store.read_timeout, send).await {
        Err(error) if *error.kind() == ErrorKind::NoSuchUpload => Ok(()),
        result => result.map(drop),
    }
}

async fn checksum(operation: Operation, key: &Key, payload: &Payload) -> Result<String> {
    payload::crc32(payload).await.map_err(|error| {
        let kind = ErrorKind::Local(error.to_string());
        Error::new(operation, kind).with_key(key).with_source(error)
    })
}

/// `If-Match` and `If-None-Match`.
pub(super) fn conditions(condition: &Condition) -> (Option<String>, Option<String>) {
    match condition {
        Condition::None => (None, None),
        Condition::Absent => (None, Some("*".to_owned())),
        Condition::Unchanged(version) => (version.etag.as_deref().map(str::to_owned), None),
    }
}

/// S3 answers 404 to an If-Match where there is no object at all.
fn unmet(error: Error, condition: &Condition) -> Error {
    match condition {
        Condition::Unchanged(_) if error.is_not_found() => {
            let changed = Error::new(error.operation(), ErrorKind::Changed)
                .with_request_id(error.request_id());
            let changed = match error.key() {
                Some(key) => changed.with_key(key),
                None => changed,
            };
            changed.with_source(error)
        }
        _ => error,
    }
}

pub(super) fn incomplete(operation: Operation, key: &Key, what: &str) -> Error {
    let said = ErrorKind::Damaged(format!("the answer lacks {what}"));
    Error::new(operation, said).with_key(key)
}

fn signed(length: u64) -> i64 {
    i64::try_from(length).expect("a payload is far below 8 EiB")
}

pub(super) fn part_number(number: u32) -> i32 {
    i32::try_from(number).expect("S3 has 10 000 part numbers")
}

impl S3Store {
    /// Awaits an upload as long as its bytes move.
    async fn watched<T, E>(
        &self,
        operation: Operation,
        key: &Key,
        progress: &Progress,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match progress.watch(self.read_timeout, request).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(error::from_sdk(operation, &self.region, error).with_key(key)),
            None => Err(Error::new(operation, ErrorKind::Timeout).with_key(key)),
        }
    }
}

/// The `Date` of an answer, which the SDK does not keep: an object just written is as old as the
/// answer, by the store's clock and not by ours.
#[derive(Clone, Debug, Default)]
struct AnsweredAt(Arc<OnceLock<SystemTime>>);

impl AnsweredAt {
    /// In whole seconds; a store that sends no date is dated by our clock.
    fn get(&self) -> SystemTime {
        let time = self.0.get().copied().unwrap_or_else(|| Clock::system().wall());
        version::whole_seconds(Some(&DateTime::from(time)))
    }
}

#[dyn_dispatch_hint]
impl Intercept for AnsweredAt {
    fn name(&self) -> &'static str {
        "AnsweredAt"
    }

    fn read_before_deserialization(
        &self,
        context: &context::BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        if let Some(time) = date.and_then(|date| SystemTime::try_from(date).ok()) {
            let _ = self.0.set(time);
        }
        Ok(())
    }
}
