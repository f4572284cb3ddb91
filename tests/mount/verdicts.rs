//! What callers are told when several wait for one commit, or the store answers oddly.
//!
//! Nobody hears of a success that was another client's, nobody waits for what has lost already, and
//! what failed in passing is whole in the end.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::thread;

use nix::errno::Errno;
use s3pod_testkit::{Fault, Op, synthetic_bytes};

use crate::bench::{assert_waits, close, errno, eventually, pattern, read, write};
use crate::lab::{Lab, PATIENCE};

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Writes the first `size` bytes of an endless file.
fn stream(file: &File, size: u64) {
    for start in (0..size).step_by(4 * MIB as usize) {
        let piece = start..size.min(start + 4 * MIB);
        file.write_all_at(&synthetic_bytes(9, piece), start).unwrap();
    }
}

/// Asserts that the object `f` is the first `size` bytes of that file.
fn assert_streamed(lab: &Lab, size: u64) {
    let bucket = lab.bucket();
    assert_eq!(bucket.object("f").unwrap().size, size);
    for start in (0..size).step_by(16 * MIB as usize) {
        let piece = start..size.min(start + 16 * MIB);
        let is_same = bucket.get_range("f", piece.clone()).unwrap() == synthetic_bytes(9, piece);
        assert!(is_same, "the bytes from {start} on differ");
    }
}

fn open_to_write(lab: &Lab, name: &str) -> File {
    OpenOptions::new().write(true).open(lab.path(name)).unwrap()
}

fn append(lab: &Lab, name: &str, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(lab.path(name)).unwrap();
    file.write_all(bytes).unwrap();
    close(file).unwrap();
}

/// Closes both handles of `f`, the second while the first one's PUT is on its way, and has another
/// client put the object before that arrives; what each close is told.
fn close_both(lab: &Lab, files: [File; 2]) -> [Result<(), Errno>; 2] {
    let [first, second] = files;
    let hold = lab.server().faults().hold(Op::Put, "f");
    thread::scope(|scope| {
        let first = scope.spawn(move || close(first));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        let second = scope.spawn(move || close(second));
        assert_waits(&second);
        lab.bucket().put("f", "theirs");
        hold.release();
        [first, second].map(|closing| closing.join().unwrap())
    })
}

#[test]
fn everybody_who_closes_a_file_hears_that_another_client_won() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    assert_eq!(read(&lab.path("f")), b"0123456789");
    let files = [0, 5].map(|at| {
        let file = open_to_write(&lab, "f");
        file.write_all_at(b"mine", at).unwrap();
        file
    });
    assert_eq!(close_both(&lab, files), [Err(Errno::ESTALE); 2]);
    assert_eq!(lab.object("f"), b"theirs");
}

#[test]
fn everybody_who_closes_a_new_file_hears_that_another_client_made_it() {
    let lab = Lab::empty(&LONG);
    let created = File::create_new(lab.path("f")).unwrap();
    created.write_all_at(b"mine", 0).unwrap();
    let other = open_to_write(&lab, "f");
    other.write_all_at(b"too", 4).unwrap();
    let told = close_both(&lab, [created, other]);
    assert!(told.iter().all(Result::is_err), "{told:?}");
    assert_eq!(lab.object("f"), b"theirs");
}

