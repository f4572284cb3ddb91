//! A pod in good order: from the application's first instruction to the last byte.

use s3pod_testkit::Op;
use serde_json::json;

use crate::bench::{BUCKET, Bench, OPEN, up, wait_until};
use crate::clock::patience;
use crate::pod::Pod;

on_both_stores! {
    a_jobs_application_sees_the_bucket_at_its_first_instruction_and_the_pod_ends,
    a_file_that_is_open_when_the_pod_ends_is_in_the_bucket,
    an_application_that_is_restarted_alone_sees_the_bucket_again,
    two_pods_write_one_bucket,
    a_cache_in_memory_stays_within_its_limit,
}

fn a_jobs_application_sees_the_bucket_at_its_first_instruction_and_the_pod_ends(bench: &Bench) {
    bench.objects().put("in/a", b"hello");
    let pod = bench.start(&bench.manifest(
        "cat /s3/data/in/a && mkdir /s3/data/out && cp /s3/data/in/a /s3/data/out/b && \
             dd if=/dev/zero of=/s3/data/out/large bs=1M count=24 2> /dev/null",
    ));
    assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    assert_eq!(pod.log("app"), "hello");
    bench.assert_gone();
    let objects = bench.objects();
    assert_eq!(objects.get("out/b").unwrap(), b"hello");
    assert_eq!(objects.get("out/large").unwrap(), vec![0; 24 << 20]);
    assert_eq!(objects.get("in/a").unwrap(), b"hello", "the delete met no mount");
}

#[test]
fn an_init_container_behind_the_sidecar_sees_the_bucket() {
    let bench = Bench::new();
    let mut manifest = bench.manifest("cat /s3/data/prepared");
    let init = json!({"name": "init", "image": "busybox",
        "command": ["/bin/sh", "-c", "echo ready > /s3/data/prepared"],
        "volumeMounts": [{"name": "s3", "mountPath": "/s3",
            "mountPropagation": "HostToContainer"}]});
    manifest["spec"]["initContainers"].as_array_mut().unwrap().push(init);
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    assert_eq!(pod.log("app"), "ready\n");
    bench.assert_gone();
}

fn a_file_that_is_open_when_the_pod_ends_is_in_the_bucket(bench: &Bench) {
    let pod = bench.start(&bench.manifest(
        "exec 3> /s3/data/log; echo first >&3; \
         trap 'echo last >&3; exit 0' TERM; echo up; while true; do sleep 0.1; done",
    ));
    up(&pod);
    pod.delete(None);
    bench.assert_gone();
    assert_eq!(bench.objects().get("log").unwrap(), b"first\nlast\n", "{}", pod.log("s3"));
}

/// Most of a pod's grace is its application's; what is left is enough.
#[test]
fn what_an_application_writes_until_five_seconds_before_the_end_is_in_the_bucket() {
    let bench = Bench::new();
    bench.bucket().put_synthetic("in", 64 << 20, 1);
    // Its child has the file open too, and is killed with it.
    let pod = bench.start(&bench.manifest(
        "exec 3> /s3/data/log; sleep 600 >&3 & \
         trap 'sleep 1; cat /s3/data/in >&3; echo last >&3; exit 0' TERM; \
         echo up; while true; do sleep 0.1; done",
    ));
    up(&pod);
    pod.delete(Some(6));
    bench.assert_gone();
    let log = bench.bucket().get("log").unwrap();
    let (first, last) = log.split_at(64 << 20);
    assert!(bench.bucket().get("in").unwrap() == first, "{}", pod.log("s3"));
    assert_eq!(last, b"last\n");
}

#[test]
fn the_hint_sends_what_is_open_while_the_application_still_runs() {
    let bench = Bench::new();
    let hold = bench.server().faults().hold(Op::Put, "log");
    let pod = bench.start(&bench.manifest(OPEN));
    up(&pod);
    assert_eq!(hold.arrived(), 0);
    let hint = pod.exec("s3", &["/s3pod-sidecar", "drain-hint", "/s3/data"]);
    assert!(hint.status.success() && hint.stderr.is_empty(), "{hint:?}");
    // It has ended, and what it began has not.
    assert!(hold.wait_for_blocking(1, patience()), "{}", pod.log("s3"));
    assert!(!bench.bucket().contains("log"));
    hold.release();
    let sent = || bench.bucket().get("log").is_some_and(|bytes| bytes == "first\n");
    wait_until("the open file is in the bucket", sent);
    pod.delete(Some(1));
    bench.assert_gone();
}

fn an_application_that_is_restarted_alone_sees_the_bucket_again(bench: &Bench) {
    let mut manifest = bench.manifest("echo up; sleep 0.3; echo x >> /s3/data/log");
    manifest["spec"]["restartPolicy"] = json!("Always");
    let pod = bench.start(&manifest);
    let lines = || bench.objects().get("log").map_or(0, |bytes| bytes.len() / 2);
    wait_until("three starts have written", || lines() >= 3);
    pod.delete(None);
    assert_eq!(pod.restarts("s3"), 0);
    bench.assert_gone();
}

