//! What rclone writes: octal modes without a leading zero, times as decimal fractions.
//!
//! Source: rclone's backend/s3 and backend/local/metadata as of 1.73.

use std::time::{Duration, SystemTime};

use super::{S_IFLNK, S_IFMT, S_IFREG, has_type, octal, since_1970};

/// The MD5 of an object that was uploaded in parts, in base64. rclone compares it.
pub(super) const CHECKSUM: &str = "md5chksum";

/// Octal with type bits. Without them it is anybody's guess (644?) and nobody's mode.
///
/// What has a link's mode is `name.rclonelink`, whose body is the target (`--links --metadata`):
/// rclone makes a link of it, for everybody else it is a plain file.
pub(super) fn mode(text: &str) -> Option<u32> {
    let mode = octal(text).filter(|mode| has_type(*mode))?;
    let is_link = mode & S_IFMT == S_IFLNK;
    Some(if is_link { mode & !S_IFMT | S_IFREG } else { mode })
}

/// Seconds with a decimal fraction, whose trailing zeros are cut: `5.5` is 5 s and 500 ms.
/// Integers (geesefs, gsutil) are the same without one; digits past the ninth are dropped.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let (back, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    since_1970(back, Duration::new(seconds.parse().ok()?, nanos))
}
