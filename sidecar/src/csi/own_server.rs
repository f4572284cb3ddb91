//! The server of volumes that a driver of the mode `all` has as its child.
//!
//! Owns the child's life: it is started again where it ends, and ends with the driver, however that
//! ends. Promises: what volumes have not sent is sent before the driver has ended in order. Must
//! not know volumes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::servers::Servers;
use crate::server::{self, order};

/// Before it is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// So often, and this far apart, is it looked whether it listens; volumes that come before that
/// are refused as UNAVAILABLE.
const LOOKS: u32 = 250;
const POLL: Duration = Duration::from_millis(20);

/// Its volumes have 10 s each, at the same time.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// The child.
#[derive(Debug)]
pub(super) struct OwnServer {
    end: watch::Sender<bool>,
    kept: JoinHandle<()>,
}

/// It, as those who mount know it.
pub(super) fn servers(state: &Path) -> Servers {
    Servers::new(sockets(state), Some(cache(state)))
}

/// The folder of its sockets.
fn sockets(state: &Path) -> PathBuf {
    state.join("server/sockets")
}

fn cache(state: &Path) -> PathBuf {
    state.join("server/cache")
}

impl OwnServer {
    /// Starts it, with its folders below the driver's own; it mostly listens then.
    pub(super) async fn start(state: &Path) -> Self {
        let (end, ends) = watch::channel(false);
        let kept = tokio::spawn(keep(state.to_owned(), ends));
        let socket = sockets(state).join(order::SOCKET);
        for _ in 0..LOOKS {
            if socket.exists() {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Self { end, kept }
    }

    /// Ends it, in order.
    pub(super) async fn end(self) {
        self.end.send_replace(true);
        if let Err(error) = self.kept.await {
            tracing::warn!(%error, "the server of volumes was not seen to end");
        }
    }
}

async fn keep(state: PathBuf, mut ends: watch::Receiver<bool>) {
    loop {
        match spawn(&state) {
            Ok(mut child) => tokio::select! {
                ended = child.wait() => tracing::warn!(?ended, "the server of volumes has ended"),
                () = told(&mut ends) => return stop(&mut child).await,
            },
            Err(error) => tracing::error!(%error, "the server of volumes cannot be started"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = told(&mut ends) => return,
        }
    }
}

/// Waits until the driver ends.
async fn told(ends: &mut watch::Receiver<bool>) {
    // A driver that has gone says the same.
    let _ = ends.wait_for(|end| *end).await;
}

fn spawn(state: &Path) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(server::NAME).arg("--socket-dir").arg(sockets(state));
    command.arg("--cache-dir").arg(cache(state));
    command.arg("--journal-dir").arg(state.join("server/journal"));
    // The next driver has a child of its own, which could not take this one's place.
    command.arg("--tied").arg(std::process::id().to_string());
    command.stdin(Stdio::null()).kill_on_drop(true).spawn()
}

async fn stop(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It is not reaped yet, so the number is still its own.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(END_PATIENCE, child.wait()).await.is_err() {
        tracing::warn!("the server of volumes does not end; it is killed");
    }
}
