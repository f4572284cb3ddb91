//! What another writer won over: kept beside the cache, listed, saved and discarded.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Output};

use nix::errno::Errno;
use s3pod_testkit::{Mount, Op, ServerOptions, TestServer};
use serde_json::Value;

use crate::bench::{close, eventually, pattern, read};
use crate::lab::{Lab, PATIENCE};

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;

/// `s3pod recover` with nothing but the cache folder: no store, no credentials.
fn recover(cache: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod"));
    command.env_clear().arg("recover").args(arguments).arg("--cache-dir").arg(cache);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is kept, as programs see it.
pub(crate) fn kept(cache: &Path) -> Vec<Value> {
    let output = recover(cache, &["list", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    all.as_array().unwrap().clone()
}

/// Saves what was listed as this.
pub(crate) fn save(cache: &Path, one: &Value, target: &Path) -> Output {
    recover(cache, &["save", &id_of(one), target.to_str().unwrap()])
}

fn id_of(one: &Value) -> String {
    one["id"].as_str().unwrap().to_owned()
}

/// Loses an edit of `f` at `at`.
fn lose(lab: &Lab, at: u64) {
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"mine", at).unwrap();
    lab.bucket().put("f", "theirs");
    assert_eq!(close(file), Err(Errno::ESTALE));
}

#[test]
fn an_edit_that_lost_is_saved_whole_where_its_base_was_cached() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    read(&lab.path("f"));
    lose(&lab, 3);
    let cache = lab.mount().cache_folder().unwrap();
    let all = kept(&cache);
    assert_eq!(all.len(), 1, "{all:#?}");
    let one = &all[0];
    assert_eq!((&one["bucket"], &one["key"]), (&"photos".into(), &"f".into()));
    assert_eq!((&one["reason"], &one["size"]), (&"changed".into(), &10.into()));
    assert_eq!(one["base"]["size"], 10);
    assert_eq!(one["dirty"], serde_json::json!([{"start": 3, "end": 7}]));
    assert_eq!(one["present"], serde_json::json!([{"start": 0, "end": 10}]));
    assert_eq!(one["missing"], serde_json::json!([]));

    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("saved");
    let save = ["save", &id_of(one), target.to_str().unwrap()];
    let output = recover(&cache, &save);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(fs::read(&target).unwrap(), b"012mine789");
    assert_eq!(lab.object("f"), b"theirs");

    let again = recover(&cache, &save);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("--force"), "{}", said(&again));
    fs::write(&target, "in the way").unwrap();
    let forced = recover(&cache, &[&save[..], &["--force"]].concat());
    assert_eq!(forced.status.code(), Some(0), "{}", said(&forced));
    assert_eq!(fs::read(&target).unwrap(), b"012mine789");
}

