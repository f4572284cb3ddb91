//! A store that takes a request and never answers: each call is an error before three times
//! `--op-timeout`, and what moves, however slowly, is none.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use s3pod_testkit::{Op, ServerOptions};

use crate::bench::{close, errno, pattern, read, write};
use crate::lab::Lab;

const TIMEOUT: Duration = Duration::from_secs(3);
const BRIEF: [&str; 4] = ["--op-timeout", "3s", "--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;

/// A server with so many bytes a second for each connection.
fn slow(bytes: u64) -> ServerOptions {
    ServerOptions { bandwidth_per_connection: Some(bytes), ..ServerOptions::default() }
}

/// What a call answers, which must not hang.
fn in_time<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let answer = call();
    let taken = begin.elapsed();
    assert!(taken < 3 * TIMEOUT, "{what} took {taken:?}");
    answer
}

#[test]
fn a_store_that_says_nothing_is_an_error_in_time() {
    let fresh = ["--op-timeout", "3s", "--metadata-ttl", "0s"];
    let lab = Lab::new(&fresh, |bucket| drop(bucket.put("f", "bytes")));
    assert_eq!(read(&lab.path("f")), b"bytes");
    let holds = [Op::Head, Op::List, Op::Get, Op::Put, Op::Delete, Op::Copy]
        .map(|op| lab.server().faults().hold(op, ""));
    let look = |name: &str| in_time(name, || errno(fs::metadata(lab.path(name))));
    assert_eq!(look("f"), Errno::EIO);
    assert_eq!(look("other"), Errno::EIO);
    let list = || errno(fs::read_dir(lab.path("")).and_then(|mut d| d.next().unwrap()));
    assert_eq!(in_time("readdir", list), Errno::EIO);
    assert_eq!(in_time("mkdir", || errno(fs::create_dir(lab.path("d")))), Errno::EIO);
    drop(holds);
    assert_eq!(read(&lab.path("f")), b"bytes");
    fs::create_dir(lab.path("d2")).unwrap();
}

#[test]
fn a_close_whose_put_is_never_answered_is_an_error_in_time() {
    let lab = Lab::empty(&BRIEF);
    let hold = lab.server().faults().hold(Op::Put, "f");
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(b"bytes").unwrap();
    assert_eq!(in_time("close", || close(file)), Err(Errno::EIO));
    assert!(hold.arrived() > 0);
    hold.release();
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.get("f").unwrap(), "bytes", "they stayed staged");
}

#[test]
fn a_close_whose_complete_is_never_answered_is_an_error_in_time() {
    let lab = Lab::empty(&BRIEF);
    let hold = lab.server().faults().hold(Op::CompleteUpload, "f");
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(&pattern(20 * MIB)).unwrap();
    assert_eq!(in_time("close", || close(file)), Err(Errno::EIO));
    assert!(hold.arrived() > 0);
    hold.release();
    let bucket = lab.bucket();
    lab.count();
    assert!(bucket.get("f").unwrap() == pattern(20 * MIB), "the bytes differ");
    assert!(bucket.uploads().is_empty());
}

#[test]
fn an_unlink_whose_delete_is_never_answered_is_an_error_in_time() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("f", "bytes")));
    let hold = lab.server().faults().hold(Op::Delete, "f");
    let unlinked = in_time("unlink", || errno(fs::remove_file(lab.path("f"))));
    assert_eq!(unlinked, Errno::EIO);
    assert!(hold.arrived() > 0);
    hold.release();
    // The store may have carried it out after all.
    let again = fs::remove_file(lab.path("f")).err().and_then(|error| error.raw_os_error());
    assert!(matches!(again, None | Some(nix::libc::ENOENT)), "{again:?}");
    assert_eq!(lab.bucket().keys(), [""; 0]);
}

#[test]
fn a_rename_whose_copy_is_never_answered_is_an_error_in_time() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put("old", "bytes")));
    let hold = lab.server().faults().hold(Op::Copy, "new");
    let rename = || fs::rename(lab.path("old"), lab.path("new"));
    assert_eq!(in_time("rename", || errno(rename())), Errno::EIO);
    assert!(hold.arrived() > 0);
    hold.release();
    assert_eq!(read(&lab.path("old")), b"bytes");
    rename().unwrap();
    assert_eq!(lab.bucket().keys(), ["new"]);
}

