//! Mounts of the driver in the kernel's table, and what is done to them.
//!
//! Owns binding, mounting over and unmounting. Promises: it looks at the table of mounts and never
//! at a mounted path, which could hang, except where it binds a folder out of a mount that has
//! just answered; nothing is unmounted before what replaces it stands; nothing is ever deleted but
//! an empty directory. Must not know which volume it is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::Mode;
use s3pod::mount::kernel::{self, MountOptions};
use s3pod::mount::mountinfo::{self, FS_TYPE, MountInfo};
use s3pod::mount::{Failure, Transfer};

use crate::csi::servers::Ends;

/// Beneath a mount nobody may do anything: where it is missing, an application's writes would land
/// on the node's disk, unseen.
const BENEATH: u32 = 0o000;

/// Of several mounts at one place each unmount takes one; more than this nobody stacked in order.
const STACKED_MAX: usize = 1024;

/// What a request between kernel and server may carry: most servers share their memory with many.
const MEMORY: u64 = 64 << 20;

/// Mounts on `point`, over whatever stands there; the descriptor is for the server.
pub(super) fn mount(point: &Path, source: &str, read_only: bool) -> Result<Fresh, Failure> {
    let transfer = Transfer::within(MEMORY);
    let options =
        MountOptions { source: source.to_owned(), read_only, allow_other: true, transfer };
    let (device, mounted) = kernel::mount(point, &options)?;
    mounted.raise_read_ahead(transfer);
    match hold(point) {
        Ok(mount) => {
            let ends = Ends { device, mount };
            Ok(Fresh { ends, device: mounted.device().to_string() })
        }
        Err(error) => {
            // Nobody would serve it.
            let _ = take_one(point);
            Err(Failure::passing(format!("{} cannot be opened: {error}", point.display())))
        }
    }
}

/// A mount that nobody serves yet.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) ends: Ends,
    pub(super) device: String,
}

/// A descriptor of the mount at `point`, which no server is asked for.
pub(super) fn hold(point: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(open(point, flags, Mode::empty())?)
}

/// Makes the directory that is mounted on; one that is there will do.
pub(super) fn make(point: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(BENEATH).create(point) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Its kind decides, not what is in it: a link would lead a mount astray.
            let found = fs::symlink_metadata(point)?;
            if found.is_dir() { Ok(()) } else { Err(error) }
        }
        made => made,
    }
}

/// Has what is mounted on `own`, or a folder in it, appear at `target` as well.
///
/// The own mount is taken out of its peers first: else all targets would be peers of each other,
/// and one's unmount would be the others' (mount_namespaces(7)).
pub(super) fn bind(own: &Path, root: &Path, target: &Path) -> io::Result<()> {
    let none: Option<&str> = None;
    nix::mount::mount(none, own, none, MsFlags::MS_PRIVATE, none)?;
    let own = inside(own, root);
    Ok(nix::mount::mount(Some(&own), target, none, MsFlags::MS_BIND, none)?)
}

/// The device of the mount that a look at `point` meets, where that is one of this program's.
pub(super) fn device_at(mounts: &[MountInfo], point: &Path) -> Option<String> {
    let found = mountinfo::topmost(mounts, point)?;
    (found.kind == FS_TYPE).then(|| found.device.to_string())
}

/// Unmounts all that stands at `point`; how many there were. Open files keep the rest alive.
pub(super) fn clear(point: &Path) -> io::Result<usize> {
    for count in 0..STACKED_MAX {
        let mounts = mountinfo::read()?;
        if mountinfo::topmost(&mounts, point).is_none() {
            return Ok(count);
        }
        take_one(point)?;
    }
    Err(io::Error::other(format!("there are more than {STACKED_MAX} mounts")))
}

/// Unmounts the topmost mount at `point`.
pub(super) fn take_one(point: &Path) -> io::Result<()> {
    match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Gone meanwhile.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What of a dead file system a place shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// All of it: nobody has to answer for that.
    Whole,
    /// A folder in it, which its server has to find.
    Folder,
}

/// Mounts `own` over such mounts of the file systems that stand on `dead`, each with the folder
/// that it shows. What cannot be mounted over is named, with the reason.
pub(super) fn renew(
    own: &Path,
    dead: &[PathBuf],
    below: Option<&Path>,
    which: Shown,
) -> io::Result<Vec<(PathBuf, io::Error)>> {
    let mounts = mountinfo::read()?;
    let mut failed = Vec::new();
    let is_whole = |root: &Path| root == Path::new("/");
    let places = stale(&mounts, dead, below).into_iter();
    for (point, root) in places.filter(|(_, root)| is_whole(root) == (which == Shown::Whole)) {
        if let Err(error) = bind(own, root, point) {
            failed.push((point.to_owned(), error));
        }
    }
    Ok(failed)
}

