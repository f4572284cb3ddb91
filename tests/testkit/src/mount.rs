//! A real kernel mount by the real `s3pod` binary.
//!
//! Owns the daemon's process, its mount point and its private cache folder. Promises that
//! nothing stays mounted: not after a failed test, and never a folder deleted while something
//! is mounted in it (that would delete the bucket's objects). Must not know what is tested.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::child::{Tied, tied_command};
use crate::endpoint::S3Endpoint;
use crate::handover::{self, Handover};

/// A mount answers within a second on an idle machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A drain may have gigabytes to send.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(60);
/// A failed test does not wait as long for what it no longer needs.
const DROP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// How to mount.
#[derive(Debug)]
pub struct MountOptions {
    binary: PathBuf,
    bucket: S3Endpoint,
    at: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    own_cache: bool,
    unprivileged: bool,
    brokered: bool,
}

impl MountOptions {
    /// Adds an argument after the mount point.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments after the mount point.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable of the daemon.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Mounts on this folder instead of one in a temporary folder.
    #[must_use]
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.at = Some(path.into());
        self
    }

    /// Passes no `--cache-dir`: the caller passes its own, or wants the default.
    #[must_use]
    pub fn without_own_cache(mut self) -> Self {
        self.own_cache = false;
        self
    }

    /// Mounts here, and has it served by a process of another user without any capability, which
    /// receives the descriptor.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// The same, and promises that somebody will attach who registers files with the kernel.
    #[must_use]
    pub fn brokered(mut self) -> Self {
        self.brokered = true;
        self.unprivileged()
    }

    /// Mounts, and returns once the kernel answers from the mount.
    pub fn start(self) -> Result<Mount, MountFailure> {
        let mount = Mount::launch(self).map_err(MountFailure::before_start)?;
        mount.wait_until_mounted()
    }
}

/// Why there is no mount.
#[derive(Debug)]
pub struct MountFailure {
    /// How the daemon exited; none if it never ran or never became ready.
    pub status: Option<ExitStatus>,
    /// What it wrote to stderr, or why it never ran.
    pub stderr: String,
}

impl MountFailure {
    fn before_start(error: anyhow::Error) -> Self {
        Self { status: None, stderr: format!("{error:#}") }
    }

    /// The daemon's exit code.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status?.code()
    }
}

impl std::fmt::Display for MountFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "s3pod mount ended with {status}:\n{}", self.stderr),
            None => write!(f, "s3pod mount did not become ready:\n{}", self.stderr),
        }
    }
}

impl std::error::Error for MountFailure {}

/// What a process occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident bytes now (VmRSS).
    pub current: u64,
    /// The most it ever had resident (VmHWM).
    pub peak: u64,
}

/// A mounted bucket. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    child: Tied,
    path: PathBuf,
    stderr: PathBuf,
    folder: Option<TempDir>,
    /// Of a server that received the mount.
    handed_to: Option<UnixStream>,
}

impl Mount {
    /// Mounts `bucket` with `binary` (`env!("CARGO_BIN_EXE_s3pod")`) and these extra arguments.
    pub fn start(
        binary: impl Into<PathBuf>,
        bucket: &S3Endpoint,
        arguments: &[&str],
    ) -> Result<Self, MountFailure> {
        Self::options(binary, bucket).args(arguments).start()
    }

    /// Options for a mount of `bucket`.
    pub fn options(binary: impl Into<PathBuf>, bucket: &S3Endpoint) -> MountOptions {
        MountOptions {
            binary: binary.into(),
            bucket: bucket.clone(),
            at: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            own_cache: true,
            unprivileged: false,
            brokered: false,
        }
    }

