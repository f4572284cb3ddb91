//! Pods that cannot work: one line in the log names the line of the spec that is missing.

use serde_json::{Value, json};

use crate::bench::Bench;

/// What the server of this pod says; it ends with `code`.
fn said(bench: &Bench, manifest: &mut Value, code: i32) -> String {
    // Not awaited, as it never starts.
    let server = manifest["spec"]["initContainers"].as_array_mut().unwrap().remove(1);
    manifest["spec"]["containers"] = json!([server]);
    let pod = bench.start(manifest);
    assert_eq!(pod.complete(), [code], "{}", pod.log("s3"));
    bench.assert_gone();
    let log = pod.log("s3");
    std::fs::remove_dir_all(bench.node.path().join("logs")).unwrap();
    log
}

/// The same, where `place` (a JSON pointer below the server) has another value.
fn said_with(place: &str, value: &Value, code: i32) -> String {
    let bench = Bench::new();
    let mut manifest = bench.manifest("true");
    let server = &mut manifest["spec"]["initContainers"][1];
    *server.pointer_mut(place).unwrap() = value.clone();
    said(&bench, &mut manifest, code)
}

const CONFIGURATION: i32 = 78;

#[test]
fn a_directory_that_is_no_volume_or_not_shared() {
    let mount = json!([{"name": "s3", "mountPath": "/s3"}]);
    let text = said_with("/volumeMounts", &mount, CONFIGURATION);
    assert!(text.contains("/s3 the line mountPropagation: Bidirectional"), "{text}");
    let text = said_with("/volumeMounts", &json!([]), CONFIGURATION);
    assert!(text.contains("mountPath: /s3, mountPropagation: Bidirectional"), "{text}");
    assert!(text.contains("sizeLimit: 1Mi"), "{text}");
}

#[test]
fn a_container_that_may_not_mount_or_has_no_device() {
    let text = said_with("/securityContext", &json!({}), CONFIGURATION);
    assert!(text.contains("privileged: true") && text.contains("CSI driver"), "{text}");
    let capable = json!({"capabilities": {"add": ["SYS_ADMIN"]}});
    let text = said_with("/securityContext", &capable, 1);
    assert!(text.contains("/dev/fuse cannot be opened: No such file"), "{text}");
    assert!(text.contains("privileged: true") && text.contains("modprobe fuse"), "{text}");
}

#[test]
fn a_cache_on_the_mount_itself() {
    let bench = Bench::new();
    let mut manifest = bench.manifest("true");
    let env = manifest["spec"]["initContainers"][1]["env"].as_array_mut().unwrap();
    env.retain(|one| one["name"] != "S3POD_CACHE_DIR");
    env.push(json!({"name": "S3POD_CACHE_DIR", "value": "/s3/data/cache"}));
    let text = said(&bench, &mut manifest, 2);
    assert!(text.contains("on the mount itself") && text.contains("emptyDir"), "{text}");
}

#[test]
fn a_journal_that_would_go_with_the_pod() {
    let bench = Bench::new();
    let mut manifest = bench.manifest("true");
    let server = &mut manifest["spec"]["initContainers"][1];
    server["args"].as_array_mut().unwrap().push(json!("--write-back"));
    let text = said(&bench, &mut manifest, CONFIGURATION);
    assert!(text.contains("is an emptyDir") && text.contains("PVC"), "{text}");
}
