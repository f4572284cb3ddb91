//! What must still be there, or be told rightly, of an object's attributes after something else has
//! happened to it: a rename, a crash, another client, a store that would not say.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use s3pod_testkit::{Attributes, Fault, Op};

use crate::bench::{close, errno, eventually, names, python, read, shell, write};
use crate::lab::Lab;

/// Long enough that no test outlives it.
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
/// Everything is asked for again.
const FRESH: [&str; 2] = ["--metadata-ttl", "0s"];

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn xattrs(path: &Path) -> String {
    python("import os, sys; print(sorted(os.listxattr(sys.argv[1])))", path)
}

/// What somebody has set on a directory's marker.
fn marked() -> Attributes {
    let metadata = [("mode", "0042770"), ("uid", "7"), ("owner-note", "keep me")];
    Attributes {
        tags: [("team".into(), "red".into())].into(),
        ..Attributes::with_metadata(metadata)
    }
}

#[test]
fn a_link_that_geesefs_made_keeps_its_target_when_its_times_are_set() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put_with("link", "", Attributes::with_metadata([("--symlink-target", "d/t")]));
    });
    let other = lab.another(&LONG);
    let link = other.path().join("link");
    python("import os, sys; os.utime(sys.argv[1], (5, 5), follow_symlinks=False)", &link);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("d/t"));
    assert!(other.unmount().unwrap().success());
    let object = lab.bucket().object("link").unwrap();
    assert_eq!(object.metadata("--symlink-target"), Some("d/t"));
    assert_eq!(object.metadata("mtime"), Some("5.000000000"));
    let again = lab.another(&LONG);
    let link = again.path().join("link");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("d/t"));
    assert_eq!(fs::symlink_metadata(&link).unwrap().mtime(), 5);
    assert!(again.unmount().unwrap().success());
}

#[test]
fn files_that_were_listed_are_read_under_their_directorys_new_name() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("small/x", vec![b'x'; 100]);
        for number in 0..3 {
            bucket.put(&format!("large/{number}"), vec![b'y'; 5_000]);
        }
    });
    assert_eq!(names(&lab.path("small")), ["x"]);
    fs::rename(lab.path("small"), lab.path("e")).unwrap();
    assert_eq!(read(&lab.path("e/x")), vec![b'x'; 100], "nobody has looked at it before");
    assert_eq!(names(&lab.path("large")), ["0", "1", "2"]);
    for number in 0..2 {
        let seen = fs::metadata(lab.path(&format!("large/{number}"))).unwrap();
        assert_eq!(seen.len(), 5_000, "{number}");
    }
    fs::rename(lab.path("large"), lab.path("f")).unwrap();
    for number in 0..3 {
        assert_eq!(read(&lab.path(&format!("f/{number}"))), vec![b'y'; 5_000], "{number}");
    }
}

#[test]
fn a_chmod_of_a_file_with_unsent_bytes_survives_a_crash_without_them() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "old bytes")));
    let mut file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
    file.write_all(b" and new ones").unwrap();
    chmod(&lab.path("f"), 0o600);
    lab.mount().crash();
    let again = lab.after_crash(&LONG);
    assert_eq!(mode(&again.path().join("f")), 0o600);
    assert_eq!(read(&again.path().join("f")), b"old bytes", "nobody was promised the others");
    assert!(again.unmount().unwrap().success());
    drop(file);
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), Some("0100600"));
    assert_eq!(lab.object("f"), b"old bytes");
}

#[test]
fn a_directory_touched_by_a_mount_that_lists_attributes_keeps_what_its_marker_says() {
    let lab = Lab::new(&["--metadata", "list", "--attr-delay", "0s"], |bucket| {
        bucket.put_with("d/", "", marked());
    });
    shell(&lab.path(""), "touch d");
    let bucket = lab.bucket();
    lab.count();
    let seen = bucket.object("d/").unwrap().attributes;
    assert_eq!((seen.metadata, seen.tags), (marked().metadata, marked().tags));
}

