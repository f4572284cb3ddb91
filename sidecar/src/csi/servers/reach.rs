//! Sockets in folders of other people.
//!
//! Owns the way to a socket: by descriptors, since its path may be longer than a socket's address
//! can be (108 bytes, unix(7)), and without links, since whoever writes to the folder must not lead
//! this process elsewhere. Promises: a listener that accepts nobody holds nobody up. Must not know
//! what is said there.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, getsockopt, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// For a listener whose queue is full.
const PATIENCE_S: i64 = 5;

/// A file below a folder, as a descriptor and as a short path that names it while that is open.
#[derive(Debug)]
pub(super) struct Reached {
    _open: OwnedFd,
    pub(super) path: PathBuf,
}

/// Finds `below` in `folder`.
pub(super) fn find(folder: &Path, below: &Path) -> io::Result<Reached> {
    let folder = File::open(folder)?;
    // Without O_NOFOLLOW, with which a link at the end would be opened itself.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let open = openat2(&folder, below, how)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    Ok(Reached { _open: open, path })
}

/// Connects to the socket `below` in `folder`, and says who listens there.
pub(super) fn connect(folder: &Path, below: &Path) -> io::Result<(UnixStream, UnixCredentials)> {
    let there = find(folder, below)?;
    let kind = SockType::Stream;
    let stream = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&stream, SendTimeout, &TimeVal::seconds(PATIENCE_S))?;
    nix::sys::socket::connect(stream.as_raw_fd(), &UnixAddr::new(&there.path)?)?;
    let stream = UnixStream::from(stream);
    let peer = getsockopt(&stream, PeerCredentials)?;
    Ok((stream, peer))
}

/// The error of a listener that is not who it should be.
pub(super) fn stranger(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_long_way_is_gone_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let near = find(folder.path(), Path::new(deep.file_name().unwrap())).unwrap();
        let _listener = UnixListener::bind(near.path.join("socket")).unwrap();
        let (_, peer) = connect(&deep, Path::new("socket")).unwrap();
        assert_eq!(peer.pid().cast_unsigned(), std::process::id());
        symlink(&deep, folder.path().join("link")).unwrap();
        symlink("socket", deep.join("other")).unwrap();
        for (folder, below) in
            [(folder.path(), "link/socket"), (&deep, "other"), (&deep, "../link/socket")]
        {
            let refused = find(folder, Path::new(below)).unwrap_err().raw_os_error();
            assert!(refused == Some(libc::ELOOP) || refused == Some(libc::EXDEV), "{refused:?}");
        }
        drop(_listener);
        let refused = connect(&deep, Path::new("socket")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
