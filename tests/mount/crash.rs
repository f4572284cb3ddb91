//! What survives SIGKILL of the daemon at any moment: everything that a call had acknowledged.
//!
//! One bucket and one cache folder live through all rounds; in each a writer works on a mount
//! until the daemon is killed, and the next mount must show all that was acknowledged, with or
//! without what the one call under way would have made. Strictly, what a close() acknowledged is in
//! the bucket at that moment; with `--write-back` it is there once the next mount has ended.

mod tree;

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use s3pod_testkit::{Bucket, Fault, Mount, Op, ServerOptions, TestServer, is_fuse_mount};

use crate::bench::{close, eventually, pattern};
use tree::Tree;

const BUCKET: &str = "photos";
/// Three parts.
const LARGE: usize = 20 << 20;

fn rounds() -> usize {
    let asked = std::env::var("S3POD_CRASH_ROUNDS").ok();
    asked.map_or(40, |count| count.parse().unwrap())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes).unwrap(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    Some(bytes)
}

/// A bucket and a cache folder that outlive their mounts.
struct Site {
    server: TestServer,
    folder: tempfile::TempDir,
    arguments: Vec<&'static str>,
    /// The log of the mount that was killed last.
    said: Mutex<String>,
}

impl Site {
    fn new(arguments: &[&'static str]) -> Self {
        let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Self { server, folder, arguments: arguments.to_vec(), said: Mutex::default() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn bucket(&self) -> Bucket {
        self.server.bucket(BUCKET)
    }

    fn mount(&self) -> Mount {
        self.mount_with("cache")
    }

    /// A mount that has nothing but the bucket.
    fn mount_elsewhere(&self) -> Mount {
        self.mount_with("another")
    }

    fn mount_with(&self, cache: &str) -> Mount {
        let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &self.server.s3_endpoint(BUCKET));
        let cache = self.folder.path().join(cache);
        let options = options.at(self.root()).without_own_cache().arg("--cache-dir").arg(cache);
        options.args(&self.arguments).start().unwrap()
    }

    /// SIGKILL; the dead mount is taken away, the cache folder stays.
    fn crash(&self, mount: Mount) {
        mount.crash();
        *self.said.lock().unwrap() = mount.stderr();
        let root = self.root();
        if is_fuse_mount(&root) {
            umount2(&root, MntFlags::MNT_DETACH).unwrap();
        }
    }
}

/// What this mount and the one that was killed before have said, and what was asked of the store
/// about these names.
fn tell(site: &Site, mount: &Mount, names: &[String]) -> String {
    let mut told = format!("killed:\n{}now:\n{}", site.said.lock().unwrap(), mount.stderr());
    for one in site.server.log().requests().iter().filter(|one| names.contains(&one.key)) {
        let at = (one.started, one.finished);
        let header = |name| one.header(name).unwrap_or_default();
        let asked = ["if-match", "if-none-match", "x-amz-copy-source", "x-amz-meta-s3pod-commit"];
        let asked = asked.map(header);
        let (op, key, status, bytes) = (one.op, &one.key, one.status, one.bytes_in);
        told += &format!("{} {op:?} {key} {status:?} {bytes} {asked:?} {at:?}\n", one.order);
    }
    told
}

/// Works on the mount until it is killed `after` so long.
fn work_until_killed(site: &Site, tree: &mut Tree, mount: Mount, after: Duration) {
    let root = site.root();
    let is_killed = AtomicBool::new(false);
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            thread::sleep(after);
            is_killed.store(true, Ordering::SeqCst);
            site.crash(mount);
        });
        loop {
            let step = tree.step();
            let done = step.carry_out(&root);
            tree.note(&step, done.is_ok());
            if let Err(error) = done {
                let is_killed = is_killed.load(Ordering::SeqCst);
                assert!(is_killed && dead(&error), "{step}: {error}");
                break;
            }
        }
        killer.join().unwrap();
    });
}

/// True for what a dead mount answers; without it the directory beneath is empty.
fn dead(error: &io::Error) -> bool {
    use nix::libc::{ECONNABORTED, EIO, ENODEV, ENOENT, ENOTCONN};
    error
        .raw_os_error()
        .is_some_and(|errno| [ENOTCONN, ECONNABORTED, ENODEV, EIO, ENOENT].contains(&errno))
}