#[test]
fn a_directorys_marker_keeps_its_tags_and_its_bytes_over_a_chmod() {
    let markers = [("tagged", ""), ("filled", "a tool's own")];
    let lab = Lab::new(&LONG, |bucket| {
        for (name, bytes) in markers {
            bucket.put_with(&format!("{name}/"), bytes, marked());
        }
    });
    for (name, bytes) in markers {
        chmod(&lab.path(name), 0o700);
        File::open(lab.path(name)).unwrap().sync_all().unwrap();
        let key = format!("{name}/");
        let object = lab.bucket().object(&key).unwrap();
        assert_eq!(object.metadata("mode"), Some("0040700"), "{key}");
        assert_eq!(object.metadata("owner-note"), Some("keep me"), "{key}");
        assert_eq!(object.attributes.tags, marked().tags, "{key}");
        assert_eq!(lab.object(&key), bytes.as_bytes(), "{key}");
    }
}

#[test]
fn a_directory_whose_marker_the_store_does_not_tell_of_has_no_defaults() {
    let lab = Lab::new(&["--op-timeout", "1s", "--metadata-ttl", "0s"], |bucket| {
        bucket.put_with("d/", "", marked());
    });
    let fault = Fault::status(500, "InternalError").on(Op::Head).key("d/").always();
    lab.server().faults().add(fault);
    assert_eq!(errno(fs::metadata(lab.path("d"))), Errno::EIO);
    assert_eq!(names(&lab.path("")), ["d"]);
    assert_eq!(errno(fs::metadata(lab.path("d"))), Errno::EIO, "nor after a listing");
    lab.server().faults().clear();
    let seen = fs::metadata(lab.path("d")).unwrap();
    assert_eq!((seen.mode(), seen.uid()), (0o042_770, 7));
}

#[test]
fn an_empty_file_that_another_client_makes_a_fifo_is_one_soon() {
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("x", "")));
    assert!(fs::symlink_metadata(lab.path("x")).unwrap().is_file());
    lab.bucket().put_with("x", "", Attributes::with_metadata([("mode", "0010600")]));
    eventually("it is a FIFO", || {
        fs::symlink_metadata(lab.path("x")).is_ok_and(|seen| seen.file_type().is_fifo())
    });
}

#[test]
fn a_mount_that_lists_attributes_shows_no_mode_that_it_cannot_keep() {
    let lab = Lab::empty(&["--metadata", "list"]);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(lab.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().mode(), 0o100_644);
    assert_eq!(fs::metadata(lab.path("f")).unwrap().mode(), 0o100_644);
    close(file).unwrap();
    assert_eq!(fs::metadata(lab.path("f")).unwrap().mode(), 0o100_644);
}

#[test]
fn what_is_made_in_a_directory_with_set_group_id_has_its_group() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    chown(lab.path("d"), None, Some(5678)).unwrap();
    chmod(&lab.path("d"), 0o2775);
    write(&lab.path("d/file"), b"x");
    fs::create_dir(lab.path("d/below")).unwrap();
    let other = lab.another(&LONG);
    for root in [lab.mount().path(), other.path()] {
        let file = fs::metadata(root.join("d/file")).unwrap();
        let below = fs::metadata(root.join("d/below")).unwrap();
        assert_eq!((file.gid(), below.gid()), (5678, 5678));
        assert_eq!((file.mode() & 0o2000, below.mode() & 0o2000), (0, 0o2000));
    }
    assert!(other.unmount().unwrap().success());
}

#[test]
fn an_object_without_room_for_attributes_is_read_and_not_appended_to() {
    let note = "x".repeat(1_990);
    let full = Attributes::with_metadata([("note", note.as_str())]);
    let lab = Lab::new(&[], |bucket| drop(bucket.put_with("f", "bytes", full)));
    let before = lab.bucket().object("f");
    let appending = OpenOptions::new().append(true).open(lab.path("f"));
    assert_eq!(errno(appending), Errno::ENOSPC);
    assert_eq!(read(&lab.path("f")), b"bytes");
    assert_eq!(lab.object("f"), b"bytes");
    assert_eq!(lab.bucket().object("f"), before);
}

