//! A store of one's own: its name from the pod's `/etc/hosts`, its certificate from an authority
//! that nobody else knows.
//!
//! The containers' root file system has the public authorities and knows no name, as the image.

use s3pod_testkit::tls;
use serde_json::{Value, json};

use crate::bench::{Bench, wait_until};

/// The only name in the certificate.
const NAME: &str = "localhost";

/// A pod whose server reaches the store by its name, encrypted.
fn manifest(bench: &Bench, line: &str) -> Value {
    let port = tls::encrypted(bench.server().address()).unwrap();
    let mut manifest = bench.manifest(line);
    let spec = &mut manifest["spec"];
    spec["hostAliases"] = json!([{"ip": "127.0.0.1", "hostnames": [NAME, "store.example"]}]);
    let authority = std::fs::read_to_string(tls::authority()).unwrap();
    let volume = json!({"name": "config", "configMap": {"data": {"ca.pem": authority}}});
    spec["volumes"].as_array_mut().unwrap().push(volume);
    let server = &mut spec["initContainers"][1];
    let endpoint = json!({"name": "S3POD_ENDPOINT_URL", "value": format!("https://{NAME}:{port}")});
    let env = server["env"].as_array_mut().unwrap();
    env.retain(|one| one["name"] != "S3POD_ENDPOINT_URL");
    env.push(endpoint);
    let mount = json!({"name": "config", "mountPath": "/config"});
    server["volumeMounts"].as_array_mut().unwrap().push(mount);
    manifest
}

#[test]
fn an_authority_from_a_config_map_is_trusted_and_a_host_alias_is_found() {
    let bench = Bench::new();
    bench.bucket().put("a", "hello");
    let mut manifest = manifest(&bench, "cat /s3/data/a; echo x > /s3/data/b");
    let env = manifest["spec"]["initContainers"][1]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "S3POD_CA_BUNDLE", "value": "/config/ca.pem"}));
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.log("app"), "hello");
    bench.assert_gone();
    assert_eq!(bench.bucket().get("b").unwrap(), "x\n");
}

#[test]
fn without_it_the_log_names_the_option() {
    let bench = Bench::new();
    let mut manifest = manifest(&bench, "true");
    // Not awaited: it never starts.
    let server = manifest["spec"]["initContainers"].as_array_mut().unwrap().remove(1);
    manifest["spec"]["containers"].as_array_mut().unwrap().push(server);
    let pod = bench.start(&manifest);
    wait_until("it says why", || pod.log("s3").contains("--ca-bundle"));
    pod.delete(Some(0));
    bench.assert_gone();
}
