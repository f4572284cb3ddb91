//! What comes of promises when the store refuses, a disk fails, or two things were left at once:
//! closed states of a file stay in their order, what fails holds up nothing beside it, and nothing
//! that was put down goes because of what somebody has found or lost since.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use s3pod_testkit::{
    Fault, Hold, Mount, Op, RequestLog, ServerOptions, TestServer, synthetic_bytes,
};

use crate::bench::{close, eventually, names, pattern, read, shell, write};
use crate::disk::Mounted;
use crate::lab::{BUCKET, Lab, PATIENCE};

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const WRITE_BACK: [&str; 2] = ["--write-back", "--write-back-ephemeral"];
const BRIEF_BACK: [&str; 4] = ["--write-back", "--write-back-ephemeral", "--op-timeout", "2s"];
const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;

/// Kills the daemon while a request is held. That one is never carried out while the hold lives,
/// and those of the next mount are.
fn crash_at(lab: &Lab, hold: &Hold) {
    assert!(hold.wait_for_blocking(1, PATIENCE));
    lab.mount().crash();
    lab.server().faults().clear();
}

/// The one staging file of this size in the mount's cache folder.
fn stage_of(lab: &Lab, size: u64) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![lab.mount().cache_folder().unwrap().join("journal")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "stage") {
                found.push(path);
            }
        }
    }
    found.retain(|path| fs::metadata(path).unwrap().len() == size);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// What `f` is when it is closed for this time: another size each.
fn state(number: usize) -> Vec<u8> {
    pattern(number)
}

/// Closes so many states of `f` behind a file that is held.
fn close_states(lab: &Lab, count: usize) -> Hold {
    let hold = lab.server().faults().hold(Op::Put, "zero");
    write(&lab.path("zero"), b"0");
    assert!(hold.wait_for_blocking(1, PATIENCE));
    for number in 1..=count {
        write(&lab.path("f"), &state(number));
    }
    hold
}

/// The sizes of the states that the store took, in turn.
fn taken(log: &RequestLog) -> Vec<u64> {
    let puts = log.requests_of(Op::Put).into_iter();
    let taken = puts.filter(|put| put.key == "f" && put.status == Some(200));
    taken.map(|put| put.bytes_in).collect()
}

/// Asserts that the last state is the one which stands, and that none came after a later one.
fn assert_in_order(lab: Lab, last: usize) {
    let bucket = lab.bucket();
    assert!(read(&lab.path("f")) == state(last), "another state is shown");
    let log = lab.count();
    let taken = taken(&log);
    assert!(taken.is_sorted(), "{taken:?}");
    assert!(bucket.get("f").unwrap() == state(last), "another state stands: {taken:?}");
}

#[test]
fn a_closed_state_that_is_refused_once_does_not_come_after_a_later_one() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = close_states(&lab, 2);
    let refuse = Fault::status(403, "AccessDenied").on(Op::Put).key("f").times(1);
    let refused = lab.server().faults().add(refuse);
    hold.release();
    eventually("both are in S3", || taken(lab.log()).len() >= 2);
    assert_eq!(refused.hits(), 1);
    assert_in_order(lab, 2);
}

#[test]
fn closed_states_that_are_refused_again_and_again_stay_in_their_order() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = close_states(&lab, 6);
    let refuse = Fault::status(403, "AccessDenied").on(Op::Put).key("f").always();
    let refused = lab.server().faults().add(refuse);
    hold.release();
    eventually("they were refused in more than one round", || refused.hits() >= 8);
    lab.server().faults().clear();
    assert_in_order(lab, 6);
}

/// A directory whose rename was cut off with every copy made and every source there. The deletes
/// that were asked for are never carried out while the holds live.
fn renamed_and_nothing_deleted() -> (Lab, [Hold; 2]) {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("old/", "");
        for number in 0..5 {
            bucket.put(&format!("old/{number}"), format!("bytes {number}"));
        }
    });
    let holds = [Op::Delete, Op::DeleteMany].map(|op| lab.server().faults().hold(op, ""));
    thread::scope(|scope| {
        let renaming = scope.spawn(|| fs::rename(lab.path("old"), lab.path("new")));
        eventually("all is copied", || holds.iter().any(|hold| hold.arrived() > 0));
        lab.mount().crash();
        assert!(renaming.join().unwrap().is_err(), "nobody was told that it is done");
    });
    lab.server().faults().clear();
    let keys = lab.bucket().keys();
    assert_eq!(keys.iter().filter(|key| key.starts_with("new/")).count(), 6, "{keys:?}");
    assert_eq!(keys.iter().filter(|key| key.starts_with("old/")).count(), 6, "{keys:?}");
    (lab, holds)
}

/// Asserts that the directory is whole under its old name, for the next mount and the one after.
fn assert_under_the_old_name(lab: &Lab) {
    for _ in 0..2 {
        let again = lab.after_crash(&LONG);
        assert_eq!(names(&again.path().join("old")), ["0", "1", "2", "3", "4"]);
        assert!(again.unmount().unwrap().success());
        let keys = lab.bucket().keys();
        assert_eq!(keys, ["old/", "old/0", "old/1", "old/2", "old/3", "old/4"]);
        for number in 0..5 {
            let bytes = lab.object(&format!("old/{number}"));
            assert_eq!(bytes, format!("bytes {number}").as_bytes());
        }
    }
}

