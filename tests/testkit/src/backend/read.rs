//! GetObject and HeadObject: one lookup, one set of conditions, two shapes of answer.

use std::ops::Range as Span;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::dto::{
    Checksum, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range,
    StreamingBlob,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::object::Object;
use super::state::Found;
use super::{Backend, conditions, named_error};

/// What a read found and which of its bytes were asked for.
struct Selected {
    object: Arc<Object>,
    version_id: Option<String>,
    span: Span<u64>,
    partial: bool,
    by_part: bool,
}

struct Wanted<'a> {
    bucket: &'a str,
    key: &'a str,
    version: Option<&'a str>,
    range: Option<Range>,
    part: Option<i32>,
    conditions: conditions::Read,
}

fn select(backend: &Backend, wanted: Wanted<'_>) -> S3Result<Selected> {
    let (object, version_id) = backend.in_bucket(wanted.bucket, |bucket| {
        match bucket.find(wanted.key, wanted.version) {
            Found::Object(object) => {
                let told = bucket.told_version(&object);
                Ok((object, told))
            }
            Found::DeleteMarker { version_id } => {
                Err(marker_error(&version_id, wanted.version.is_some()))
            }
            Found::Nothing if wanted.version.is_some() => Err(s3_error!(NoSuchVersion)),
            Found::Nothing => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
        }
    })?;
    wanted.conditions.check_read(&object)?;
    let size = object.content.len();
    let (span, partial) = match (wanted.range, wanted.part) {
        (Some(_), Some(_)) => {
            return Err(s3_error!(InvalidRequest, "Cannot specify both Range and partNumber"));
        }
        (Some(range), None) => (satisfiable(range, size)?, true),
        (None, Some(part)) => (part_span(&object, part)?, true),
        (None, None) => (0..size, false),
    };
    let by_part = wanted.part.is_some();
    Ok(Selected { object, version_id, span, partial, by_part })
}

fn satisfiable(range: Range, size: u64) -> S3Result<Span<u64>> {
    let refused = || {
        let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
            headers.insert(http::header::CONTENT_RANGE, value);
        }
        error.set_headers(headers);
        error
    };
    match range.check(size) {
        Ok(span) if span.start < span.end => Ok(span),
        _ => Err(refused()),
    }
}

fn part_span(object: &Object, part: i32) -> S3Result<Span<u64>> {
    let size = object.content.len();
    if object.parts.is_empty() && part == 1 {
        return Ok(0..size);
    }
    let at = usize::try_from(part - 1).ok().filter(|at| *at < object.parts.len());
    let at =
        at.ok_or_else(|| named_error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidPartNumber"))?;
    let start: u64 = object.parts[..at].iter().sum();
    Ok(start..start + object.parts[at])
}

fn marker_error(version_id: &str, named: bool) -> S3Error {
    let mut error = if named {
        s3_error!(MethodNotAllowed)
    } else {
        s3_error!(NoSuchKey, "The specified key does not exist.")
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    if let Ok(value) = HeaderValue::from_str(version_id) {
        headers.insert("x-amz-version-id", value);
    }
    error.set_headers(headers);
    error
}

/// Checksums are told only for the whole object: a range has none.
fn told_sums(selected: &Selected, asked: bool) -> Checksum {
    if asked && !selected.partial { selected.object.sums.clone() } else { Checksum::default() }
}

/// Fills an answer of either shape: the field names are the same.
macro_rules! answer {
    ($backend:expr, $kind:ident, $selected:expr, $checksums_asked:expr) => {{
        let selected = &$selected;
        let object = &selected.object;
        let properties = object.properties.clone();
        let sums = told_sums(selected, $checksums_asked);
        let span = &selected.span;
        let length = span.end - span.start;
        let class = properties.shown_class();
        $kind {
            accept_ranges: Some("bytes".to_owned()),
            bucket_key_enabled: properties.bucket_key_enabled,
            cache_control: properties.cache_control,
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            checksum_type: sums.checksum_type,
            content_disposition: properties.content_disposition,
            content_encoding: properties.content_encoding,
            content_language: properties.content_language,
            content_length: i64::try_from(length).ok(),
            content_range: content_range(selected),
            // S3's default for an object stored without a type.
            content_type: properties.content_type.or(Some("binary/octet-stream".to_owned())),
            e_tag: $backend.told(object.etag()),
            expires: properties.expires,
            last_modified: Some(object.modified()),
            metadata: Some(properties.metadata.into_iter().collect()),
            parts_count: parts_count(selected),
            server_side_encryption: properties.encryption,
            ssekms_key_id: properties.kms_key_id,
            storage_class: class,
            version_id: selected.version_id.clone(),
            website_redirect_location: properties.website_redirect,
            ..$kind::default()
        }
    }};
}

fn content_range(selected: &Selected) -> Option<String> {
    let (span, size) = (&selected.span, selected.object.content.len());
    let told = selected.partial && span.start < span.end;
    told.then(|| format!("bytes {}-{}/{size}", span.start, span.end - 1))
}

fn parts_count(selected: &Selected) -> Option<i32> {
    let parts = selected.object.parts.len();
    i32::try_from(parts).ok().filter(|parts| *parts > 0 && selected.by_part)
}

fn tag_count(object: &Object) -> Option<i32> {
    i32::try_from(object.tags.len()).ok().filter(|count| *count > 0)
}

pub(super) fn get_object(
    backend: &Backend,
    req: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = req.input;
    let selected = select(
        backend,
        Wanted {
            bucket: &input.bucket,
            key: &input.key,
            version: input.version_id.as_deref(),
            range: input.range,
            part: input.part_number,
            conditions: conditions::Read {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            },
        },
    )?;
    let mut output = answer!(backend, GetObjectOutput, selected, input.checksum_mode.is_some());
    output.tag_count = tag_count(&selected.object);
    let frames = selected.object.content.slice(selected.span.clone()).frames();
    output.body = Some(StreamingBlob::new(frames));
    Ok(S3Response::new(output))
}

pub(super) fn head_object(
    backend: &Backend,
    req: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = req.input;
    let selected = select(
        backend,
        Wanted {
            bucket: &input.bucket,
            key: &input.key,
            version: input.version_id.as_deref(),
            range: input.range,
            part: input.part_number,
            conditions: conditions::Read {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            },
        },
    )?;
    let output = answer!(backend, HeadObjectOutput, selected, input.checksum_mode.is_some());
    let partial = output.content_range.is_some();
    let mut response = S3Response::new(output);
    if partial {
        response.status = Some(StatusCode::PARTIAL_CONTENT);
    }
    if let Some(count) = tag_count(&selected.object) {
        response.headers.insert("x-amz-tagging-count", HeaderValue::from(count));
    }
    Ok(response)
}
