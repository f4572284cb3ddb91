//! fsync(2): in S3 when it returns.

use std::fs::File;
use std::io::Write;

use crate::bench::{Bench, close, pattern, read, write};

pub(crate) fn fsync_makes_bytes_visible_and_writing_goes_on(bench: &Bench) {
    let mut file = File::create(bench.path("log")).unwrap();
    file.write_all(b"one\n").unwrap();
    file.sync_all().unwrap();
    assert_eq!(bench.object("log").unwrap(), b"one\n");
    file.write_all(b"two\n").unwrap();
    file.sync_data().unwrap();
    assert_eq!(bench.object("log").unwrap(), b"one\ntwo\n");
    // In the middle of a stream of many parts.
    let large = pattern(20 << 20);
    file.write_all(&large).unwrap();
    file.sync_all().unwrap();
    let want = [b"one\ntwo\n".as_slice(), &large].concat();
    assert!(bench.object("log").unwrap() == want, "the bytes differ");
    file.write_all(b"three\n").unwrap();
    close(file).unwrap();
    let want = [want.as_slice(), b"three\n"].concat();
    assert!(bench.object("log").unwrap() == want, "the bytes differ");
    assert!(read(&bench.path("log")) == want, "the bytes differ");
}

pub(crate) fn fsync_of_a_clean_file_succeeds(bench: &Bench) {
    write(&bench.path("f"), b"x");
    File::open(bench.path("f")).unwrap().sync_all().unwrap();
    // An empty file is in S3 too once fsync has returned.
    let empty = File::create(bench.path("empty")).unwrap();
    empty.sync_all().unwrap();
    assert_eq!(bench.object("empty").unwrap(), b"");
}

pub(crate) fn fsync_of_a_directory_succeeds(bench: &Bench) {
    std::fs::create_dir(bench.path("d")).unwrap();
    write(&bench.path("d/f"), b"x");
    File::open(bench.path("d")).unwrap().sync_all().unwrap();
    File::open(bench.path("")).unwrap().sync_all().unwrap();
    nix::unistd::syncfs(File::open(bench.path("")).unwrap()).unwrap();
}
