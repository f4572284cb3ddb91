//! A mount that another process serves, or shall.
//!
//! Owns the line to that process, and what the driver may hold only as long as it is open: a
//! duplicate of the connection's descriptor, and one of the driver's own mount. Promises: when the
//! line ends, the connection is aborted at once, so that nobody waits for a server that is gone,
//! and whoever waits for the end hears of it; files are registered with the kernel for a server
//! that may not (`s3pod::mount::broker`). Must not know what is done about an end.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use s3pod::fuse::registrar;
use s3pod::mount::admin::{self, Place};
use s3pod::mount::broker::{self, Kernel};
use s3pod::mount::handoff::{self, Init, Offer, Reply};
use tokio::sync::watch;

use super::reach;

/// A server has what it says about itself in memory.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// The two ends of a mount.
#[derive(Debug)]
pub(in crate::csi) struct Ends {
    /// Of /dev/fuse.
    pub(in crate::csi) device: OwnedFd,
    /// The driver's own mount (O_PATH): it is busy while this is open, so that a forced unmount
    /// only aborts.
    pub(in crate::csi) mount: OwnedFd,
}

/// A mount in the hands of its server; cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::csi) struct Serving(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: String,
    /// The folder of the sockets, and the admin socket below it.
    admin: (PathBuf, PathBuf),
    held: Mutex<Option<Ends>>,
    state: watch::Sender<State>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has taken it yet; and why not, where there is a reason.
    Waiting(Option<String>),
    /// It is served, and this was the answer to INIT.
    Served(Option<Init>),
    Over,
}

impl Serving {
    /// One whose sockets are at `socket` below `folder`; nobody serves it yet.
    pub(super) fn new(key: &str, folder: &Path, socket: &Path, held: Option<Ends>) -> Self {
        Self(Arc::new(Inner {
            key: key.to_owned(),
            admin: (folder.to_owned(), admin::path_beside(socket)),
            held: Mutex::new(held),
            state: watch::Sender::new(State::Waiting(None)),
        }))
    }

    /// True until it is let go, or over.
    pub(super) fn is_held(&self) -> bool {
        self.held().is_some()
    }

    /// Offers the mount to whoever listens, and attends to the line from then on. Blocks for the
    /// answer.
    pub(super) fn offer(
        &self,
        line: UnixStream,
        volume: &str,
        server: broker::Server,
    ) -> io::Result<()> {
        let (version, volume) = (handoff::VERSION, volume.to_owned());
        let offer = Offer { version, volume, lease: 1, brokers: true, attaches: false };
        // A duplicate, so that whoever lets the mount go need not wait for the answer.
        let device = match &*self.held() {
            Some(ends) => ends.device.try_clone()?,
            None => return Err(io::Error::other("the mount has gone")),
        };
        let reply = handoff::offer(&line, &offer, &device)?;
        drop(device);
        self.begin(line, reply, server)
    }

    /// Takes the line to whoever serves the mount already. Blocks for the answer.
    pub(super) fn attach(
        &self,
        line: UnixStream,
        volume: &str,
        server: broker::Server,
        mount: OwnedFd,
    ) -> io::Result<()> {
        let (reply, device) = handoff::attach(&line, volume)?;
        if let Some(device) = device {
            *self.held() = Some(Ends { device, mount });
        }
        self.begin(line, reply, server)
    }

    fn begin(&self, line: UnixStream, reply: Reply, server: broker::Server) -> io::Result<()> {
        if let Some(why) = reply.refused {
            return Err(io::Error::other(why));
        }
        self.0.state.send_replace(State::Served(reply.init));
        let serving = self.clone();
        let attend = move || {
            broker::attend(&line, server, &mut Connection(&serving.0));
            serving.abort();
            serving.set_over();
        };
        thread::Builder::new().name("volume-line".to_owned()).spawn(attend).map(drop)
    }

    /// Says why nobody has taken it yet, if there is a reason.
    pub(super) fn set_trouble(&self, why: Option<String>) {
        self.0.state.send_if_modified(|state| {
            let waiting = State::Waiting(why);
            let is_news = matches!(state, State::Waiting(_)) && *state != waiting;
            if is_news {
                *state = waiting;
            }
            is_news
        });
    }

    /// Nothing comes any more.
    pub(super) fn set_over(&self) {
        self.0.state.send_replace(State::Over);
    }

    /// Ends the connection: the server's death alone does not, as long as anybody has a duplicate
    /// of its descriptor.
    fn abort(&self) {
        if let Some(Ends { device, mount }) = self.held().take() {
            tracing::debug!(key = self.0.key, "its line has ended: the connection is aborted");
            drop(device);
            abort(&mount);
        }
    }

    /// Lets the mount go before it is unmounted, which these descriptors would put off. Its
    /// server's end is no accident from here on.
    pub(in crate::csi) fn let_go(&self) {
        *self.held() = None;
    }

