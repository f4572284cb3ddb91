//! Who tells the kernel of files where this process may not.
//!
//! Owns the seam alone, and the two calls behind it: registering a file for passthrough needs
//! CAP_SYS_ADMIN, which whoever mounted has. Must not know how the two talk.

use std::fmt::Debug;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;

use fuser::BackingId;

use super::passthrough;

/// What a registration will come to: the kernel's number of the file.
pub type Registering = Pin<Box<dyn Future<Output = io::Result<u32>> + Send>>;

/// Registers files with the kernel for another process.
pub trait Registrar: Debug + Send + Sync {
    /// Registers a file; fails soon where nobody answers.
    fn register(&self, file: &File) -> Registering;

    /// Takes a registration back. Files that are open stay so.
    fn unregister(&self, number: u32);
}

/// Registers a file on a connection, with this process's own privilege.
///
/// # Errors
/// The kernel's.
pub fn register(device: impl AsFd, file: impl AsFd) -> io::Result<u32> {
    BackingId::create_raw(device, file)
}

/// Takes a registration back.
///
/// # Errors
/// The kernel's, for a number that is none.
pub fn unregister(device: impl AsFd, number: u32) -> io::Result<()> {
    passthrough::close_backing(device.as_fd(), number)
}
