//! One call meets what another has left unsettled: a commit without an answer, a name with tags, a
//! folder of two dead mounts. Nothing is lost, nothing comes back, and nobody else's object goes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, copy_file_range, renameat2};
use s3pod_testkit::{Attributes, Fault, Op, synthetic_bytes};

use crate::bench::{close, errno, eventually, names, pattern, python, read, write};
use crate::lab::{Lab, PATIENCE};

const BRIEF: [&str; 2] = ["--op-timeout", "2s"];
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const WRITE_BACK: [&str; 2] = ["--write-back", "--write-back-ephemeral"];
const BRIEF_BACK: [&str; 4] = ["--write-back", "--write-back-ephemeral", "--op-timeout", "2s"];
const MIB: u64 = 1 << 20;

fn tagged() -> Attributes {
    Attributes { tags: [("team".into(), "red".into())].into(), ..Attributes::default() }
}

#[test]
fn a_look_at_a_file_that_is_being_written_loses_no_tags() {
    let lab =
        Lab::new(&["--metadata-ttl", "0s"], |bucket| drop(bucket.put_with("f", "bytes", tagged())));
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    assert_eq!(fs::metadata(lab.path("f")).unwrap().len(), 5);
    file.write_all_at(b"more", 5).unwrap();
    close(file).unwrap();
    let object = lab.bucket().object("f").unwrap();
    assert_eq!((object.size, object.attributes.tags), (9, tagged().tags));
}

#[test]
fn a_commit_whose_answer_is_lost_is_no_conflict_while_the_store_does_not_say() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("f", "0123456789")));
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"ab", 4).unwrap();
    lab.server().faults().add(Fault::LoseResponse.on(Op::Put));
    lab.break_all(Op::Head, Fault::status(403, "AccessDenied"));
    assert_eq!(errno(file.sync_all()), Errno::EACCES, "nobody has said that another one won");
    lab.server().faults().clear();
    file.write_all_at(b"c", 6).unwrap();
    close(file).unwrap();
    assert_eq!(lab.object("f"), b"0123abc789");
}

#[test]
fn a_copy_within_a_file_is_of_its_bytes_then_also_where_its_commit_was_given_up() {
    let size = 10 * MIB;
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put_synthetic("f", size, 3)));
    let file = OpenOptions::new().read(true).write(true).open(lab.path("f")).unwrap();
    let (mut from, mut to) = (0, size as i64);
    let copied =
        copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 5 * MIB as usize).unwrap();
    assert_eq!(copied as u64, 5 * MIB);
    file.write_all_at(b"X", 0).unwrap();
    lab.break_all(Op::CompleteUpload, Fault::LoseResponse);
    assert_eq!(errno(file.sync_all()), Errno::EIO);
    lab.server().faults().clear();
    file.write_all_at(b"Y", 1).unwrap();
    close(file).unwrap();
    let old = synthetic_bytes(3, 0..size);
    let whole = [b"XY", &old[2..], &old[..5 * MIB as usize]].concat();
    assert!(lab.object("f") == whole, "the bytes differ");
}

#[test]
fn what_is_being_written_is_not_stored_in_place_of_the_empty_file() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("a/d/f", "old");
    });
    let hold = lab.server().faults().hold(Op::Copy, "a/e/");
    let to = lab.path("a/e");
    thread::scope(|scope| {
        let moving = scope.spawn(|| fs::rename(lab.path("a/d"), to));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        // The moment after which an empty file is stored passes while the commit waits.
        let file = File::create(lab.path("new")).unwrap();
        thread::sleep(Duration::from_millis(500));
        file.write_all_at(b"half ", 0).unwrap();
        drop(hold);
        moving.join().unwrap().unwrap();
        thread::sleep(Duration::from_millis(500));
        file.write_all_at(b"a file", 5).unwrap();
        close(file).unwrap();
    });
    assert_eq!(lab.object("new"), b"half a file");
    let log = lab.count();
    let puts = log.requests_of(Op::Put).into_iter().filter(|put| put.key == "new");
    assert_eq!(puts.count(), 1, "{:?}", log.counts());
}

