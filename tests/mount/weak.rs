//! Stores that know no conditions, or have no entity tags: edits work, the last writer wins, and
//! the log says so once.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use nix::errno::Errno;
use s3pod_testkit::{Etags, Keeps, Op, ServerOptions};

use crate::bench::{close, pattern, read, write};
use crate::lab::Lab;
use crate::recover;

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;

fn never() -> ServerOptions {
    let keeps = Keeps::Never;
    ServerOptions {
        put_keeps: keeps,
        complete_keeps: keeps,
        delete_keeps: keeps,
        ..ServerOptions::default()
    }
}

fn refusing() -> ServerOptions {
    let keeps = Keeps::Refuses;
    ServerOptions {
        put_keeps: keeps,
        complete_keeps: keeps,
        delete_keeps: keeps,
        ..ServerOptions::default()
    }
}

/// Edits `f` while somebody else replaces it; what close(2) says.
fn edit_against_another(lab: &Lab, theirs: Vec<u8>) -> Result<(), Errno> {
    read(&lab.path("f"));
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"mine", 0).unwrap();
    lab.bucket().put("f", theirs);
    close(file)
}

/// How often the log says that the last writer wins.
fn said(lab: &Lab) -> usize {
    lab.mount().stderr().matches("the last one wins").count()
}

#[test]
fn the_last_writer_wins_where_conditions_are_ignored() {
    let lab = Lab::on(never(), &LONG, |bucket| drop(bucket.put("f", "0123456789")));
    assert_eq!(edit_against_another(&lab, b"theirs".to_vec()), Ok(()));
    assert_eq!(lab.object("f"), b"mine456789");
    assert_eq!(said(&lab), 1, "{}", lab.mount().stderr());
    for number in 0..5 {
        let file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
        (&file).write_all(number.to_string().as_bytes()).unwrap();
        close(file).unwrap();
    }
    assert_eq!(lab.object("f"), b"mine45678901234");
    assert_eq!(said(&lab), 1, "{}", lab.mount().stderr());
    assert_eq!(lab.bucket().keys(), ["f"], "what was asked with is gone");
    // The PUT that must not be done, and the DELETE of what it did.
    assert_eq!(lab.log().count(Op::Probe), 2);
}

#[test]
fn a_large_edit_wins_where_conditions_are_ignored() {
    let lab = Lab::on(never(), &LONG, |bucket| drop(bucket.put("f", pattern(20 * MIB))));
    // Every unchanged byte is cached, so that none must come from the version that is gone.
    read(&lab.path("f"));
    let mut whole = pattern(20 * MIB);
    whole[..4].copy_from_slice(b"mine");
    let file = OpenOptions::new().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"mine", 0).unwrap();
    close(file).unwrap();
    assert!(lab.object("f") == whole);
    assert!(lab.bucket().uploads().is_empty());
    assert_eq!(said(&lab), 1, "{}", lab.mount().stderr());
}

#[test]
fn a_large_edit_of_what_another_replaced_is_refused_all_the_same() {
    let lab = Lab::on(never(), &LONG, |bucket| drop(bucket.put("f", pattern(20 * MIB))));
    // Its unchanged parts are copied from the version it was opened on, which is gone.
    let theirs = vec![b't'; 20 * MIB];
    assert_eq!(edit_against_another(&lab, theirs.clone()), Err(Errno::ESTALE));
    assert!(lab.object("f") == theirs);
    assert_eq!(lab.bucket().uploads(), []);
    let kept = recover::kept(&lab.mount().cache_folder().unwrap());
    assert_eq!((kept.len(), &kept[0]["key"]), (1, &"f".into()), "{kept:#?}");
    assert_eq!(kept[0]["dirty"], serde_json::json!([{"start": 0, "end": 4}]));
}

