//! fallocate(2) and the holes that lseek(2) finds.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::bench::{Bench, close, read, write};

pub(crate) fn plain_fallocate_extends(bench: &Bench) {
    let mut file = File::create(bench.path("f")).unwrap();
    file.write_all(b"abc").unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 10).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10);
    fallocate(&file, FallocateFlags::empty(), 0, 5).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10, "it never shortens");
    close(file).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"abc\0\0\0\0\0\0\0");
}

pub(crate) fn punching_is_refused(bench: &Bench) {
    write(&bench.path("f"), b"abcdef");
    let file = OpenOptions::new().write(true).open(bench.path("f")).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&file, punch, 1, 2), Err(Errno::EOPNOTSUPP));
    assert_eq!(read(&bench.path("f")), b"abcdef");
}

pub(crate) fn seek_finds_data_and_holes(bench: &Bench) {
    const MIB: i64 = 1 << 20;
    let file = File::create(bench.path("f")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"end", 2 * MIB as u64).unwrap();
    let hole = lseek(&file, 0, Whence::SeekHole).unwrap();
    assert!((5..=2 * MIB).contains(&hole), "{hole}");
    let next = lseek(&file, hole, Whence::SeekData).unwrap();
    assert!((hole..=2 * MIB).contains(&next), "{next}");
    assert_eq!(lseek(&file, 2 * MIB, Whence::SeekHole).unwrap(), 2 * MIB + 3);
    assert_eq!(lseek(&file, 2 * MIB + 3, Whence::SeekData), Err(Errno::ENXIO));
    close(file).unwrap();
    let clean = File::open(bench.path("f")).unwrap();
    assert_eq!(lseek(&clean, 0, Whence::SeekEnd).unwrap(), 2 * MIB + 3);
    assert_eq!(fs::metadata(bench.path("f")).unwrap().len() as i64, 2 * MIB + 3);
}