#[test]
fn unlink_takes_away_what_a_commit_without_an_answer_has_made() {
    let lab = Lab::new(&["--op-timeout", "2s", "--metadata-ttl", "0s"], |_| ());
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    lab.break_all(Op::Put, Fault::LoseResponse);
    assert_eq!(close(file), Err(Errno::EIO));
    assert!(lab.bucket().contains("f"), "it has arrived");
    lab.server().faults().clear();
    fs::remove_file(lab.path("f")).unwrap();
    assert_eq!(names(&lab.path("")), [""; 0]);
    let bucket = lab.bucket();
    lab.count();
    assert!(bucket.keys().is_empty(), "{:?}", bucket.keys());
}

#[test]
fn a_reader_that_gives_up_takes_no_streamed_bytes_with_it() {
    let lab = Lab::empty(&["--staging-size", "64MiB", "--op-timeout", "2s"]);
    let file = File::create(lab.path("f")).unwrap();
    for start in (0..200 * MIB).step_by(4 * MIB as usize) {
        file.write_all_at(&synthetic_bytes(9, start..start + 4 * MIB), start).unwrap();
    }
    let slow = Fault::Delay(Duration::from_secs(6)).on(Op::CompleteUpload);
    lab.server().faults().add(slow);
    let mut direct = OpenOptions::new();
    let reader = direct.read(true).custom_flags(OFlag::O_DIRECT.bits()).open(lab.path("f"));
    // Answered or not: it is what becomes of the bytes that counts.
    let _late = reader.unwrap().read_at(&mut [0; 4096], 100 * MIB);
    close(file).unwrap();
    let bucket = lab.bucket();
    assert_eq!(bucket.object("f").unwrap().size, 200 * MIB);
    for start in (0..200 * MIB).step_by(20 * MIB as usize) {
        let piece = start..start + 20 * MIB;
        let is_same = bucket.get_range("f", piece.clone()).unwrap() == synthetic_bytes(9, piece);
        assert!(is_same, "the bytes from {start} on differ");
    }
}

#[test]
fn attributes_that_a_crash_kept_from_a_streamed_file_are_given_to_it() {
    let lab = Lab::empty(&LONG);
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(&pattern(20 * MIB as usize), 0).unwrap();
    eventually("its upload is begun", || lab.log().count(Op::CreateUpload) == 1);
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    let hold = lab.server().faults().hold(Op::Copy, "f");
    thread::scope(|scope| {
        let closing = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        lab.mount().crash();
        assert!(closing.join().unwrap().is_err());
    });
    drop(hold);
    assert_eq!(lab.bucket().object("f").unwrap().size, 20 * MIB, "only its mode is not there");
    let again = lab.after_crash(&LONG);
    assert_eq!(fs::metadata(again.path().join("f")).unwrap().mode() & 0o7777, 0o600);
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), Some("0100600"));
}

#[test]
fn a_file_that_is_refused_holds_up_no_other() {
    let lab = Lab::empty(&WRITE_BACK);
    let refuse = Fault::status(403, "AccessDenied").on(Op::Put).key("bad").always();
    let refused = lab.server().faults().add(refuse);
    for number in 0..6 {
        write(&lab.path(&format!("bad{number}")), b"bytes");
    }
    eventually("each was refused once", || refused.hits() >= 6);
    let before = refused.hits();
    write(&lab.path("good"), b"bytes");
    eventually("it is sent", || lab.bucket().contains("good"));
    let between = refused.hits() - before;
    assert!(between <= 2, "{between} that were refused went before");
    lab.server().faults().clear();
    lab.count();
}

