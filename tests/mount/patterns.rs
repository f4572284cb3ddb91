//! What is fetched ahead of readers that go backward, by strides, or several at once.
//!
//! Each test asserts bytes and bounds of requests and of what they brought; O_DIRECT keeps the
//! kernel's own read-ahead out where a pattern is asserted that it does not know.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use s3pod_testkit::{Op, synthetic_bytes};

use crate::bench::eventually;
use crate::lab::Lab;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn lab(size: u64) -> Lab {
    Lab::new(&[], |bucket| drop(bucket.put_synthetic("f", size, 7)))
}

fn direct(lab: &Lab) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_DIRECT).open(lab.path("f")).unwrap()
}

fn reads(file: &File, at: u64, len: u64) {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    file.read_exact_at(&mut bytes, at).unwrap();
    assert!(bytes == synthetic_bytes(7, at..at + len), "{len} bytes at {at}");
}

#[test]
fn a_backward_reader_gets_what_lies_before() {
    let size = 32 * MIB;
    let lab = lab(size);
    let file = direct(&lab);
    for step in 1..=size / (64 * KIB) {
        reads(&file, size - step * 64 * KIB, 64 * KIB);
    }
    drop(file);
    let log = lab.count();
    assert!(log.bytes_out() < size + MIB, "{} bytes", log.bytes_out());
    // 32 of 1 MiB, and those before it was known.
    assert!(log.count(Op::Get) <= 32 + 8, "{} GETs", log.count(Op::Get));
}

#[test]
fn a_strided_reader_gets_the_next_strides_and_nothing_between() {
    let lab = lab(1024 * MIB);
    let file = direct(&lab);
    for number in 0..64 {
        reads(&file, number * 12 * MIB + 4096, 8192);
    }
    drop(file);
    let log = lab.count();
    // Of each stride one block; at the end some were ordered that nobody came for.
    let most = 64 + 16;
    assert!((64..=most).contains(&log.count(Op::Get)), "{} GETs", log.count(Op::Get));
    // And what other answers weigh.
    assert!(log.bytes_out() <= (most as u64 + 1) * 128 * KIB, "{} bytes", log.bytes_out());
}

#[test]
fn strides_are_on_their_way_before_they_are_read() {
    let lab = lab(1024 * MIB);
    let file = direct(&lab);
    for number in 0..8 {
        reads(&file, number * 12 * MIB, 4096);
    }
    let next = format!("bytes={}-", 8 * 12 * MIB);
    eventually("the next stride was sent", || {
        let mut asked =
            lab.log().requests_of(Op::Get).into_iter().filter(|get| get.status.is_some());
        asked.any(|get| get.range.is_some_and(|range| range.starts_with(&next)))
    });
    let hold = lab.server().faults().hold(Op::Get, "f");
    reads(&file, 8 * 12 * MIB, 4096);
    hold.release();
    drop(file);
    assert!(lab.end().success());
}

#[test]
fn several_readers_of_one_handle_each_have_their_window() {
    const READERS: u64 = 4;
    let size = 128 * MIB;
    let lab = lab(size);
    let file = direct(&lab);
    std::thread::scope(|scope| {
        for number in 0..READERS {
            let file = &file;
            scope.spawn(move || {
                let (part, step) = (size / READERS, 256 * KIB);
                for at in (number * part..(number + 1) * part).step_by(256 << 10) {
                    reads(file, at, step);
                }
            });
        }
    });
    drop(file);
    let log = lab.count();
    // A reader's last window reaches into the part of the next one, who has it already.
    assert!(log.bytes_out() < size + 8 * MIB, "{} MiB", log.bytes_out() / MIB);
    // 16 of 8 MiB, and of each reader the small ones of the beginning.
    assert!(log.count(Op::Get) <= 16 + 4 * 12, "{} GETs", log.count(Op::Get));
}
