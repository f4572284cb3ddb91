//! read(2) and pread(2): the object's bytes, all of them and no others.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use crate::bench::{Bench, pattern, read};

pub(crate) fn reads_give_the_bytes_at_any_place(bench: &Bench) {
    let bytes = pattern(100_003);
    bench.put("f", &bytes);
    let file = File::open(bench.path("f")).unwrap();
    for (offset, len) in [(0, 1), (1, 4095), (4096, 4096), (99_999, 4), (65_530, 20_000)] {
        let mut part = vec![0; len];
        file.read_exact_at(&mut part, offset as u64).unwrap();
        assert!(part == bytes[offset..offset + len], "{len} bytes at {offset}");
    }
}

pub(crate) fn a_read_at_the_end_is_empty(bench: &Bench) {
    bench.put("f", b"12345");
    let file = File::open(bench.path("f")).unwrap();
    let mut bytes = [0; 16];
    assert_eq!(file.read_at(&mut bytes, 3).unwrap(), 2);
    assert_eq!(&bytes[..2], b"45");
    assert_eq!(file.read_at(&mut bytes, 5).unwrap(), 0);
    assert_eq!(file.read_at(&mut bytes, 1 << 40).unwrap(), 0);
}

pub(crate) fn a_large_file_is_read_whole(bench: &Bench) {
    // More than three blocks, and no multiple of anything.
    let bytes = pattern((27 << 20) + 12_345);
    bench.put("large", &bytes);
    assert!(read(&bench.path("large")) == bytes, "the bytes differ");
    // By several readers of one file at once.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(read(&bench.path("large")) == bytes, "the bytes differ"));
        }
    });
}

pub(crate) fn random_reads_agree_with_the_object(bench: &Bench) {
    let bytes = pattern(20 << 20);
    bench.put("large", &bytes);
    let file = File::open(bench.path("large")).unwrap();
    let random = fastrand::Rng::with_seed(7);
    let mut random = random;
    for _ in 0..100 {
        let offset = random.usize(..bytes.len() - 10_000);
        let mut part = vec![0; random.usize(1..10_000)];
        file.read_exact_at(&mut part, offset as u64).unwrap();
        assert!(part == bytes[offset..offset + part.len()], "{} at {offset}", part.len());
    }
}

pub(crate) fn an_empty_object_reads_as_nothing(bench: &Bench) {
    bench.put("empty", b"");
    let mut bytes = Vec::new();
    File::open(bench.path("empty")).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.is_empty());
}
