//! What others have set on an object survives everything that a mount does to it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};

use s3pod_testkit::{Attributes, Bucket};

use crate::bench::{close, write};
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
    assert_kept(&lab.bucket(), "e/f", "a directory's rename");
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