    fn launch(options: MountOptions) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("s3pod-mount-")?;
        let path = match options.at {
            Some(path) => path,
            None => {
                let path = folder.path().join("mnt");
                fs::create_dir(&path)?;
                path
            }
        };
        let stderr = folder.path().join("stderr.log");
        let handover =
            options.unprivileged.then(|| Handover::prepare(&path, folder.path())).transpose()?;
        let mut command = match &handover {
            // SIGTERM, not SIGKILL: a daemon whose test process died still unmounts.
            None => tied_command(&options.binary, "TERM"),
            Some(_) => handover::without_privileges(&options.binary, folder.path())?,
        };
        match &handover {
            None => command.args(["mount", "--foreground"]),
            Some(_) => command.arg("serve"),
        };
        command.args(["--force-path-style", "--endpoint-url"]).arg(&options.bucket.endpoint);
        if options.own_cache {
            command.arg("--cache-dir").arg(folder.path().join("cache"));
        }
        let place = handover.as_ref().map_or(path.as_path(), Handover::socket);
        command.arg(&options.bucket.bucket).arg(place).args(&options.arguments);
        command.envs(options.bucket.environment()).envs(options.environment);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&stderr)?);
        let child = Tied::spawn(command).context(options.binary.display().to_string())?;
        let mut own = Self { child, path, stderr, folder: Some(folder), handed_to: None };
        if let Some(handover) = handover {
            own.handed_to = Some(own.hand_over(handover, options.brokered)?);
        }
        Ok(own)
    }

    /// Waits until the server listens, and gives it the mount.
    fn hand_over(&self, handover: Handover, brokered: bool) -> anyhow::Result<UnixStream> {
        let mut waited = Duration::ZERO;
        loop {
            // Its file is there a moment before anybody listens.
            let error = match UnixStream::connect(handover.socket()) {
                Ok(stream) => {
                    let handed = handover.hand_over(stream, brokered);
                    return handed.with_context(|| self.stderr());
                }
                Err(error) => error,
            };
            if let Some(status) = self.child.status() {
                bail!("s3pod serve ended with {status}:\n{}", self.stderr());
            }
            if waited >= READY_LIMIT {
                bail!("s3pod serve does not listen: {error}\n{}", self.stderr());
            }
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }

    fn wait_until_mounted(self) -> Result<Self, MountFailure> {
        let mut waited = Duration::ZERO;
        while waited < READY_LIMIT {
            if let Some(status) = self.child.status() {
                return Err(MountFailure { status: Some(status), stderr: self.stderr() });
            }
            // A dead mount beneath a new one is a FUSE mount too, which answers nothing.
            if is_fuse_mount(&self.path) && statvfs(&self.path).is_ok() {
                return Ok(self);
            }
            std::thread::sleep(POLL);
            waited += POLL;
        }
        Err(MountFailure { status: None, stderr: self.stderr() })
    }

    /// The mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The daemon's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What the daemon has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        let bytes = fs::read(&self.stderr).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the daemon still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.status().is_none()
    }

    /// What the daemon occupies.
    pub fn rss_bytes(&self) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let text = line.and_then(|rest| rest.split_whitespace().next());
            let kibibytes: u64 = text.context("the daemon has exited")?.parse()?;
            Ok(kibibytes * 1024)
        };
        Ok(Memory { current: field("VmRSS:")?, peak: field("VmHWM:")? })
    }

    /// SIGTERM, then waits at most 60 s for the drained exit. An error names what it left.
    pub fn unmount(self) -> anyhow::Result<ExitStatus> {
        self.child.signal(Signal::SIGTERM);
        let Some(status) = self.child.wait(UNMOUNT_LIMIT) else {
            bail!("s3pod did not exit within {UNMOUNT_LIMIT:?}:\n{}", self.stderr());
        };
        if self.handed_to.is_some() {
            // It is for whoever mounted.
            detach(&self.path);
        }
        if is_fuse_mount(&self.path) {
            bail!("s3pod exited with {status} and left its mount:\n{}", self.stderr());
        }
        Ok(status)
    }

    /// Waits for the daemon to exit by itself.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        self.child.wait(limit)
    }

    /// SIGKILL, as the OOM killer does it; the dead mount stays until the handle is dropped.
    pub fn crash(&self) {
        self.child.signal(Signal::SIGKILL);
        self.child.wait(DROP_LIMIT);
    }

    /// SIGKILL and a lazy unmount of the mount point. The cache folder is returned: it holds
    /// what a new mount may recover, and goes when it is dropped.
    pub fn kill(mut self) -> Option<TempDir> {
        self.crash();
        detach(&self.path);
        if is_fuse_mount(&self.path) { None } else { self.folder.take() }
    }

    /// Where a server that received the mount listens on, under the volume's name `test`.
    #[must_use]
    pub fn handoff_socket(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref().filter(|_| self.handed_to.is_some());
        folder.map(|folder| Handover::socket_in(folder.path()))
    }

    /// The private cache folder.
    #[must_use]
    pub fn cache_folder(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join("cache"))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.child.signal(Signal::SIGTERM);
        if self.child.wait(DROP_LIMIT).is_none() {
            self.child.signal(Signal::SIGKILL);
            self.child.wait(DROP_LIMIT);
        }
        detach(&self.path);
        if is_fuse_mount(&self.path)
            && let Some(folder) = self.folder.take()
        {
            // Deleting it now would delete the bucket's objects through the mount.
            let _ = folder.keep();
        }
    }
}

/// Takes a FUSE mount off this very path, however busy; nothing else is touched.
fn detach(path: &Path) {
    if is_fuse_mount(path) {
        // A failure is seen by whoever looks whether it is still mounted.
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
}

/// Whether the last thing mounted on exactly this path is a FUSE file system.
#[must_use]
pub fn is_fuse_mount(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    top_is_fuse(&table, path)
}

fn top_is_fuse(table: &str, path: &Path) -> bool {
    let mut kinds = table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (Path::new(&unescape(point)) == path).then(|| kind.split(' ').next().unwrap_or(""))
    });
    kinds.next_back().is_some_and(|kind| kind == "fuse" || kind.starts_with("fuse."))
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescape(text: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(text.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 0:20 / / rw shared:1 - ext4 /dev/vda rw\n\
40 22 0:39 / /mnt/a\\040b rw,nosuid shared:2 - fuse.s3pod s3pod rw,user_id=0\n\
41 22 0:40 / /mnt/c rw - fuse s3pod rw\n\
42 22 0:41 / /mnt/c rw - tmpfs tmpfs rw\n";

    #[test]
    fn only_the_topmost_mount_of_a_path_counts() {
        assert!(top_is_fuse(TABLE, Path::new("/mnt/a b")));
        assert!(!top_is_fuse(TABLE, Path::new("/mnt/c")));
        assert!(!top_is_fuse(TABLE, Path::new("/")) && !top_is_fuse(TABLE, Path::new("/mnt")));
    }

    #[test]
    fn a_binary_that_fails_is_told_with_its_words() {
        let bucket = S3Endpoint {
            endpoint: "http://127.0.0.1:9".to_owned(),
            access_key: "key".to_owned(),
            secret_key: "secret".to_owned(),
            region: "us-east-1".to_owned(),
            bucket: "bucket".to_owned(),
        };
        let failure = Mount::start("/bin/cat", &bucket, &[]).unwrap_err();
        assert_eq!(failure.code(), Some(1));
        assert!(failure.stderr.contains("cat:"), "{}", failure.stderr);
        assert!(Mount::start("/nonexistent/s3pod", &bucket, &[]).is_err());
    }
}
