//! What a node's plugin does for a volume that a sidecar of the pod serves: the mounting half.
//!
//! Owns a mount, and hands its descriptor to whoever serves. It shares no code with the server:
//! the lines of the protocol are written out. Promises to be as careful as the real one: it
//! reaches the socket beneath the pod's own folder, without symlinks, and hands over only to a
//! process of that pod. When the server is gone it mounts anew over the dead mount.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, getsockopt, sendmsg};
use serde_json::Value;

use crate::clock::scaled;

pub(crate) const SOCKET: &str = "s3pod.sock";
const POLL: Duration = Duration::from_millis(20);
/// How often kubelet has a volume published again, which is when the plugin hears of its end: with
/// each sync of the pod, once a minute and a half at most.
const REPUBLISH: Duration = Duration::from_secs(90);

/// A published volume.
pub(crate) struct Published {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    target: PathBuf,
    handoff: PathBuf,
    /// What the names of the pod's cgroups begin with.
    pod: String,
    is_over: AtomicBool,
    handed: AtomicU32,
    /// Servers that were none of this pod.
    strangers: AtomicU32,
    answers: Mutex<Vec<Value>>,
}

impl Published {
    /// Mounts on `target`, and hands over to the server whose socket is in `handoff`.
    pub(crate) fn new(target: &Path, handoff: &Path, pod: &str) -> Self {
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            handoff: handoff.to_owned(),
            pod: pod.to_owned(),
            is_over: AtomicBool::new(false),
            handed: AtomicU32::new(0),
            strangers: AtomicU32::new(0),
            answers: Mutex::default(),
        });
        // Before any container starts, as kubelet wants it.
        let device = shared.mount();
        let lead = Arc::clone(&shared);
        let thread = std::thread::spawn(move || lead.hand_over_again_and_again(device));
        Self { shared, thread: Mutex::new(Some(thread)) }
    }

    /// How often a server has taken the mount.
    pub(crate) fn handed(&self) -> u32 {
        self.shared.handed.load(Ordering::SeqCst)
    }

    /// How often somebody listened who is not of this pod.
    pub(crate) fn strangers(&self) -> u32 {
        self.shared.strangers.load(Ordering::SeqCst)
    }

    /// What servers have answered, refusals included.
    pub(crate) fn answers(&self) -> Vec<Value> {
        self.shared.answers.lock().unwrap().clone()
    }

    /// Offers a descriptor with these words in place of the right ones; the answer.
    pub(crate) fn offer(&self, offer: &Value) -> Value {
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        self.shared.offer(offer, &null).unwrap().0
    }

    /// Unmounts, once the pod's containers are gone.
    pub(crate) fn unpublish(&self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.lock().unwrap().take() {
            thread.join().unwrap();
        }
        while umount2(&self.shared.target, MntFlags::MNT_DETACH).is_ok() {}
        // Gone already where an earlier try came so far.
        let _ = fs::remove_dir(&self.shared.target);
    }
}

impl Shared {
    fn mount(&self) -> OwnedFd {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let terms = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let kind = Some("fuse.s3pod");
        mount(Some("volume"), &self.target, kind, flags, Some(terms.as_str())).unwrap();
        OwnedFd::from(device)
    }

    fn hand_over_again_and_again(&self, first: OwnedFd) {
        let mut device = Some(first);
        while !self.is_over.load(Ordering::SeqCst) {
            let own = device.take().unwrap_or_else(|| self.mount());
            let Some(line) = self.hand_over(&own) else { return };
            // The connection ends with the last descriptor: the server's, from here on.
            drop(own);
            self.handed.fetch_add(1, Ordering::SeqCst);
            self.await_end(line);
            self.await_republish();
        }
    }

    fn await_republish(&self) {
        let next = Instant::now() + scaled(REPUBLISH);
        while Instant::now() < next && !self.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(POLL);
        }
    }

    /// Offers until it is taken; none where the pod is over.
    fn hand_over(&self, device: &OwnedFd) -> Option<UnixStream> {
        let offer = serde_json::json!({"version": 1, "volume": "v", "lease": 1});
        while !self.is_over.load(Ordering::SeqCst) {
            if let Ok((answer, line)) = self.offer(&offer, device) {
                let is_taken = answer["refused"].is_null();
                self.answers.lock().unwrap().push(answer);
                if is_taken {
                    return Some(line);
                }
            }
            std::thread::sleep(POLL);
        }
        None
    }

    fn offer(&self, offer: &Value, device: &OwnedFd) -> io::Result<(Value, UnixStream)> {
        let stream = self.connect()?;
        let peer = getsockopt(&stream, PeerCredentials)?;
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", peer.pid()))?;
        if !groups.contains(&self.pod) {
            self.strangers.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::other("the server is not of this pod, or has gone"));
        }
        let line = format!("{offer}\n");
        let descriptors = [device.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let data = [IoSlice::new(line.as_bytes())];
        let none: Option<&UnixAddr> = None;
        sendmsg(stream.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, none)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok((serde_json::from_str(&answer)?, stream))
    }

    /// The socket, by a descriptor: its path may be longer than a socket's address may be, and
    /// whoever writes to the folder must not lead this process elsewhere.
    fn connect(&self) -> io::Result<UnixStream> {
        let folder = File::open(&self.handoff)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let socket = openat2(&folder, SOCKET, how)?;
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))
    }

    /// Waits until the server is gone, or the pod.
    fn await_end(&self, mut line: UnixStream) {
        line.set_read_timeout(Some(POLL)).unwrap();
        let mut nothing = [0_u8; 1];
        while !self.is_over.load(Ordering::SeqCst) {
            match line.read(&mut nothing) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}