#[test]
fn a_rename_that_waits_for_a_commit_that_loses_fails_and_holds_nobody_up() {
    let lab = Lab::empty(&["--staging-size", "64MiB", "--metadata-ttl", "10m"]);
    fs::create_dir(lab.path("d")).unwrap();
    let file = File::create_new(lab.path("f")).unwrap();
    // At once, since an empty file would be stored by itself.
    file.write_all_at(b"x", 0).unwrap();
    stream(&file, 200 * MIB);
    lab.bucket().put("f", "theirs");
    let hold = lab.server().faults().hold(Op::CompleteUpload, "f");
    thread::scope(|scope| {
        // An fsync would hold the inode's lock in the kernel, and the rename would not get here.
        let closing = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        let renaming = scope.spawn(|| fs::rename(lab.path("f"), lab.path("g")));
        assert_waits(&renaming);
        hold.release();
        assert!(closing.join().unwrap().is_err());
        eventually("the rename is answered", || renaming.is_finished());
        assert_eq!(errno(renaming.join().unwrap()), Errno::ENOENT);
    });
    // It needs what that rename held.
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    assert_eq!(lab.bucket().keys(), ["e/", "f"]);
    assert_eq!(lab.object("f"), b"theirs");
    // Nobody waits for the abort of what was refused.
    eventually("no upload is left behind", || lab.bucket().uploads().is_empty());
}

#[test]
fn a_rename_moves_what_a_commit_without_an_answer_has_made() {
    let lab = Lab::new(&["--op-timeout", "2s", "--metadata-ttl", "0s"], |_| ());
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    lab.break_all(Op::Put, Fault::LoseResponse);
    assert_eq!(errno(file.sync_all()), Errno::EIO);
    assert!(lab.bucket().contains("f"), "it has arrived");
    lab.server().faults().clear();
    fs::rename(lab.path("f"), lab.path("g")).unwrap();
    close(file).unwrap();
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.keys(), ["g"]);
    assert_eq!(bucket.get("g").unwrap(), "bytes");
}

#[test]
fn uploads_leave_a_request_to_whoever_looks_something_up() {
    let arguments = ["--max-requests", "4", "--op-timeout", "30s", "--metadata-ttl", "0s"];
    let lab = Lab::new(&arguments, |bucket| drop(bucket.put("other", "bytes")));
    let bytes = pattern(96 * MIB as usize);
    let mut file = File::create(lab.path("f")).unwrap();
    let hold = lab.server().faults().hold(Op::UploadPart, "f");
    file.write_all(&bytes).unwrap();
    // Eleven parts are full, and more of them wait than there are requests.
    assert!(hold.wait_for_blocking(3, PATIENCE), "{} parts left", hold.arrived());
    assert_eq!(fs::metadata(lab.path("other")).unwrap().len(), 5);
    assert_eq!(read(&lab.path("other")), b"bytes");
    assert_eq!(hold.arrived(), 3, "of four requests three may be parts");
    hold.release();
    close(file).unwrap();
    assert!(lab.object("f") == bytes, "the bytes differ");
}

#[test]
fn the_class_of_new_objects_is_given_to_no_other() {
    let lab = Lab::new(&["--storage-class", "STANDARD_IA"], |bucket| {
        bucket.put("small", "bytes");
        bucket.put("large", pattern(12 * MIB as usize));
    });
    let class = |name: &str| lab.bucket().object(name).unwrap().attributes.storage_class;
    let assert_none = |name: &str, after: &str| {
        let class = class(name);
        let is_none = matches!(class.as_deref(), None | Some("STANDARD"));
        assert!(is_none, "{name} is {class:?} after {after}");
    };
    for name in ["small", "large"] {
        append(&lab, name, b" and more");
        assert_none(name, "an append");
        fs::set_permissions(lab.path(name), Permissions::from_mode(0o600)).unwrap();
        File::open(lab.path(name)).unwrap().sync_all().unwrap();
        assert_eq!(lab.bucket().object(name).unwrap().metadata("mode"), Some("0100600"));
        assert_none(name, "a chmod");
        let moved = format!("{name}-moved");
        fs::rename(lab.path(name), lab.path(&moved)).unwrap();
        assert_none(&moved, "a rename");
        write(&lab.path(&moved), b"all new");
        assert_none(&moved, "an overwrite");
    }
    for (name, size) in [("new", 5), ("new-large", 20 * MIB as usize)] {
        write(&lab.path(name), &pattern(size));
        assert_eq!(class(name).as_deref(), Some("STANDARD_IA"), "{name}");
        append(&lab, name, b" and more");
        assert_eq!(class(name).as_deref(), Some("STANDARD_IA"), "{name} after an append");
    }
}

