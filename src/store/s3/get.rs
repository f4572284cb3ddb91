//! HEAD, GET and the tags of an object.
//!
//! Owns the pin of a GET and the watch over its body: exactly the promised bytes arrive, each
//! within the read timeout of the last, or the body ends in an error. Must not know who reads.

use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::StreamExt;

use super::{S3Store, error, properties, version};
use crate::naming::Key;
use crate::store::{
    Checksum, ChecksumKind, Error, ErrorKind, GetPin, GetRequest, GetResponse, ObjectHead,
    Operation, Result, Version,
};
use crate::units::ByteRange;

/// Asks for the checksum too. An object that KMS encrypts tells it only to those who may decrypt,
/// and the others nothing at all: where that was why, HEADs go without from then on.
pub(super) async fn head(store: &S3Store, key: &Key) -> Result<ObjectHead> {
    let asks = [&store.checksums, &store.head_checksums];
    let checked = asks.into_iter().all(|asks| asks.load(Ordering::Relaxed));
    match head_once(store, key, checked).await {
        Err(error) if checked && *error.kind() == ErrorKind::Denied => {}
        result => return result,
    }
    let head = head_once(store, key, false).await?;
    if store.head_checksums.swap(false, Ordering::Relaxed) {
        tracing::warn!(%key, "no checksum may be asked for: large objects are not compared");
    }
    Ok(head)
}

async fn head_once(store: &S3Store, key: &Key, checked: bool) -> Result<ObjectHead> {
    let request = store
        .client
        .head_object()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .set_checksum_mode(checked.then_some(ChecksumMode::Enabled))
        .set_request_payer(store.payer.clone());
    let answer = store.within(Operation::Head, key, store.read_timeout, request.send()).await?;
    let size = length(Operation::Head, key, answer.content_length())?;
    Ok(store.seen(head_of_head(key, size, answer)))
}

/// The checksum of all of the object's bytes, where it is of a kind that pieces can be compared
/// with: not one that is made of those of its parts.
fn whole_checksum(
    told: [(ChecksumKind, Option<&str>); 3],
    made_of: Option<&ChecksumType>,
) -> Option<Checksum> {
    let is_whole = made_of == Some(&ChecksumType::FullObject);
    let read = |(kind, text): (_, Option<&str>)| Some(Checksum { kind, value: remainder(text?)? });
    is_whole.then_some(told)?.into_iter().find_map(read)
}

/// True where the client compares something with the body as it comes: all that a store may tell
/// but checksums of parts' checksums, whose number is behind a dash.
fn is_compared(answer: &GetObjectOutput) -> bool {
    let told = [
        answer.checksum_crc64_nvme(),
        answer.checksum_crc32_c(),
        answer.checksum_crc32(),
        answer.checksum_sha256(),
        answer.checksum_sha1(),
    ];
    told.into_iter().flatten().any(|text| !text.contains('-'))
}

/// A CRC as S3 writes it: big-endian, in base64.
fn remainder(text: &str) -> Option<u64> {
    let bytes = BASE64.decode(text).ok()?;
    let join = |value, byte: &u8| value << 8 | u64::from(*byte);
    matches!(bytes.len(), 4 | 8).then(|| bytes.iter().fold(0, join))
}

pub(super) async fn tags(store: &S3Store, version: &Version) -> Result<Vec<(String, String)>> {
    let key = &version.key;
    let request = store
        .client
        .get_object_tagging()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .set_version_id(version.version_id.as_deref().map(str::to_owned))
        .set_request_payer(store.payer.clone());
    let answer = store.within(Operation::Tags, key, store.read_timeout, request.send()).await?;
    Ok(answer.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())
}

