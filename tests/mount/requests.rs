//! What things cost: requests and bytes, counted by the server.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;

use s3pod_testkit::{Op, RequestLog};

use crate::bench::{close, errno, names, pattern, python, read, shell, write};
use crate::lab::{Lab, PATIENCE};

/// Long enough that no test outlives it.
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn a_small_file_in_a_directory_made_here_is_one_put() {
    let lab = Lab::empty(&[]);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    write(&lab.path("d/f"), b"hello");
    lab.asserts_requests(&[(Op::Put, 1)]);
}

#[test]
fn many_small_files_in_a_directory_made_here_are_one_put_each() {
    let lab = Lab::empty(&[]);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    for number in 0..50 {
        write(&lab.path(&format!("d/{number}")), b"hello");
    }
    lab.asserts_requests(&[(Op::Put, 50)]);
}

#[test]
fn echo_is_one_put_whether_the_file_existed_or_not() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("old", "before")));
    fs::create_dir(lab.path("d")).unwrap();
    fs::metadata(lab.path("old")).unwrap();
    lab.log().clear();
    shell(&lab.path("d"), "echo x > new");
    shell(&lab.path(""), "echo x > old");
    shell(&lab.path("d"), "echo y > new");
    assert_eq!((lab.object("d/new"), lab.object("old")), (b"y\n".to_vec(), b"x\n".to_vec()));
    lab.asserts_requests(&[(Op::Put, 3)]);
}

#[test]
fn touch_is_one_put() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    shell(&lab.path("d"), "touch f");
    lab.asserts_requests(&[(Op::Put, 1)]);
}

#[test]
fn each_writing_child_of_a_redirection_commits_and_no_other() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    // Two children that write, one that does not, and the shell that closes what is committed.
    shell(&lab.path("d"), "(/bin/echo one; /bin/true; /bin/echo two) > f");
    assert_eq!(lab.object("d/f"), b"one\ntwo\n");
    lab.asserts_requests(&[(Op::Put, 2)]);
}

#[test]
fn a_descriptor_that_children_inherit_commits_only_what_is_dirty() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    let script = "exec 3> f; echo one >&3; /bin/true; /bin/true; /bin/true; exec 3>&-";
    shell(&lab.path("d"), script);
    assert_eq!(lab.object("d/f"), b"one\n");
    lab.asserts_requests(&[(Op::Put, 1)]);
}

#[test]
fn dups_and_forks_commit_what_was_written_and_no_more() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    let script = "
import os, sys
def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    os.waitpid(pid, 0)
f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(f, b'one ')
os.dup2(f, 50)
os.close(50)
child(lambda: None)
child(lambda: os.write(f, b'two '))
child(lambda: os.execv('/bin/true', ['true']))
g = os.open(sys.argv[1], os.O_RDONLY)
os.close(g)
os.write(f, b'three')
os.dup2(2, f)
os.close(f)";
    assert_eq!(python(script, &lab.path("d/f")), "");
    assert_eq!(lab.object("d/f"), b"one two three");
    // The close of the dup, the second child, and what dup2 closed.
    let log = lab.count();
    assert_eq!(log.counts(), [(Op::Put, 3)]);
}

#[test]
fn find_asks_for_one_listing_per_thousand_files() {
    let fill = |bucket: &s3pod_testkit::Bucket| {
        for number in 0..10_000 {
            bucket.put(&format!("d/{number:05}"), "x");
        }
    };
    let lab = Lab::new(&["--metadata", "list"], fill);
    let found = shell(&lab.path(""), "find . -type f | wc -l");
    assert_eq!(String::from_utf8(found.stdout).unwrap().trim(), "10000");
    let log = lab.count();
    // Ten pages of the directory, and one listing for the root.
    assert!(log.count(Op::List) <= 11, "{:?}", log.counts());
    assert_eq!(log.total(), log.count(Op::List), "{:?}", log.counts());
}

#[test]
fn find_with_sizes_costs_no_more() {
    let fill = |bucket: &s3pod_testkit::Bucket| {
        for number in 0..3_000 {
            bucket.put(&format!("d/{number:05}"), "12345");
        }
    };
    let lab = Lab::new(&["--metadata", "list"], fill);
    let found = shell(&lab.path(""), "find . -type f -size -6c -size +4c | wc -l");
    assert_eq!(String::from_utf8(found.stdout).unwrap().trim(), "3000");
    let log = lab.count();
    assert!(log.count(Op::List) <= 5, "{:?}", log.counts());
    assert_eq!(log.total(), log.count(Op::List), "{:?}", log.counts());
}

#[test]
fn reading_a_known_small_file_is_one_get_and_its_close_nothing() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "hello")));
    fs::metadata(lab.path("f")).unwrap();
    lab.log().clear();
    for _ in 0..3 {
        assert_eq!(read(&lab.path("f")), b"hello");
    }
    let mut both = OpenOptions::new().read(true).write(true).open(lab.path("f")).unwrap();
    both.read_exact(&mut [0; 5]).unwrap();
    close(both).unwrap();
    lab.asserts_requests(&[(Op::Get, 1)]);
}

