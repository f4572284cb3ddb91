//! fsx: random operations on one file, each compared with what memory says it must be.
//!
//! A seed says which operations, so a failure can be run again: `fsx -S SEED -N N -f fsx.toml`.

use std::fs;
use std::path::Path;
use std::process::Command;

use s3pod_testkit::{Mount, Op, S3Endpoint, SeaweedFs, ServerOptions, TestServer, tool};

use crate::is_soak;

const BUCKET: &str = "fsx";
/// A file of one part, and one of several.
const SMALL: &str = "fsx.toml";
const LARGE: &str = "fsx_large.toml";

/// Seeds in one test and operations of each: 5 tests make 5 × 5 000, in a soak 50 × 100 000.
fn size() -> (u64, u64) {
    if is_soak() { (10, 100_000) } else { (1, 5_000) }
}

/// Runs fsx with one seed on a fresh mount; a hang ends after an hour.
fn exercise(endpoint: &S3Endpoint, seed: u64, operations: u64, config: &str) {
    let mount = Mount::start(env!("CARGO_BIN_EXE_s3pod"), endpoint, &[]).unwrap();
    let artifacts = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suites").join(config);
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "3600"]).arg(tool("fsx").unwrap());
    command.args(["-S", &seed.to_string(), "-N", &operations.to_string(), "-f"]).arg(config);
    command.arg("-P").arg(artifacts.path()).arg(mount.path().join("file"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {}\n{said}\n{}", output.status, mount.stderr());
    assert!(!mount.stderr().contains("ERROR"), "seed {seed}: {}", mount.stderr());
    fs::remove_file(mount.path().join("file")).unwrap();
    assert!(mount.unmount().unwrap().success(), "seed {seed}");
}

fn exercise_ours(group: u64) {
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let (seeds, operations) = size();
    for seed in group * seeds..(group + 1) * seeds {
        exercise(&server.s3_endpoint(BUCKET), seed + 1, operations, SMALL);
        assert_eq!(server.bucket(BUCKET).keys(), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn fsx_finds_nothing_one() {
    exercise_ours(0);
}

#[test]
fn fsx_finds_nothing_two() {
    exercise_ours(1);
}

#[test]
fn fsx_finds_nothing_three() {
    exercise_ours(2);
}

#[test]
fn fsx_finds_nothing_four() {
    exercise_ours(3);
}

#[test]
fn fsx_finds_nothing_five() {
    exercise_ours(4);
}

#[test]
fn fsx_finds_nothing_in_a_file_of_many_parts() {
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let operations = if is_soak() { 20_000 } else { 600 };
    exercise(&server.s3_endpoint(BUCKET), 7, operations, LARGE);
    assert_eq!(server.bucket(BUCKET).keys(), Vec::<String>::new());
    assert_eq!(server.bucket(BUCKET).uploads(), []);
    // What is small enough for one PUT would show nothing of all this.
    for op in [Op::UploadPart, Op::CopyPart, Op::CompleteUpload] {
        assert!(server.log().count(op) > 10, "{:?}", server.log().counts());
    }
}

#[test]
fn fsx_finds_nothing_on_seaweedfs() {
    let server = SeaweedFs::spawn().unwrap();
    exercise(&server.s3_endpoint(BUCKET).unwrap(), 6, size().1.min(20_000), SMALL);
}
