//! truncate(2) and ftruncate(2), shorter and longer.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::truncate;

use crate::bench::{Bench, close, pattern, read, write};

pub(crate) fn truncate_of_a_path_has_committed(bench: &Bench) {
    bench.put("f", b"0123456789");
    truncate(&bench.path("f"), 4).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"0123");
    truncate(&bench.path("f"), 6).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"0123\0\0");
    truncate(&bench.path("f"), 0).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"");
    assert_eq!(truncate(&bench.path("missing"), 0), Err(Errno::ENOENT));
}

pub(crate) fn ftruncate_both_ways(bench: &Bench) {
    let mut file = File::create(bench.path("f")).unwrap();
    file.write_all(b"0123456789").unwrap();
    file.set_len(3).unwrap();
    assert_eq!(read(&bench.path("f")), b"012");
    file.set_len(5).unwrap();
    assert_eq!(read(&bench.path("f")), b"012\0\0");
    close(file).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"012\0\0");
}

pub(crate) fn growing_a_file_of_the_store_reads_zeros(bench: &Bench) {
    let bytes = pattern(6 << 20);
    bench.put("f", &bytes);
    let file = OpenOptions::new().read(true).write(true).open(bench.path("f")).unwrap();
    let len = 13 << 20;
    file.set_len(len as u64).unwrap();
    let mut edge = [1; 16];
    file.read_exact_at(&mut edge, (6 << 20) - 8).unwrap();
    assert_eq!(edge[..8], bytes[bytes.len() - 8..]);
    assert_eq!(edge[8..], [0; 8]);
    close(file).unwrap();
    let mut want = bytes;
    want.resize(len, 0);
    assert!(bench.object("f").unwrap() == want, "the bytes differ");
}

pub(crate) fn cutting_and_writing_again_leaves_no_old_bytes(bench: &Bench) {
    let bytes = pattern(20 << 20);
    bench.put("f", &bytes);
    let file = OpenOptions::new().read(true).write(true).open(bench.path("f")).unwrap();
    file.set_len(1000).unwrap();
    file.write_all_at(b"tail", 12 << 20).unwrap();
    close(file).unwrap();
    let mut want = bytes[..1000].to_vec();
    want.resize(12 << 20, 0);
    want.extend_from_slice(b"tail");
    assert!(bench.object("f").unwrap() == want, "the bytes differ");
    // And of a stream whose parts had left already.
    let file = File::create(bench.path("g")).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(9 << 20).unwrap();
    file.write_all_at(b"end", 10 << 20).unwrap();
    close(file).unwrap();
    let mut want = bytes[..9 << 20].to_vec();
    want.resize(10 << 20, 0);
    want.extend_from_slice(b"end");
    assert!(bench.object("g").unwrap() == want, "the bytes differ");
}

pub(crate) fn truncate_of_a_directory_is_eisdir(bench: &Bench) {
    std::fs::create_dir(bench.path("d")).unwrap();
    assert_eq!(truncate(&bench.path("d"), 0), Err(Errno::EISDIR));
    write(&bench.path("d/f"), b"x");
    assert_eq!(bench.keys(), ["d/", "d/f"]);
}
