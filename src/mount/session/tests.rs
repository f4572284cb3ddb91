//! Real mounts of a file system with one file, as root: how they begin, and every way they end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Session;
use crate::mount::kernel::{MountOptions, Unmounted};
use crate::mount::mountinfo;
use crate::mount::point::{self, Allowed};
use crate::mount::transfer::Transfer;

const TEXT: &[u8] = b"hello\n";
const FOREVER: Duration = Duration::from_secs(3600);

/// A directory with the file `hello`.
struct OneFile;

fn attr(ino: u64) -> FileAttr {
    let is_root = ino == 1;
    FileAttr {
        ino: INodeNo(ino),
        size: if is_root { 0 } else { TEXT.len() as u64 },
        blocks: 1,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_root { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("hello") => reply.entry(&FOREVER, &attr(2), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attr(ino.0));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(TEXT);
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        if cookie == 0 {
            assert!(!reply.add(INodeNo(2), 1, FileType::RegularFile, "hello"));
        }
        reply.ok();
    }
}

/// A directory to mount on, cleaned up lazily whatever the test left there.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        // Not canonicalize(): the directory may be a dead mount.
        self.0.path().to_owned()
    }

    fn mount(&self) -> Session {
        let options = MountOptions {
            source: "bucket one".to_owned(),
            read_only: false,
            allow_other: true,
            transfer: Transfer::within(0),
        };
        Session::start(OneFile, &self.path(), &options).unwrap()
    }

    fn stands(&self) -> bool {
        let mounts = mountinfo::read().unwrap();
        mountinfo::topmost(&mounts, &self.path()).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while umount2(self.0.path(), MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn wait_for_the_end(session: &mut Session) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let patience = Duration::from_secs(30);
    runtime
        .block_on(async { tokio::time::timeout(patience, session.ended()).await })
        .expect("the session ends");
}

fn read_hello(place: &Path) -> Vec<u8> {
    fs::read(place.join("hello")).unwrap()
}

#[test]
fn a_mount_serves_and_goes_when_told() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mut session = place.mount();
    assert_eq!(read_hello(&place.path()), TEXT);
    let mounts = mountinfo::read().unwrap();
    let ours = mountinfo::topmost(&mounts, &place.path()).unwrap();
    assert_eq!((ours.kind.as_str(), ours.source.as_str()), ("fuse.s3pod", "bucket one"));
    let knob = format!("/sys/class/bdi/{}/read_ahead_kb", ours.device);
    assert_eq!(fs::read_to_string(knob).unwrap().trim(), "1024");

    assert_eq!(session.unmount(), Unmounted::Clean);
    wait_for_the_end(&mut session);
    assert!(!place.stands());
    assert_eq!(session.unmount(), Unmounted::NotOurs);
}

#[test]
fn a_foreign_unmount_ends_the_session() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mut session = place.mount();
    assert_eq!(read_hello(&place.path()), TEXT);
    umount2(&place.path(), MntFlags::empty()).unwrap();
    wait_for_the_end(&mut session);
    assert_eq!(session.unmount(), Unmounted::NotOurs);
}

#[test]
fn a_busy_mount_is_detached_and_ends_with_its_last_file() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mut session = place.mount();
    let open = File::open(place.path().join("hello")).unwrap();
    assert_eq!(session.unmount(), Unmounted::Detached);
    assert!(!place.stands());
    assert_eq!(open.metadata().unwrap().len(), TEXT.len() as u64);
    drop(open);
    wait_for_the_end(&mut session);
}

#[test]
fn an_aborted_connection_leaves_a_dead_mount_that_is_cleared_or_replaced() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mut first = place.mount();
    assert!(fs::metadata(place.path()).is_ok(), "the root's attributes are in the kernel's cache");
    // With a file open MNT_FORCE aborts the connection, answers EBUSY and unmounts nothing.
    let open = File::open(place.path()).unwrap();
    assert!(umount2(&place.path(), MntFlags::MNT_FORCE).is_err());
    wait_for_the_end(&mut first);
    assert!(place.stands());

    let refused = point::check(&place.path(), Allowed::default()).unwrap_err().to_string();
    assert!(refused.contains("--replace-stale"), "{refused}");
    let replacing = Allowed { nonempty: false, stale: true };
    assert_eq!(point::check(&place.path(), replacing), Ok(place.path()));
    let mut second = place.mount();
    assert_eq!(read_hello(&place.path()), TEXT);

    assert_eq!(first.unmount(), Unmounted::NotOurs, "the second one stands above it");
    assert_eq!(second.unmount(), Unmounted::Clean);
    wait_for_the_end(&mut second);
    drop(open);
    assert_eq!(first.unmount(), Unmounted::Clean);
    assert!(!place.stands());
}

#[test]
fn a_place_that_is_taken_is_refused_and_left_alone() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mut session = place.mount();
    let any = Allowed { nonempty: true, stale: true };
    let refused = point::check(&place.path(), any).unwrap_err().to_string();
    assert!(refused.contains("the bucket bucket one is mounted there already"), "{refused}");

    let nothing: Option<&str> = None;
    mount(Some("none"), &place.path(), Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
    assert_eq!(session.unmount(), Unmounted::NotOurs);
    let mounts = mountinfo::read().unwrap();
    assert_eq!(mountinfo::topmost(&mounts, &place.path()).unwrap().kind, "tmpfs");
    umount2(&place.path(), MntFlags::empty()).unwrap();
    assert_eq!(session.unmount(), Unmounted::Clean);
    wait_for_the_end(&mut session);
}
