//! A mount that may hold only so much: statfs(2), and ENOSPC beyond.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use crate::bench::{close, errno, eventually, write};
use crate::lab::Lab;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The size of the mount's file system, and what of it is free.
fn room(lab: &Lab) -> (u64, u64) {
    let seen = statvfs(&lab.path("")).unwrap();
    let unit = seen.fragment_size();
    (seen.blocks() * unit, seen.blocks_available() * unit)
}

fn zeros(size: u64) -> Vec<u8> {
    vec![0; usize::try_from(size).unwrap()]
}

#[test]
fn a_full_volume_is_enospc_and_what_goes_makes_room() {
    let lab = Lab::new(&["--capacity", "1MiB"], |bucket| {
        bucket.put("old", zeros(600 * KIB));
        // What the driver keeps is nobody's.
        bucket.put(".s3pod/volumes/x", zeros(MIB));
    });
    eventually("what is there was counted", || room(&lab) == (MIB, 424 * KIB));
    write(&lab.path("new"), &zeros(300 * KIB));
    assert_eq!(room(&lab), (MIB, 124 * KIB));
    let mut file = OpenOptions::new().append(true).open(lab.path("new")).unwrap();
    assert_eq!(errno(file.write_all(&zeros(125 * KIB))), Errno::ENOSPC);
    assert_eq!(errno(file.set_len(500 * KIB)), Errno::ENOSPC);
    // The kernel may pass a write on in pieces, and those that fit are written, as on a disk.
    let len = file.metadata().unwrap().len();
    file.write_all(&zeros(424 * KIB - len)).unwrap();
    close(file).unwrap();
    assert_eq!(room(&lab), (MIB, 0));
    let mut full = File::create(lab.path("more")).unwrap();
    assert_eq!(errno(full.write_all(b"x")), Errno::ENOSPC);
    fs::remove_file(lab.path("old")).unwrap();
    full.write_all(b"x").unwrap();
    close(full).unwrap();
    assert_eq!(lab.object("more"), b"x");
    // In place there is room as long as nothing grows.
    let file = OpenOptions::new().write(true).open(lab.path("new")).unwrap();
    file.set_len(0).unwrap();
    close(file).unwrap();
    assert_eq!(room(&lab).1, MIB - 4 * KIB, "in whole blocks");
}

#[test]
fn what_is_replaced_or_has_no_name_takes_no_room() {
    let lab = Lab::new(&["--capacity", "1MiB"], |bucket| {
        bucket.put("old", zeros(600 * KIB));
    });
    eventually("what is there was counted", || room(&lab) == (MIB, 424 * KIB));
    write(&lab.path("new"), &zeros(400 * KIB));
    fs::rename(lab.path("new"), lab.path("old")).unwrap();
    assert_eq!(room(&lab), (MIB, 624 * KIB));
    let mut file = File::create(lab.path("gone")).unwrap();
    file.write_all(&zeros(100 * KIB)).unwrap();
    assert_eq!(room(&lab), (MIB, 524 * KIB));
    fs::remove_file(lab.path("gone")).unwrap();
    file.write_all(&zeros(100 * KIB)).unwrap();
    assert_eq!(room(&lab), (MIB, 624 * KIB));
}

#[test]
fn what_is_written_at_once_is_charged_once() {
    let lab = Lab::new(&["--capacity", "64MiB"], |_| {});
    eventually("what is there was counted", || room(&lab) == (64 * MIB, 64 * MIB));
    let file = File::create(lab.path("file")).unwrap();
    std::thread::scope(|scope| {
        for at in 0..8 {
            let file = &file;
            scope.spawn(move || file.write_all_at(&zeros(MIB), at * MIB).unwrap());
        }
    });
    close(file).unwrap();
    assert_eq!(room(&lab), (64 * MIB, 56 * MIB));
}

#[test]
fn an_object_says_the_capacity() {
    let lab = Lab::new(&["--capacity-key", ".s3pod/volumes/x"], |bucket| {
        bucket.put(".s3pod/volumes/x", r#"{"schema": 1, "capacity": 8388608}"#);
        bucket.put("old", zeros(MIB));
    });
    eventually("it was read and all was counted", || room(&lab) == (8 * MIB, 7 * MIB));
    let file = File::create(lab.path("large")).unwrap();
    assert_eq!(errno(file.set_len(8 * MIB)), Errno::ENOSPC);
}
