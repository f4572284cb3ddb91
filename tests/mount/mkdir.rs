//! mkdir(2): a directory is its marker, or what is below it.

use std::fs;

use nix::errno::Errno;

use crate::bench::{Bench, errno, names, read, write};

pub(crate) fn a_directory_is_a_marker(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    assert_eq!(bench.object("d/").unwrap(), b"");
    let head = bench.raw().head(&bench.key("d/")).unwrap();
    assert_eq!(head.header("content-type").unwrap(), "application/x-directory");
    assert_eq!(names(&bench.path("d")), [""; 0]);
    let other = bench.another(&[]);
    assert!(fs::metadata(other.path().join("d")).unwrap().is_dir());
    assert!(other.unmount().unwrap().success());
}

pub(crate) fn mkdir_of_an_existing_name_is_eexist(bench: &Bench) {
    write(&bench.path("file"), b"");
    bench.put("implicit/below", b"x");
    bench.put("marked/", b"");
    for name in ["file", "implicit", "marked"] {
        assert_eq!(errno(fs::create_dir(bench.path(name))), Errno::EEXIST, "{name}");
    }
    assert_eq!(errno(fs::create_dir(bench.path("missing/d"))), Errno::ENOENT);
    assert_eq!(errno(fs::create_dir(bench.path("file/d"))), Errno::ENOTDIR);
}

pub(crate) fn a_prefix_is_a_directory(bench: &Bench) {
    bench.put("a/b/c", b"deep");
    assert!(fs::metadata(bench.path("a")).unwrap().is_dir());
    assert_eq!(names(&bench.path("a")), ["b"]);
    assert_eq!(read(&bench.path("a/b/c")), b"deep");
    write(&bench.path("a/new"), b"beside");
    assert_eq!(bench.object("a/new").unwrap(), b"beside");
}

pub(crate) fn trees_are_made_and_walked(bench: &Bench) {
    let mut want = Vec::new();
    for branch in 0..3 {
        for twig in 0..3 {
            let directory = format!("t/{branch}/{twig}");
            fs::create_dir_all(bench.path(&directory)).unwrap();
            write(&bench.path(&format!("{directory}/leaf")), directory.as_bytes());
            want.push(format!("{directory}/leaf"));
        }
    }
    let other = bench.another(&[]);
    for leaf in want {
        let directory = leaf.strip_suffix("/leaf").unwrap();
        assert_eq!(names(&other.path().join(directory)), ["leaf"]);
        assert_eq!(read(&other.path().join(&leaf)), directory.as_bytes());
    }
    assert!(other.unmount().unwrap().success());
}
