//! What survives SIGKILL of the daemon at any moment: everything that a call had acknowledged.
//!
//! One bucket and one cache folder live through all rounds; in each a writer works on a mount
//! until the daemon is killed, and the next mount must show, for every name, what was acknowledged
//! or what the one call under way would have made. Strictly, what a close() acknowledged is in the
//! bucket at that moment; with `--write-back` it is there once the next mount has ended.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use s3pod_testkit::{Bucket, Fault, Mount, Op, ServerOptions, TestServer, is_fuse_mount};

use crate::bench::{close, eventually, pattern};

const BUCKET: &str = "photos";
const NAMES: u64 = 8;
/// Three parts.
const LARGE: usize = 20 << 20;

fn rounds() -> usize {
    let asked = std::env::var("S3POD_CRASH_ROUNDS").ok();
    asked.map_or(40, |count| count.parse().unwrap())
}

/// What a name may hold: the bytes, or none where there is no file. The first is what was
/// acknowledged.
type May = Vec<Option<Vec<u8>>>;

/// One call, and what it makes of its names.
#[derive(Debug)]
enum Step {
    /// The whole file, through a truncating open.
    Replace(String, Vec<u8>),
    Append(String, Vec<u8>),
    /// Four bytes at the beginning, where there are so many.
    Edit(String),
    /// Half of the file, by ftruncate(2).
    Cut(String),
    /// The whole file, with an fsync behind its first half.
    Checkpoint(String, Vec<u8>),
    Unlink(String),
    Rename(String, String),
}

struct Tree {
    may: BTreeMap<String, May>,
    random: fastrand::Rng,
    /// What is appended may be there in part where nothing has acknowledged it: with
    /// `--write-back` an earlier close of the file may be sent while it is written to again.
    shows_parts: bool,
}

impl Tree {
    fn now(&self, name: &str) -> Option<&Vec<u8>> {
        self.may.get(name).and_then(|may| may[0].as_ref())
    }

    fn step(&mut self) -> Step {
        let name =
            |random: &mut fastrand::Rng| format!("d{}/f{}", random.u64(..2), random.u64(..NAMES));
        let (one, other) = (name(&mut self.random), name(&mut self.random));
        let is_there = self.now(&one).is_some();
        let len = match self.random.u8(..20) {
            0 => LARGE + self.random.usize(..1000),
            1..8 => self.random.usize(..200_000),
            _ => self.random.usize(1..2000),
        };
        let mut bytes = pattern(len);
        bytes[..len.min(8)].fill(self.random.u8(..));
        match self.random.u8(..10) {
            0..2 if is_there => Step::Append(one, bytes),
            2..4 if is_there => Step::Edit(one),
            4 if is_there => Step::Unlink(one),
            5..7 if is_there && one != other => Step::Rename(one, other),
            7 if is_there => Step::Cut(one),
            8 => Step::Checkpoint(one, bytes),
            _ => Step::Replace(one, bytes),
        }
    }

    /// What a step may leave where it is cut off, by name; the last is what it leaves when done.
    fn after(&self, step: &Step) -> Vec<(String, May)> {
        let was = |name: &String| self.now(name).cloned();
        match step {
            // An open that truncates empties the file by itself.
            Step::Replace(name, bytes) => {
                vec![(name.clone(), vec![was(name), Some(Vec::new()), Some(bytes.clone())])]
            }
            Step::Append(name, bytes) => {
                let longer = [was(name).unwrap(), bytes.clone()].concat();
                vec![(name.clone(), vec![was(name), Some(longer)])]
            }
            Step::Edit(name) => {
                let mut edited = was(name).unwrap();
                edited.iter_mut().take(4).for_each(|byte| *byte ^= 0x55);
                vec![(name.clone(), vec![was(name), Some(edited)])]
            }
            Step::Cut(name) => {
                let whole = was(name).unwrap();
                let half = whole[..whole.len() / 2].to_vec();
                vec![(name.clone(), vec![Some(whole), Some(half)])]
            }
            Step::Checkpoint(name, bytes) => {
                let half = bytes[..bytes.len() / 2].to_vec();
                let states = [Vec::new(), half, bytes.clone()];
                let may = std::iter::once(was(name)).chain(states.map(Some)).collect();
                vec![(name.clone(), may)]
            }
            Step::Unlink(name) => vec![(name.clone(), vec![was(name), None])],
            Step::Rename(from, to) => {
                vec![(from.clone(), vec![was(from), None]), (to.clone(), vec![was(to), was(from)])]
            }
        }
    }

    /// The step was acknowledged, or it is in doubt.
    fn note(&mut self, step: &Step, is_done: bool) {
        for (name, mut may) in self.after(step) {
            if is_done {
                may = vec![may.pop().unwrap()];
            }
            self.may.insert(name, may);
        }
    }

    /// What is there is what may be there; from here on it is what is.
    fn settle(&mut self, round: usize, read: impl Fn(&str) -> Option<Vec<u8>>) {
        for (name, may) in &mut self.may {
            let found = read(name);
            let is_known = may.contains(&found) || self.shows_parts && is_between(&found, may);
            let lens = |may: &May| may.iter().map(|m| m.as_ref().map(Vec::len)).collect::<Vec<_>>();
            assert!(
                is_known,
                "round {round}: {name} has {:?} bytes, and not one of {:?}",
                found.as_ref().map(Vec::len),
                lens(may)
            );
            *may = vec![found];
        }
    }
}

