//! What was read is on local disk: restarts, bounds, damage and sharing, through real mounts.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod_testkit::{Bucket, Mount, Op, ServerOptions, TestServer};

use crate::bench::{eventually, pattern, read};
use crate::disk::Mounted;

const MIB: u64 = 1 << 20;
const BUCKET: &str = "photos";

/// A server and a folder that outlive mounts.
pub(crate) struct Place {
    server: TestServer,
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
        Self { server, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        self.server.bucket(BUCKET).put(key, bytes.to_vec());
    }

    pub(crate) fn mount(&self, arguments: &[&str]) -> Mount {
        Mount::options(env!("CARGO_BIN_EXE_s3pod"), &self.server.s3_endpoint(BUCKET))
            .without_own_cache()
            .arg("--cache-dir")
            .arg(self.folder.path())
            .args(arguments)
            .start()
            .unwrap()
    }

    pub(crate) const fn server(&self) -> &TestServer {
        &self.server
    }

    pub(crate) fn bucket(&self) -> Bucket {
        self.server.bucket(BUCKET)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// GETs that `work` causes.
    pub(crate) fn gets(&self, work: impl FnOnce()) -> usize {
        let before = self.server.log().count(Op::Get);
        work();
        self.server.log().count(Op::Get) - before
    }

    /// Every file of the cache.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.folder.path().join("cache"), &mut found);
        found
    }

    fn allocated(&self) -> u64 {
        let sizes = self.files().into_iter().filter_map(|file| fs::metadata(file).ok());
        sizes.map(|metadata| metadata.blocks() * 512).sum()
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

pub(crate) fn unmount(mount: Mount) {
    let said = mount.stderr();
    assert!(mount.unmount().unwrap().success(), "{said}");
}

#[test]
fn a_second_mount_reads_without_a_get() {
    let place = Place::new();
    let (large, small) = (pattern(20 * MIB as usize + 7), pattern(900));
    place.put("large", &large);
    place.put("small", &small);
    let mount = place.mount(&[]);
    for (name, bytes) in [("large", &large), ("small", &small)] {
        assert!(read(&mount.path().join(name)) == *bytes, "the bytes differ");
    }
    unmount(mount);
    let mount = place.mount(&[]);
    let gets = place.gets(|| {
        for (name, bytes) in [("large", &large), ("small", &small)] {
            assert!(read(&mount.path().join(name)) == *bytes, "the bytes differ");
        }
    });
    assert_eq!(gets, 0);
    unmount(mount);
    // Nobody else may look into the files.
    let modes: Vec<u32> =
        place.files().iter().map(|file| fs::metadata(file).unwrap().permissions().mode()).collect();
    assert_eq!(modes, [0o100_600; 4]);
}

#[test]
fn a_mount_that_was_killed_leaves_a_cache_that_can_be_used() {
    let place = Place::new();
    let bytes = pattern(48 * MIB as usize);
    place.put("f", &bytes);
    for size in [5, 17, 30] {
        let mount = place.mount(&[]);
        let file = File::open(mount.path().join("f")).unwrap();
        let mut part = vec![0; (size * MIB) as usize];
        file.read_exact_at(&mut part, 0).unwrap();
        assert!(part == bytes[..part.len()], "the bytes differ");
        drop(file);
        // In the middle of writing what it has read.
        drop(mount.kill());
    }
    let mount = place.mount(&[]);
    assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
    unmount(mount);
    let mount = place.mount(&[]);
    assert_eq!(place.gets(|| assert!(read(&mount.path().join("f")) == bytes)), 0);
    unmount(mount);
}

#[test]
fn the_cache_stays_below_its_size_while_more_is_read() {
    const SIZE: u64 = 16 * MIB;
    let place = Place::new();
    let mount = place.mount(&["--cache-size", "16MiB"]);
    for number in 0..16 {
        let bytes = pattern(4 * MIB as usize + number);
        place.put(&format!("f{number}"), &bytes);
        assert!(read(&mount.path().join(format!("f{number}"))) == bytes, "the bytes differ");
        let allocated = place.allocated();
        assert!(allocated <= SIZE, "{allocated}");
    }
    unmount(mount);
    assert!(place.allocated() > SIZE / 2, "{}", place.allocated());
}

#[test]
fn a_replaced_object_is_never_read_from_the_cache() {
    let place = Place::new();
    let mount = place.mount(&["--metadata-ttl", "0s"]);
    let path = mount.path().join("f");
    for number in 0..20 {
        // The same size, so that nothing but the tag tells them apart.
        let bytes = pattern(300_000 + number)[number..].to_vec();
        place.put("f", &bytes);
        for _ in 0..2 {
            assert!(read(&path) == bytes, "{number}: the bytes differ");
        }
    }
    unmount(mount);
    let bytes = pattern(300_100)[100..].to_vec();
    place.put("f", &bytes);
    let mount = place.mount(&[]);
    assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
    unmount(mount);
}

#[test]
fn damage_is_a_miss_for_the_reader() {
    let place = Place::new();
    let bytes = pattern(3 * MIB as usize);
    place.put("f", &bytes);
    let mount = place.mount(&[]);
    assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
    unmount(mount);
    for file in place.files() {
        for at in [0, 17, 40, 2_000] {
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&file) else { continue };
            let mut byte = [0];
            if file.read_at(&mut byte, at).unwrap() == 0 {
                continue;
            }
            file.write_all_at(&[!byte[0]], at).unwrap();
            let mount = place.mount(&[]);
            assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
            unmount(mount);
        }
    }
    let mount = place.mount(&[]);
    assert_eq!(place.gets(|| assert!(read(&mount.path().join("f")) == bytes)), 0);
    unmount(mount);
}

#[test]
fn two_mounts_share_a_folder() {
    let place = Place::new();
    let bytes = pattern(5 * MIB as usize);
    place.put("f", &bytes);
    place.put("g", &bytes);
    let (one, other) = (place.mount(&[]), place.mount(&[]));
    assert!(read(&one.path().join("f")) == bytes, "the bytes differ");
    assert!(read(&other.path().join("g")) == bytes, "the bytes differ");
    unmount(one);
    let gets = place.gets(|| assert!(read(&other.path().join("f")) == bytes));
    assert_eq!(gets, 0, "the other mount had read it");
    unmount(other);
    let mount = place.mount(&[]);
    let gets = place.gets(|| {
        for name in ["f", "g"] {
            assert!(read(&mount.path().join(name)) == bytes, "the bytes differ");
        }
    });
    assert_eq!(gets, 0);
    unmount(mount);
}

#[test]
fn a_full_disk_is_no_error_for_the_reader() {
    let place = Place::new();
    let _disk = Mounted::disk(place.folder.path(), 24 * MIB);
    let mount = place.mount(&["--cache-size", "1GiB", "--cache-min-free", "0"]);
    let bytes = pattern(40 * MIB as usize);
    place.put("f", &bytes);
    assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
    // What somebody else writes is not ours to remove.
    let other = place.folder.path().join("other");
    let filled = fs::write(&other, vec![1; 24 * MIB as usize]);
    assert!(filled.is_err(), "the disk is larger than it is");
    place.put("g", &bytes);
    assert!(read(&mount.path().join("g")) == bytes, "the bytes differ");
    assert!(other.exists());
    unmount(mount);
}

/// Stops a mount's process, or lets it go on.
fn signal(mount: &Mount, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(mount.pid()).unwrap()), signal).unwrap();
}

