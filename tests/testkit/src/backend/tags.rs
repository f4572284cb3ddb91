//! Object tags: their header form, their limits and the three tagging calls.

use std::collections::BTreeMap;

use http::StatusCode;
use s3s::dto::{
    DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, PutObjectTaggingInput, PutObjectTaggingOutput, Tag,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::{Backend, named_error};

type Tags = BTreeMap<String, String>;

/// "You can associate up to 10 tags with an object."
const MAX_TAGS: usize = 10;
/// "A tag key can be up to 128 Unicode characters in length, and tag values up to 256."
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;

fn check(tags: Tags) -> S3Result<Tags> {
    if tags.len() > MAX_TAGS {
        return Err(named_error(StatusCode::BAD_REQUEST, "BadRequest"));
    }
    let fits = |(key, value): (&String, &String)| {
        !key.is_empty() && key.chars().count() <= MAX_KEY && value.chars().count() <= MAX_VALUE
    };
    if !tags.iter().all(fits) {
        return Err(s3_error!(InvalidTag, "The TagKey or TagValue you have provided is invalid"));
    }
    Ok(tags)
}

/// The tags of an `x-amz-tagging` header: a URL query.
pub(super) fn parse_header(header: Option<&str>) -> S3Result<Tags> {
    let mut tags = Tags::new();
    for pair in header.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.insert(decode(key)?, decode(value)?);
    }
    check(tags)
}

fn decode(text: &str) -> S3Result<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
    Ok(decoded.map_err(|_| s3_error!(InvalidArgument, "tags are UTF-8"))?.into_owned())
}

pub(super) fn get(
    backend: &Backend,
    req: &S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = &req.input;
    let (object, version_id) = backend.in_bucket(&input.bucket, |bucket| {
        let object = bucket.object(&input.key, input.version_id.as_deref())?;
        let told = bucket.told_version(&object);
        Ok((object, told))
    })?;
    let row = |(key, value): (&String, &String)| Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    let tag_set = object.tags.iter().map(row).collect();
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id }))
}

pub(super) fn put(
    backend: &Backend,
    req: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = req.input;
    let rows = input.tagging.tag_set.into_iter();
    let tags =
        rows.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect();
    let tags = check(tags)?;
    let version_id = replace(backend, &input.bucket, &input.key, input.version_id, tags)?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) fn delete(
    backend: &Backend,
    req: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = req.input;
    let version_id = replace(backend, &input.bucket, &input.key, input.version_id, Tags::new())?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

fn replace(
    backend: &Backend,
    bucket: &str,
    key: &str,
    version: Option<String>,
    tags: Tags,
) -> S3Result<Option<String>> {
    backend.in_bucket(bucket, |bucket| {
        let object = bucket.amend(key, version.as_deref(), |object| object.tags = tags)?;
        Ok(bucket.told_version(&object))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagging_header_is_a_url_query() {
        let tags = parse_header(Some("a=1&b+c=x%26y&d")).unwrap();
        let rows: Vec<_> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(rows, [("a", "1"), ("b c", "x&y"), ("d", "")]);
        let eleven: Vec<_> = (0..11).map(|n| format!("k{n}=v")).collect();
        assert!(parse_header(Some(&eleven.join("&"))).is_err());
    }
}
