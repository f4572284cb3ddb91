//! write(2) and pwrite(2): in any order, of any size, on new files and old.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::bench::{Bench, close, errno, pattern, read, shell, write};

const MIB: usize = 1 << 20;

pub(crate) fn writes_in_any_order_make_one_object(bench: &Bench) {
    let bytes = pattern(10_000);
    let mut order: Vec<usize> = (0..10).collect();
    fastrand::Rng::with_seed(3).shuffle(&mut order);
    let file = File::create(bench.path("f")).unwrap();
    for at in order {
        let start = at * 1000;
        file.write_all_at(&bytes[start..start + 1000], start as u64).unwrap();
    }
    close(file).unwrap();
    assert!(bench.object("f").unwrap() == bytes, "the bytes differ");
}

pub(crate) fn appends_go_to_the_end(bench: &Bench) {
    bench.put("log", b"first\n");
    for line in ["second\n", "third\n"] {
        let mut file = OpenOptions::new().append(true).open(bench.path("log")).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(line.as_bytes()).unwrap();
        close(file).unwrap();
    }
    assert_eq!(bench.object("log").unwrap(), b"first\nsecond\nthird\n");
    let mut one = OpenOptions::new().append(true).open(bench.path("log")).unwrap();
    let mut two = OpenOptions::new().append(true).open(bench.path("log")).unwrap();
    one.write_all(b"one\n").unwrap();
    two.write_all(b"two\n").unwrap();
    one.write_all(b"three\n").unwrap();
    close(one).unwrap();
    close(two).unwrap();
    assert_eq!(bench.object("log").unwrap(), b"first\nsecond\nthird\none\ntwo\nthree\n");
}

pub(crate) fn a_hole_reads_as_zeros(bench: &Bench) {
    let file = File::create(bench.path("f")).unwrap();
    file.write_all_at(b"end", 17 * MIB as u64).unwrap();
    let mut middle = [1; 100];
    File::open(bench.path("f")).unwrap().read_exact_at(&mut middle, 5_000_000).unwrap();
    assert_eq!(middle, [0; 100]);
    close(file).unwrap();
    let mut want = vec![0; 17 * MIB];
    want.extend_from_slice(b"end");
    assert!(bench.object("f").unwrap() == want, "the bytes differ");
}

pub(crate) fn an_edit_in_place_keeps_the_rest(bench: &Bench) {
    bench.put("f", b"0123456789");
    let file = OpenOptions::new().read(true).write(true).open(bench.path("f")).unwrap();
    file.write_all_at(b"ab", 4).unwrap();
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123ab6789");
    close(file).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"0123ab6789");
    assert_eq!(read(&bench.path("f")), b"0123ab6789");
}

pub(crate) fn a_large_file_written_in_order_arrives_whole(bench: &Bench) {
    let bytes = pattern(33 * MIB + 4321);
    let mut file = File::create(bench.path("f")).unwrap();
    for piece in bytes.chunks(100_000) {
        file.write_all(piece).unwrap();
    }
    close(file).unwrap();
    assert!(bench.object("f").unwrap() == bytes, "the object's bytes differ");
    assert!(read(&bench.path("f")) == bytes, "the file's bytes differ");
}

pub(crate) fn a_large_file_written_backwards_arrives_whole(bench: &Bench) {
    let bytes = pattern(18 * MIB + 99);
    let file = File::create(bench.path("f")).unwrap();
    for start in (0..bytes.len()).step_by(MIB).rev() {
        let end = bytes.len().min(start + MIB);
        file.write_all_at(&bytes[start..end], start as u64).unwrap();
    }
    close(file).unwrap();
    assert!(bench.object("f").unwrap() == bytes, "the bytes differ");
    // In order, but for a header that is written last, as tools for archives do.
    let file = File::create(bench.path("g")).unwrap();
    file.write_all_at(&bytes[100..], 100).unwrap();
    file.write_all_at(&bytes[..100], 0).unwrap();
    close(file).unwrap();
    assert!(bench.object("g").unwrap() == bytes, "the bytes differ");
}

pub(crate) fn edits_of_a_large_file_keep_what_they_do_not_touch(bench: &Bench) {
    let mut want = pattern(40 * MIB + 7);
    bench.put("f", &want);
    let file = OpenOptions::new().read(true).write(true).open(bench.path("f")).unwrap();
    for (at, piece) in [(3, b"AAA"), (12 * MIB, b"BBB"), (40 * MIB + 5, b"CCC")] {
        file.write_all_at(piece, at as u64).unwrap();
        want.resize(want.len().max(at + 3), 0);
        want[at..at + 3].copy_from_slice(piece);
    }
    let mut around = [0; 16];
    file.read_exact_at(&mut around, 12 * MIB as u64 - 8).unwrap();
    assert_eq!(around, want[12 * MIB - 8..12 * MIB + 8]);
    file.sync_all().unwrap();
    assert!(bench.object("f").unwrap() == want, "the object's bytes differ");
    // A second edit lies over the first one's version.
    file.write_all_at(b"DDD", 20 * MIB as u64).unwrap();
    want[20 * MIB..20 * MIB + 3].copy_from_slice(b"DDD");
    close(file).unwrap();
    assert!(bench.object("f").unwrap() == want, "the object's bytes differ");
    assert!(read(&bench.path("f")) == want, "the file's bytes differ");
}

pub(crate) fn a_file_beyond_the_stores_limit_is_efbig(bench: &Bench) {
    // 10 000 parts of 5 GiB.
    const LIMIT: u64 = 50_000 << 30;
    let file = File::create(bench.path("f")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    assert_eq!(errno(file.write_all_at(b"x", LIMIT)), Errno::EFBIG);
    assert_eq!(errno(file.set_len(LIMIT + 1)), Errno::EFBIG);
    let plain = FallocateFlags::empty();
    assert_eq!(fallocate(&file, plain, 0, LIMIT as i64 + 1), Err(Errno::EFBIG));
    close(file).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"bytes");
}

pub(crate) fn git_and_tar_work(bench: &Bench) {
    write(&bench.path("a.txt"), b"hello\n");
    let script = "mkdir src && for n in 1 2 3 4 5; do seq $n 200 > src/$n; done
        tar cf all.tar src a.txt && mkdir out && tar xf all.tar -C out && diff -r src out/src
        cp -a src copy && diff -r src copy && rm -r copy out
        git init -q repo && cd repo && git config user.email a@b && git config user.name n
        cp ../a.txt . && git add . && git commit -qm one && echo more >> a.txt
        git commit -qam two && git log --oneline | wc -l && git fsck --strict && git status -s";
    let said = shell(&bench.path(""), script);
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), "2");
}
