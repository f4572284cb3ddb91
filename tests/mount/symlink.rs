//! symlink(2), link(2) and FIFOs: names that are not plain files.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::bench::{Bench, errno, read, write};

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
