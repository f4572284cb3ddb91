//! What close and fsync answer when the store does not do as it is told.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use s3pod_testkit::{Fault, Op};

use crate::bench::{close, errno, names, pattern, read, write};
use crate::lab::Lab;

const BRIEF: [&str; 2] = ["--op-timeout", "2s"];
const MIB: usize = 1 << 20;

#[test]
fn a_refused_commit_is_eacces_and_can_be_tried_again() {
    let lab = Lab::empty(&BRIEF);
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(b"bytes").unwrap();
    lab.break_all(Op::Put, Fault::status(403, "AccessDenied"));
    assert_eq!(errno(file.sync_all()), Errno::EACCES);
    let twin = file.try_clone().unwrap();
    assert_eq!(close(twin), Err(Errno::EACCES));
    assert_eq!(read(&lab.path("f")), b"bytes", "the bytes stay staged");
    lab.server().faults().clear();
    file.sync_all().unwrap();
    assert_eq!(lab.object("f"), b"bytes");
    close(file).unwrap();
}

#[test]
fn a_store_that_is_down_is_eio_and_the_bytes_arrive_later() {
    let lab = Lab::empty(&BRIEF);
    let bytes = pattern(20 * MIB);
    for (name, bytes) in [("small", &bytes[..100]), ("large", &bytes)] {
        let mut file = File::create(lab.path(name)).unwrap();
        for op in [Op::Put, Op::CreateUpload, Op::UploadPart, Op::CompleteUpload] {
            lab.break_all(op, Fault::InternalError);
        }
        file.write_all(bytes).unwrap();
        assert_eq!(errno(file.sync_all()), Errno::EIO, "{name}");
        let twin = file.try_clone().unwrap();
        assert_eq!(close(twin), Err(Errno::EIO), "{name}");
        lab.server().faults().clear();
        close(file).unwrap();
        assert!(lab.object(name) == bytes, "{name} differs");
    }
}

#[test]
fn what_no_close_could_send_is_sent_later() {
    let lab = Lab::empty(&BRIEF);
    let bucket = lab.bucket();
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(b"bytes").unwrap();
    lab.break_all(Op::Put, Fault::status(403, "AccessDenied"));
    assert_eq!(close(file), Err(Errno::EACCES));
    assert_eq!(names(&lab.path("")), ["f"]);
    assert_eq!(read(&lab.path("f")), b"bytes");
    lab.server().faults().clear();
    lab.count();
    assert_eq!(bucket.get("f").unwrap(), "bytes", "at the latest by the unmount");
}

#[test]
fn faults_in_passing_are_not_seen() {
    let lab = Lab::empty(&[]);
    let bytes = pattern(20 * MIB);
    let faults = lab.server().faults();
    faults.add(Fault::SlowDown.on(Op::Put));
    write(&lab.path("small"), b"bytes");
    faults.add(Fault::InternalError.on(Op::CreateUpload));
    faults.add(Fault::SlowDown.on(Op::UploadPart).times(2));
    faults.add(Fault::ErrorIn200.on(Op::CompleteUpload));
    write(&lab.path("large"), &bytes);
    assert_eq!(lab.object("small"), b"bytes");
    assert!(lab.object("large") == bytes, "the bytes differ");
}

#[test]
fn a_lost_answer_is_settled_by_the_commit_id() {
    let lab = Lab::new(&[], |bucket| {
        // Each commit that is carried out is a version of its own.
        bucket.enable_versioning();
        bucket.put("edited", "0123456789");
    });
    let faults = lab.server().faults();
    let versions = |key: &str| lab.bucket().versions(key).len();
    // Conditional: the second attempt is refused because the first one was done.
    faults.add(Fault::LoseResponse.on(Op::Put).key("new"));
    let mut new = File::create_new(lab.path("new")).unwrap();
    new.write_all(b"bytes").unwrap();
    close(new).unwrap();
    assert_eq!(lab.object("new"), b"bytes");
    faults.add(Fault::LoseResponse.on(Op::Put).key("edited"));
    let file = OpenOptions::new().write(true).open(lab.path("edited")).unwrap();
    file.write_all_at(b"ab", 4).unwrap();
    close(file).unwrap();
    assert_eq!(lab.object("edited"), b"0123ab6789");
    let bytes = pattern(20 * MIB);
    faults.add(Fault::LoseResponse.on(Op::CompleteUpload));
    write(&lab.path("large"), &bytes);
    assert!(lab.object("large") == bytes, "the bytes differ");
    assert!(lab.bucket().uploads().is_empty(), "no upload is left behind");
    assert_eq!(["new", "edited", "large"].map(versions), [1, 2, 1], "no commit was done twice");
    let log = lab.count();
    let parts = (log.count(Op::CreateUpload), log.count(Op::UploadPart));
    assert_eq!(parts, (1, 3), "no byte of it went twice: {:?}", log.counts());
}

