//! What s3fs writes: decimal modes, `seconds.nanoseconds`, and all extended attributes in one
//! key, as JSON of base64.
//!
//! Source: s3fs's metaheader, string_util and s3fs_xattr as of 1.95.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::{S_IFLNK, S_IFMT, UserMetadata, has_type, since_1970};

pub(super) const XATTR: &str = "xattr";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// s3fs escapes all punctuation but undoes `%` alone, so what a header takes goes as it is: each
/// escape costs two bytes of 2 048. Old releases spell a space `+`, hence that one.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b'+').add(b' ');

/// A decimal (or 0x) mode with type bits. Two guards keep rclone's octal out, whose digits are
/// decimal digits too: 100644 is too large for a mode, and a symlink has permissions 0777 and
/// nothing else, so that 41777 is not one but a sticky directory in octal.
pub(super) fn mode(text: &str) -> Option<u32> {
    let mode = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => text.parse().ok()?,
    };
    let plausible = mode & S_IFMT != S_IFLNK || mode == S_IFLNK | 0o777;
    (has_type(mode) && plausible).then_some(mode)
}

/// True where s3fs wrote the object: no other dialect has a `ctime` in seconds.
pub(super) fn wrote(all: &UserMetadata) -> bool {
    all.get("ctime").is_some_and(|text| time(text).is_some())
}

/// Seconds, a dot and a count of nanoseconds, which old releases do not pad: `5.5` is 5 s and
/// 5 ns.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: u32 = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let back = seconds.starts_with('-');
    let seconds: u64 = seconds.strip_prefix('-').unwrap_or(seconds).parse().ok()?;
    since_1970(back, Duration::new(seconds, nanos))
}

/// The attributes of every namespace, names whole, and how many could not be read.
pub(super) fn xattrs(text: &str) -> (BTreeMap<String, Vec<u8>>, u32) {
    let json: Vec<u8> = percent_decode_str(text).collect();
    let Ok(lines) = serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(&json) else {
        return (BTreeMap::new(), 1);
    };
    let mut broken = 0;
    let mut xattrs = BTreeMap::new();
    for (name, value) in lines {
        match value.as_str().and_then(|value| BASE64.decode(value).ok()) {
            Some(value) => _ = xattrs.insert(name, value),
            None => broken += 1,
        }
    }
    (xattrs, broken)
}

pub(super) fn write_xattrs(xattrs: &BTreeMap<String, Vec<u8>>) -> String {
    let lines: serde_json::Map<String, serde_json::Value> =
        xattrs.iter().map(|(name, value)| (name.clone(), BASE64.encode(value).into())).collect();
    let json = serde_json::Value::Object(lines).to_string();
    utf8_percent_encode(&json, ESCAPED).to_string()
}