fn two_pods_write_one_bucket(bench: &Bench) {
    // Both at once, each its own files and one of both.
    let line = |own: &str, other: &str| {
        format!(
            "echo > /s3/data/up-{own}; until [ -e /s3/data/up-{other} ]; do sleep 0.1; done; \
             for i in 1 2 3 4 5 6 7 8 9; do \
             echo {own} > /s3/data/{own}-$i && echo {own} > /s3/data/common || exit 1; done"
        )
    };
    let pods: Vec<Pod> = [("one", "two"), ("two", "one")]
        .map(|(own, other)| Pod::start(&bench.node, own, &bench.manifest(&line(own, other))))
        .into();
    for pod in &pods {
        assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    }
    bench.assert_gone();
    let objects = bench.objects();
    assert_eq!(objects.keys("").len(), 2 * (1 + 9) + 1, "{:?}", objects.keys(""));
    assert_eq!(objects.get("one-9").unwrap(), b"one\n");
    assert_eq!(objects.get("two-9").unwrap(), b"two\n");
    let common = objects.get("common").unwrap();
    assert!(common == b"one\n" || common == b"two\n", "{common:?}");
}

fn a_cache_in_memory_stays_within_its_limit(bench: &Bench) {
    let mut manifest = bench.manifest(
        "dd if=/dev/zero of=/s3/data/large bs=1M count=96 && cat /s3/data/large > /dev/null",
    );
    manifest["spec"]["volumes"][1]["emptyDir"] = json!({"medium": "Memory", "sizeLimit": "64Mi"});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.restarts("s3"), 0);
    bench.assert_gone();
    assert_eq!(bench.size_of("large"), Some(96 << 20));
}

/// Its pages are the container's, whose limit is 256 MiB, whatever the volume may hold.
#[test]
fn a_cache_in_memory_stays_within_the_memory_of_its_container() {
    let bench = Bench::new();
    bench.bucket().put_synthetic("in", 300 << 20, 1);
    let mut manifest = bench.manifest(
        "cat /s3/data/in > /dev/null & dd if=/dev/zero of=/s3/data/large bs=1M count=300 & \
         wait; cat /s3/data/large > /dev/null && cat /s3/data/in > /dev/null",
    );
    manifest["spec"]["volumes"][1]["emptyDir"] = json!({"medium": "Memory", "sizeLimit": "1Gi"});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.restarts("s3"), 0, "{}", pod.log("s3"));
    bench.assert_gone();
    assert_eq!(bench.bucket().object("large").unwrap().size, 300 << 20);
}

/// The least that is not refused.
#[test]
fn a_server_of_80_mib_reads_and_writes() {
    let bench = Bench::new();
    bench.bucket().put_synthetic("in", 96 << 20, 1);
    let mut manifest = bench.manifest(
        "cat /s3/data/in > /dev/null & cp /s3/data/in /s3/data/out & \
         dd if=/dev/zero of=/s3/data/large bs=1M count=96 & wait; cat /s3/data/large > /dev/null",
    );
    manifest["spec"]["initContainers"][1]["resources"] = json!({"limits": {"memory": "80Mi"}});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.restarts("s3"), 0, "{}", pod.log("s3"));
    bench.assert_gone();
    assert_eq!(bench.bucket().get("out"), bench.bucket().get("in"));
    assert_eq!(bench.bucket().object("large").unwrap().size, 96 << 20);
}

/// Kubelet sums up what every emptyDir takes, and so looks at what is mounted in it.
#[test]
fn kubelets_look_at_the_volumes_ends_at_the_mounts_root() {
    let bench = Bench::new();
    bench.bucket().put("deep/a", "hello");
    let pod = bench.start_idle();
    let lists = || bench.server().log().count(Op::List);
    let (before, seen) = (lists(), pod.roots_seen());
    wait_until("it has looked again and again", || pod.roots_seen() > seen + 3);
    assert_eq!(lists(), before, "it does not go down into the bucket");
    pod.delete(None);
    bench.assert_gone();
}

#[test]
fn any_user_writes_where_nobody_said_who_may() {
    let bench = Bench::new();
    bench.bucket().put("there/a", "hello");
    let mut manifest = bench.manifest(
        "id -u && mkdir /s3/data/own && echo x > /s3/data/own/new && \
         echo x >> /s3/data/there/a && mv /s3/data/there/a /s3/data/b",
    );
    manifest["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    assert_eq!(pod.log("app"), "1000\n");
    bench.assert_gone();
    assert_eq!(bench.bucket().get("own/new").unwrap(), "x\n");
    assert_eq!(bench.bucket().get("b").unwrap(), "hellox\n");
}

#[test]
fn an_owner_that_was_named_is_the_only_one_who_writes() {
    let bench = Bench::new();
    let mut manifest = bench.manifest("echo x > /s3/data/new");
    let args = manifest["spec"]["initContainers"][1]["args"].as_array_mut().unwrap();
    args.extend(["--uid", "1001"].map(|word| json!(word)));
    manifest["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [1], "{}", pod.log("app"));
    assert!(pod.log("app").contains("Permission denied"), "{}", pod.log("app"));
    bench.assert_gone();
    assert!(!bench.bucket().contains("new"));
}

#[test]
fn a_second_sidecar_on_the_same_directory_is_refused() {
    let bench = Bench::new();
    let pod = bench.start_idle();
    let second = pod.exec("s3", &["/s3pod-sidecar", "run", BUCKET, "/s3/data"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("mounted there already"), "{said}");
    let health = pod.exec("s3", &["/s3pod", "health", "--backend", "--mounted", "/s3/data"]);
    assert!(health.status.success(), "{health:?}");
    pod.delete(None);
    bench.assert_gone();
}
