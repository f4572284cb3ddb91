//! A part of a volume in a container: bound once, at the container's start.

use serde_json::json;

use crate::bench::{Bench, IDLE, up, wait_until};

#[test]
fn a_sub_path_of_a_volume_that_is_served_is_made_and_written() {
    let bench = Bench::new();
    bench.bucket().put("in/a", "hello");
    let mut manifest = bench.unprivileged("cat /in/a; echo one > /out/log");
    let mounts = json!([
        {"name": "data", "mountPath": "/in", "subPath": "in", "readOnly": true},
        {"name": "data", "mountPath": "/out", "subPath": "results"},
    ]);
    manifest["spec"]["containers"][0]["volumeMounts"] = mounts;
    // Kubelet makes it, and so it is root's.
    manifest["spec"]["containers"][0]["securityContext"] = json!({});
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    assert_eq!(pod.log("app"), "hello");
    bench.assert_gone();
    assert_eq!(bench.bucket().get("results/log").unwrap(), "one\n");
    assert!(bench.bucket().contains("in/a"), "the teardown met no mount");
}

/// Why the examples have none: what is bound by its descriptor stays what it was.
#[test]
fn a_sub_path_sees_a_mount_that_was_made_anew_only_after_a_restart_of_its_container() {
    let bench = Bench::new();
    bench.bucket().put("in/a", "hello");
    let mut manifest = bench.manifest(IDLE);
    let mounts = json!([{"name": "s3", "mountPath": "/data", "subPath": "data/in",
        "mountPropagation": "HostToContainer"}]);
    manifest["spec"]["containers"][0]["volumeMounts"] = mounts;
    manifest["spec"]["restartPolicy"] = json!("Always");
    let pod = bench.start(&manifest);
    up(&pod);
    let sees = || pod.exec("app", &["/bin/cat", "/data/a"]).status.success();
    assert!(sees());
    pod.crash("s3");
    let health = ["/s3pod", "health", "--mounted", "/s3/data"];
    wait_until("the new mount answers", || {
        pod.restarts("s3") == 1 && pod.exec("s3", &health).status.success()
    });
    assert!(!sees(), "the old mount is dead, and the new one does not arrive");
    pod.crash("app");
    wait_until("the container is back", || pod.restarts("app") == 1 && sees());
    pod.delete(None);
    bench.assert_gone();
    assert!(bench.bucket().contains("in/a"));
}
