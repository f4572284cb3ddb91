//! Multipart uploads: create, parts from a body or a copy, complete, abort.
//!
//! Owns S3's limits on parts and the composition of the object's ETag. An unfinished upload is
//! invisible: nothing here touches a key before Complete.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range as Span;
use std::time::SystemTime;

use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Checksum, ChecksumAlgorithm,
    ChecksumType, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart,
    CopyPartResult, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, Range,
    UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::checksum::{Announced, derived_etag, hex, receive};
use super::content::Content;
use super::copy::find_source;
use super::object::{Object, Properties, properties_of};
use super::put::{check_length, checksum_of, trailer_names};
use super::state::{BucketState, NULL_VERSION, now, random_id};
use super::{Backend, MAX_SINGLE, combine, conditions, tags};

/// "Part numbers can be any number from 1 to 10,000, inclusive."
const MAX_PART_NUMBER: i32 = 10_000;
/// "5 MiB to 5 GiB. There is no minimum size limit on the last part."
pub(crate) const MIN_PART: u64 = 5 * 1024 * 1024;

/// One part that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) content: Content,
    pub(crate) md5: [u8; 16],
    pub(crate) sums: Checksum,
    pub(crate) last_modified: SystemTime,
}

impl Part {
    pub(crate) fn etag(&self) -> ETag {
        ETag::Strong(hex(&self.md5))
    }
}

/// An upload in progress.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) initiated: SystemTime,
    pub(crate) properties: Properties,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) checksum: Option<ChecksumAlgorithm>,
    pub(crate) checksum_type: Option<ChecksumType>,
    pub(crate) parts: BTreeMap<i32, Part>,
}

/// The upload a request names: both its id and its key must fit.
pub(super) fn find<'a>(
    bucket: &'a mut BucketState,
    key: &str,
    id: &str,
) -> S3Result<&'a mut Upload> {
    let upload = bucket.uploads.get_mut(id).filter(|upload| upload.key == key);
    upload.ok_or_else(|| {
        s3_error!(
            NoSuchUpload,
            "The specified upload does not exist. The upload ID may be invalid, or the upload \
             may have been aborted or completed."
        )
    })
}

pub(super) fn create(
    backend: &Backend,
    mut req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = &mut req.input;
    let upload = Upload {
        key: input.key.clone(),
        initiated: now(),
        properties: properties_of!(input)?,
        tags: tags::parse_header(input.tagging.as_deref())?,
        checksum: input.checksum_algorithm.take(),
        checksum_type: input.checksum_type.take(),
        parts: BTreeMap::new(),
    };
    let id = random_id();
    let output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        upload_id: Some(id.clone()),
        checksum_algorithm: upload.checksum.clone(),
        checksum_type: upload.checksum_type.clone(),
        server_side_encryption: upload.properties.encryption.clone(),
        ssekms_key_id: upload.properties.kms_key_id.clone(),
        ..CreateMultipartUploadOutput::default()
    };
    backend.in_bucket(&input.bucket, |bucket| {
        bucket.uploads.insert(id, upload);
        Ok(())
    })?;
    Ok(S3Response::new(output))
}

fn check_number(number: i32) -> S3Result<()> {
    if (1..=MAX_PART_NUMBER).contains(&number) {
        return Ok(());
    }
    Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"))
}

pub(super) async fn upload_part(
    backend: &Backend,
    mut req: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let input = &mut req.input;
    check_number(input.part_number)?;
    check_length(input.content_length)?;
    let (key, id) = (input.key.clone(), input.upload_id.clone());
    backend.in_bucket(&input.bucket, |bucket| find(bucket, &key, &id).map(drop))?;
    let announced = Announced {
        length: input.content_length,
        md5: input.content_md5.take(),
        sums: checksum_of!(input),
        trailer_names: trailer_names(&req.headers),
        trailers: req.trailing_headers.take(),
    };
    let received = receive(input.body.take(), announced, &backend.spill, backend.etags).await?;
    let part = Part {
        content: received.content,
        md5: received.md5,
        sums: received.sums,
        last_modified: now(),
    };
    let output = UploadPartOutput {
        checksum_crc32: part.sums.checksum_crc32.clone(),
        checksum_crc32c: part.sums.checksum_crc32c.clone(),
        checksum_crc64nvme: part.sums.checksum_crc64nvme.clone(),
        checksum_sha1: part.sums.checksum_sha1.clone(),
        checksum_sha256: part.sums.checksum_sha256.clone(),
        e_tag: Some(part.etag()),
        ..UploadPartOutput::default()
    };
    backend.in_bucket(&input.bucket, |bucket| {
        find(bucket, &key, &id)?.parts.insert(input.part_number, part);
        Ok(())
    })?;
    Ok(S3Response::new(output))
}

pub(super) fn upload_part_copy(
    backend: &Backend,
    req: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = req.input;
    check_number(input.part_number)?;
    backend
        .in_bucket(&input.bucket, |bucket| find(bucket, &input.key, &input.upload_id).map(drop))?;
    let source_conditions = conditions::Read {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let source = find_source(backend, &input.copy_source, &source_conditions)?;
    let (range, min_part) = (input.copy_source_range.as_deref(), backend.abilities.min_part);
    let span = copied_span(range, source.object.content.len(), min_part)?;
    // The ETag names what was copied instead of hashing it: gigabytes would take seconds.
    let origin = format!("part {} {}-{}", source.object.etag, span.start, span.end);
    let part = Part {
        content: source.object.content.slice(span),
        md5: derived_etag(&origin),
        sums: Checksum::default(),
        last_modified: now(),
    };
    let result = CopyPartResult {
        e_tag: Some(part.etag()),
        last_modified: Some(part.last_modified.into()),
        ..CopyPartResult::default()
    };
    backend.in_bucket(&input.bucket, |bucket| {
        find(bucket, &input.key, &input.upload_id)?.parts.insert(input.part_number, part);
        Ok(())
    })?;
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: source.version_id,
        ..UploadPartCopyOutput::default()
    }))
}

