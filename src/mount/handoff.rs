//! A mount that somebody else made: its descriptor comes over a unix socket.
//!
//! Owns the protocol, both ends of it. A server without privileges listens; whoever may mount
//! connects, and sends one line of JSON with the descriptor of /dev/fuse beside it (SCM_RIGHTS,
//! unix(7)); the server answers with one line, after the kernel's INIT. The connection then stays
//! as the sign of life for both. Promises: only root and the server's own user are heard; what
//! comes is bounded in size and time and is proven to be a FUSE descriptor; a descriptor that is
//! not taken is closed. Must not know what is served, nor Kubernetes.
//!
//! | lease | means |
//! |---|---|
//! | 1 | a new connection, whose INIT waits to be read |
//! | 2 and above | one that was served before; refused, as it cannot be adopted yet |
//!
//! A server that serves already takes an offer that only attaches: whoever mounted has started
//! anew, and gets the connection's descriptor back. Behind the two lines, the server may ask on
//! the connection for what only a privileged process can do ([`super::broker`]).
//!
//! Lines carry a version. Whoever receives a higher one refuses it and names its own, so that the
//! sender can speak lower; fields that are not known are ignored.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect, getsockopt, recvmsg, sendmsg, socket,
};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::fuse::Negotiated;

/// What this program speaks.
pub const VERSION: u32 = 1;

/// The longest line; an offer has some 200 bytes.
const LINE_MAX: usize = 4096;

/// Each side gets this long for its line: both are on the same machine, and have it ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel queues INIT within mount(2), so that it is there before the descriptor is.
const INIT_PATIENCE: u16 = 1000;

/// The device number of /dev/fuse: misc (10), 229 (the kernel's admin-guide/devices.txt).
const FUSE_DEVICE: (u64, u64) = (10, 229);

/// What the mounting side offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The version of this line.
    pub version: u32,
    /// Which volume it is; servers that serve one refuse another.
    pub volume: String,
    /// How often this connection was handed over, this time included.
    pub lease: u64,
    /// Whether the sender registers files with the kernel for the server.
    #[serde(default)]
    pub brokers: bool,
    /// Whether nothing is handed over: the server has the descriptor, and gives it back.
    #[serde(default)]
    pub attaches: bool,
}

/// What the server says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The version of this line.
    pub version: u32,
    /// Why it does not serve; absent where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What it answered to INIT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
}

/// An answer to INIT, as far as a later server has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// The kernel's version of the protocol.
    pub major: u32,
    /// Its second half.
    pub minor: u32,
    /// The capabilities asked for.
    pub flags: u64,
    /// The largest WRITE.
    pub max_write: u32,
    /// Asynchronous requests in flight.
    pub max_background: u16,
    /// How deep the file systems of handed over files may be stacked; 0 where none may be.
    pub max_stack_depth: u32,
}

impl From<Negotiated> for Init {
    fn from(negotiated: Negotiated) -> Self {
        let Negotiated { abi: (major, minor), flags, max_write, max_background, max_stack_depth } =
            negotiated;
        Self { major, minor, flags, max_write, max_background, max_stack_depth }
    }
}

/// Offers a mount's descriptor, and waits for the answer: the mounting side's half.
///
/// # Errors
/// Where the other side breaks off, is too slow, or does not speak this protocol. A refusal is an
/// answer.
pub fn offer(stream: &UnixStream, offer: &Offer, device: impl AsFd) -> io::Result<Reply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    send_line(stream, offer, Some(device.as_fd()))?;
    Ok(receive_reply(stream)?.0)
}

/// Asks a server that serves already for its line, and for the descriptor of the connection.
///
/// # Errors
/// As [`offer`].
pub fn attach(stream: &UnixStream, volume: &str) -> io::Result<(Reply, Option<OwnedFd>)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let volume = volume.to_owned();
    let offer = Offer { version: VERSION, volume, lease: 0, brokers: true, attaches: true };
    send_line(stream, &offer, None)?;
    receive_reply(stream)
}