#[test]
fn a_directorys_rename_whose_copies_are_never_answered_is_an_error_in_time() {
    let lab = Lab::new(&BRIEF, |bucket| {
        bucket.put("d/one", "1");
        bucket.put("d/two", "2");
    });
    let hold = lab.server().faults().hold(Op::Copy, "e/");
    let rename = || fs::rename(lab.path("d"), lab.path("e"));
    assert_eq!(in_time("rename", || errno(rename())), Errno::EIO);
    assert!(hold.arrived() > 0);
    hold.release();
    assert_eq!(read(&lab.path("d/two")), b"2");
    rename().unwrap();
    assert_eq!(lab.bucket().keys(), ["e/one", "e/two"]);
}

#[test]
fn a_rename_by_parts_that_are_never_answered_is_an_error_in_time() {
    let lab = Lab::new(&BRIEF, |bucket| drop(bucket.put_synthetic("old", 6 << 30, 1)));
    let hold = lab.server().faults().hold(Op::CopyPart, "new");
    let rename = || fs::rename(lab.path("old"), lab.path("new"));
    assert_eq!(in_time("rename", || errno(rename())), Errno::EIO);
    assert!(hold.arrived() > 0);
    hold.release();
    rename().unwrap();
    assert_eq!(lab.bucket().keys(), ["new"]);
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.uploads(), [], "the first try has given its own up");
}

#[test]
fn an_fsync_of_a_directory_whose_deletes_are_never_answered_is_an_error_in_time() {
    let names = ["d/1", "d/2", "d/3", "d/4"];
    let lab = Lab::new(&BRIEF, |bucket| names.iter().for_each(|key| drop(bucket.put(key, "x"))));
    fs::remove_file(lab.path("d/1")).unwrap();
    let hold = lab.server().faults().hold(Op::DeleteMany, "");
    for name in &names[1..3] {
        fs::remove_file(lab.path(name)).unwrap();
    }
    let directory = File::open(lab.path("d")).unwrap();
    assert_eq!(in_time("fsync", || errno(directory.sync_all())), Errno::EIO);
    assert!(hold.arrived() > 0);
    hold.release();
    // They are there again, unless the store has carried it out after all.
    for name in &names[1..3] {
        let again = fs::remove_file(lab.path(name)).err().and_then(|error| error.raw_os_error());
        assert!(matches!(again, None | Some(nix::libc::ENOENT)), "{again:?}");
    }
    directory.sync_all().unwrap();
    assert_eq!(lab.bucket().keys(), ["d/", "d/4"]);
}

#[test]
fn a_read_whose_get_is_never_answered_is_an_error_in_time() {
    let lab = Lab::new(&BRIEF, |bucket| {
        bucket.put("small", "bytes");
        bucket.put_synthetic("large", 64 << 20, 1);
    });
    let hold = lab.server().faults().hold(Op::Get, "");
    // Of a small file the open may bring the bytes, so either of the two says it.
    let first_byte = |name: &str| {
        in_time(name, || {
            let read = |file: File| file.read_exact_at(&mut [0; 1], 0);
            errno(File::open(lab.path(name)).and_then(read))
        })
    };
    assert_eq!(["small", "large"].map(first_byte), [Errno::EIO; 2]);
    assert!(hold.arrived() > 0);
    hold.release();
    assert_eq!(read(&lab.path("small")), b"bytes");
}

#[test]
fn an_upload_that_moves_is_no_error_however_slow_it_is() {
    // A part takes four seconds, and what the sockets hold of it, of which nobody sees how fast it
    // leaves them, one.
    let lab = Lab::on(slow(8 << 20), &[&BRIEF[..], &["--part-size", "32MiB"]].concat(), |_| {});
    write(&lab.path("f"), &pattern(96 * MIB));
    assert!(lab.object("f") == pattern(96 * MIB), "the bytes differ");
    let log = lab.count();
    let counts = [Op::CreateUpload, Op::UploadPart, Op::CompleteUpload].map(|op| log.count(op));
    assert_eq!(counts, [1, 3, 1], "none was given up: {:?}", log.counts());
    let parts = log.requests_of(Op::UploadPart);
    let longest = parts.iter().map(|one| one.finished.unwrap() - one.started).max().unwrap();
    assert!(longest > TIMEOUT, "{longest:?} shows nothing");
}

#[test]
fn a_download_that_moves_is_no_error_however_slow_it_is() {
    let lab = Lab::on(slow(2 << 20), &BRIEF, |bucket| drop(bucket.put("f", pattern(24 * MIB))));
    assert!(read(&lab.path("f")) == pattern(24 * MIB), "the bytes differ");
    let file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
    (&file).write_all(b"more").unwrap();
    close(file).unwrap();
    assert_eq!(lab.bucket().object("f").unwrap().size, 24 * MIB as u64 + 4);
}
