//! Whether a path is served by us.
//!
//! Owns the look from outside: by the device of the file, which no other mount above or below it
//! can confuse. Must not know who serves it.

use std::io;
use std::path::Path;

use nix::sys::stat::{major, minor};

use super::mountinfo::{self, Device, FS_TYPE};

/// True for a path in a mount of this program, whichever process serves it.
///
/// # Errors
/// What the system says of the path.
pub fn is_served(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let device = std::fs::symlink_metadata(path)?.dev();
    let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
    let device = Device::new(number(major(device)), number(minor(device)));
    let mounts = mountinfo::read()?;
    Ok(mounts.iter().any(|mount| mount.device == device && mount.kind == FS_TYPE))
}