pub(super) async fn get(store: &S3Store, request: &GetRequest) -> Result<GetResponse> {
    let key = request.pin.key();
    let mut builder = store
        .client
        .get_object()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .set_request_payer(store.payer.clone());
    builder = pinned(builder, &request.pin);
    if let Some(range) = request.range {
        let header = range_header(range)
            .ok_or_else(|| Error::new(Operation::Get, ErrorKind::InvalidRange).with_key(key))?;
        builder = builder.range(header);
    } else if store.checksums.load(Ordering::Relaxed) {
        // A checksum is of the whole object; asked for with a range, some stores give it all the
        // same and the SDK would find it wrong.
        builder = builder.checksum_mode(ChecksumMode::Enabled);
    }
    let answer = store.within(Operation::Get, key, store.read_timeout, builder.send()).await?;
    let is_compared = request.range.is_none() && is_compared(&answer);
    let (head, range, body) = taken_apart(key, request.range, answer)?;
    let head = store.seen(head);
    if let GetPin::Version(wanted) = &request.pin
        && !head.version.is_same(wanted)
    {
        return Err(Error::new(Operation::Get, ErrorKind::Changed).with_key(key));
    }
    let frames = Frames { body, left: range.len(), patience: store.read_timeout, key: key.clone() };
    let body = futures::stream::try_unfold(frames, |mut frames| async move {
        Ok(frames.next().await?.map(|bytes| (bytes, frames)))
    });
    let is_divisible = !is_compared || head.checksum.is_some();
    Ok(GetResponse { head, range, is_divisible, body: body.boxed() })
}

/// A version's id pins it alone, and holds although the object was replaced. Stores without
/// entity tags can at least be asked by time.
fn pinned(builder: GetObjectFluentBuilder, pin: &GetPin) -> GetObjectFluentBuilder {
    let text = |value: &Option<std::sync::Arc<str>>| value.as_deref().map(str::to_owned);
    match pin {
        GetPin::Latest(_) => builder,
        GetPin::Version(Version { version_id: id @ Some(_), .. }) => {
            builder.set_version_id(text(id))
        }
        GetPin::Version(Version { etag: etag @ Some(_), .. }) => builder.set_if_match(text(etag)),
        GetPin::Version(version) => {
            builder.if_unmodified_since(DateTime::from(version.last_modified))
        }
        GetPin::IfChanged(Version { etag: etag @ Some(_), .. }) => {
            builder.set_if_none_match(text(etag))
        }
        GetPin::IfChanged(version) => {
            builder.if_modified_since(DateTime::from(version.last_modified))
        }
    }
}

/// `bytes=first-last`; none for a range without bytes, which HTTP cannot say.
pub(super) fn range_header(range: ByteRange) -> Option<String> {
    match range {
        range if range.is_empty() => None,
        ByteRange { start, end: u64::MAX } => Some(format!("bytes={start}-")),
        ByteRange { start, end } => Some(format!("bytes={start}-{}", end - 1)),
    }
}

/// The range and the whole size that `bytes 0-9/100` tells.
fn content_range(text: &str) -> Option<(ByteRange, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    let range = ByteRange::new(first.parse().ok()?, last.checked_add(1)?);
    Some((range, size.parse().ok()?))
}

fn length(operation: Operation, key: &Key, length: Option<i64>) -> Result<u64> {
    length.and_then(|length| u64::try_from(length).ok()).ok_or_else(|| {
        let said = ErrorKind::NotS3("the answer has no Content-Length".to_owned());
        Error::new(operation, said).with_key(key)
    })
}

fn taken_apart(
    key: &Key,
    asked: Option<ByteRange>,
    mut answer: GetObjectOutput,
) -> Result<(ObjectHead, ByteRange, ByteStream)> {
    let length = length(Operation::Get, key, answer.content_length())?;
    let (range, size) = match answer.content_range().and_then(content_range) {
        Some((range, size)) => (range, size),
        None => (ByteRange::at(0, length), length),
    };
    let asked = asked.unwrap_or(ByteRange::at(0, size)).intersect(ByteRange::at(0, size));
    if range != asked || range.len() != length {
        let said = format!("asked for bytes {asked}, answered {range} in {length} bytes");
        return Err(Error::new(Operation::Get, ErrorKind::NotS3(said)).with_key(key));
    }
    let body = std::mem::take(&mut answer.body);
    Ok((head_of_get(key, size, answer), range, body))
}

