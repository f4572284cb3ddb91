//! chmod(2), chown(2), utimensat(2): kept with the object.

use std::fs::{self, File, FileTimes, Metadata, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::bench::{Bench, close, read, write};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What a fresh mount sees; this one has sent everything before.
fn seen_elsewhere(bench: &Bench, name: &str) -> Metadata {
    File::open(bench.path(name)).unwrap().sync_all().unwrap();
    let other = bench.another(&[]);
    let seen = fs::symlink_metadata(other.path().join(name)).unwrap();
    assert!(other.unmount().unwrap().success());
    seen
}

pub(crate) fn chmod_and_chown_survive_a_remount(bench: &Bench) {
    bench.put("theirs", b"bytes");
    write(&bench.path("mine"), b"bytes");
    for name in ["theirs", "mine"] {
        chmod(&bench.path(name), 0o4751);
        chown(bench.path(name), Some(1234), Some(5678)).unwrap();
        // chown(2) takes the set-user-id bit away.
        chmod(&bench.path(name), 0o4751);
        let here = fs::metadata(bench.path(name)).unwrap();
        let there = seen_elsewhere(bench, name);
        for seen in [here, there] {
            assert_eq!(seen.mode(), 0o104_751, "{name}");
            assert_eq!((seen.uid(), seen.gid()), (1234, 5678), "{name}");
        }
        assert_eq!(read(&bench.path(name)), b"bytes");
    }
}

pub(crate) fn times_survive_a_remount(bench: &Bench) {
    write(&bench.path("f"), b"bytes");
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let file = File::options().write(true).open(bench.path("f")).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
    close(file).unwrap();
    assert_eq!(fs::metadata(bench.path("f")).unwrap().modified().unwrap(), time);
    let there = seen_elsewhere(bench, "f");
    assert_eq!(there.modified().unwrap(), time);
    assert_eq!(there.accessed().unwrap(), time, "atime is mtime");
    // Also of a streamed upload, whose metadata went before its bytes.
    let mut large = File::create(bench.path("large")).unwrap();
    large.write_all(&vec![7; 20 << 20]).unwrap();
    large.set_times(FileTimes::new().set_modified(time)).unwrap();
    close(large).unwrap();
    assert_eq!(seen_elsewhere(bench, "large").modified().unwrap(), time);
}

pub(crate) fn attributes_of_an_open_file_survive(bench: &Bench) {
    let mut file = File::create(bench.path("f")).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.write_all(b"bytes").unwrap();
    close(file).unwrap();
    assert_eq!(seen_elsewhere(bench, "f").mode(), 0o100_600);
    let mut large = File::create(bench.path("large")).unwrap();
    large.write_all(&vec![7; 20 << 20]).unwrap();
    large.set_permissions(Permissions::from_mode(0o640)).unwrap();
    close(large).unwrap();
    let seen = seen_elsewhere(bench, "large");
    assert_eq!((seen.mode(), seen.len()), (0o100_640, 20 << 20));
}

pub(crate) fn attributes_of_a_directory_survive(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    write(&bench.path("d/f"), b"x");
    chmod(&bench.path("d"), 0o2770);
    assert_eq!(fs::metadata(bench.path("d")).unwrap().mode(), 0o042_770);
    // SeaweedFS answers 200 to a marker's metadata and forgets it.
    let kept = |mode: u32| if bench.is_seaweed() { 0o040_755 } else { mode };
    let seen = seen_elsewhere(bench, "d");
    assert_eq!(seen.mode(), kept(0o042_770));
    // Of a directory that was none before but by its files.
    bench.put("implicit/f", b"x");
    chmod(&bench.path("implicit"), 0o700);
    assert_eq!(seen_elsewhere(bench, "implicit").mode(), kept(0o040_700));
}

pub(crate) fn an_access_time_is_shown_while_the_file_is_known(bench: &Bench) {
    write(&bench.path("f"), b"bytes");
    let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let file = File::options().write(true).open(bench.path("f")).unwrap();
    file.set_times(FileTimes::new().set_accessed(second(1)).set_modified(second(2))).unwrap();
    file.set_times(FileTimes::new().set_modified(second(3))).unwrap();
    close(file).unwrap();
    let here = fs::metadata(bench.path("f")).unwrap();
    assert_eq!((here.accessed().unwrap(), here.modified().unwrap()), (second(1), second(3)));
    assert_eq!(seen_elsewhere(bench, "f").accessed().unwrap(), second(3), "it is not stored");
}

pub(crate) fn a_directorys_time_follows_its_names(bench: &Bench) {
    fs::create_dir(bench.path("d")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let times = FileTimes::new().set_modified(old);
    let changes: [fn(&Path); 6] = [
        |d| write(&d.join("f"), b"x"),
        |d| fs::create_dir(d.join("e")).unwrap(),
        |d| fs::rename(d.join("f"), d.join("g")).unwrap(),
        |d| symlink("g", d.join("l")).unwrap(),
        |d| fs::remove_file(d.join("g")).unwrap(),
        |d| fs::remove_dir(d.join("e")).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        File::open(bench.path("d")).unwrap().set_times(times).unwrap();
        assert_eq!(fs::metadata(bench.path("d")).unwrap().modified().unwrap(), old);
        change(&bench.path("d"));
        let seen = fs::metadata(bench.path("d")).unwrap();
        assert!(seen.modified().unwrap() > old, "change {number}");
    }
}
