//! `--write-back`, seen by the system calls of the daemon: what close(2) promises is on disk before
//! it is promised, in the order in which a power cut harms nothing.
//!
//! strace tells the calls of all threads in one order. What a program had been told by then is seen
//! among them too: a look at a name that is nowhere, before the close and after it.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod_testkit::{Fault, Op};

use crate::bench::{close, eventually};
use crate::lab::Lab;

const WRITE_BACK: [&str; 4] = ["--write-back", "--write-back-ephemeral", "--metadata-ttl", "10m"];

/// strace, attached to every thread of a process until it is dropped.
struct Trace {
    strace: Child,
    folder: tempfile::TempDir,
}

impl Trace {
    /// Traces the mount's daemon, with these arguments more.
    fn of(lab: &Lab, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pid = lab.mount().pid();
        let mut command = Command::new("strace");
        // Paths of descriptors, and enough of the bytes for a name in a request of the kernel's.
        command.args(["--follow-forks", "--quiet=all", "--decode-fds=path", "--string-limit=300"]);
        command.args(arguments).arg("--attach").arg(pid.to_string());
        command.arg("--output").arg(folder.path().join("trace"));
        let strace = command.stdin(Stdio::null()).spawn().unwrap();
        let trace = Self { strace, folder };
        eventually("every thread is traced", || tracers(pid).all(|tracer| tracer != "0"));
        trace
    }

    /// Its lines so far, which strace writes when it ends.
    fn lines(mut self) -> Vec<String> {
        self.end();
        let text = fs::read(self.folder.path().join("trace")).unwrap();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    fn end(&mut self) {
        let pid = i32::try_from(self.strace.id()).unwrap();
        // It detaches, and is reaped here alone.
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        self.strace.wait().unwrap();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// Who traces each thread of a process; 0 is nobody.
fn tracers(pid: u32) -> impl Iterator<Item = String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses: Vec<PathBuf> = tasks.map(|task| task.unwrap().path().join("status")).collect();
    statuses.into_iter().filter_map(|status| {
        let text = fs::read_to_string(status).ok()?;
        let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
        Some(tracer.trim().to_owned())
    })
}

/// Where the first line from `from` on stands that has all of these words.
fn find(lines: &[String], from: usize, words: &[&str]) -> usize {
    let found = lines[from..].iter().position(|line| words.iter().all(|word| line.contains(word)));
    let at = found.unwrap_or_else(|| panic!("no {words:?} behind {from} in {lines:#?}"));
    from + at
}

/// Asserts that the call which begins at a line is over before `end`, and returned no error.
fn assert_over(lines: &[String], begin: usize, call: &str, end: usize) -> usize {
    if !lines[begin].contains("<unfinished ...>") {
        assert!(lines[begin].ends_with("= 0"), "{}", lines[begin]);
        return begin;
    }
    let thread = lines[begin].split_whitespace().next().unwrap();
    let resumed = format!("<... {call} resumed>");
    let over = find(lines, begin, &[thread, &resumed]);
    assert!(over < end && lines[over].ends_with("= 0"), "{}", lines[over]);
    over
}

#[test]
fn bytes_record_and_names_are_on_disk_in_this_order_before_a_close_answers() {
    let lab = Lab::empty(&WRITE_BACK);
    let hold = lab.server().faults().hold(Op::Put, "");
    let calls = "trace=read,write,pwrite64,writev,fsync,fdatasync";
    let trace = Trace::of(&lab, &["-e", calls]);
    let mut file = File::create(lab.path("f")).unwrap();
    file.write_all(b"these bytes").unwrap();
    assert!(!lab.path("before-the-close").exists());
    close(file).unwrap();
    assert!(!lab.path("behind-the-close").exists());
    let lines = trace.lines();
    hold.release();

    let begin = find(&lines, 0, &["read", "before-the-close"]);
    let end = find(&lines, begin, &["read", "behind-the-close"]);
    let data = find(&lines, begin, &["fdatasync(", "/journal/"]);
    assert!(!lines[data].contains("/log>"), "the bytes come first: {}", lines[data]);
    let data = assert_over(&lines, data, "fdatasync", end);
    let record = find(&lines, begin, &["write(", "/log>", "commit"]);
    let log = find(&lines, record, &["fdatasync(", "/log>"]);
    let log = assert_over(&lines, log, "fdatasync", end);
    let folder = find(&lines, log, &["fsync(", "/journal/"]);
    let is_folder = lines[folder].contains(" fsync(") && !lines[folder].contains("/log>");
    assert!(is_folder, "{}", lines[folder]);
    let folder = assert_over(&lines, folder, "fsync", end);
    let order = [begin, data, record, log, folder, end];
    assert!(order.is_sorted(), "{order:?} in {lines:#?}");
    lab.count();
}

#[test]
fn a_close_whose_bytes_or_record_cannot_be_synced_promises_nothing() {
    for failing in ["fdatasync", "fsync"] {
        let lab = Lab::empty(&WRITE_BACK);
        lab.break_all(Op::Put, Fault::status(403, "AccessDenied"));
        let inject = format!("inject={failing}:error=EIO");
        let trace = Trace::of(&lab, &["-e", &format!("trace={failing}"), "-e", &inject]);
        let mut file = File::create(lab.path("f")).unwrap();
        file.write_all(b"these bytes").unwrap();
        assert!(close(file).is_err(), "neither the disk nor the store has it");
        drop(trace);
        lab.server().faults().clear();
        let bucket = lab.bucket();
        lab.count();
        assert_eq!(bucket.get("f").unwrap(), "these bytes", "{failing}");
    }
}
