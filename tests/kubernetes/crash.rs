//! What goes wrong: crashes, no memory.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::{Bench, up, wait_until};
use crate::node::Node;
use crate::pod::Pod;

/// How often the sidecar of the application that writes in a loop crashes...
const CRASHES: u32 = 40;
/// ...on a node that restarts containers within a minute, as kubelet can be told to: by its
/// default of five, forty crashes would take more than three hours of its clock.
const RESTARTS_WITHIN: Duration = Duration::from_secs(60);

/// Within this, new opens of the application work after the first crash.
const FIRST_RESTART: Duration = Duration::from_secs(5);

fn answers(pod: &Pod) -> bool {
    pod.exec("app", &["/bin/cat", "/s3/data/a"]).status.success()
}

/// Waits for the new mount after so many crashes, the last of which was at `begin`.
fn await_restart(pod: &Pod, crashes: u32, begin: Instant) {
    wait_until("the new mount answers", || pod.restarts("s3") >= crashes && answers(pod));
    // Kubelet starts it at once, the first time.
    assert!(crashes > 1 || begin.elapsed() < FIRST_RESTART, "{:?}", begin.elapsed());
}

on_both_stores! {
    after_a_crash_the_running_application_sees_the_bucket_again,
    a_sidecar_killed_for_memory_comes_back,
}

fn after_a_crash_the_running_application_sees_the_bucket_again(bench: &Bench) {
    bench.objects().put("a", b"hello");
    let pod = bench.start_idle();
    for crash in 1..=3 {
        assert_eq!(pod.shell("app", "cat /s3/data/a"), "hello");
        pod.shell("app", &format!("echo {crash} > /s3/data/closed-{crash}"));
        let begin = Instant::now();
        pod.crash("s3");
        await_restart(&pod, crash, begin);
    }
    for crash in 1..=3 {
        let name = format!("closed-{crash}");
        assert_eq!(bench.objects().get(&name).unwrap(), format!("{crash}\n").as_bytes());
    }
    pod.delete(None);
    bench.assert_gone();
    assert_eq!(bench.objects().get("a").unwrap(), b"hello");
}

/// Writes and says what it has closed, for ever. A subshell's exit code is that of cp, which ends
/// with the close.
const WRITER: &str = "trap 'exit 0' TERM; echo up; i=0; while true; do i=$((i+1)); \
     if cp /bin/busybox /s3/data/f-$i 2>/dev/null; then echo closed f-$i; fi; done";

/// Every file that the [`WRITER`] has closed is there and whole; the number of them.
fn closed(bench: &Bench, pod: &Pod) -> usize {
    let size = std::fs::metadata("/bin/busybox").unwrap().len();
    let log = pod.log("app");
    let closed: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("closed ")).collect();
    for name in &closed {
        assert_eq!(bench.size_of(name), Some(size), "{name} was closed");
    }
    closed.len()
}

fn await_writes(pod: &Pod) {
    let before = pod.log("app").len();
    wait_until("it writes", || pod.log("app").len() > before + 64);
}

fn writes_across(bench: &Bench, crashes: u32) {
    bench.objects().put("a", b"hello");
    let pod = bench.start(&bench.manifest(WRITER));
    up(&pod);
    for crash in 1..=crashes {
        await_writes(&pod);
        let begin = Instant::now();
        pod.crash("s3");
        await_restart(&pod, crash, begin);
    }
    // Ends at SIGTERM: after the grace a root application that goes on would write beneath.
    pod.delete(None);
    bench.assert_gone();
    assert!(closed(bench, &pod) > crashes as usize, "{}", pod.log("app"));
}

#[test]
fn every_successful_close_of_a_root_application_is_in_the_bucket_whatever_crashes() {
    writes_across(&Bench::on(Node::new().restarting_within(RESTARTS_WITHIN)), CRASHES);
}

#[test]
fn every_successful_close_is_on_seaweedfs_too() {
    writes_across(&Bench::on_seaweedfs(), 4);
}

/// As a liveness probe does, or a new image: the application goes on meanwhile.
#[test]
fn a_sidecar_that_is_ended_alone_lets_nobody_write_beneath_its_mount() {
    let bench = Bench::on(Node::new().restarting_within(RESTARTS_WITHIN));
    bench.objects().put("a", b"hello");
    let pod = bench.start(&bench.manifest(WRITER));
    up(&pod);
    for end in 1..=5 {
        await_writes(&pod);
        let begin = Instant::now();
        pod.signal("s3", "TERM");
        await_restart(&pod, end, begin);
    }
    let left = pod.log("s3").matches("the mount is left to whoever").count();
    assert_eq!(left, 5, "{}", pod.log("s3"));
    pod.delete(None);
    bench.assert_gone();
    assert!(closed(&bench, &pod) > 5, "{}", pod.log("app"));
    assert!(bench.objects().get("a").is_some());
}

fn a_sidecar_killed_for_memory_comes_back(bench: &Bench) {
    bench.objects().put("a", b"hello");
    let pod = bench.start(&bench.manifest(WRITER));
    up(&pod);
    await_writes(&pod);
    let begin = Instant::now();
    // Charged to the sidecar's container, whose limit is 256 MiB: the kernel kills it, and kubelet
    // has the kernel kill everything beside it.
    pod.exec("s3", &["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=512M", "count=1"]);
    await_restart(&pod, 1, begin);
    await_writes(&pod);
    pod.delete(None);
    bench.assert_gone();
    assert!(closed(bench, &pod) > 1, "{}", pod.log("app"));
    assert!(bench.objects().get("a").is_some());
}

#[test]
fn a_load_of_reads_and_writes_fits_into_128_mib() {
    let bench = Bench::new();
    bench.bucket().put_synthetic("in", 256 << 20, 1);
    let mut manifest = bench.manifest(
        "for i in 1 2 3 4; do cat /s3/data/in > /dev/null & done; \
         for i in 1 2 3 4; do dd if=/dev/zero of=/s3/data/out-$i bs=1M count=64 & done; \
         for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/s3/data/s-$i bs=4k count=1; done; wait",
    );
    manifest["spec"]["initContainers"][1]["resources"] = json!({"limits": {"memory": "128Mi"}});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.restarts("s3"), 0, "{}", pod.log("s3"));
    bench.assert_gone();
    for name in ["out-1", "out-2", "out-3", "out-4"] {
        assert_eq!(bench.bucket().object(name).unwrap().size, 64 << 20);
    }
}
