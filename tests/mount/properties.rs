//! What others have set on an object survives everything that a mount does to it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use nix::errno::Errno;
use s3pod_testkit::{Attributes, Bucket};

use crate::bench::{close, errno, write};
use crate::lab::Lab;

/// What a mount keeps in user metadata for itself.
const OURS: [&str; 5] = ["mode", "uid", "gid", "mtime", "s3pod-commit"];

fn foreign() -> Attributes {
    let text = |text: &str| Some(text.to_owned());
    Attributes {
        cache_control: text("max-age=60"),
        content_disposition: text("attachment"),
        content_encoding: text("identity"),
        content_language: text("de"),
        content_type: text("application/x-made-up"),
        expires: text("Thu, 01 Jan 2032 00:00:00 GMT"),
        storage_class: text("STANDARD_IA"),
        encryption: text("aws:kms"),
        kms_key_id: text("a-key-of-theirs"),
        tags: BTreeMap::from([("team".to_owned(), "a b".to_owned())]),
        ..Attributes::with_metadata([("owner-note", "keep me"), ("x", "1")])
    }
}

/// Asserts that `key` has everything foreign, besides what is ours.
fn assert_kept(bucket: &Bucket, key: &str, after: &str) {
    let object = bucket.object(key).unwrap_or_else(|| panic!("no object {key} after {after}"));
    let mut seen = object.attributes.clone();
    seen.metadata.retain(|name, _| !OURS.contains(&name.as_str()));
    assert_eq!(seen, foreign(), "after {after}");
}

fn append(lab: &Lab, name: &str, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(lab.path(name)).unwrap();
    file.write_all(bytes).unwrap();
    close(file).unwrap();
}

#[test]
fn a_small_object_keeps_its_properties() {
    let lab = Lab::new(&[], |bucket| drop(bucket.put_with("f", "bytes", foreign())));
    let bucket = lab.bucket();
    append(&lab, "f", b" and more");
    assert_eq!(lab.object("f"), b"bytes and more");
    assert_kept(&bucket, "f", "an append");
    write(&lab.path("f"), b"all new");
    assert_kept(&bucket, "f", "an overwrite");
    fs::set_permissions(lab.path("f"), Permissions::from_mode(0o600)).unwrap();
    fs::File::open(lab.path("f")).unwrap().sync_all().unwrap();
    assert_kept(&bucket, "f", "a chmod");
    assert_eq!(bucket.object("f").unwrap().metadata("mode"), Some("0100600"));
    fs::rename(lab.path("f"), lab.path("g")).unwrap();
    assert_kept(&bucket, "g", "a rename");
    nix::unistd::truncate(&lab.path("g"), 2).unwrap();
    assert_eq!(lab.object("g"), b"al");
    assert_kept(&bucket, "g", "a truncate");
}

#[test]
fn a_large_object_keeps_its_properties() {
    const SIZE: u64 = 40 << 20;
    let lab = Lab::new(&[], |bucket| drop(bucket.put_with("f", vec![1; SIZE as usize], foreign())));
    let bucket = lab.bucket();
    append(&lab, "f", b"more");
    assert_eq!(bucket.object("f").unwrap().size, SIZE + 4);
    assert_kept(&bucket, "f", "an append by parts");
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"middle", SIZE / 2).unwrap();
    close(file).unwrap();
    assert_kept(&bucket, "f", "an edit by parts");
    write(&lab.path("f"), &vec![2; SIZE as usize]);
    assert_kept(&bucket, "f", "an overwrite by parts");
}

