//! Renames that fail, or that something meets on the way: no byte of anybody is lost by them.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::thread;

use nix::errno::Errno;
use s3pod_testkit::{Fault, Op, synthetic_bytes};

use crate::bench::{assert_waits, close, errno, pattern, read, write};
use crate::lab::{Lab, PATIENCE};

const BRIEF: [&str; 2] = ["--op-timeout", "2s"];
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

fn denied() -> Fault {
    Fault::status(403, "AccessDenied")
}

#[test]
fn a_delete_that_is_done_and_never_answered_ends_the_rename() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("old", "bytes")));
    lab.break_all(Op::Delete, Fault::LoseResponse);
    fs::rename(lab.path("old"), lab.path("new")).unwrap();
    lab.server().faults().clear();
    assert_eq!(lab.bucket().keys(), ["new"]);
    assert_eq!(read(&lab.path("new")), b"bytes");
}

#[test]
fn a_delete_that_is_refused_takes_the_copy_back() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("old", "bytes")));
    lab.server().faults().add(denied().on(Op::Delete).key("old").always());
    assert_eq!(errno(fs::rename(lab.path("old"), lab.path("new"))), Errno::EACCES);
    assert_eq!(lab.bucket().keys(), ["old"], "the copy was taken back");
    assert_eq!(read(&lab.path("old")), b"bytes");
    lab.server().faults().clear();
    fs::rename(lab.path("old"), lab.path("new")).unwrap();
    assert_eq!(lab.bucket().keys(), ["new"]);
    assert_eq!(read(&lab.path("new")), b"bytes");
}

#[test]
fn a_delete_that_may_be_done_yet_leaves_the_copy() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("old", "bytes")));
    lab.break_all(Op::Delete, Fault::InternalError);
    assert_eq!(errno(fs::rename(lab.path("old"), lab.path("new"))), Errno::EIO);
    lab.server().faults().clear();
    // The store carries it out after all.
    lab.bucket().delete("old");
    assert_eq!(lab.object("new"), b"bytes");
}

#[test]
fn a_file_that_is_made_while_its_directory_moves_is_sent_to_where_it_stands_then() {
    let staging = ["--staging-size", "16MiB", "--metadata-ttl", "10m"];
    let lab = Lab::new(&staging, |bucket| drop(bucket.put("d/f", "bytes")));
    let bytes = pattern(48 * MIB);
    let hold = lab.server().faults().hold(Op::Copy, "f");
    thread::scope(|scope| {
        let renaming = scope.spawn(|| fs::rename(lab.path("d"), lab.path("e")));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        let mut file = File::create(lab.path("d/new")).unwrap();
        file.write_all(&bytes[..12 * MIB]).unwrap();
        // No more than this fits, and nothing of it leaves before the directory has moved.
        let rest = &bytes[12 * MIB..];
        let writing = scope.spawn(move || {
            file.write_all(rest).unwrap();
            close(file)
        });
        assert_waits(&writing);
        assert!(!renaming.is_finished());
        let sent = lab.log().count(Op::CreateUpload) + lab.log().count(Op::Put);
        assert_eq!(sent, 0, "under which key?");
        hold.release();
        renaming.join().unwrap().unwrap();
        writing.join().unwrap().unwrap();
    });
    assert!(lab.object("e/new") == bytes, "the bytes differ");
    assert!(lab.bucket().uploads().is_empty());
}

#[test]
fn who_has_a_file_open_reads_on_while_its_directory_moves() {
    let size = 4 * MIB as u64;
    let lab = Lab::new(&[], |bucket| {
        for number in 0..3 {
            bucket.put_synthetic(&format!("d/{number}"), size, number);
        }
    });
    let files: Vec<File> =
        (0..3).map(|number| File::open(lab.path(&format!("d/{number}"))).unwrap()).collect();
    let hold = lab.server().faults().hold_answer(Op::DeleteMany, "");
    thread::scope(|scope| {
        let renaming = scope.spawn(|| fs::rename(lab.path("d"), lab.path("e")));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        assert!(!lab.bucket().contains("d/0"), "the deletes are done and not answered");
        for (number, file) in (0..).zip(&files) {
            let mut bytes = vec![0; MIB];
            file.read_exact_at(&mut bytes, 3 * MIB as u64).unwrap();
            assert!(bytes == synthetic_bytes(number, 3 * MIB as u64..size), "{number}");
        }
        hold.release();
        renaming.join().unwrap().unwrap();
    });
}

