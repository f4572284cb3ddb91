//! What a listing of objects does not show: unfinished uploads, older versions, delete markers.
//!
//! Owns how they are found and removed. Promises: nothing outside of the prefix is touched; what
//! went meanwhile is no error. Must not know why a prefix is to be empty.

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::{EncodingType, ObjectIdentifier};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::{S3Store, delete, list};
use crate::naming::Key;
use crate::store::{Error, ErrorKind, ObjectStore as _, Operation, Result, Upload, UploadId};

/// Uploads aborted at once.
const ABORTS_MAX: usize = 16;

pub(super) async fn remove_uploads(store: &S3Store, prefix: &str) -> Result<()> {
    let mut before = None;
    loop {
        let send = store
            .client
            .list_multipart_uploads()
            .bucket(&*store.bucket)
            .prefix(prefix)
            .encoding_type(EncodingType::Url)
            .set_request_payer(store.payer.clone())
            .send();
        let answer = store.within_bucket(Operation::ListUploads, store.read_timeout, send).await;
        let Some(page) = supported(answer)? else { return Ok(()) };
        // Not each store honours the prefix here.
        let is_asked = |one: &Upload| one.key.as_str().starts_with(prefix);
        let found: Vec<_> = uploads(&page).into_iter().filter(is_asked).collect();
        let first = found.first().cloned();
        if first.is_none() {
            return Ok(());
        }
        if first == before {
            return Err(stays(Operation::AbortUpload));
        }
        let aborts: Vec<_> = found.into_iter().map(|one| abort(store, one).boxed()).collect();
        let aborts = futures::stream::iter(aborts).buffer_unordered(ABORTS_MAX);
        aborts.try_for_each(|()| std::future::ready(Ok(()))).await?;
        before = first;
    }
}

async fn abort(store: &S3Store, upload: Upload) -> Result<()> {
    match store.abort_upload(&upload).await {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

fn uploads(page: &ListMultipartUploadsOutput) -> Vec<Upload> {
    let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
    let rows = page.uploads().iter().filter_map(|row| {
        let key = Key::new(list::decoded(row.key()?, is_encoded)?);
        Some(Upload { key, id: UploadId(row.upload_id()?.into()) })
    });
    rows.collect()
}

pub(super) async fn remove_versions(
    store: &S3Store,
    prefix: &str,
    is_kept: fn(&str) -> bool,
) -> Result<()> {
    let is_asked = |key: &str| key.starts_with(prefix) && !is_kept(key);
    let (mut after_key, mut after_id) = (None, None);
    let mut before = None;
    loop {
        let send = store
            .client
            .list_object_versions()
            .bucket(&*store.bucket)
            .prefix(prefix)
            .encoding_type(EncodingType::Url)
            .set_key_marker(after_key.clone())
            .set_version_id_marker(after_id.clone())
            .set_request_payer(store.payer.clone())
            .send();
        let answer = store.within_bucket(Operation::ListVersions, store.read_timeout, send).await;
        let Some(page) = supported(answer)? else { return Ok(()) };
        let found = versions(&page, is_asked)?;
        if let Some(first) = found.first().cloned() {
            if before.as_ref() == Some(&first) {
                return Err(stays(Operation::DeleteMany));
            }
            // The same page again: nobody says what comes behind a version that is no more.
            delete::delete_versions(store, found).await?;
            before = Some(first);
            continue;
        }
        if page.is_truncated != Some(true) {
            return Ok(());
        }
        after_key = marker(page.next_key_marker(), page.encoding_type());
        after_id = page.next_version_id_marker;
        if after_key.is_none() {
            return Err(cut_off(Operation::ListVersions));
        }
    }
}

/// The versions and delete markers of a page; at most as many as one request may delete.
fn versions(
    page: &ListObjectVersionsOutput,
    is_asked: impl Fn(&str) -> bool,
) -> Result<Vec<ObjectIdentifier>> {
    let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
    let objects = page.versions().iter().map(|row| (row.key(), row.version_id()));
    let markers = page.delete_markers().iter().map(|row| (row.key(), row.version_id()));
    let named = objects.chain(markers).filter_map(|(key, id)| {
        let key = list::decoded(key?, is_encoded)?;
        is_asked(&key).then_some((key, id))
    });
    let built = named.map(|(key, id)| {
        ObjectIdentifier::builder().key(key).set_version_id(id.map(str::to_owned)).build()
    });
    let built: std::result::Result<Vec<_>, _> = built.collect();
    let operation = Operation::DeleteMany;
    built.map_err(|error| Error::new(operation, ErrorKind::Other(error.to_string())))
}

/// Where the next page begins: encoded as keys are, and asked for as it is.
fn marker(next: Option<&str>, encoding: Option<&EncodingType>) -> Option<String> {
    next.and_then(|key| list::decoded(key, encoding == Some(&EncodingType::Url)))
}

/// The answer of a store that knows the request; none of one that does not.
fn supported<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(error) if *error.kind() == ErrorKind::Unsupported => Ok(None),
        answer => answer.map(Some),
    }
}

/// A store that does not do what it says would be asked for ever.
fn stays(operation: Operation) -> Error {
    let words = "the store says that it is gone, and lists it still".to_owned();
    Error::new(operation, ErrorKind::Other(words))
}

fn cut_off(operation: Operation) -> Error {
    let words = "a page is cut off and names no next one".to_owned();
    Error::new(operation, ErrorKind::NotS3(words))
}