fn receive_reply(stream: &UnixStream) -> io::Result<(Reply, Option<OwnedFd>)> {
    // A byte at a time: behind the line, requests with descriptors of their own may stand already.
    let (line, device) = receive(stream, 1)?;
    Ok((serde_json::from_slice(&line)?, device))
}

/// Sends a line, with a descriptor beside its first byte where there is one.
pub(super) fn send_line(
    stream: &UnixStream,
    line: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    let descriptors: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    let data = [IoSlice::new(&line)];
    let none: Option<&UnixAddr> = None;
    let sent = sendmsg(stream.as_raw_fd(), &data, rights, MsgFlags::MSG_NOSIGNAL, none)?;
    let mut writer = stream;
    // A line of that size goes at once, but a stream need not take it so.
    writer.write_all(&line[sent..])
}

/// A descriptor on offer.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) offer: Offer,
    pub(super) device: OwnedFd,
    /// Open as long as the mount is served.
    pub(super) line: Line,
}

/// The connection to the mounting side.
#[derive(Debug)]
pub(super) struct Line(UnixStream);

impl Line {
    /// Says that the mount is served.
    pub(super) fn accept(&self, init: Option<Init>) -> io::Result<()> {
        self.say(&Reply { version: VERSION, refused: None, init })
    }

    /// Gives the descriptor of what is served back.
    fn accept_attached(&self, init: Option<Init>, device: &OwnedFd) -> io::Result<()> {
        let reply = Reply { version: VERSION, refused: None, init };
        send_line(&self.0, &reply, Some(device.as_fd()))
    }

    /// The connection, for what goes on behind the two lines.
    pub(super) fn into_stream(self) -> UnixStream {
        self.0
    }

    /// Says why it is not.
    pub(super) fn refuse(self, why: &str) {
        tracing::warn!(why, "a mount on offer was refused");
        // A sender that has gone needs no answer.
        let _ = self.say(&Reply { version: VERSION, refused: Some(why.to_owned()), init: None });
    }

    fn say(&self, reply: &Reply) -> io::Result<()> {
        send_line(&self.0, reply, None)
    }
}

/// The socket that offers come to. Its file goes when it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and number of that file: in its place may be another's by then.
    file: (u64, u64),
    volume: Option<String>,
}

impl Listener {
    /// Listens at `path`, where nobody else may; `volume` is the only one taken, where it is given.
    pub(super) fn bind(path: &Path, volume: Option<String>) -> Result<Self, Failure> {
        let shown = path.display();
        Self::take_place(path, volume).map_err(|error| {
            Failure::configuration(if error.kind() == io::ErrorKind::AddrInUse {
                format!(
                    "{shown}: another server listens there, and would lose its mounts; give each \
                     server an emptyDir of its own (volumeAttributes.handoff of its volume names \
                     it)"
                )
            } else {
                format!(
                    "{shown} cannot be listened at: {error}; in a pod, mount there an emptyDir \
                     that no other container mounts"
                )
            })
        })
    }

