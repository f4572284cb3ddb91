//! readdir(3): every name once, with its kind, however many there are.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirEntryExt;
use std::os::unix::fs::MetadataExt;

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::bench::{Bench, names, shell, write};

pub(crate) fn names_are_listed_once_with_their_kind(bench: &Bench) {
    bench.put("file", b"x");
    bench.put("d/below", b"x");
    bench.put("marked/", b"");
    let mut found = Vec::new();
    for entry in fs::read_dir(bench.path("")).unwrap() {
        let entry = entry.unwrap();
        assert_ne!(entry.ino(), 0);
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{:?}", entry.file_name());
        let name = entry.file_name().into_string().unwrap();
        found.push((name, entry.file_type().unwrap().is_dir()));
    }
    found.sort();
    let want = [("d", true), ("file", false), ("marked", true)];
    assert_eq!(found, want.map(|(name, is_dir)| (name.to_owned(), is_dir)));
}

pub(crate) fn what_is_not_committed_is_listed(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    let mut new = File::create(bench.path("d/new")).unwrap();
    new.write_all(b"staged").unwrap();
    bench.put("d/old", b"x");
    assert_eq!(names(&bench.path("d")), ["new", "old"]);
    fs::remove_file(bench.path("d/old")).unwrap();
    assert_eq!(names(&bench.path("d")), ["new"]);
    new.sync_all().unwrap();
    assert_eq!(names(&bench.path("d")), ["new"]);
    fs::remove_file(bench.path("d/new")).unwrap();
    assert_eq!(names(&bench.path("d")), [""; 0]);
}

pub(crate) fn a_large_directory_is_listed_completely(bench: &Bench) {
    // More than a page of 1 000 keys, and a second page's end.
    for number in 0..1_100 {
        bench.put(&format!("many/{number:05}"), b"");
    }
    let listed = names(&bench.path("many"));
    let want: Vec<String> = (0..1_100).map(|number| format!("{number:05}")).collect();
    assert_eq!(listed.len(), want.len());
    assert_eq!(listed, want);
}

pub(crate) fn a_directory_can_be_read_again_from_its_beginning(bench: &Bench) {
    bench.put("one", b"");
    bench.put("two", b"");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut directory = Dir::open(&bench.path(""), flags, Mode::empty()).unwrap();
    let mut list = || -> HashSet<String> {
        let entries = directory.iter().map(|entry| entry.unwrap());
        entries.map(|entry| entry.file_name().to_str().unwrap().to_owned()).collect()
    };
    // nix rewinds the directory when its iterator goes.
    let (first, second) = (list(), list());
    assert_eq!(first, second);
    assert!(first.contains("one") && first.contains("two"), "{first:?}");
}

pub(crate) fn names_beside_a_directory_of_the_same_stem_are_listed_once(bench: &Bench) {
    for key in ["a", "a-b", "a.txt", "a/below", "a0"] {
        bench.put(key, b"x");
    }
    assert_eq!(names(&bench.path("")), ["a", "a-b", "a.txt", "a0"]);
    assert!(fs::metadata(bench.path("a")).unwrap().is_dir());
    assert_eq!(names(&bench.path("a")), ["below"]);
}

pub(crate) fn dot_and_dotdot_are_there(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    write(&bench.path("d/f"), b"");
    let listed = shell(&bench.path("d"), "ls -a");
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), ".\n..\nf\n");
    let ino = |path: &str| fs::metadata(bench.path(path)).unwrap().ino();
    assert_eq!(ino("d/.."), ino(""));
}
