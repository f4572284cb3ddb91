//! Deletes that leave together: what they cost, who waits for them, and what is back when one
//! fails.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::thread;

use nix::errno::Errno;
use s3pod_testkit::{Bucket, Fault, Hold, Mount, Op, RequestLog, ServerOptions, TestServer};

use crate::bench::{assert_waits, close, errno, eventually, names, read, shell, write};
use crate::lab::{BUCKET, Lab, PATIENCE};

/// Long enough that no test outlives it.
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];

/// Files in a directory with a marker, so that nothing is written before the first delete.
fn filled(directory: &'static str, count: usize) -> impl FnOnce(&Bucket) {
    move |bucket| {
        bucket.put(&format!("{directory}/"), "");
        for number in 0..count {
            bucket.put(&format!("{directory}/{number:05}"), "x");
        }
    }
}

/// Removes a directory of ten thousand files; asserts what deletes and listings that takes.
fn assert_rm_r(lab: Lab) -> RequestLog {
    shell(&lab.path(""), "rm -r d");
    let bucket = lab.bucket();
    assert_eq!(bucket.keys(), [""; 0], "rmdir waits for all of them");
    let log = lab.count();
    // One in each directory is waited for, and the marker is a second single one.
    assert_eq!(log.count(Op::Delete), 2, "{:?}", log.counts());
    let batches = log.count(Op::DeleteMany);
    assert!((10..=20).contains(&batches), "{:?}", log.counts());
    // Eleven pages of 10 001 keys; the directory found and read again; empty or not.
    assert!(log.count(Op::List) <= 16, "{:?}", log.counts());
    let others = log.total() - batches - 2 - log.count(Op::List);
    assert_eq!(others, log.count(Op::Head), "{:?}", log.counts());
    log
}

#[test]
fn rm_r_of_ten_thousand_files_is_a_request_per_thousand() {
    let arguments = ["--metadata-ttl", "10m", "--metadata", "list"];
    let log = assert_rm_r(Lab::new(&arguments, filled("d", 10_000)));
    assert_eq!(log.count(Op::Head), 0);
}

#[test]
fn rm_r_of_ten_thousand_files_with_attributes_is_no_more() {
    let log = assert_rm_r(Lab::new(&LONG, |bucket| {
        bucket.put("d/", "");
        for number in 0..10_000 {
            bucket.put_synthetic(&format!("d/{number:05}"), 5_000, 1);
        }
    }));
    let heads: Vec<String> = log.requests_of(Op::Head).into_iter().map(|one| one.key).collect();
    assert!(heads.iter().all(|key| key == "d" || key == "d/"), "{heads:?}");
    assert!(heads.len() <= 2, "{heads:?}");
}

#[test]
fn the_first_delete_in_a_directory_is_waited_for_and_its_refusal_told() {
    let lab = Lab::new(&LONG, filled("d", 2));
    lab.break_all(Op::Delete, Fault::status(403, "AccessDenied"));
    for name in ["d/00000", "d/00001"] {
        assert_eq!(errno(fs::remove_file(lab.path(name))), Errno::EACCES, "{name}");
        assert!(lab.path(name).exists(), "{name}");
    }
    lab.server().faults().clear();
    fs::remove_file(lab.path("d/00000")).unwrap();
    assert_eq!(lab.bucket().keys(), ["d/", "d/00001"]);
}

#[test]
fn a_queued_name_is_gone_for_everybody_on_the_mount() {
    let lab = Lab::new(&["--metadata-ttl", "0s"], filled("d", 4));
    fs::remove_file(lab.path("d/00000")).unwrap();
    let hold = lab.server().faults().hold(Op::Delete, "d/");
    fs::remove_file(lab.path("d/00001")).unwrap();
    assert!(hold.wait_for_blocking(1, PATIENCE));
    assert!(lab.bucket().contains("d/00001"), "its delete is held");
    assert_eq!(names(&lab.path("d")), ["00002", "00003"]);
    assert_eq!(errno(fs::metadata(lab.path("d/00001"))), Errno::ENOENT);
    assert_eq!(errno(File::open(lab.path("d/00001"))), Errno::ENOENT);
    hold.release();
    eventually("it is deleted", || !lab.bucket().contains("d/00001"));
}

#[test]
fn whoever_stores_under_a_queued_key_waits_for_its_delete() {
    // Each in a directory of its own, where the kernel lets no two calls at once.
    let directories = ["made", "renamed", "linked"];
    let lab = Lab::new(&LONG, |bucket| {
        directories.into_iter().for_each(|name| filled(name, 3)(bucket));
    });
    for directory in directories {
        fs::remove_file(lab.path(&format!("{directory}/00000"))).unwrap();
    }
    let holds = [Op::Delete, Op::DeleteMany].map(|op| lab.server().faults().hold(op, ""));
    for directory in directories {
        fs::remove_file(lab.path(&format!("{directory}/00001"))).unwrap();
    }
    let path = |directory: &str| lab.path(&format!("{directory}/00001"));
    eventually("the delete is on its way", || holds.iter().any(|hold| hold.arrived() > 0));
    let before = lab.log().requests().len();
    thread::scope(|scope| {
        let making = scope.spawn(|| write(&path("made"), b"made again"));
        let renaming =
            scope.spawn(|| fs::rename(lab.path("renamed/00002"), path("renamed")).unwrap());
        let linking = scope.spawn(|| symlink("target", path("linked")).unwrap());
        for call in [&making, &renaming, &linking] {
            assert_waits(call);
        }
        let since: Vec<Op> = lab.log().requests()[before..].iter().map(|one| one.op).collect();
        assert!(!since.iter().any(|op| matches!(op, Op::Put | Op::Copy)), "{since:?}");
        holds.iter().for_each(Hold::release);
        for call in [making, renaming, linking] {
            call.join().unwrap();
        }
    });
    assert_eq!(read(&path("made")), b"made again");
    assert_eq!(fs::read_link(path("linked")).unwrap().to_str(), Some("target"));
    let bucket = lab.bucket();
    lab.count();
    let want = ["linked/", "linked/00001", "linked/00002", "made/", "made/00001", "made/00002"];
    assert_eq!(bucket.keys(), [&want[..], &["renamed/", "renamed/00001"]].concat());
    assert_eq!(bucket.get("renamed/00001").unwrap(), "x");
}

