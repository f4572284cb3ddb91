//! copy_file_range(2): by the store where it can, through the daemon where it cannot.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::unistd::{Whence, lseek};
use s3pod_testkit::{Attributes, Bucket, Fault, Op, synthetic_bytes};

use crate::bench::{Bench, close, eventually, pattern, read, shell};
use crate::lab::{Lab, PATIENCE};

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;
/// Long enough that no test outlives it.
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];

/// Copies all of `len` bytes.
fn copy(from: &File, from_offset: u64, to: &File, to_offset: u64, len: u64) {
    let (mut source, mut target) = (from_offset as i64, to_offset as i64);
    while (source as u64) < from_offset + len {
        let left = (from_offset + len - source as u64) as usize;
        let done = copy_file_range(from, Some(&mut source), to, Some(&mut target), left).unwrap();
        assert!(done > 0, "it ends early, at {source}");
    }
}

fn open(bench: &Bench, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(bench.path(name)).unwrap()
}

pub(crate) fn a_file_is_copied_whole(bench: &Bench) {
    for size in [0, 1, 100_000, 12 * MIB + 5] {
        let [f, g, h] = ["f", "g", "h"].map(|name| format!("{name}{size}"));
        bench.put(&f, &pattern(size));
        // An empty file may leave a moment after its close.
        shell(&bench.path(""), &format!("cp {f} {g}; sync {g}"));
        assert!(bench.object(&g).unwrap() == pattern(size), "{size}: the object's bytes differ");
        assert!(read(&bench.path(&g)) == pattern(size), "{size}: the file's bytes differ");
        shell(
            &bench.path(""),
            &format!("cp --reflink=auto {g} {h}; cmp {f} {h}; cp {f} {h}; sync {h}"),
        );
        assert!(bench.object(&h).unwrap() == pattern(size), "{size}: over another");
    }
}

pub(crate) fn ranges_are_copied_between_files(bench: &Bench) {
    let (one, two) = (pattern(20 * MIB), vec![7; 9 * MIB]);
    bench.put("one", &one);
    bench.put("two", &two);
    let file = open(bench, "two");
    let source = File::open(bench.path("one")).unwrap();
    // A large range to the middle, a small one behind the end, and bytes over both.
    copy(&source, MIB as u64 + 3, &file, 2 * MIB as u64, 6 * MIB as u64);
    copy(&source, 10, &file, 9 * MIB as u64 + 100, 1000);
    file.write_all_at(b"between", 3 * MIB as u64).unwrap();
    let mut want = two;
    want.resize(9 * MIB + 1100, 0);
    want[2 * MIB..8 * MIB].copy_from_slice(&one[MIB + 3..7 * MIB + 3]);
    want[9 * MIB + 100..].copy_from_slice(&one[10..1010]);
    want[3 * MIB..3 * MIB + 7].copy_from_slice(b"between");
    assert!(read(&bench.path("two")) == want, "before the commit");
    close(file).unwrap();
    assert!(bench.object("two").unwrap() == want, "the object's bytes differ");
    assert!(read(&bench.path("two")) == want, "after the commit");
    assert!(bench.object("one").unwrap() == one, "the source has changed");
}

pub(crate) fn a_range_is_copied_within_a_file(bench: &Bench) {
    let mut want = pattern(16 * MIB);
    bench.put("f", &want);
    let file = open(bench, "f");
    copy(&file, 0, &file, 8 * MIB as u64, 7 * MIB as u64);
    want.copy_within(0..7 * MIB, 8 * MIB);
    // Over what was copied, and of it again.
    file.write_all_at(b"new", 100).unwrap();
    want[100..103].copy_from_slice(b"new");
    copy(&file, 9 * MIB as u64, &file, 20 * MIB as u64, 6 * MIB as u64);
    want.resize(20 * MIB, 0);
    want.extend_from_within(9 * MIB..15 * MIB);
    assert!(read(&bench.path("f")) == want, "before the commit");
    close(file).unwrap();
    assert!(bench.object("f").unwrap() == want, "the object's bytes differ");
    let file = open(bench, "f");
    let (mut source, mut target) = (0, 10);
    let refused = copy_file_range(&file, Some(&mut source), &file, Some(&mut target), 100);
    assert_eq!(refused, Err(Errno::EINVAL), "they overlap");
    let (reader, mut source) = (File::open(bench.path("f")).unwrap(), 0);
    let refused = copy_file_range(&file, Some(&mut source), &reader, None, 100);
    assert_eq!(refused, Err(Errno::EBADF), "it is not open for writing");
}

