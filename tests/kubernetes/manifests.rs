//! The examples in `examples/pods/`: valid, and right in what no schema can say.
//!
//! Owns the rules of a pod with a sidecar, each with the reason it is one. The manifests are
//! checked by a validator of Kubernetes' own schemas, and two of them are run.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bench::{BUCKET, Bench, up, wait_until};
use crate::documents::{self, containers, documents, invalid, list, python, root, with};
use crate::spec;

fn files() -> Vec<PathBuf> {
    let files = documents::files("examples/pods");
    assert!(files.len() >= 10);
    files
}

/// Every pod in the examples: where it is, its metadata and its spec.
fn pods() -> Vec<(String, Value, Value)> {
    let mut pods = Vec::new();
    for file in files() {
        for document in documents(&file) {
            let place = format!("{}: {}", file.display(), document["metadata"]["name"]);
            if let Some((metadata, spec)) = documents::pod(&document) {
                pods.push((place, metadata.clone(), spec.clone()));
            }
        }
    }
    assert!(pods.len() >= 10);
    pods
}

fn verb(container: &Value) -> &str {
    let is_ours = container["image"].as_str().is_some_and(|image| image.contains("s3pod"));
    if is_ours { container["args"][0].as_str().unwrap_or_default() } else { "" }
}

/// What is wrong with a pod, in words.
pub(crate) fn faults(metadata: &Value, spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for container in containers(spec) {
        let mut wrong = |what: &str| faults.push(format!("{}: {what}", container["name"]));
        let requests = &container["resources"]["requests"];
        if requests["cpu"].is_null() || requests["memory"].is_null() {
            wrong("requests neither CPU nor memory");
        }
        let is_privileged = container["securityContext"]["privileged"] == true;
        for mount in list(container, "volumeMounts") {
            let how = mount["mountPropagation"].as_str();
            if how == Some("Bidirectional") && !is_privileged {
                wrong("Bidirectional is for privileged containers alone");
            }
            if mount["name"] == "s3" && how.is_none() {
                wrong("without HostToContainer a mount that is made anew never arrives");
            }
            if mount["name"] == "s3" && mount["readOnly"] == true {
                wrong("readOnly has no effect on a mount below; --read-only has");
            }
            if mount["name"] == "s3" && !mount["subPath"].is_null() {
                wrong("a subPath never sees a mount that is made anew");
            }
            if mount["name"] == "handoff" && verb(container) != "serve" {
                wrong("the handoff socket is for the server alone");
            }
        }
        if verb(container) == "run" {
            faults.extend(faults_of_server(container));
        }
    }
    if containers(spec).iter().any(|container| verb(container) == "run") {
        faults.extend(faults_of_pod(metadata, spec));
    }
    faults
}

fn faults_of_server(container: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let directory = container["args"][2].as_str().unwrap_or_default();
    let mounts = list(container, "volumeMounts");
    let shared = mounts.iter().find(|mount| mount["mountPropagation"] == "Bidirectional");
    let above = shared.and_then(|mount| mount["mountPath"].as_str()).unwrap_or("/none");
    if directory.strip_prefix(above).is_none_or(|rest| rest.len() < 2 || !rest.starts_with('/')) {
        faults.push(format!("{directory} is not below the shared volume ({above})"));
    }
    let probe = json!(["/s3pod", "health", "--mounted", directory]);
    if container["startupProbe"]["exec"]["command"] != probe {
        faults.push("the application would start before the mount is there".to_owned());
    }
    let hook = json!(["/s3pod-sidecar", "drain-hint", directory]);
    if container["lifecycle"]["preStop"]["exec"]["command"] != hook {
        faults.push("open files would be sent only after the application has ended".to_owned());
    }
    if container["restartPolicy"] != "Always" {
        faults.push("the server is no native sidecar".to_owned());
    }
    faults
}

/// Bytes that the servers of a pod may fill in its volume `cache`, as far as their spec says so.
fn cached_at_most(spec: &Value) -> u64 {
    let limit_of = |container: &Value| {
        let limit = |one: &&Value| one["name"] == "S3POD_DISK_LIMIT";
        let found = list(container, "env").iter().find(limit)?;
        let resource = &found["valueFrom"]["resourceFieldRef"]["resource"];
        let value = match resource.as_str() {
            Some("limits.ephemeral-storage") => {
                &container["resources"]["limits"]["ephemeral-storage"]
            }
            _ => &found["value"],
        };
        Some(spec::bytes(value.as_str()?))
    };
    list(spec, "initContainers").iter().filter_map(limit_of).sum()
}

