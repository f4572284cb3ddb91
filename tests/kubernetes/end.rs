//! The end of a pod: whatever grace there is, no mount is left and nothing is deleted.

use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use s3pod_testkit::Op;

use crate::bench::{Bench, up, wait_until};
use crate::clock::patience;

const OBJECTS: usize = 25;

/// A bucket with objects, and a pod that is deleted with this grace while it writes.
fn ends_with_everything_in_place(line: &str, grace: u64) -> Bench {
    let bench = Bench::new();
    for number in 0..OBJECTS {
        bench.bucket().put(&format!("kept/{number}"), "x");
    }
    let pod = bench.start(&bench.manifest(line));
    up(&pod);
    pod.delete(Some(grace));
    bench.assert_gone();
    assert_kept(&bench);
    bench
}

fn assert_kept(bench: &Bench) {
    let keys = bench.bucket().keys();
    let kept = keys.iter().filter(|key| key.starts_with("kept/")).count();
    assert_eq!(kept, OBJECTS, "the delete of the pod's folder went through a mount");
}

const STUBBORN: &str = "trap '' TERM; echo up; \
     i=0; while true; do i=$((i+1)); echo x > /s3/data/w-$i; done";

#[test]
fn with_grace_30() {
    let line = "trap 'exit 0' TERM; echo up; while true; do echo x > /s3/data/w; done";
    ends_with_everything_in_place(line, 30);
}

#[test]
fn with_grace_1() {
    ends_with_everything_in_place(STUBBORN, 1);
}

#[test]
fn with_grace_0() {
    ends_with_everything_in_place(STUBBORN, 0);
}

#[test]
fn an_application_that_ignores_sigterm_for_the_whole_grace() {
    ends_with_everything_in_place(STUBBORN, 4);
}

#[test]
fn a_server_that_hangs_does_not_hold_up_the_end() {
    let bench = Bench::new();
    for number in 0..OBJECTS {
        bench.bucket().put(&format!("kept/{number}"), "x");
    }
    let pod = bench
        .start(&bench.manifest("echo up; while true; do cat /s3/data/kept/1 > /dev/null; done"));
    up(&pod);
    pod.signal("s3", "STOP");
    let health = pod.exec("janitor", &["/s3pod", "health", "--mounted", "/s3/data"]);
    assert!(!health.status.success(), "the probe ends, and says no");
    pod.delete(Some(1));
    bench.assert_gone();
    assert_kept(&bench);
}

/// What the janitor does to a server that is not done in time.
#[test]
fn a_server_whose_mount_was_taken_by_force_goes_on_sending() {
    let bench = Bench::new();
    let hold = bench.server().faults().hold(Op::Put, "log");
    // Nobody closes it, not even a copy of its descriptor.
    let line = "(echo first; sleep 600) | dd of=/s3/data/log bs=6 2> /dev/null & \
                until [ -s /s3/data/log ]; do sleep 0.1; done; \
                echo up; while true; do sleep 0.1; done";
    let pod = bench.start(&bench.manifest(line));
    up(&pod);
    assert_eq!(hold.arrived(), 0);
    pod.signal("janitor", "TERM");
    assert!(hold.wait_for_blocking(1, patience()), "{}", pod.log("s3"));
    wait_until("the janitor says so", || pod.log("janitor").contains("unmounted"));
    assert!(!bench.bucket().contains("log"));
    hold.release();
    let is_sent = || bench.bucket().get("log").is_some_and(|bytes| bytes == "first\n");
    wait_until("the file is in the bucket", is_sent);
    pod.delete(Some(1));
    bench.assert_gone();
}

#[test]
fn a_server_that_crashed_last_leaves_no_mount() {
    let bench = Bench::new();
    bench.bucket().put("kept/1", "x");
    let pod = bench.start_idle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ended already: kubelet does not start it again.
            std::thread::sleep(Duration::from_millis(300));
            pod.crash("s3");
        });
        pod.delete(Some(2));
    });
    bench.assert_gone();
    assert!(bench.bucket().contains("kept/1"));
}

/// The runner would notice: without a janitor a crash at the end leaves what kubelet fails at.
#[test]
fn without_a_janitor_a_crash_hangs_the_pod_in_terminating() {
    let bench = Bench::new();
    let line = "trap '' TERM; echo up; while true; do sleep 0.1; done";
    let mut manifest = bench.manifest(line);
    manifest["spec"]["initContainers"].as_array_mut().unwrap().remove(0);
    let pod = bench.start(&manifest);
    up(&pod);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            pod.crash("s3");
        });
        pod.terminate(Duration::from_secs(2));
    });
    let failure = pod.remove().unwrap_err();
    assert_eq!(failure.raw_os_error(), Some(nix::errno::Errno::ENOTCONN as i32), "{failure}");
    let point = pod.volume("s3").join("data");
    umount2(&point, MntFlags::MNT_DETACH).unwrap();
    pod.tear_down();
    bench.assert_gone();
}