pub(crate) fn what_is_not_in_s3_is_copied_too(bench: &Bench) {
    for size in [1000, 11 * MIB] {
        let bytes = pattern(size);
        let mut dirty = File::create(bench.path("dirty")).unwrap();
        dirty.write_all(&bytes).unwrap();
        let source = File::open(bench.path("dirty")).unwrap();
        let target = File::create(bench.path("target")).unwrap();
        copy(&source, 0, &target, 0, size as u64);
        // Another change of the source is not the copy's.
        dirty.write_all(b"more").unwrap();
        dirty.write_all_at(b"changed", 10).unwrap();
        close(target).unwrap();
        close(dirty).unwrap();
        assert!(bench.object("target").unwrap() == bytes, "{size}: the bytes differ");
        // And a source without a name.
        let target = File::create(bench.path("target")).unwrap();
        fs::remove_file(bench.path("dirty")).unwrap();
        copy(&source, 0, &target, 0, size as u64 + 4);
        close(target).unwrap();
        let want = bench.object("target").unwrap();
        assert!(want.len() == size + 4 && want[10..17] == *b"changed", "{size}");
    }
}

pub(crate) fn a_copy_outlives_its_source(bench: &Bench) {
    let bytes = pattern(7 * MIB);
    let changes = [
        "rm source",
        "mv source away",
        "echo other > other; mv other source",
        "echo new > source",
        "chmod 600 source; sync source",
        "mv ../d0 ../moved",
    ];
    for (number, change) in changes.into_iter().enumerate().rev() {
        let folder = bench.path(&format!("d{number}"));
        bench.put(&format!("d{number}/source"), &bytes);
        let source = File::open(folder.join("source")).unwrap();
        let copied = bench.path(&format!("copy{number}"));
        let target = File::create(&copied).unwrap();
        copy(&source, 0, &target, 0, bytes.len() as u64);
        close(source).unwrap();
        shell(&folder, &change.replace("d0", &format!("d{number}")));
        assert!(read(&copied) == bytes, "{change}: the file's bytes differ");
        close(target).unwrap();
        let object = bench.object(&format!("copy{number}")).unwrap();
        assert!(object == bytes, "{change}: the object's bytes differ");
    }
}

pub(crate) fn seeks_find_copied_bytes_as_data(bench: &Bench) {
    bench.put("f", &pattern(6 * MIB));
    bench.put("g", &pattern(MIB));
    let (source, file) = (File::open(bench.path("f")).unwrap(), open(bench, "g"));
    let (six, seven, fourteen) = (6 * MIB as u64, 7 * MIB as i64, 14 * MIB as i64);
    copy(&source, 0, &file, 8 * MIB as u64, six);
    file.set_len(15 * MIB as u64).unwrap();
    let seek = |from, whence| lseek(&file, from, whence);
    assert_eq!(seek(0, Whence::SeekData), Ok(0));
    assert_eq!(seek(0, Whence::SeekHole), Ok(MIB as i64));
    assert_eq!(seek(MIB as i64, Whence::SeekData), Ok(seven + MIB as i64));
    assert_eq!(seek(9 * MIB as i64, Whence::SeekData), Ok(9 * MIB as i64));
    assert_eq!(seek(9 * MIB as i64, Whence::SeekHole), Ok(fourteen));
    assert_eq!(seek(fourteen, Whence::SeekData), Err(Errno::ENXIO));
}

#[test]
fn cp_moves_no_bytes_and_is_one_copy() {
    for size in [3000, 300 * MIB as u64] {
        let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("f", size, 3)));
        fs::create_dir(lab.path("d")).unwrap();
        fs::metadata(lab.path("f")).unwrap();
        lab.log().clear();
        shell(&lab.path(""), "cp f d/g");
        let bucket = lab.bucket();
        let (log, copied) = (lab.log().clone(), bucket.object("d/g").unwrap());
        assert_eq!(copied.size, size);
        let (bytes_in, bytes_out) = (log.bytes_in(), log.bytes_out());
        lab.asserts_requests(&[(Op::Copy, 1)]);
        assert_eq!(bytes_in, 0);
        assert!(bytes_out < 10_000, "{bytes_out} bytes down");
    }
}

#[test]
fn cp_of_more_than_5_gib_is_copied_in_parts() {
    let size = 6 * GIB + 5;
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("f", size, 4)));
    let hold = lab.server().faults().hold(Op::CopyPart, "g");
    let root = lab.path("");
    let copying = thread::spawn(move || shell(&root, "cp f g"));
    assert!(hold.wait_for_blocking(2, PATIENCE), "parts are copied beside each other");
    hold.release();
    copying.join().unwrap();
    let bucket = lab.bucket();
    assert_eq!(bucket.object("g").unwrap().size, size);
    for at in [0, 2 * GIB - 10, 4 * GIB - 10, size - 100] {
        let range = at..at + 100;
        assert_eq!(bucket.get_range("g", range.clone()).unwrap(), synthetic_bytes(4, range));
    }
    let log = lab.count();
    assert_eq!((log.count(Op::CopyPart), log.count(Op::UploadPart)), (25, 0));
    assert!(log.bytes_in() < 10_000, "{:?}", log.counts());
    assert_eq!(log.count(Op::Get), 0, "{:?}", log.counts());
}

