//! Edits of what somebody else changes meanwhile: the later commit is refused, at every way a
//! commit is made.
//!
//! The edited bytes are cached before, so that it is the commit's own condition that refuses.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;

use nix::errno::Errno;
use s3pod_testkit::Op;

use crate::bench::{close, eventually, pattern, read};
use crate::lab::{Lab, PATIENCE};

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;

/// A file that this mount has read whole and then edited, without a commit.
fn edited(lab: &Lab, at: u64) -> File {
    read(&lab.path("f"));
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"mine", at).unwrap();
    file
}

#[test]
fn a_small_edit_is_refused_by_its_put() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    let file = edited(&lab, 3);
    lab.bucket().put("f", "theirs");
    assert_eq!(close(file), Err(Errno::ESTALE));
    assert_eq!(lab.object("f"), b"theirs");
    assert_eq!(lab.log().count(Op::Put), 1, "{:?}", lab.log().counts());
}

#[test]
fn a_change_while_the_put_is_on_its_way_is_seen() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    let file = edited(&lab, 3);
    let hold = lab.server().faults().hold(Op::Put, "f");
    let closer = thread::spawn(move || close(file));
    assert!(hold.wait_for_blocking(1, PATIENCE));
    lab.bucket().put("f", "theirs");
    hold.release();
    assert_eq!(closer.join().unwrap(), Err(Errno::ESTALE));
    assert_eq!(lab.object("f"), b"theirs");
}

#[test]
fn a_large_edit_is_refused_by_the_copy_of_its_unchanged_parts() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", pattern(20 * MIB))));
    let file = edited(&lab, 1);
    lab.bucket().put("f", vec![b't'; 20 * MIB]);
    assert_eq!(close(file), Err(Errno::ESTALE));
    assert!(lab.object("f") == vec![b't'; 20 * MIB], "neither's bytes are mixed");
    // Nobody waits for the abort of what was refused.
    eventually("no upload is left behind", || lab.bucket().uploads().is_empty());
}

#[test]
fn a_change_before_the_last_request_of_a_large_edit_is_seen() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", pattern(20 * MIB))));
    let file = edited(&lab, 1);
    let hold = lab.server().faults().hold(Op::CompleteUpload, "f");
    let closer = thread::spawn(move || close(file));
    assert!(hold.wait_for_blocking(1, PATIENCE));
    lab.bucket().put("f", "theirs");
    hold.release();
    assert_eq!(closer.join().unwrap(), Err(Errno::ESTALE));
    assert_eq!(lab.object("f"), b"theirs");
    // Nobody waits for the abort of what was refused.
    eventually("no upload is left behind", || lab.bucket().uploads().is_empty());
}

#[test]
fn an_edit_of_what_was_deleted_does_not_bring_it_back() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    let file = edited(&lab, 3);
    lab.bucket().delete("f");
    assert_eq!(close(file), Err(Errno::ESTALE));
    assert!(!lab.bucket().contains("f"));
}

#[test]
fn a_large_edit_of_what_was_deleted_meanwhile_does_not_bring_it_back() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", pattern(20 * MIB))));
    let file = edited(&lab, 1);
    let hold = lab.server().faults().hold(Op::CompleteUpload, "f");
    let closer = thread::spawn(move || close(file));
    assert!(hold.wait_for_blocking(1, PATIENCE));
    lab.bucket().delete("f");
    hold.release();
    assert_eq!(closer.join().unwrap(), Err(Errno::ESTALE));
    assert!(!lab.bucket().contains("f"));
}

#[test]
fn attributes_of_what_was_replaced_are_not_sent() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    read(&lab.path("f"));
    let file = File::open(lab.path("f")).unwrap();
    lab.bucket().put("f", "theirs");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    file.set_permissions(mode).unwrap();
    assert!(file.sync_all().is_err());
    assert_eq!(lab.object("f"), b"theirs");
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), None);
}

#[test]
fn a_rename_of_what_was_replaced_moves_neither() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    read(&lab.path("f"));
    lab.bucket().put("f", "theirs");
    // The copy is pinned to what this mount knows; what it does not know it does not move.
    let moved = std::fs::rename(lab.path("f"), lab.path("g"));
    assert_eq!(moved.unwrap_err().raw_os_error(), Some(Errno::ESTALE as i32));
    assert_eq!(lab.object("f"), b"theirs");
    assert!(!lab.bucket().contains("g"));
}
