//! What geesefs writes beyond the shared keys: a symlink's target, and each extended attribute
//! as a key of its own, with `%` escapes. goofys and rclone do the latter too.
//!
//! Source: geesefs's core/handles and core/utils as of 0.43.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The target of a symlink, whose body is empty.
pub(super) const SYMLINK: &str = "--symlink-target";

const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

pub(super) fn symlink(text: &str) -> Option<String> {
    String::from_utf8(unescape(text)).ok().filter(|target| !target.is_empty())
}

/// The extended attribute that a key of user metadata is.
pub(super) fn xattr_name(key: &str) -> String {
    let name = String::from_utf8(unescape(key)).unwrap_or_else(|_| key.to_owned());
    format!("user.{name}")
}

/// Undoes the escapes; a `%` that starts none is itself.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

/// Escapes what no header takes, and spaces, since S3 trims those at the ends.
pub(super) fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}
