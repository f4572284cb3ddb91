//! How much memory reading takes, and what is ordered in it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use nix::fcntl::PosixFadviseAdvice;
use s3pod_testkit::{Bucket, Fault, Mount, Op, ServerOptions, TestServer, synthetic_bytes};

use crate::bench::read;
use crate::lab::{BUCKET, Lab, PATIENCE};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The process stays under `--memory-limit` and a fixed 48 MiB.
const LIMIT: [&str; 2] = ["--memory-limit", "64MiB"];
const RSS_MAX: u64 = (64 + 48) * MIB;

const READERS: u64 = 64;
const SIZE: u64 = 12 * MIB;

fn many(bucket: &Bucket) {
    for number in 0..READERS {
        bucket.put_synthetic(&format!("f{number}"), SIZE, number);
    }
}

fn read_to_end(mount: &Mount, number: u64) {
    let mut file = File::open(mount.path().join(format!("f{number}"))).unwrap();
    let (mut block, mut at) = (vec![0; 256 * KIB as usize], 0);
    while at < SIZE {
        file.read_exact(&mut block).unwrap();
        let end = at + block.len() as u64;
        assert!(block == synthetic_bytes(number, at..end), "f{number} at {at}");
        at = end;
    }
}

#[test]
fn sixty_four_readers_fit_into_64_mib() {
    let lab = Lab::new(&LIMIT, many);
    std::thread::scope(|scope| {
        for number in 0..READERS {
            let lab = &lab;
            scope.spawn(move || read_to_end(lab.mount(), number));
        }
    });
    let peak = lab.mount().rss_bytes().unwrap().peak;
    assert!(peak < RSS_MAX, "{} MiB", peak / MIB);
    let log = lab.count();
    // Every byte once, but for what was given up and asked for again.
    assert!(log.bytes_out() < READERS * SIZE * 3 / 2, "{} MiB", log.bytes_out() / MIB);
}

#[test]
fn one_thread_that_reads_many_files_by_turns_goes_on() {
    let lab = Lab::new(&LIMIT, many);
    let open = |number| File::open(lab.path(&format!("f{number}"))).unwrap();
    let files: Vec<File> = (0..READERS).map(open).collect();
    let mut block = vec![0; 64 * KIB as usize];
    for at in (0..2 * MIB).step_by(block.len()) {
        for (number, file) in files.iter().enumerate() {
            file.read_exact_at(&mut block, at).unwrap();
            let want = synthetic_bytes(number as u64, at..at + block.len() as u64);
            assert!(block == want, "f{number} at {at}");
        }
    }
    let peak = lab.mount().rss_bytes().unwrap().peak;
    assert!(peak < RSS_MAX, "{} MiB", peak / MIB);
    drop(files);
    assert!(lab.end().success());
}

/// Memory that belongs to open files without a name, which no count of resident pages shows.
fn memory_of_files(pid: u32) -> u64 {
    let is_memory = |file: &PathBuf| {
        let target = std::fs::read_link(file);
        target.is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let files = files.map(|entry| entry.unwrap().path()).filter(is_memory);
    files.filter_map(|file| Some(std::fs::metadata(file).ok()?.blocks() * 512)).sum()
}

/// Writes here and there in each of many files, which cannot be streamed; returns the bytes that
/// were taken before there was no more space.
fn scatter(files: &[File]) -> u64 {
    let block = vec![7; 64 * KIB as usize];
    let mut taken = 0;
    for at in (0..SIZE / MIB).rev().map(|turn| turn * MIB) {
        for file in files {
            match file.write_all_at(&block, at) {
                Ok(()) => taken += block.len() as u64,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC), "{error}");
                    return taken;
                }
            }
        }
    }
    taken
}

#[test]
fn what_is_staged_without_a_folder_counts_as_memory_too() {
    let server = TestServer::spawn(ServerOptions::default());
    many(&server.bucket(BUCKET));
    let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &server.s3_endpoint(BUCKET));
    let options = options.without_own_cache().args(["--cache-dir", "none"]).args(LIMIT);
    let mount = options.start().unwrap();
    let create = |number| File::create(mount.path().join(format!("new{number}"))).unwrap();
    let files: Vec<File> = (0..READERS).map(create).collect();
    let taken = scatter(&files);
    assert!((4 * MIB..=16 * MIB).contains(&taken), "{taken} bytes");
    let staged = memory_of_files(mount.pid());
    assert!((taken..=16 * MIB).contains(&staged), "{staged} bytes for {taken}");
    std::thread::scope(|scope| {
        for number in 0..READERS {
            let mount = &mount;
            scope.spawn(move || read_to_end(mount, number));
        }
    });
    let peak = mount.rss_bytes().unwrap().peak + memory_of_files(mount.pid());
    assert!(peak < RSS_MAX, "{} MiB", peak / MIB);
    drop(files);
    assert!(mount.unmount().unwrap().success());
    let sent: u64 = (0..READERS)
        .filter_map(|number| server.bucket(BUCKET).get(&format!("new{number}")))
        .map(|object| object.iter().filter(|byte| **byte == 7).count() as u64)
        .sum();
    assert_eq!(sent, taken);
}

#[test]
fn random_reads_fetch_the_blocks_they_touch() {
    let lab = Lab::new(&[], |bucket| drop(bucket.put_synthetic("f", 1024 * MIB, 5)));
    let file = File::open(lab.path("f")).unwrap();
    let mut page = vec![0; 4096];
    for number in 1..=40 {
        let at = (number * 617 * MIB + number * 12_288) % (1023 * MIB) / 4096 * 4096;
        file.read_exact_at(&mut page, at).unwrap();
        assert!(page == synthetic_bytes(5, at..at + 4096));
    }
    drop(file);
    let log = lab.count();
    assert_eq!(log.count(Op::Get), 40);
    assert!(log.bytes_out() <= 41 * 128 * KIB, "{} bytes", log.bytes_out());
}

