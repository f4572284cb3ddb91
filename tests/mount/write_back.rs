//! `--write-back`: what close() promises, what still waits for S3, and what is refused.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use s3pod_testkit::{Fault, Mount, Op, ServerOptions, TestServer};

use crate::bench::{assert_waits, close, errno, eventually, pattern, read, write};
use crate::lab::{Lab, PATIENCE};

const MIB: usize = 1 << 20;
const WRITE_BACK: [&str; 4] = ["--write-back", "--write-back-ephemeral", "--metadata-ttl", "10m"];

#[test]
fn close_does_not_wait_for_the_store_and_fsync_does() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = lab.server().faults().hold(Op::Put, "");
    write(&lab.path("closed"), b"closed");
    let mut file = File::create(lab.path("synced")).unwrap();
    file.write_all(b"synced").unwrap();
    let syncer = thread::spawn(move || file.sync_all());
    assert!(hold.wait_for_blocking(1, PATIENCE));
    assert!(!syncer.is_finished() && lab.bucket().keys().is_empty());
    assert_eq!(read(&lab.path("closed")), b"closed");
    hold.release();
    syncer.join().unwrap().unwrap();
    assert_eq!(lab.bucket().keys(), ["closed", "synced"], "what was closed before came before");
}

#[test]
fn a_file_that_is_emptied_and_written_anew_keeps_what_was_closed_until_then() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = lab.server().faults().hold(Op::Put, "f");
    write(&lab.path("f"), b"the first bytes");
    assert!(hold.wait_for_blocking(1, PATIENCE));
    let mut file = OpenOptions::new().write(true).truncate(true).open(lab.path("f")).unwrap();
    file.write_all(b"second").unwrap();
    close(file).unwrap();
    assert_eq!(read(&lab.path("f")), b"second");
    hold.release();
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!(bucket.get("f").unwrap(), "second");
    assert_eq!(log.count(Op::Put), 2, "both were promised: {:?}", log.counts());
}

#[test]
fn no_more_than_64_closed_states_of_a_file_wait() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = lab.server().faults().hold(Op::Put, "f");
    let state = |number: usize| format!("state {number}");
    // The one that is under way or next to be, and those that truncations have left behind.
    for number in 0..=64 {
        write(&lab.path("f"), state(number).as_bytes());
    }
    thread::scope(|scope| {
        let last = scope.spawn(|| write(&lab.path("f"), state(65).as_bytes()));
        assert_waits(&last);
        assert_eq!(hold.arrived(), 1, "they are sent in turn");
        hold.release();
        last.join().unwrap();
    });
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!(bucket.get("f").unwrap(), state(65));
    assert_eq!(log.count(Op::Put), 66, "each was promised: {:?}", log.counts());
}

#[test]
fn a_delete_and_a_rename_are_not_seen_before_an_earlier_close() {
    let lab = Lab::new(&WRITE_BACK, |bucket| {
        bucket.put("old", "old");
        bucket.put("gone", "gone");
    });
    read(&lab.path("old"));
    read(&lab.path("gone"));
    let hold = lab.server().faults().hold(Op::Put, "new");
    write(&lab.path("new"), b"new");
    assert!(hold.wait_for_blocking(1, PATIENCE));
    let (from, to, gone) = (lab.path("old"), lab.path("moved"), lab.path("gone"));
    let mover = thread::spawn(move || fs::rename(from, to));
    let remover = thread::spawn(move || fs::remove_file(gone));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(lab.log().count(Op::Copy) + lab.log().count(Op::Delete), 0);
    hold.release();
    mover.join().unwrap().unwrap();
    remover.join().unwrap().unwrap();
    eventually("all is carried out", || lab.bucket().keys() == ["moved", "new"]);
}

#[test]
fn what_is_unlinked_before_it_was_sent_is_never_sent() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = lab.server().faults().hold(Op::Put, "first");
    write(&lab.path("first"), b"1");
    assert!(hold.wait_for_blocking(1, PATIENCE));
    write(&lab.path("second"), b"2");
    fs::remove_file(lab.path("second")).unwrap();
    hold.release();
    // The names are looked for, and the first is sent.
    lab.asserts_requests(&[(Op::Head, 2), (Op::List, 2), (Op::Put, 1)]);
}

#[test]
fn a_rename_over_a_file_replaces_it_in_one_put() {
    let lab = Lab::new(&WRITE_BACK, |bucket| drop(bucket.put("f", "old")));
    read(&lab.path("f"));
    write(&lab.path("f.tmp"), b"new");
    fs::rename(lab.path("f.tmp"), lab.path("f")).unwrap();
    assert_eq!(read(&lab.path("f")), b"new");
    let bucket = lab.bucket();
    lab.count();
    assert_eq!((bucket.keys(), bucket.get("f").unwrap()), (vec!["f".to_owned()], "new".into()));
}