fn faults_of_pod(metadata: &Value, spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let cache = list(spec, "volumes").iter().find(|volume| volume["name"] == "cache");
    let room = cache.and_then(|cache| cache["emptyDir"]["sizeLimit"].as_str()).map(spec::bytes);
    let is_told = !list(spec, "volumes").iter().any(|volume| !volume["configMap"].is_null());
    let filled = cached_at_most(spec);
    if room.is_some_and(|room| filled > room || is_told && filled == 0) {
        faults.push("the cache outgrows its volume's sizeLimit, and the pod is evicted".to_owned());
    }
    let init = list(spec, "initContainers");
    if init.first().map(verb) != Some("janitor") {
        faults.push("the janitor is not the first, so it is not the last to end".to_owned());
    }
    let server = init.iter().rposition(|container| verb(container) == "run");
    let is_user = |container: &Value| {
        verb(container).is_empty()
            && list(container, "volumeMounts").iter().any(|mount| mount["name"] == "s3")
    };
    if init.iter().position(is_user).is_some_and(|user| Some(user) < server) {
        faults.push("a container uses the bucket before its server starts".to_owned());
    }
    let volumes = list(spec, "volumes");
    let shared = volumes.iter().find(|volume| volume["name"] == "s3");
    if shared.is_none_or(|volume| volume["emptyDir"]["sizeLimit"] != "1Mi") {
        faults.push("the shared volume has no sizeLimit: 1Mi".to_owned());
    }
    let evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    let named = metadata["annotations"][evictable].as_str().unwrap_or_default();
    for volume in volumes.iter().filter(|volume| !volume["emptyDir"].is_null()) {
        let name = volume["name"].as_str().unwrap_or_default();
        if !named.split(',').any(|one| one == name) {
            faults.push(format!("the volume {name} keeps the autoscaler from moving the pod"));
        }
    }
    faults
}

#[test]
fn every_manifest_is_valid() {
    assert_eq!(invalid(&files(), None), None);
}

#[test]
fn the_dockerfile_is_in_order() {
    let output = python("hadolint").arg(root().join("sidecar/Dockerfile")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_pod_keeps_the_rules() {
    for (place, metadata, spec) in pods() {
        assert_eq!(faults(&metadata, &spec), Vec::<String>::new(), "{place}");
    }
}

#[test]
fn a_pod_that_breaks_a_rule_is_noticed() {
    let file = root().join("examples/pods/sidecar.yaml");
    let pod = documents(&file).into_iter().find(|document| document["kind"] == "Pod").unwrap();
    let broken: [(&str, Value); 10] = [
        ("/spec/volumes/1/emptyDir/sizeLimit", json!("1Gi")),
        ("/spec/initContainers/1/securityContext", json!({})),
        ("/spec/initContainers/1/args/2", json!("/s3")),
        ("/spec/initContainers/1/startupProbe", Value::Null),
        ("/spec/initContainers/1/lifecycle", Value::Null),
        ("/spec/initContainers/0/args/0", json!("drain-hint")),
        ("/spec/containers/0/volumeMounts/0/mountPropagation", Value::Null),
        ("/spec/containers/0/volumeMounts/0/readOnly", json!(true)),
        ("/spec/containers/0/resources", Value::Null),
        ("/metadata/annotations", Value::Null),
    ];
    for (place, value) in broken {
        let pod = with(&pod, place, value);
        assert!(!faults(&pod["metadata"], &pod["spec"]).is_empty(), "{place}");
    }
}

/// The pod of an example, with the bench's server in place of the one it names.
fn example(bench: &Bench, file: &str, kind: &str) -> Value {
    let documents = documents(&root().join("examples/pods").join(file));
    let mut found = documents.into_iter().find(|document| document["kind"] == kind).unwrap();
    let spec = match kind {
        "Pod" => &mut found["spec"],
        _ => &mut found["spec"]["template"]["spec"],
    };
    let server = &mut spec["initContainers"][1];
    server["args"][1] = json!(BUCKET);
    server["env"] = json!(bench.env());
    found
}

#[test]
fn the_pod_that_everybody_starts_from_runs_as_it_stands() {
    let bench = Bench::new();
    bench.bucket().put("a", "hello");
    let mut manifest = example(&bench, "sidecar.yaml", "Pod");
    let line = manifest["spec"]["containers"][0]["args"][0].as_str().unwrap().to_owned();
    let line = line.replace("date", "echo now");
    manifest["spec"]["containers"][0]["args"][0] = json!(format!("echo up; {line}"));
    let pod = bench.start(&manifest);
    up(&pod);
    wait_until("it has listed", || pod.log("app").contains(" a\n"));
    pod.delete(None);
    bench.assert_gone();
    assert_eq!(bench.bucket().get("started").unwrap(), "now\n");
}

#[test]
fn the_job_of_the_examples_completes() {
    let bench = Bench::new();
    let mut manifest = example(&bench, "job.yaml", "Job");
    let place = "/spec/template/spec/containers/0/args/0";
    let line = manifest.pointer(place).unwrap().as_str().unwrap().replace("date", "echo done");
    *manifest.pointer_mut(place).unwrap() = json!(line);
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}", pod.log("work"));
    bench.assert_gone();
    assert_eq!(bench.bucket().get("results/report").unwrap(), "done\n");
}
