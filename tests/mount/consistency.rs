//! Two writers on one bucket: what each sees of the other, and who wins.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::errno::Errno;
use s3pod_testkit::{Mount, Op};

use crate::bench::{close, errno, eventually, names, pattern, read, write};
use crate::lab::Lab;

/// Everything is asked for again.
const FRESH: [&str; 2] = ["--metadata-ttl", "0s"];
const MIB: usize = 1 << 20;

/// The bytes of every file that a conflict left behind.
fn recovered(mount: &Mount) -> Vec<Vec<u8>> {
    let folder = mount.cache_folder().unwrap().join("recover");
    let Ok(volumes) = fs::read_dir(folder) else { return Vec::new() };
    let files = volumes.flat_map(|volume| fs::read_dir(volume.unwrap().path()).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    let bytes = paths.filter(|path| path.extension().is_some_and(|kind| kind == "data"));
    bytes.map(|path| fs::read(path).unwrap()).collect()
}

fn open_both(lab: &Lab, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(lab.path(name)).unwrap()
}

#[test]
fn a_replaced_object_is_a_new_file() {
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("f", "old bytes")));
    let old = File::open(lab.path("f")).unwrap();
    let mut bytes = [0; 9];
    old.read_exact_at(&mut bytes, 0).unwrap();
    lab.bucket().put("f", "new bytes, and more of them");
    assert_eq!(read(&lab.path("f")), b"new bytes, and more of them");
    let seen = fs::metadata(lab.path("f")).unwrap();
    assert_eq!(seen.len(), 27);
    assert_ne!(seen.ino(), old.metadata().unwrap().ino());
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old bytes", "what was read stays");
}

#[test]
fn in_a_versioned_bucket_a_handle_reads_its_version_to_the_end() {
    let (old, new) = (pattern(40 * MIB), vec![b'n'; 40 * MIB]);
    let lab = Lab::new(&FRESH, |bucket| {
        bucket.enable_versioning();
        for key in ["replaced", "deleted"] {
            bucket.put(key, old.clone());
        }
    });
    let open = |name: &str| File::open(lab.path(name)).unwrap();
    let readers = ["replaced", "deleted"].map(open);
    let mut bytes = vec![0; MIB];
    for reader in &readers {
        reader.read_exact_at(&mut bytes, 0).unwrap();
    }
    lab.bucket().put("replaced", new.clone());
    lab.bucket().delete("deleted");
    assert!(read(&lab.path("replaced")) == new, "a new open has the new bytes");
    assert_eq!(errno(File::open(lab.path("deleted"))), Errno::ENOENT);
    for reader in &readers {
        for at in (0..40 * MIB).step_by(MIB).rev() {
            reader.read_exact_at(&mut bytes, at as u64).unwrap();
            assert!(bytes == old[at..at + MIB], "the bytes at {at} differ");
        }
    }
}

#[test]
fn a_reader_never_sees_two_versions() {
    let (old, new) = (vec![b'o'; 40 * MIB], vec![b'n'; 40 * MIB]);
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("f", old.clone())));
    let reader = File::open(lab.path("f")).unwrap();
    let mut bytes = vec![0; MIB];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    lab.bucket().put("f", new.clone());
    for at in (1..40).rev() {
        // What was fetched before is old, what was not is refused, and nothing is new.
        match reader.read_exact_at(&mut bytes, at * MIB as u64) {
            Ok(()) => assert!(bytes == old[..MIB], "the old version at {at} MiB"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::ESTALE as i32), "{error}"),
        }
    }
    let far = reader.read_exact_at(&mut bytes, 39 * MIB as u64);
    assert_eq!(errno(far), Errno::ESTALE, "the end was never fetched");
    assert!(read(&lab.path("f")) == new, "a new open has the new bytes");
}

#[test]
fn a_deleted_object_is_gone() {
    let lab = Lab::new(&FRESH, |bucket| {
        bucket.put("f", "bytes");
        bucket.put("d/g", "bytes");
    });
    for name in ["f", "d/g"] {
        assert_eq!(read(&lab.path(name)), b"bytes");
        lab.bucket().delete(name);
        assert_eq!(errno(File::open(lab.path(name))), Errno::ENOENT, "{name}");
        assert_eq!(errno(fs::metadata(lab.path(name))), Errno::ENOENT, "{name}");
    }
    assert_eq!(errno(fs::metadata(lab.path("d"))), Errno::ENOENT);
    assert_eq!(names(&lab.path("")), [""; 0]);
    write(&lab.path("f"), b"again");
    assert_eq!(lab.object("f"), b"again");
}