fn crash_again_and_again(arguments: &[&'static str], is_strict: bool) {
    let site = Site::new(arguments);
    let seed = std::env::var("S3POD_CRASH_SEED")
        .ok()
        .map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("S3POD_CRASH_SEED={seed}");
    let mut tree = Tree::new(seed, !is_strict);
    let mount = site.mount();
    tree.plant(&site.root());
    assert!(mount.unmount().unwrap().success());
    for round in 0..rounds() {
        let mount = site.mount();
        tree.settle(&format!("round {round}"), &site.root(), |names| tell(&site, &mount, names));
        site.server.log().clear();
        let after = Duration::from_millis(tree.random(20..600));
        work_until_killed(&site, &mut tree, mount, after);
        if is_strict {
            tree.is_in_the_bucket(round, |name| site.bucket().get(name).map(Vec::from));
        }
    }
    let mount = site.mount();
    tree.settle("the last mount", &site.root(), |names| tell(&site, &mount, names));
    assert!(mount.unmount().unwrap().success());
    let mount = site.mount_elsewhere();
    tree.settle("a mount that knows nothing", &site.root(), |names| tell(&site, &mount, names));
    assert!(mount.unmount().unwrap().success());
    // One whose creation was answered to nobody has no parts, and is in no journal.
    let costs = |site: &Site| site.bucket().uploads().iter().any(|one| !one.parts.is_empty());
    eventually("no upload with parts is left behind", || !costs(&site));
}

#[test]
fn strictly_what_was_acknowledged_survives_any_crash() {
    crash_again_and_again(&["--metadata-ttl", "10m"], true);
}

#[test]
fn with_write_back_what_was_acknowledged_survives_any_crash() {
    crash_again_and_again(
        &["--metadata-ttl", "10m", "--write-back", "--write-back-ephemeral"],
        false,
    );
}

#[test]
fn parts_that_were_sent_before_a_crash_are_not_sent_again() {
    let site = Site::new(&["--write-back", "--write-back-ephemeral"]);
    // Five parts of 8 MiB, and what the commit itself sends.
    let bytes = pattern(5 * (8 << 20) + 5);
    let mount = site.mount();
    let hold = site.server.faults().hold(Op::CompleteUpload, "f");
    crate::bench::write(&site.root().join("f"), &bytes);
    assert!(hold.wait_for_blocking(1, Duration::from_secs(60)), "all parts are there");
    site.crash(mount);
    drop(hold);
    site.server.log().clear();
    let mount = site.mount();
    assert!(read(&site.root().join("f")).unwrap() == bytes, "it is there from the first moment");
    assert!(mount.unmount().unwrap().success());
    assert!(site.bucket().get("f").unwrap() == bytes, "the bytes differ");
    let again = site.server.log().count(Op::UploadPart);
    assert!(again <= 1, "{again} parts were sent again");
    assert!(site.bucket().uploads().is_empty());
}

#[test]
fn an_upload_whose_file_was_never_closed_is_given_up() {
    let site = Site::new(&[]);
    let theirs = site.bucket();
    let mount = site.mount();
    let file = fs::File::create(site.root().join("f")).unwrap();
    file.write_all_at(&pattern(LARGE), 0).unwrap();
    eventually("a part is there", || theirs.uploads().iter().any(|one| !one.parts.is_empty()));
    site.crash(mount);
    drop(file);
    assert_eq!(theirs.uploads().len(), 1);
    let mount = site.mount();
    eventually("it is given up", || theirs.uploads().is_empty());
    assert_eq!(read(&site.root().join("f")).map(|bytes| bytes.len()).unwrap_or(0), 0);
    assert!(mount.unmount().unwrap().success());
}

#[test]
fn an_upload_whose_creation_was_never_answered_has_no_parts_and_is_not_taken_for_ours() {
    let site = Site::new(&[]);
    let mount = site.mount();
    let hold = site.server.faults().hold_answer(Op::CreateUpload, "f");
    let file = fs::File::create(site.root().join("f")).unwrap();
    thread::scope(|scope| {
        let writing = scope.spawn(|| file.write_all_at(&pattern(LARGE), 0));
        assert!(hold.wait_for_blocking(1, Duration::from_secs(60)));
        site.crash(mount);
        // What was staged before the kill may have been acknowledged.
        let _written_or_not = writing.join().unwrap();
    });
    drop(file);
    drop(hold);
    let mount = site.mount();
    assert!(read(&site.root().join("f")).is_none_or(|bytes| bytes.is_empty()));
    assert!(mount.unmount().unwrap().success());
    let left = site.bucket().uploads();
    assert!(left.len() == 1 && left[0].parts.is_empty(), "{left:?}");
}

#[test]
fn closed_files_appear_in_the_order_of_their_closes() {
    let site = Site::new(&["--write-back", "--write-back-ephemeral"]);
    let mount = site.mount();
    let hold = site.server.faults().hold(Op::Put, "first");
    for name in ["first", "second", "third.tmp"] {
        crate::bench::write(&site.root().join(name), name.as_bytes());
    }
    fs::rename(site.root().join("third.tmp"), site.root().join("third")).unwrap();
    assert!(hold.wait_for_blocking(1, Duration::from_secs(60)));
    assert_eq!(site.server.log().count(Op::Put), 1, "the others wait for the first");
    assert!(site.bucket().keys().is_empty());
    assert_eq!(read(&site.root().join("third")).unwrap(), b"third.tmp");
    hold.release();
    assert!(mount.unmount().unwrap().success());
    let log = site.server.log();
    let sent: Vec<String> =
        log.requests().iter().filter(|one| one.op == Op::Put).map(|one| one.key.clone()).collect();
    assert_eq!(sent, ["first", "second", "third"]);
    assert_eq!(
        log.count(Op::Copy) + log.count(Op::Delete),
        0,
        "what was never sent just follows its name"
    );
}

#[test]
fn the_log_says_how_far_the_commits_of_an_earlier_mount_are() {
    let site = Site::new(&["--write-back", "--write-back-ephemeral"]);
    let mount = site.mount();
    let hold = site.server.faults().hold(Op::Put, "");
    for name in ["first", "second", "third"] {
        crate::bench::write(&site.root().join(name), name.as_bytes());
    }
    site.crash(mount);
    drop(hold);
    let mount = site.mount();
    eventually("all are sent", || site.bucket().keys().len() == 3);
    let said = |words: &str| mount.stderr().lines().filter(|line| line.contains(words)).count();
    eventually("the log says so", || said("all that an earlier mount had left is sent") == 1);
    assert_eq!(said("sending what an earlier mount had left"), 1, "{}", mount.stderr());
    assert!(mount.unmount().unwrap().success());
}

#[test]
fn what_a_question_left_in_the_bucket_is_wiped() {
    let site = Site::new(&[]);
    // Its upload was begun and has its part; whether it can be completed is what is asked.
    let late = Fault::Delay(Duration::from_secs(600)).on(Op::Probe).skip(2);
    let asking = site.server.faults().add(late);
    let mount = site.mount();
    let root = site.root();
    // The first edit of several parts asks whether the store keeps conditions.
    site.bucket().put("f", pattern(LARGE));
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(root.join("f")).unwrap();
            file.write_all_at(b"edit", 0).unwrap();
            // The answer of a dead mount.
            let _killed = close(file);
        });
        eventually("the question is asked", || asking.hits() == 1);
        site.crash(mount);
    });
    let asked = || -> Vec<String> {
        let uploads = site.bucket().uploads().into_iter();
        let asked = uploads.filter(|upload| upload.key.starts_with(".s3pod-probe-"));
        asked.map(|upload| upload.id).collect()
    };
    let left = asked();
    assert_eq!(left.len(), 1);
    let mount = site.mount();
    // It may be asking its own question by now, for the edit that it goes on with.
    assert!(!asked().contains(&left[0]));
    assert!(mount.unmount().unwrap().success());
    assert!(site.bucket().uploads().is_empty());
}