/// The two answers have the same fields and no common type.
macro_rules! head_of {
    ($name:ident, $answer:ty) => {
        fn $name(key: &Key, size: u64, answer: $answer) -> ObjectHead {
            let told = version::Told {
                etag: answer.e_tag.as_deref(),
                version_id: answer.version_id.as_deref(),
                size,
                last_modified: version::whole_seconds(answer.last_modified.as_ref()),
            };
            let checksums = [
                (ChecksumKind::Crc64Nvme, answer.checksum_crc64_nvme.as_deref()),
                (ChecksumKind::Crc32c, answer.checksum_crc32_c.as_deref()),
                (ChecksumKind::Crc32, answer.checksum_crc32.as_deref()),
            ];
            ObjectHead {
                version: told.of(key),
                checksum: whole_checksum(checksums, answer.checksum_type.as_ref()),
                tag_count: answer.tag_count.map_or(0, |count| count.try_into().unwrap_or(0)),
                properties: properties::Told {
                    content_type: answer.content_type,
                    content_encoding: answer.content_encoding,
                    content_language: answer.content_language,
                    content_disposition: answer.content_disposition,
                    cache_control: answer.cache_control,
                    expires: answer.expires_string,
                    storage_class: answer.storage_class,
                    sse: answer.server_side_encryption,
                    sse_kms_key_id: answer.ssekms_key_id,
                    metadata: answer.metadata,
                }
                .into(),
            }
        }
    };
}

head_of!(head_of_head, HeadObjectOutput);
head_of!(head_of_get, GetObjectOutput);

/// A body under watch.
struct Frames {
    body: ByteStream,
    left: u64,
    patience: Duration,
    key: Key,
}

impl Frames {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let frame = tokio::time::timeout(self.patience, self.body.next()).await;
        match frame {
            Err(_) => Err(self.broken(ErrorKind::Timeout)),
            Ok(Some(Ok(bytes))) if bytes.len() as u64 > self.left => {
                Err(self.broken(ErrorKind::Damaged("the body is longer than promised".into())))
            }
            Ok(Some(Ok(bytes))) => {
                self.left -= bytes.len() as u64;
                Ok(Some(bytes))
            }
            Ok(Some(Err(error))) => Err(error::from_body(error).with_key(&self.key)),
            Ok(None) if self.left == 0 => Ok(None),
            Ok(None) => {
                let said = format!("the body ended {} bytes early", self.left);
                Err(self.broken(ErrorKind::Connection(said)))
            }
        }
    }

    fn broken(&self, kind: ErrorKind) -> Error {
        Error::new(Operation::Get, kind).with_key(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_and_read_as_http_does() {
        assert_eq!(range_header(ByteRange::new(0, 10)).as_deref(), Some("bytes=0-9"));
        assert_eq!(range_header(ByteRange::new(5, u64::MAX)).as_deref(), Some("bytes=5-"));
        assert_eq!(range_header(ByteRange::new(5, 5)), None);
        assert_eq!(content_range("bytes 5-9/100"), Some((ByteRange::new(5, 10), 100)));
        assert_eq!(content_range("bytes */100"), None);
        assert_eq!(content_range("items 0-1/2"), None);
    }

    #[test]
    fn what_the_client_compares_is_any_checksum_of_the_whole() {
        let answer = GetObjectOutput::builder;
        assert!(!is_compared(&answer().build()));
        assert!(!is_compared(&answer().checksum_crc32("4waSgw==-3").build()));
        assert!(is_compared(&answer().checksum_crc32("4waSgw==").build()));
        assert!(is_compared(&answer().checksum_sha256("47DEQpj8HBSa+/TImW+5JA==").build()));
    }

    #[test]
    fn a_checksum_is_read_as_s3_writes_it() {
        assert_eq!(remainder("4waSgw=="), Some(0xe306_9283));
        assert_eq!(remainder("rosUhgp5mIg="), Some(0xae8b_1486_0a79_9888));
        assert_eq!(remainder("4waSgw==-3"), None);
        assert_eq!(remainder("4waS"), None);
    }
}