#[test]
fn a_file_that_is_written_aside_has_the_type_of_the_name_it_gets() {
    let other =
        Attributes { content_type: Some("application/own".into()), ..Attributes::default() };
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_with("own", "bytes", other)));
    write(&lab.path(".page.html.tmp1"), b"<p>");
    for (from, to) in [(".page.html.tmp1", "page.html"), ("own", "own.html")] {
        fs::rename(lab.path(from), lab.path(to)).unwrap();
    }
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!((log.count(Op::Put), log.count(Op::Copy)), (1, 2), "{:?}", log.counts());
    let of = |key: &str| bucket.object(key).unwrap().attributes.content_type;
    assert_eq!(of("page.html").as_deref(), Some("text/html"));
    assert_eq!(of("own.html").as_deref(), Some("application/own"));
}

#[test]
fn a_rename_keeps_the_time_of_an_object_that_carries_none() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put_with("f", "bytes", Attributes::with_metadata([("team", "red")]));
        bucket.set_last_modified("f", time);
    });
    fs::rename(lab.path("f"), lab.path("g")).unwrap();
    let again = lab.another(&FRESH);
    assert_eq!(fs::metadata(again.path().join("g")).unwrap().modified().unwrap(), time);
    assert!(again.unmount().unwrap().success());
    let object = lab.bucket().object("g").unwrap();
    assert_eq!(object.metadata("team"), Some("red"));
    assert_eq!(object.metadata("mode"), None, "what nobody has set is not written");
}

#[test]
fn a_question_that_was_refused_is_asked_again() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("d/x", "bytes")));
    let refused = Fault::status(403, "AccessDenied").on(Op::Head).key("d/x").always();
    lab.server().faults().add(refused);
    assert_eq!(names(&lab.path("d")), ["x"]);
    assert_eq!(errno(fs::metadata(lab.path("d/x"))), Errno::EACCES);
    lab.server().faults().clear();
    let seen = (0..2).find_map(|_| fs::metadata(lab.path("d/x")).ok());
    assert_eq!(seen.map(|seen| seen.len()), Some(5));
}

#[test]
fn a_list_of_extended_attributes_names_what_another_client_has_added() {
    let lab = Lab::new(&FRESH, |bucket| {
        bucket.put_with("f", "bytes", Attributes::with_metadata([("team", "red")]));
    });
    assert_eq!(xattrs(&lab.path("f")), "['user.team']");
    lab.bucket().set_metadata("f", [("team", "red"), ("site", "north")]);
    assert_eq!(xattrs(&lab.path("f")), "['user.site', 'user.team']");
}

#[test]
fn a_time_that_no_calendar_has_is_kept_with_what_is_set_beside_it() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "bytes")));
    let file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
    (&file).write_all(b" and more").unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
    chmod(&lab.path("f"), 0o600);
    assert_eq!(fs::metadata(lab.path("f")).unwrap().modified().unwrap(), time);
    close(file).unwrap();
    let object = lab.bucket().object("f").unwrap();
    assert_eq!(object.metadata("mtime"), Some("300000000000.000000000"));
    assert_eq!(object.metadata("mode"), Some("0100600"));
}

#[test]
fn a_time_before_1970_that_waits_survives_a_crash_with_the_chmod_before_it() {
    let lab = Lab::new(&["--attr-delay", "60s"], |bucket| drop(bucket.put("f", "bytes")));
    let time = SystemTime::UNIX_EPOCH - Duration::from_millis(1_500);
    chmod(&lab.path("f"), 0o600);
    let times = FileTimes::new().set_modified(time);
    File::open(lab.path("f")).unwrap().set_times(times).unwrap();
    lab.mount().crash();
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), None);
    let again = lab.after_crash(&[]);
    let seen = fs::metadata(again.path().join("f")).unwrap();
    assert_eq!((seen.mode() & 0o7777, seen.modified().unwrap()), (0o600, time));
    assert!(again.unmount().unwrap().success());
    let object = lab.bucket().object("f").unwrap();
    assert_eq!(object.metadata("mode"), Some("0100600"));
    assert_eq!(object.metadata("mtime"), Some("-1.500000000"));
}
