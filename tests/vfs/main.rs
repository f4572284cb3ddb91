//! What must not be lost where verbs overlap, decided by holding single requests at the server.

#![expect(clippy::unwrap_used, reason = "a case that fails is a failed test")]

mod bench;
mod disk_cache;
mod listings;
mod model;
mod streams;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3pod::vfs::{DirEntry, Error, Fh, Ino, SetAttr};
use s3pod_testkit::Op;

use bench::{Bench, CALLER, READ_WRITE};

const PATIENT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn the_delete_of_a_last_close_never_overtakes_a_new_file() {
    let bench = Arc::new(Bench::new(PATIENT).await);
    bench.bucket().put("f", "old");
    let old = bench.open("f").await.unwrap();
    bench.unlink("f").await;
    let hold = bench.server.faults().hold(Op::Delete, "f");
    let own = Arc::clone(&bench);
    let closing = tokio::spawn(async move { own.vfs.release(old).await });
    hold.wait_for(1).await;
    assert!(matches!(bench.open("f").await, Err(Error::NotFound)), "it is unlinked");
    let own = Arc::clone(&bench);
    let storing = tokio::spawn(async move { own.store("f", b"new").await });
    hold.release();
    closing.await.unwrap().unwrap();
    storing.await.unwrap();
    assert_eq!(bench.bucket().get("f").unwrap(), "new");
}

#[tokio::test]
async fn a_file_made_over_an_unlinked_one_and_unlinked_itself_leaves_nothing() {
    let bench = Bench::new(PATIENT).await;
    bench.bucket().put("f", "old");
    let old = bench.open("f").await.unwrap();
    bench.unlink("f").await;
    let new = bench.create("f", true).await.unwrap();
    bench.unlink("f").await;
    bench.close(new).await.unwrap();
    assert_eq!(bench.vfs.read(old, 0, 10).await.unwrap(), "old");
    bench.close(old).await.unwrap();
    assert!(!bench.bucket().contains("f"));
    assert!(matches!(bench.open("f").await, Err(Error::NotFound)));
}