    fn take_place(path: &Path, volume: Option<String>) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // Of two that begin at once, the second one looks when the first one listens.
        let folder = File::open(folder.unwrap_or(Path::new(".")))?;
        folder.lock()?;
        // What an earlier server left; anything but a socket stays, and fails the bind.
        if path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
            if has_listener(path)? {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        let socket = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket, path: path.to_owned(), file: file_at(path)?, volume })
    }

    /// Waits for an offer that can be taken; others are refused. Blocks.
    pub(super) fn next(&self) -> io::Result<Handed> {
        loop {
            let (stream, _) = self.socket.accept()?;
            match self.receive(stream) {
                Ok(Some(handed)) => return Ok(handed),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "an offer of a mount broke off"),
            }
        }
    }

    /// Takes lines to what is served already, for as long as that goes on, and refuses everything
    /// else. Blocks.
    pub(super) fn attend(&self, init: Option<Init>, device: &OwnedFd, attached: impl Fn(Line)) {
        while let Ok((stream, _)) = self.socket.accept() {
            if !may_speak(&stream).unwrap_or(false) {
                continue;
            }
            // Heard out first: whoever is cut off while he speaks does not hear the answer.
            let heard = stream
                .set_read_timeout(Some(PATIENCE))
                .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
                .and_then(|()| receive_line(&stream));
            let (said, line) = match heard {
                Ok((said, _)) => (serde_json::from_slice::<Offer>(&said).ok(), Line(stream)),
                Err(error) => {
                    tracing::debug!(%error, "an offer of a mount broke off");
                    continue;
                }
            };
            let is_own =
                |offer: &Offer| self.volume.as_ref().is_none_or(|own| *own == offer.volume);
            if said.is_some_and(|offer| offer.attaches && is_own(&offer)) {
                match line.accept_attached(init, device) {
                    Ok(()) => attached(line),
                    Err(error) => tracing::debug!(%error, "whoever attached has gone"),
                }
            } else {
                line.refuse("cannot adopt: this server serves a mount already");
            }
        }
    }

    fn receive(&self, stream: UnixStream) -> io::Result<Option<Handed>> {
        if !may_speak(&stream)? {
            return Ok(None);
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (line, device) = receive_line(&stream)?;
        let stream = Line(stream);
        let parsed: Result<Offer, _> = serde_json::from_slice(&line);
        let why = match (&parsed, &device) {
            (Err(error), _) => Some(format!("not an offer: {error}")),
            (Ok(offer), _) if offer.version > VERSION => {
                Some(format!("version {} is not spoken here, {VERSION} is", offer.version))
            }
            (Ok(offer), _) if self.volume.as_ref().is_some_and(|own| *own != offer.volume) => {
                Some(format!("the volume {} is not served here", offer.volume))
            }
            (Ok(offer), _) if offer.attaches => {
                Some("there is nothing to attach to: no mount is served here".to_owned())
            }
            (Ok(offer), _) if offer.lease != 1 => {
                Some("cannot adopt: this connection was served before".to_owned())
            }
            (Ok(_), None) => Some("there is no descriptor with it".to_owned()),
            (Ok(_), Some(device)) if !is_fuse(device) => {
                Some("the descriptor is not one of /dev/fuse".to_owned())
            }
            (Ok(_), Some(device)) if !has_init(device) => {
                Some("cannot adopt: no INIT waits on the descriptor".to_owned())
            }
            _ => None,
        };
        match (why, parsed, device) {
            (None, Ok(offer), Some(device)) => Ok(Some(Handed { offer, device, line: stream })),
            (why, _, _) => {
                stream.refuse(&why.unwrap_or_default());
                Ok(None)
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if file_at(&self.path).is_ok_and(|file| file == self.file) {
            // The folder goes with the pod in any case.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|found| (found.dev(), found.ino()))
}

/// Whether somebody listens at a socket, though he may have no time now.
fn has_listener(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let caller = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(caller.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Root, who mounts, and this very user. Anybody else is turned away unheard.
fn may_speak(stream: &UnixStream) -> io::Result<bool> {
    let peer = getsockopt(stream, PeerCredentials)?;
    let may = peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw();
    if !may {
        tracing::warn!(uid = peer.uid(), "a stranger at the handoff socket was turned away");
    }
    Ok(may)
}

/// The first line, and the descriptor that came with it. More than one are all closed.
fn receive_line(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    receive(stream, LINE_MAX)
}

/// The same, by so many bytes at a time.
fn receive(stream: &UnixStream, step: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut descriptors = Vec::new();
    let mut line = Vec::new();
    let mut buffer = [0_u8; LINE_MAX];
    while line.last() != Some(&b'\n') {
        if line.len() >= LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
        match receive_some(stream, &mut buffer[..step], &mut descriptors)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => line.extend_from_slice(&buffer[..count]),
        }
    }
    let device = if descriptors.len() == 1 { descriptors.pop() } else { None };
    Ok((line, device))
}

/// Reads what is there, and the descriptors that came with it.
pub(super) fn receive_some(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            descriptors.extend(received.into_iter().map(own));
        }
    }
    Ok(message.bytes)
}

/// A descriptor that the kernel has just put into this process.
fn own(received: RawFd) -> OwnedFd {
    // SAFETY: recvmsg(2) made this descriptor for this process, and nobody else knows its number.
    #[expect(unsafe_code, reason = "a received descriptor has no safe owner yet")]
    unsafe {
        OwnedFd::from_raw_fd(received)
    }
}

fn is_fuse(device: &OwnedFd) -> bool {
    nix::sys::stat::fstat(device).is_ok_and(|found| {
        let number = (libc::major(found.st_rdev).into(), libc::minor(found.st_rdev).into());
        found.st_mode & libc::S_IFMT == libc::S_IFCHR && number == FUSE_DEVICE
    })
}

fn has_init(device: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    let readable = poll(&mut asked, PollTimeout::from(INIT_PATIENCE));
    let [asked] = asked;
    readable == Ok(1) && asked.revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Offer {
        let volume = "v".to_owned();
        Offer { version: VERSION, volume, lease: 1, brokers: false, attaches: false }
    }

    /// What a server of the volume `v` says to each; it takes none of them.
    fn refusals(offers: Vec<(Offer, File)>) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&path, Some("v".to_owned())).unwrap();
        std::thread::spawn(move || listener.next());
        let said = offers.into_iter().map(|(what, device)| {
            let stream = UnixStream::connect(&path).unwrap();
            offer(&stream, &what, &device).unwrap().refused.unwrap()
        });
        said.collect()
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        let null = || File::open("/dev/null").unwrap();
        let said = refusals(vec![
            (Offer { lease: 2, ..first() }, null()),
            (Offer { version: 2, ..first() }, null()),
            (Offer { volume: "w".to_owned(), ..first() }, null()),
            (Offer { attaches: true, ..first() }, null()),
            (first(), null()),
        ]);
        let expected = ["cannot adopt", "1 is", "volume w", "nothing to attach", "/dev/fuse"];
        for (said, words) in said.iter().zip(expected) {
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_line_without_a_descriptor_or_without_sense_harms_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&path, None).unwrap();
        std::thread::spawn(move || listener.next());
        let long = "x".repeat(2 * LINE_MAX);
        for text in ["nonsense\n", "{}\n", "", long.as_str()] {
            let mut stream = UnixStream::connect(&path).unwrap();
            // The other side may have hung up on a line that is too long.
            let _ = stream.write_all(text.as_bytes());
            drop(stream);
        }
        let stream = UnixStream::connect(&path).unwrap();
        let mut line = serde_json::to_vec(&first()).unwrap();
        line.push(b'\n');
        (&stream).write_all(&line).unwrap();
        let (reply, _) = receive_reply(&stream).unwrap();
        assert!(reply.refused.unwrap().contains("no descriptor"));
    }

    #[test]
    fn a_socket_with_a_listener_is_not_taken_over_and_one_without_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = Listener::bind(&path, None).unwrap();
        let refused = Listener::bind(&path, None).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("another server listens") && said.contains("handoff"), "{said}");
        assert_eq!(refused.exit_code(), 78);
        assert!(UnixStream::connect(&path).is_ok(), "the first one is reached as before");

        // As a crash leaves it.
        let Listener { socket, .. } = &first;
        nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        let second = Listener::bind(&path, None).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok(), "what the first one leaves is not its own");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn fields_of_a_later_version_are_ignored() {
        let text = r#"{"version":1,"volume":"v","lease":1,"colour":"red"}"#;
        assert_eq!(serde_json::from_str::<Offer>(text).unwrap(), first());
        let reply: Reply = serde_json::from_str(r#"{"version":1,"colour":"red"}"#).unwrap();
        assert_eq!(reply.refused, None);
    }
}
