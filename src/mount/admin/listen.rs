//! The listeners of the admin interface.
//!
//! Owns binding, accepting and the limits of a connection. Must not know the routes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net as unix_net;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::{Caller, State, answer};
use crate::mount::mountinfo::Device;

/// Connections at once, of each listener: a prober, a scraper, and as many again.
const CONNECTIONS_MAX: usize = 16;

/// A connection gets this long in all; a caller that says nothing would hold one of few.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);

/// After an accept that failed: mostly there are no descriptors left, and some will be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The name of a mount's socket, in the abstract namespace of its network namespace.
pub(super) fn address(device: Device) -> io::Result<unix_net::SocketAddr> {
    unix_net::SocketAddr::from_abstract_name(format!("s3pod/{device}"))
}

pub(super) async fn port(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // Where the kernel has no IPv6, every address is every one of IPv4.
        Err(_) if address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

pub(super) fn unix(device: Device) -> io::Result<UnixListener> {
    let listener = unix_net::UnixListener::bind_addr(&address(device)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// A socket with a file, which an earlier server may have left.
pub(super) fn unix_at(path: &Path) -> io::Result<UnixListener> {
    if path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

pub(super) async fn serve_port(listener: TcpListener, state: Arc<State>) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    converse(stream, Caller::Anybody, state).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

pub(super) async fn serve_unix(listener: UnixListener, state: Arc<State>) {
    let own = nix::unistd::geteuid().as_raw();
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            // A stranger's connection is closed without a word.
            Ok((stream, _)) => {
                let known =
                    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    if known {
                        converse(stream, Caller::Owner, state).await;
                    }
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, caller: Caller, state: Arc<State>) {
    let service = service_fn(move |request| answer(Arc::clone(&state), caller, request));
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A caller that breaks off or is too slow has nobody to tell.
    let _ = tokio::time::timeout(CONNECTION_PATIENCE, serving).await;
}
