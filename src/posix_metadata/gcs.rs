//! What gsutil and the Google transfer service write, found on objects that were copied from
//! there: octal permissions, decimal owner, whole seconds.
//!
//! Source: "Preserve POSIX metadata" in the Cloud Storage documentation; s3fs reads it too.

use super::octal;

pub(super) const MODE: &str = "goog-reserved-posix-mode";
pub(super) const UID: &str = "goog-reserved-posix-uid";
pub(super) const GID: &str = "goog-reserved-posix-gid";
pub(super) const MTIME: &str = "goog-reserved-file-mtime";

/// Permissions and nothing else; the type is the source's business.
pub(super) fn mode(text: &str) -> Option<u32> {
    octal(text).map(|mode| mode & 0o7777)
}
