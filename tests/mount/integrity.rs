//! What does not arrive as it was stored: seen by the store's own checksum of the whole object,
//! also where it was read in many pieces; told to whoever reads, and kept nowhere.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use s3pod_testkit::{Fault, Op};

use crate::bench::{errno, pattern, read};
use crate::disk_cache::{Place, unmount};
use crate::lab::Lab;

/// Three GETs, the last one of few bytes.
const SIZE: usize = (17 << 20) + 5;

const SAID: &str = "an object did not arrive as it was stored";

/// How often it was said that bytes were wrong.
fn seen(lab: &Lab) -> usize {
    lab.mount().stderr().matches(SAID).count()
}

/// A GET of `f` with a byte that is wrong, early enough for the shortest of them.
fn damaged_get() -> s3pod_testkit::Rule {
    Fault::FlipByte { at: 3 }.on(Op::Get).key("f")
}

/// The HEADs of a mount that looks at a large object and reads it, twice.
fn heads(arguments: &[&str]) -> usize {
    let bytes = pattern(SIZE);
    let lab = Lab::new(&[&["--metadata-ttl", "60s"], arguments].concat(), |bucket| {
        bucket.put("f", bytes.clone());
    });
    for _ in 0..2 {
        fs::metadata(lab.path("f")).unwrap();
        assert!(read(&lab.path("f")) == bytes, "the bytes differ");
    }
    lab.log().count(Op::Head)
}

#[test]
fn the_comparison_costs_no_request() {
    assert_eq!(heads(&[]), 1);
    assert_eq!(heads(&["--checksums", "when-required"]), 1);
    assert_eq!(heads(&["--metadata", "list"]), 0);
}

#[test]
fn one_wrong_byte_in_any_get_is_an_error_and_the_next_open_reads_anew() {
    for (number, passthrough) in [(0, true), (1, true), (2, false)] {
        let bytes = pattern(SIZE);
        let arguments: &[&str] = if passthrough { &[] } else { &["--no-passthrough"] };
        let lab = Lab::new(arguments, |bucket| {
            bucket.put("f", bytes.clone());
        });
        let _damaged = lab.server().faults().add(damaged_get().skip(number));
        let file = File::open(lab.path("f")).unwrap();
        assert_eq!(errno(fs::read(lab.path("f"))), Errno::EIO, "GET {number}");
        assert_eq!(seen(&lab), 1);
        for _ in 0..3 {
            assert!(read(&lab.path("f")) == bytes, "GET {number}: the bytes differ");
        }
        drop(file);
        assert_eq!(seen(&lab), 1);
        assert_eq!(lab.metric("s3pod_cache_damaged_bodies_total", &[]), 1);
        assert!(lab.end().success());
    }
}

#[test]
fn an_object_that_is_not_what_its_checksum_says_is_never_given_out_whole() {
    let place = Place::new();
    let bytes = pattern(SIZE);
    place.put("f", &bytes);
    place.bucket().spoil_checksum("f");
    for arguments in [&[][..], &["--no-passthrough"]] {
        let mount = place.mount(arguments);
        for _ in 0..3 {
            assert_eq!(errno(fs::read(mount.path().join("f"))), Errno::EIO);
        }
        assert!(mount.stderr().matches(SAID).count() >= 3);
        unmount(mount);
        assert!(whole_files(place.folder()) == 0, "it is not kept");
    }
    // The bytes may be right after all: whoever replaces the object makes it readable.
    place.put("f", &bytes);
    let mount = place.mount(&[]);
    assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
    unmount(mount);
}

/// A cache that holds some blocks as they came, wrong, and an earlier mount that ended before
/// it could know.
fn left_wrong(arguments: &[&str], part: usize) -> (Place, Vec<u8>) {
    let place = Place::new();
    let bytes = pattern(SIZE);
    place.put("f", &bytes);
    let damaged = place.server().faults().add(damaged_get());
    let mount = place.mount(arguments);
    if part == SIZE {
        // Reading it would do, mostly: a disk that cannot keep up keeps less.
        let mut warm = std::process::Command::new(env!("CARGO_BIN_EXE_s3pod"));
        assert!(warm.arg("warm").arg(mount.path().join("f")).status().unwrap().success());
    }
    let mut read = vec![0; part];
    let file = File::open(mount.path().join("f")).unwrap();
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read != bytes[..part], "the fault was not met");
    drop((file, damaged));
    unmount(mount);
    (place, bytes)
}

#[test]
fn blocks_that_an_earlier_mount_left_count_with_the_others() {
    let (place, bytes) = left_wrong(&[], 2 << 20);
    let mount = place.mount(&["--no-passthrough"]);
    assert_eq!(errno(fs::read(mount.path().join("f"))), Errno::EIO);
    assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
    unmount(mount);
}

#[test]
fn a_whole_file_that_an_earlier_mount_left_is_compared_before_the_kernel_has_it() {
    let (place, bytes) = left_wrong(&["--checksums", "when-required"], SIZE);
    assert_eq!(whole_files(place.folder()), 1);
    let mount = place.mount(&["--log-level", "debug"]);
    crate::bench::eventually("it is found out", || {
        drop(File::open(mount.path().join("f")).unwrap());
        mount.stderr().contains(SAID)
    });
    assert!(!mount.stderr().contains("the kernel reads the file by itself"));
    // Who has it open while it goes is told.
    crate::bench::eventually("it is read anew", || match fs::read(mount.path().join("f")) {
        Ok(read) => read == bytes || panic!("the bytes differ"),
        error => {
            assert_eq!(errno(error), Errno::EIO);
            false
        }
    });
    unmount(mount);
}

fn whole_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => whole_files(&path),
            path => usize::from(path.extension().is_some_and(|suffix| suffix == "whole")),
        })
        .sum()
}
