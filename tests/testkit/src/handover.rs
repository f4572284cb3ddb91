//! The mounting side for a server without any privilege, as a node has one.
//!
//! Owns mount(2), and how the descriptor gets to the server. It shares no code with the server:
//! the lines of the protocol are written out. Must not know what is served.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::child::SETPRIV;

/// Anybody but root.
const USER: u32 = 65534;
const PATIENCE: Duration = Duration::from_secs(30);

/// A mount whose server is yet to come.
pub(crate) struct Handover {
    device: OwnedFd,
    socket: PathBuf,
}

impl Handover {
    /// Mounts on `path`, and makes the server's folders in `folder`.
    pub(crate) fn prepare(path: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        for name in ["cache", "handoff"] {
            fs::create_dir(folder.join(name))?;
            chown(folder.join(name), Some(USER), Some(USER))?;
        }
        let device = OwnedFd::from(File::options().read(true).write(true).open("/dev/fuse")?);
        let terms = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("s3pod"), path, Some("fuse.s3pod"), flags, Some(terms.as_str()))
            .context("mount(2) of a FUSE file system")?;
        Ok(Self { device, socket: Self::socket_in(folder) })
    }

    /// Where the server of such a folder listens.
    pub(crate) fn socket_in(folder: &Path) -> PathBuf {
        folder.join("handoff/s3pod.sock")
    }

    /// Where the server listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Hands the descriptor over to who listens, and keeps none; the connection is the server's
    /// sign of life.
    pub(crate) fn hand_over(
        self,
        stream: UnixStream,
        brokered: bool,
    ) -> anyhow::Result<UnixStream> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let brokers = if brokered { ",\"brokers\":true" } else { "" };
        let line = format!("{{\"version\":1,\"volume\":\"test\",\"lease\":1{brokers}}}\n");
        let descriptors = [self.device.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let none: Option<&UnixAddr> = None;
        let data = [IoSlice::new(line.as_bytes())];
        sendmsg(stream.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, none)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        if !answer.contains("\"init\"") {
            bail!("the server did not take the mount: {answer}");
        }
        Ok(stream)
    }
}

/// A command that runs a program as anybody, with no capability and no way to get one. The program
/// is brought into `folder`: that user may not go where it was built.
pub(crate) fn without_privileges(program: &Path, folder: &Path) -> anyhow::Result<Command> {
    let own = folder.join("s3pod");
    if fs::hard_link(program, &own).is_err() {
        fs::copy(program, &own)?;
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--pdeathsig", "TERM", "--no-new-privs", "--clear-groups"]);
    command.args(["--inh-caps=-all", "--bounding-set=-all"]);
    command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}"));
    command.arg("--").arg(own);
    Ok(command)
}
