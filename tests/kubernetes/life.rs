//! A pod in good order: from the application's first instruction to the last byte.

use serde_json::json;

use crate::bench::{BUCKET, Bench, up, wait_until};
use crate::pod::Pod;

#[test]
fn a_jobs_application_sees_the_bucket_at_its_first_instruction_and_the_pod_ends() {
    let bench = Bench::new();
    bench.bucket().put("in/a", "hello");
    let pod = bench
        .start(&bench.manifest(
            "cat /s3/data/in/a && mkdir /s3/data/out && cp /s3/data/in/a /s3/data/out/b",
        ));
    assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    assert_eq!(pod.log("app"), "hello");
    bench.assert_gone();
    assert_eq!(bench.bucket().get("out/b").unwrap(), "hello");
    assert_eq!(bench.bucket().get("in/a").unwrap(), "hello", "the delete met no mount");
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

#[test]
fn a_file_that_is_open_when_the_pod_ends_is_in_the_bucket() {
    let bench = Bench::new();
    let pod = bench.start(&bench.manifest(
        "exec 3> /s3/data/log; echo first >&3; \
         trap 'echo last >&3; exit 0' TERM; echo up; while true; do sleep 0.1; done",
    ));
    up(&pod);
    pod.delete(None);
    bench.assert_gone();
    assert_eq!(bench.bucket().get("log").unwrap(), "first\nlast\n", "{}", pod.log("s3"));
}

#[test]
fn the_hint_sends_what_is_open_while_the_application_still_runs() {
    let bench = Bench::new();
    let pod =
        bench.start(&bench.manifest(
            "exec 3> /s3/data/log; echo first >&3; echo up; while true; do sleep 0.1; done",
        ));
    up(&pod);
    let hint = pod.exec("s3", &["/s3pod-sidecar", "drain-hint", "/s3/data"]);
    assert!(hint.status.success() && hint.stderr.is_empty(), "{hint:?}");
    let sent = || bench.bucket().get("log").is_some_and(|bytes| bytes == "first\n");
    wait_until("the open file is in the bucket", sent);
    pod.delete(Some(1));
    bench.assert_gone();
}

#[test]
fn an_application_that_is_restarted_alone_sees_the_bucket_again() {
    let bench = Bench::new();
    let mut manifest = bench.manifest("echo up; sleep 0.3; echo x >> /s3/data/log");
    manifest["spec"]["restartPolicy"] = json!("Always");
    let pod = bench.start(&manifest);
    let lines = || bench.bucket().get("log").map_or(0, |bytes| bytes.len() / 2);
    wait_until("three starts have written", || lines() >= 3);
    pod.delete(None);
    assert_eq!(pod.restarts("s3"), 0);
    bench.assert_gone();
}

#[test]
fn two_pods_write_one_bucket() {
    let bench = Bench::new();
    let line = |name: &str| {
        format!("for i in 1 2 3 4 5; do echo {name} > /s3/data/{name}-$i || exit 1; done")
    };
    let pods: Vec<Pod> = ["one", "two"]
        .map(|name| Pod::start(&bench.node, name, &bench.manifest(&line(name))))
        .into();
    for pod in &pods {
        assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    }
    bench.assert_gone();
    assert_eq!(bench.bucket().keys().len(), 10);
}

#[test]
fn a_cache_in_memory_stays_within_its_limit() {
    let bench = Bench::new();
    let mut manifest = bench.manifest(
        "dd if=/dev/zero of=/s3/data/large bs=1M count=96 && cat /s3/data/large > /dev/null",
    );
    manifest["spec"]["volumes"][1]["emptyDir"] = json!({"medium": "Memory", "sizeLimit": "64Mi"});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.restarts("s3"), 0);
    bench.assert_gone();
    assert_eq!(bench.bucket().object("large").unwrap().size, 96 << 20);
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
