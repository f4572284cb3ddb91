//! One component of a path.
//!
//! Owns [`Name`] and why a string is not one. Must not know keys.

use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;

/// The longest component Linux allows (`NAME_MAX`), in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// A valid component of a path: 1 to 255 bytes of UTF-8 without `/` or NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a string is no name, or a name makes no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Over 255 bytes (ENAMETOOLONG).
    #[error("a file name is at most 255 bytes")]
    TooLong,
    /// The whole key would be over 1 024 bytes (ENAMETOOLONG).
    #[error("the path makes an object key of over 1024 bytes")]
    KeyTooLong,
    /// Not UTF-8, which S3 keys are (EILSEQ).
    #[error("object keys are UTF-8 and this name is not")]
    NotUtf8,
    /// Empty, `.`, `..`, or with `/` or NUL in it (EINVAL).
    #[error("not a file name")]
    Invalid,
}

impl Name {
    /// The name, if it is one.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn new(text: &OsStr) -> Result<Self, NameError> {
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        let text = text.to_str().ok_or(NameError::NotUtf8)?;
        if matches!(text, "" | "." | "..") || text.contains(['/', '\0']) {
            return Err(NameError::Invalid);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the kernel takes it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::new(&*self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn every_rule_of_a_name_is_kept() {
        let long = "x".repeat(255);
        let cases: [(&[u8], Result<(), NameError>); 10] = [
            (b"a", Ok(())),
            (b"with space and \xc3\xa4", Ok(())),
            (long.as_bytes(), Ok(())),
            (b"...", Ok(())),
            (b"", Err(NameError::Invalid)),
            (b".", Err(NameError::Invalid)),
            (b"..", Err(NameError::Invalid)),
            (b"a/b", Err(NameError::Invalid)),
            (b"a\0b", Err(NameError::Invalid)),
            (b"\xff\xfe", Err(NameError::NotUtf8)),
        ];
        for (bytes, want) in cases {
            assert_eq!(Name::new(OsStr::from_bytes(bytes)).map(|_| ()), want, "{bytes:?}");
        }
        assert_eq!(Name::new("x".repeat(256).as_ref()), Err(NameError::TooLong));
    }
}
