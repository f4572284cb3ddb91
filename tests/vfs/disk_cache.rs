//! The cache on disk, below the file system: what damage, foreign files and bounds come to.
//!
//! Each case reads through a cache whose memory is empty, so that the bytes come from disk or from
//! the store; the server's log says which.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3pod::budget::Budget;
use s3pod::cache::{Cache, Disk, DiskSettings, DiskSnapshot};
use s3pod::clock::Clock;
use s3pod::naming::Key;
use s3pod::store::s3::S3Store;
use s3pod::store::{ObjectStore, Version};
use s3pod::units::{ByteRange, GIB, KIB, MIB};
use s3pod_testkit::{Bucket, Fault, Op, ServerOptions, TestServer};

use crate::bench::s3_settings;

const BUCKET: &str = "cache";
const BLOCK: u64 = 128 * KIB;

/// A server with one bucket, and a folder for what is read from it.
struct Lab {
    server: TestServer,
    store: Arc<dyn ObjectStore>,
    folder: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
        let settings = s3_settings(&server, BUCKET, Duration::from_secs(60));
        let store = Arc::new(S3Store::connect(settings).await.unwrap());
        Self { server, store, folder: tempfile::tempdir().unwrap() }
    }

    fn bucket(&self) -> Bucket {
        self.server.bucket(BUCKET)
    }

    fn disk(&self, size: u64) -> Disk {
        self.disk_by(Clock::system(), size)
    }

    fn disk_by(&self, clock: Clock, size: u64) -> Disk {
        let settings = DiskSettings {
            folder: self.folder.path().to_owned(),
            place: "here".to_owned(),
            size,
            free_min: 0,
            queue: 64 * MIB,
            table: MIB,
        };
        Disk::open(&settings, clock).unwrap()
    }

    /// A cache without anything in memory.
    fn cache(&self, disk: &Disk) -> Cache {
        Cache::over(Arc::clone(&self.store), Budget::new(64 * MIB), 64, Some(disk.clone()))
    }

    async fn put(&self, key: &str, bytes: &[u8]) -> Arc<Version> {
        self.bucket().put(key, bytes.to_vec());
        Arc::new(self.store.head(&Key::from(key)).await.unwrap().version)
    }

    /// Reads the whole object past what is in memory; how many GETs that took.
    async fn read(&self, disk: &Disk, version: &Arc<Version>) -> (Bytes, usize) {
        let before = self.server.log().count(Op::Get);
        let whole = ByteRange::new(0, version.size);
        let bytes = self.cache(disk).get_or_fetch(version, whole).await.unwrap();
        disk.flush().await;
        (bytes, self.server.log().count(Op::Get) - before)
    }

    async fn asserts_read(&self, disk: &Disk, version: &Arc<Version>, want: &[u8], gets: usize) {
        let (bytes, asked) = self.read(disk, version).await;
        assert!(bytes == want, "the bytes differ");
        assert_eq!(asked, gets);
    }

    /// The files of the cache that end so.
    fn files(&self, suffix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(self.folder.path(), &mut |path, _| {
            if path.extension().is_some_and(|own| own == suffix) {
                found.push(path.to_owned());
            }
        });
        found.sort();
        found
    }

    fn file(&self, suffix: &str) -> PathBuf {
        let mut files = self.files(suffix);
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }

    /// Files of the folder that were removed and that this process has open.
    fn kept_open(&self) -> usize {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let targets = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let is_gone = |target: &PathBuf| target.to_string_lossy().ends_with("(deleted)");
        targets.filter(|target| target.starts_with(self.folder.path()) && is_gone(target)).count()
    }

    /// Bytes that the file system has allocated below the folder, without folders.
    fn allocated(&self) -> u64 {
        let mut sum = 0;
        walk(self.folder.path(), &mut |_, metadata| sum += metadata.blocks() * 512);
        sum
    }
}

