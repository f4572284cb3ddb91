//! One file into the cache.
//!
//! Owns the reading and the question whether the mount has cached it. Must not know other files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use super::progress::Progress;
use crate::units::MIB;

/// Bytes of a read; the kernel sends it in pieces that travel together.
pub(super) const SIZE: usize = 4 * MIB as usize;

/// How often a file is read. A mount drops what its disk does not keep up with, so a second
/// reading fetches what the first one lost; a file that is not cached then does not fit.
const READINGS: usize = 3;

/// Where the mount says how much of a file it has on disk.
const CACHED: &str = "user.s3pod.cached";

/// Reads the file until the mount has all of it on disk.
pub(super) fn warm(
    path: &Path,
    size: u64,
    buffer: &mut [u8],
    progress: &Progress,
) -> Result<(), String> {
    let mut cached = 0;
    for reading in 0..READINGS {
        let was_read = read(path, buffer, |bytes| {
            if reading == 0 {
                progress.read(bytes);
            }
        });
        was_read.map_err(|error| error.to_string())?;
        cached = ask(path).map_err(|error| format!("how much is cached? {error}"))?;
        if cached >= size {
            return Ok(());
        }
    }
    Err(format!(
        "{cached} of {size} bytes are on the mount's disk; it is slow, full, or --cache-size is \
         too small"
    ))
}

fn read(path: &Path, buffer: &mut [u8], mut seen: impl FnMut(u64)) -> io::Result<()> {
    let mut file = open(path)?;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => seen(bytes as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Past the kernel's pages: what is there has not to be on the mount's disk, and is better kept
/// for what somebody needs.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match options.custom_flags(OFlag::O_DIRECT.bits()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            options.custom_flags(0).open(path)
        }
        opened => opened,
    }
}

fn ask(path: &Path) -> io::Result<u64> {
    // 20 digits are the most that fit into 64 bits.
    let mut text = [0; 20];
    let length = rustix::fs::getxattr(path, CACHED, &mut text)?;
    let number = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
