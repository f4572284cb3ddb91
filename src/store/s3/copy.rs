//! Server-side copies of objects and of parts.
//!
//! Owns the copy source: which version is copied is always said in the request, so that no other
//! one is ever taken. Must not know why something is copied.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{MetadataDirective, TaggingDirective};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::put::{conditions, incomplete, part_number};
use super::{S3Store, get, properties, version};
use crate::store::{
    CopyRequest, Error, ErrorKind, Operation, PartTag, PartTarget, Result, Version,
};
use crate::units::ByteRange;

/// What stays as it is in the path of a copy source.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// `bucket/key?versionId=id`; of an access point, `arn/object/key`.
fn copy_source(bucket: &str, source: &Version) -> String {
    let of_arn = if bucket.starts_with("arn:") { "object/" } else { "" };
    let key = utf8_percent_encode(source.key.as_str(), PATH);
    let mut text = format!("{bucket}/{of_arn}{key}");
    if let Some(id) = &source.version_id {
        text.push_str("?versionId=");
        text.extend(utf8_percent_encode(id, PATH));
    }
    text
}

/// `x-amz-copy-source-if-match`, or the time where the store has no entity tags.
fn pin(source: &Version) -> (Option<String>, Option<DateTime>) {
    match &source.etag {
        Some(etag) => (Some(etag.to_string()), None),
        None => (None, Some(DateTime::from(source.last_modified))),
    }
}

pub(super) async fn copy_part(
    store: &S3Store,
    part: &PartTarget,
    source: &Version,
    range: ByteRange,
) -> Result<PartTag> {
    let (operation, key) = (Operation::CopyPart, &part.upload.key);
    let header = get::range_header(range)
        .ok_or_else(|| Error::new(operation, ErrorKind::InvalidRange).with_key(key))?;
    let (if_match, unmodified_since) = pin(source);
    let send = store
        .client
        .upload_part_copy()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .upload_id(&*part.upload.id.0)
        .part_number(part_number(part.number))
        .copy_source(copy_source(&store.bucket, source))
        .copy_source_range(header)
        .set_copy_source_if_match(if_match)
        .set_copy_source_if_unmodified_since(unmodified_since)
        .set_request_payer(store.payer.clone())
        .send();
    let answer = store.within(operation, key, store.attempt_timeout, send).await?;
    let copied = answer
        .copy_part_result
        .unwrap_or_else(|| aws_sdk_s3::types::CopyPartResult::builder().build());
    let etag = version::part_etag(copied.e_tag.as_deref())
        .ok_or_else(|| incomplete(operation, key, "an ETag"))?;
    let crc32 = copied.checksum_crc32.map(Into::into);
    Ok(PartTag { number: part.number, size: range.len(), etag, crc32 })
}

pub(super) async fn copy(
    store: &S3Store,
    source: &Version,
    request: &CopyRequest,
) -> Result<Version> {
    let (operation, key) = (Operation::Copy, &request.key);
    let (if_match, unmodified_since) = pin(source);
    let (destination_is, destination_is_not) = conditions(&request.condition);
    let none = crate::store::Properties::default();
    let headers =
        properties::headers(request.properties.as_ref().unwrap_or(&none), &store.defaults);
    let replaced = request.properties.is_some();
    let (tags_follow, replace) = (request.tags_follow || !replaced, TaggingDirective::Replace);
    let tagging = if tags_follow { TaggingDirective::Copy } else { replace };
    // Tags that are copied cannot be given beside that.
    let keep = |name: &str| !tags_follow || name != "x-amz-tagging";
    let headers: Vec<_> = headers.into_iter().filter(|(name, _)| keep(name)).collect();
    let send = store
        .client
        .copy_object()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .copy_source(copy_source(&store.bucket, source))
        .set_copy_source_if_match(if_match)
        .set_copy_source_if_unmodified_since(unmodified_since)
        .set_if_match(destination_is)
        .set_if_none_match(destination_is_not)
        .set_metadata_directive(replaced.then_some(MetadataDirective::Replace))
        .set_tagging_directive(replaced.then_some(tagging))
        .set_request_payer(store.payer.clone())
        .customize()
        .map_request(move |request| properties::apply(&headers, request))
        .send();
    let answer = store.within(operation, key, store.attempt_timeout, send).await?;
    let copied =
        answer.copy_object_result().ok_or_else(|| incomplete(operation, key, "a result"))?;
    let told = version::Told {
        etag: copied.e_tag(),
        version_id: answer.version_id(),
        size: source.size,
        last_modified: version::whole_seconds(copied.last_modified()),
    };
    Ok(told.of(key))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::naming::Key;

    #[test]
    fn a_copy_source_is_encoded_and_pinned() {
        let mut source = Version {
            key: Key::from("a b/ü?+%.txt"),
            etag: Some("\"e\"".into()),
            version_id: None,
            size: 1,
            last_modified: UNIX_EPOCH,
        };
        assert_eq!(copy_source("bucket", &source), "bucket/a%20b/%C3%BC%3F%2B%25.txt");
        source.version_id = Some("v/1+".into());
        assert!(copy_source("bucket", &source).ends_with("?versionId=v/1%2B"));
        assert_eq!(pin(&source), (Some("\"e\"".to_owned()), None));
        source.etag = None;
        assert_eq!(pin(&source), (None, Some(DateTime::from_secs(0))));
    }

    #[test]
    fn the_source_at_an_access_point_is_an_object_of_its_arn() {
        let source = Version {
            key: Key::from("key"),
            etag: None,
            version_id: None,
            size: 1,
            last_modified: UNIX_EPOCH,
        };
        let point = "arn:aws:s3:eu-west-1:1:accesspoint/ap";
        assert_eq!(copy_source(point, &source), format!("{point}/object/key"));
    }
}
