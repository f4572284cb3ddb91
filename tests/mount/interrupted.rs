//! A daemon that is killed between two requests of one call: what it had promised holds when the
//! next one starts with the same folder, and nothing is lost or there twice.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use s3pod_testkit::{Bucket, Fault, Hold, Mount, Op, ServerOptions, TestServer, synthetic_bytes};
use tempfile::TempDir;

use crate::bench::{names, read};
use crate::lab::PATIENCE;

const BUCKET: &str = "photos";
const GIB: u64 = 1 << 30;

/// A server, and the folder that outlives the mounts.
struct Lab {
    server: TestServer,
    cache: TempDir,
}

impl Lab {
    fn new(prepare: impl FnOnce(&Bucket)) -> Self {
        let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
        prepare(&server.bucket(BUCKET));
        Self { server, cache: tempfile::tempdir().unwrap() }
    }

    fn mount(&self) -> Mount {
        let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &self.server.s3_endpoint(BUCKET));
        let options = options.without_own_cache().arg("--cache-dir").arg(self.cache.path());
        options.args(["--metadata-ttl", "10m"]).start().unwrap()
    }

    fn bucket(&self) -> Bucket {
        self.server.bucket(BUCKET)
    }

    fn hold(&self, op: Op, key: &str) -> Hold {
        self.server.faults().hold(op, key)
    }

    /// Renames on a mount that is killed as soon as a request is held; then the hold is over.
    fn rename_interrupted(&self, from: &str, to: &str, hold: Hold) {
        let mount = self.mount();
        let (from, to) = (mount.path().join(from), mount.path().join(to));
        thread::scope(|scope| {
            let renaming = scope.spawn(move || fs::rename(from, to));
            assert!(hold.wait_for_blocking(1, PATIENCE));
            mount.crash();
            assert!(renaming.join().unwrap().is_err(), "nobody was told that it is done");
        });
        drop(mount);
        drop(hold);
    }

    /// What lies in the journal's folder besides the log and the lock.
    fn files_left(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        let mut folders = vec![self.cache.path().join("journal")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.file_name().and_then(|name| name.to_str()) {
                    _ if path.is_dir() => folders.push(path),
                    Some("log" | "lock") => {}
                    _ => left.push(path),
                }
            }
        }
        left
    }
}

fn filled(count: usize) -> impl FnOnce(&Bucket) {
    move |bucket| {
        bucket.put("d/", "");
        for number in 0..count {
            bucket.put(&format!("d/{number:05}"), format!("{number}"));
        }
    }
}

#[test]
fn acknowledged_deletes_are_carried_out_by_the_next_mount() {
    let lab = Lab::new(filled(6));
    let mount = lab.mount();
    let open = File::open(mount.path().join("d/00005")).unwrap();
    fs::remove_file(mount.path().join("d/00005")).unwrap();
    fs::remove_file(mount.path().join("d/00000")).unwrap();
    let holds = [lab.hold(Op::Delete, ""), lab.hold(Op::DeleteMany, "")];
    for number in 1..4 {
        fs::remove_file(mount.path().join(format!("d/{number:05}"))).unwrap();
    }
    mount.crash();
    drop((open, mount, holds));
    assert_eq!(lab.bucket().keys().len(), 6, "four of them were acknowledged only");
    // One of the names was made again by somebody else, and is not what was unlinked.
    lab.bucket().put("d/00002", "theirs");
    let mount = lab.mount();
    assert_eq!(lab.bucket().keys(), ["d/", "d/00002", "d/00004"]);
    assert_eq!(names(&mount.path().join("d")), ["00002", "00004"]);
    assert_eq!(read(&mount.path().join("d/00002")), b"theirs");
    assert!(mount.unmount().unwrap().success());
    // Nothing is left to do a second time.
    lab.bucket().put("d/00001", "1");
    assert!(lab.mount().unmount().unwrap().success());
    assert!(lab.bucket().contains("d/00001"));
}

#[test]
fn an_unlinked_file_is_not_back_after_a_crash_although_its_name_was_made_again() {
    let lab = Lab::new(|bucket| ["f", "g", "h"].iter().for_each(|key| drop(bucket.put(key, *key))));
    let mount = lab.mount();
    let path = |name: &str| mount.path().join(name);
    let open = ["f", "g", "h"].map(|name| File::open(path(name)).unwrap());
    fs::remove_file(path("f")).unwrap();
    let new = File::create(path("f")).unwrap();
    new.write_all_at(b"not committed", 0).unwrap();
    // One that gets the name by a rename, and one of the same bytes that is committed.
    fs::remove_file(path("g")).unwrap();
    let other = File::create(path("other")).unwrap();
    other.write_all_at(b"not committed", 0).unwrap();
    fs::rename(path("other"), path("g")).unwrap();
    fs::remove_file(path("h")).unwrap();
    fs::write(path("h"), "h").unwrap();
    mount.crash();
    drop((open, new, other, mount));
    assert!(lab.bucket().contains("f") && lab.bucket().contains("g"), "nothing was sent yet");
    let mount = lab.mount();
    // An empty file may have been committed by itself.
    let is_old = |name: &str| lab.bucket().get(name).is_some_and(|bytes| bytes == *name);
    assert!(!is_old("f") && !is_old("g"), "{:?}", lab.bucket().keys());
    assert_eq!(read(&mount.path().join("h")), b"h");
    assert!(mount.unmount().unwrap().success());
    assert!(is_old("h"));
}