#[test]
fn a_part_that_is_refused_for_now_goes_with_the_next_commit() {
    let lab = Lab::empty(&["--staging-size", "64MiB"]);
    let file = File::create(lab.path("f")).unwrap();
    stream(&file, 200 * MIB);
    lab.break_all(Op::UploadPart, Fault::status(400, "XMinioAdminBucketQuotaExceeded"));
    assert!(file.sync_all().is_err());
    lab.server().faults().clear();
    close(file).unwrap();
    assert_streamed(&lab, 200 * MIB);
    let log = lab.count();
    let uploads = [Op::CreateUpload, Op::CompleteUpload].map(|op| log.count(op));
    assert_eq!(uploads, [1, 1], "{:?}", log.counts());
}

#[test]
fn an_upload_that_a_rule_of_the_bucket_has_ended_is_begun_anew() {
    let lab = Lab::empty(&[]);
    let bytes = pattern(20 * MIB as usize);
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(&bytes).unwrap();
    eventually("its upload is begun", || lab.bucket().uploads().len() == 1);
    for upload in lab.bucket().uploads() {
        lab.bucket().forget_upload(&upload.id);
    }
    close(file).unwrap();
    assert!(lab.object("f") == bytes, "the bytes differ");
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!(log.count(Op::CreateUpload), 2, "{:?}", log.counts());
    assert_eq!(bucket.uploads(), []);
}

#[test]
fn an_upload_that_is_gone_when_it_is_completed_is_begun_anew() {
    let lab = Lab::empty(&[]);
    lab.server().faults().add(Fault::status(404, "NoSuchUpload").on(Op::CompleteUpload));
    let bytes = pattern(20 * MIB as usize);
    write(&lab.path("f"), &bytes);
    assert!(lab.object("f") == bytes, "the bytes differ");
    let bucket = lab.bucket();
    let log = lab.count();
    let uploads = [Op::CreateUpload, Op::CompleteUpload].map(|op| log.count(op));
    assert_eq!(uploads, [2, 2], "{:?}", log.counts());
    assert_eq!(bucket.uploads(), []);
}

#[test]
fn no_range_is_copied_of_an_object_of_5_mib() {
    let (base, more) = (pattern(5 * MIB as usize), vec![7_u8; 20 * MIB as usize]);
    let lab = Lab::new(&LONG, |bucket| {
        for key in ["a-little", "much", "edited"] {
            bucket.put(key, base.clone());
        }
    });
    for (name, len) in [("a-little", KIB as usize), ("much", more.len())] {
        append(&lab, name, &more[..len]);
        let whole = [&base[..], &more[..len]].concat();
        assert!(lab.object(name) == whole, "the bytes of {name} differ");
    }
    let file = open_to_write(&lab, "edited");
    file.write_all_at(b"mine", MIB).unwrap();
    close(file).unwrap();
    let (before, after) = (&base[..MIB as usize], &base[MIB as usize + 4..]);
    let whole = [before, b"mine", after].concat();
    assert!(lab.object("edited") == whole, "the bytes of the edited one differ");
    let log = lab.count();
    assert_eq!(log.count(Op::CopyPart), 0, "{:?}", log.counts());
}

#[test]
fn a_put_larger_than_the_memory_takes_little_of_it() {
    let lab = Lab::empty(&["--memory-limit", "64MiB", "--part-size", "256MiB"]);
    let file = File::create(lab.path("f")).unwrap();
    stream(&file, 200 * MIB);
    close(file).unwrap();
    let peak = lab.mount().rss_bytes().unwrap().peak;
    assert!(peak < (64 + 64) * MIB, "{} MiB", peak / MIB);
    assert_streamed(&lab, 200 * MIB);
    let log = lab.count();
    assert_eq!((log.count(Op::CreateUpload), log.bytes_in()), (0, 200 * MIB), "{:?}", log.counts());
}
