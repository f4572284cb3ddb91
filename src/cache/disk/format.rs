//! What a cached version looks like on disk.
//!
//! Owns names and bytes: which file a version has, the head of its metadata file, and the record
//! of each block. The data file is the object and nothing else, so that the kernel can be handed
//! it; all else is in the metadata file beside it. Promises: a head fits one version alone, and a
//! record says "present" only as it was written, so whatever a crash, a full disk or another
//! program left is read as absent. Pure. Must not know files.
//!
//! ```text
//!   head     magic, format, block size, object size, length of the identity, identity
//!   record   for each block, 8 bytes: CRC-32C of the block's bytes; CRC-32C of the head's
//!            checksum, the block's number and that checksum. All zeros: the block is absent.
//! ```

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};
use sha2::{Digest as _, Sha256};

use super::super::BLOCK_SIZE;
use crate::store::Version;

/// The folder's name below the cache folder's. Another format is another folder, so that old and
/// new programs can share a cache folder.
pub(super) const FORMAT: &str = "1";

const MAGIC: &[u8; 8] = b"s3podblk";

/// Bytes of a block's record.
pub(super) const RECORD_SIZE: u64 = 8;

/// The longest identity: an endpoint, an ARN, a key of 1 KiB, a tag and a version id of 1 KiB each,
/// with room to spare. What is longer is not cached.
const IDENTITY_MAX: usize = 8 * 1024;

/// A version's name in the folder: 128 bits of SHA-256, beyond chance and beyond malice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub(super) [u8; 16]);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Id {
    /// The id that is written so; upper case is none of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.as_bytes().iter().all(lower) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }

    /// Half of it, enough to tell the versions of one folder apart in memory.
    pub(super) const fn half(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Everything that tells one version from all others, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: Id,
    /// Bytes of the object.
    pub(super) size: u64,
    /// The metadata file up to its records.
    pub(super) head: Vec<u8>,
    salt: u32,
}

impl Identity {
    /// The identity of a version of the store at `place`; none where it is not to be cached: a
    /// version without bytes, or one whose tag does not stand for its bytes.
    pub(super) fn new(place: &str, version: &Version) -> Option<Self> {
        let etag = version.etag.as_deref().filter(|etag| !etag.starts_with("W/"))?;
        let version_id = version.version_id.as_deref();
        let mut text = Vec::with_capacity(place.len() + version.key.as_str().len() + etag.len());
        for field in [Some(place), Some(version.key.as_str()), Some(etag), version_id] {
            // Lengths, since a key may hold any separator.
            let length = field.map_or(u32::MAX, |field| u32::try_from(field.len()).unwrap_or(0));
            text.extend_from_slice(&length.to_le_bytes());
            text.extend_from_slice(field.unwrap_or("").as_bytes());
        }
        if version.size == 0 || text.len() > IDENTITY_MAX {
            return None;
        }
        let head = head(&text, version.size);
        let hash = Sha256::digest(&head);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        let salt = crc32c(&[&head]);
        Some(Self { id: Id(id), size: version.size, head, salt })
    }

    /// How many blocks the object has.
    pub(super) const fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_SIZE)
    }

    /// Bytes of a block; the last one is short.
    pub(super) fn block_len(&self, index: u64) -> u64 {
        BLOCK_SIZE.min(self.size.saturating_sub(index * BLOCK_SIZE))
    }

    /// Where in the metadata file the record of a block stands.
    pub(super) const fn record_at(&self, index: u64) -> u64 {
        (self.head.len() as u64).next_multiple_of(RECORD_SIZE) + index * RECORD_SIZE
    }

    /// The record of a present block.
    pub(super) fn record(&self, index: u64, checksum: u32) -> [u8; 8] {
        let mut record = [0; 8];
        record[..4].copy_from_slice(&checksum.to_le_bytes());
        record[4..].copy_from_slice(&self.seal(index, checksum).to_le_bytes());
        record
    }

    /// What a record says.
    pub(super) fn read(&self, index: u64, record: [u8; 8]) -> Record {
        if record == [0; 8] {
            return Record::Absent;
        }
        let [a, b, c, d, e, f, g, h] = record;
        let checksum = u32::from_le_bytes([a, b, c, d]);
        if self.seal(index, checksum) == u32::from_le_bytes([e, f, g, h]) {
            Record::Present { checksum }
        } else {
            Record::Damaged
        }
    }

    fn seal(&self, index: u64, checksum: u32) -> u32 {
        crc32c(&[&self.salt.to_le_bytes(), &index.to_le_bytes(), &checksum.to_le_bytes()])
    }
}

fn head(identity: &[u8], size: u64) -> Vec<u8> {
    let length = u32::try_from(identity.len()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(32 + identity.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&1_u32.to_le_bytes());
    head.extend_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
    head.extend_from_slice(&size.to_le_bytes());
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(identity);
    head
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Never written, or let go.
    Absent,
    /// Written, with bytes of this checksum.
    Present {
        /// CRC-32C of the block's bytes.
        checksum: u32,
    },
    /// Not as it was written.
    Damaged,
}

/// CRC-32C: in hardware everywhere, and certain to see any damage within 32 bits.
pub(super) fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    u32::try_from(digest.finalize()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naming::Key;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::time::SystemTime;

    fn version(key: &str, etag: &str, version_id: Option<&str>, size: u64) -> Version {
        Version {
            key: Key::from(key),
            etag: Some(etag.into()),
            version_id: version_id.map(Into::into),
            size,
            last_modified: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
    }

    #[test]
    fn every_part_of_a_versions_identity_makes_another_id() {
        let versions = [
            ("s3", version("a", "b", None, 1)),
            ("s3", version("a", "b", None, 2)),
            ("s3", version("a", "b", Some(""), 1)),
            ("s3", version("a", "b", Some("1"), 1)),
            ("s3", version("a", "bc", None, 1)),
            ("s3", version("ab", "c", None, 1)),
            ("s3a", version("", "b", None, 1)),
            ("s4", version("a", "b", None, 1)),
        ];
        let ids = versions.iter().map(|(place, one)| Identity::new(place, one).unwrap().id);
        assert_eq!(ids.collect::<HashSet<_>>().len(), versions.len());
    }

    #[test]
    fn what_has_no_tag_for_its_bytes_is_not_cached() {
        let weak = version("a", "W/\"1\"", None, 1);
        let untagged = Version { etag: None, ..version("a", "", Some("1"), 1) };
        for other in [weak, untagged, version("a", "1", None, 0)] {
            assert_eq!(Identity::new("s3", &other), None);
        }
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = Identity::new("s3", &version("a", "b", None, 1)).unwrap().id;
        assert_eq!(Id::parse(&id.to_string()), Some(id));
        let other =
            ["", "a", &id.to_string()[1..], &format!("+{}", &id.to_string()[1..])].map(Id::parse);
        assert_eq!(other, [None; 4]);
    }

    proptest! {
        #[test]
        fn a_record_is_present_only_as_it_was_written(
            index: u64, checksum: u32, byte in 0_usize..8, flip in 1_u8..=255, other: u64,
        ) {
            let identity = Identity::new("s3", &version("a", "b", None, 1)).unwrap();
            let record = identity.record(index, checksum);
            prop_assert_eq!(identity.read(index, record), Record::Present { checksum });
            let mut flipped = record;
            flipped[byte] ^= flip;
            let is_present = matches!(identity.read(index, flipped), Record::Present { .. });
            prop_assert!(!is_present);
            prop_assume!(other != index);
            prop_assert_eq!(identity.read(other, record), Record::Damaged);
        }
    }
}
