//! The checksum of a multipart object from those of its parts.
//!
//! Full-object CRCs are combined without reading a byte; composite ones are the checksum of the
//! parts' checksums. An object with a copied part has none, since copies are not hashed here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, checksum_combine};
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Sha1, Sha256};
use s3s::dto::{Checksum, ChecksumType, CompletedPart};
use s3s::{S3Result, s3_error};

use super::multipart::{Part, Upload};

/// Whether the checksums a Complete claims for a part are those it arrived with.
pub(super) fn claim_holds(claim: &CompletedPart, part: &Part) -> bool {
    let rows = [
        (&claim.checksum_crc32, &part.sums.checksum_crc32),
        (&claim.checksum_crc32c, &part.sums.checksum_crc32c),
        (&claim.checksum_crc64nvme, &part.sums.checksum_crc64nvme),
        (&claim.checksum_sha1, &part.sums.checksum_sha1),
        (&claim.checksum_sha256, &part.sums.checksum_sha256),
    ];
    rows.iter().all(|(claimed, known)| claimed.is_none() || claimed == known)
}

/// The object's checksums, compared with what the Complete request said they are.
pub(super) fn combine(upload: &Upload, parts: &[&Part], said: &Checksum) -> S3Result<Checksum> {
    let named = upload.checksum_type.as_ref().map(ChecksumType::as_str);
    let full = match named {
        Some(ChecksumType::COMPOSITE) => false,
        Some(_) => true,
        // S3's default: only CRC64NVME is always of the full object.
        None => parts.iter().all(|part| part.sums.checksum_crc64nvme.is_some()),
    };
    let sums = if full { full_object(parts) } else { composite(parts) };
    let rows = [
        (&said.checksum_crc32, &sums.checksum_crc32),
        (&said.checksum_crc32c, &sums.checksum_crc32c),
        (&said.checksum_crc64nvme, &sums.checksum_crc64nvme),
        (&said.checksum_sha1, &sums.checksum_sha1),
        (&said.checksum_sha256, &sums.checksum_sha256),
    ];
    for (claimed, computed) in rows {
        if claimed.is_some() && computed.is_some() && claimed != computed {
            return Err(s3_error!(BadDigest, "The checksum you specified did not match"));
        }
    }
    Ok(sums)
}

type Field = fn(&Checksum) -> &Option<String>;

/// The raw bytes of one checksum of every part, or none if a part lacks it.
fn raw(parts: &[&Part], field: Field) -> Option<Vec<Vec<u8>>> {
    let decode = |part: &&Part| BASE64.decode(field(&part.sums).as_ref()?).ok();
    parts.iter().map(decode).collect()
}

fn full_object(parts: &[&Part]) -> Checksum {
    let crc = |algorithm: CrcAlgorithm, width: usize, field: Field| {
        let raws = raw(parts, field)?;
        let number =
            |raw: &Vec<u8>| raw.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let mut pairs = raws.iter().zip(parts);
        let (first, _) = pairs.next()?;
        let sum = pairs.fold(number(first), |sum, (raw, part)| {
            checksum_combine(algorithm, sum, number(raw), part.content.len())
        });
        Some(BASE64.encode(&sum.to_be_bytes()[8 - width..]))
    };
    Checksum {
        checksum_crc32: crc(CrcAlgorithm::Crc32IsoHdlc, 4, |sums| &sums.checksum_crc32),
        checksum_crc32c: crc(CrcAlgorithm::Crc32Iscsi, 4, |sums| &sums.checksum_crc32c),
        checksum_crc64nvme: crc(CrcAlgorithm::Crc64Nvme, 8, |sums| &sums.checksum_crc64nvme),
        checksum_type: Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        ..Checksum::default()
    }
}

fn composite(parts: &[&Part]) -> Checksum {
    let all = |field: Field| raw(parts, field).map(|raws| raws.concat());
    let name = |sum: &[u8]| format!("{}-{}", BASE64.encode(sum), parts.len());
    Checksum {
        checksum_crc32: all(|sums| &sums.checksum_crc32).map(|raw| name(&Crc32::checksum(&raw))),
        checksum_crc32c: all(|sums| &sums.checksum_crc32c).map(|raw| name(&Crc32c::checksum(&raw))),
        checksum_sha1: all(|sums| &sums.checksum_sha1).map(|raw| name(&Sha1::checksum(&raw))),
        checksum_sha256: all(|sums| &sums.checksum_sha256).map(|raw| name(&Sha256::checksum(&raw))),
        checksum_type: Some(ChecksumType::from_static(ChecksumType::COMPOSITE)),
        ..Checksum::default()
    }
}
