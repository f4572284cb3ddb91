//! Object keys and directory prefixes.
//!
//! Owns [`Key`] (any string S3 would take as a key) and [`Prefix`] (the place of a directory: the
//! empty string or a string that ends in `/`). Must not know which keys are visible as files:
//! that is `resolve`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::{Name, NameError};

/// S3's limit on the length of a key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

/// The key of one object, whole: the mount's prefix included.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// A key as the store spelled it; nothing is checked, since buckets hold every string.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for a directory marker, a key that ends in `/`.
    pub fn is_marker(&self) -> bool {
        self.0.ends_with('/')
    }

    /// A 64-bit number for this key, the same in every process and release: the inode number of
    /// the file made under it. CRC-64/NVME, so no two keys that differ in 8 bytes or fewer
    /// collide; never 0 or 1, which FUSE keeps for itself and for the root.
    pub fn ino(&self) -> u64 {
        ino_of(&self.0)
    }
}

fn ino_of(text: &str) -> u64 {
    let hash = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, text.as_bytes());
    if hash < 2 { hash + 2 } else { hash }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Key {
    fn from(key: String) -> Self {
        Self::new(key)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.as_str().to_owned()
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self(key.into())
    }
}

/// The place of a directory: empty for the bucket's root, otherwise it ends in `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// The bucket's root.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// The prefix a user typed: leading slashes are dropped and a trailing one is added.
    pub fn from_user(text: &str) -> Self {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() { Self::root() } else { Self(format!("{trimmed}/").into()) }
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the bucket's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of the file `name` in this directory.
    ///
    /// # Errors
    /// [`NameError::KeyTooLong`] where the key would pass [`MAX_KEY_BYTES`].
    pub fn file(&self, name: &Name) -> Result<Key, NameError> {
        let key = format!("{}{}", self.0, name.as_str());
        if key.len() > MAX_KEY_BYTES { Err(NameError::KeyTooLong) } else { Ok(Key::new(key)) }
    }

    /// The prefix of the directory `name` in this directory.
    ///
    /// # Errors
    /// [`NameError::KeyTooLong`] where its marker's key would pass [`MAX_KEY_BYTES`].
    pub fn directory(&self, name: &Name) -> Result<Self, NameError> {
        let prefix = format!("{}{}/", self.0, name.as_str());
        if prefix.len() > MAX_KEY_BYTES {
            Err(NameError::KeyTooLong)
        } else {
            Ok(Self(prefix.into()))
        }
    }

    /// The key of this directory's marker object; none for the bucket's root.
    pub fn marker(&self) -> Option<Key> {
        (!self.is_root()).then(|| Key(Arc::clone(&self.0)))
    }

    /// The inode number of the directory, by the same hash as [`Key::ino`].
    pub fn ino(&self) -> u64 {
        ino_of(&self.0)
    }

    /// What stands behind this prefix in `key`; none where the key lies elsewhere.
    pub fn strip<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&*self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// True for what the provisioner keeps at a bucket's root and mounts hide: `.s3pod/`.
pub fn is_reserved(key: &str) -> bool {
    key == ".s3pod" || key.starts_with(".s3pod/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_ref()).unwrap()
    }

    #[test]
    fn a_prefix_makes_the_keys_of_its_children() {
        let data = Prefix::from_user("/data/");
        assert_eq!(data.as_str(), "data/");
        assert_eq!(data.file(&name("a")).unwrap().as_str(), "data/a");
        assert_eq!(data.directory(&name("b")).unwrap().as_str(), "data/b/");
        assert_eq!(data.marker().unwrap().as_str(), "data/");
        assert_eq!(Prefix::root().marker(), None);
        assert_eq!(Prefix::from_user("///"), Prefix::root());
    }

    #[test]
    fn a_key_over_1024_bytes_is_refused() {
        let component = name(&"x".repeat(255));
        let mut prefix = Prefix::root();
        for _ in 0..4 {
            prefix = prefix.directory(&component).unwrap();
        }
        assert_eq!(prefix.as_str().len(), 1024);
        assert_eq!(prefix.file(&name("y")), Err(NameError::KeyTooLong));
        assert_eq!(prefix.directory(&name("y")), Err(NameError::KeyTooLong));
    }

    #[test]
    fn inode_numbers_are_stable_over_releases() {
        assert_eq!(Key::from("a/b.txt").ino(), Key::from("a/b.txt").ino());
        assert_ne!(Key::from("a").ino(), Key::from("b").ino());
        assert_eq!(Key::from("").ino(), 2);
        // Written down: a changed hash would give every file on every mount a new number.
        assert_eq!(Key::from("123456789").ino(), 0xAE8B_1486_0A79_9888);
    }
}