/// True for an append that was cut off: some of its bytes are there.
fn is_between(found: &Option<Vec<u8>>, may: &May) -> bool {
    let [Some(before), Some(after)] = may.as_slice() else { return false };
    let is_append = after.starts_with(before);
    is_append && found.as_ref().is_some_and(|f| f.starts_with(before) && after.starts_with(f))
}

fn carry_out(root: &Path, step: &Step) -> io::Result<()> {
    let closed = |file| close(file).map_err(io::Error::from);
    match step {
        Step::Replace(name, bytes) => {
            let mut file = fs::File::create(root.join(name))?;
            file.write_all(bytes)?;
            closed(file)
        }
        Step::Checkpoint(name, bytes) => {
            let mut file = fs::File::create(root.join(name))?;
            let (first, second) = bytes.split_at(bytes.len() / 2);
            file.write_all(first)?;
            file.sync_all()?;
            file.write_all(second)?;
            closed(file)
        }
        Step::Cut(name) => {
            let file = OpenOptions::new().write(true).open(root.join(name))?;
            file.set_len(file.metadata()?.len() / 2)?;
            closed(file)
        }
        Step::Append(name, bytes) => {
            let mut file = OpenOptions::new().append(true).open(root.join(name))?;
            file.write_all(bytes)?;
            closed(file)
        }
        Step::Edit(name) => {
            let file = OpenOptions::new().read(true).write(true).open(root.join(name))?;
            let mut head = [0; 4];
            let len = file.read_at(&mut head, 0)?;
            head.iter_mut().for_each(|byte| *byte ^= 0x55);
            file.write_all_at(&head[..len], 0)?;
            closed(file)
        }
        Step::Unlink(name) => fs::remove_file(root.join(name)),
        Step::Rename(from, to) => fs::rename(root.join(from), root.join(to)),
    }
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
}

impl Site {
    fn new(arguments: &[&'static str]) -> Self {
        let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Self { server, folder, arguments: arguments.to_vec() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn bucket(&self) -> Bucket {
        self.server.bucket(BUCKET)
    }

    fn mount(&self) -> Mount {
        let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &self.server.s3_endpoint(BUCKET));
        let cache = self.folder.path().join("cache");
        let options = options.at(self.root()).without_own_cache().arg("--cache-dir").arg(cache);
        options.args(&self.arguments).start().unwrap()
    }

    /// SIGKILL; the dead mount is taken away, the cache folder stays.
    fn crash(&self, mount: Mount) {
        mount.crash();
        let root = self.root();
        if is_fuse_mount(&root) {
            umount2(&root, MntFlags::MNT_DETACH).unwrap();
        }
    }
}

/// Works on the mount until it is killed `after` so long.
fn work_until_killed(site: &Site, tree: &mut Tree, mount: Mount, after: Duration) {
    let root = site.root();
    thread::scope(|scope| {
        let killer = scope.spawn(move || {
            thread::sleep(after);
            site.crash(mount);
        });
        loop {
            let step = tree.step();
            let done = carry_out(&root, &step);
            tree.note(&step, done.is_ok());
            if let Err(error) = done {
                assert!(killed(&error), "{step:?}: {error}", step = name_of(&step));
                break;
            }
        }
        killer.join().unwrap();
    });
}

fn name_of(step: &Step) -> String {
    match step {
        Step::Replace(name, bytes) => format!("replace {name} by {} bytes", bytes.len()),
        Step::Append(name, bytes) => format!("append {} bytes to {name}", bytes.len()),
        Step::Edit(name) => format!("edit {name}"),
        Step::Cut(name) => format!("cut {name}"),
        Step::Checkpoint(name, bytes) => format!("write {name} of {} bytes twice", bytes.len()),
        Step::Unlink(name) => format!("unlink {name}"),
        Step::Rename(from, to) => format!("rename {from} to {to}"),
    }
}

/// True for what a dead mount answers; without it the directory beneath is empty.
fn killed(error: &io::Error) -> bool {
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
    let mut tree = Tree {
        may: BTreeMap::new(),
        random: fastrand::Rng::with_seed(seed),
        shows_parts: !is_strict,
    };
    for round in 0..rounds() {
        let mount = site.mount();
        for folder in ["d0", "d1"] {
            fs::create_dir_all(site.root().join(folder)).unwrap();
        }
        tree.settle(round, |name| read(&site.root().join(name)));
        let after = Duration::from_millis(tree.random.u64(20..600));
        work_until_killed(&site, &mut tree, mount, after);
        if is_strict {
            in_the_bucket_already(&site, &tree, round);
        }
    }
    let mount = site.mount();
    tree.settle(rounds(), |name| read(&site.root().join(name)));
    assert!(mount.unmount().unwrap().success());
    tree.settle(rounds(), |name| site.bucket().get(name).map(Vec::from));
    // One whose creation was answered to nobody has no parts, and is in no journal.
    let costs = |site: &Site| site.bucket().uploads().iter().any(|one| !one.parts.is_empty());
    eventually("no upload with parts is left behind", || !costs(&site));
}

/// What close() acknowledged of bytes is in the bucket although nobody came after; names that were
/// taken away may still be there, since their deletes were only written down.
fn in_the_bucket_already(site: &Site, tree: &Tree, round: usize) {
    for (name, may) in tree.may.iter().filter(|(_, may)| may[0].is_some()) {
        let found = site.bucket().get(name).map(Vec::from);
        assert!(may.contains(&found), "round {round}: {name} is not what close() acknowledged");
    }
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
