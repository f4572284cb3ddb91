//! pjdfstest: what POSIX asks of a file system, case by case, as root.
//!
//! Every case passes or stands in `pjdfstest.expected` with the reason why it cannot. A case that
//! fails and is not there fails the test, and so does one that is there and does not fail.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use s3pod_testkit::{Mount, ServerOptions, TestServer, tool};

const BUCKET: &str = "pjdfstest";

/// Everything that Linux has; the users are of every Debian. Times in memory are exact, so a nap
/// need not be long.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = REMOUNT

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// What became of the cases, and what was said about those that failed.
#[derive(Debug, Default)]
struct Outcome {
    passed: BTreeSet<String>,
    failed: BTreeMap<String, String>,
}

/// Reads what the runner printed: a line begins with the case and ends with what became of it;
/// lines that are indented belong to the case before.
fn outcome(said: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut last = None;
    for line in said.lines() {
        match line.split_once(char::is_whitespace).map(|(case, rest)| (case, rest.trim())) {
            Some((case, "ok")) => {
                outcome.passed.insert(case.to_owned());
            }
            Some((case, "FAILED" | "skipped")) => {
                outcome.failed.insert(case.to_owned(), String::new());
                last = Some(case.to_owned());
            }
            _ => {
                let reason = last.as_ref().and_then(|case| outcome.failed.get_mut(case));
                if let Some(reason) = reason {
                    reason.push_str(line);
                }
            }
        }
    }
    outcome
}

/// The cases that are known to fail: the indented lines. Every other line says why.
fn expected(text: &str) -> BTreeSet<String> {
    let indented = text.lines().filter(|line| line.starts_with("  "));
    indented.map(|line| line.trim().to_owned()).collect()
}

/// Tries again while the kernel's last RELEASE is under way: a disk has none.
const MOUNT: &str = r#"#!/bin/sh
for try in $(seq 100); do
  said=$(/usr/bin/mount -i "$@" 2>&1) && exit 0
  sleep 0.02
done
echo "$said" >&2
exit 32
"#;

/// A search path on which `mount` asks no helper: where libfuse's is installed, `mount -o remount`
/// would have it start a second daemon.
fn own_mount(folder: &Path) -> OsString {
    let script = folder.join("mount");
    fs::write(&script, MOUNT).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let mut path = folder.as_os_str().to_owned();
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// Runs the cases whose names have `pattern` in them.
fn run(mount: &Mount, pattern: &str, can_remount: bool) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let (config, other) = (folder.path().join("config.toml"), folder.path().join("other"));
    fs::write(&config, CONFIG.replace("REMOUNT", &can_remount.to_string())).unwrap();
    fs::create_dir(&other).unwrap();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "240"]).arg(tool("pjdfstest").unwrap());
    command.arg("-c").arg(&config).arg("-p").arg(mount.path()).arg("-s").arg(&other).arg(pattern);
    command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").env("PATH", own_mount(folder.path()));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Summary"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    outcome(&said)
}

/// Runs everything. What mounts the file system read-only runs apart, since the runner leaves
/// files open for writing behind, and those forbid it.
fn run_all() -> Outcome {
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let endpoint = server.s3_endpoint(BUCKET);
    // Other users take part; nobody else writes to the bucket.
    let arguments = ["--allow-other", "--metadata-ttl", "indefinite"];
    let mount = Mount::start(env!("CARGO_BIN_EXE_s3pod"), &endpoint, &arguments).unwrap();
    let mut all = run(&mount, "::", false);
    let remounting = run(&mount, "::erofs", true);
    all.failed.retain(|case, _| !remounting.passed.contains(case));
    all.passed.extend(remounting.passed);
    assert!(!mount.stderr().contains("panicked"), "{}", mount.stderr());
    assert!(mount.unmount().unwrap().success());
    all
}

#[test]
fn every_case_passes_or_cannot() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/suites/pjdfstest.expected")).unwrap();
    let (outcome, expected) = (run_all(), expected(&text));
    let failed: BTreeSet<String> = outcome.failed.keys().cloned().collect();
    let surprises: Vec<_> =
        outcome.failed.iter().filter(|(case, _)| !expected.contains(*case)).collect();
    assert!(surprises.is_empty(), "{} cases fail: {surprises:#?}", surprises.len());
    let stale: Vec<_> = expected.difference(&failed).collect();
    assert!(stale.is_empty(), "these are expected to fail and do not: {stale:#?}");
    let score = format!("{} of {}", outcome.passed.len(), outcome.passed.len() + failed.len());
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    assert!(readme.contains(&score), "README.md does not say that {score} cases pass");
}

#[test]
fn the_runners_words_are_understood() {
    let said = "chmod::a  ok\nlink::b   FAILED\n\tassertion\n\tleft\nopen::c skipped\n\twhy\n";
    let outcome = outcome(said);
    assert_eq!(outcome.passed, BTreeSet::from(["chmod::a".to_owned()]));
    assert_eq!(outcome.failed["link::b"], "\tassertion\tleft");
    assert_eq!(outcome.failed["open::c"], "\twhy");
    assert_eq!(expected("Why.\n  link::b\n"), BTreeSet::from(["link::b".to_owned()]));
}
