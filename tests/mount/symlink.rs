//! symlink(2), link(2) and FIFOs: names that are not plain files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use s3pod_testkit::{Attributes, Op, synthetic_bytes};

use crate::bench::{Bench, errno, read, write};
use crate::lab::Lab;

pub(crate) fn a_link_is_followed_and_read(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    write(&bench.path("d/target"), b"bytes");
    symlink("d/target", bench.path("link")).unwrap();
    symlink("nowhere", bench.path("broken")).unwrap();
    assert_eq!(read(&bench.path("link")), b"bytes");
    assert_eq!(fs::read_link(bench.path("link")).unwrap(), Path::new("d/target"));
    assert_eq!(fs::symlink_metadata(bench.path("link")).unwrap().len(), 8);
    assert!(!bench.path("broken").exists());
    assert_eq!(errno(symlink("x", bench.path("link"))), Errno::EEXIST);
    write(&bench.path("link"), b"through");
    assert_eq!(bench.object("d/target").unwrap(), b"through");
    fs::remove_file(bench.path("link")).unwrap();
    assert_eq!(read(&bench.path("d/target")), b"through");
}

pub(crate) fn a_link_survives_a_remount(bench: &Bench) {
    let long = format!("{}/é", "x".repeat(200));
    symlink("target", bench.path("short")).unwrap();
    symlink(&long, bench.path("long")).unwrap();
    let other = bench.another(&[]);
    assert_eq!(fs::read_link(other.path().join("short")).unwrap(), Path::new("target"));
    assert_eq!(fs::read_link(other.path().join("long")).unwrap(), Path::new(&long));
    assert!(other.unmount().unwrap().success());
    fs::rename(bench.path("short"), bench.path("moved")).unwrap();
    assert_eq!(fs::read_link(bench.path("moved")).unwrap(), Path::new("target"));
}

pub(crate) fn hard_links_are_refused(bench: &Bench) {
    write(&bench.path("f"), b"x");
    assert_eq!(errno(fs::hard_link(bench.path("f"), bench.path("g"))), Errno::EPERM);
    assert_eq!(bench.keys(), ["f"]);
}

pub(crate) fn a_fifo_survives_a_remount(bench: &Bench) {
    nix::unistd::mkfifo(&bench.path("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    let other = bench.another(&[]);
    let seen = fs::symlink_metadata(other.path().join("fifo")).unwrap();
    assert!(seen.file_type().is_fifo());
    assert!(other.unmount().unwrap().success());
}

#[test]
fn an_object_too_long_for_a_link_is_a_file_whatever_it_says() {
    const SIZE: u64 = 64 << 20;
    let link = || Attributes::with_metadata([("mode", "0120777")]);
    let lab = Lab::new(&[], |bucket| {
        bucket.put_synthetic_with("huge", SIZE, 1, link());
        bucket.put_with("longer", "x".repeat(4096), link());
        bucket.put_with("longest", "x".repeat(4095), link());
    });
    assert_eq!(fs::read_link(lab.path("longest")).unwrap().as_os_str().len(), 4095);
    lab.log().clear();
    for (name, size) in [("huge", SIZE), ("longer", 4096)] {
        let seen = fs::symlink_metadata(lab.path(name)).unwrap();
        assert!(seen.is_file(), "{name}: {seen:?}");
        assert_eq!(seen.len(), size);
        assert_eq!(errno(fs::read_link(lab.path(name))), Errno::EINVAL);
    }
    assert_eq!(lab.log().count(Op::Get), 0);
    let mut page = vec![0; 4096];
    File::open(lab.path("huge")).unwrap().read_exact_at(&mut page, SIZE - 4096).unwrap();
    assert!(page == synthetic_bytes(1, SIZE - 4096..SIZE), "the bytes differ");
    assert!(lab.end().success());
}