#[test]
fn a_store_that_refuses_is_told_by_fsync_and_at_the_end() {
    let lab = Lab::empty(&[&WRITE_BACK[..], &["--op-timeout", "1s"]].concat());
    lab.break_all(Op::Put, Fault::status(403, "AccessDenied"));
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    assert_eq!(errno(file.sync_all()), Errno::EACCES);
    close(file).unwrap();
    lab.server().faults().clear();
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.get("f").unwrap(), "bytes", "the drain tries once more");
}

/// Asserts that `--write-back` wants its journal nowhere below this folder, and takes it where the
/// loss is accepted.
fn assert_refused(server: &TestServer, folder: &Path, why: &str) {
    let options = || {
        let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &server.s3_endpoint("photos"));
        options.without_own_cache().arg("--cache-dir").arg(folder).arg("--write-back")
    };
    let refused = options().start().err().unwrap_or_else(|| panic!("{why} was taken"));
    assert_eq!(refused.code(), Some(78), "{why}: {refused}");
    assert!(refused.stderr.contains("--write-back-ephemeral"), "{why}: {refused}");
    let accepted = options().arg("--write-back-ephemeral").start().unwrap();
    assert!(accepted.unmount().unwrap().success(), "{why}");
}

/// A folder on which something is mounted, as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, source: &Path, kind: &str, flags: MsFlags, data: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount(Some(source), &at, Some(kind), flags, Some(data)).unwrap();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_journal_that_goes_with_the_pod_is_refused() {
    let server = TestServer::spawn(ServerOptions::with_bucket("photos"));
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("memory");
    let none = Path::new("none");
    let memory = Mounted::new(memory, none, "tmpfs", MsFlags::empty(), "");
    assert_refused(&server, &memory.0, "a tmpfs");
    // As kubelet names it, and mounts it into a container.
    let volume = folder.path().join("pods/uid/volumes/kubernetes.io~empty-dir/staging");
    fs::create_dir_all(&volume).unwrap();
    let at = folder.path().join("staging");
    let empty_dir = Mounted::new(at, &volume, "none", MsFlags::MS_BIND, "");
    assert_refused(&server, &empty_dir.0, "an emptyDir");
    assert_refused(&server, &empty_dir.0.join("below"), "a folder below an emptyDir");
    drop(empty_dir);
}

#[test]
fn a_journal_that_goes_with_the_container_is_refused() {
    let server = TestServer::spawn(ServerOptions::with_bucket("photos"));
    let folder = tempfile::tempdir().unwrap();
    // An overlay cannot lie over another one, as which the tests' own folder may be.
    let none = Path::new("none");
    let layers = Mounted::new(folder.path().join("l"), none, "tmpfs", MsFlags::empty(), "");
    for layer in ["lower", "upper", "work"] {
        fs::create_dir(layers.0.join(layer)).unwrap();
    }
    let path = |layer: &str| layers.0.join(layer).display().to_string();
    let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
    let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let at = folder.path().join("image");
    let image = Mounted::new(at, none, "overlay", MsFlags::empty(), &data);
    assert_refused(&server, &image.0, "what a container writes over its image");
    drop(image);
}

#[test]
fn a_journal_apart_from_the_cache_outlives_it() {
    let journal = tempfile::tempdir().unwrap();
    let apart = ["--journal-dir", journal.path().to_str().unwrap()];
    let lab = Lab::empty(&[&apart[..], &WRITE_BACK[..]].concat());
    let hold = lab.server().faults().hold(Op::Put, "f");
    write(&lab.path("f"), b"promised");
    assert!(hold.wait_for_blocking(1, PATIENCE));
    lab.mount().crash();
    hold.release();
    fs::remove_dir_all(lab.mount().cache_folder().unwrap()).unwrap();
    lab.bucket().delete("f");
    let again = lab.another(&apart);
    assert_eq!(read(&again.path().join("f")), b"promised");
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.object("f"), b"promised");
}

#[test]
fn attributes_that_wait_survive_a_crash() {
    let lab = Lab::new(&["--attr-delay", "60s"], |bucket| {
        bucket.put("f", "bytes");
        bucket.put("d/", "");
    });
    fs::set_permissions(lab.path("f"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(lab.path("d"), Permissions::from_mode(0o700)).unwrap();
    let cache = lab.mount().cache_folder().unwrap();
    lab.mount().crash();
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), None);
    let again = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &lab.server().s3_endpoint("photos"));
    let again = again.without_own_cache().arg("--cache-dir").arg(cache).start().unwrap();
    let mode = |name: &str| fs::metadata(again.path().join(name)).unwrap().permissions().mode();
    assert_eq!((mode("f") & 0o7777, mode("d") & 0o7777), (0o600, 0o700));
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), Some("0100600"));
    assert_eq!(lab.bucket().object("d/").unwrap().metadata("mode"), Some("0040700"));
}