#[test]
fn a_name_made_again_with_the_same_bytes_is_not_what_was_unlinked() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("first", "");
        bucket.put("lock", "");
    });
    // The first is waited for.
    fs::remove_file(lab.path("first")).unwrap();
    // Its request, whichever it is, is not answered before the end.
    let holds = [Op::Delete, Op::DeleteMany].map(|op| lab.server().faults().hold(op, ""));
    fs::remove_file(lab.path("lock")).unwrap();
    lab.mount().crash();
    // What the store notes has whole seconds.
    thread::sleep(Duration::from_millis(2_100));
    lab.bucket().put("lock", "");
    drop(holds);
    let again = lab.after_crash(&LONG);
    assert!(again.path().join("lock").exists());
    assert!(again.unmount().unwrap().success());
    assert!(lab.bucket().contains("lock"), "another client's lock");
}

#[test]
fn an_attribute_that_was_removed_stays_so_over_a_commit_on_its_way_and_a_crash() {
    let lab = Lab::new(&["--attr-delay", "60s"], |bucket| {
        let attributes = Attributes::with_metadata([("team", "red"), ("site", "north")]);
        bucket.put_with("f", "bytes", attributes);
    });
    let remove = |name: &str| {
        python(&format!("import os, sys; os.removexattr(sys.argv[1], '{name}')"), &lab.path("f"))
    };
    let hold = lab.server().faults().hold(Op::Put, "f");
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"B", 0).unwrap();
    thread::scope(|scope| {
        let closing = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        remove("user.team");
        hold.release();
        closing.join().unwrap().unwrap();
    });
    remove("user.site");
    lab.mount().crash();
    let again = lab.after_crash(&[]);
    assert_eq!(xattrs(&again.path().join("f")).trim(), "[]");
    assert!(again.unmount().unwrap().success());
    let object = lab.bucket().object("f").unwrap();
    assert_eq!((object.metadata("team"), object.metadata("site")), (None, None));
}

fn xattrs(path: &Path) -> String {
    python("import os, sys; print(sorted(os.listxattr(sys.argv[1])))", path)
}

#[test]
fn a_read_only_mount_leaves_what_waits_to_one_that_may_write() {
    let lab = Lab::new(&["--attr-delay", "60s"], |bucket| drop(bucket.put("f", "bytes")));
    fs::set_permissions(lab.path("f"), Permissions::from_mode(0o600)).unwrap();
    lab.mount().crash();
    lab.log().clear();
    for arguments in [&["--read-only"][..], &["--metadata", "list"]] {
        let between = lab.after_crash(arguments);
        assert_eq!(read(&between.path().join("f")), b"bytes");
        assert!(between.unmount().unwrap().success());
        let log = lab.log();
        assert_eq!(log.count(Op::Copy) + log.count(Op::Put), 0, "{:?}", log.counts());
    }
    let again = lab.after_crash(&[]);
    assert_eq!(fs::metadata(again.path().join("f")).unwrap().mode() & 0o7777, 0o600);
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), Some("0100600"));
}

#[test]
fn the_upload_of_a_copy_that_a_crash_cut_off_is_given_up() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("f", 6 << 30, 5)));
    let hold = lab.server().faults().hold(Op::CopyPart, "g");
    thread::scope(|scope| {
        let renaming = scope.spawn(|| fs::rename(lab.path("f"), lab.path("g")));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        lab.mount().crash();
        assert!(renaming.join().unwrap().is_err());
    });
    drop(hold);
    assert_eq!(lab.bucket().uploads().len(), 1);
    let again = lab.after_crash(&LONG);
    eventually("it is given up", || lab.bucket().uploads().is_empty());
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.bucket().keys(), ["f"]);
}

/// rename(2) that is to replace nothing.
fn rename_noreplace(lab: &Lab, from: &str, to: &str) -> Result<(), Errno> {
    let here = nix::fcntl::AT_FDCWD;
    let (from, to) = (lab.path(from), lab.path(to));
    renameat2(here, &from, here, &to, RenameFlags::RENAME_NOREPLACE)
}

