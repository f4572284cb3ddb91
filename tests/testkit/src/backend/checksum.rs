//! Receiving a body and proving that it arrived whole.
//!
//! Owns the digests of an upload: MD5 for its ETag, every checksum the client named in a header
//! or trailer, CRC64NVME when it named none (as S3 does), and the comparison that ends in
//! BadDigest. s3s only parses these headers. Must not know keys or buckets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use http::StatusCode;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::{Checksum, ChecksumType, StreamingBlob};
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};

use super::content::Content;
use super::named_error;
use super::spill::Spill;

/// What the client said about the body it is sending.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pub(crate) length: Option<i64>,
    pub(crate) md5: Option<String>,
    pub(crate) sums: Checksum,
    pub(crate) trailer_names: String,
    pub(crate) trailers: Option<TrailingHeaders>,
}

/// How ETags come about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EtagKind {
    /// The MD5 of the body, as on S3.
    #[default]
    Md5,
    /// From its CRC64 and length: MD5 takes 2 CPU-seconds a GiB, which a benchmark would measure.
    Quick,
}

/// The digest that becomes an ETag.
enum EtagHasher {
    Md5(Md5),
    Quick(Box<Crc64Nvme>, u64),
}

impl EtagHasher {
    fn new(kind: EtagKind) -> Self {
        match kind {
            EtagKind::Md5 => Self::Md5(Md5::new()),
            EtagKind::Quick => Self::Quick(Box::default(), 0),
        }
    }

    fn update(&mut self, frame: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(frame),
            Self::Quick(crc, length) => {
                crc.update(frame);
                *length += frame.len() as u64;
            }
        }
    }

    fn finalize(self) -> [u8; 16] {
        match self {
            Self::Md5(md5) => md5.finalize(),
            Self::Quick(crc, length) => derived_etag(&format!("{:?} {length}", crc.finalize())),
        }
    }
}

/// A body that arrived and matched everything announced about it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) content: Content,
    pub(crate) md5: [u8; 16],
    pub(crate) sums: Checksum,
}

/// Takes a body in, hashing as it goes.
pub(crate) async fn receive(
    body: Option<StreamingBlob>,
    announced: Announced,
    spill: &Spill,
    etags: EtagKind,
) -> S3Result<Received> {
    let expected = announced.length.and_then(|length| u64::try_from(length).ok());
    let mut sink = spill.sink(expected.unwrap_or(0));
    // What the client claims as an MD5 is compared with one.
    let etags = if announced.md5.is_some() { EtagKind::Md5 } else { etags };
    let mut md5 = EtagHasher::new(etags);
    let mut hasher = hasher_for(&announced);
    let mut stream = body;
    let mut received = 0;
    while let Some(stream) = stream.as_mut()
        && let Some(frame) = stream.next().await
    {
        let frame = frame.map_err(broken_body)?;
        md5.update(&frame);
        hasher.update(&frame);
        received += frame.len() as u64;
        sink.write(&frame).map_err(S3Error::internal_error)?;
    }
    if expected.is_some_and(|expected| expected != received) {
        return Err(s3_error!(IncompleteBody));
    }
    let (md5, sums) = (md5.finalize(), hasher.finalize());
    compare(&announced, &md5, &sums)?;
    Ok(Received { content: sink.finish(), md5, sums: whole(sums) })
}

/// Digests of a body that is already here (a copy).
pub(crate) fn digest(content: &Content, like: &Checksum) -> S3Result<([u8; 16], Checksum)> {
    let mut md5 = Md5::new();
    let mut hasher = hasher_for(&Announced { sums: like.clone(), ..Announced::default() });
    for frame in content.clone().frames() {
        let frame = frame.map_err(S3Error::internal_error)?;
        md5.update(&frame);
        hasher.update(&frame);
    }
    Ok((md5.finalize(), whole(hasher.finalize())))
}

fn whole(mut sums: Checksum) -> Checksum {
    sums.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    sums
}

fn hasher_for(announced: &Announced) -> ChecksumHasher {
    let (sums, trailers) = (&announced.sums, announced.trailer_names.to_ascii_lowercase());
    let mut hasher = ChecksumHasher::default();
    let named = |field: &Option<String>, name: &str| {
        field.is_some() || trailers.split(',').any(|trailer| trailer.trim() == name)
    };
    hasher.crc32 = named(&sums.checksum_crc32, "x-amz-checksum-crc32").then(Crc32::new);
    hasher.crc32c = named(&sums.checksum_crc32c, "x-amz-checksum-crc32c").then(Crc32c::new);
    hasher.sha1 = named(&sums.checksum_sha1, "x-amz-checksum-sha1").then(Sha1::new);
    hasher.sha256 = named(&sums.checksum_sha256, "x-amz-checksum-sha256").then(Sha256::new);
    let any = hasher.crc32.is_some()
        || hasher.crc32c.is_some()
        || hasher.sha1.is_some()
        || hasher.sha256.is_some();
    let crc64 = named(&sums.checksum_crc64nvme, "x-amz-checksum-crc64nvme");
    hasher.crc64nvme = (crc64 || !any).then(Crc64Nvme::new);
    hasher
}

fn compare(announced: &Announced, md5: &[u8; 16], sums: &Checksum) -> S3Result<()> {
    if let Some(expected) = &announced.md5 {
        let expected = BASE64.decode(expected).map_err(|_| s3_error!(InvalidDigest))?;
        if expected.len() != md5.len() {
            return Err(s3_error!(InvalidDigest));
        }
        if expected != md5 {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match"));
        }
    }
    let trailer = |name: &str| {
        let trailers = announced.trailers.as_ref()?;
        trailers.read(|map| map.get(name)?.to_str().ok().map(str::to_owned)).flatten()
    };
    let said = &announced.sums;
    let rows = [
        ("crc32", &said.checksum_crc32, &sums.checksum_crc32),
        ("crc32c", &said.checksum_crc32c, &sums.checksum_crc32c),
        ("sha1", &said.checksum_sha1, &sums.checksum_sha1),
        ("sha256", &said.checksum_sha256, &sums.checksum_sha256),
        ("crc64nvme", &said.checksum_crc64nvme, &sums.checksum_crc64nvme),
    ];
    for (name, header, computed) in rows {
        let expected = header.clone().or_else(|| trailer(&format!("x-amz-checksum-{name}")));
        if let Some(expected) = expected
            && Some(&expected) != computed.as_ref()
        {
            return Err(s3_error!(BadDigest, "The {name} you specified did not match"));
        }
    }
    Ok(())
}

fn broken_body(error: s3s::StdError) -> S3Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        return named_error(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch");
    }
    if text.contains("SignatureMismatch") {
        return s3_error!(SignatureDoesNotMatch);
    }
    s3_error!(IncompleteBody, "{text}")
}

/// The lower-case hex form in which digests become ETags.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An ETag for bytes that nobody should hash: derived from what they are made of.
pub(crate) fn derived_etag(origin: &str) -> [u8; 16] {
    Md5::checksum(origin.as_bytes())
}
