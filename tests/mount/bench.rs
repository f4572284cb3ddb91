//! Where a case runs: a server, a prefix of its own in one bucket, and a mount of it.
//!
//! Owns the two ways a case is run: as a test of its own on our server, or in turn with all
//! others on one SeaweedFS. Must not know what a case asserts.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use s3pod_testkit::{Mount, S3Endpoint, SeaweedFs, ServerOptions, TestServer};

use crate::raw::Raw;

const BUCKET: &str = "photos";
/// What must come about does so within this time on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a call takes which nothing holds back; on a slow machine a call that does not wait
/// is overlooked, and no right one refused.
const MOMENT: Duration = Duration::from_millis(250);

/// A case: what it is called, and its body.
pub(crate) type Case = (&'static str, fn(&Bench));

/// A mount of an empty prefix, and the bucket beneath as others see it.
pub(crate) struct Bench {
    endpoint: S3Endpoint,
    prefix: String,
    mount: Mount,
    raw: Raw,
    kind: Kind,
}

/// What is beneath a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Seaweed,
    /// Ours, and a server without any privilege.
    Unprivileged,
}

impl Bench {
    fn new(endpoint: S3Endpoint, prefix: &str, kind: Kind) -> Self {
        let mount = start(&endpoint, prefix, &[], kind);
        let raw = Raw::new(endpoint.clone());
        Self { endpoint, prefix: prefix.to_owned(), mount, raw, kind }
    }

    /// True on SeaweedFS, where a case has to name a deviation.
    pub(crate) fn is_seaweed(&self) -> bool {
        self.kind == Kind::Seaweed
    }

    /// A path in the mount; "" is its root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    /// The bucket from outside.
    pub(crate) fn raw(&self) -> &Raw {
        &self.raw
    }

    /// The key under which a file of the mount is an object.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// The bytes of the object behind a file.
    pub(crate) fn object(&self, name: &str) -> Option<Vec<u8>> {
        self.raw.get(&self.key(name))
    }

    /// Another writer puts an object.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        self.raw.put(&self.key(name), bytes);
    }

    /// The keys below the mount's root, without its prefix.
    pub(crate) fn keys(&self) -> Vec<String> {
        let root = format!("{}/", self.prefix);
        let keys = self.raw.keys(&root);
        keys.iter().map(|key| key.strip_prefix(&root).unwrap().to_owned()).collect()
    }

    /// Ends the mount, which has sent everything.
    fn end(self) {
        let said = self.mount.stderr();
        let status = self.mount.unmount().unwrap();
        assert!(status.success(), "{status}: something was not sent\n{said}");
    }

    /// Another mount of the same prefix.
    pub(crate) fn another(&self, arguments: &[&str]) -> Mount {
        start(&self.endpoint, &self.prefix, arguments, self.kind)
    }
}

fn start(endpoint: &S3Endpoint, prefix: &str, arguments: &[&str], kind: Kind) -> Mount {
    let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), endpoint);
    let options = options.args(["--prefix", prefix]).args(arguments);
    if kind == Kind::Unprivileged {
        let mount = options.unprivileged().start().unwrap();
        assert_no_privilege(mount.pid());
        return mount;
    }
    options.start().unwrap()
}

/// What the kernel knows of a process: another user, no capability, and none to be had.
fn assert_no_privilege(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let is = |field: &str, value: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(field));
        assert_eq!(found.map(|text| text.split_whitespace().next()), Some(Some(value)), "{field}");
    };
    is("Uid:", "65534");
    is("NoNewPrivs:", "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        is(set, "0000000000000000");
    }
}

/// Runs one case on our server.
pub(crate) fn on_ours(name: &str, case: fn(&Bench)) {
    let options = ServerOptions { anonymous: true, ..ServerOptions::with_bucket(BUCKET) };
    let server = TestServer::spawn(options);
    let bench = Bench::new(server.s3_endpoint(BUCKET), name, Kind::Ours);
    case(&bench);
    bench.end();
}

/// Runs cases on one SeaweedFS, one after the other, and names every one that failed.
pub(crate) fn on_seaweedfs<'a>(cases: impl Iterator<Item = &'a Case>) {
    let server = SeaweedFs::spawn().unwrap();
    all_of(cases, &server.s3_endpoint(BUCKET).unwrap(), Kind::Seaweed);
}

/// The same on our server, with mounts that others made and nobody privileged serves.
pub(crate) fn unprivileged<'a>(cases: impl Iterator<Item = &'a Case>) {
    let options = ServerOptions { anonymous: true, ..ServerOptions::with_bucket(BUCKET) };
    let server = TestServer::spawn(options);
    all_of(cases, &server.s3_endpoint(BUCKET), Kind::Unprivileged);
}

fn all_of<'a>(cases: impl Iterator<Item = &'a Case>, endpoint: &S3Endpoint, kind: Kind) {
    let mut failed = Vec::new();
    for (name, case) in cases {
        let run = || {
            let bench = Bench::new(endpoint.clone(), name, kind);
            case(&bench);
            bench.end();
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            eprintln!("failed: {name}");
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "in vain: until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts that a call which has begun waits for something that is still to come.
pub(crate) fn assert_waits<T>(call: &ScopedJoinHandle<'_, T>) {
    thread::sleep(MOMENT);
    assert!(!call.is_finished(), "it waits for nothing");
}

/// close(2), with its answer.
pub(crate) fn close(file: File) -> Result<(), Errno> {
    nix::unistd::close(file.into_raw_fd())
}

/// The errno of a failed call.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> Errno {
    let error = result.err().expect("the call fails");
    Errno::from_raw(error.raw_os_error().expect("an error of the system's"))
}

/// Makes a file of these bytes and closes it, as `cat > path`.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    close(file).unwrap();
}

/// The file's bytes.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The sorted names in a directory.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Bytes that tell where they stand: no two aligned blocks of 8 bytes are alike.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let words =
        (0..len.div_ceil(8) as u64).flat_map(|at| (at ^ 0x5bd1_e995_9d1b_54a5).to_le_bytes());
    words.take(len).collect()
}

/// Runs a shell script in a directory; it must succeed.
pub(crate) fn shell(directory: &Path, script: &str) -> Output {
    let output =
        Command::new("sh").arg("-euc").arg(script).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs Python, which has system calls that safe Rust has not; what it printed.
pub(crate) fn python(script: &str, path: &Path) -> String {
    let output = Command::new("python3").arg("-c").arg(script).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
