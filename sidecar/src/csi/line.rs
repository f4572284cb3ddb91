//! The line to a process that serves a mount, from the driver's end.
//!
//! Owns the driver's duplicate of the connection's descriptor, and what is done with it: files are
//! registered with the kernel for a server that may not (`s3pod::mount::broker`). Promises: it is
//! closed as soon as the line is, so that the connection ends with its server. Must not know what
//! is mounted where.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use s3pod::fuse::registrar;
use s3pod::mount::broker::{self, Kernel};
use tokio::sync::watch;

/// Attends to a line until it ends, on a thread of its own; true in the answer from then on.
/// Files are registered that belong to the owner of the servers' folder.
pub(super) fn attend(
    line: UnixStream,
    device: OwnedFd,
    sockets: &Path,
) -> io::Result<watch::Receiver<bool>> {
    let server = broker::Server { uid: sockets.metadata()?.uid(), device: None };
    let (over, is_over) = watch::channel(false);
    let attend = move || {
        let mut connection = Connection(device);
        broker::attend(&line, server, &mut connection);
        // Before anybody hears of it: with the last descriptor, the connection ends.
        drop(connection);
        let _ = over.send(true);
    };
    thread::Builder::new().name("volume-line".to_owned()).spawn(attend)?;
    Ok(is_over)
}

/// A connection, by its /dev/fuse.
struct Connection(OwnedFd);

impl Kernel for Connection {
    fn register(&mut self, file: &File) -> io::Result<u32> {
        registrar::register(&self.0, file)
    }

    fn unregister(&mut self, number: u32) {
        if let Err(error) = registrar::unregister(&self.0, number) {
            tracing::debug!(%error, number, "a file stays registered");
        }
    }
}
