//! Calls that meet: changes during a commit, names that change hands, many threads at once.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};
use s3pod_testkit::{Fault, Op, synthetic_bytes};

use crate::bench::{assert_waits, close, errno, eventually, names, pattern, python, read, write};
use crate::lab::{Lab, PATIENCE};

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;

fn is_one_of(bytes: &[u8], texts: &[Vec<u8>]) -> bool {
    texts.iter().any(|text| text == bytes)
}

#[test]
fn what_is_written_during_a_commit_goes_with_the_next() {
    let lab = Lab::empty(&[]);
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    let hold = lab.server().faults().hold(Op::Put, "f");
    thread::scope(|scope| {
        let twin = file.try_clone().unwrap();
        let sync = scope.spawn(move || twin.sync_all());
        assert!(hold.wait_for_blocking(1, PATIENCE));
        let writer = file.try_clone().unwrap();
        let late = scope.spawn(move || writer.write_all_at(b"later", 0));
        assert_waits(&late);
        assert!(!sync.is_finished());
        hold.release();
        sync.join().unwrap().unwrap();
        assert_eq!(lab.object("f"), b"first", "what was there when it began");
        late.join().unwrap().unwrap();
    });
    close(file).unwrap();
    assert_eq!(lab.object("f"), b"later");
}

#[test]
fn an_unlink_during_a_commit_wins() {
    let lab = Lab::empty(&[]);
    let bucket = lab.bucket();
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    let hold = lab.server().faults().hold(Op::Put, "f");
    thread::scope(|scope| {
        let closer = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        let unlink = scope.spawn(|| fs::remove_file(lab.path("f")));
        assert_waits(&unlink);
        assert!(!closer.is_finished());
        assert_eq!(lab.log().count(Op::Delete), 0, "it would come before what it deletes");
        hold.release();
        closer.join().unwrap().unwrap();
        unlink.join().unwrap().unwrap();
    });
    assert!(!lab.path("f").exists());
    lab.count();
    assert_eq!(bucket.keys(), [""; 0]);
}

#[test]
fn a_rename_during_a_commit_moves_all_of_it() {
    let lab = Lab::empty(&[]);
    let file = File::create(lab.path("old")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    let hold = lab.server().faults().hold(Op::Put, "old");
    thread::scope(|scope| {
        let closer = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        let rename = scope.spawn(|| fs::rename(lab.path("old"), lab.path("new")));
        assert_waits(&rename);
        assert!(!closer.is_finished());
        let moved = lab.log().count(Op::Copy) + lab.log().count(Op::Delete);
        assert_eq!(moved, 0, "there is nothing to copy yet");
        hold.release();
        closer.join().unwrap().unwrap();
        rename.join().unwrap().unwrap();
    });
    assert_eq!(lab.bucket().keys(), ["new"]);
    assert_eq!(lab.object("new"), b"bytes");
}

#[test]
fn a_file_that_is_replaced_keeps_its_bytes_for_who_has_it_open() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("read", "old bytes");
        bucket.put("target", "old bytes");
    });
    let old = File::open(lab.path("read")).unwrap();
    let mut bytes = [0; 9];
    old.read_exact_at(&mut bytes, 0).unwrap();
    write(&lab.path("source"), b"new bytes");
    fs::rename(lab.path("source"), lab.path("read")).unwrap();
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old bytes");
    assert_eq!(read(&lab.path("read")), b"new bytes");
    // Where nothing had been read, it is the old version or ESTALE, and never the new one.
    let old = File::open(lab.path("target")).unwrap();
    write(&lab.path("source"), b"new bytes");
    fs::rename(lab.path("source"), lab.path("target")).unwrap();
    match old.read_exact_at(&mut bytes, 0) {
        Ok(()) => assert_eq!(&bytes, b"old bytes"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::ESTALE as i32)),
    }
}

#[test]
fn a_replaced_open_file_of_up_to_64_mib_keeps_all_of_its_bytes() {
    let (kept, lost) = (64 * MIB as u64, 64 * MIB as u64 + 1);
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put_synthetic("kept", kept, 1);
        bucket.put_synthetic("lost", lost, 2);
    });
    let files = ["kept", "lost"].map(|name| File::open(lab.path(name)).unwrap());
    for name in ["kept", "lost"] {
        write(&lab.path("source"), b"new bytes");
        fs::rename(lab.path("source"), lab.path(name)).unwrap();
        assert_eq!(read(&lab.path(name)), b"new bytes");
    }
    let mut bytes = vec![0; MIB];
    for at in (0..kept).step_by(8 * MIB) {
        files[0].read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes == synthetic_bytes(1, at..at + MIB as u64), "the bytes at {at} differ");
    }
    assert_eq!(errno(files[1].read_exact_at(&mut bytes, 0)), Errno::ESTALE);
}