/// Where the file systems on `own` still show, and which folder of theirs.
fn stale<'a>(
    mounts: &'a [MountInfo],
    own: &[PathBuf],
    below: Option<&Path>,
) -> Vec<(&'a Path, &'a Path)> {
    let is_own = |mount: &MountInfo| own.contains(&mount.point);
    // While one of its mounts stands, no other file system gets its number.
    let dead: BTreeSet<String> = mounts
        .iter()
        .filter(|mount| is_own(mount) && mount.kind == FS_TYPE)
        .map(|mount| mount.device.to_string())
        .collect();
    mounts
        .iter()
        .filter(|mount| dead.contains(&mount.device.to_string()) && !is_own(mount))
        .filter(|mount| below.is_none_or(|folder| mount.point.starts_with(folder)))
        .filter(|mount| is_met(mounts, mount))
        .map(|mount| (mount.point.as_path(), mount.root.as_path()))
        .collect()
}

/// True where a look at a mount's point meets it: nothing stands on it or above it. What was
/// mounted in a mount that was mounted over is in the table still.
fn is_met(mounts: &[MountInfo], mount: &MountInfo) -> bool {
    let hides = |other: &MountInfo, one: &MountInfo| {
        let is_beside = other.parent == one.parent && other.point != one.point;
        other.id != one.id && is_beside && one.point.starts_with(&other.point)
    };
    let is_topmost = mountinfo::topmost(mounts, &mount.point).is_some_and(|top| top.id == mount.id);
    let mut line = mount;
    let mut seen = BTreeSet::new();
    loop {
        if mounts.iter().any(|other| hides(other, line)) {
            return false;
        }
        match mounts.iter().find(|parent| parent.id == line.parent) {
            Some(parent) if seen.insert(parent.id) => line = parent,
            _ => return is_topmost,
        }
    }
}

fn inside(own: &Path, root: &Path) -> PathBuf {
    own.join(root.strip_prefix("/").unwrap_or(root))
}

/// Removes the directory that was mounted on; one that is missing is as good.
pub(super) fn remove(point: &Path) -> io::Result<()> {
    match fs::remove_dir(point) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw - ext4 /dev/vda rw\n\
30 22 0:51 / /s/mounts/k.1 rw - fuse.s3pod bucket rw\n\
31 22 0:51 / /k/pods/1/mount rw shared:6 - fuse.s3pod bucket rw\n\
32 22 0:51 /sub /k/pods/1/volume-subpaths/v/c/0 rw - fuse.s3pod bucket rw\n\
33 22 0:51 / /elsewhere rw - fuse.s3pod bucket rw\n\
34 22 0:60 / /k/pods/2/mount rw - fuse.s3pod other rw\n\
35 22 0:51 / /k/pods/3/mount rw - fuse.s3pod bucket rw\n\
36 22 0:52 / /s/mounts/k.2 rw - fuse.s3pod bucket rw\n\
37 35 0:52 / /k/pods/3/mount rw - fuse.s3pod bucket rw\n\
38 35 0:51 /sub /k/pods/3/mount/sub rw - fuse.s3pod bucket rw\n";

    #[test]
    fn every_place_of_a_dead_file_system_is_found_and_none_that_is_mended() {
        let mounts = mountinfo::read_table(TABLE);
        let (own, dead) = (Path::new("/s/mounts/k.2"), [PathBuf::from("/s/mounts/k.1")]);
        let found = |below| {
            let stale = stale(&mounts, &dead, below).into_iter();
            stale.map(|(point, root)| (point.to_str().unwrap(), root.to_str().unwrap())).collect()
        };
        let of_pods: Vec<_> = found(Some(Path::new("/k")));
        let sub = ("/k/pods/1/volume-subpaths/v/c/0", "/sub");
        assert_eq!(of_pods, [("/k/pods/1/mount", "/"), sub]);
        let all: Vec<_> = found(None);
        assert_eq!(all, [("/k/pods/1/mount", "/"), sub, ("/elsewhere", "/")]);
        assert_eq!(inside(own, Path::new("/sub")), Path::new("/s/mounts/k.2/sub"));
        assert_eq!(device_at(&mounts, own).as_deref(), Some("0:52"));
        assert_eq!(device_at(&mounts, Path::new("/")), None);
    }

    #[test]
    fn a_link_is_no_directory_to_mount_on() {
        let folder = tempfile::tempdir().unwrap();
        let point = folder.path().join("mount");
        make(&point).unwrap();
        make(&point).unwrap();
        remove(&point).unwrap();
        remove(&point).unwrap();
        std::os::unix::fs::symlink("/etc", &point).unwrap();
        assert!(make(&point).is_err());
    }
}
