//! Registering cached files with the kernel, asked of whoever mounted.
//!
//! Owns what goes over the line of a handoff behind its first two lines, both ends of it: the
//! server sends a whole file of its cache, open for reading, and hears the number under which the
//! kernel knows it (FUSE passthrough, which needs CAP_SYS_ADMIN); or why there is none. Promises:
//! nobody waits for an answer longer than [`PATIENCE`]; what is registered is a regular file of the
//! server's own, so that no server gains by it what it could not do itself; the line's end is
//! noticed at once. Must not know which files are worth it.
//!
//! ```text
//!   server > mounting side   {"open": 7} with the file | {"close": 3}
//!   mounting side > server   {"opened": 7, "backing": 3} | {"opened": 7, "refused": "why"}
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::handoff::{receive_some, send_line};
use crate::clock::Clock;
use crate::fuse::registrar::{Registering, Registrar};

/// An open that waits longer would have been faster read by the server.
const PATIENCE: Duration = Duration::from_millis(50);

/// After an answer that did not come, nobody asks for so long.
const SILENCE: Duration = Duration::from_secs(10);

/// Registrations of one mount at once: as many as files of it that are open.
const REGISTERED_MAX: usize = 4096;

/// The longest line.
const LINE_MAX: usize = 512;

/// What the server says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    Open(u64),
    Close(u32),
}

/// What it hears.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    opened: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backing: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// The server's end: asks, over whichever line there is at the moment.
#[derive(Debug)]
pub(super) struct Broker {
    state: Mutex<State>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    line: Option<Arc<UnixStream>>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    last: u64,
    silent_until: Option<Instant>,
}

impl Broker {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), clock })
    }

    /// Asks over this line from now on; the one before is closed.
    pub(super) fn connect(self: &Arc<Self>, line: UnixStream) {
        // Both sides had to be quick with their first lines; now nothing is to be said for days.
        let quiet =
            line.set_read_timeout(None).and_then(|()| line.set_write_timeout(Some(PATIENCE)));
        let line = Arc::new(line);
        let mut state = self.state();
        state.silent_until = None;
        if let Some(before) = state.line.replace(Arc::clone(&line)) {
            let _ = before.shutdown(std::net::Shutdown::Both);
        }
        drop(state);
        let broker = Arc::clone(self);
        let listen = move || {
            broker.listen(&line);
            broker.hang_up(&line);
        };
        let started = std::thread::Builder::new().name("handoff-line".to_owned()).spawn(listen);
        if let Err(error) = quiet.and(started.map(drop)) {
            tracing::warn!(%error, "nobody listens to whoever mounted");
        }
    }

    /// Hears answers until the line ends.
    fn listen(&self, line: &UnixStream) {
        let mut lines = Lines::new(line);
        while let Ok(Some(said)) = lines.next() {
            let Ok(answer) = serde_json::from_slice::<Answer>(&said) else { return };
            let asker = self.state().waiting.remove(&answer.opened);
            let late = match asker {
                Some(asker) => asker.send(answer).err(),
                None => Some(answer),
            };
            // Whoever asked reads by itself by now.
            if let Some(number) = late.and_then(|answer| answer.backing) {
                self.unregister(number);
            }
        }
    }

    fn hang_up(&self, line: &Arc<UnixStream>) {
        let mut state = self.state();
        if state.line.as_ref().is_some_and(|own| Arc::ptr_eq(own, line)) {
            tracing::info!("whoever mounted has gone; the mount is served as before");
            state.line = None;
            // Nobody answers them.
            state.waiting.clear();
        }
    }

    fn ask(&self, file: &File) -> io::Result<(u64, oneshot::Receiver<Answer>)> {
        let mut state = self.state();
        if state.silent_until.is_some_and(|until| self.clock.now() < until) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "whoever mounted does not answer"));
        }
        let line = state.line.clone().ok_or(io::ErrorKind::NotConnected)?;
        state.last += 1;
        let number = state.last;
        // Under the lock, so that lines do not mix.
        send_line(&line, &Wish::Open(number), Some(file.as_fd()))?;
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(number, sender);
        Ok((number, receiver))
    }

    fn give_up(&self, number: u64) {
        let mut state = self.state();
        state.waiting.remove(&number);
        state.silent_until = Some(self.clock.now() + SILENCE);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`Broker`] as the file system knows it.
