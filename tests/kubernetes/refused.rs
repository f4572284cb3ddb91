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
fn a_shared_volume_that_is_read_only_for_the_server_itself() {
    let mount = json!([{"name": "s3", "mountPath": "/s3", "mountPropagation": "Bidirectional",
        "readOnly": true}]);
    let text = said_with("/volumeMounts", &mount, CONFIGURATION);
    assert!(text.contains("remove readOnly: true from the volumeMount"), "{text}");
    assert!(text.contains("mountPath: /s3") && text.contains("--read-only"), "{text}");
    assert!(!text.contains("stays as it is"), "one line says it: {text}");
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

#[test]
fn a_cache_on_the_volume_of_the_mount_by_whatever_name() {
    // The volume itself, the same at another place, and a link to what is mounted over.
    for folder in ["/s3/cache", "/data/cache", "/data/data", "/proc/self/root/s3/data"] {
        let bench = Bench::new();
        let mut manifest = bench.manifest("true");
        let server = &mut manifest["spec"]["initContainers"][1];
        let mounts = server["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({"name": "s3", "mountPath": "/data"}));
        let env = server["env"].as_array_mut().unwrap();
        env.retain(|one| one["name"] != "S3POD_CACHE_DIR");
        env.push(json!({"name": "S3POD_CACHE_DIR", "value": folder}));
        let text = said(&bench, &mut manifest, CONFIGURATION);
        assert!(text.contains(&format!("--cache-dir: {folder}")), "{text}");
        assert!(text.contains("{name: cache, mountPath: /cache}"), "{text}");
    }
}

#[test]
fn memory_that_no_mount_fits_into() {
    let limit = json!({"limits": {"memory": "79Mi"}});
    let text = said_with("/resources", &limit, CONFIGURATION);
    assert!(text.contains("allows 79MiB") && text.contains("needs 80MiB"), "{text}");
    assert!(text.contains("resources.limits.memory"), "{text}");
}

#[test]
fn a_cache_in_memory_that_the_container_does_not_have() {
    let bench = Bench::new();
    let mut manifest = bench.manifest("true");
    manifest["spec"]["volumes"][1]["emptyDir"] = json!({"medium": "Memory"});
    let server = &mut manifest["spec"]["initContainers"][1];
    server["args"].as_array_mut().unwrap().extend([json!("--cache-size"), json!("1GiB")]);
    let text = said(&bench, &mut manifest, CONFIGURATION);
    assert!(text.contains("/cache is in memory") && text.contains("medium: Memory"), "{text}");
    assert!(text.contains("--cache-size 1GiB"), "{text}");
}
