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
    let mut faults = faults_of_caches(spec);
    let handoffs = handoffs(spec);
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
            let is_handoff = mount["name"].as_str().is_some_and(|name| handoffs.contains(&name));
            if is_handoff && verb(container) != "serve" {
                wrong("the handoff socket is for the server alone");
            }
        }
        if verb(container).is_empty() && reads_to_be_ready(container) {
            wrong("a store that is away would take every replica out of its Service at once");
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

/// The emptyDirs that a server's socket is in.
fn handoffs(spec: &Value) -> Vec<&str> {
    let attributes = list(spec, "volumes").iter().map(|one| &one["csi"]["volumeAttributes"]);
    let served = attributes.filter(|attributes| attributes["server"] == "sidecar");
    served.map(|attributes| attributes["handoff"].as_str().unwrap_or("handoff")).collect()
}

/// Whether it is ready only where a file can be read. What it serves may be a file of the bucket.
fn reads_to_be_ready(container: &Value) -> bool {
    let uses = list(container, "volumeMounts").iter().find(|mount| mount["name"] == "s3");
    let Some(path) = uses.and_then(|mount| mount["mountPath"].as_str()) else { return false };
    let probe = &container["readinessProbe"];
    let command = list(&probe["exec"], "command");
    let names = |word: &Value| word.as_str().is_some_and(|word| word.contains(path));
    !probe["httpGet"].is_null() || command.iter().any(names)
}

/// Seconds that a server gets, which waits for its store: after that kubelet restarts it, later
/// each time.
const PATIENCE_WITH_STORES: u64 = 300;

/// Seconds that a probe may fail for.
fn waited(probe: &Value) -> u64 {
    let period = probe["periodSeconds"].as_u64().unwrap_or(10);
    period * probe["failureThreshold"].as_u64().unwrap_or(3)
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
    if waited(&container["startupProbe"]) < PATIENCE_WITH_STORES {
        faults.push("kubelet kills it before a store that is away comes back".to_owned());
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

/// Bytes that a server may fill, as far as its spec says so.
fn disk_limit(container: &Value) -> Option<u64> {
    let limit = |one: &&Value| one["name"] == "S3POD_DISK_LIMIT";
    let found = list(container, "env").iter().find(limit)?;
    let resource = &found["valueFrom"]["resourceFieldRef"]["resource"];
    let value = match resource.as_str() {
        Some("limits.ephemeral-storage") => &container["resources"]["limits"]["ephemeral-storage"],
        _ => &found["value"],
    };
    Some(spec::bytes(value.as_str()?))
}

/// The volume that a server keeps things in.
fn cache_of(container: &Value) -> Option<&str> {
    let is_named = |one: &&Value| one["name"] == "S3POD_CACHE_DIR";
    let folder = &list(container, "env").iter().find(is_named)?["value"];
    let mount = |mount: &&Value| mount["mountPath"] == *folder;
    list(container, "volumeMounts").iter().find(mount)?["name"].as_str()
}

fn faults_of_caches(spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for volume in list(spec, "volumes") {
        let (name, limit) = (&volume["name"], &volume["emptyDir"]["sizeLimit"]);
        let Some(room) = limit.as_str().map(spec::bytes) else { continue };
        let servers = list(spec, "initContainers").iter().filter(|one| cache_of(one).is_some());
        let here: Vec<&Value> = servers.filter(|one| cache_of(one) == name.as_str()).collect();
        // A file of options may say it.
        let is_told = |one: &&Value| list(one, "args").contains(&json!("--config"));
        let is_open = here.iter().any(|one| disk_limit(one).is_none() && !is_told(one));
        let filled: u64 = here.iter().filter_map(|one| disk_limit(one)).sum();
        if is_open || filled > room {
            faults.push(format!("the cache outgrows {name}'s sizeLimit, and the pod is evicted"));
        }
    }
    faults
}

/// Whether what it unmounts in the directory that it is told goes everywhere.
fn reaches(janitor: &Value) -> bool {
    list(janitor, "volumeMounts").iter().any(|mount| {
        mount["name"] == "s3"
            && mount["mountPath"] == janitor["args"][1]
            && mount["mountPropagation"] == "Bidirectional"
    })
}

fn faults_of_pod(metadata: &Value, spec: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let init = list(spec, "initContainers");
    if init.first().map(verb) != Some("janitor") {
        faults.push("the janitor is not the first, so it is not the last to end".to_owned());
    }
    if init.first().is_some_and(|janitor| janitor["restartPolicy"] != "Always") {
        faults.push("the janitor is no native sidecar, and nothing starts behind it".to_owned());
    }
    if init.first().is_some_and(|janitor| !reaches(janitor)) {
        faults.push("the janitor cannot take a mount away from the other containers".to_owned());
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
    let container = |place: &str| pod.pointer(place).unwrap().clone();
    let janitor = container("/spec/initContainers/0");
    let server = container("/spec/initContainers/1");
    let user = container("/spec/containers/0");
    let read = json!({"httpGet": {"path": "/", "port": 80}});
    let stat = json!({"exec": {"command": ["ls", "/s3/data"]}});
    let anew = "is made anew";
    let broken: [(&str, Value, &str); 20] = [
        ("/spec/volumes/0/emptyDir/sizeLimit", json!("1Gi"), "no sizeLimit: 1Mi"),
        ("/spec/volumes/1/emptyDir/sizeLimit", json!("9Gi"), "outgrows"),
        ("/spec/initContainers/1/env/1", Value::Null, "outgrows"),
        ("/spec/initContainers/1/securityContext", json!({}), "for privileged"),
        ("/spec/initContainers/1/args/2", json!("/s3"), "not below"),
        ("/spec/initContainers/1/startupProbe", Value::Null, "before the mount"),
        ("/spec/initContainers/1/startupProbe/failureThreshold", json!(120), "comes back"),
        ("/spec/initContainers/1/lifecycle", Value::Null, "open files"),
        ("/spec/initContainers/0/args/0", json!("drain-hint"), "not the first"),
        ("/spec/initContainers/0/args/1", json!("/s3/data"), "cannot take a mount away"),
        (
            "/spec/initContainers/0/volumeMounts/0/mountPropagation",
            json!("HostToContainer"),
            "cannot take a mount away",
        ),
        ("/spec/initContainers/0/restartPolicy", Value::Null, "janitor is no native"),
        ("/spec/initContainers", json!([janitor, user, server]), "before its server"),
        ("/spec/containers/0/volumeMounts/0/mountPropagation", Value::Null, anew),
        ("/spec/containers/0/volumeMounts/0/readOnly", json!(true), "--read-only has"),
        ("/spec/containers/0/volumeMounts/0/subPath", json!("data"), anew),
        ("/spec/containers/0/readinessProbe", read, "every replica"),
        ("/spec/containers/0/readinessProbe", stat, "every replica"),
        ("/spec/containers/0/resources", Value::Null, "requests neither"),
        ("/metadata/annotations", Value::Null, "autoscaler"),
    ];
    for (place, value, words) in broken {
        let pod = with(&pod, place, value);
        let found = faults(&pod["metadata"], &pod["spec"]);
        assert!(found.iter().any(|fault| fault.contains(words)), "{place}: {found:?}");
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
    let args = server["args"].as_array_mut().unwrap();
    args[1] = json!(BUCKET);
    // The environment says it.
    if let Some(at) = args.iter().position(|word| word == "--endpoint-url") {
        args.drain(at..at + 2);
    }
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

#[test]
fn the_pod_with_seaweedfs_runs_on_seaweedfs() {
    let bench = Bench::on_seaweedfs();
    let mut manifest = example(&bench, "seaweedfs.yaml", "Pod");
    let line = &mut manifest["spec"]["containers"][0]["args"][0];
    *line = json!(line.as_str().unwrap().replace("date", "echo now"));
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}", pod.log("app"));
    assert!(pod.log("app").contains(" started\n"), "{}", pod.log("app"));
    bench.assert_gone();
    assert_eq!(bench.objects().get("started").unwrap(), b"now\n");
}