#[derive(Debug)]
pub(super) struct Asking(pub(super) Arc<Broker>);

impl Registrar for Asking {
    fn register(&self, file: &File) -> Registering {
        let asked = self.0.ask(file);
        let broker = Arc::clone(&self.0);
        Box::pin(async move {
            let (number, answer) = asked?;
            let Ok(answer) = tokio::time::timeout(PATIENCE, answer).await else {
                broker.give_up(number);
                return Err(io::ErrorKind::TimedOut.into());
            };
            let answer = answer.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
            answer.backing.ok_or_else(|| io::Error::other(answer.refused.unwrap_or_default()))
        })
    }

    fn unregister(&self, number: u32) {
        self.0.unregister(number);
    }
}

impl Broker {
    fn unregister(&self, number: u32) {
        let state = self.state();
        if let Some(line) = &state.line
            && let Err(error) = send_line(line, &Wish::Close(number), None)
        {
            // It goes with the connection.
            tracing::debug!(%error, "a registration cannot be taken back");
        }
    }
}

/// What the mounting side knows of a server whose wishes it fulfils.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Whose files may be registered: the user of the server.
    pub uid: u32,
    /// The device of the file system that its cache is on; any where it is not known.
    pub device: Option<u64>,
}

/// What it takes to fulfil them.
pub trait Kernel {
    /// Registers a file on the connection.
    ///
    /// # Errors
    /// The kernel's.
    fn register(&mut self, file: &File) -> io::Result<u32>;

    /// Takes a registration back.
    fn unregister(&mut self, number: u32);
}

/// The mounting side's end: fulfils a server's wishes until the line ends. Blocks.
pub fn attend(line: &UnixStream, server: Server, kernel: &mut impl Kernel) {
    // The server may say nothing for days, and must not hold this side up when it does not listen.
    if line.set_read_timeout(None).and_then(|()| line.set_write_timeout(Some(PATIENCE))).is_err() {
        return;
    }
    let mut lines = Lines::new(line);
    let mut registered = 0;
    while let Ok(Some(said)) = lines.next() {
        match serde_json::from_slice(&said) {
            Ok(Wish::Open(opened)) => {
                let outcome = match lines.descriptors.pop() {
                    Some(file) if registered < REGISTERED_MAX => {
                        open(&File::from(file), server, kernel)
                    }
                    Some(_) => Err("too many files are registered".to_owned()),
                    None => Err("there is no descriptor with it".to_owned()),
                };
                registered += usize::from(outcome.is_ok());
                let answer = Answer {
                    opened,
                    backing: outcome.as_ref().ok().copied(),
                    refused: outcome.err(),
                };
                if send_line(line, &answer, None).is_err() {
                    return;
                }
            }
            Ok(Wish::Close(number)) => {
                registered = registered.saturating_sub(1);
                kernel.unregister(number);
            }
            // A later server's wish: it hears nothing, and does without.
            Err(_) => {}
        }
    }
}

fn open(file: &File, server: Server, kernel: &mut impl Kernel) -> Result<u32, String> {
    check(file, server)?;
    kernel.register(file).map_err(|error| error.to_string())
}

/// The kernel opens the file anew for each reader, as whoever registered it: so it must be the
/// server's own, which could do that anyway.
fn check(file: &File, server: Server) -> Result<(), String> {
    let found = file.metadata().map_err(|error| error.to_string())?;
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|errno| errno.desc().to_owned())?;
    let access = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE;
    match () {
        () if !found.is_file() => Err("it is no regular file".to_owned()),
        () if access != OFlag::O_RDONLY => Err("it is not open for reading only".to_owned()),
        () if found.uid() != server.uid => Err("it belongs to another user".to_owned()),
        () if server.device.is_some_and(|device| device != found.dev()) => {
            Err("it is not on the file system of the cache".to_owned())
        }
        () => Ok(()),
    }
}