#[test]
fn many_threads_make_many_files() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    thread::scope(|scope| {
        for worker in 0..8 {
            let lab = &lab;
            scope.spawn(move || {
                for number in 0..20 {
                    let name = format!("d/{worker}-{number:02}");
                    write(&lab.path(&name), name.as_bytes());
                    assert_eq!(read(&lab.path(&name)), name.as_bytes());
                    if number % 4 == 0 {
                        fs::rename(lab.path(&name), lab.path(&format!("{name}-moved"))).unwrap();
                    }
                    if number % 4 == 1 {
                        fs::remove_file(lab.path(&name)).unwrap();
                    }
                }
            });
        }
    });
    let here = names(&lab.path("d"));
    assert_eq!(here.len(), 8 * 15);
    let bucket = lab.bucket();
    lab.count();
    let keys = bucket.keys();
    let there: Vec<&str> =
        keys.iter().filter_map(|key| key.strip_prefix("d/")).filter(|n| !n.is_empty()).collect();
    assert_eq!(there, here);
}

#[test]
fn many_threads_write_parts_of_one_file() {
    let lab = Lab::empty(&[]);
    let bytes = pattern(32 * MIB);
    let file = File::create(lab.path("f")).unwrap();
    thread::scope(|scope| {
        for worker in 0..4 {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || {
                for start in (worker * 256 * 1024..bytes.len()).step_by(MIB) {
                    file.write_all_at(&bytes[start..start + 256 * 1024], start as u64).unwrap();
                    if start % (8 * MIB) == 0 {
                        file.sync_all().unwrap();
                    }
                }
            });
        }
    });
    close(file).unwrap();
    assert!(lab.object("f") == bytes, "the bytes differ");
}

#[test]
fn renames_over_one_name_never_leave_it_empty_or_mixed() {
    let lab = Lab::new(&["--metadata-ttl", "0s"], |bucket| drop(bucket.put("f", "start")));
    let texts: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![b'a' + n; 1000 + usize::from(n)]).collect();
    let mut valid = texts.clone();
    valid.push(b"start".to_vec());
    thread::scope(|scope| {
        let (lab, texts, valid) = (&lab, &texts, &valid);
        let writer = scope.spawn(move || {
            for text in texts {
                write(&lab.path("next"), text);
                fs::rename(lab.path("next"), lab.path("f")).unwrap();
            }
        });
        while !writer.is_finished() {
            match fs::read(lab.path("f")) {
                Ok(seen) => assert!(is_one_of(&seen, valid), "{} bytes", seen.len()),
                Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::ESTALE as i32)),
            }
        }
    });
    assert_eq!(read(&lab.path("f")), texts[19]);
}

#[test]
fn a_commit_that_hangs_is_eio_and_arrives_when_the_store_is_back() {
    let lab = Lab::empty(&["--op-timeout", "2s"]);
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    let hold = lab.server().faults().hold(Op::Put, "f");
    assert_eq!(errno(file.sync_all()), Errno::EIO);
    hold.release();
    file.sync_all().unwrap();
    assert_eq!(lab.object("f"), b"bytes");
}

#[test]
fn a_directory_that_is_emptied_while_it_is_read_is_read_completely() {
    let lab = Lab::new(&[], |bucket| {
        for number in 0..2_300 {
            bucket.put(&format!("d/{number:04}"), "x");
        }
    });
    fs::remove_dir_all(lab.path("d")).unwrap();
    let bucket = lab.bucket();
    lab.count();
    assert_eq!(bucket.keys(), [""; 0]);
}

#[test]
fn a_large_directory_moves_completely() {
    let lab = Lab::new(&[], |bucket| {
        bucket.put("old/", "");
        for number in 0..1_200 {
            bucket.put(&format!("old/{}/{number:04}", number % 7), format!("{number}"));
        }
    });
    fs::rename(lab.path("old"), lab.path("new")).unwrap();
    assert_eq!(read(&lab.path("new/3/0003")), b"3");
    let keys = lab.bucket().keys();
    assert_eq!(keys.len(), 1_201);
    assert!(keys.iter().all(|key| key.starts_with("new/")));
    assert_eq!(names(&lab.path("")), ["new"]);
}