#[test]
fn what_is_missing_is_zeros_and_said() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", pattern(20 * MIB))));
    lose(&lab, 8 * MIB as u64);
    let cache = lab.mount().cache_folder().unwrap();
    let all = kept(&cache);
    let one = &all[0];
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("saved");
    // The beginning of an ID is enough where it is the only one.
    let output = recover(&cache, &["save", &id_of(one)[..6], target.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let missing = one["missing"].as_array().unwrap();
    assert!(!missing.is_empty(), "{one:#?}");
    let begins_at = |range: &Value| range["start"].as_u64().unwrap();
    assert!(said(&output).contains(&format!("{}..", begins_at(&missing[0]))), "{}", said(&output));

    let saved = fs::read(&target).unwrap();
    assert_eq!(saved.len(), 20 * MIB);
    assert_eq!(&saved[8 * MIB..8 * MIB + 4], b"mine");
    let zeros = |range: &Value| {
        let (start, end) = (begins_at(range), range["end"].as_u64().unwrap());
        saved[start as usize..end as usize].iter().all(|byte| *byte == 0)
    };
    assert!(missing.iter().all(zeros));
    let blocks = fs::metadata(&target).unwrap().blocks();
    assert!(blocks * 512 < 10 * MIB as u64, "{blocks} blocks: the holes are no holes");
}

#[test]
fn an_exclusive_create_that_lost_is_kept_too() {
    let lab = Lab::empty(&[]);
    let mut file = OpenOptions::new().write(true).create_new(true).open(lab.path("f")).unwrap();
    file.write_all(b"mine").unwrap();
    lab.bucket().put("f", "theirs");
    assert_eq!(close(file), Err(Errno::EEXIST));
    let all = kept(&lab.mount().cache_folder().unwrap());
    assert_eq!((&all[0]["reason"], &all[0]["base"]), (&"created".into(), &Value::Null));
    assert_eq!(all[0]["missing"], serde_json::json!([]));
}

#[test]
fn a_lock_that_was_not_won_leaves_nothing_to_recover() {
    let lab = Lab::empty(&["--exclusive-create", "open", "--metadata-ttl", "0"]);
    let lock = lab.path("lock");
    let hold = lab.server().faults().hold(Op::Put, "lock");
    let path = lock.clone();
    let taking = std::thread::spawn(move || File::create_new(path));
    assert!(hold.wait_for_blocking(1, PATIENCE));
    lab.bucket().put("lock", "theirs");
    hold.release();
    let lost = taking.join().unwrap().unwrap_err();
    assert_eq!(lost.raw_os_error(), Some(Errno::EEXIST as i32));
    assert!(kept(&lab.mount().cache_folder().unwrap()).is_empty());
}

#[test]
fn what_is_kept_outlives_the_mount_and_is_said_to_the_next_one() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    read(&lab.path("f"));
    lose(&lab, 0);
    lab.bucket().put("f", "9876543210");
    lose(&lab, 0);
    let cache = lab.mount().cache_folder().unwrap();
    let endpoint = lab.server().s3_endpoint("photos");
    let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &endpoint).without_own_cache();
    let next = options.arg("--cache-dir").arg(&cache).start().unwrap();
    assert!(next.stderr().contains("s3pod recover list"), "{}", next.stderr());
    assert!(next.unmount().unwrap().success());

    let table = recover(&cache, &["list"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("s3://photos/f") && table.contains("changed by another"), "{table}");
    let all = kept(&cache);
    let first = recover(&cache, &["discard", &id_of(&all[0])]);
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    assert_eq!(kept(&cache), all[1..]);
    let gone = recover(&cache, &["discard", &id_of(&all[0])]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("s3pod recover list"), "{}", said(&gone));
    assert_eq!(recover(&cache, &["discard", "--all"]).status.code(), Some(0));
    assert!(kept(&cache).is_empty());
}

#[test]
fn a_commit_that_a_killed_mount_had_begun_and_another_writer_beat_is_kept_by_the_next() {
    let server = TestServer::spawn(ServerOptions::with_bucket("photos"));
    let bucket = server.bucket("photos");
    bucket.put("f", "0123456789");
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let endpoint = server.s3_endpoint("photos");
        let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &endpoint).without_own_cache();
        options.arg("--cache-dir").arg(folder.path()).start().unwrap()
    };
    let mount = start();
    let file = OpenOptions::new().write(true).open(mount.path().join("f")).unwrap();
    file.write_all_at(b"mine", 3).unwrap();
    let hold = server.faults().hold(Op::Put, "f");
    std::thread::scope(|scope| {
        let closing = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        bucket.put("f", "theirs");
        mount.crash();
        assert!(closing.join().unwrap().is_err(), "nobody was told that it is done");
    });
    drop(mount);
    drop(hold);

    let next = start();
    eventually("the bytes are kept", || kept(folder.path()).len() == 1);
    assert!(next.unmount().unwrap().success());
    let one = &kept(folder.path())[0];
    assert_eq!((&one["key"], &one["reason"]), (&"f".into(), &"changed".into()));
    assert_eq!(one["dirty"], serde_json::json!([{"start": 3, "end": 7}]));
    assert_eq!(bucket.get("f").unwrap(), "theirs");
    let last = start();
    assert!(!last.stderr().contains("cannot be taken up"), "{}", last.stderr());
    assert_eq!(kept(folder.path()).len(), 1);
}