fn walk(folder: &Path, seen: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(folder).unwrap() {
        // What is evicted meanwhile is not there.
        let Ok(entry) = entry else { continue };
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path(), seen),
            Ok(metadata) => seen(&entry.path(), &metadata),
            Err(_) => {}
        }
    }
}

fn pattern(size: u64, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..size).map(|_| random.u8(..)).collect()
}

/// Flips bits in the file as it lies there.
fn flip(path: &Path, at: u64, bits: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ bits], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_there_after_a_restart() {
    let lab = Lab::new().await;
    let bytes = pattern(3 * MIB + 77, 1);
    let version = lab.put("f", &bytes).await;
    let disk = lab.disk(GIB);
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    lab.asserts_read(&disk, &version, &bytes, 0).await;
    drop(disk);
    let disk = lab.disk(GIB);
    lab.asserts_read(&disk, &version, &bytes, 0).await;
    let DiskSnapshot { hits, misses, damaged, errors, versions, .. } = disk.snapshot();
    assert_eq!((hits, misses, damaged, errors, versions), (25, 0, 0, 0, 1));
    assert_eq!(fs::read(lab.file("whole")).unwrap(), bytes, "the file is the object");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_is_fetched() {
    let lab = Lab::new().await;
    let bytes = pattern(16 * BLOCK, 2);
    let version = lab.put("f", &bytes).await;
    let disk = lab.disk(GIB);
    for blocks in [2..3, 5..8, 12..13] {
        let range = ByteRange::new(blocks.start * BLOCK, blocks.end * BLOCK);
        lab.cache(&disk).get_or_fetch(&version, range).await.unwrap();
    }
    disk.flush().await;
    assert!(lab.files("whole").is_empty());
    let allocated = fs::metadata(lab.file("partial")).unwrap().blocks() * 512;
    assert_eq!(allocated, 5 * BLOCK);
    let sent = lab.server.log().bytes_out();
    lab.asserts_read(&disk, &version, &bytes, 4).await;
    let sent = lab.server.log().bytes_out() - sent;
    assert!((11 * BLOCK..12 * BLOCK).contains(&sent), "{sent}");
    lab.asserts_read(&disk, &version, &bytes, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_of_a_small_object_is_one_get_and_compared() {
    let lab = Lab::new().await;
    let bytes = pattern(5 * BLOCK, 17);
    let version = lab.put("f", &bytes).await;
    let disk = lab.disk(GIB);
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    for block in [1, 3] {
        flip(&lab.file("whole"), block * BLOCK + 9, 1);
    }
    lab.server.faults().add(Fault::FlipByte { at: 9 }.on(Op::Get));
    lab.asserts_read(&disk, &version, &bytes, 2).await;
    lab.asserts_read(&disk, &version, &bytes, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_another_file() {
    let lab = Lab::new().await;
    let disk = lab.disk(GIB);
    let (old, new) = (pattern(1000, 3), pattern(1000, 4));
    let first = lab.put("f", &old).await;
    lab.asserts_read(&disk, &first, &old, 1).await;
    let second = lab.put("f", &new).await;
    lab.asserts_read(&disk, &second, &new, 1).await;
    lab.asserts_read(&disk, &second, &new, 0).await;
    lab.asserts_read(&disk, &first, &old, 0).await;
}

/// Flips bytes of one of the version's files one by one: each reading gives the object's bytes with
/// at most one GET, and heals what was damaged. How often that was.
async fn heals_flips(
    lab: &Lab,
    version: &Arc<Version>,
    bytes: &[u8],
    suffix: &str,
    step: usize,
) -> u64 {
    let mut damaged = 0;
    let mut disk = lab.disk(GIB);
    lab.read(&disk, version).await;
    for at in (0..fs::metadata(lab.file(suffix)).unwrap().len()).step_by(step) {
        flip(&lab.file(suffix), at, 1 << (at % 8));
        if suffix == "meta" {
            damaged += disk.snapshot().damaged;
            // What is open is not asked again who it is.
            drop(disk);
            disk = lab.disk(GIB);
        }
        let (read, asked) = lab.read(&disk, version).await;
        assert!(read == bytes, "{suffix} at {at}: the bytes differ");
        assert!(asked <= 1, "{suffix} at {at}: {asked} GETs");
        lab.asserts_read(&disk, version, bytes, 0).await;
        let counted = disk.snapshot();
        assert_eq!((counted.errors, counted.versions), (0, 1), "{suffix} at {at}");
    }
    damaged + disk.snapshot().damaged
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_is_a_miss() {
    let lab = Lab::new().await;
    let bytes = pattern(900, 5);
    let version = lab.put("small", &bytes).await;
    assert_eq!(heals_flips(&lab, &version, &bytes, "whole", 1).await, 900);
    let damaged = heals_flips(&lab, &version, &bytes, "meta", 1).await;
    // All but the bytes between head and records, which mean nothing.
    let size = fs::metadata(lab.file("meta")).unwrap().len();
    assert!((size - 7..=size).contains(&damaged), "{damaged} of {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bytes_of_several_blocks_are_misses() {
    let lab = Lab::new().await;
    let bytes = pattern(2 * BLOCK + 500, 6);
    let version = lab.put("large", &bytes).await;
    let places = version.size.div_ceil(1999);
    assert_eq!(heals_flips(&lab, &version, &bytes, "whole", 1999).await, places);
    assert!(heals_flips(&lab, &version, &bytes, "meta", 1).await >= 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_replaced_and_foreign_files_are_misses() {
    let lab = Lab::new().await;
    let disk = lab.disk(GIB);
    let (bytes, others) = (pattern(2 * BLOCK, 7), pattern(2 * BLOCK, 8));
    let version = lab.put("f", &bytes).await;
    let other = lab.put("g", &others).await;
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    let (data, meta) = (lab.file("whole"), lab.file("meta"));
    lab.asserts_read(&disk, &other, &others, 1).await;
    let of_other = |suffix: &str| {
        lab.files(suffix).into_iter().find(|path| *path != data && *path != meta).unwrap()
    };
    let cut = |path: &Path, size: u64| {
        OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
    };
    let replace = |path: &Path, by: &dyn Fn(&Path)| {
        fs::remove_file(path).unwrap();
        by(path);
    };
    let breaks: [&dyn Fn(); 12] = [
        &|| cut(&data, 5),
        &|| cut(&data, 0),
        &|| cut(&data, 3 * BLOCK),
        &|| cut(&meta, 20),
        &|| cut(&meta, fs::metadata(&meta).unwrap().len() - 8),
        &|| replace(&data, &|path| fs::write(path, "foreign").unwrap()),
        &|| replace(&data, &|path| assert!(fs::copy(of_other("whole"), path).unwrap() > 0)),
        &|| replace(&data, &|path| std::os::unix::fs::symlink(of_other("whole"), path).unwrap()),
        &|| {
            replace(&data, &|path| {
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()
            })
        },
        &|| replace(&meta, &|path| assert!(fs::copy(of_other("meta"), path).unwrap() > 0)),
        &|| replace(&meta, &|_| {}),
        &|| replace(&data, &|_| {}),
    ];
    for (number, damage) in breaks.into_iter().enumerate() {
        damage();
        // As another mount would find it, and as this one does that has it open.
        for disk in [&lab.disk(GIB), &disk] {
            let (read, asked) = lab.read(disk, &version).await;
            assert!(read == bytes, "{number}: the bytes differ");
            assert!(asked <= 1, "{number}: {asked} GETs");
        }
        // What was another program's may have to go first.
        lab.read(&disk, &version).await;
        for disk in [&disk, &lab.disk(GIB)] {
            let (read, asked) = lab.read(disk, &version).await;
            assert!(read == bytes && asked == 0, "{number}: {asked} GETs");
            lab.asserts_read(disk, &other, &others, 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_bytes_and_record_is_a_missing_block() {
    let lab = Lab::new().await;
    let disk = lab.disk(GIB);
    let bytes = pattern(3 * BLOCK, 9);
    let version = lab.put("f", &bytes).await;
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    drop(disk);
    // As it was before the records of the last two blocks were written, one of them torn.
    let (meta, data) = (lab.file("meta"), lab.file("whole"));
    let file = OpenOptions::new().write(true).open(&meta).unwrap();
    let end = file.metadata().unwrap().len();
    file.write_all_at(&[0; 12], end - 12).unwrap();
    fs::rename(&data, data.with_extension("partial")).unwrap();
    let disk = lab.disk(GIB);
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    assert_eq!(disk.snapshot().hits, 1);
    lab.asserts_read(&disk, &version, &bytes, 0).await;
    assert_eq!(fs::read(lab.file("whole")).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_holds_while_four_times_as_much_is_read() {
    const SIZE: u64 = 4 * MIB;
    let lab = Lab::new().await;
    let disk = lab.disk(SIZE);
    let mut random = fastrand::Rng::with_seed(10);
    let mut read = 0;
    while read < 4 * SIZE {
        let bytes = pattern(random.u64(1..MIB), read);
        let version = lab.put(&format!("f{read}"), &bytes).await;
        lab.asserts_read(&disk, &version, &bytes, 1).await;
        read += version.size;
        let allocated = lab.allocated();
        assert!(allocated <= SIZE, "{allocated}");
        assert_eq!(disk.snapshot().used_bytes, allocated);
    }
    assert!(disk.snapshot().evicted > 0);
    assert!(lab.allocated() > SIZE / 2, "it is used, too");
    // A single object larger than the cache keeps its beginning.
    let bytes = pattern(2 * SIZE, 11);
    let version = lab.put("large", &bytes).await;
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    assert!(lab.allocated() <= SIZE);
    drop(disk);
    // And a smaller bound holds for what is there already.
    let disk = lab.disk(SIZE / 4);
    disk.flush().await;
    assert!(lab.allocated() <= SIZE / 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mounts_share_what_they_read_and_one_bound() {
    const SIZE: u64 = 8 * MIB;
    let lab = Lab::new().await;
    let disks = [lab.disk(SIZE), lab.disk(SIZE)];
    let bytes = pattern(MIB, 12);
    for number in 0..32 {
        let version = lab.put(&format!("f{number}"), &bytes).await;
        let (one, other) = (&disks[number % 2], &disks[(number + 1) % 2]);
        lab.asserts_read(one, &version, &bytes, 1).await;
        lab.asserts_read(other, &version, &bytes, 0).await;
    }
    // Each knows of the other's files what it has come across while it wrote.
    let allocated = lab.allocated();
    assert!(allocated <= SIZE * 2, "{allocated}");
    assert_eq!(disks.map(|disk| disk.snapshot().damaged), [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_mount_evicts_is_closed_by_one_that_is_never_idle() {
    let lab = Lab::new().await;
    let clock = Clock::manual();
    let disk = lab.disk_by(clock.clone(), GIB);
    let bytes = pattern(900, 18);
    let version = lab.put("f", &bytes).await;
    for gets in [1, 0] {
        lab.asserts_read(&disk, &version, &bytes, gets).await;
    }
    for suffix in ["meta", "whole"] {
        fs::remove_file(lab.file(suffix)).unwrap();
    }
    assert_eq!(lab.kept_open(), 2);
    clock.advance(Duration::from_secs(10));
    // The first is when it looks, the second behind that.
    for key in ["g", "h"] {
        let other = lab.put(key, &bytes).await;
        lab.asserts_read(&disk, &other, &bytes, 1).await;
    }
    assert_eq!(lab.kept_open(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_is_given_out_verified_and_untouched() {
    let lab = Lab::new().await;
    let disk = lab.disk(GIB);
    let bytes = pattern(20 * BLOCK + 5, 13);
    let version = lab.put("f", &bytes).await;
    let cache = lab.cache(&disk);
    assert!(cache.verified_file(&version).await.is_none(), "nothing is there");
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    assert!(cache.whole_file(&version).is_none(), "nobody has verified it");
    let file = cache.verified_file(&version).await.unwrap();
    let mut read = vec![0; bytes.len()];
    file.file().read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "the bytes differ");
    assert!(file.file().write_at(b"x", 0).is_err(), "it is read-only");
    assert_eq!(cache.whole_file(&version).unwrap().seal(), file.seal());
    let path = lab.file("whole");
    flip(&path, 7, 1);
    assert!(!file.is_untouched());
    assert!(cache.whole_file(&version).is_none(), "somebody has written to it");
    assert!(cache.verified_file(&version).await.is_none(), "and it is damaged");
    disk.flush().await;
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    assert!(cache.verified_file(&version).await.is_some(), "it is healed");
    let copy = path.with_extension("copy");
    fs::copy(&path, &copy).unwrap();
    fs::rename(&copy, &path).unwrap();
    assert!(cache.whole_file(&version).is_none(), "it is another inode");
}

/// As above, where the file was verified and could be handed to the kernel.
#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_ends_what_the_kernel_may_have() {
    let lab = Lab::new().await;
    let disk = lab.disk(GIB);
    let bytes = pattern(900, 16);
    let version = lab.put("small", &bytes).await;
    lab.read(&disk, &version).await;
    let cache = lab.cache(&disk);
    for at in 0..version.size {
        assert!(cache.verified_file(&version).await.is_some(), "{at}");
        flip(&lab.file("whole"), at, 1 << (at % 8));
        assert!(cache.whole_file(&version).is_none(), "{at}: it was written to");
        assert!(cache.verified_file(&version).await.is_none(), "{at}: it is damaged");
        disk.flush().await;
        lab.asserts_read(&disk, &version, &bytes, 1).await;
    }
    let counted = disk.snapshot();
    assert_eq!((counted.damaged, counted.errors, counted.versions), (900, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_version_whole_is_told_when_its_last_block_is_there() {
    let lab = Lab::new().await;
    let disk = lab.disk(GIB);
    let bytes = pattern(9 * BLOCK + 5, 15);
    let version = lab.put("f", &bytes).await;
    let cache = lab.cache(&disk);
    let whole = tokio::spawn(cache.when_whole(&version));
    for end in [BLOCK, 9 * BLOCK] {
        cache.get_or_fetch(&version, ByteRange::new(0, end)).await.unwrap();
        disk.flush().await;
        assert!(cache.verified_file(&version).await.is_none(), "a block is missing");
        assert!(!whole.is_finished());
    }
    cache.get_or_fetch(&version, ByteRange::at(9 * BLOCK, 5)).await.unwrap();
    assert!(whole.await.unwrap());
    assert!(cache.verified_file(&version).await.is_some());
    let without = Cache::over(Arc::clone(&lab.store), Budget::new(64 * MIB), 64, None);
    assert!(!without.when_whole(&version).await, "there is no disk to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_goes_while_it_is_used_is_a_miss() {
    let lab = Lab::new().await;
    let disk = lab.disk(GIB);
    let bytes = pattern(2 * BLOCK, 14);
    let version = lab.put("f", &bytes).await;
    lab.asserts_read(&disk, &version, &bytes, 1).await;
    fs::remove_dir_all(lab.folder.path().join("cache")).unwrap();
    let other = lab.put("g", &bytes).await;
    lab.asserts_read(&disk, &other, &bytes, 1).await;
    lab.read(&disk, &version).await;
    fs::create_dir_all(lab.folder.path().join("cache/1")).unwrap();
    lab.asserts_read(&disk, &other, &bytes, 1).await;
    lab.asserts_read(&disk, &other, &bytes, 0).await;
}
