//! mount(2), umount2(2) and what root may tune about a mount.
//!
//! Owns the descriptor's opening, the mount's identity, and the way it goes. Promises: only a
//! mount made here is ever unmounted here, never one that came to stand at the same path. Must
//! not know what answers on the descriptor.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags};

use super::failure::Failure;
use super::mountinfo::{self, Device, FS_TYPE, MountInfo};
use super::transfer::Transfer;

const FUSE_DEVICE: &str = "/dev/fuse";

/// What is mounted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The source that `df` shows: the bucket, and the prefix where there is one.
    pub source: String,
    /// `--read-only`.
    pub read_only: bool,
    /// `--allow-other`: users other than the mounting one may enter.
    pub allow_other: bool,
    /// How much travels at once.
    pub transfer: Transfer,
}

/// A mount of ours.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    id: u64,
    device: Device,
}

/// How an unmount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmounted {
    /// It is gone.
    Clean,
    /// It was busy: the name is gone, open files keep the rest alive until they are closed.
    Detached,
    /// It was gone before, or something else stands above it.
    NotOurs,
    /// Somebody else mounted it, and unmounts it.
    Elsewhere,
}

/// Mounts on `point` as root; the descriptor is the kernel's end of every request.
///
/// # Errors
/// Where the device cannot be opened, or the kernel refuses the mount.
pub fn mount(point: &Path, options: &MountOptions) -> Result<(OwnedFd, Mounted), Failure> {
    let device = open_device()?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if options.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    let mut terms = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid(),
    );
    if options.allow_other {
        terms.push_str(",allow_other");
    }
    let source = Some(options.source.as_str());
    nix::mount::mount(source, point, Some(FS_TYPE), flags, Some(terms.as_str()))
        .map_err(|errno| mount_failed(point, errno))?;
    match find(point) {
        Ok(Some(mount)) => {
            let mounted = Mounted { point: point.to_owned(), id: mount.id, device: mount.device };
            Ok((device, mounted))
        }
        unknown => {
            // Closing the descriptor kills it, and a dead mount is worse than none.
            let _ = nix::mount::umount2(point, MntFlags::MNT_DETACH);
            let why = unknown.err().map_or_else(|| "it is not there".to_owned(), |e| e.to_string());
            Err(Failure::passing(format!("/proc/self/mountinfo, asked for the new mount: {why}")))
        }
    }
}

fn find(point: &Path) -> io::Result<Option<MountInfo>> {
    let mounts = mountinfo::read()?;
    Ok(mountinfo::topmost(&mounts, point).filter(|mount| mount.kind == FS_TYPE).cloned())
}

fn open_device() -> Result<OwnedFd, Failure> {
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(FUSE_DEVICE);
    opened.map(OwnedFd::from).map_err(|error| device_failed(&error))
}

fn device_failed(error: &io::Error) -> Failure {
    let remedy = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
            "this kernel has no FUSE loaded (`modprobe fuse`), or the container was not given the \
             device (`--device /dev/fuse`)"
        }
        Some(Errno::EPERM | Errno::EACCES) => {
            "the container's device rules or the file's mode forbid it (`--device /dev/fuse`)"
        }
        _ => "FUSE does not work here",
    };
    Failure::passing(format!("{FUSE_DEVICE} cannot be opened: {error}; {remedy}"))
}

fn mount_failed(point: &Path, errno: Errno) -> Failure {
    let remedy = match errno {
        Errno::EPERM | Errno::EACCES => {
            "mounting needs the capability CAP_SYS_ADMIN (`--cap-add SYS_ADMIN`, or \
             `privileged: true` in a pod)"
        }
        Errno::ENODEV => "this kernel has no FUSE (`modprobe fuse`)",
        Errno::ENOSPC => "there are too many mounts (fs.mount-max)",
        _ => "the kernel's log may say more (`dmesg`)",
    };
    Failure::passing(format!(
        "{} cannot be mounted on: {}; {remedy}",
        point.display(),
        errno.desc()
    ))
}

/// Has every descriptor but the standard three closed in programs started from here on: a process
/// that stays would hold a caller's locks and pipes for as long. Kernels before 5.11 cannot.
pub(super) fn inherit_no_descriptors() {
    const FIRST: libc::c_uint = 3;
    const LAST: libc::c_uint = libc::c_uint::MAX;
    let mark = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: with this flag close_range(2) closes nothing and touches no memory: it sets a flag
    // that matters at the next exec.
    #[expect(unsafe_code, reason = "there is no safe wrapper for close_range")]
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST, LAST, mark) };
    if done != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "close_range is refused");
    }
}

impl Mounted {
    /// True while a look at the path meets this mount.
    pub(super) fn stands(&self) -> bool {
        find(&self.point)
            .ok()
            .flatten()
            .is_some_and(|mount| mount.id == self.id && mount.device == self.device)
    }

    /// Unmounts it, lazily where it is busy.
    pub(super) fn unmount(&self) -> io::Result<Unmounted> {
        if !self.stands() {
            return Ok(Unmounted::NotOurs);
        }
        let gone = |flags| nix::mount::umount2(&self.point, flags | MntFlags::UMOUNT_NOFOLLOW);
        match gone(MntFlags::empty()) {
            Ok(()) => Ok(Unmounted::Clean),
            Err(Errno::EBUSY) => {
                gone(MntFlags::MNT_DETACH)?;
                Ok(Unmounted::Detached)
            }
            Err(Errno::EINVAL | Errno::ENOENT) => Ok(Unmounted::NotOurs),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The file system's device.
    pub const fn device(&self) -> Device {
        self.device
    }

    /// Raises the kernel's read-ahead. Containers often have /sys read-only: then it stays as it
    /// is, and reads come in smaller requests.
    pub fn raise_read_ahead(&self, transfer: Transfer) {
        let knob = format!("/sys/class/bdi/{}/read_ahead_kb", self.device);
        let kib = transfer.request_max / 1024;
        match std::fs::write(&knob, kib.to_string()) {
            Ok(()) => tracing::debug!(knob, kib, "read-ahead raised"),
            Err(error) => tracing::debug!(knob, %error, "read-ahead stays at the kernel's default"),
        }
    }
}