#[test]
fn objects_are_put_end_to_end_by_the_store() {
    let fill = |bucket: &Bucket| {
        bucket.put_synthetic("one", GIB, 1);
        bucket.put_synthetic("two", 100 * MIB as u64, 2);
    };
    let lab = Lab::new(&LONG, fill);
    let all = File::create(lab.path("all")).unwrap();
    all.write_all_at(&pattern(1000), 0).unwrap();
    copy(&File::open(lab.path("one")).unwrap(), 0, &all, 1000, GIB);
    copy(&File::open(lab.path("two")).unwrap(), 50, &all, 1000 + GIB, 90 * MIB as u64);
    close(all).unwrap();
    let bucket = lab.bucket();
    let size = 1000 + GIB + 90 * MIB as u64;
    assert_eq!(bucket.object("all").unwrap().size, size);
    assert_eq!(bucket.get_range("all", 0..1000).unwrap(), pattern(1000));
    for (at, seed, from) in [(1000, 1, 0), (900 * MIB as u64, 1, 900 * MIB as u64 - 1000)] {
        let want = synthetic_bytes(seed, from..from + 100);
        assert_eq!(bucket.get_range("all", at..at + 100).unwrap(), want, "at {at}");
    }
    let end = 90 * MIB as u64 + 50;
    let tail = bucket.get_range("all", size - 100..size).unwrap();
    assert_eq!(tail, synthetic_bytes(2, end - 100..end));
    let log = lab.count();
    // The first thousand bytes fill up to a part of 5 MiB.
    assert!(log.bytes_in() <= 6 * MIB as u64, "{} bytes up", log.bytes_in());
    assert!(log.bytes_out() <= 6 * MIB as u64, "{} bytes down", log.bytes_out());
}

#[test]
fn a_copy_is_finished_after_a_crash() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("f", GIB, 5)));
    let source = File::open(lab.path("f")).unwrap();
    let target = File::create(lab.path("g")).unwrap();
    target.write_all_at(b"before", 0).unwrap();
    copy(&source, 0, &target, 6, GIB);
    lab.break_all(Op::CopyPart, Fault::status(403, "AccessDenied"));
    assert_eq!(close(target), Err(Errno::EACCES));
    lab.mount().crash();
    drop(source);
    lab.server().faults().clear();
    let again = lab.after_crash(&LONG);
    eventually("the copy is made", || lab.bucket().contains("g"));
    assert_eq!(lab.bucket().object("g").unwrap().size, GIB + 6);
    let want = synthetic_bytes(5, GIB - 100..GIB);
    assert_eq!(lab.bucket().get_range("g", GIB - 94..GIB + 6).unwrap(), want);
    assert!(again.unmount().unwrap().success());
}

#[test]
fn a_store_that_copies_no_parts_gets_the_bytes() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("f", 20 * MIB as u64, 6)));
    for op in [Op::CopyPart, Op::Copy] {
        lab.break_all(op, Fault::status(501, "NotImplemented"));
    }
    shell(&lab.path(""), "cp f g; echo more >> f");
    let bucket = lab.bucket();
    let bytes = synthetic_bytes(6, 0..20 * MIB as u64);
    assert!(bucket.get("g").unwrap() == bytes, "the copy differs");
    assert!(bucket.get("f").unwrap() == [&bytes[..], b"more\n"].concat(), "the edit differs");
}

#[test]
fn a_copys_attributes_are_its_own() {
    let lab = Lab::new(&LONG, |bucket| {
        let mut attributes = Attributes::with_metadata([("mode", "0100640"), ("colour", "red")]);
        attributes.content_type = Some("text/odd".into());
        bucket.put_with("f.txt", "hello", attributes);
    });
    shell(&lab.path(""), "umask 022; cp f.txt g.txt; cp -p f.txt h.txt; chmod 600 g.txt");
    shell(&lab.path(""), "cp f.txt g.txt");
    assert_eq!(fs::metadata(lab.path("g.txt")).unwrap().permissions().mode() & 0o777, 0o600);
    let bucket = lab.bucket();
    lab.count();
    let [g, h] = ["g.txt", "h.txt"].map(|key| bucket.object(key).unwrap());
    assert_eq!((g.metadata("mode"), g.metadata("colour")), (Some("0100600"), None));
    assert_eq!(h.metadata("mode"), Some("0100640"));
    assert_eq!(bucket.get("g.txt").unwrap(), "hello");
}

#[test]
fn a_source_that_another_writer_changed_fails_the_close() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", pattern(8 * MIB))));
    let source = File::open(lab.path("f")).unwrap();
    let target = File::create(lab.path("g")).unwrap();
    copy(&source, 0, &target, 0, 8 * MIB as u64);
    lab.bucket().put("f", "another");
    assert_eq!(close(target), Err(Errno::ESTALE));
    assert!(!lab.bucket().contains("g"));
}
