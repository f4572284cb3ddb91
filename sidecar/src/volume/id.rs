//! The id of a volume that the controller made.
//!
//! Owns the codec `v1/STORE/BUCKET/HASH`. Promises: an id has at most 128 bytes, and reading what
//! was written gives the same id. Everything else about a volume stands in its marker. Must not
//! know what the store or the marker say.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// What ids begin with, and what the next form of them will not.
const SCHEMA: &str = "v1";

/// In place of the store's name, where the Secret of the provisioner says where the store is.
const BY_SECRET: &str = "-";

/// Where markers are.
pub(crate) const MARKERS: &str = ".s3pod/volumes/";

/// 128 bytes less `v1`, three slashes, a bucket's 63 and the hash's 32.
pub(crate) const STORE_MAX: usize = 28;

/// The longest name of a bucket that can be made.
pub(crate) const BUCKET_MAX: usize = 63;

/// The first 128 bits of a SHA-256: what volumes are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Hash([u8; 16]);

impl Hash {
    /// The hash of a text.
    pub(crate) fn of(text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(());
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| ())
    }
}

/// A volume of the controller's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VolumeId {
    /// The store by its name in the controller's table; none where a Secret says where it is.
    pub(crate) store: Option<String>,
    /// The bucket.
    pub(crate) bucket: String,
    /// Which volume of the bucket.
    pub(crate) hash: Hash,
}

impl VolumeId {
    /// Reads an id; none for anything that this driver never wrote.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (schema, store, bucket) = (parts.next()?, parts.next()?, parts.next()?);
        let hash = parts.next()?.parse().ok()?;
        let store = Some(store).filter(|store| *store != BY_SECRET).map(str::to_owned);
        let is_known = schema == SCHEMA
            && parts.next().is_none()
            && store.as_deref().is_none_or(is_store_name)
            && is_bucket_name(bucket);
        is_known.then(|| Self { store, bucket: bucket.to_owned(), hash })
    }
}

impl VolumeId {
    /// The key of the object that says what is known of the volume.
    pub(crate) fn marker(&self) -> String {
        marker(self.hash)
    }
}

/// The key of the marker of a volume; mounts hide it.
pub(crate) fn marker(hash: Hash) -> String {
    format!("{MARKERS}{hash}")
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = self.store.as_deref().unwrap_or(BY_SECRET);
        write!(f, "{SCHEMA}/{store}/{}/{}", self.bucket, self.hash)
    }
}

/// A name in the table of stores: like a label of DNS, and short.
pub(crate) fn is_store_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= STORE_MAX
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(inner)
}

/// A bucket's name that every store takes: S3's own rules, by which buckets are made.
pub(crate) fn is_bucket_name(name: &str) -> bool {
    let inner = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
    };
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    (3..=BUCKET_MAX).contains(&name.len())
        && name.bytes().all(inner)
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_being_written_and_read_and_fits() {
        for store in [None, Some("minio".to_owned()), Some("s".repeat(STORE_MAX))] {
            let hash = Hash::of("pvc-1");
            let id = VolumeId { store, bucket: "b".repeat(BUCKET_MAX), hash };
            let text = id.to_string();
            assert!(text.len() <= 128, "{text}");
            assert_eq!(VolumeId::read(&text), Some(id));
        }
    }

    #[test]
    fn a_hash_is_the_same_in_every_release() {
        // Written down: a changed hash would make every volume unknown.
        assert_eq!(Hash::of("pvc-1").to_string(), "f2868e1aa7cab669517cd9f5ab1b7957");
        assert_eq!("f2868e1aa7cab669517cd9f5ab1b7957".parse(), Ok(Hash::of("pvc-1")));
    }

    #[test]
    fn what_another_driver_wrote_is_no_id() {
        let hash = Hash::of("a").to_string();
        for text in [
            "",
            "pvc-1",
            "bucket/prefix",
            &format!("v2/-/bucket/{hash}"),
            &format!("v1/-/bucket/{hash}/more"),
            &format!("v1/-/bucket/{}", &hash[1..]),
            &format!("v1/-/bucket/{}", hash.to_uppercase()),
            &format!("v1/-/../{hash}"),
            &format!("v1/-/Bucket/{hash}"),
            &format!("v1//bucket/{hash}"),
            &format!("v1/MinIO/bucket/{hash}"),
        ] {
            assert_eq!(VolumeId::read(text), None, "{text}");
        }
    }
}
