//! Pods on published volumes, as their containers see them: nobody there has a privilege.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::containers::{Running, bind, is_stuck, nobody};
use crate::kubelet::Kubelet;
use crate::node::Node;
use crate::stand::until;

/// Reads and writes as fast as it can, whatever comes of it.
const LOAD: &str = "trap 'exit 0' TERM; while true; do cat /data/large; sleep 0.02; \
                    dd if=/dev/zero of=/data/of-$NAME bs=64k count=16; done > /dev/null 2>&1";

/// After so long nobody may be stuck in a mount whose server has gone.
const UNSTUCK_WITHIN: Duration = Duration::from_secs(5);

const POD: &str = "pod-1";

fn app(name: &str) -> Value {
    json!({"name": name, "image": "busybox", "command": ["/bin/sh", "-c", LOAD],
        "env": [{"name": "NAME", "value": name}], "securityContext": nobody()})
}

/// What kubelet makes of a subPath: a bind of the folder, which the container gets.
fn sub_path(kubelet: &Kubelet, target: &Path) -> PathBuf {
    let place = kubelet.folder().join("pods").join(POD).join("volume-subpaths/pv/app/0");
    fs::create_dir_all(&place).unwrap();
    let none: Option<&str> = None;
    mount(Some(&target.join("sub")), &place, none, MsFlags::MS_BIND, none).unwrap();
    place
}

fn is_dead(said: &str) -> bool {
    said.contains("not connected") || said.contains("abort")
}

/// Kills the volume's server, and waits until nobody who was at it then is stuck.
fn crash(kubelet: &Kubelet, containers: [&Running; 3]) {
    let before: Vec<u32> = containers.iter().flat_map(|one| one.processes()).collect();
    assert!(before.len() >= 3, "{before:?}");
    let server = kubelet.stand.pid_of(&kubelet.stand.keys()[0]);
    kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
    let begin = Instant::now();
    loop {
        let stuck: Vec<u32> = before.iter().copied().filter(|pid| is_stuck(*pid)).collect();
        if stuck.is_empty() {
            return;
        }
        assert!(begin.elapsed() < UNSTUCK_WITHIN, "{stuck:?} are stuck");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn containers_live_through_a_crash_under_load_as_their_propagation_lets_them() {
    let kubelet = Kubelet::new();
    let bucket = kubelet.stand.bucket();
    for folder in ["", "sub/"] {
        bucket.put(&format!("{folder}a"), format!("hello from /{folder}"));
        bucket.put_synthetic(&format!("{folder}large"), 16 << 20, 3);
    }
    let target = kubelet.published("v", POD);
    let sub = sub_path(&kubelet, &target);
    let node = Arc::new(Node::here());
    let start = |name: &str, source: &Path, propagation: Option<&str>| {
        let binds = vec![bind(source, "/data", propagation)];
        Running::start(&node, POD, app(name), binds).up()
    };
    let mut follows = start("follows", &target, Some("HostToContainer"));
    let mut alone = start("alone", &target, None);
    let mut below = start("below", &sub, None);
    let status = follows.read("/proc/1/status");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    let reads = |one: &Running, folder: &str| {
        assert_eq!(one.read("/data/a"), format!("hello from /{folder}"));
    };
    reads(&follows, "");
    reads(&alone, "");
    reads(&below, "sub/");
    until("they write", || {
        ["of-follows", "of-alone", "sub/of-below"].map(|key| bucket.contains(key)) == [true; 3]
    });

    crash(&kubelet, [&follows, &alone, &below]);
    until("it is served again where it propagates", || follows.read("/data/a").contains("hello"));
    for one in [&alone, &below] {
        let said = one.read("/data/a");
        assert!(is_dead(&said), "{said}");
    }
    // Whoever ran through it can be killed, and sees the mount of now when he is there again.
    for one in [&mut follows, &mut alone, &mut below] {
        one.restart();
    }
    reads(&follows, "");
    reads(&alone, "");
    reads(&below, "sub/");

    // A pod that is deleted by force: its containers still work when kubelet tears down.
    while umount2(&sub, MntFlags::MNT_DETACH).is_ok() {}
    kubelet.unpublish("v", &target).unwrap();
    assert!(fs::symlink_metadata(&target).is_err());
    for one in [&mut follows, &mut alone, &mut below] {
        one.kill();
    }
    kubelet.assert_gone();
}
