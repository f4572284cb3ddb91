//! The driver's end of the processes that serve mounts.
//!
//! Owns the talk with the node's server (`server::order`), and what is held of each mount while
//! it is served ([`serving`]), be it by the node's server or by a pod's own sidecar ([`pods`]).
//! Promises: a socket is reached below its folder and through no link; nobody is handed a mount
//! who is not who he should be; every question has an end. Must not know what is mounted where.

mod pods;
mod reach;
mod serving;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::time::Duration;

use s3pod::mount::broker;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::server::order::{self, Answer, LINE_MAX, Request, Said, What};

pub(super) use crate::server::order::{Bytes, FILES, Files, Order, Refusal, Running};
pub(super) use pods::Sidecar;
pub(super) use serving::{Ends, Serving};

/// A start waits for the store for a moment, an end for what is dirty: the server has its own,
/// shorter limits for both.
const PATIENCE: Duration = Duration::from_secs(60);

/// What runs is known at once by a server that is well.
const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// The node's server, by the folder of its sockets.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    sockets: PathBuf,
    /// Where their caches are, where that is known.
    cache: Option<PathBuf>,
}

impl Servers {
    /// The server whose sockets, and whose volumes' caches, are in these folders.
    pub(super) const fn new(sockets: PathBuf, cache: Option<PathBuf>) -> Self {
        Self { sockets, cache }
    }

    /// Has a volume served on this mount.
    pub(super) async fn start(&self, order: Order, ends: Ends) -> Result<Serving, Refusal> {
        let key = order.key.clone();
        let socket = match self.ask(What::Start(order)).await {
            Ok(Said::Started { socket }) => socket,
            Ok(Said::Refused(refusal)) => return Err(refusal),
            Ok(_) => return Err(unavailable("the node's server answers another question")),
            Err(error) => return Err(self.unreachable(&error)),
        };
        let serving = Serving::new(&key, &self.sockets, &socket, Some(ends));
        let (servers, one, volume) = (self.clone(), serving.clone(), key.clone());
        let taken = blocking(move || {
            let (line, server) = servers.connect(&socket)?;
            one.offer(line, &volume, server)
        });
        if let Err(error) = taken.await {
            serving.let_go();
            // Nothing is mounted that it could serve.
            let _ = self.stop(&key).await;
            return Err(unavailable(format!(
                "the volume {key}: its server did not take it: {error}"
            )));
        }
        Ok(serving)
    }

    /// Takes up the line to the server of a volume that an earlier driver had started. `mount` is
    /// the driver's own mount of it (O_PATH).
    pub(super) async fn attach(&self, running: &Running, mount: OwnedFd) -> io::Result<Serving> {
        let (servers, key) = (self.clone(), running.key.clone());
        let socket = running.socket.clone().ok_or(io::ErrorKind::NotConnected)?;
        blocking(move || {
            let serving = Serving::new(&key, &servers.sockets, &socket, None);
            let (line, server) = servers.connect(&socket)?;
            serving.attach(line, &key, server, mount)?;
            Ok(serving)
        })
        .await
    }

    /// What is served. A server that is there and says nothing is an error of time.
    pub(super) async fn list(&self) -> io::Result<Vec<Running>> {
        match self.ask_within(LIST_PATIENCE, What::List {}).await? {
            Said::Volumes(running) => Ok(running),
            _ => Err(io::Error::other("the node's server answers another question")),
        }
    }

    /// Ends a volume's process, once it has sent what it has; none is as good.
    pub(super) async fn stop(&self, key: &str) -> Result<(), Refusal> {
        self.done(What::Stop { key: key.to_owned() }).await
    }

    /// Gives a volume new credentials.
    pub(super) async fn rewrite_files(&self, key: &str, files: Files) -> Result<(), Refusal> {
        self.done(What::Files { key: key.to_owned(), files }).await
    }

    async fn done(&self, what: What) -> Result<(), Refusal> {
        match self.ask(what).await {
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

    /// One request, one answer.
    async fn ask(&self, what: What) -> io::Result<Said> {
        self.ask_within(PATIENCE, what).await
    }

    async fn ask_within(&self, patience: Duration, what: What) -> io::Result<Said> {
        match tokio::time::timeout(patience, self.talk(what)).await {
            Ok(said) => said,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn talk(&self, what: What) -> io::Result<Said> {
        let mut line = serde_json::to_vec(&Request { version: order::VERSION, what })?;
        line.push(b'\n');
        let servers = self.clone();
        let (stream, _) = blocking(move || servers.connect(Path::new(order::SOCKET))).await?;
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream)?;
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

    /// Connects to a socket of theirs: root's, or the user's whom the folder belongs to. Files
    /// are registered with the kernel that are his.
    fn connect(&self, socket: &Path) -> io::Result<(Blocking, broker::Server)> {
        let owner = self.sockets.metadata()?.uid();
        let (line, peer) = reach::connect(&self.sockets, socket)?;
        if peer.uid() != 0 && peer.uid() != owner {
            let uid = peer.uid();
            let why = format!("the user {uid} listens there, and the folder belongs to {owner}");
            return Err(reach::stranger(why));
        }
        Ok((line, broker::Server { uid: owner, device: self.cache_device() }))
    }

    /// The file system of the caches. A folder that cannot be looked at is on none, so that
    /// nothing of it is registered.
    fn cache_device(&self) -> Option<u64> {
        let folder = self.cache.as_ref()?;
        Some(folder.metadata().map_or(0, |found| found.dev()))
    }
}

fn unavailable(why: impl Into<String>) -> Refusal {
    Refusal::Unavailable(why.into())
}

/// True for the error of a listener that says nothing: it may be at work all the same, and its
/// mounts are nobody's to touch.
pub(super) fn is_silent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// What blocks, apart from the threads that answer calls.
async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(what).await {
        Ok(done) => done,
        Err(error) => Err(io::Error::other(error)),
    }
}