#[test]
fn a_sequential_read_fetches_each_byte_once_in_large_requests() {
    let size = 256 * MIB;
    let lab = Lab::new(&[], |bucket| drop(bucket.put_synthetic("f", size, 5)));
    let whole = read(&lab.path("f"));
    assert!(whole == synthetic_bytes(5, 0..size));
    let log = lab.count();
    assert!(log.bytes_out() < size + MIB, "{} bytes", log.bytes_out());
    // 32 of 8 MiB, and the small ones of the beginning.
    assert!(log.count(Op::Get) <= 32 + 8, "{} GETs", log.count(Op::Get));
}

#[test]
fn who_waits_does_not_wait_for_what_is_ahead_of_others() {
    let lab = Lab::new(&["--max-requests", "8"], |bucket| {
        bucket.put_synthetic("long", 1024 * MIB, 1);
        bucket.put_synthetic("other", 16 * MIB, 2);
    });
    let long = File::open(lab.path("long")).unwrap();
    let mut block = vec![0; MIB as usize];
    for at in 0..64 {
        long.read_exact_at(&mut block, at * MIB).unwrap();
    }
    // From here on nothing arrives of the long file, however much is ordered of it.
    let hold = lab.server().faults().hold(Op::Get, "long");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut block = vec![0; MIB as usize];
            for at in 64..256 {
                long.read_exact_at(&mut block, at * MIB).unwrap();
            }
        });
        assert!(hold.wait_for_blocking(7, PATIENCE), "{} requests", hold.arrived());
        let other = File::open(lab.path("other")).unwrap();
        let mut page = [0; 4096];
        other.read_exact_at(&mut page, 9 * MIB).unwrap();
        assert!(page[..] == synthetic_bytes(2, 9 * MIB..9 * MIB + 4096)[..]);
        hold.release();
        reader.join().unwrap();
    });
    drop(long);
    assert!(lab.end().success());
}

#[test]
fn what_runs_ahead_of_a_file_ends_with_its_last_close() {
    let lab = Lab::new(&["--max-requests", "2"], |bucket| {
        bucket.put_synthetic("f", 1024 * MIB, 1);
    });
    let mut file = File::open(lab.path("f")).unwrap();
    let mut block = vec![0; MIB as usize];
    for _ in 0..4 {
        file.read_exact(&mut block).unwrap();
    }
    drop(file);
    let log = lab.count();
    // What was read, the kernel's read-ahead, and the GETs that were under way.
    assert!(log.bytes_out() <= 32 * MIB, "{} MiB", log.bytes_out() / MIB);
}

#[test]
fn a_small_object_is_compared_wherever_it_is_read_first() {
    let bytes = crate::bench::pattern(700_001);
    let lab = Lab::new(&[], |bucket| {
        for key in ["right", "once", "always"] {
            bucket.put(key, bytes.clone());
        }
    });
    let flip = |key| Fault::FlipByte { at: 3 }.on(Op::Get).key(key);
    lab.server().faults().add(flip("once"));
    lab.server().faults().add(flip("always").always());
    let read_at = |name, at: u64| {
        let file = File::open(lab.path(name)).unwrap();
        nix::fcntl::posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM).unwrap();
        let mut page = vec![0; 4096];
        file.read_exact_at(&mut page, at).map(|()| page == bytes[at as usize..][..4096])
    };
    for at in [512 * KIB, 0, 128 * KIB, 640 * KIB] {
        for name in ["right", "once"] {
            assert!(read_at(name, at).unwrap(), "{name} at {at}: the bytes differ");
        }
    }
    let error = read_at("always", 512 * KIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    let log = lab.count();
    let gets = |key| log.requests_of(Op::Get).iter().filter(|one| one.key == key).count();
    assert_eq!((gets("right"), gets("once")), (1, 2), "{:?}", log.counts());
}

#[test]
fn a_small_object_whose_body_breaks_off_is_compared_too() {
    let bytes = crate::bench::pattern(700_001);
    let lab = Lab::new(&[], |bucket| drop(bucket.put("f", bytes.clone())));
    lab.server().faults().add(Fault::ResetResponse { after: 300_000 }.on(Op::Get));
    lab.server().faults().add(Fault::FlipByte { at: 3 }.on(Op::Get));
    assert!(read(&lab.path("f")) == bytes, "the wrong byte was given out");
    // The rest of the first body, and all of it once more.
    assert_eq!(lab.count().count(Op::Get), 3);
}

#[test]
fn a_small_object_is_one_get_and_compared_with_its_checksum() {
    let bytes = crate::bench::pattern(700_001);
    let lab = Lab::new(&[], |bucket| {
        bucket.put("once", bytes.clone());
        bucket.put("always", bytes.clone());
    });
    let flip = |key| Fault::FlipByte { at: 300_000 }.on(Op::Get).key(key);
    lab.server().faults().add(flip("once"));
    lab.server().faults().add(flip("always").always());
    assert!(read(&lab.path("once")) == bytes, "the wrong byte was given out");
    let mut file = File::open(lab.path("always")).unwrap();
    let error = file.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    drop(file);
    lab.server().faults().clear();
    assert!(read(&lab.path("always")) == bytes, "wrong bytes were kept");
    let log = lab.count();
    let gets = |key| log.requests_of(Op::Get).iter().filter(|one| one.key == key).count();
    assert_eq!(gets("once"), 2);
    // The kernel asks again for the page after its read-ahead failed; each time it is two.
    assert!(matches!(gets("always"), 3 | 5), "{:?}", log.counts());
}