#[test]
fn an_fsync_of_the_directory_and_the_unmount_wait() {
    let lab = Lab::new(&LONG, filled("d", 6));
    for name in ["d/00000", "d/00001", "d/00002"] {
        fs::remove_file(lab.path(name)).unwrap();
    }
    File::open(lab.path("d")).unwrap().sync_all().unwrap();
    assert_eq!(lab.bucket().keys(), ["d/", "d/00003", "d/00004", "d/00005"]);
    for name in ["d/00003", "d/00004"] {
        fs::remove_file(lab.path(name)).unwrap();
    }
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.keys(), ["d/", "d/00005"]);
}

#[test]
fn a_key_that_cannot_be_deleted_is_back_and_rmdir_says_why() {
    let lab = Lab::new(&LONG, filled("d", 3));
    fs::remove_file(lab.path("d/00000")).unwrap();
    for op in [Op::Delete, Op::DeleteMany] {
        lab.break_all(op, Fault::status(403, "AccessDenied"));
    }
    for name in ["d/00001", "d/00002"] {
        fs::remove_file(lab.path(name)).unwrap();
    }
    assert_eq!(errno(fs::remove_dir(lab.path("d"))), Errno::EACCES);
    assert_eq!(errno(fs::remove_dir(lab.path("d"))), Errno::ENOTEMPTY, "it was told");
    assert_eq!(names(&lab.path("d")), ["00001", "00002"]);
    assert_eq!(read(&lab.path("d/00001")), b"x");
    assert_eq!(errno(fs::remove_file(lab.path("d/00001"))), Errno::EACCES, "waited for again");
    let said = lab.mount().stderr();
    assert_eq!(said.matches("could not be deleted and are there again").count(), 1, "{said}");
    lab.server().faults().clear();
    shell(&lab.path(""), "rm -r d");
    assert_eq!(lab.bucket().keys(), [""; 0]);
}

#[test]
fn a_key_that_cannot_be_deleted_is_the_errno_of_its_directorys_fsync() {
    let lab = Lab::new(&LONG, filled("d", 3));
    fs::remove_file(lab.path("d/00000")).unwrap();
    lab.break_all(Op::Delete, Fault::status(403, "AccessDenied"));
    fs::remove_file(lab.path("d/00001")).unwrap();
    let directory = File::open(lab.path("d")).unwrap();
    assert_eq!(errno(directory.sync_all()), Errno::EACCES);
    directory.sync_all().unwrap();
    assert_eq!(names(&lab.path("d")), ["00001", "00002"]);
    lab.server().faults().clear();
    fs::remove_file(lab.path("d/00001")).unwrap();
    directory.sync_all().unwrap();
    assert_eq!(lab.bucket().keys(), ["d/", "d/00002"]);
}

#[test]
fn without_a_cache_folder_each_delete_is_waited_for() {
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    filled("d", 3)(&server.bucket(BUCKET));
    let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &server.s3_endpoint(BUCKET));
    let mount = options.without_own_cache().args(["--cache-dir", "none"]).start().unwrap();
    for left in (0..3).rev() {
        fs::remove_file(mount.path().join(format!("d/{left:05}"))).unwrap();
        assert_eq!(server.bucket(BUCKET).keys().len(), 1 + left);
    }
    assert!(mount.unmount().unwrap().success());
}

#[test]
fn a_delete_that_fails_at_the_end_of_a_mount_is_told_by_its_exit() {
    let lab = Lab::new(&LONG, filled("d", 2));
    fs::remove_file(lab.path("d/00000")).unwrap();
    lab.break_all(Op::Delete, Fault::status(403, "AccessDenied"));
    fs::remove_file(lab.path("d/00001")).unwrap();
    let status = lab.end();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn an_open_unlinked_file_goes_with_the_others() {
    let lab = Lab::new(&LONG, filled("d", 3));
    let open = File::open(lab.path("d/00000")).unwrap();
    fs::remove_file(lab.path("d/00000")).unwrap();
    fs::remove_file(lab.path("d/00001")).unwrap();
    close(open).unwrap();
    fs::remove_file(lab.path("d/00002")).unwrap();
    fs::remove_dir(lab.path("d")).unwrap();
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.keys(), [""; 0]);
}

#[test]
fn a_synchronous_mount_deletes_before_it_answers() {
    let lab = Lab::new(&["--delete", "sync"], filled("d", 3));
    for left in (0..3).rev() {
        fs::remove_file(lab.path(&format!("d/{left:05}"))).unwrap();
        assert_eq!(lab.bucket().keys().len(), 1 + left);
    }
    assert_eq!((lab.log().count(Op::Delete), lab.log().count(Op::DeleteMany)), (3, 0));
}