#[test]
fn a_change_shows_after_the_ttl() {
    let lab = Lab::new(&["--metadata-ttl", "200ms"], |bucket| drop(bucket.put("f", "old")));
    assert_eq!(read(&lab.path("f")), b"old");
    assert!(!lab.path("g").exists());
    lab.bucket().put("f", "newer");
    lab.bucket().put("g", "x");
    eventually("the new size is seen", || fs::metadata(lab.path("f")).unwrap().len() == 5);
    eventually("the new name is seen", || lab.path("g").exists());
    assert_eq!(read(&lab.path("f")), b"newer");
}

#[test]
fn an_open_sees_every_commit_of_another_mount() {
    let lab = Lab::empty(&FRESH);
    let other = lab.another(&FRESH);
    for round in 0..5 {
        let text = format!("round {round}");
        let (writer, reader) =
            if round % 2 == 0 { (lab.mount(), &other) } else { (&other, lab.mount()) };
        write(&writer.path().join("f"), text.as_bytes());
        assert_eq!(read(&reader.path().join("f")), text.as_bytes());
    }
    assert!(other.unmount().unwrap().success());
}

#[test]
fn the_loser_of_an_edit_gets_estale_and_keeps_its_bytes() {
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("f", "0123456789")));
    for end in ["close", "fsync"] {
        lab.bucket().put("f", "0123456789");
        let file = open_both(&lab, "f");
        file.write_all_at(end.as_bytes(), 3).unwrap();
        lab.bucket().put("f", "theirs");
        if end == "close" {
            assert_eq!(close(file), Err(Errno::ESTALE));
        } else {
            assert_eq!(errno(file.sync_all()), Errno::ESTALE);
            assert_eq!(errno(file.write_all_at(b"x", 0)), Errno::ESTALE, "detached from then on");
        }
        assert_eq!(lab.object("f"), b"theirs");
        assert_eq!(read(&lab.path("f")), b"theirs");
    }
    let kept = recovered(lab.mount());
    assert_eq!(kept.len(), 2, "{kept:?}");
    for want in ["close", "fsync"] {
        assert!(kept.iter().any(|bytes| bytes[3..].starts_with(want.as_bytes())), "{kept:?}");
    }
}

#[test]
fn replacing_a_whole_file_wins() {
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("f", "first")));
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(b"mine").unwrap();
    lab.bucket().put("f", "theirs");
    close(file).unwrap();
    assert_eq!(lab.object("f"), b"mine");
}

#[test]
fn one_of_two_exclusive_creators_wins() {
    let lab = Lab::empty(&FRESH);
    let other = lab.another(&FRESH);
    let create = |mount: &Mount| File::create_new(mount.path().join("lock")).unwrap();
    let (mut one, mut two) = (create(lab.mount()), create(&other));
    one.write_all(b"one").unwrap();
    two.write_all(b"two").unwrap();
    assert_eq!(close(two), Ok(()));
    assert_eq!(close(one), Err(Errno::EEXIST));
    assert_eq!(lab.object("lock"), b"two");
    assert_eq!(read(&lab.path("lock")), b"two");
    assert_eq!(recovered(lab.mount()), [b"one".to_vec()]);
    assert!(other.unmount().unwrap().success());
}

#[test]
fn an_exclusive_create_may_be_decided_at_open() {
    let arguments = ["--metadata-ttl", "10m", "--exclusive-create", "open"];
    let lab = Lab::empty(&arguments);
    let other = lab.another(&arguments);
    // Both know that there is no such file, until one of them makes it.
    assert!(!lab.path("lock").exists() && !other.path().join("lock").exists());
    let mut winner = File::create_new(lab.path("lock")).unwrap();
    assert_eq!(lab.object("lock"), b"");
    assert_eq!(errno(File::create_new(other.path().join("lock"))), Errno::EEXIST);
    winner.write_all(b"mine").unwrap();
    close(winner).unwrap();
    assert_eq!(lab.object("lock"), b"mine");
    assert_eq!(read(&other.path().join("lock")), b"mine");
    assert!(other.unmount().unwrap().success());
}