/// True where each of its threads is stopped; that takes a moment.
fn is_stopped(mount: &Mount) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
    let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status"));
    let is_stopped =
        |status: std::io::Result<String>| status.is_ok_and(|status| status.contains("State:\tT"));
    threads.map(|thread| status(thread.unwrap())).all(is_stopped)
}

#[test]
fn a_disk_that_hangs_is_a_miss() {
    let buckets = [BUCKET, "disk"].map(str::to_owned).to_vec();
    let server = TestServer::spawn(ServerOptions { buckets, ..ServerOptions::default() });
    let journal = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_s3pod");
    // A disk that can be stopped.
    let disk = Mount::start(binary, &server.s3_endpoint("disk"), &[]).unwrap();
    let mount = Mount::options(binary, &server.s3_endpoint(BUCKET)).without_own_cache();
    let mount = mount.arg("--cache-dir").arg(disk.path()).arg("--journal-dir").arg(journal.path());
    let mount = mount.start().unwrap();
    let bytes = pattern(3 * MIB as usize);
    for name in ["before", "while", "after"] {
        server.bucket(BUCKET).put(name, bytes.clone());
    }
    let read = |name| read(&mount.path().join(name)) == bytes;
    assert!(read("before"), "the bytes differ");
    signal(&disk, Signal::SIGSTOP);
    eventually("it is stopped", || is_stopped(&disk));
    assert!(read("while"), "the bytes differ");
    assert!(mount.stderr().contains("the disk cache fails"), "{}", mount.stderr());
    signal(&disk, Signal::SIGCONT);
    assert!(read("after"), "the bytes differ");
    unmount(mount);
    unmount(disk);
}

#[test]
fn the_cache_makes_room_for_others() {
    let place = Place::new();
    let _disk = Mounted::disk(place.folder.path(), 32 * MIB);
    let free = || {
        let space = nix::sys::statvfs::statvfs(place.folder.path()).unwrap();
        space.blocks_available() * space.fragment_size()
    };
    let mount = place.mount(&["--cache-size", "1GiB", "--cache-min-free", "8MiB"]);
    for number in 0..12 {
        let bytes = pattern(4 * MIB as usize + number);
        place.put(&format!("f{number}"), &bytes);
        assert!(read(&mount.path().join(format!("f{number}"))) == bytes, "the bytes differ");
        assert!(free() >= 8 * MIB, "{}", free());
    }
    assert!(place.allocated() > 12 * MIB, "{}", place.allocated());
    // It goes on shrinking while others grow.
    fs::write(place.folder.path().join("other"), vec![1; 8 * MIB as usize]).unwrap();
    place.put("g", b"small");
    assert_eq!(read(&mount.path().join("g")), b"small");
    unmount(mount);
    assert!(free() >= 8 * MIB, "{}", free());
}

#[test]
fn a_cache_that_cannot_be_written_is_no_reason_not_to_mount() {
    let place = Place::new();
    fs::write(place.folder.path().join("cache"), "in the way").unwrap();
    place.put("f", b"hello");
    let mount = place.mount(&[]);
    assert_eq!(read(&mount.path().join("f")), b"hello");
    let said = mount.stderr();
    assert_eq!(said.matches("no cache on disk").count(), 1, "{said}");
    unmount(mount);
}

#[test]
fn a_cache_of_size_0_keeps_nothing_on_disk() {
    let place = Place::new();
    let bytes = pattern(MIB as usize);
    place.put("f", &bytes);
    let mount = place.mount(&["--cache-size", "0"]);
    assert!(read(&mount.path().join("f")) == bytes, "the bytes differ");
    unmount(mount);
    assert!(place.files().is_empty());
}