/// The lines of a connection, and the descriptors that came with them.
struct Lines<'a> {
    stream: &'a UnixStream,
    read: Vec<u8>,
    /// The one of the latest line; a line with more than one is an end.
    descriptors: Vec<OwnedFd>,
}

impl<'a> Lines<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Self { stream, read: Vec::new(), descriptors: Vec::new() }
    }

    /// The next line; none at the end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.descriptors.clear();
        // A byte at a time where the line begins: each descriptor comes with a first byte, and two
        // lines at once would leave it open whose it is.
        let mut buffer = [0_u8; 1];
        loop {
            match receive_some(self.stream, &mut buffer, &mut self.descriptors) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if buffer[0] == b'\n' {
                return Ok(Some(std::mem::take(&mut self.read)));
            }
            self.read.push(buffer[0]);
            if self.read.len() > LINE_MAX || self.descriptors.len() > 1 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counting {
        next: u32,
        closed: Vec<u32>,
    }

    impl Kernel for Counting {
        fn register(&mut self, _: &File) -> io::Result<u32> {
            self.next += 1;
            Ok(self.next)
        }

        fn unregister(&mut self, number: u32) {
            self.closed.push(number);
        }
    }

    fn own() -> Server {
        Server { uid: nix::unistd::geteuid().as_raw(), device: None }
    }

    /// A broker, and a mounting side that ends with it; what that one has taken back.
    fn pair(server: Server) -> (Arc<Broker>, std::thread::JoinHandle<Vec<u32>>) {
        let (here, there) = UnixStream::pair().unwrap();
        let broker = Broker::new(Clock::system());
        broker.connect(here);
        let other = std::thread::spawn(move || {
            let mut kernel = Counting::default();
            attend(&there, server, &mut kernel);
            kernel.closed
        });
        (broker, other)
    }

    fn cached() -> (tempfile::NamedTempFile, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = File::open(file.path()).unwrap();
        (file, open)
    }

    #[tokio::test]
    async fn a_file_is_registered_and_taken_back() {
        let (broker, other) = pair(own());
        let (_file, open) = cached();
        let asking = Asking(Arc::clone(&broker));
        let (one, two) = (asking.register(&open), asking.register(&open));
        assert_eq!((one.await.unwrap(), two.await.unwrap()), (1, 2));
        asking.unregister(1);
        let line = broker.state().line.clone().unwrap();
        line.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(other.join().unwrap(), [1]);
    }

    #[tokio::test]
    async fn what_is_not_the_servers_own_to_read_is_refused() {
        let (file, open) = cached();
        let elsewhere = Server { device: Some(open.metadata().unwrap().dev() + 1), ..own() };
        let stranger = Server { uid: own().uid + 1, ..own() };
        let writable = file.reopen().unwrap();
        let folder = File::open("/").unwrap();
        for (server, file, words) in [
            (own(), &writable, "reading only"),
            (own(), &folder, "no regular file"),
            (elsewhere, &open, "file system"),
            (stranger, &open, "another user"),
        ] {
            let (broker, _other) = pair(server);
            let said = Asking(broker).register(file).await.unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[tokio::test]
    async fn who_is_not_answered_goes_on_by_itself_and_does_not_ask_again() {
        let broker = Broker::new(Clock::system());
        let (_file, open) = cached();
        let asking = Asking(Arc::clone(&broker));
        let said = asking.register(&open).await.unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::NotConnected);
        let (here, there) = UnixStream::pair().unwrap();
        broker.connect(here);
        for _ in 0..2 {
            let said = asking.register(&open).await.unwrap_err();
            assert_eq!(said.kind(), io::ErrorKind::TimedOut);
        }
        // The late answer to the one question is taken back.
        let mut lines = Lines::new(&there);
        assert_eq!(lines.next().unwrap().unwrap(), b"{\"open\":1}");
        assert_eq!(lines.descriptors.len(), 1);
        let answer = Answer { opened: 1, backing: Some(9), refused: None };
        send_line(&there, &answer, None).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), b"{\"close\":9}");
    }
}
