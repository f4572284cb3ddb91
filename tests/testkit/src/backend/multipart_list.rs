//! ListParts and ListMultipartUploads.

use std::collections::BTreeMap;

use s3s::dto::{
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput,
    MultipartUpload, Part as ListedPart,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Backend;
use super::list::{Encoding, page_size};
use super::multipart::find;

pub(super) fn list_parts(
    backend: &Backend,
    req: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = req.input;
    let max = page_size(input.max_parts)?;
    let limit = usize::try_from(max).expect("page_size is never negative");
    let marker = input.part_number_marker.unwrap_or(0);
    let (parts, truncated) = backend.in_bucket(&input.bucket, |bucket| {
        let upload = find(bucket, &input.key, &input.upload_id)?;
        let after = upload.parts.range(marker.saturating_add(1)..);
        let rows = after.map(|(number, part)| ListedPart {
            e_tag: Some(part.etag()),
            last_modified: Some(part.last_modified.into()),
            part_number: Some(*number),
            size: i64::try_from(part.content.len()).ok(),
            checksum_crc32: part.sums.checksum_crc32.clone(),
            checksum_crc32c: part.sums.checksum_crc32c.clone(),
            checksum_crc64nvme: part.sums.checksum_crc64nvme.clone(),
            ..ListedPart::default()
        });
        let mut rows: Vec<_> = rows.take(limit + 1).collect();
        let truncated = rows.len() > limit;
        rows.truncate(limit);
        Ok((rows, truncated))
    })?;
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        is_truncated: Some(truncated),
        max_parts: Some(max),
        part_number_marker: Some(marker),
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        parts: Some(parts),
        ..ListPartsOutput::default()
    }))
}

pub(super) fn list_uploads(
    backend: &Backend,
    req: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = req.input;
    let encoding = Encoding::of(input.encoding_type.as_ref())?;
    let max = page_size(input.max_uploads)?;
    let limit = usize::try_from(max).expect("page_size is never negative");
    let prefix = input.prefix.clone().unwrap_or_default();
    let marker = input.key_marker.clone().map(|key| (key, input.upload_id_marker.clone()));
    let (uploads, truncated) = backend.in_bucket(&input.bucket, |bucket| {
        let fits = |(id, key): &(&String, &String)| {
            key.starts_with(&prefix)
                && match &marker {
                    None => true,
                    Some((after, None)) => *key > after,
                    Some((after, Some(id_after))) => (*key, *id) > (after, id_after),
                }
        };
        let all = bucket.uploads.iter().map(|(id, upload)| (id, &upload.key));
        let ordered: BTreeMap<_, _> =
            all.filter(fits).map(|(id, key)| ((key, id), &bucket.uploads[id])).collect();
        let truncated = ordered.len() > limit;
        let rows = ordered.into_iter().take(limit).map(|((key, id), upload)| MultipartUpload {
            initiated: Some(upload.initiated.into()),
            key: Some(encoding.apply(key)),
            upload_id: Some(id.clone()),
            checksum_algorithm: upload.checksum.clone(),
            checksum_type: upload.checksum_type.clone(),
            ..MultipartUpload::default()
        });
        Ok((rows.collect::<Vec<_>>(), truncated))
    })?;
    let last = uploads.last().filter(|_| truncated).cloned();
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        encoding_type: input.encoding_type,
        is_truncated: Some(truncated),
        key_marker: input.key_marker,
        max_uploads: Some(max),
        next_key_marker: last.as_ref().and_then(|upload| upload.key.clone()),
        next_upload_id_marker: last.and_then(|upload| upload.upload_id),
        prefix: Some(encoding.apply(&prefix)),
        upload_id_marker: input.upload_id_marker,
        uploads: Some(uploads),
        ..ListMultipartUploadsOutput::default()
    }))
}
