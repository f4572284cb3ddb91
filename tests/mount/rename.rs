//! rename(2): names move, bytes stay, and nothing is ever in neither place.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::bench::{Bench, close, errno, names, pattern, read, shell, write};

fn rename(bench: &Bench, from: &str, to: &str) -> std::io::Result<()> {
    fs::rename(bench.path(from), bench.path(to))
}

pub(crate) fn a_file_moves_with_its_bytes(bench: &Bench) {
    bench.put("old", b"bytes");
    rename(bench, "old", "new").unwrap();
    assert_eq!(bench.keys(), ["new"]);
    assert_eq!(read(&bench.path("new")), b"bytes");
    assert!(!bench.path("old").exists());
    assert_eq!(names(&bench.path("")), ["new"]);
    assert_eq!(errno(rename(bench, "old", "else")), Errno::ENOENT);
    rename(bench, "new", "new").unwrap();
    assert_eq!(bench.object("new").unwrap(), b"bytes");
}

pub(crate) fn a_file_replaces_another(bench: &Bench) {
    bench.put("target", b"old");
    write(&bench.path("source"), b"new");
    rename(bench, "source", "target").unwrap();
    assert_eq!(bench.keys(), ["target"]);
    assert_eq!(bench.object("target").unwrap(), b"new");
    assert_eq!(read(&bench.path("target")), b"new");
}

pub(crate) fn a_file_moves_between_directories(bench: &Bench) {
    fs::create_dir(bench.path("a")).unwrap();
    fs::create_dir(bench.path("b")).unwrap();
    write(&bench.path("a/f"), b"x");
    rename(bench, "a/f", "b/g").unwrap();
    assert_eq!(names(&bench.path("a")), [""; 0]);
    assert_eq!(names(&bench.path("b")), ["g"]);
    assert_eq!(bench.keys(), ["a/", "b/", "b/g"]);
    assert_eq!(errno(rename(bench, "b/g", "missing/g")), Errno::ENOENT);
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
}

pub(crate) fn noreplace_keeps_the_target_and_exchange_is_refused(bench: &Bench) {
    write(&bench.path("a"), b"a");
    write(&bench.path("b"), b"b");
    let (a, b, c) = (bench.path("a"), bench.path("b"), bench.path("c"));
    assert_eq!(rename_with(&a, &b, RenameFlags::RENAME_NOREPLACE), Err(Errno::EEXIST));
    assert_eq!(rename_with(&a, &b, RenameFlags::RENAME_EXCHANGE), Err(Errno::EINVAL));
    assert_eq!((read(&a), read(&b)), (b"a".to_vec(), b"b".to_vec()));
    rename_with(&a, &c, RenameFlags::RENAME_NOREPLACE).unwrap();
    assert_eq!(bench.keys(), ["b", "c"]);
}

pub(crate) fn a_directory_moves_with_everything_below(bench: &Bench) {
    fs::create_dir_all(bench.path("old/empty")).unwrap();
    write(&bench.path("old/f"), b"f");
    bench.put("old/deep/er/g", b"g");
    let mut new = File::create(bench.path("old/open")).unwrap();
    new.write_all(b"not yet").unwrap();
    rename(bench, "old", "new").unwrap();
    assert!(!bench.path("old").exists());
    assert_eq!(names(&bench.path("new")), ["deep", "empty", "f", "open"]);
    assert_eq!(read(&bench.path("new/deep/er/g")), b"g");
    assert_eq!(read(&bench.path("new/f")), b"f");
    close(new).unwrap();
    assert_eq!(bench.object("new/open").unwrap(), b"not yet");
    let keys = bench.keys();
    assert!(keys.iter().all(|key| key.starts_with("new/")), "{keys:?}");
    write(&bench.path("new/f"), b"changed");
    assert_eq!(bench.object("new/f").unwrap(), b"changed");
}

pub(crate) fn a_directory_replaces_only_an_empty_one(bench: &Bench) {
    for name in ["source", "empty", "full"] {
        fs::create_dir(bench.path(name)).unwrap();
    }
    write(&bench.path("source/f"), b"f");
    write(&bench.path("full/g"), b"g");
    assert_eq!(errno(rename(bench, "source", "full")), Errno::ENOTEMPTY);
    rename(bench, "source", "empty").unwrap();
    assert_eq!(names(&bench.path("")), ["empty", "full"]);
    assert_eq!(read(&bench.path("empty/f")), b"f");
}

pub(crate) fn kinds_do_not_replace_each_other(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    write(&bench.path("f"), b"f");
    assert_eq!(errno(rename(bench, "f", "d")), Errno::EISDIR);
    assert_eq!(errno(rename(bench, "d", "f")), Errno::ENOTDIR);
    assert_eq!(bench.keys(), ["d/", "f"]);
}

pub(crate) fn a_directory_cannot_move_below_itself(bench: &Bench) {
    fs::create_dir_all(bench.path("d/e")).unwrap();
    assert_eq!(errno(rename(bench, "d", "d/e/f")), Errno::EINVAL);
    assert_eq!(bench.keys(), ["d/", "d/e/"]);
}

pub(crate) fn an_open_file_is_written_under_its_new_name(bench: &Bench) {
    write(&bench.path("old"), b"first ");
    let mut file = fs::OpenOptions::new().append(true).open(bench.path("old")).unwrap();
    file.write_all(b"second ").unwrap();
    rename(bench, "old", "new").unwrap();
    file.write_all(b"third").unwrap();
    close(file).unwrap();
    assert_eq!(bench.keys(), ["new"]);
    assert_eq!(bench.object("new").unwrap(), b"first second third");
    assert_eq!(read(&bench.path("new")), b"first second third");
}

pub(crate) fn a_file_that_is_not_committed_moves(bench: &Bench) {
    let bytes = pattern(20 << 20);
    let mut file = File::create(bench.path("old")).unwrap();
    // So large that parts of it have left under the old name.
    file.write_all(&bytes).unwrap();
    rename(bench, "old", "new").unwrap();
    assert!(!bench.path("old").exists());
    close(file).unwrap();
    assert_eq!(bench.keys(), ["new"]);
    assert!(bench.object("new").unwrap() == bytes, "the bytes differ");
}

pub(crate) fn an_editor_saves_by_rename(bench: &Bench) {
    write(&bench.path("f.txt"), b"version 0");
    for round in 1..4 {
        let text = format!("version {round}");
        let mut file = File::create_new(bench.path(".f.swp")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        close(file).unwrap();
        rename(bench, ".f.swp", "f.txt").unwrap();
        assert_eq!(read(&bench.path("f.txt")), text.as_bytes());
        assert_eq!(bench.object("f.txt").unwrap(), text.as_bytes());
    }
    shell(&bench.path(""), "mv f.txt g.txt && mv g.txt f.txt && sed -i s/version/edition/ f.txt");
    assert_eq!(read(&bench.path("f.txt")), b"edition 3");
    assert_eq!(bench.keys(), ["f.txt"]);
}
