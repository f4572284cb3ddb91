//! unlink(2): the name goes at once, the file with its last handle.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use nix::errno::Errno;

use crate::bench::{Bench, close, errno, eventually, names, read, shell, write};

pub(crate) fn an_unlinked_file_is_gone(bench: &Bench) {
    bench.put("theirs", b"x");
    write(&bench.path("mine"), b"x");
    for name in ["theirs", "mine"] {
        fs::remove_file(bench.path(name)).unwrap();
        assert_eq!(errno(fs::metadata(bench.path(name))), Errno::ENOENT);
    }
    assert_eq!(names(&bench.path("")), [""; 0]);
    // The handle of `mine` may still be on its way out.
    eventually("both objects are gone", || bench.keys().is_empty());
}

pub(crate) fn unlink_of_what_is_not_a_file_fails(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    assert_eq!(errno(fs::remove_file(bench.path("missing"))), Errno::ENOENT);
    assert_eq!(errno(fs::remove_file(bench.path("d"))), Errno::EISDIR);
    assert_eq!(bench.keys(), ["d/"]);
}

pub(crate) fn an_unlinked_open_file_lives_until_its_close(bench: &Bench) {
    bench.put("f", b"0123456789");
    let file = OpenOptions::new().read(true).write(true).open(bench.path("f")).unwrap();
    fs::remove_file(bench.path("f")).unwrap();
    assert!(!bench.path("f").exists());
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123456789");
    file.write_all_at(b"AB", 4).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123AB6789");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.sync_all().unwrap();
    close(file).unwrap();
    eventually("the object is gone", || bench.keys().is_empty());
    assert_eq!(names(&bench.path("")), [""; 0]);
}

pub(crate) fn an_unlinked_new_file_is_never_committed(bench: &Bench) {
    let path = bench.path("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(b"secret").unwrap();
    fs::remove_file(&path).unwrap();
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"secret");
    file.sync_all().unwrap();
    close(file).unwrap();
    assert_eq!(bench.keys(), [""; 0]);
}

pub(crate) fn a_name_can_be_used_again_while_the_old_file_is_open(bench: &Bench) {
    bench.put("f", b"old");
    let old = File::open(bench.path("f")).unwrap();
    let mut bytes = [0; 3];
    old.read_exact_at(&mut bytes, 0).unwrap();
    fs::remove_file(bench.path("f")).unwrap();
    let mut new = File::create_new(bench.path("f")).unwrap();
    new.write_all(b"brand new").unwrap();
    close(new).unwrap();
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old");
    close(old).unwrap();
    assert_eq!(read(&bench.path("f")), b"brand new");
    let other = bench.another(&[]);
    assert_eq!(read(&other.path().join("f")), b"brand new");
    assert!(other.unmount().unwrap().success());
}

pub(crate) fn what_another_client_puts_under_the_name_meanwhile_stays(bench: &Bench) {
    bench.put("f", b"ours");
    let mount = bench.another(&["--metadata-ttl", "0"]);
    let path = mount.path().join("f");
    let file = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(errno(fs::metadata(&path)), Errno::ENOENT);
    bench.put("f", b"theirs");
    eventually("their file is there", || fs::read(&path).is_ok_and(|bytes| bytes == b"theirs"));
    assert_eq!(names(mount.path()), ["f"]);
    let other = File::open(&path).unwrap();
    close(file).unwrap();
    close(other).unwrap();
    assert!(mount.unmount().unwrap().success());
    assert_eq!(bench.keys(), ["f"]);
}

pub(crate) fn rm_r_leaves_nothing(bench: &Bench) {
    for number in 0..30 {
        bench.put(&format!("tree/{}/{number}", number % 3), b"x");
    }
    shell(&bench.path(""), "rm -r tree");
    assert_eq!(bench.keys(), [""; 0]);
    assert!(!bench.path("tree").exists());
}

pub(crate) fn a_directory_does_not_outlive_its_name_by_an_unlinked_open_file(bench: &Bench) {
    for key in ["tree/moved/f", "tree/moved/g", "tree/removed/f", "tree/stays"] {
        bench.put(key, b"open");
    }
    let open = |path: &str| File::open(bench.path(path)).unwrap();
    let files = [open("tree/moved/f"), open("tree/removed/f")];
    for path in ["tree/moved/f", "tree/removed/f"] {
        fs::remove_file(bench.path(path)).unwrap();
    }
    fs::rename(bench.path("tree/moved"), bench.path("elsewhere")).unwrap();
    fs::remove_dir(bench.path("tree/removed")).unwrap();
    // Past the TTL, so that the store is asked.
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(names(&bench.path("tree")), ["stays"]);
    for path in ["tree/moved", "tree/removed"] {
        assert_eq!(errno(fs::metadata(bench.path(path))), Errno::ENOENT, "{path}");
    }
    assert_eq!(names(&bench.path("elsewhere")), ["g"]);
    for mut file in files {
        let mut bytes = String::new();
        file.read_to_string(&mut bytes).unwrap();
        assert_eq!(bytes, "open");
    }
    let is_open = |key: &String| key.ends_with("/f");
    eventually("the objects are gone", || !bench.keys().iter().any(is_open));
}
