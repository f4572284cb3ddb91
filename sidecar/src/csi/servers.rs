//! The driver's end of the processes that serve mounts.
//!
//! Owns the lines to the node's server (`server::order`) and to each volume's process
//! (`s3pod::mount::handoff`). Promises: a descriptor of /dev/fuse is kept no longer than the line
//! to its server is open ([`line`]), so that nobody waits for the dead; every
//! question has an end. Must not know what is mounted where.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::time::Duration;

use s3pod::mount::handoff::{self, Init, Offer};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::line;

use crate::server::order::{self, Answer, LINE_MAX, Request, Said, What};

pub(super) use crate::server::order::{Bytes, FILES, Files, Order, Refusal};

/// A start waits for the store's answer, an end for what is dirty: the server has its own, shorter
/// limits for both.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between looks at a server that cannot be reached whether it can be again.
const POLL: Duration = Duration::from_secs(1);

/// The node's server, by the folder of its sockets.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    sockets: PathBuf,
}

/// A volume's process that serves.
#[derive(Debug)]
pub(super) struct Serving {
    servers: Servers,
    key: String,
    /// What it answered to INIT; unknown for one that an earlier driver started.
    pub(super) init: Option<Init>,
    /// Where it listens.
    socket: PathBuf,
    is_over: watch::Receiver<bool>,
}

impl Servers {
    /// The server whose sockets are in this folder.
    pub(super) const fn new(sockets: PathBuf) -> Self {
        Self { sockets }
    }

    /// Has a volume served on this descriptor.
    pub(super) async fn start(&self, order: Order, device: OwnedFd) -> Result<Serving, Refusal> {
        let key = order.key.clone();
        let socket = match self.ask(What::Start(order)).await {
            Ok(Said::Started { socket }) => self.sockets.join(socket),
            Ok(Said::Refused(refusal)) => return Err(refusal),
            Ok(_) => return Err(unavailable("the node's server answers another question")),
            Err(error) => return Err(self.unreachable(&error)),
        };
        let (volume, place) = (key.clone(), socket.clone());
        let sockets = self.sockets.clone();
        let handing =
            tokio::task::spawn_blocking(move || hand_over(&sockets, &place, volume, device));
        let handed = match handing.await {
            Ok(handed) => handed,
            Err(error) => Err(io::Error::other(error)),
        };
        match handed {
            Ok((is_over, init)) => {
                Ok(Serving { servers: self.clone(), key, init, socket, is_over })
            }
            Err(error) => {
                // Nothing is mounted that it could serve.
                let _ = self.stop(&key).await;
                Err(unavailable(format!("the volume {key}: its server did not take it: {error}")))
            }
        }
    }

    /// A volume that an earlier driver had started, where it is still served.
    pub(super) async fn adopt(&self, key: &str) -> Option<Serving> {
        let Ok(Said::Volumes(running)) = self.ask(What::List {}).await else { return None };
        let found = running.into_iter().find(|running| running.key == key)?;
        let socket = self.sockets.join(found.socket?);
        let (over, is_over) = watch::channel(false);
        let (servers, key) = (self.clone(), key.to_owned());
        let watched = key.clone();
        tokio::spawn(async move {
            // The line went with the driver that held it, so the server is asked.
            while !over.is_closed() {
                match servers.ask_long(What::Ending { key: watched.clone() }).await {
                    Ok(_) => break,
                    // A server that has gone takes its volumes with it.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(_) => tokio::time::sleep(POLL).await,
                }
            }
            let _ = over.send(true);
        });
        Some(Serving { servers: self.clone(), key, init: None, socket, is_over })
    }

    /// Ends a volume's process, once it has sent what it has; none is as good.
    pub(super) async fn stop(&self, key: &str) -> Result<(), Refusal> {
        match self.ask(What::Stop { key: key.to_owned() }).await {
            Ok(Said::Refused(refusal)) => Err(refusal),
            Ok(_) => Ok(()),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Refusal {
        unavailable(format!(
            "the node's server does not answer at {}: {error}; is its pod running?",
            self.sockets.display()
        ))
    }

    async fn ask(&self, what: What) -> io::Result<Said> {
        match tokio::time::timeout(PATIENCE, self.ask_long(what)).await {
            Ok(said) => said,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Asks, however long the answer takes.
    async fn ask_long(&self, what: What) -> io::Result<Said> {
        let mut line = serde_json::to_vec(&Request { version: order::VERSION, what })?;
        line.push(b'\n');
        let mut stream = connect(&self.sockets.join(order::SOCKET)).await?;
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        let mut from = BufReader::new(stream.take(LINE_MAX as u64));
        from.read_until(b'\n', &mut answer).await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer: Answer = serde_json::from_slice(&answer)?;
        Ok(answer.said)
    }
}

impl Serving {
    /// Waits until nobody serves it any more.
    pub(super) async fn ended(&self) {
        let mut is_over = self.is_over.clone();
        // A sender that has gone says the same.
        let _ = is_over.wait_for(|over| *over).await;
    }

    /// False once its process has gone.
    pub(super) fn is_alive(&self) -> bool {
        !*self.is_over.borrow() && self.is_over.has_changed().is_ok()
    }

    /// The socket of its admin interface.
    pub(super) fn admin(&self) -> PathBuf {
        s3pod::mount::admin::path_beside(&self.socket)
    }

    /// Gives it new credentials.
    pub(super) async fn rewrite_files(&self, files: Files) -> Result<(), Refusal> {
        match self.servers.ask(What::Files { key: self.key.clone(), files }).await {
            Ok(Said::Refused(refusal)) => Err(refusal),
            Ok(_) => Ok(()),
            Err(error) => Err(self.servers.unreachable(&error)),
        }
    }
}

fn unavailable(why: impl Into<String>) -> Refusal {
    Refusal::Unavailable(why.into())
}

/// By the folder's descriptor: a socket's address is short, its path may be long.
fn near(path: &Path) -> io::Result<(std::fs::File, PathBuf)> {
    let folder = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    let place = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder, place))
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, place) = near(path)?;
    UnixStream::connect(place).await
}

/// Hands a mount over; true in the first part of the answer once nobody serves it.
fn hand_over(
    sockets: &Path,
    socket: &Path,
    volume: String,
    device: OwnedFd,
) -> io::Result<(watch::Receiver<bool>, Option<Init>)> {
    let (_folder, place) = near(socket)?;
    let line = Blocking::connect(place)?;
    let version = handoff::VERSION;
    let offer = Offer { version, volume, lease: 1, brokers: true, attaches: false };
    let reply = handoff::offer(&line, &offer, &device)?;
    match reply.refused {
        Some(why) => Err(io::Error::other(why)),
        None => Ok((line::attend(line, device, sockets)?, reply.init)),
    }
}
