//! What the AWS family writes (DataSync, FSx for Lustre, File Cache, Storage Gateway): octal
//! modes with type bits under `file-permissions`, times in nanoseconds with their unit.
//!
//! Source: "POSIX metadata support for data repositories" in the FSx for Lustre user guide.

use std::time::{Duration, SystemTime};

use super::{has_type, octal, since_1970};

pub(super) const MODE: &str = "file-permissions";
pub(super) const UID: &str = "file-owner";
pub(super) const GID: &str = "file-group";
pub(super) const MTIME: &str = "file-mtime";

pub(super) fn mode(text: &str) -> Option<u32> {
    octal(text).filter(|mode| *mode <= 0o7777 || has_type(*mode))
}

/// `1595002920000000000ns`
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let nanos = text.strip_suffix("ns")?;
    let back = nanos.starts_with('-');
    let nanos: u128 = nanos.strip_prefix('-').unwrap_or(nanos).parse().ok()?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    since_1970(back, Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}
