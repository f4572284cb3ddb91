//! Files that the kernel reads by itself: what it is handed, and what happens to them meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use s3pod_testkit::Op;

use crate::bench::{eventually, pattern, python};
use crate::lab::Lab;

const SIZE: usize = (3 << 20) + 5;

/// A file that was read once, so that the cache has all of it.
struct Passed {
    lab: Lab,
    bytes: Vec<u8>,
}

impl Passed {
    fn new(arguments: &[&str]) -> Self {
        let bytes = pattern(SIZE);
        let all = [&["--log-level", "debug", "--cache-min-free", "0"], arguments].concat();
        let lab = Lab::new(&all, |bucket| {
            bucket.put("f", bytes.clone());
        });
        let passed = Self { lab, bytes };
        // Reading it would do, mostly: a disk that cannot keep up keeps less.
        let mut warm = Command::new(env!("CARGO_BIN_EXE_s3pod"));
        let warmed = warm.arg("warm").arg(passed.path()).output().unwrap();
        assert!(warmed.status.success(), "{}", String::from_utf8_lossy(&warmed.stderr));
        passed
    }

    fn path(&self) -> PathBuf {
        self.lab.path("f")
    }

    /// How often the kernel was handed a file.
    fn count(&self) -> usize {
        self.lab.mount().stderr().matches("the kernel reads the file by itself").count()
    }

