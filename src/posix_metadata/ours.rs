//! The dialect we write, chosen so that the others read it right.
//!
//! `mode` is octal with a leading zero and type bits (`0100644`): s3fs and geesefs parse numbers
//! as C does, where the zero says octal, and rclone takes octal anyway. `uid` and `gid` are
//! decimal. `mtime` is seconds, a dot and nine digits, which is the same time whether the digits
//! are read as a fraction (rclone) or as a count of nanoseconds (s3fs).
//!
//! Extended attributes are written as s3fs does, all in the one key `xattr`, and not as geesefs
//! does, a key for each: S3 makes keys lower-case, so `user.Team` would come back as `user.team`;
//! `user.mode` would be taken for the mode; and nobody could tell our attributes from foreign
//! metadata, which must survive. It costs 8 bytes an attribute and a third of its value, of the
//! 2 KiB that S3 gives; attributes that came as keys of their own stay so.

use std::time::{Duration, SystemTime};

use super::{S_IFLNK, S_IFMT, has_type, octal};

pub(super) const MODE: &str = "mode";
pub(super) const UID: &str = "uid";
pub(super) const GID: &str = "gid";
pub(super) const MTIME: &str = "mtime";

/// Octal with a leading zero. Without type bits it says only permissions.
pub(super) fn mode(text: &str) -> Option<u32> {
    let mode = text.starts_with('0').then(|| octal(text)).flatten()?;
    (mode <= 0o7777 || has_type(mode)).then_some(mode)
}

/// A decimal user or group; the highest number means nobody in every call of POSIX.
pub(super) fn id(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|id| *id != u32::MAX)
}

/// A type without permissions gets those that Linux shows for it.
pub(super) fn write_mode(perm: Option<u16>, type_bits: Option<u32>) -> Option<String> {
    let perm = perm.map(|perm| u32::from(perm) & 0o7777);
    match (perm, type_bits.map(|bits| bits & S_IFMT).filter(|bits| *bits != 0)) {
        (None, None) => None,
        (Some(perm), None) => Some(format!("{perm:04o}")).map(leading_zero),
        (Some(perm), Some(bits)) => Some(format!("{:07o}", bits | perm)),
        (None, Some(S_IFLNK)) => Some(format!("{:07o}", S_IFLNK | 0o777)),
        (None, Some(bits)) => Some(format!("{:07o}", bits | 0o644)),
    }
}

/// Permissions of four digits (set-uid and the like) need the zero too.
fn leading_zero(octal: String) -> String {
    if octal.starts_with('0') { octal } else { format!("0{octal}") }
}

pub(super) fn write_time(time: SystemTime) -> String {
    let seconds =
        |distance: Duration| format!("{}.{:09}", distance.as_secs(), distance.subsec_nanos());
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => seconds(since),
        Err(before) => format!("-{}", seconds(before.duration())),
    }
}
