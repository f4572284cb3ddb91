//! The end of a pod: whatever grace there is, no mount is left and nothing is deleted.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use s3pod_testkit::Op;
use serde_json::json;

use crate::bench::{Bench, IDLE, OPEN, up, wait_until};
use crate::clock::patience;

const OBJECTS: usize = 25;

/// A bucket with objects, and a pod that is deleted with this grace while it writes: nothing is
/// left of it, and nothing that it had closed is missing.
fn ends_with_everything_in_place(bench: &Bench, line: &str, grace: u64) {
    for number in 0..OBJECTS {
        bench.objects().put(&format!("kept/{number}"), b"x");
    }
    let mut manifest = bench.manifest(line);
    // Nobody: root would go on beneath the mount in the moment between its end and the kill.
    let args = manifest["spec"]["initContainers"][1]["args"].as_array_mut().unwrap();
    args.extend(["--uid", "65534", "--gid", "65534"].map(|word| json!(word)));
    manifest["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 65534});
    let pod = bench.start(&manifest);
    wait_until("it writes", || pod.log("app").contains("closed"));
    pod.delete(Some(grace));
    bench.assert_gone();
    assert_kept(bench);
    for name in pod.log("app").lines().filter_map(|line| line.strip_prefix("closed ")) {
        assert_eq!(bench.objects().get(name).as_deref(), Some(&b"x"[..]), "{name} was closed");
    }
}

fn assert_kept(bench: &Bench) {
    let kept = bench.objects().keys("kept/").len();
    assert_eq!(kept, OBJECTS, "the delete of the pod's folder went through a mount");
}

/// Does nothing, and goes on with it.
const DEAF: &str = "trap '' TERM; echo up; while true; do sleep 0.1; done";

/// It says what it has closed: cp ends well only where its close does.
const STUBBORN: &str = "trap '' TERM; i=0; while true; do i=$((i+1)); \
     if cp /s3/data/kept/1 /s3/data/w-$i 2> /dev/null; then echo closed w-$i; fi; done";

on_both_stores! {
    with_grace_30,
    with_grace_1,
    with_grace_0,
    an_application_that_ignores_sigterm_for_the_whole_grace,
}

fn with_grace_30(bench: &Bench) {
    ends_with_everything_in_place(bench, &STUBBORN.replace("trap ''", "trap 'exit 0'"), 30);
}

fn with_grace_1(bench: &Bench) {
    ends_with_everything_in_place(bench, STUBBORN, 1);
}

fn with_grace_0(bench: &Bench) {
    ends_with_everything_in_place(bench, STUBBORN, 0);
}

fn an_application_that_ignores_sigterm_for_the_whole_grace(bench: &Bench) {
    ends_with_everything_in_place(bench, STUBBORN, 4);
}

#[test]
fn a_hook_that_hangs_takes_the_grace_and_no_more() {
    let bench = Bench::new();
    bench.bucket().put("kept/1", "x");
    let mut manifest = bench.manifest(IDLE);
    let hook = json!({"preStop": {"exec": {"command": ["/bin/sleep", "600"]}}});
    manifest["spec"]["containers"][0]["lifecycle"] = hook;
    let pod = bench.start(&manifest);
    up(&pod);
    pod.delete(Some(2));
    bench.assert_gone();
    assert!(bench.bucket().contains("kept/1"));
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
    let pod = bench.start(&bench.manifest(OPEN));
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
    let pod = bench.start(&bench.manifest(DEAF));
    up(&pod);
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
    // At once, and not when it is time for force.
    let log = pod.log("janitor");
    assert!(log.contains("its server has gone; unmounted"), "{log}");
    assert!(!log.contains("by force"), "{log}");
}

/// Kubelet ends whatever runs at that moment, and starts it no more.
#[test]
fn a_server_that_just_starts_anew_is_ended_before_it_mounts_or_with_its_mount() {
    for grace in [0, 1] {
        let bench = Bench::new();
        bench.bucket().put("kept/1", "x");
        let pod = bench.start(&bench.manifest(DEAF));
        up(&pod);
        pod.crash("s3");
        wait_until("it is started anew", || pod.restarts("s3") == 1);
        pod.delete(Some(grace));
        bench.assert_gone();
        assert!(bench.bucket().contains("kept/1"));
    }
}

/// Process 1 has no default actions: what it does not wait for is lost.
#[test]
fn a_signal_that_comes_before_the_server_listens_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let server = Path::new(env!("CARGO_BIN_EXE_s3pod"));
    let sidecar = folder.path().join("s3pod-sidecar");
    fs::copy(server.with_file_name("s3pod-sidecar"), &sidecar).unwrap();
    // The sidecar becomes what stands beside it: here, something that takes its time.
    let slow = format!(
        "#!/bin/busybox sh\n: > begun\nuntil [ -e go ]; do sleep 0.02; done\nexec {} \"$@\"\n",
        server.display()
    );
    fs::write(folder.path().join("s3pod"), slow).unwrap();
    fs::set_permissions(folder.path().join("s3pod"), Permissions::from_mode(0o755)).unwrap();
    // A store that never answers.
    let store = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", store.local_addr().unwrap());
    let mut command = Command::new(&sidecar);
    command.args(["serve", "--endpoint-url", &endpoint, "--region", "x", "--cache-dir", "cache"]);
    command.args(["photos", "socket"]).current_dir(folder.path());
    command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    let running = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it has become the slow one", || folder.path().join("begun").exists());
    kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGTERM).unwrap();
    fs::write(folder.path().join("go"), "").unwrap();
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("SIGTERM before the mount"), "{said}");
}

/// The runner would notice: without a janitor a crash at the end leaves what kubelet fails at.
#[test]
fn without_a_janitor_a_crash_hangs_the_pod_in_terminating() {
    let bench = Bench::new();
    let mut manifest = bench.manifest(DEAF);
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