#[test]
fn a_rename_that_may_replace_nothing_replaces_no_other_clients_object() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("stored", "mine");
        bucket.put("d/f", "mine");
    });
    for name in ["stored", "g1", "g2", "g3", "d"] {
        // Looked up, so that it is known whether it is there.
        let _there_or_not = lab.path(name).exists();
    }
    let unsent = File::create(lab.path("unsent")).unwrap();
    unsent.write_all_at(b"mine", 0).unwrap();
    for key in ["g1", "g2", "g3/f"] {
        lab.bucket().put(key, "theirs");
    }
    assert_eq!(rename_noreplace(&lab, "stored", "g1"), Err(Errno::EEXIST));
    assert_eq!(rename_noreplace(&lab, "d", "g3"), Err(Errno::EEXIST));
    // Nothing of it is in S3 yet, so its first commit decides.
    rename_noreplace(&lab, "unsent", "g2").unwrap();
    assert_eq!(close(unsent), Err(Errno::EEXIST));
    for key in ["g1", "g2", "g3/f"] {
        assert_eq!(lab.object(key), b"theirs", "{key}");
    }
    assert_eq!((lab.object("stored"), lab.object("d/f")), (b"mine".to_vec(), b"mine".to_vec()));
}

#[test]
fn a_file_that_would_get_too_long_a_key_keeps_its_directory_where_it_is() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("d/stored", "bytes")));
    let name = "n".repeat(200);
    let unsent = File::create(lab.path(&format!("d/{name}"))).unwrap();
    unsent.write_all_at(b"bytes", 0).unwrap();
    let deep = ["a".repeat(250), "b".repeat(250), "c".repeat(250), "e".repeat(90)].join("/");
    fs::create_dir_all(lab.path(&deep)).unwrap();
    let moved = fs::rename(lab.path("d"), lab.path(&format!("{deep}/d")));
    assert_eq!(errno(moved), Errno::ENAMETOOLONG);
    close(unsent).unwrap();
    assert_eq!(lab.object(&format!("d/{name}")), b"bytes");
    assert_eq!(lab.object("d/stored"), b"bytes");
}

#[test]
fn a_copy_takes_room_like_any_other_file() {
    let lab = Lab::new(&["--capacity", "20MiB"], |bucket| {
        bucket.put_synthetic("f", 12 * MIB, 1);
    });
    let source = File::open(lab.path("f")).unwrap();
    let copy = |name: &str| {
        let target = File::create(lab.path(name)).unwrap();
        let copied = copy_file_range(&source, None, &target, Some(&mut 0), 12 * MIB as usize);
        close(target).unwrap();
        copied
    };
    eventually("what is there was counted", || {
        nix::sys::statvfs::statvfs(&lab.path("")).unwrap().blocks_available() > 0
    });
    assert_eq!(copy("g"), Err(Errno::ENOSPC));
}

#[test]
fn what_two_mounts_had_promised_under_one_name_is_all_there_after_both_died() {
    let lab = Lab::empty(&BRIEF_BACK);
    lab.break_all(Op::Put, Fault::status(503, "SlowDown"));
    write(&lab.path("f"), b"first");
    write(&lab.path("only"), b"only");
    let second = lab.after_crash(&BRIEF_BACK);
    write(&second.path().join("f"), b"second");
    write(&second.path().join("other"), b"other");
    second.crash();
    lab.mount().crash();
    // One that takes both up, writes a record anew, and dies before anything is sent.
    let third = lab.after_crash(&BRIEF_BACK);
    for (from, to) in [("only", "only2"), ("other", "other2")] {
        fs::rename(third.path().join(from), third.path().join(to)).unwrap();
    }
    third.crash();
    lab.server().faults().clear();
    let last = lab.after_crash(&BRIEF_BACK);
    assert!(last.unmount().unwrap().success());
    assert_eq!((lab.object("only2"), lab.object("other2")), (b"only".to_vec(), b"other".to_vec()));
    let cache = lab.mount().cache_folder().unwrap();
    let mut listing = std::process::Command::new(env!("CARGO_BIN_EXE_s3pod"));
    let listed = listing.args(["recover", "list", "--cache-dir"]).arg(cache).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let kept = listed.lines().filter(|line| line.ends_with("s3://photos/f")).count();
    let there = lab.object("f");
    assert!(there == b"first" || there == b"second");
    assert_eq!(kept, 1, "{listed}");
}
