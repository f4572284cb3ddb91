//! PutObject.

use s3s::dto::{Checksum, PutObjectInput, PutObjectOutput};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::checksum::{Announced, hex, receive};
use super::object::{Object, properties_of};
use super::state::{NULL_VERSION, now};
use super::{Backend, MAX_SINGLE, conditions, tags};

/// The names a client announced in `x-amz-trailer`.
pub(super) fn trailer_names(headers: &http::HeaderMap) -> String {
    let names = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    names.collect::<Vec<_>>().join(",")
}

/// Refuses a body that announces more than one request may carry.
pub(super) fn check_length(length: Option<i64>) -> S3Result<()> {
    if length.is_some_and(|length| u64::try_from(length).is_ok_and(|length| length > MAX_SINGLE)) {
        return Err(s3_error!(EntityTooLarge));
    }
    Ok(())
}

/// Collects the checksum fields that several inputs share.
macro_rules! checksum_of {
    ($input:expr) => {
        s3s::dto::Checksum {
            checksum_crc32: $input.checksum_crc32.take(),
            checksum_crc32c: $input.checksum_crc32c.take(),
            checksum_crc64nvme: $input.checksum_crc64nvme.take(),
            checksum_sha1: $input.checksum_sha1.take(),
            checksum_sha256: $input.checksum_sha256.take(),
            checksum_type: None,
        }
    };
}
pub(super) use checksum_of;

pub(super) async fn put_object(
    backend: &Backend,
    mut req: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let conditions = conditions::Write::from_headers(&req.headers)?.kept(backend.abilities.put)?;
    let input = &mut req.input;
    backend.in_bucket(&input.bucket, |_| Ok(()))?;
    check_length(input.content_length)?;
    let properties = properties_of!(input)?;
    let tags = tags::parse_header(input.tagging.as_deref())?;
    let announced = Announced {
        length: input.content_length,
        md5: input.content_md5.take(),
        sums: checksum_of!(input),
        trailer_names: trailer_names(&req.headers),
        trailers: req.trailing_headers.take(),
    };
    let received = receive(input.body.take(), announced, &backend.spill, backend.etags).await?;
    let object = Object {
        version_id: NULL_VERSION.to_owned(),
        content: received.content,
        etag: hex(&received.md5),
        parts: Vec::new(),
        sums: received.sums,
        last_modified: now(),
        properties,
        tags,
    };
    let answer = answer(backend, &object);
    let version_id = backend.in_bucket(&input.bucket, |bucket| {
        conditions.check(bucket.current(&input.key).map(AsRef::as_ref))?;
        Ok(bucket.install(&input.key, object))
    })?;
    Ok(S3Response::new(PutObjectOutput { version_id, ..answer }))
}

fn answer(backend: &Backend, object: &Object) -> PutObjectOutput {
    let Checksum {
        checksum_crc32,
        checksum_crc32c,
        checksum_crc64nvme,
        checksum_sha1,
        checksum_sha256,
        checksum_type,
    } = object.sums.clone();
    PutObjectOutput {
        checksum_crc32,
        checksum_crc32c,
        checksum_crc64nvme,
        checksum_sha1,
        checksum_sha256,
        checksum_type,
        e_tag: backend.told(object.etag()),
        server_side_encryption: object.properties.encryption.clone(),
        ssekms_key_id: object.properties.kms_key_id.clone(),
        bucket_key_enabled: object.properties.bucket_key_enabled,
        ..PutObjectOutput::default()
    }
}
