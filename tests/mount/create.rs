//! creat(2) and mknod(2): what a new name is worth, and which names there can be.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::bench::{Bench, close, errno, eventually, names, read, write};

pub(crate) fn a_new_file_is_one_object(bench: &Bench) {
    write(&bench.path("new"), b"hello");
    assert_eq!(bench.object("new").unwrap(), b"hello");
    write(&bench.path("empty"), b"");
    eventually("the empty file is an object", || bench.object("empty").is_some());
    assert_eq!(bench.object("empty").unwrap(), b"");
    assert_eq!(bench.keys(), ["empty", "new"]);
}

pub(crate) fn a_new_file_is_there_before_it_is_closed(bench: &Bench) {
    let mut file = File::create(bench.path("open")).unwrap();
    assert_eq!(names(&bench.path("")), ["open"]);
    file.write_all(b"12345").unwrap();
    assert_eq!(fs::metadata(bench.path("open")).unwrap().len(), 5);
    assert_eq!(read(&bench.path("open")), b"12345");
    close(file).unwrap();
    assert_eq!(bench.object("open").unwrap(), b"12345");
}

pub(crate) fn exclusive_create_of_an_existing_file_is_eexist(bench: &Bench) {
    bench.put("theirs", b"x");
    let create = |name: &str| File::create_new(bench.path(name));
    assert_eq!(errno(create("theirs")), Errno::EEXIST);
    let file = create("mine").unwrap();
    assert_eq!(errno(create("mine")), Errno::EEXIST);
    close(file).unwrap();
    assert_eq!(errno(create("mine")), Errno::EEXIST);
    assert_eq!(bench.object("theirs").unwrap(), b"x");
}

pub(crate) fn names_that_cannot_be_keys_are_refused(bench: &Bench) {
    let create = |name: &[u8]| {
        let path = bench.path("").join(std::ffi::OsStr::from_bytes(name));
        File::create(path)
    };
    assert_eq!(errno(create(b"not\xffutf8")), Errno::EILSEQ);
    assert_eq!(errno(create(&[b'n'; 256])), Errno::ENAMETOOLONG);
    create(&[b'n'; 255]).unwrap();
    let deep = ["d"; 3].map(|_| "d".repeat(250)).join("/");
    fs::create_dir_all(bench.path(&deep)).unwrap();
    let too_long = format!("{deep}/{}", "n".repeat(255));
    assert_eq!(errno(File::create(bench.path(&too_long))), Errno::ENAMETOOLONG);
    assert!(!bench.path(&too_long).exists());
}

pub(crate) fn names_whose_keys_would_be_too_long_are_refused_by_every_call(bench: &Bench) {
    let deep = ["d"; 3].map(|name| name.repeat(250)).join("/");
    fs::create_dir_all(bench.path(&deep)).unwrap();
    write(&bench.path("f"), b"bytes");
    let below = format!("from/{}/{}/{}", "e".repeat(250), "e".repeat(250), "e".repeat(220));
    fs::create_dir_all(bench.path(&below)).unwrap();
    write(&bench.path(&format!("{below}/{}", "n".repeat(150))), b"below");
    let keys = bench.keys();
    let long = bench.path(&format!("{deep}/{}", "n".repeat(255)));
    let refused = [
        errno(fs::create_dir(&long)),
        errno(symlink("target", &long)),
        errno(fs::rename(bench.path("f"), &long)),
        // The directory's own name would fit, and that of what is below it would not.
        errno(fs::rename(bench.path("from"), bench.path(&"t".repeat(200)))),
    ];
    assert_eq!(refused, [Errno::ENAMETOOLONG; 4]);
    let made = mknod(&long, SFlag::S_IFIFO, Mode::S_IRWXU, 0);
    assert_eq!(made, Err(Errno::ENAMETOOLONG));
    assert_eq!(bench.keys(), keys, "nothing has moved");
    assert_eq!(read(&bench.path(&format!("{below}/{}", "n".repeat(150)))), b"below");
    assert_eq!(read(&bench.path("f")), b"bytes");
}

pub(crate) fn odd_names_come_back(bench: &Bench) {
    let odd = [
        " space ",
        "a+b",
        "a%20b",
        "a&b=c",
        "quote\"'",
        "ünï¢ode-日本",
        "back\\slash",
        "tab\there",
        "semi;colon",
        "hash#",
        "star*",
        "question?",
        "~tilde",
        "..dots",
        "...",
    ];
    // SeaweedFS takes a backslash for a slash.
    let odd: Vec<&str> =
        odd.into_iter().filter(|name| !(bench.is_seaweed() && name.contains('\\'))).collect();
    for name in &odd {
        write(&bench.path(name), name.as_bytes());
    }
    let mut want = odd.clone();
    want.sort_unstable();
    let other = bench.another(&[]);
    assert_eq!(names(other.path()), want);
    for name in odd {
        assert_eq!(read(&other.path().join(name)), name.as_bytes(), "{name}");
    }
    assert!(other.unmount().unwrap().success());
}

pub(crate) fn mode_and_umask_are_kept(bench: &Bench) {
    let make = |name: &str, mode: u32| {
        let mut options = OpenOptions::new();
        close(options.write(true).create(true).mode(mode).open(bench.path(name)).unwrap()).unwrap();
        fs::metadata(bench.path(name)).unwrap().permissions().mode() & 0o7777
    };
    // The umask of the test is that of whoever runs it.
    let umask = nix::sys::stat::umask(Mode::from_bits_truncate(0o027));
    let (plain, program) = (make("plain", 0o666), make("program", 0o777));
    nix::sys::stat::umask(umask);
    assert_eq!((plain, program), (0o640, 0o750));
}

pub(crate) fn mknod_makes_files_and_refuses_devices(bench: &Bench) {
    let mode = Mode::from_bits_truncate(0o644);
    mknod(&bench.path("file"), SFlag::S_IFREG, mode, 0).unwrap();
    assert_eq!(bench.object("file").unwrap(), b"");
    mknod(&bench.path("fifo"), SFlag::S_IFIFO, mode, 0).unwrap();
    assert!(fs::metadata(bench.path("fifo")).unwrap().file_type().is_fifo());
    mknod(&bench.path("socket"), SFlag::S_IFSOCK, mode, 0).unwrap();
    assert!(fs::metadata(bench.path("socket")).unwrap().file_type().is_socket());
    let device = mknod(&bench.path("device"), SFlag::S_IFCHR, mode, makedev(1, 3));
    assert_eq!(device, Err(Errno::EPERM));
    assert_eq!(names(&bench.path("")), ["fifo", "file", "socket"]);
}
