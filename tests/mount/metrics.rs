//! What `/metrics` says of a mount, beside what its server has seen.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;

use nix::errno::Errno;
use s3pod_testkit::Op;

use crate::bench::{close, errno, eventually, pattern, read, write};
use crate::lab::{Lab, PATIENCE};

const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const MIB: usize = 1 << 20;

#[test]
fn requests_and_bytes_are_those_that_the_server_has_seen() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", pattern(3 * MIB))));
    let before = lab.metric("s3pod_store_requests_total", &[]);
    let received = lab.metric("s3pod_store_received_bytes_total", &[]);
    read(&lab.path("f"));
    write(&lab.path("g"), &pattern(MIB));
    write(&lab.path("h"), &pattern(20 * MIB));
    fs::rename(lab.path("g"), lab.path("i")).unwrap();
    let asked = lab.metric("s3pod_store_requests_total", &[]) - before;
    assert_eq!(asked, lab.log().total() as u64, "{:?}", lab.log().counts());
    for (operation, op) in
        [("PutObject", Op::Put), ("CopyObject", Op::Copy), ("UploadPart", Op::UploadPart)]
    {
        let label = format!("operation=\"{operation}\"");
        let counted = lab.metric("s3pod_store_requests_total", &[&label, "outcome=\"ok\""]);
        assert_eq!(counted, lab.log().count(op) as u64, "{operation}");
    }
    let received = lab.metric("s3pod_store_received_bytes_total", &[]) - received;
    assert_eq!(received, 3 * MIB as u64);
    assert_eq!(lab.metric("s3pod_store_sent_bytes_total", &[]), 21 * MIB as u64);
}

#[test]
fn requests_of_the_kernel_are_counted_by_verb_and_errno() {
    let lab = Lab::empty(&LONG);
    let missing = ["op=\"lookup\"", "errno=\"ENOENT\""];
    let before = lab.metric("s3pod_fuse_requests_total", &missing);
    assert_eq!(errno(File::open(lab.path("f"))), Errno::ENOENT);
    assert_eq!(lab.metric("s3pod_fuse_requests_total", &missing), before + 1);
    write(&lab.path("f"), b"bytes");
    let flushed = ["op=\"flush\""];
    assert_eq!(lab.metric("s3pod_fuse_requests_total", &flushed), 1);
    // What was timed is folded into buckets: as many as there were requests.
    assert_eq!(lab.metric("s3pod_fuse_request_seconds_count", &flushed), 1);
    let slowest = ["op=\"flush\"", "le=\"+Inf\""];
    assert_eq!(lab.metric("s3pod_fuse_request_seconds_bucket", &slowest), 1);
}

#[test]
fn what_is_not_in_s3_yet_is_told() {
    let lab = Lab::empty(&["--write-back", "--write-back-ephemeral"]);
    let unsent = || {
        let bytes = lab.metric("s3pod_staged_bytes", &[]);
        (bytes, lab.metric("s3pod_unsent_files", &[]))
    };
    assert_eq!(unsent(), (0, 0));
    let hold = lab.server().faults().hold(Op::Put, "f");
    write(&lab.path("f"), &pattern(3 * MIB));
    assert_eq!(unsent(), (3 * MIB as u64, 1));
    hold.release();
    eventually("it is in S3", || unsent() == (0, 0));
}

#[test]
fn bytes_that_wait_for_recovery_are_counted() {
    let lab = Lab::new(&LONG, |bucket| drop(bucket.put("f", "0123456789")));
    read(&lab.path("f"));
    let file = File::options().write(true).open(lab.path("f")).unwrap();
    file.write_all_at(b"mine", 3).unwrap();
    let hold = lab.server().faults().hold(Op::Put, "f");
    thread::scope(|scope| {
        let closing = scope.spawn(move || close(file));
        assert!(hold.wait_for_blocking(1, PATIENCE));
        lab.bucket().put("f", "theirs");
        hold.release();
        assert_eq!(closing.join().unwrap(), Err(Errno::ESTALE));
    });
    assert_eq!(lab.metric("s3pod_kept_for_recovery_total", &[]), 1);
}
