//! Probes: what they say, and whom they are charged to.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use s3pod_testkit::Fault;
use serde_json::json;

use crate::bench::{Bench, IDLE, up, wait_until};

#[test]
fn readiness_follows_the_mount_and_the_store_only_where_it_is_asked_to() {
    let bench = Bench::new();
    bench.bucket().put("a", "hello");
    let mut manifest = bench.manifest(IDLE);
    let probe = |command: &[&str]| {
        json!({"exec": {"command": command}, "periodSeconds": 10, "timeoutSeconds": 5,
            "failureThreshold": 1})
    };
    let containers = &mut manifest["spec"]["initContainers"];
    let with_backend = ["/s3pod", "health", "--backend", "--mounted", "/s3/data"];
    containers[1]["readinessProbe"] = probe(&with_backend);
    // Anybody who sees the mount may ask; in a cluster that is the server's own container.
    containers[0]["readinessProbe"] = probe(&["/s3pod", "health", "--mounted", "/s3/data"]);
    let pod = bench.start(&manifest);
    up(&pod);
    let both_are = |wanted: bool| pod.is_ready("s3") == wanted && pod.is_ready("janitor") == wanted;
    wait_until("both are ready", || both_are(true));

    let outage = bench.server().faults().add(Fault::InternalError.on_any().always());
    wait_until("the one that asks the store is not", || !pod.is_ready("s3"));
    assert!(pod.is_ready("janitor"), "the mount lives");
    outage.remove();
    wait_until("both are ready again", || both_are(true));
    assert_eq!(pod.restarts("s3"), 0, "an outage of the store restarts nothing");

    pod.signal("s3", "STOP");
    wait_until("a server that hangs is not ready", || !pod.is_ready("janitor"));
    pod.signal("s3", "CONT");
    wait_until("and is when it goes on", || both_are(true));
    pod.crash("s3");
    wait_until("it is back", || pod.restarts("s3") == 1 && both_are(true));
    pod.delete(None);
    bench.assert_gone();
}

#[test]
fn a_probe_is_charged_to_its_container() {
    let bench = Bench::new();
    let pod = bench.start_idle();
    let own = pod.exec("s3", &["/bin/cat", "/proc/self/cgroup"]);
    let groups = String::from_utf8(own.stdout).unwrap();
    let of_memory = groups.lines().find(|line| line.contains(":memory:") || line.contains("0::"));
    assert!(of_memory.unwrap().ends_with("-pod-s3"), "{groups}");
    pod.delete(None);
    bench.assert_gone();
}

/// The image's own program has less, which `make image` measures: this one brings libraries.
#[test]
fn a_probe_takes_next_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("mount.admin")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod"));
    command.args(["health", "--served"]).arg(folder.path().join("mount")).stderr(Stdio::null());
    let mut probe = command.spawn().unwrap();
    // It has done everything but read the answer, which never comes.
    let _silent = listener.accept().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", probe.id())).unwrap();
    assert!(!probe.wait().unwrap().success(), "nobody answered");
    assert!(kibibytes(&status, "RssAnon:") < 1536, "{status}");
    assert!(kibibytes(&status, "VmHWM:") < 7168, "{status}");
}

/// Its limit is 32 MiB in the examples.
#[test]
fn a_janitor_takes_a_fraction_of_its_limit() {
    let bench = Bench::new();
    let pod = bench.start_idle();
    let status = pod.exec("janitor", &["/bin/cat", "/proc/1/status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(kibibytes(&status, "VmHWM:") < JANITOR_MAX, "{status}");
    pod.delete(None);
    bench.assert_gone();
}

/// Kibibytes at most, libraries and what the loader writes of a program for tests included.
const JANITOR_MAX: u64 = 16 << 10;

fn kibibytes(status: &str, field: &str) -> u64 {
    let found = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    found.split_whitespace().next().unwrap().parse().unwrap()
}