#[test]
fn within_the_ttl_nothing_is_asked_again() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("d/f", "hello");
    });
    fs::metadata(lab.path("d/f")).unwrap();
    assert!(fs::metadata(lab.path("d/missing")).is_err());
    lab.log().clear();
    for _ in 0..3 {
        close(File::open(lab.path("d/f")).unwrap()).unwrap();
        assert_eq!(fs::metadata(lab.path("d/f")).unwrap().len(), 5);
        assert!(fs::metadata(lab.path("d/missing")).is_err());
    }
    lab.asserts_requests(&[]);
}

#[test]
fn changed_attributes_ride_on_the_put() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "hello")));
    fs::metadata(lab.path("f")).unwrap();
    lab.log().clear();
    let mut file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.write_all(b" world").unwrap();
    close(file).unwrap();
    let object = lab.bucket().object("f").unwrap();
    assert_eq!(object.metadata("mode"), Some("0100600"));
    assert_eq!(lab.object("f"), b"hello world");
    let log = lab.count();
    assert_eq!((log.count(Op::Put), log.count(Op::Copy)), (1, 0), "{:?}", log.counts());
}

#[test]
fn attributes_of_a_clean_file_are_one_copy() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "hello")));
    fs::metadata(lab.path("f")).unwrap();
    lab.log().clear();
    shell(&lab.path(""), "chmod 600 f; chown 7:8 f; touch -d @1000000000 f");
    let bucket = lab.bucket();
    lab.asserts_requests(&[(Op::Copy, 1)]);
    let object = bucket.object("f").unwrap();
    let metadata = ["mode", "uid", "gid", "mtime"].map(|name| object.metadata(name).unwrap());
    assert_eq!(metadata, ["0100600", "7", "8", "1000000000.000000000"]);
}

#[test]
fn a_setattr_that_changes_nothing_sends_nothing() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "hello")));
    fs::metadata(lab.path("f")).unwrap();
    lab.log().clear();
    shell(&lab.path(""), "chmod 644 f; chown $(stat -c %u:%g f) f; touch -a f; touch -r f f");
    File::open(lab.path("f")).unwrap().sync_all().unwrap();
    lab.asserts_requests(&[]);
}

/// Bytes of a kind of request, as they came.
fn payload(log: &RequestLog, op: Op) -> u64 {
    log.requests_of(op).iter().map(|request| request.bytes_in).sum()
}

/// Asserts that all there was is one upload of so many parts, with so many GETs for their fill, and
/// what the name's lookup asks.
fn assert_upload(log: &RequestLog, copied: usize, sent: usize, filled: usize) {
    let looked = [Op::Head, Op::List].map(|op| (op, 1));
    let fill = (filled > 0).then_some((Op::Get, filled));
    let parts = [(Op::CreateUpload, 1), (Op::UploadPart, sent), (Op::CopyPart, copied)];
    let all = looked.into_iter().take(1).chain(fill).chain(looked.into_iter().skip(1));
    let want: Vec<(Op, usize)> = all.chain(parts).chain([(Op::CompleteUpload, 1)]).collect();
    assert_eq!(log.counts(), want);
}

#[test]
fn appending_to_a_huge_object_sends_what_is_new() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("huge", 10 * GIB, 1)));
    let tail = pattern(KIB as usize);
    let mut file = OpenOptions::new().append(true).open(lab.path("huge")).unwrap();
    file.write_all(&tail).unwrap();
    close(file).unwrap();
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!(bucket.object("huge").unwrap().size, 10 * GIB + KIB);
    assert_eq!(bucket.get_range("huge", 10 * GIB..10 * GIB + KIB).unwrap(), tail);
    let kept = s3pod_testkit::synthetic_bytes(1, 7 * GIB..7 * GIB + 100);
    assert_eq!(bucket.get_range("huge", 7 * GIB..7 * GIB + 100).unwrap(), kept);
    // 10 GiB are copied by 256 MiB, and the new KiB is a last part.
    assert_upload(&log, 40, 1, 0);
    assert_eq!(payload(&log, Op::UploadPart), KIB);
    assert!(log.bytes_in() < 64 * KIB, "{} bytes for 1 KiB", log.bytes_in());
    assert!(log.bytes_out() < 64 * KIB, "{} bytes down", log.bytes_out());
}

