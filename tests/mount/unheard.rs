//! A daemon that is killed when the store has done some of what a commit asks, and nobody heard of
//! it: the next one with the same folder does the rest, and nothing twice.

use std::fs::{self, File};
use std::io::Write;
use std::thread;

use s3pod_testkit::{Hold, Mount, Op, ServerOptions, UploadInfo};

use crate::bench::{close, eventually, pattern, read, write};
use crate::lab::{BUCKET, Lab, PATIENCE};
use crate::raw::Raw;

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const WRITE_BACK: [&str; 4] = ["--write-back", "--write-back-ephemeral", "--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;

/// Closes a file of these bytes on a mount that is killed as soon as a request of it is held. What
/// close answers is nobody's: strictly it is cut off, and with `--write-back` it has promised.
fn killed_in_a_commit(lab: &Lab, name: &str, bytes: &[u8], hold: Hold) {
    let mut file = File::create(lab.path(name)).unwrap();
    file.write_all(bytes).unwrap();
    thread::scope(|scope| {
        let closing = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        eventually("what is not held is answered", || lab.log().under_way() == hold.arrived());
        lab.mount().crash();
        let _ = closing.join().unwrap();
    });
    drop(hold);
    lab.log().clear();
}

/// Ends the next mount, which shows these bytes and leaves them; asserts what it has written. An
/// upload that is over may be given up once more.
fn assert_taken_up(lab: &Lab, next: Mount, name: &str, bytes: &[u8], writes: &[(Op, usize)]) {
    assert!(read(&next.path().join(name)) == bytes, "the file's bytes differ");
    assert!(next.unmount().unwrap().success());
    assert!(lab.object(name) == bytes, "the object's bytes differ");
    assert_eq!(lab.bucket().uploads(), []);
    let writes_nothing =
        |op: Op| matches!(op, Op::Head | Op::Get | Op::List | Op::Other | Op::AbortUpload);
    let mut counts = lab.log().counts();
    counts.retain(|(op, _)| !writes_nothing(*op));
    assert_eq!(counts, writes);
}

#[test]
fn a_put_whose_answer_nobody_heard_is_not_sent_again() {
    for arguments in [&LONG[..], &WRITE_BACK] {
        let lab = Lab::empty(arguments);
        let hold = lab.server().faults().hold_answer(Op::Put, "f");
        killed_in_a_commit(&lab, "f", b"bytes", hold);
        assert_eq!(lab.object("f"), b"bytes", "it is done");
        let next = lab.after_crash(arguments);
        assert_taken_up(&lab, next, "f", b"bytes", &[]);
    }
}

#[test]
fn a_complete_whose_answer_nobody_heard_is_not_sent_again() {
    for arguments in [&LONG[..], &WRITE_BACK] {
        let lab = Lab::empty(arguments);
        let bytes = pattern(20 * MIB);
        let hold = lab.server().faults().hold_answer(Op::CompleteUpload, "f");
        killed_in_a_commit(&lab, "f", &bytes, hold);
        assert!(lab.object("f") == bytes, "it is done");
        let next = lab.after_crash(arguments);
        assert_taken_up(&lab, next, "f", &bytes, &[]);
    }
}

#[test]
fn what_another_writer_put_over_an_unheard_commit_stays() {
    let lab = Lab::empty(&LONG);
    let hold = lab.server().faults().hold_answer(Op::Put, "f");
    killed_in_a_commit(&lab, "f", b"bytes", hold);
    lab.bucket().put("f", "theirs");
    let next = lab.after_crash(&LONG);
    eventually("theirs is shown", || {
        fs::read(next.path().join("f")).is_ok_and(|bytes| bytes == b"theirs")
    });
    next.unmount().unwrap();
    assert_eq!(lab.object("f"), b"theirs");
}

#[test]
fn an_upload_that_had_some_of_its_parts_goes_on_with_the_others() {
    let lab = Lab::empty(&WRITE_BACK);
    let bytes = pattern(20 * MIB);
    // Parts of 8, 8 and 4 MiB.
    let hold = lab.server().faults().hold_after(Op::UploadPart, "f", 2);
    killed_in_a_commit(&lab, "f", &bytes, hold);
    let sent = |info: &UploadInfo| info.parts.iter().map(|part| part.1).collect::<Vec<u64>>();
    let before: Vec<Vec<u64>> = lab.bucket().uploads().iter().map(sent).collect();
    assert_eq!(before, [[8 << 20, 8 << 20]]);
    let next = lab.after_crash(&WRITE_BACK);
    eventually("it is complete", || lab.bucket().contains("f"));
    let writes = [(Op::UploadPart, 1), (Op::CompleteUpload, 1)];
    assert_taken_up(&lab, next, "f", &bytes, &writes);
    let parts = lab.log().requests_of(Op::UploadPart);
    assert!(parts[0].query.contains("partNumber=3&"), "{}", parts[0].query);
    assert_eq!(parts[0].bytes_in, 4 << 20);
}

/// Begins an upload that has one part of 6 MiB; its id.
fn their_upload(raw: &Raw, key: &str) -> String {
    let begun = raw.call("POST", &format!("{}?uploads", raw.target(key)), &[], b"");
    let text = String::from_utf8(begun.body).unwrap();
    let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
    let id = id.unwrap_or_else(|| panic!("{} {text}", begun.status)).0.to_owned();
    let target = format!("{}?partNumber=1&uploadId={id}", raw.target(key));
    assert_eq!(raw.call("PUT", &target, &[], &pattern(6 * MIB)).status, 200);
    id
}

#[test]
fn another_clients_upload_of_our_key_outlives_writes_a_crash_and_the_next_mount() {
    let made = ServerOptions { anonymous: true, ..ServerOptions::default() };
    let lab = Lab::on(made, &WRITE_BACK, |_| {});
    let upload = their_upload(&Raw::new(lab.server().s3_endpoint(BUCKET)), "f");
    let stands = || {
        let all = lab.bucket().uploads();
        all.iter().any(|one| one.id == upload && one.parts == [(1, 6 << 20)])
    };
    write(&lab.path("f"), b"small");
    File::open(lab.path("f")).unwrap().sync_all().unwrap();
    assert!(stands(), "a PUT leaves it");
    let bytes = pattern(20 * MIB);
    let hold = lab.server().faults().hold_after(Op::UploadPart, "f", 2);
    killed_in_a_commit(&lab, "f", &bytes, hold);
    assert_eq!(lab.bucket().uploads().len(), 2, "theirs and ours");
    let next = lab.after_crash(&WRITE_BACK);
    eventually("ours is complete", || lab.bucket().object("f").is_some_and(|f| f.size > 5));
    assert!(next.unmount().unwrap().success());
    assert!(lab.object("f") == bytes, "the object's bytes differ");
    assert!(stands(), "{:?}", lab.bucket().uploads());
    assert_eq!(lab.bucket().uploads().len(), 1);
}