    /// A handle through which the kernel reads by itself.
    fn open(&self) -> File {
        for _ in 0..600 {
            let before = self.count();
            let file = File::open(self.path()).unwrap();
            if self.count() > before {
                return file;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the file was never handed to the kernel:\n{}", self.lab.mount().stderr());
    }

    /// True where the handle still has the first bytes, all of them.
    fn is_first(&self, file: &File) -> bool {
        all(file) == self.bytes
    }
}

fn all(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The cache's own files of whole objects.
fn whole_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(whole_files(&path));
        } else if path.extension().is_some_and(|suffix| suffix == "whole") {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_cached_file_is_read_without_us() {
    let passed = Passed::new(&[]);
    passed.lab.log().clear();
    let file = passed.open();
    assert!(passed.is_first(&file));
    assert_eq!(passed.lab.log().count(Op::Get), 0);
    // What nobody could see otherwise: a change of the cache's own file.
    let cached = whole_files(&passed.lab.mount().cache_folder().unwrap()).remove(0);
    let at = SIZE as u64 - 1;
    let own = OpenOptions::new().write(true).open(cached).unwrap();
    own.write_all_at(&[!passed.bytes[SIZE - 1]], at).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    assert_eq!(byte[0], !passed.bytes[SIZE - 1], "the kernel reads the file itself");
    drop(file);
    // Touched, so it is not handed over again, nor believed; but the kernel tells of the last close
    // in its own time, and until then an open shares what it has.
    eventually("it is believed no more", || fs::read(passed.path()).unwrap() == passed.bytes);
}

#[test]
fn with_no_passthrough_nothing_is_handed_over() {
    let passed = Passed::new(&["--no-passthrough"]);
    for _ in 0..20 {
        assert!(passed.is_first(&File::open(passed.path()).unwrap()));
    }
    assert_eq!(passed.count(), 0);
}

#[test]
fn a_writer_gets_another_inode_and_readers_keep_theirs() {
    let passed = Passed::new(&[]);
    let reader = passed.open();
    let inode = reader.metadata().unwrap().ino();
    let writer = OpenOptions::new().read(true).write(true).open(passed.path()).unwrap();
    assert_ne!(writer.metadata().unwrap().ino(), inode);
    writer.write_all_at(b"new", 0).unwrap();
    assert!(passed.is_first(&reader));
    let mut seen = [0; 3];
    writer.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"new");
    crate::bench::close(writer).unwrap();
    assert!(passed.is_first(&reader));
    let after = fs::read(passed.path()).unwrap();
    assert!(after.starts_with(b"new") && after[3..] == passed.bytes[3..]);
    assert!(passed.lab.object("f") == after);
}

#[test]
fn truncating_by_name_leaves_readers_what_they_opened() {
    let passed = Passed::new(&[]);
    let reader = passed.open();
    nix::unistd::truncate(&passed.path(), 5).unwrap();
    assert!(passed.is_first(&reader));
    assert_eq!(fs::read(passed.path()).unwrap(), &passed.bytes[..5]);
    assert_eq!(passed.lab.object("f"), &passed.bytes[..5]);
}

#[test]
fn an_open_that_truncates_leaves_readers_what_they_opened() {
    let passed = Passed::new(&[]);
    let reader = passed.open();
    fs::write(passed.path(), b"short").unwrap();
    assert!(passed.is_first(&reader));
    assert_eq!(fs::read(passed.path()).unwrap(), b"short");
}

#[test]
fn a_shared_mapping_of_a_writer_does_not_reach_readers() {
    let passed = Passed::new(&[]);
    let reader = passed.open();
    let script = "
import mmap, sys
with open(sys.argv[1], 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
    m[0:4] = b'mmap'
    m.flush()";
    python(script, &passed.path());
    assert!(fs::read(passed.path()).unwrap().starts_with(b"mmap"));
    assert!(passed.is_first(&reader));
}

#[test]
fn renaming_over_and_unlinking_leave_readers_what_they_opened() {
    let passed = Passed::new(&[]);
    let reader = passed.open();
    fs::write(passed.lab.path("other"), b"other").unwrap();
    fs::rename(passed.lab.path("other"), passed.path()).unwrap();
    assert!(passed.is_first(&reader));
    assert_eq!(fs::read(passed.path()).unwrap(), b"other");
    fs::remove_file(passed.path()).unwrap();
    assert!(passed.is_first(&reader));
}

#[test]
fn a_remote_replacement_is_never_mixed_with_what_is_handed_over() {
    let passed = Passed::new(&["--metadata-ttl", "0s"]);
    let reader = passed.open();
    let replaced: Vec<u8> = passed.bytes.iter().map(|byte| !byte).collect();
    passed.lab.bucket().put("f", replaced.clone());
    let fresh = File::open(passed.path()).unwrap();
    assert!(all(&fresh) == replaced, "an open after the replacement sees it");
    assert!(passed.is_first(&reader));
}

#[test]
fn attributes_change_while_the_kernel_reads() {
    let passed = Passed::new(&[]);
    let reader = passed.open();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(passed.path(), mode).unwrap();
    assert!(passed.is_first(&reader));
    assert_eq!(reader.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(fs::read(passed.path()).unwrap() == passed.bytes);
}

/// Local file systems want direct reads aligned, or do not know them; a mount does not care.
#[test]
fn a_direct_reader_beside_what_is_handed_over_reads_unaligned() {
    let passed = Passed::new(&[]);
    let reader = passed.open();
    let inode = reader.metadata().unwrap().ino();
    let before = passed.count();
    let flags = nix::fcntl::OFlag::O_DIRECT.bits();
    let direct = || OpenOptions::new().read(true).custom_flags(flags).open(passed.path()).unwrap();
    let first = direct();
    for (at, size) in [(5, 7), (0, SIZE), (SIZE - 3, 3), (4096 - 1, 8192)] {
        let mut read = vec![0; size];
        first.read_exact_at(&mut read, at as u64).unwrap();
        assert!(read == passed.bytes[at..at + size], "{size} bytes at {at} differ");
    }
    assert_ne!(first.metadata().unwrap().ino(), inode, "one inode is read in one way");
    assert!(passed.is_first(&reader));
    drop(reader);
    let second = direct();
    assert_eq!(second.metadata().unwrap().ino(), first.metadata().unwrap().ino());
    assert_eq!(passed.count(), before, "no direct open is handed over");
    drop((first, second));
    assert!(passed.is_first(&passed.open()), "and who comes later is handed the file again");
}

#[test]
fn a_flipped_byte_is_never_handed_over() {
    for at in [0, (1 << 20) + 7, SIZE - 1] {
        let passed = Passed::new(&[]);
        // Verified, handed over, and closed again.
        drop(passed.open());
        let path = whole_files(&passed.lab.mount().cache_folder().unwrap()).remove(0);
        let own = OpenOptions::new().write(true).open(path).unwrap();
        own.write_all_at(&[passed.bytes[at] ^ 1 << (at % 8)], at as u64).unwrap();
        let before = passed.count();
        for _ in 0..20 {
            assert!(passed.is_first(&File::open(passed.path()).unwrap()), "{at}: the bytes differ");
        }
        assert_eq!(passed.count(), before, "{at}: it is damaged");
    }
}

#[test]
fn what_is_open_through_the_page_cache_is_not_handed_over() {
    let passed = Passed::new(&[]);
    drop(passed.open());
    let writer = OpenOptions::new().write(true).open(passed.path()).unwrap();
    let before = passed.count();
    let reader = File::open(passed.path()).unwrap();
    assert!(passed.is_first(&reader));
    assert_eq!(passed.count(), before);
    writer.write_all_at(b"!", 0).unwrap();
    let mut byte = [0];
    reader.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"!", "both are the same inode");
}