#[test]
fn an_open_unlinked_file_keeps_its_object_until_the_last_close() {
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("f", "0123456789")));
    let (one, two) = (open_both(&lab, "f"), File::open(lab.path("f")).unwrap());
    fs::remove_file(lab.path("f")).unwrap();
    assert_eq!(names(&lab.path("")), [""; 0]);
    one.write_all_at(b"X", 0).unwrap();
    close(one).unwrap();
    let mut bytes = [0; 10];
    two.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"X123456789");
    assert_eq!(lab.log().count(Op::Delete), 0, "{:?}", lab.log().counts());
    assert_eq!(lab.log().count(Op::Put), 0, "{:?}", lab.log().counts());
    close(two).unwrap();
    eventually("the object is gone", || !lab.bucket().contains("f"));
    assert_eq!(lab.log().count(Op::Delete), 1);
}

#[test]
fn a_name_made_again_is_not_deleted_by_the_old_ones_close() {
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("f", "old")));
    let old = File::open(lab.path("f")).unwrap();
    fs::remove_file(lab.path("f")).unwrap();
    write(&lab.path("f"), b"new");
    close(old).unwrap();
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!(log.count(Op::Delete), 0, "{:?}", log.counts());
    assert_eq!(bucket.get("f").unwrap(), "new");
}

#[test]
fn a_directory_wins_over_an_object_of_its_name() {
    let lab = Lab::new(&FRESH, |bucket| {
        bucket.put("a", "hidden");
        bucket.put("a/b", "below");
    });
    assert!(fs::metadata(lab.path("a")).unwrap().is_dir());
    assert_eq!(names(&lab.path("")), ["a"]);
    assert_eq!(read(&lab.path("a/b")), b"below");
    fs::remove_file(lab.path("a/b")).unwrap();
    fs::remove_dir(lab.path("a")).unwrap();
    assert_eq!(lab.object("a"), b"hidden", "what cannot be seen is not touched");
    assert_eq!(read(&lab.path("a")), b"hidden", "and shows once nothing hides it");
}

#[test]
fn keys_that_cannot_be_paths_are_hidden_and_said_once() {
    let long = format!("long/{}", "x".repeat(256));
    let odd = ["x//y", "x/./y", "x/../y", "/lead", "../up", long.as_str()];
    let lab = Lab::new(&FRESH, |bucket| {
        for key in odd {
            bucket.put(key, "hidden");
        }
        bucket.put("x/seen", "seen");
        bucket.put("long/seen", "seen");
    });
    for _ in 0..2 {
        assert_eq!(names(&lab.path("")), ["long", "x"]);
        assert_eq!(names(&lab.path("x")), ["seen"]);
        assert_eq!(names(&lab.path("long")), ["seen"]);
    }
    let said = lab.mount().stderr();
    assert_eq!(said.matches("a component over 255 bytes").count(), 1, "{said}");
    assert!(said.contains("an empty component"), "{said}");
    let counted = |reason: &str| lab.metric("s3pod_hidden_keys_total", &[reason]);
    for reason in ["an empty component", "a component over 255 bytes"] {
        assert!(counted(reason) > 0, "{reason}");
    }
    for key in odd {
        assert_eq!(lab.object(key), b"hidden");
    }
}

#[test]
fn a_handle_reads_what_this_mount_has_committed_since() {
    let before = pattern(20 * MIB);
    let lab = Lab::new(&FRESH, |bucket| drop(bucket.put("f", before.clone())));
    let reader = File::open(lab.path("f")).unwrap();
    let mut bytes = vec![0; MIB];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    let writer = open_both(&lab, "f");
    writer.write_all_at(b"edited", 19 * MIB as u64).unwrap();
    close(writer).unwrap();
    reader.read_exact_at(&mut bytes, 19 * MIB as u64).unwrap();
    assert_eq!(&bytes[..6], b"edited");
    reader.read_exact_at(&mut bytes, 10 * MIB as u64).unwrap();
    assert!(bytes == before[10 * MIB..11 * MIB], "the rest is as it was");
}
