//! What the store refuses once: the call that meets it says so, and what nobody waits for is tried
//! again while the mount goes on.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use s3pod_testkit::{Fault, Op};

use crate::bench::{close, errno, eventually, pattern, python};
use crate::lab::Lab;

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;
/// What [`set_attributes`] sets.
const MTIME: &str = "1000000000.000000000";

fn denied() -> Fault {
    Fault::status(403, "AccessDenied")
}

/// Sets a mode and a time.
fn set_attributes(file: &File) {
    file.set_permissions(Permissions::from_mode(0o640)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// A new file of three parts, of which the first has left with the metadata that there was.
fn streamed(lab: &Lab, name: &str) -> File {
    let mut file = File::create(lab.path(name)).unwrap();
    file.write_all(&pattern(20 * MIB)).unwrap();
    eventually("a part has left", || lab.log().count(Op::CreateUpload) == 1);
    file
}

fn has_attributes(lab: &Lab, key: &str) -> bool {
    let object = lab.bucket().object(key).unwrap();
    ["mode", "mtime"].map(|name| object.metadata(name)) == [Some("0100640"), Some(MTIME)]
}

/// Asserts that the one object is such a file, and what it has cost.
fn assert_streamed(lab: Lab, key: &str, copies: usize, deletes: usize) {
    assert_eq!(lab.bucket().keys(), [key]);
    assert!(lab.object(key) == pattern(20 * MIB), "the bytes differ");
    assert!(has_attributes(&lab, key), "{:?}", lab.bucket().object(key));
    let log = lab.count();
    let ops = [Op::CreateUpload, Op::UploadPart, Op::CompleteUpload, Op::Copy, Op::Delete];
    assert_eq!(ops.map(|op| log.count(op)), [1, 3, 1, copies, deletes], "{:?}", log.counts());
}

#[test]
fn late_attributes_that_are_refused_are_the_errno_of_fsync_and_the_next_sends_them() {
    let lab = Lab::empty(&LONG);
    let file = streamed(&lab, "f");
    set_attributes(&file);
    // That of the commit, which has the bytes all the same, and that of the fsync itself.
    let refused = lab.server().faults().add(denied().on(Op::Copy).times(2));
    assert_eq!(errno(file.sync_all()), Errno::EACCES);
    assert_eq!(refused.hits(), 2);
    assert!(lab.object("f") == pattern(20 * MIB), "the bytes are there");
    file.sync_all().unwrap();
    assert!(has_attributes(&lab, "f"));
    close(file).unwrap();
    assert_streamed(lab, "f", 3, 0);
}

#[test]
fn a_refused_rename_with_late_attributes_moves_nothing_and_the_next_carries_them() {
    let lab = Lab::empty(&["--metadata-ttl", "10m", "--attr-delay", "60s"]);
    close(streamed(&lab, "old")).unwrap();
    set_attributes(&File::open(lab.path("old")).unwrap());
    let refused = lab.server().faults().add(denied().on(Op::Copy).key("new"));
    assert_eq!(errno(fs::rename(lab.path("old"), lab.path("new"))), Errno::EACCES);
    assert_eq!((refused.hits(), lab.bucket().keys()), (1, vec!["old".to_owned()]));
    fs::rename(lab.path("old"), lab.path("new")).unwrap();
    assert_streamed(lab, "new", 2, 1);
}

#[test]
fn late_attributes_that_nobody_waits_for_are_sent_while_the_mount_goes_on() {
    let lab = Lab::empty(&LONG);
    let file = streamed(&lab, "f");
    set_attributes(&file);
    let refused = lab.server().faults().add(denied().on(Op::Copy));
    close(file).unwrap();
    assert!(!has_attributes(&lab, "f"), "the bytes are there, and these are not yet");
    eventually("they are there", || has_attributes(&lab, "f"));
    assert_eq!(refused.hits(), 1);
    assert_streamed(lab, "f", 2, 0);
}

#[test]
fn what_a_close_could_not_send_is_sent_while_the_mount_goes_on() {
    let lab = Lab::empty(&LONG);
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(b"bytes").unwrap();
    // The close, and what its handle's end tries by itself.
    let refused = lab.server().faults().add(denied().on(Op::Put).times(2));
    assert_eq!(close(file), Err(Errno::EACCES));
    eventually("it is there", || lab.bucket().contains("f"));
    assert_eq!((lab.object("f"), refused.hits()), (b"bytes".to_vec(), 2));
    lab.log().clear();
    lab.asserts_requests(&[]);
}

#[test]
fn what_a_map_dirtied_after_the_close_is_sent_while_the_mount_goes_on() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    let refused = lab.server().faults().add(denied().on(Op::Put));
    // What is written after the close is told to nobody: it comes with the handle's end.
    let script = "
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(f, 10)
os.close(f)
m[3:6] = b'abc'
m.close()";
    python(script, &lab.path("f"));
    eventually("it is there", || lab.object("f") == b"012abc6789");
    assert_eq!(refused.hits(), 1);
}

#[test]
fn attributes_are_sent_while_the_mount_goes_on() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("f", "bytes");
        bucket.put("d/", "");
    });
    let refused = lab.server().faults().add(denied().on(Op::Copy).key("f"));
    fs::set_permissions(lab.path("f"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(lab.path("d"), Permissions::from_mode(0o700)).unwrap();
    let mode = |key: &str| {
        let object = lab.bucket().object(key).unwrap();
        object.metadata("mode").map(str::to_owned)
    };
    eventually("the directory's are there", || mode("d/").as_deref() == Some("0040700"));
    eventually("the file's, after a refusal", || mode("f").as_deref() == Some("0100600"));
    assert_eq!(refused.hits(), 1);
    lab.log().clear();
    lab.asserts_requests(&[]);
}