#[test]
fn deletes_that_failed_at_the_end_are_carried_out_by_the_next_mount() {
    let lab = Lab::new(filled(3));
    let mount = lab.mount();
    fs::remove_file(mount.path().join("d/00000")).unwrap();
    lab.server.faults().add(Fault::status(403, "AccessDenied").on(Op::Delete).always());
    fs::remove_file(mount.path().join("d/00001")).unwrap();
    assert_eq!(mount.unmount().unwrap().code(), Some(1));
    lab.server.faults().clear();
    assert!(lab.mount().unmount().unwrap().success());
    assert_eq!(lab.bucket().keys(), ["d/", "d/00002"]);
}

#[test]
fn a_rename_with_its_copy_made_is_finished() {
    let lab = Lab::new(|bucket| {
        bucket.put("d/old", "bytes");
        bucket.put("d/new", "replaced");
    });
    lab.rename_interrupted("d/old", "d/new", lab.hold(Op::Delete, "d/old"));
    assert!(lab.bucket().contains("d/old") && lab.bucket().contains("d/new"));
    let mount = lab.mount();
    assert_eq!(names(&mount.path().join("d")), ["new"]);
    assert_eq!(read(&mount.path().join("d/new")), b"bytes");
}

#[test]
fn a_rename_whose_copys_answer_was_lost_is_finished() {
    let lab = Lab::new(|bucket| drop(bucket.put("d/old", "bytes")));
    let hold = lab.server.faults().hold_answer(Op::Copy, "d/new");
    lab.rename_interrupted("d/old", "d/new", hold);
    let mount = lab.mount();
    assert_eq!(names(&mount.path().join("d")), ["new"]);
    assert_eq!(read(&mount.path().join("d/new")), b"bytes");
}

#[test]
fn a_rename_before_its_copy_has_not_happened() {
    let lab = Lab::new(|bucket| {
        bucket.put("d/old", "bytes");
        bucket.put("d/new", "stays");
    });
    lab.rename_interrupted("d/old", "d/new", lab.hold(Op::Copy, "d/new"));
    let mount = lab.mount();
    assert_eq!(names(&mount.path().join("d")), ["new", "old"]);
    assert_eq!(read(&mount.path().join("d/old")), b"bytes");
    assert_eq!(read(&mount.path().join("d/new")), b"stays");
}

/// A tree whose rename takes more than one page, with an object that is copied in parts.
fn plant(bucket: &Bucket) {
    bucket.put("old/", "");
    bucket.put("old/0/", "");
    bucket.put_synthetic("old/huge", 6 * GIB, 1);
    for number in 0..1_500 {
        bucket.put(&format!("old/{}/{number:05}", number % 7), format!("{number}"));
    }
}

fn assert_planted(lab: &Lab, root: &Path, at: &str) {
    let keys = lab.bucket().keys();
    let there: Vec<&String> = keys.iter().filter(|key| key.starts_with(at)).collect();
    assert_eq!(keys.iter().collect::<Vec<_>>(), there, "all of it is below {at}");
    let files = keys.iter().filter(|key| !key.ends_with('/')).count();
    assert_eq!(files, 1_501);
    for number in [0, 700, 1_499] {
        let key = format!("{at}{}/{number:05}", number % 7);
        assert_eq!(lab.bucket().get(&key).unwrap(), format!("{number}"), "{key}");
    }
    let end = 6 * GIB - 10..6 * GIB;
    let huge = lab.bucket().get_range(&format!("{at}huge"), end.clone()).unwrap();
    assert_eq!(huge, synthetic_bytes(1, end));
    assert_eq!(names(root), [at.trim_end_matches('/')]);
    assert!(lab.files_left().is_empty(), "{:?}", lab.files_left());
}

#[test]
fn a_directorys_rename_that_was_still_copying_is_taken_back() {
    let lab = Lab::new(plant);
    lab.rename_interrupted("old", "new", lab.hold(Op::Copy, "new/6/01210"));
    let copies = lab.bucket().keys().iter().filter(|key| key.starts_with("new/")).count();
    assert!(copies > 500, "{copies} were made");
    let mount = lab.mount();
    assert_planted(&lab, mount.path(), "old/");
    fs::rename(mount.path().join("old"), mount.path().join("new")).unwrap();
    assert_planted(&lab, mount.path(), "new/");
}

#[test]
fn what_others_wrote_meanwhile_is_not_taken_back() {
    let lab = Lab::new(plant);
    lab.rename_interrupted("old", "new", lab.hold(Op::Copy, "new/6/01210"));
    lab.bucket().put("new/0/00000", "theirs");
    lab.bucket().delete("old/1/00001");
    let mount = lab.mount();
    let keys = lab.bucket().keys();
    let below: Vec<&String> = keys.iter().filter(|key| key.starts_with("new/")).collect();
    assert_eq!(below, ["new/0/00000", "new/1/00001"], "the only copy of a file stays");
    assert_eq!(read(&mount.path().join("new/0/00000")), b"theirs");
}

#[test]
fn a_directorys_rename_that_was_deleting_is_finished() {
    let lab = Lab::new(plant);
    lab.rename_interrupted("old", "new", lab.hold(Op::DeleteMany, ""));
    lab.bucket().delete("old/3/00003");
    let mount = lab.mount();
    assert_planted(&lab, mount.path(), "new/");
}

#[test]
fn a_directorys_rename_that_fails_has_not_happened() {
    let lab = Lab::new(plant);
    let mount = lab.mount();
    let denied = Fault::status(403, "AccessDenied");
    lab.server.faults().add(denied.on(Op::Copy).key("new/6/01490"));
    let (from, to) = (mount.path().join("old"), mount.path().join("new"));
    let error = fs::rename(&from, &to).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EACCES as i32));
    assert_planted(&lab, mount.path(), "old/");
    fs::rename(&from, &to).unwrap();
    assert_planted(&lab, mount.path(), "new/");
}
