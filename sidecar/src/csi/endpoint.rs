//! The socket that calls come to.
//!
//! Owns its address and its file. Promises: only root may connect, from the file's first moment;
//! a socket that an earlier process left is replaced, and nothing else ever is. Must not know what
//! is called.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use s3pod::mount::Failure;
use tokio::net::UnixListener;

/// The longest path of a socket: sun_path of unix(7), without the NUL behind it.
const PATH_MAX: usize = 107;

/// The path in `unix:///path`, `unix:/path` or `/path`.
pub(super) fn path(endpoint: &str) -> Result<PathBuf, String> {
    let stripped = ["unix://", "unix:"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
    let path = stripped.unwrap_or(endpoint);
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(format!("`{endpoint}` is no socket's address, like unix:///csi/csi.sock"));
    }
    if path.len() > PATH_MAX {
        return Err(format!("`{path}` is longer than {PATH_MAX} bytes; choose a shorter path"));
    }
    Ok(PathBuf::from(path))
}

/// Listens at `path`, whose folder is made where it is missing.
pub(super) fn bind(path: &Path) -> Result<UnixListener, Failure> {
    listen(path).map_err(|error| {
        Failure::configuration(format!(
            "--endpoint: {} cannot be listened at: {error}",
            path.display()
        ))
    })
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    }
    remove(path);
    // By the umask, since a mode that is set later leaves a moment. It is the whole process's, and
    // no other thread makes files yet.
    let before = umask(Mode::from_bits_truncate(0o077));
    let bound = net::UnixListener::bind(path);
    umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Removes a socket's file; anything else at that place stays.
pub(super) fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
        // Where that fails, bind says why.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_address_is_a_path_with_or_without_its_scheme() {
        for text in ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock"] {
            assert_eq!(path(text), Ok(PathBuf::from("/csi/csi.sock")), "{text}");
        }
        let long = format!("/{}", "x".repeat(PATH_MAX));
        for text in ["", "unix://", "tcp://127.0.0.1:1", "csi.sock", "unix:///csi/", &long] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn only_a_socket_is_replaced_and_only_root_may_connect() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("deep/csi.sock");
        drop(bind(&socket).unwrap());
        let _listening = bind(&socket).unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o700);
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        let said = bind(&file).unwrap_err().to_string();
        assert!(said.contains("--endpoint"), "{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
