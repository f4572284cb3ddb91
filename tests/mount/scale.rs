//! Many files: memory stays within its limit however many names a walk has brought, and a large
//! directory is read page by page.

use std::fs;
use std::os::unix::fs::MetadataExt;

use s3pod_testkit::{Bucket, Op};

use crate::bench::{eventually, python};
use crate::lab::Lab;

const DIRECTORIES: usize = 100;
const FILES: usize = 1_000;

/// The smallest limit that is anybody's default, and what the process has beside it.
const RSS_MAX: u64 = (64 + 48) << 20;

fn many(bucket: &Bucket) {
    for directory in 0..DIRECTORIES {
        for file in 0..FILES {
            let key = format!("directory-{directory:03}/a-name-as-long-as-most-{file:06}.bin");
            bucket.put_synthetic(&key, 100_000, 1);
        }
    }
}

#[test]
fn a_large_directory_is_read_page_by_page() {
    let lab = Lab::new(&["--metadata", "list"], |bucket| {
        for file in 0..20_000 {
            bucket.put_synthetic(&format!("d/file-{file:06}"), 5_000, 1);
        }
    });
    let mut names = fs::read_dir(lab.path("d")).unwrap();
    assert_eq!(names.next().unwrap().unwrap().file_name(), "file-000000");
    // Which the directory's own lookup has not brought.
    assert!(lab.log().count(Op::List) <= 2 + 1, "the first name needs the first page alone");
    assert_eq!(1 + names.count(), 20_000);
    assert!(lab.log().count(Op::List) <= 2 + 20, "{} LISTs", lab.log().count(Op::List));
    assert_eq!(lab.log().count(Op::Head), 0);
}

#[test]
fn positions_in_a_directory_hold_for_the_life_of_its_handle() {
    const NAMES: usize = 2_500;
    let lab = Lab::new(&["--metadata", "list"], |bucket| {
        for file in 0..NAMES {
            bucket.put_synthetic(&format!("d/file-{file:06}"), 5_000, 1);
        }
    });
    // By Python, since safe Rust has no telldir(3). A name stands 19 bytes into a dirent.
    let script = "
import ctypes, os, sys
c = ctypes.CDLL(None)
c.opendir.restype = c.readdir.restype = ctypes.c_void_p
c.telldir.restype = ctypes.c_long
c.readdir.argtypes = c.telldir.argtypes = [ctypes.c_void_p]
c.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = c.opendir(os.fsencode(sys.argv[1]))
def name():
    entry = c.readdir(d)
    return ctypes.string_at(entry + 19) if entry else None
places, names = [], []
while True:
    place, found = c.telldir(d), name()
    if found is None:
        break
    places.append(place)
    names.append(found)
for at in (len(names) - 1, 0, 1500, 1499, 2200, 7):
    c.seekdir(d, places[at])
    assert name() == names[at], at
print(len(names))";
    // With the two dots.
    assert_eq!(python(script, &lab.path("d")), (NAMES + 2).to_string());
}

#[test]
fn a_rename_of_a_large_tree_stays_within_its_memory() {
    const MOVED: usize = 60;
    let lab = Lab::new(&["--memory-limit", "64MiB", "--metadata-ttl", "10m"], |bucket| {
        for directory in 0..MOVED {
            for file in 0..FILES {
                let key = format!("tree/{directory:03}/a-name-as-long-as-most-{file:06}.bin");
                bucket.put_synthetic(&key, 100_000, 1);
            }
        }
    });
    fs::rename(lab.path("tree"), lab.path("moved")).unwrap();
    let peak = lab.mount().rss_bytes().unwrap().peak;
    assert!(peak < RSS_MAX, "{} MiB", peak >> 20);
    let bucket = lab.bucket();
    let log = lab.count();
    let keys = bucket.keys();
    let is_moved = |key: &&String| key.starts_with("moved/") && key.ends_with(".bin");
    assert_eq!(keys.iter().filter(is_moved).count(), MOVED * FILES, "{:?}", log.counts());
    assert!(keys.iter().all(|key| key.starts_with("moved/")));
    assert_eq!(log.count(Op::Copy), MOVED * FILES, "{:?}", log.counts());
    let batches = log.count(Op::DeleteMany);
    assert!((MOVED..=MOVED + 2).contains(&batches), "{:?}", log.counts());
}

#[test]
fn a_walk_over_many_files_stays_within_its_memory() {
    let lab = Lab::new(&["--metadata", "list", "--memory-limit", "64MiB"], many);
    let mut seen = 0;
    for directory in fs::read_dir(lab.path("")).unwrap() {
        for file in fs::read_dir(directory.unwrap().path()).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().size(), 100_000);
            seen += 1;
        }
    }
    assert_eq!(seen, DIRECTORIES * FILES);
    let peak = lab.mount().rss_bytes().unwrap().peak;
    assert!(peak < RSS_MAX, "{} MiB for {seen} files", peak >> 20);
    assert_eq!(lab.log().count(Op::Head), 0);
    assert_eq!(lab.log().count(Op::List), 1 + DIRECTORIES, "one LIST per 1 000 keys");
    // What was dropped is there when it is asked for.
    let first = lab.path("directory-000/a-name-as-long-as-most-000000.bin");
    assert_eq!(fs::metadata(first).unwrap().size(), 100_000);
    eventually("the first names are read again", || {
        fs::read(lab.path("directory-001/a-name-as-long-as-most-000001.bin")).is_ok()
    });
}