#[test]
fn an_object_above_5_gib_keeps_its_properties() {
    const SIZE: u64 = 6 << 30;
    let lab = Lab::new(&[], |bucket| drop(bucket.put_synthetic_with("f", SIZE, 7, foreign())));
    let bucket = lab.bucket();
    append(&lab, "f", b"more");
    assert_eq!(bucket.object("f").unwrap().size, SIZE + 4);
    assert_kept(&bucket, "f", "an append");
    fs::set_permissions(lab.path("f"), Permissions::from_mode(0o600)).unwrap();
    fs::File::open(lab.path("f")).unwrap().sync_all().unwrap();
    assert_eq!(bucket.object("f").unwrap().metadata("mode"), Some("0100600"));
    assert_kept(&bucket, "f", "a chmod");
    fs::rename(lab.path("f"), lab.path("g")).unwrap();
    assert_kept(&bucket, "g", "a rename");
    fs::set_permissions(lab.path("g"), Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(lab.path("d")).unwrap();
    fs::rename(lab.path("g"), lab.path("d/g")).unwrap();
    assert_eq!(bucket.object("d/g").unwrap().metadata("mode"), Some("0100640"));
    assert_kept(&bucket, "d/g", "a rename that carries a chmod");
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    assert_kept(&bucket, "e/g", "a directory's rename");
    let whole = bucket.get_range("e/g", SIZE - 10..SIZE + 4).unwrap();
    let end = s3pod_testkit::synthetic_bytes(7, SIZE - 10..SIZE);
    assert_eq!(whole, [&end[..], b"more"].concat());
    write(&lab.path("e/g"), b"all new");
    assert_eq!(lab.object("e/g"), b"all new");
    assert_kept(&bucket, "e/g", "an overwrite");
}

#[test]
fn a_mount_that_lists_attributes_keeps_them_too() {
    let lab = Lab::new(&["--metadata", "list"], |bucket| {
        bucket.put_with("f", "bytes", foreign());
    });
    append(&lab, "f", b" and more");
    assert_kept(&lab.bucket(), "f", "an append");
    write(&lab.path("f"), b"all new");
    assert_kept(&lab.bucket(), "f", "an overwrite");
}

#[test]
fn a_moved_directory_keeps_them_too() {
    let lab = Lab::new(&[], |bucket| drop(bucket.put_with("d/f", "bytes", foreign())));
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    // Class and encryption stand in no listing, and S3 takes neither over by itself.
    assert_kept(&lab.bucket(), "e/f", "the move of its directory");
}

#[test]
fn new_files_have_the_type_of_their_name() {
    let lab = Lab::empty(&[]);
    for (name, kind) in [("a.html", "text/html"), ("b.json", "application/json")] {
        write(&lab.path(name), b"x");
        let object = lab.bucket().object(name).unwrap();
        assert_eq!(object.attributes.content_type.as_deref(), Some(kind), "{name}");
        assert_eq!(object.metadata("mode"), Some("0100644"), "{name}");
    }
}

#[test]
fn metadata_that_cannot_be_read_gives_defaults_and_stays() {
    let broken = || {
        Attributes::with_metadata([
            ("mode", "rw-r--r--"),
            ("uid", "nobody"),
            ("gid", "-1"),
            ("mtime", "yesterday"),
            ("xattr", "{not json"),
        ])
    };
    let lab = Lab::new(&[], |bucket| drop(bucket.put_with("f", "bytes", broken())));
    let seen = fs::metadata(lab.path("f")).unwrap();
    let written = lab.bucket().object("f").unwrap().last_modified;
    assert_eq!((seen.mode(), seen.uid(), seen.gid()), (0o100_644, 0, 0));
    assert_eq!(lab.metric("s3pod_unreadable_metadata_total", &[]), 5);
    assert_eq!(seen.modified().unwrap(), written);
    assert_eq!(fs::read(lab.path("f")).unwrap(), b"bytes");
    assert_eq!(lab.bucket().object("f").unwrap().attributes.metadata, broken().metadata);
    fs::set_permissions(lab.path("f"), Permissions::from_mode(0o600)).unwrap();
    fs::File::open(lab.path("f")).unwrap().sync_all().unwrap();
    let object = lab.bucket().object("f").unwrap();
    assert_eq!((object.metadata("mode"), object.metadata("uid")), (Some("0100600"), Some("0")));
}

#[test]
fn metadata_of_others_that_leaves_no_room_refuses_a_chmod() {
    let note = "x".repeat(1_990);
    let full = || Attributes::with_metadata([("note", note.as_str())]);
    let lab = Lab::new(&[], |bucket| drop(bucket.put_with("f", "bytes", full())));
    let chmod = fs::set_permissions(lab.path("f"), Permissions::from_mode(0o600));
    assert_eq!(errno(chmod), Errno::ENOSPC);
    let owner = std::os::unix::fs::chown(lab.path("f"), Some(1_000_000), Some(1_000_000));
    assert_eq!(errno(owner), Errno::ENOSPC);
    let seen = fs::metadata(lab.path("f")).unwrap();
    assert_eq!((seen.mode(), seen.uid()), (0o100_644, 0));
    assert_eq!(lab.bucket().object("f").unwrap().attributes.metadata, full().metadata);
}