    /// Waits until somebody has taken it, or it is over.
    pub(in crate::csi) async fn taken(&self) {
        let mut state = self.0.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, State::Waiting(_))).await;
    }

    /// Waits until nobody serves it any more.
    pub(in crate::csi) async fn ended(&self) {
        let mut state = self.0.state.subscribe();
        // The sender lives as long as this.
        let _ = state.wait_for(|state| *state == State::Over).await;
    }

    /// False once its process has gone; true also while it waits for one.
    pub(in crate::csi) fn is_alive(&self) -> bool {
        *self.0.state.borrow() != State::Over
    }

    /// What the server answered to INIT.
    pub(in crate::csi) fn init(&self) -> Option<Init> {
        match &*self.0.state.borrow() {
            State::Served(init) => *init,
            State::Waiting(_) | State::Over => None,
        }
    }

    /// Why nobody has taken it yet, where somebody should have.
    pub(in crate::csi) fn trouble(&self) -> Option<String> {
        match &*self.0.state.borrow() {
            State::Waiting(why) => why.clone(),
            State::Served(_) | State::Over => None,
        }
    }

    /// True where both are one and the same.
    pub(in crate::csi) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What the server's admin interface says to a GET. Blocks.
    pub(in crate::csi) fn ask(&self, path: &str) -> io::Result<String> {
        let (folder, socket) = &self.0.admin;
        let socket = reach::find(folder, socket)?;
        let place = Place::Socket(socket.path.clone());
        let answer = admin::ask(&place, "GET", path, ANSWER_PATIENCE)?;
        if answer.status == 200 { Ok(answer.text) } else { Err(io::Error::other(answer.text)) }
    }

    fn held(&self) -> MutexGuard<'_, Option<Ends>> {
        self.0.held()
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Option<Ends>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection, for as long as its descriptor is held.
struct Connection<'a>(&'a Inner);

impl Kernel for Connection<'_> {
    fn register(&mut self, file: &File) -> io::Result<u32> {
        let held = self.0.held();
        let ends = held.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        registrar::register(&ends.device, file)
    }

    fn unregister(&mut self, number: u32) {
        if let Some(ends) = &*self.0.held()
            && let Err(error) = registrar::unregister(&ends.device, number)
        {
            tracing::debug!(%error, number, "a file stays registered");
        }
    }
}

/// Wakes everybody who waits in a mount. It stays where it is, dead.
fn abort(mount: &OwnedFd) {
    let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    match umount2(&path, MntFlags::MNT_FORCE) {
        // Busy by the very descriptor that names it; or unmounted by somebody else.
        Ok(()) | Err(Errno::EBUSY | Errno::EINVAL) => {}
        Err(errno) => tracing::error!(error = errno.desc(), "a connection cannot be aborted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use std::io::Write as _;

    /// A mount that nobody serves, in a namespace of this thread's own.
    fn mounted(point: &Path) -> Ends {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let terms = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let kind = Some("fuse.s3pod");
        mount(Some("v"), point, kind, MsFlags::empty(), Some(terms.as_str())).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let own = nix::fcntl::open(point, flags, nix::sys::stat::Mode::empty()).unwrap();
        Ends { device: device.into(), mount: own }
    }

    fn served(ends: Ends) -> (Serving, UnixStream) {
        let serving = Serving::new("v", Path::new("/"), Path::new("socket"), Some(ends));
        let (here, there) = UnixStream::pair().unwrap();
        let reply = Reply { version: 1, refused: None, init: None };
        serving.begin(here, reply, broker::Server { uid: 0, device: None }).unwrap();
        (serving, there)
    }

    #[tokio::test]
    async fn when_the_line_ends_whoever_waits_in_the_mount_is_woken() {
        let folder = tempfile::tempdir().unwrap();
        let ends = mounted(folder.path());
        // As if somebody else kept the connection alive.
        let _duplicate = ends.device.try_clone().unwrap();
        let (serving, mut there) = served(ends);
        let path = folder.path().join("file");
        let waiting = thread::spawn(move || std::fs::metadata(path));
        // What is not understood ends nothing.
        there.write_all(b"{\"dance\":1}\n").unwrap();
        assert!(serving.is_held() && serving.is_alive() && serving.trouble().is_none());
        drop(there);
        serving.ended().await;
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTCONN), "{error}");
        assert!(!serving.is_held() && !serving.is_alive());
        // It stands there still, dead: mounting anew over it is somebody else's business.
        umount2(folder.path(), MntFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn a_mount_that_was_let_go_can_be_unmounted_and_its_end_is_no_accident() {
        let folder = tempfile::tempdir().unwrap();
        let (serving, there) = served(mounted(folder.path()));
        assert_eq!(umount2(folder.path(), MntFlags::empty()), Err(Errno::EBUSY));
        serving.let_go();
        umount2(folder.path(), MntFlags::empty()).unwrap();
        drop(there);
        serving.ended().await;
    }
}
