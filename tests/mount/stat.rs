//! stat(2): what a file looks like, whoever wrote it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::bench::{Bench, close, write};

pub(crate) fn a_file_of_another_writer_has_the_mounts_attributes(bench: &Bench) {
    bench.put("f", b"12345");
    bench.put("d/f", b"");
    let other = bench.another(&["--uid", "42", "--gid", "43", "--file-mode", "0640"]);
    let file = fs::metadata(other.path().join("f")).unwrap();
    assert_eq!((file.mode(), file.uid(), file.gid()), (0o100_640, 42, 43));
    assert_eq!((file.len(), file.nlink()), (5, 1));
    assert_eq!(file.mtime_nsec(), 0, "whole seconds");
    assert_eq!((file.mtime(), file.mtime()), (file.atime(), file.ctime()));
    let directory = fs::metadata(other.path().join("d")).unwrap();
    assert_eq!((directory.mode(), directory.uid()), (0o040_755, 42));
    assert!(other.unmount().unwrap().success());
}

pub(crate) fn size_follows_writes_before_the_commit(bench: &Bench) {
    let mut file = File::create(bench.path("f")).unwrap();
    for round in 1..=4 {
        file.write_all(&[0; 1000]).unwrap();
        assert_eq!(file.metadata().unwrap().len(), round * 1000);
        assert_eq!(fs::metadata(bench.path("f")).unwrap().len(), round * 1000);
    }
    close(file).unwrap();
    let seen = fs::metadata(bench.path("f")).unwrap();
    assert_eq!((seen.len(), seen.blocks()), (4000, 8));
}

pub(crate) fn foreign_dialects_are_understood(bench: &Bench) {
    let put = |name: &str, headers: &[(&str, &str)]| {
        bench.raw().put_with(&bench.key(name), b"x", headers);
    };
    put(
        "s3fs",
        &[
            ("x-amz-meta-mode", "33200"),
            ("x-amz-meta-uid", "7"),
            ("x-amz-meta-gid", "8"),
            ("x-amz-meta-mtime", "1500000000"),
        ],
    );
    put("rclone", &[("x-amz-meta-mtime", "1500000000.25"), ("x-amz-meta-mode", "100600")]);
    put("broken", &[("x-amz-meta-mode", "often"), ("x-amz-meta-mtime", "yesterday")]);
    let s3fs = fs::metadata(bench.path("s3fs")).unwrap();
    assert_eq!((s3fs.mode(), s3fs.uid(), s3fs.gid()), (0o100_660, 7, 8));
    assert_eq!(s3fs.mtime(), 1_500_000_000);
    let rclone = fs::metadata(bench.path("rclone")).unwrap();
    assert_eq!((rclone.mtime(), rclone.mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(rclone.mode(), 0o100_600);
    let broken = fs::metadata(bench.path("broken")).unwrap();
    assert_eq!(broken.mode(), 0o100_644);
}

pub(crate) fn dialects_with_names_of_their_own_are_understood(bench: &Bench) {
    let put = |name: &str, headers: &[(&str, &str)]| {
        bench.raw().put_with(&bench.key(name), b"", headers);
    };
    put(
        "datasync",
        &[
            ("x-amz-meta-file-permissions", "0100640"),
            ("x-amz-meta-file-owner", "7"),
            ("x-amz-meta-file-group", "8"),
            ("x-amz-meta-file-mtime", "1595002920123456789ns"),
        ],
    );
    put(
        "gsutil",
        &[
            ("x-amz-meta-goog-reserved-posix-mode", "640"),
            ("x-amz-meta-goog-reserved-posix-uid", "7"),
            ("x-amz-meta-goog-reserved-posix-gid", "8"),
            ("x-amz-meta-goog-reserved-file-mtime", "1595002920"),
        ],
    );
    put(
        "geesefs",
        &[
            ("x-amz-meta-mode", "33184"),
            ("x-amz-meta-uid", "7"),
            ("x-amz-meta-gid", "8"),
            ("x-amz-meta-mtime", "1595002920"),
        ],
    );
    put("link", &[("x-amz-meta---symlink-target", "d/a%20target")]);
    for (name, nanos) in [("datasync", 123_456_789), ("gsutil", 0), ("geesefs", 0)] {
        let seen = fs::metadata(bench.path(name)).unwrap();
        assert_eq!((seen.mode(), seen.uid(), seen.gid()), (0o100_640, 7, 8), "{name}");
        assert_eq!((seen.mtime(), seen.mtime_nsec()), (1_595_002_920, nanos), "{name}");
    }
    assert_eq!(fs::read_link(bench.path("link")).unwrap(), Path::new("d/a target"));
}

pub(crate) fn the_inode_number_is_the_same_everywhere(bench: &Bench) {
    write(&bench.path("old"), b"x");
    fs::create_dir(bench.path("d")).unwrap();
    let ino = |path| fs::metadata(path).unwrap().ino();
    let (file, directory) = (ino(bench.path("old")), ino(bench.path("d")));
    let other = bench.another(&[]);
    assert_eq!(ino(other.path().join("old")), file);
    assert_eq!(ino(other.path().join("d")), directory);
    assert!(other.unmount().unwrap().success());
    fs::rename(bench.path("old"), bench.path("new")).unwrap();
    assert_eq!(ino(bench.path("new")), file, "kept over a rename");
    write(&bench.path("new"), b"more");
    assert_eq!(ino(bench.path("new")), file, "and over a commit");
}

pub(crate) fn a_directory_has_one_link(bench: &Bench) {
    fs::create_dir_all(bench.path("d/e")).unwrap();
    for path in ["", "d", "d/e"] {
        assert_eq!(fs::metadata(bench.path(path)).unwrap().nlink(), 1, "{path}");
    }
}