/// A file that is closed and that the store refuses, as it does every one from now on.
fn refused(lab: &Lab, name: &str, bytes: &[u8]) -> File {
    lab.break_all(Op::Put, Fault::status(403, "AccessDenied"));
    write(&lab.path(name), bytes);
    OpenOptions::new().read(true).write(true).open(lab.path(name)).unwrap()
}

/// What is under the name on the next mount, and in the bucket after it.
fn after_crash(lab: &Lab, name: &str) -> Vec<u8> {
    lab.mount().crash();
    lab.server().faults().clear();
    let again = lab.after_crash(&WRITE_BACK);
    let found = read(&again.path().join(name));
    assert!(again.unmount().unwrap().success());
    assert!(lab.object(name) == found, "the object's bytes differ");
    found
}

#[test]
fn a_cut_into_what_was_promised_leaves_no_zeros_after_a_crash() {
    let lab = Lab::empty(&WRITE_BACK);
    let bytes = pattern(MIB);
    let file = refused(&lab, "f", &bytes);
    file.set_len(MIB as u64 / 2).unwrap();
    // Nobody was told that this is kept.
    file.write_all_at(b"beyond", MIB as u64 - 100).unwrap();
    let found = after_crash(&lab, "f");
    assert!(found == bytes[..MIB / 2], "{} bytes, or others", found.len());
}

#[test]
fn a_copy_into_what_was_promised_leaves_no_zeros_after_a_crash() {
    let (old, new) = (vec![7; 7 * MIB], pattern(6 * MIB));
    let lab = Lab::new(&WRITE_BACK, |bucket| drop(bucket.put("other", new.clone())));
    let file = refused(&lab, "f", &old);
    let other = File::open(lab.path("other")).unwrap();
    let copied = copy_file_range(&other, None, &file, None, 6 * MIB).unwrap();
    assert_eq!(copied, 6 * MIB);
    let found = after_crash(&lab, "f");
    assert!(found == [&new[..], &old[6 * MIB..]].concat(), "the bytes differ");
}

#[test]
fn what_is_refused_is_under_its_new_name_after_a_crash() {
    let lab = Lab::empty(&WRITE_BACK);
    fs::create_dir(lab.path("d")).unwrap();
    // Two closed states of one file, and another one below a directory.
    drop(refused(&lab, "f", b"first"));
    write(&lab.path("f"), b"second");
    drop(refused(&lab, "d/below", b"below"));
    fs::rename(lab.path("f"), lab.path("g")).unwrap();
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    assert_eq!(after_crash(&lab, "g"), b"second");
    assert_eq!(lab.object("e/below"), b"below");
    assert_eq!(lab.bucket().keys(), ["e/", "e/below", "g"], "nothing under an old name");
}

#[test]
fn what_a_strict_close_could_not_send_is_under_its_new_name_after_a_crash() {
    let lab = Lab::empty(&["--metadata-ttl", "10m"]);
    lab.break_all(Op::Put, Fault::status(403, "AccessDenied"));
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    assert_eq!(close(file), Err(Errno::EACCES));
    fs::rename(lab.path("f"), lab.path("g")).unwrap();
    assert_eq!(after_crash(&lab, "g"), b"bytes");
    assert_eq!(lab.bucket().keys(), ["g"]);
}

#[test]
fn attributes_that_wait_follow_their_directory_over_a_crash() {
    let lab = Lab::new(&["--attr-delay", "60s"], |bucket| {
        bucket.put("d/", "");
        bucket.put("d/f", "bytes");
    });
    fs::set_permissions(lab.path("d/f"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(lab.path("d"), Permissions::from_mode(0o700)).unwrap();
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    lab.mount().crash();
    let again = lab.after_crash(&[]);
    let mode = |name: &str| fs::metadata(again.path().join(name)).unwrap().permissions().mode();
    assert_eq!((mode("e/f") & 0o7777, mode("e") & 0o7777), (0o600, 0o700));
    assert!(again.unmount().unwrap().success());
    assert_eq!(lab.bucket().object("e/f").unwrap().metadata("mode"), Some("0100600"));
    assert_eq!(lab.bucket().object("e/").unwrap().metadata("mode"), Some("0040700"));
}