#[test]
fn an_empty_directory_stands_where_none_could_take_its_place() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("d/", "");
        bucket.put("d/f", "bytes");
    });
    fs::create_dir(lab.path("e")).unwrap();
    fs::set_permissions(lab.path("e"), Permissions::from_mode(0o750)).unwrap();
    let refused = lab.server().faults().add(denied().on(Op::Copy).key("f").always());
    assert_eq!(errno(fs::rename(lab.path("d"), lab.path("e"))), Errno::EACCES);
    refused.remove();
    assert_eq!(read(&lab.path("d/f")), b"bytes");
    let other = lab.another(&[]);
    let found = fs::metadata(other.path().join("e")).unwrap();
    assert!(found.is_dir());
    assert_eq!(found.mode() & 0o7777, 0o750);
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    assert_eq!(read(&lab.path("e/f")), b"bytes");
    assert_eq!(lab.bucket().keys(), ["e/", "e/f"]);
}

#[test]
fn what_a_failed_rename_would_have_hidden_is_hidden_by_nobody() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("d/x", "x");
        bucket.put("e/f", "unlinked while open");
    });
    let gone = File::open(lab.path("e/f")).unwrap();
    fs::remove_file(lab.path("e/f")).unwrap();
    fs::remove_dir(lab.path("e")).unwrap();
    let mut unsent = File::create(lab.path("d/f")).unwrap();
    unsent.write_all(b"not sent yet").unwrap();
    let refused = lab.server().faults().add(denied().on(Op::Copy).key("x").always());
    assert_eq!(errno(fs::rename(lab.path("d"), lab.path("e"))), Errno::EACCES);
    refused.remove();
    fs::create_dir(lab.path("e")).unwrap();
    write(&lab.path("e/f"), b"acknowledged");
    fs::remove_file(lab.path("d/f")).unwrap();
    drop((unsent, gone));
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.get("e/f").unwrap(), "acknowledged");
}

#[test]
fn what_another_client_puts_in_the_way_of_a_failed_rename_stays() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("d/x", "ours");
        bucket.put("d/y", "ours");
    });
    assert!(!lab.path("e").exists());
    lab.bucket().put("e/x", "theirs");
    lab.server().faults().add(denied().on(Op::Copy).key("x").always());
    assert_eq!(errno(fs::rename(lab.path("d"), lab.path("e"))), Errno::EACCES);
    let bucket = lab.bucket();
    lab.count();
    let files: Vec<String> = bucket.keys().into_iter().filter(|key| !key.ends_with('/')).collect();
    assert_eq!(files, ["d/x", "d/y", "e/x"]);
    assert_eq!(bucket.get("e/x").unwrap(), "theirs");
}

#[test]
fn a_file_above_5_gib_moves_by_parts_that_are_copied_beside_each_other() {
    let size = 6 * GIB + 5;
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("old", size, 4)));
    let hold = lab.server().faults().hold(Op::CopyPart, "new");
    thread::scope(|scope| {
        let renaming = scope.spawn(|| fs::rename(lab.path("old"), lab.path("new")));
        assert!(hold.wait_for_blocking(2, PATIENCE), "{} at once", hold.arrived());
        assert!(lab.bucket().contains("old") && !lab.bucket().contains("new"));
        hold.release();
        renaming.join().unwrap().unwrap();
    });
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!((bucket.keys(), bucket.uploads()), (vec!["new".to_owned()], Vec::new()));
    let object = bucket.object("new").unwrap();
    assert_eq!(object.size, size);
    assert_eq!(log.count(Op::CopyPart), object.parts.len());
    assert_eq!((log.count(Op::CompleteUpload), log.count(Op::Delete)), (1, 1));
    // On both sides of every border between two parts, and at the end.
    let borders = object.parts.iter().scan(0, |end, part| {
        *end += part;
        Some(*end)
    });
    for border in borders {
        let range = border - 100..size.min(border + 100);
        let moved = bucket.get_range("new", range.clone()).unwrap();
        assert_eq!(moved, synthetic_bytes(4, range), "around {border}");
    }
    assert!(log.bytes_in() + log.bytes_out() < 100_000, "{:?}", log.counts());
}

#[test]
fn a_directory_whose_objects_may_not_be_deleted_has_not_moved() {
    let lab = Lab::new(&["--metadata-ttl", "0s"], |bucket| {
        bucket.put("d/one", "1");
        bucket.put("d/two", "2");
    });
    for op in [Op::Delete, Op::DeleteMany] {
        lab.server().faults().add(denied().on(op).key("d/").always());
    }
    assert_eq!(errno(fs::rename(lab.path("d"), lab.path("e"))), Errno::EACCES);
    lab.server().faults().clear();
    let files = || -> Vec<String> {
        let keys = lab.bucket().keys().into_iter();
        keys.filter(|key| !key.ends_with('/')).collect()
    };
    assert_eq!(files(), ["d/one", "d/two"]);
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    assert_eq!(files(), ["e/one", "e/two"]);
}
