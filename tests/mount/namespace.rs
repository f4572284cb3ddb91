//! What names cost: requests of renames, of directories, and of what editors and rsync do.

use std::fs::{self, File};
use std::io::Write;

use s3pod_testkit::Op;

use crate::bench::{close, names, read, shell, write};
use crate::lab::Lab;

/// Long enough that no test outlives it.
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];

#[test]
fn a_directory_is_one_put_and_its_end_a_listing_and_a_delete() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    fs::create_dir(lab.path("d/e")).unwrap();
    assert_eq!(lab.log().counts(), [(Op::Put, 1)]);
    lab.log().clear();
    fs::remove_dir(lab.path("d/e")).unwrap();
    lab.asserts_requests(&[(Op::List, 1), (Op::Delete, 1)]);
}

#[test]
fn a_file_written_aside_and_renamed_is_put_copy_and_delete() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    for name in ["d/one", "d/two"] {
        // As rsync does: the times are set before the rename, and ride on its copy.
        write(&lab.path(&format!("{name}.tmp")), b"bytes");
        shell(&lab.path("d"), &format!("touch -d @1000000000 {}.tmp", &name[2..]));
        fs::rename(lab.path(&format!("{name}.tmp")), lab.path(name)).unwrap();
    }
    let bucket = lab.bucket();
    lab.asserts_requests(&[(Op::Put, 2), (Op::Copy, 2), (Op::Delete, 2)]);
    assert_eq!(bucket.keys(), ["d/", "d/one", "d/two"]);
    assert_eq!(bucket.object("d/one").unwrap().metadata("mtime"), Some("1000000000.000000000"));
}

#[test]
fn a_directorys_rename_is_a_head_and_a_copy_per_object_and_a_delete_per_thousand() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("old/", "");
        for number in 0..2_500 {
            bucket.put(&format!("old/{number:05}"), "x");
        }
    });
    fs::metadata(lab.path("old")).unwrap();
    assert!(fs::metadata(lab.path("new")).is_err());
    lab.log().clear();
    fs::rename(lab.path("old"), lab.path("new")).unwrap();
    let peak = lab.log().peak(Op::Copy);
    assert!((2..=32).contains(&peak), "{peak} at once");
    let bucket = lab.bucket();
    // Three pages; a HEAD for storage class and encryption, which no listing tells in full; the
    // first delete, which says whether any may be made, three requests for the other files, and
    // the marker goes after them.
    let deletes = [(Op::Delete, 1), (Op::DeleteMany, 4)];
    let want = [(Op::Head, 2_500), (Op::List, 3), (Op::Copy, 2_501), deletes[0], deletes[1]];
    let log = lab.count();
    for (op, count) in want {
        assert_eq!(log.count(op), count, "{:?}", log.counts());
    }
    let total: usize = want.iter().map(|(_, count)| count).sum();
    assert_eq!(log.total(), total, "{:?}", log.counts());
    let keys = bucket.keys();
    assert_eq!(keys.len(), 2_501);
    assert!(keys.iter().all(|key| key.starts_with("new/")));
}

#[test]
fn a_directorys_rename_takes_along_what_is_open_and_what_is_not_sent() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("old/", "");
        bucket.put("old/read", "0123456789");
        bucket.put("new/gone", "unlinked while open");
        bucket.put("new/", "");
    });
    let gone = File::open(lab.path("new/gone")).unwrap();
    fs::remove_file(lab.path("new/gone")).unwrap();
    fs::remove_dir(lab.path("new")).unwrap();
    let open = File::open(lab.path("old/read")).unwrap();
    let mut unsent = File::create(lab.path("old/gone")).unwrap();
    unsent.write_all(b"not sent yet").unwrap();
    lab.log().clear();
    fs::rename(lab.path("old"), lab.path("new")).unwrap();
    assert_eq!(lab.log().count(Op::Put), 0, "what was never committed is not committed for it");
    close(unsent).unwrap();
    close(gone).unwrap();
    assert_eq!(names(&lab.path("new")), ["gone", "read"]);
    let mut bytes = [0; 10];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123456789");
    assert_eq!(read(&lab.path("new/gone")), b"not sent yet");
    let bucket = lab.bucket();
    drop(open);
    lab.count();
    assert_eq!(bucket.keys(), ["new/", "new/gone", "new/read"]);
    assert_eq!(bucket.get("new/gone").unwrap(), "not sent yet");
}