#[test]
fn a_prefix_shows_nothing_of_its_neighbours() {
    let lab = Lab::new(&["--prefix", "a"], |bucket| {
        for key in ["a", "a/in", "ab", "ab/x", "a-b", "b"] {
            bucket.put(key, "x");
        }
    });
    assert_eq!(names(&lab.path("")), ["in"]);
    write(&lab.path("new"), b"x");
    fs::rename(lab.path("new"), lab.path("moved")).unwrap();
    fs::remove_file(lab.path("in")).unwrap();
    assert_eq!(lab.bucket().keys(), ["a", "a-b", "a/moved", "ab", "ab/x", "b"]);
}

#[test]
fn a_mount_that_lists_attributes_refuses_what_it_cannot_keep() {
    let lab = Lab::new(&["--metadata", "list"], |bucket| drop(bucket.put("f", "bytes")));
    let chmod = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(lab.path("f"), mode)
    };
    assert_eq!(errno(chmod(0o600)), Errno::EPERM);
    chmod(0o644).unwrap();
    assert_eq!(errno(std::os::unix::fs::symlink("f", lab.path("link"))), Errno::EPERM);
    assert_eq!(errno(std::os::unix::fs::chown(lab.path("f"), Some(7), None)), Errno::EPERM);
    for kind in [SFlag::S_IFIFO, SFlag::S_IFSOCK] {
        let made = mknod(&lab.path("special"), kind, Mode::S_IRWXU, 0);
        assert_eq!(made, Err(Errno::EPERM), "{kind:?}");
    }
    let set_time = "
import os, sys, errno
f = sys.argv[1]
for call in [lambda: os.utime(f, (5, 5)), lambda: os.setxattr(f, 'user.x', b'x')]:
    try:
        call()
    except OSError as e:
        print(errno.errorcode[e.errno])";
    assert_eq!(python(set_time, &lab.path("f")), "EPERM\nENOTSUP");
    assert_eq!(lab.bucket().keys(), ["f"]);
    let mut file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
    file.write_all(b" more").unwrap();
    close(file).unwrap();
    assert_eq!(lab.object("f"), b"bytes more");
    assert_eq!(lab.bucket().object("f").unwrap().metadata("mode"), None);
}

#[test]
fn an_fsync_by_a_reader_commits_what_another_handle_wrote() {
    let lab = Lab::empty(&[]);
    let file = File::create(lab.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    File::open(lab.path("f")).unwrap().sync_all().unwrap();
    assert_eq!(lab.object("f"), b"bytes");
    lab.log().clear();
    close(file).unwrap();
    lab.asserts_requests(&[]);
}

#[test]
fn an_empty_file_is_in_the_store_soon_though_it_stays_open() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("old", "bytes")));
    let _new = File::create(lab.path("new")).unwrap();
    let _old = File::create(lab.path("old")).unwrap();
    eventually("both are empty objects", || {
        let size = |key| lab.bucket().object(key).map(|object| object.size);
        (size("new"), size("old")) == (Some(0), Some(0))
    });
}

/// Asserts that a folder has these entries, here and on a fresh mount.
fn assert_names(lab: &Lab, other: &Path, want: &[&str]) {
    assert_eq!(names(&lab.path("")), want);
    assert_eq!(names(other), want);
}

#[test]
fn what_one_mount_makes_and_takes_the_other_sees() {
    let lab = Lab::empty(&["--metadata-ttl", "0s"]);
    let other = lab.another(&["--metadata-ttl", "0s"]);
    write(&lab.path("a"), b"1");
    fs::create_dir(other.path().join("d")).unwrap();
    assert_names(&lab, other.path(), &["a", "d"]);
    fs::rename(other.path().join("a"), other.path().join("d/b")).unwrap();
    assert_names(&lab, other.path(), &["d"]);
    assert_eq!(read(&lab.path("d/b")), b"1");
    assert_eq!(errno(fs::metadata(lab.path("a"))), Errno::ENOENT);
    fs::remove_file(lab.path("d/b")).unwrap();
    fs::remove_dir(lab.path("d")).unwrap();
    assert_names(&lab, other.path(), &[]);
    lab.server().faults().add(Fault::SlowDown.on_any().times(3));
    fs::create_dir_all(other.path().join("x/y")).unwrap();
    write(&lab.path("x/y/z"), b"deep");
    assert_eq!(read(&other.path().join("x/y/z")), b"deep");
    assert!(other.unmount().unwrap().success());
}