#[test]
fn a_directory_that_somebody_has_put_back_after_its_rename_was_cut_off_stays() {
    let (lab, _holds) = renamed_and_nothing_deleted();
    // What the store notes has whole seconds.
    thread::sleep(Duration::from_millis(1_100));
    let bucket = lab.bucket();
    for key in bucket.keys().iter().filter(|key| key.starts_with("new/")) {
        let bytes = bucket.get(key).unwrap();
        bucket.put(&key.replacen("new/", "old/", 1), bytes);
        bucket.delete(key);
    }
    assert_under_the_old_name(&lab);
}

#[test]
fn sources_of_a_rename_stay_where_somebody_has_deleted_their_copies() {
    let (lab, _holds) = renamed_and_nothing_deleted();
    let bucket = lab.bucket();
    for key in bucket.keys().iter().filter(|key| key.starts_with("new/")) {
        bucket.delete(key);
    }
    assert_under_the_old_name(&lab);
}

#[test]
fn a_file_whose_staged_bytes_cannot_be_read_holds_up_no_other() {
    let lab = Lab::empty(&BRIEF_BACK);
    let hold = lab.server().faults().hold(Op::Put, "zero");
    write(&lab.path("zero"), b"0");
    assert!(hold.wait_for_blocking(1, PATIENCE));
    write(&lab.path("bad"), &pattern(70_000));
    write(&lab.path("good"), b"good");
    let stage = OpenOptions::new().write(true).open(stage_of(&lab, 70_000)).unwrap();
    stage.set_len(0).unwrap();
    hold.release();
    eventually("the one behind it is sent", || lab.bucket().contains("good"));
    let mut other = File::create(lab.path("other")).unwrap();
    other.write_all(b"other").unwrap();
    other.sync_all().unwrap();
    close(other).unwrap();
    assert_eq!(lab.object("other"), b"other");
    assert!(!lab.bucket().contains("bad"), "it has other bytes than it was closed with");
}

#[test]
fn a_read_only_mount_that_starts_first_keeps_no_unsent_file_from_a_writer_beside_it() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = lab.server().faults().hold(Op::Put, "f");
    write(&lab.path("f"), b"promised");
    crash_at(&lab, &hold);
    let reader = lab.after_crash(&["--read-only"]);
    let writer = lab.after_crash(&WRITE_BACK);
    assert_eq!(read(&writer.path().join("f")), b"promised");
    assert!(writer.unmount().unwrap().success());
    assert_eq!(lab.object("f"), b"promised");
    assert!(reader.unmount().unwrap().success());
}

#[test]
fn attributes_that_wait_do_not_outlive_those_of_a_later_close() {
    let arguments = [&WRITE_BACK[..], &["--attr-delay", "60s"]].concat();
    let lab = Lab::new(&arguments, |bucket| drop(bucket.put("f", "old")));
    fs::set_permissions(lab.path("f"), Permissions::from_mode(0o666)).unwrap();
    let hold = lab.server().faults().hold(Op::Put, "f");
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    close(file).unwrap();
    crash_at(&lab, &hold);
    let again = lab.after_crash(&arguments);
    assert_eq!(fs::metadata(again.path().join("f")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(read(&again.path().join("f")), b"new");
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), Some("0100600"));
    assert_eq!(lab.object("f"), b"new");
}

#[test]
fn an_upload_outlives_a_mount_that_cannot_take_its_file_up() {
    const SIZE: u64 = 80 * MIB;
    let arguments = [&WRITE_BACK[..], &["--staging-size", "32MiB"]].concat();
    let lab = Lab::empty(&arguments);
    let hold = lab.server().faults().hold(Op::CompleteUpload, "f");
    let file = File::create(lab.path("f")).unwrap();
    for start in (0..SIZE).step_by(4 * MIB as usize) {
        file.write_all_at(&synthetic_bytes(9, start..start + 4 * MIB), start).unwrap();
    }
    close(file).unwrap();
    crash_at(&lab, &hold);
    let stage = stage_of(&lab, SIZE);
    let elsewhere = stage.with_extension("elsewhere");
    fs::rename(&stage, &elsewhere).unwrap();
    // No file can be opened there, as with a disk that fails for a moment.
    fs::create_dir(&stage).unwrap();
    let _all_sent_or_not = lab.after_crash(&arguments).unmount().unwrap();
    fs::remove_dir(&stage).unwrap();
    fs::rename(&elsewhere, &stage).unwrap();
    let again = lab.after_crash(&arguments);
    assert!(again.unmount().unwrap().success());
    assert!(lab.object("f") == synthetic_bytes(9, 0..SIZE), "the bytes differ");
}

/// Takes all that is free of a disk; the file that has it.
fn fill(disk: &Path) -> PathBuf {
    let ballast = disk.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    for size in [1 << 16, 512] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    ballast
}