#[test]
fn everything_works_where_conditions_are_refused() {
    let lab = Lab::on(refusing(), &LONG, |bucket| drop(bucket.put("f", "0123456789")));
    assert_eq!(edit_against_another(&lab, b"theirs".to_vec()), Ok(()));
    assert_eq!(lab.object("f"), b"mine456789");
    assert_eq!(said(&lab), 1, "{}", lab.mount().stderr());
    fs::create_dir(lab.path("d")).unwrap();
    std::os::unix::fs::symlink("f", lab.path("d/link")).unwrap();
    let file = OpenOptions::new().write(true).create_new(true).open(lab.path("d/new")).unwrap();
    (&file).write_all(b"new").unwrap();
    close(file).unwrap();
    fs::set_permissions(lab.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::open(lab.path("f")).unwrap().sync_all().unwrap();
    fs::rename(lab.path("d"), lab.path("e")).unwrap();
    write(&lab.path("large"), &pattern(20 * MIB));
    let file = OpenOptions::new().write(true).open(lab.path("large")).unwrap();
    file.write_all_at(b"mine", 1).unwrap();
    close(file).unwrap();
    assert_eq!(fs::read_link(lab.path("e/link")).unwrap().to_str(), Some("f"));
    assert_eq!(read(&lab.path("e/new")), b"new");
    assert_eq!(fs::metadata(lab.path("f")).unwrap().mode() & 0o777, 0o600);
    let mut whole = pattern(20 * MIB);
    whole[1..5].copy_from_slice(b"mine");
    fs::remove_file(lab.path("e/new")).unwrap();
    let told = lab.mount().stderr();
    for operation in ["PUT", "COPY", "DELETE", "Complete"] {
        let words = format!("wins operation=\"{operation}\"");
        assert_eq!(told.matches(&words).count(), 1, "{told}");
    }
    assert_eq!(said(&lab), 4, "{told}");
    let bucket = lab.bucket();
    lab.count();
    assert!(bucket.get("large").unwrap() == whole, "the bytes differ");
    assert_eq!(bucket.keys(), ["e/", "e/link", "f", "large"]);
    assert_eq!(bucket.object("f").unwrap().metadata("mode"), Some("0100600"));
}

#[test]
fn each_kind_of_request_is_asked_for_itself() {
    let made = ServerOptions { complete_keeps: Keeps::Never, ..ServerOptions::default() };
    let lab = Lab::on(made, &LONG, |bucket| drop(bucket.put("f", "0123456789")));
    assert_eq!(edit_against_another(&lab, b"theirs".to_vec()), Err(Errno::ESTALE));
    assert_eq!(lab.object("f"), b"theirs");
    assert_eq!(said(&lab), 0, "{}", lab.mount().stderr());
}

#[test]
fn without_entity_tags_files_are_written_edited_and_replaced() {
    for etags in [Etags::Weak, Etags::None] {
        let made = ServerOptions { etags, ..ServerOptions::default() };
        let lab = Lab::on(made, &["--metadata-ttl", "0"], |bucket| drop(bucket.put("old", "1")));
        let path = lab.path("f");
        write(&path, b"0123456789");
        let ino = fs::metadata(&path).unwrap().ino();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"mine", 2).unwrap();
        close(file).unwrap();
        assert_eq!(read(&path), b"01mine6789");
        assert_eq!(fs::metadata(&path).unwrap().ino(), ino, "our own commit is no replacement");
        write(&lab.path("large"), &pattern(20 * MIB));
        assert!(read(&lab.path("large")) == pattern(20 * MIB));
        lab.bucket().put("f", "theirs, and longer");
        assert_eq!(read(&path), b"theirs, and longer");
        let said = lab.mount().stderr().matches("no strong ETags").count();
        assert_eq!(said, 1, "{etags:?}: {}", lab.mount().stderr());
        assert_eq!(lab.log().count(Op::Probe), 0);
    }
}

#[test]
fn a_right_store_is_asked_once_and_a_reader_asks_nothing() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    let reader = lab.another(&["--read-only"]);
    assert_eq!(read(&reader.path().join("f")), b"0123456789");
    assert_eq!(lab.log().count(Op::Probe), 0);
    for _ in 0..3 {
        let file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
        (&file).write_all(b"x").unwrap();
        close(file).unwrap();
    }
    assert_eq!(lab.log().count(Op::Probe), 1);
    assert_eq!(said(&lab), 0, "{}", lab.mount().stderr());
    assert_eq!(lab.bucket().keys(), ["f"]);
}
