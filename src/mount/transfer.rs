//! How much travels in one request between the kernel and this process.
//!
//! Owns the choice by memory, and the system-wide knob that larger requests need, which is put
//! back as soon as the connection has begun. Must not know what is transferred.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU32;

use nix::fcntl::{Flock, FlockArg};

use crate::units::{KIB, MIB};

/// Bounds the pages of one request of every connection that begins while it holds; since Linux
/// 6.13.
const KNOB: &str = "/proc/sys/fs/fuse/max_pages_limit";

/// The kernel's own default limit (256 pages), and what every request may cost in memory.
const SMALL: u32 = MIB as u32;

/// A quarter of the requests. Each of the at most eight threads has a buffer for the largest one,
/// which only large WRITEs fill: 32 MiB.
const LARGE: u32 = 4 * MIB as u32;

/// The memory from which on the large ones are worth it.
const LARGE_FROM: u64 = 512 * MIB;

/// How much travels at once, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The largest READ or WRITE, and how far the kernel reads ahead of a sequential reader: with
    /// its default of 128 KiB, eight requests make a MiB.
    pub(super) request_max: u32,
}

/// The knob is raised until this is dropped.
#[derive(Debug)]
pub(super) struct Raised {
    before: String,
    /// Other mounts that begin at the same time wait, so that each finds the true value.
    _alone: Flock<File>,
}

impl Transfer {
    /// What fits a mount of so much memory.
    pub const fn within(memory_limit: u64) -> Self {
        Self { request_max: if memory_limit >= LARGE_FROM { LARGE } else { SMALL } }
    }

    /// Lets connections that begin now have requests of this size; none where they may anyway, or
    /// where only the host could say so.
    pub(super) fn raise_max_pages(self) -> Option<Raised> {
        // Pages of 4 KiB are the smallest there are; of larger ones fewer are needed.
        let pages = NonZeroU32::new(self.request_max / (4 * KIB as u32))?;
        match raise(pages) {
            Ok(raised) => raised,
            Err(error) => {
                tracing::debug!(KNOB, %error, "requests stay as large as the kernel allows");
                None
            }
        }
    }
}

fn raise(pages: NonZeroU32) -> io::Result<Option<Raised>> {
    let file = OpenOptions::new().read(true).open(KNOB)?;
    let alone = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let before = fs::read_to_string(KNOB)?.trim().to_owned();
    if before.parse::<u32>().is_ok_and(|allowed| allowed >= pages.get()) {
        return Ok(None);
    }
    fs::write(KNOB, pages.to_string())?;
    Ok(Some(Raised { before, _alone: alone }))
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Err(error) = fs::write(KNOB, &self.before) {
            tracing::warn!(KNOB, before = self.before, %error, "the knob stays raised");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_requests_are_for_mounts_with_memory() {
        assert_eq!(Transfer::within(64 * MIB).request_max, SMALL);
        assert_eq!(Transfer::within(LARGE_FROM - 1).request_max, SMALL);
        assert_eq!(Transfer::within(LARGE_FROM).request_max, LARGE);
    }
}