#[test]
fn a_rename_that_the_journal_has_no_room_for_takes_nothing_that_was_promised() {
    let folder = tempfile::tempdir().unwrap();
    let _disk = Mounted::disk(folder.path(), 32 * MIB);
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let start = || {
        let endpoint = server.s3_endpoint(BUCKET);
        let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &endpoint).without_own_cache();
        let options = options.arg("--cache-dir").arg(folder.path()).args(BRIEF_BACK);
        options.args(["--cache-size", "0", "--staging-size", "24MiB"]).start().unwrap()
    };
    let mount = start();
    let path = |name: &str| mount.path().join(name);
    let hold = server.faults().hold(Op::Put, "zero");
    for name in ["zero", "f", "pad", "tmp"] {
        write(&path(name), name.as_bytes());
    }
    assert!(hold.wait_for_blocking(1, PATIENCE));
    let ballast = fill(folder.path());
    // The log's last block takes some lines yet.
    let (mut from, mut to) = (path("pad"), path("moved"));
    for _ in 0..60 {
        if fs::rename(&from, &to).is_err() {
            break;
        }
        std::mem::swap(&mut from, &mut to);
    }
    let renamed = fs::rename(path("tmp"), path("f"));
    mount.crash();
    server.faults().clear();
    fs::remove_file(ballast).unwrap();

    let again = start();
    let kept: &[(&str, &str)] = match &renamed {
        Ok(()) => &[("f", "tmp")],
        Err(_) => &[("f", "f"), ("tmp", "tmp")],
    };
    for (name, bytes) in kept {
        assert_eq!(read(&again.path().join(name)), bytes.as_bytes(), "{name}, {renamed:?}");
    }
    assert!(again.unmount().unwrap().success());
    for (name, bytes) in kept {
        let object = server.bucket(BUCKET).get(name);
        assert!(object.is_some_and(|object| object == *bytes), "{name}, {renamed:?}");
    }
}

#[test]
fn bytes_of_an_unanswered_edit_that_a_power_cut_took_are_not_sent_as_zeros() {
    let bytes = pattern(10 * PAGE);
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", bytes.clone())));
    let hold = lab.server().faults().hold(Op::Put, "f");
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(&[b'x'; PAGE], 5 * PAGE as u64).unwrap();
    thread::scope(|scope| {
        let closing = scope.spawn(move || close(file));
        crash_at(&lab, &hold);
        assert!(closing.join().unwrap().is_err(), "nobody was told that it is done");
    });
    // The file's size was on disk, and none of its bytes: one hole.
    let size = 10 * PAGE as u64;
    let stage = OpenOptions::new().write(true).open(stage_of(&lab, size)).unwrap();
    stage.set_len(0).unwrap();
    stage.set_len(size).unwrap();
    let again = lab.after_crash(&LONG);
    assert!(again.unmount().unwrap().success());
    assert!(lab.object("f") == bytes, "the bytes differ");
}

#[test]
fn older_bytes_that_a_power_cut_brings_back_do_not_replace_newer_ones() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = lab.server().faults().hold(Op::Put, "f");
    write(&lab.path("f"), b"older");
    assert!(hold.wait_for_blocking(1, PATIENCE));
    write(&lab.path("f"), b"newer");
    // What was promised is on disk by now; what the journal says from here on needs not be.
    let cache = lab.mount().cache_folder().unwrap();
    let synced = tempfile::tempdir().unwrap();
    let folder = synced.path().display();
    shell(&cache, &format!("cp -a journal {folder}/"));
    hold.release();
    let is_newer = || lab.bucket().get("f").is_some_and(|bytes| bytes == "newer");
    eventually("both were sent", is_newer);
    lab.mount().crash();
    shell(&cache, &format!("rm -r journal; cp -a {folder}/journal ."));
    let again = lab.after_crash(&WRITE_BACK);
    assert_eq!(read(&again.path().join("f")), b"newer");
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.object("f"), b"newer");
}

#[test]
fn an_empty_state_that_was_promised_and_passed_over_leaves_nothing_behind() {
    let lab = Lab::empty(&WRITE_BACK);
    let unsent = |count| lab.metric("s3pod_unsent_files", &[]) == count;
    let hold = lab.server().faults().hold(Op::Put, "zero");
    write(&lab.path("zero"), b"zero");
    let file = fs::File::create(lab.path("f")).unwrap();
    eventually("the empty file is promised", || unsent(2));
    file.write_all_at(b"half", 0).unwrap();
    hold.release();
    eventually("the other one is sent", || unsent(1));
    assert!(!lab.bucket().contains("f"), "half of it is nobody's business");
    file.set_len(0).unwrap();
    file.write_all_at(b"whole", 0).unwrap();
    close(file).unwrap();
    eventually("it is sent", || unsent(0));
    assert_eq!(lab.object("f"), b"whole");
    fs::remove_file(lab.path("f")).unwrap();
    fs::File::open(lab.path("")).unwrap().sync_all().unwrap();
    lab.mount().crash();
    let again = lab.after_crash(&WRITE_BACK);
    assert_eq!(names(again.path()), ["zero"]);
    assert!(again.unmount().unwrap().success());
    assert!(!lab.bucket().contains("f"));
}
