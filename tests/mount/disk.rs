//! What a writer is told when the disk below the cache folder is full or read-only.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use s3pod_testkit::{Mount, ServerOptions, TestServer};

use crate::bench::{close, errno, pattern, read};
use crate::lab::Lab;

const MIB: u64 = 1 << 20;

/// A mount of something else than s3pod; gone when dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// A disk of so many bytes.
    pub(crate) fn disk(at: &Path, size: u64) -> Self {
        let options = format!("size={size}");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(at.to_owned())
    }

    /// What is there, read-only from now on for whoever opens it.
    fn read_only(at: &Path) -> Self {
        let none: Option<&str> = None;
        mount(Some(at), at, none, MsFlags::MS_BIND, none).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, at, none, flags, none).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_enospc_for_the_writer_and_a_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let _disk = Mounted::disk(folder.path(), 48 * MIB);
    let server = TestServer::spawn(ServerOptions::with_bucket("disk"));
    let mounted = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &server.s3_endpoint("disk"))
        .without_own_cache()
        .arg("--cache-dir")
        .arg(folder.path())
        .args(["--staging-size", "1GiB"])
        .start()
        .unwrap();
    let bytes = pattern(MIB as usize);
    // Not in order, so that nothing can leave.
    let file = File::create(mounted.path().join("f")).unwrap();
    let mut written = 1;
    let refused = loop {
        match file.write_all_at(&bytes, written) {
            Ok(()) => written += MIB,
            Err(error) => break error,
        }
        assert!(written < 49 * MIB, "the disk is larger than it is");
    };
    assert_eq!(refused.raw_os_error(), Some(Errno::ENOSPC as i32));
    file.set_len(1 + MIB).unwrap();
    close(file).unwrap();
    assert!(server.bucket("disk").get("f").unwrap()[1..] == bytes, "what fits is sent");
    let file = File::create(mounted.path().join("g")).unwrap();
    for number in 0..150 {
        file.write_all_at(&bytes, number * MIB).unwrap();
    }
    close(file).unwrap();
    assert!(server.bucket("disk").get("g").unwrap() == bytes.repeat(150), "the bytes differ");
    assert!(mounted.unmount().unwrap().success());
}

#[test]
fn a_read_only_disk_is_erofs_for_the_writer() {
    let lab = Lab::new(&[], |bucket| drop(bucket.put("f", "hello")));
    {
        let _read_only = Mounted::read_only(&lab.mount().cache_folder().unwrap());
        let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
        assert_eq!(errno(file.write_all_at(b"x", 0)), Errno::EROFS);
        assert_eq!(errno(file.set_len(1)), Errno::EROFS);
        close(file).unwrap();
        assert_eq!(read(&lab.path("f")), b"hello");
    }
    fs::write(lab.path("f"), "writable").unwrap();
    assert_eq!(lab.object("f"), b"writable");
}
