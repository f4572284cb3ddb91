//! rmdir(2): only what is empty goes.

use std::fs::{self, File};

use nix::errno::Errno;

use crate::bench::{Bench, errno, names, write};

pub(crate) fn an_empty_directory_goes(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    fs::remove_dir(bench.path("d")).unwrap();
    assert_eq!(bench.keys(), [""; 0]);
    assert!(!bench.path("d").exists());
    fs::create_dir(bench.path("d")).unwrap();
    assert_eq!(names(&bench.path("")), ["d"]);
    assert_eq!(errno(fs::remove_dir(bench.path("missing"))), Errno::ENOENT);
}

pub(crate) fn a_full_directory_stays(bench: &Bench) {
    fs::create_dir_all(bench.path("d/e")).unwrap();
    bench.put("implicit/f", b"x");
    assert_eq!(errno(fs::remove_dir(bench.path("d"))), Errno::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(bench.path("implicit"))), Errno::ENOTEMPTY);
    assert_eq!(bench.keys(), ["d/", "d/e/", "implicit/f"]);
    fs::remove_dir(bench.path("d/e")).unwrap();
    fs::remove_dir(bench.path("d")).unwrap();
    fs::remove_file(bench.path("implicit/f")).unwrap();
    assert!(bench.path("implicit").exists(), "the last file's directory stays");
    fs::remove_dir(bench.path("implicit")).unwrap();
    assert_eq!(bench.keys(), [""; 0]);
}

pub(crate) fn a_directory_of_uncommitted_files_stays(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    let file = File::create(bench.path("d/f")).unwrap();
    assert_eq!(errno(fs::remove_dir(bench.path("d"))), Errno::ENOTEMPTY);
    fs::remove_file(bench.path("d/f")).unwrap();
    fs::remove_dir(bench.path("d")).unwrap();
    drop(file);
    assert_eq!(names(&bench.path("")), [""; 0]);
}

pub(crate) fn rmdir_of_a_file_is_enotdir(bench: &Bench) {
    write(&bench.path("f"), b"x");
    assert_eq!(errno(fs::remove_dir(bench.path("f"))), Errno::ENOTDIR);
    assert_eq!(bench.keys(), ["f"]);
}