#[test]
fn a_failure_is_one_line_with_its_key_its_request_and_what_to_do() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("d/some-file", "bytes")));
    lab.break_all(Op::Delete, Fault::status(403, "AccessDenied"));
    lab.break_all(Op::Put, Fault::status(403, "AccessDenied"));
    assert_eq!(errno(fs::remove_file(lab.path("d/some-file"))), Errno::EACCES);
    assert_eq!(errno(fs::create_dir(lab.path("folder"))), Errno::EACCES);
    let said = lab.mount().stderr();
    let rows = [(Op::Delete, "unlink", "d/some-file"), (Op::Put, "mkdir", "folder/")];
    for (op, call, key) in rows {
        let mut asked = lab.log().requests_of(op);
        asked.retain(|one| one.key == key);
        assert_eq!(asked.len(), 1, "what is refused is not asked again");
        // The server gives each request its number as its id.
        let id = format!("{:016X}", asked[0].order);
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(&id)).collect();
        assert_eq!(lines.len(), 1, "{said}");
        for word in ["WARN", call, key, "access denied", "policy"] {
            assert!(lines[0].contains(word), "{word}: {}", lines[0]);
        }
        assert_eq!(said.matches(key).count(), 1, "{said}");
    }
}

#[test]
fn a_refused_delete_is_the_errno_of_unlink() {
    let lab = Lab::new(&BRIEF, |bucket| {
        bucket.put("f", "bytes");
        bucket.put("d/", "");
    });
    lab.break_all(Op::Delete, Fault::status(403, "AccessDenied"));
    assert_eq!(errno(fs::remove_file(lab.path("f"))), Errno::EACCES);
    assert_eq!(errno(fs::remove_dir(lab.path("d"))), Errno::EACCES);
    lab.server().faults().clear();
    assert_eq!(read(&lab.path("f")), b"bytes");
    assert_eq!(names(&lab.path("")), ["d", "f"]);
    fs::remove_file(lab.path("f")).unwrap();
    fs::remove_dir(lab.path("d")).unwrap();
    assert!(lab.bucket().keys().is_empty());
}

#[test]
fn a_rename_that_fails_has_moved_nothing() {
    let lab = Lab::new(&BRIEF, |bucket| {
        bucket.put("f", "bytes");
        bucket.put("d/one", "1");
        bucket.put("d/two", "2");
    });
    lab.server().faults().add(Fault::status(403, "AccessDenied").on(Op::Copy).key("g").always());
    lab.server().faults().add(Fault::status(403, "AccessDenied").on(Op::Copy).key("two").always());
    assert_eq!(errno(fs::rename(lab.path("f"), lab.path("g"))), Errno::EACCES);
    assert_eq!(errno(fs::rename(lab.path("d"), lab.path("e"))), Errno::EACCES);
    lab.server().faults().clear();
    let keys = lab.bucket().keys();
    let visible: Vec<&String> = keys.iter().filter(|key| *key != "d/").collect();
    assert_eq!(visible, ["d/one", "d/two", "f"]);
    assert_eq!(read(&lab.path("d/two")), b"2");
    assert_eq!(read(&lab.path("f")), b"bytes");
}

#[test]
fn a_body_that_breaks_off_is_resumed() {
    let bytes = pattern(12 * MIB);
    let lab = Lab::new(&[], |bucket| drop(bucket.put("f", bytes.clone())));
    let faults = lab.server().faults();
    faults.add(Fault::ResetResponse { after: MIB as u64 }.on(Op::Get));
    faults.add(Fault::Truncate { after: 1000 }.on(Op::Get));
    faults.add(Fault::SlowDown.on(Op::Get));
    assert!(read(&lab.path("f")) == bytes, "the bytes differ");
}

#[test]
fn a_read_that_cannot_succeed_is_eio_and_never_short() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("f", pattern(MIB))));
    lab.break_all(Op::Get, Fault::Truncate { after: 100 });
    let file = File::open(lab.path("f")).unwrap();
    assert_eq!(errno(file.read_at(&mut [0; 4096], 0)), Errno::EIO);
    lab.server().faults().clear();
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(4096), "the bytes differ");
}

#[test]
fn a_full_staging_area_is_enospc() {
    let lab = Lab::empty(&["--staging-size", "64MiB"]);
    let file = File::create(lab.path("f")).unwrap();
    let mut written = 0;
    let full = loop {
        // Not in order, so that nothing leaves before the close.
        match file.write_all_at(&vec![7; MIB], 1 + written) {
            Ok(()) => written += MIB as u64,
            Err(error) => break error,
        }
        assert!(written <= 65 << 20, "the quota does not hold");
    };
    assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
    file.set_len(MIB as u64).unwrap();
    close(file).unwrap();
    assert!(lab.object("f")[1..] == vec![7; MIB - 1], "what fits is sent");
}