/// Unlike a GET's, a copy's range has both ends and must lie within the source, of which it is more
/// than the smallest part: "You can copy a range only if the source object is greater than 5 MB."
fn copied_span(header: Option<&str>, size: u64, min_part: u64) -> S3Result<Span<u64>> {
    let span = match header {
        None => 0..size,
        Some(_) if size <= min_part => {
            return Err(s3_error!(
                InvalidRequest,
                "The specified copy source is not supported as a byte-range copy source"
            ));
        }
        Some(text) => match Range::parse(text) {
            Ok(Range::Int { first, last: Some(last) }) if last < size => first..last + 1,
            Ok(Range::Int { last: Some(_), .. }) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "Range specified is not valid for source object of size: {size}"
                ));
            }
            _ => {
                return Err(s3_error!(
                    InvalidArgument,
                    "The x-amz-copy-source-range value must be of the form bytes=first-last"
                ));
            }
        },
    };
    if span.end - span.start > MAX_SINGLE {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy \
             source: {MAX_SINGLE}"
        ));
    }
    Ok(span)
}

pub(super) fn complete(
    backend: &Backend,
    mut req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let conditions = conditions::Write::from_headers(&req.headers)?;
    let conditions = conditions.kept(backend.abilities.complete)?;
    let input = &mut req.input;
    let listed = input.multipart_upload.take().and_then(|upload| upload.parts).unwrap_or_default();
    let said = checksum_of!(input);
    let size = input.mpu_object_size;
    let (etag, version_id, sums) = backend.in_bucket(&input.bucket, |bucket| {
        let upload = find(bucket, &input.key, &input.upload_id)?;
        let object = assemble(upload, &listed, &said, backend.abilities.min_part)?;
        if size.is_some_and(|size| size != object.size()) {
            return Err(s3_error!(InvalidRequest, "x-amz-mp-object-size does not match"));
        }
        conditions.check(bucket.current(&input.key).map(AsRef::as_ref))?;
        bucket.uploads.remove(&input.upload_id);
        let (etag, sums) = (object.etag(), object.sums.clone());
        Ok((etag, bucket.install(&input.key, object), sums))
    })?;
    Ok(S3Response::new(CompleteMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        e_tag: backend.told(etag),
        version_id,
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        checksum_type: sums.checksum_type,
        ..CompleteMultipartUploadOutput::default()
    }))
}

fn assemble(
    upload: &Upload,
    listed: &[CompletedPart],
    said: &Checksum,
    min_part: u64,
) -> S3Result<Object> {
    let parts = chosen(upload, listed, min_part)?;
    let mut content = Content::default();
    let mut md5s = Vec::with_capacity(parts.len() * 16);
    for part in &parts {
        content.append(&part.content);
        md5s.extend_from_slice(&part.md5);
    }
    let etag = format!("{}-{}", hex(&Md5::checksum(&md5s)), parts.len());
    Ok(Object {
        version_id: NULL_VERSION.to_owned(),
        etag,
        sums: combine::combine(upload, &parts, said)?,
        parts: parts.iter().map(|part| part.content.len()).collect(),
        content,
        // As on S3: the date of a multipart object is that of its initiation.
        last_modified: upload.initiated,
        properties: upload.properties.clone(),
        tags: upload.tags.clone(),
    })
}

/// The parts a Complete names, after every check that S3 makes on the list.
fn chosen<'a>(
    upload: &'a Upload,
    listed: &[CompletedPart],
    min_part: u64,
) -> S3Result<Vec<&'a Part>> {
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let numbers: Vec<i32> = listed.iter().map(|part| part.part_number.unwrap_or(0)).collect();
    if !numbers.is_sorted() || numbers.iter().collect::<HashSet<_>>().len() != numbers.len() {
        return Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number."
        ));
    }
    let mut parts = Vec::with_capacity(listed.len());
    for (number, claim) in numbers.iter().zip(listed) {
        let part = upload.parts.get(number);
        let same = |part: &&Part| claim.e_tag.as_ref().is_some_and(|etag| *etag == part.etag());
        let part = part.filter(same).filter(|part| combine::claim_holds(claim, part));
        parts.push(part.ok_or_else(|| {
            s3_error!(
                InvalidPart,
                "One or more of the specified parts could not be found. The part may not have \
                 been uploaded, or the specified entity tag may not match the part's entity tag."
            )
        })?);
    }
    let (_, all_but_last) = parts.split_last().expect("the list is not empty");
    if all_but_last.iter().any(|part| part.content.len() < min_part) {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        ));
    }
    Ok(parts)
}

pub(super) fn abort(
    backend: &Backend,
    req: &S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = &req.input;
    backend.in_bucket(&input.bucket, |bucket| {
        find(bucket, &input.key, &input.upload_id)?;
        bucket.uploads.remove(&input.upload_id);
        Ok(())
    })?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}