#[tokio::test]
async fn an_unsent_file_that_replaced_another_takes_it_along_when_it_goes() {
    let bench = Bench::new(PATIENT).await;
    bench.bucket().put("f", "old");
    bench.open("f").await.unwrap();
    let new = bench.create("g", false).await.unwrap();
    bench.rename("g", "f").await.unwrap();
    bench.unlink("f").await;
    bench.close(new).await.unwrap();
    assert!(bench.bucket().keys().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_the_middle_of_a_rename_is_kept() {
    let bench = Arc::new(Bench::new(PATIENT).await);
    bench.bucket().put("f", "0123456789");
    let file = bench.open("f").await.unwrap();
    let hold = bench.server.faults().hold(Op::Copy, "g");
    let own = Arc::clone(&bench);
    let renaming = tokio::spawn(async move { own.rename("f", "g").await });
    hold.wait_for(1).await;
    bench.vfs.write(file, 4, Bytes::from_static(b"xx")).await.unwrap();
    hold.release();
    renaming.await.unwrap().unwrap();
    bench.close(file).await.unwrap();
    assert_eq!(bench.bucket().get("g").unwrap(), "0123xx6789");
    assert_eq!(bench.bucket().keys(), ["g"]);
}

#[tokio::test]
async fn a_file_that_another_writer_replaced_is_not_said_to_be_committed() {
    let bench = Bench::new(PATIENT).await;
    bench.bucket().put("f", "mine");
    let file = bench.open("f").await.unwrap();
    let ino = bench.vfs.lookup(Ino::ROOT, OsStr::new("f")).await.unwrap().attr.ino;
    bench.bucket().put("f", "theirs");
    assert!(matches!(bench.vfs.getattr(ino, None).await, Err(Error::Stale)));
    bench.vfs.write(file, 0, Bytes::from_static(b"M")).await.unwrap();
    assert!(bench.close(file).await.is_err(), "the bytes went nowhere");
    assert_eq!(bench.bucket().get("f").unwrap(), "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_arrives_after_it_was_given_up_is_ours() {
    let bench = Bench::new(SHORT).await;
    let file = bench.create("f", true).await.unwrap();
    bench.vfs.write(file, 0, Bytes::from_static(b"one")).await.unwrap();
    let hold = bench.server.faults().hold_answer(Op::Put, "f");
    bench.vfs.flush(file).await.unwrap_err();
    hold.release();
    bench.vfs.write(file, 3, Bytes::from_static(b" two")).await.unwrap();
    bench.close(file).await.unwrap();
    assert_eq!(bench.bucket().get("f").unwrap(), "one two");
}

#[tokio::test]
async fn another_writers_file_is_not_taken_for_ours() {
    let bench = Bench::new(PATIENT).await;
    let file = bench.create("f", true).await.unwrap();
    bench.vfs.write(file, 0, Bytes::from_static(b"one")).await.unwrap();
    bench.bucket().put("f", "theirs");
    bench.close(file).await.unwrap_err();
    assert_eq!(bench.bucket().get("f").unwrap(), "theirs");
}

#[tokio::test]
async fn a_readdir_that_was_given_up_goes_on_where_it_was() {
    let bench = Bench::new(PATIENT).await;
    for number in 0..1500 {
        bench.bucket().put(&format!("f{number:04}"), "");
    }
    let listing = bench.vfs.opendir(Ino::ROOT).await.unwrap();
    let (mut names, mut cookie) = (Vec::new(), 0);
    // The dots and the first page, whose last name is held back until the next one has come.
    while names.len() < 1001 {
        cookie = read_on(&bench, listing, cookie, &mut names).await;
    }
    let hold = bench.server.faults().hold(Op::List, "");
    let mut takes_all = |_: &DirEntry| true;
    let given_up = bench.vfs.readdir(listing, cookie, false, &mut takes_all);
    let given_up = tokio::time::timeout(SHORT, given_up).await;
    assert!(given_up.is_err(), "the second page is held");
    hold.release();
    drop(hold);
    loop {
        let behind = read_on(&bench, listing, cookie, &mut names).await;
        if behind == cookie {
            break;
        }
        cookie = behind;
    }
    let unique: HashSet<&String> = names.iter().collect();
    assert_eq!((names.len(), unique.len()), (1502, 1502));
    bench.vfs.releasedir(listing).await.unwrap();
}

async fn read_on(bench: &Bench, listing: Fh, from: u64, names: &mut Vec<String>) -> u64 {
    let mut behind = from;
    let mut take = |entry: &DirEntry| {
        names.push(entry.name.as_str().to_owned());
        behind = entry.cookie;
        true
    };
    bench.vfs.readdir(listing, from, false, &mut take).await.unwrap();
    behind
}

#[tokio::test]
async fn an_open_file_outlives_the_one_that_replaces_it() {
    let bench = Bench::new(PATIENT).await;
    bench.bucket().put("f", "old");
    let old = bench.open("f").await.unwrap();
    bench.store("g", b"new").await;
    bench.rename("g", "f").await.unwrap();
    assert_eq!(bench.vfs.read(old, 0, 10).await.unwrap(), "old");
    bench.close(old).await.unwrap();
    assert_eq!(bench.bucket().get("f").unwrap(), "new");
}

#[tokio::test]
async fn a_truncate_by_name_leaves_no_staging_file() {
    let bench = Bench::new(PATIENT).await;
    bench.bucket().put("f", "0123456789");
    let ino = bench.vfs.lookup(Ino::ROOT, OsStr::new("f")).await.unwrap().attr.ino;
    let change = SetAttr { size: Some(4), ..SetAttr::default() };
    bench.vfs.setattr(ino, None, change).await.unwrap();
    assert_eq!(bench.bucket().get("f").unwrap(), "0123");
    assert_eq!(bench.staged(), 0);
}

#[tokio::test]
async fn a_name_that_the_kernel_forgot_is_still_there() {
    let bench = Bench::with(PATIENT, PATIENT).await;
    let folder = OsStr::new("d");
    let folder = bench.vfs.mkdir(Ino::ROOT, folder, 0o755, CALLER).await.unwrap().attr.ino;
    let (name, flags) = (OsStr::new("f"), bench::READ_WRITE);
    let (entry, opened) = bench.vfs.create(folder, name, 0o644, flags, CALLER).await.unwrap();
    bench.vfs.write(opened.fh, 0, Bytes::from_static(b"x")).await.unwrap();
    bench.close(opened.fh).await.unwrap();
    bench.vfs.forget(entry.attr.ino, 1);
    assert_eq!(bench.vfs.lookup(folder, name).await.unwrap().attr.size, 1);
}

#[tokio::test]
async fn another_handles_bytes_are_not_committed_by_a_clean_close() {
    let bench = Bench::new(PATIENT).await;
    bench.store("f", b"one").await;
    let first = bench.open("f").await.unwrap();
    bench.vfs.write(first, 0, Bytes::from_static(b"ONE")).await.unwrap();
    bench.vfs.flush(first).await.unwrap();
    let second = bench.open("f").await.unwrap();
    bench.vfs.write(second, 0, Bytes::from_static(b"two")).await.unwrap();
    bench.vfs.flush(first).await.unwrap();
    assert_eq!(bench.bucket().get("f").unwrap(), "ONE");
    bench.close(second).await.unwrap();
    assert_eq!(bench.bucket().get("f").unwrap(), "two");
}

#[tokio::test]
async fn an_unsent_file_in_a_directory_that_moves_is_not_what_another_client_stored() {
    let bench = Bench::new(PATIENT).await;
    bench.bucket().put("d/b", "b");
    let d = bench.vfs.lookup(Ino::ROOT, OsStr::new("d")).await.unwrap().attr.ino;
    let (name, flags) = (OsStr::new("a"), bench::READ_WRITE);
    let (entry, opened) = bench.vfs.create(d, name, 0o644, flags, CALLER).await.unwrap();
    let change = SetAttr { size: Some(1), ..SetAttr::default() };
    bench.vfs.setattr(entry.attr.ino, Some(opened.fh), change).await.unwrap();
    bench.bucket().put("d/a", "t");
    bench.rename("d", "e").await.unwrap();
    bench.close(opened.fh).await.unwrap();
    assert_eq!(bench.bucket().get("e/a").unwrap(), "\0");
    assert_eq!(bench.bucket().keys(), ["e/a", "e/b"]);
    let e = bench.vfs.lookup(Ino::ROOT, OsStr::new("e")).await.unwrap().attr.ino;
    let again = bench.vfs.lookup(e, name).await.unwrap().attr.ino;
    let opened = bench.vfs.open(again, flags).await.unwrap();
    assert_eq!(bench.vfs.read(opened.fh, 0, 10).await.unwrap(), "\0");
}

#[tokio::test]
async fn another_clients_chmod_of_a_directory_is_seen() {
    let bench = Bench::new(PATIENT).await;
    let name = OsStr::new("d");
    let made = bench.vfs.mkdir(Ino::ROOT, name, 0o755, CALLER).await.unwrap().attr;
    bench.bucket().set_metadata("d/", [("mode", "040700")]);
    let seen = bench.vfs.lookup(Ino::ROOT, name).await.unwrap().attr;
    assert_eq!((seen.ino, seen.perm), (made.ino, 0o700));
}

#[tokio::test]
async fn a_new_file_keeps_its_bytes_where_its_directory_moves_with_anothers_object() {
    let bench = Bench::new(PATIENT).await;
    let made = bench.vfs.mkdir(Ino::ROOT, OsStr::new("d"), 0o755, CALLER).await.unwrap();
    let name = OsStr::new("f");
    let (entry, opened) =
        bench.vfs.create(made.attr.ino, name, 0o644, READ_WRITE, CALLER).await.unwrap();
    bench.vfs.write(opened.fh, 0, Bytes::from_static(b"ours")).await.unwrap();
    bench.bucket().put("d/f", "theirs, longer");
    bench.rename("d", "e").await.unwrap();
    let (attr, _) = bench.vfs.getattr(entry.attr.ino, None).await.unwrap();
    assert_eq!(attr.size, 4);
    assert_eq!(bench.vfs.read(opened.fh, 0, 10).await.unwrap(), "ours");
    bench.close(opened.fh).await.unwrap();
    assert_eq!(bench.bucket().get("e/f").unwrap(), "ours");
    assert!(bench.bucket().get("d/f").is_none());
}

/// The directory takes along what another client has put there; who has the earlier file open
/// reads nothing of that.
#[tokio::test]
async fn an_open_file_never_turns_into_anothers_object_by_its_directorys_rename() {
    let bench = Bench::new(PATIENT).await;
    bench.bucket().put("d/f", "first");
    let directory = bench.vfs.lookup(Ino::ROOT, OsStr::new("d")).await.unwrap();
    let file = bench.vfs.lookup(directory.attr.ino, OsStr::new("f")).await.unwrap();
    let opened = bench.vfs.open(file.attr.ino, READ_WRITE).await.unwrap();
    bench.bucket().put("d/f", "other");
    bench.rename("d", "e").await.unwrap();
    // Its bytes may have been fetched before they went.
    match bench.vfs.read(opened.fh, 0, 10).await {
        Ok(bytes) => assert_eq!(bytes, "first"),
        Err(error) => assert!(matches!(error, Error::Stale), "{error}"),
    }
    bench.close(opened.fh).await.unwrap();
    assert_eq!(bench.bucket().get("e/f").unwrap(), "other");
    let found = bench.vfs.lookup(directory.attr.ino, OsStr::new("f")).await.unwrap();
    let opened = bench.vfs.open(found.attr.ino, READ_WRITE).await.unwrap();
    assert_eq!(bench.vfs.read(opened.fh, 0, 10).await.unwrap(), "other");
    bench.close(opened.fh).await.unwrap();
}