#[test]
fn editing_the_middle_of_a_large_object_moves_one_part() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put_synthetic("large", GIB, 2)));
    let middle = GIB / 2 + 12_345;
    let piece = pattern(4096);
    let file = OpenOptions::new().write(true).open(lab.path("large")).unwrap();
    file.write_all_at(&piece, middle).unwrap();
    close(file).unwrap();
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!(bucket.object("large").unwrap().size, GIB);
    assert_eq!(bucket.get_range("large", middle..middle + 4096).unwrap(), piece);
    let after = middle + 4096..middle + 5096;
    let kept = s3pod_testkit::synthetic_bytes(2, after.clone());
    assert_eq!(bucket.get_range("large", after).unwrap(), kept);
    // A part of 5 MiB, filled up by what stands before the change, and two copies on each side.
    assert_upload(&log, 4, 1, 1);
    assert_eq!(payload(&log, Op::UploadPart), 5 * MIB);
    assert!(log.bytes_in() <= 5 * MIB + 64 * KIB, "{} bytes up", log.bytes_in());
    // The fill comes in whole blocks of 128 KiB.
    assert!(log.bytes_out() <= 5 * MIB + 256 * KIB, "{} bytes down", log.bytes_out());
}

#[test]
fn renaming_what_is_not_committed_copies_nothing() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    let mut file = File::create(lab.path("d/old")).unwrap();
    file.write_all(b"bytes").unwrap();
    fs::rename(lab.path("d/old"), lab.path("d/new")).unwrap();
    close(file).unwrap();
    assert_eq!(lab.object("d/new"), b"bytes");
    lab.asserts_requests(&[(Op::Put, 1)]);
}

#[test]
fn a_rename_is_one_copy_and_one_delete() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("old", "bytes");
        bucket.put("target", "gone");
    });
    fs::metadata(lab.path("old")).unwrap();
    fs::metadata(lab.path("target")).unwrap();
    lab.log().clear();
    fs::rename(lab.path("old"), lab.path("target")).unwrap();
    let bucket = lab.bucket();
    lab.asserts_requests(&[(Op::Copy, 1), (Op::Delete, 1)]);
    assert_eq!(bucket.keys(), ["target"]);
}

#[test]
fn a_file_that_is_unlinked_before_its_commit_costs_nothing() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    let mut file = File::create(lab.path("d/f")).unwrap();
    file.write_all(b"secret").unwrap();
    fs::remove_file(lab.path("d/f")).unwrap();
    close(file).unwrap();
    lab.asserts_requests(&[]);
}

#[test]
fn a_streamed_file_is_its_parts_and_no_more() {
    let lab = Lab::empty(&LONG);
    fs::create_dir(lab.path("d")).unwrap();
    lab.log().clear();
    // Three parts of 8 MiB, the last of one byte less.
    write(&lab.path("d/f"), &pattern(24 * MIB as usize - 1));
    let want = [(Op::CreateUpload, 1), (Op::UploadPart, 3), (Op::CompleteUpload, 1)];
    lab.asserts_requests(&want);
}

#[test]
fn parts_leave_while_the_writer_still_writes() {
    let lab = Lab::empty(&[]);
    let bytes = pattern(40 * MIB as usize);
    let mut file = File::create(lab.path("f")).unwrap();
    let hold = lab.server().faults().hold(Op::UploadPart, "f");
    file.write_all(&bytes).unwrap();
    assert!(hold.wait_for_blocking(1, PATIENCE), "no part left before the close");
    assert!(!lab.bucket().contains("f"));
    hold.release();
    close(file).unwrap();
    assert!(lab.object("f") == bytes, "the bytes differ");
}

#[test]
fn a_read_only_mount_changes_nothing_and_asks_for_no_head() {
    let lab = Lab::new(&["--read-only"], |bucket| drop(bucket.put("d/f", "hello")));
    assert_eq!(names(&lab.path("d")), ["f"]);
    assert_eq!(read(&lab.path("d/f")), b"hello");
    let errnos = [
        errno(File::create(lab.path("new"))),
        errno(OpenOptions::new().write(true).open(lab.path("d/f"))),
        errno(fs::remove_file(lab.path("d/f"))),
        errno(fs::create_dir(lab.path("e"))),
        errno(fs::rename(lab.path("d"), lab.path("e"))),
        errno(fs::set_permissions(lab.path("d/f"), Permissions::from_mode(0o600))),
    ];
    assert_eq!(errnos, [nix::errno::Errno::EROFS; 6]);
    let log = lab.count();
    assert_eq!(log.total(), log.count(Op::List) + log.count(Op::Get), "{:?}", log.counts());
    assert_eq!(log.count(Op::Get), 1, "{:?}", log.counts());
}

#[test]
fn a_walk_with_posix_metadata_asks_once_for_each_file() {
    let lab = Lab::new(&LONG, |bucket| {
        for number in 0..100 {
            bucket.put(&format!("d/{number:03}"), vec![b'x'; 2000]);
        }
    });
    let output = Command::new("ls").arg("-l").arg(lab.path("d")).output().unwrap();
    assert!(output.status.success());
    let log = lab.count();
    assert_eq!(log.count(Op::Head), 101, "a HEAD each, and one for `d`: {:?}", log.counts());
    assert!(log.count(Op::List) <= 3, "{:?}", log.counts());
}
