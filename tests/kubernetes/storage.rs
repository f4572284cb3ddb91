//! The examples in `examples/storage/`: valid, and right in what no schema can say.
//!
//! Owns the rules of volumes, claims, classes and the pods that use them, each with the reason it
//! is one. Must not know how the driver works.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use s3pod::config::{Authority, OPTIONS};
use serde_json::{Value, json};

use crate::documents::{self, containers, documents, invalid, list, pod, root, with};
use crate::manifests;

const DRIVER: &str = "csi.s3pod";

/// What a volume may say that is no option of s3pod.
const OF_VOLUMES: [&str; 8] = [
    "bucket",
    "handoff",
    "mountOptions",
    "roleArn",
    "server",
    "store",
    "stsEndpointUrl",
    "tokenAudience",
];

/// What only a class may say.
const OF_CLASSES: [&str; 3] = ["archiveOnDelete", "onDelete", "pathPattern"];

/// The calls that need keys, each with a pair of parameters.
const SECRETS: [&str; 3] = ["controller-expand", "node-publish", "provisioner"];

/// Everything in the folder, by kind, so that one file can name what another one makes.
#[derive(Debug)]
struct Shelf {
    documents: Vec<(PathBuf, Value)>,
}

impl Shelf {
    fn read() -> Self {
        let mut read = Vec::new();
        for file in documents::files("examples/storage") {
            read.extend(documents(&file).into_iter().map(|document| (file.clone(), document)));
        }
        assert!(read.len() >= 40);
        Self { documents: read }
    }

    fn of<'s>(&'s self, kind: &'s str) -> impl Iterator<Item = &'s Value> {
        self.documents.iter().map(|(_, document)| document).filter(move |one| one["kind"] == kind)
    }

    /// The names of our classes, and of those that only stand beside them.
    fn classes(&self) -> BTreeMap<&str, bool> {
        self.of("StorageClass")
            .map(|class| (word(&class["metadata"]["name"]), class["provisioner"] == DRIVER))
            .collect()
    }

    /// The names of the claims that are for volumes of the driver.
    fn claims(&self) -> BTreeSet<&str> {
        let templates =
            self.of("StatefulSet").flat_map(|set| list(&set["spec"], "volumeClaimTemplates"));
        let classes = self.classes();
        let is_ours = |claim: &&Value| {
            let class = word(&claim["spec"]["storageClassName"]);
            class.is_empty() || classes.get(class) == Some(&true)
        };
        let claims = self.of("PersistentVolumeClaim").chain(templates).filter(is_ours);
        claims.map(|claim| word(&claim["metadata"]["name"])).collect()
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The camelCase of a flag.
fn attribute_of(flag: &str) -> String {
    let mut parts = flag.split('-');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        name.push_str(&part[..1].to_ascii_uppercase());
        name.push_str(&part[1..]);
    }
    name
}

/// Whether a volume can say this about itself.
fn is_attribute(name: &str) -> bool {
    let option = OPTIONS.iter().find(|option| attribute_of(option.flag) == name);
    OF_VOLUMES.contains(&name) || option.is_some_and(|option| option.authority != Authority::Local)
}

/// What is wrong with one document, in words.
fn faults(shelf: &Shelf, document: &Value) -> Vec<String> {
    match word(&document["kind"]) {
        "PersistentVolume" if !document["spec"]["csi"].is_null() => {
            faults_of_volume(shelf, document)
        }
        "PersistentVolumeClaim" => faults_of_claim(shelf, document),
        "StorageClass" if document["provisioner"] == DRIVER => faults_of_class(shelf, document),
        _ => pod(document).map_or_else(Vec::new, |(_, spec)| faults_of_pod(shelf, document, spec)),
    }
}

fn faults_of_volume(shelf: &Shelf, volume: &Value) -> Vec<String> {
    let (spec, csi) = (&volume["spec"], &volume["spec"]["csi"]);
    let mut faults = faults_of_attributes(&csi["volumeAttributes"]);
    let mut wrong = |is_wrong: bool, what: &str| {
        if is_wrong {
            faults.push(what.to_owned());
        }
    };
    wrong(csi["driver"] != DRIVER, "is of another driver");
    wrong(spec["storageClassName"] != "", "a class could make another volume for its claim");
    wrong(
        spec["persistentVolumeReclaimPolicy"] != "Retain",
        "what the driver did not make, it must not be asked to delete",
    );
    wrong(
        spec["claimRef"].is_null() && volume["metadata"]["labels"].is_null(),
        "any claim could take it",
    );
    let handle = &csi["volumeHandle"];
    let same =
        shelf.of("PersistentVolume").filter(|one| one["spec"]["csi"]["volumeHandle"] == *handle);
    wrong(same.count() > 1, "two volumes with one handle hang in one pod");
    wrong(word(handle).starts_with("v1/"), "such a handle is the driver's own");
    wrong(
        spec["accessModes"] == json!(["ReadOnlyMany"]) && csi["readOnly"] != true,
        "a mount could be writable all the same",
    );
    let secret = word(&csi["nodePublishSecretRef"]["name"]);
    let is_known = shelf.of("Secret").any(|one| one["metadata"]["name"] == secret);
    let has_role = !csi["volumeAttributes"]["roleArn"].is_null();
    wrong(!is_known && !has_role, "nobody made the Secret with its keys");
    faults
}

fn faults_of_attributes(attributes: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, value) in attributes.as_object().into_iter().flatten() {
        if !is_attribute(name) {
            faults.push(format!("{name} is no attribute"));
        }
        if !value.is_string() {
            faults.push(format!("{name} is no text; put it in quotes"));
        }
    }
    if word(&attributes["bucket"]).is_empty() {
        faults.push("names no bucket".to_owned());
    }
    faults
}

fn faults_of_claim(shelf: &Shelf, claim: &Value) -> Vec<String> {
    let class = &claim["spec"]["storageClassName"];
    if class.is_null() {
        return vec!["without a class it gets the default one, whatever that is".to_owned()];
    }
    if !word(class).is_empty() {
        let is_known = shelf.classes().contains_key(word(class));
        return if is_known { Vec::new() } else { vec![format!("nobody made the class {class}")] };
    }
    let fits = |volume: &&Value| {
        let labels = &claim["spec"]["selector"]["matchLabels"];
        let by_label = labels.as_object().is_some_and(|labels| {
            labels.iter().all(|(name, value)| volume["metadata"]["labels"][name] == *value)
        });
        (volume["metadata"]["name"] == claim["spec"]["volumeName"] || by_label)
            && volume["spec"]["accessModes"] == claim["spec"]["accessModes"]
    };
    let is_there = shelf.of("PersistentVolume").any(|volume| fits(&volume));
    if is_there { Vec::new() } else { vec!["no volume fits, so it waits for ever".to_owned()] }
}

fn faults_of_class(shelf: &Shelf, class: &Value) -> Vec<String> {
    let parameters = class["parameters"].as_object().cloned().unwrap_or_default();
    let own = parameters.iter().filter(|(name, _)| !name.contains('/'));
    let unknown =
        own.filter(|(name, _)| !is_attribute(name) && !OF_CLASSES.contains(&name.as_str()));
    let mut faults: Vec<String> =
        unknown.map(|(name, _)| format!("{name} is no parameter")).collect();
    for call in SECRETS {
        let [name, namespace] = ["name", "namespace"].map(|what| {
            parameters.get(&format!("csi.storage.k8s.io/{call}-secret-{what}")).map(word)
        });
        let is_it = |secret: &&Value| {
            Some(word(&secret["metadata"]["name"])) == name
                && Some(word(&secret["metadata"]["namespace"])) == namespace
        };
        if !shelf.of("Secret").any(|secret| is_it(&secret)) {
            faults.push(format!("{call} has no keys, or nobody made their Secret"));
        }
    }
    if !parameters.contains_key("onDelete") && !parameters.contains_key("archiveOnDelete") {
        faults.push("does not say what becomes of the objects".to_owned());
    }
    if parameters.contains_key("endpointUrl") && !parameters.contains_key("store") {
        faults.push("when a volume is deleted, nobody knows the class's endpoint".to_owned());
    }
    if class["allowVolumeExpansion"] != true {
        faults.push("its quotas could never be raised".to_owned());
    }
    faults
}

fn faults_of_pod(shelf: &Shelf, document: &Value, spec: &Value) -> Vec<String> {
    let mut faults = manifests::faults(&document["metadata"], spec);
    let claims = shelf.claims();
    let templates = list(&document["spec"], "volumeClaimTemplates");
    let is_ours = |name: &str| {
        let volume = list(spec, "volumes").iter().find(|volume| volume["name"] == name);
        let claim = volume.map(|volume| word(&volume["persistentVolumeClaim"]["claimName"]));
        let is_template = templates.iter().any(|one| one["metadata"]["name"] == name);
        let is_inline = volume.is_some_and(|volume| volume["csi"]["driver"] == DRIVER);
        is_inline || claim.map_or(is_template, |claim| claims.contains(claim))
    };
    for container in containers(spec) {
        for mount in
            list(container, "volumeMounts").iter().filter(|one| is_ours(word(&one["name"])))
        {
            if mount["mountPropagation"] != "HostToContainer" {
                faults.push(format!("{mount}: a mount that is made anew never arrives"));
            }
            let volume =
                list(spec, "volumes").iter().find(|volume| volume["name"] == mount["name"]);
            let of = |source: &str| volume.is_some_and(|volume| volume[source]["readOnly"] == true);
            if mount["readOnly"] == true && !of("persistentVolumeClaim") && !of("csi") {
                faults.push(format!("{mount}: what is mounted anew can be written to"));
            }
        }
    }
    for volume in list(spec, "volumes").iter().filter(|volume| volume["csi"]["driver"] == DRIVER) {
        let attributes = &volume["csi"]["volumeAttributes"];
        faults.extend(faults_of_attributes(attributes));
        if attributes["server"] == "sidecar" {
            faults.extend(faults_of_sidecar(spec, word(&attributes["handoff"])));
            continue;
        }
        let secret = word(&volume["csi"]["nodePublishSecretRef"]["name"]);
        if !shelf.of("Secret").any(|one| one["metadata"]["name"] == secret) {
            faults.push("an inline volume brings its own keys".to_owned());
        }
    }
    faults
}

/// A pod that serves a volume itself, in the emptyDir of this name.
fn faults_of_sidecar(spec: &Value, handoff: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let has = |container: &Value| {
        let mounts = list(container, "volumeMounts");
        mounts.iter().find(|mount| mount["name"] == handoff).cloned()
    };
    let volumes = list(spec, "volumes");
    if !volumes.iter().any(|one| one["name"] == handoff && !one["emptyDir"].is_null()) {
        faults.push(format!("there is no emptyDir `{handoff}` for its socket"));
    }
    let servers: Vec<&Value> =
        list(spec, "initContainers").iter().filter(|one| has(one).is_some()).collect();
    let Some(server) = servers.first() else {
        faults.push("nobody serves the volume".to_owned());
        return faults;
    };
    let folder = has(server).unwrap_or_default();
    let socket = json!(format!("{}/s3pod.sock", word(&folder["mountPath"])));
    let probe = json!(["/s3pod", "health", "--served", socket]);
    let is_sidecar = server["restartPolicy"] == "Always" && server["args"][0] == "serve";
    if !is_sidecar || list(server, "args").last() != Some(&socket) {
        faults.push(format!("the server is no native sidecar that listens at {socket}"));
    }
    if server["startupProbe"]["exec"]["command"] != probe {
        faults.push("the application would start before anybody serves".to_owned());
    }
    let hook = json!(["/s3pod-sidecar", "drain-hint", socket]);
    if server["lifecycle"]["preStop"]["exec"]["command"] != hook {
        faults.push("open files would be sent only after the application has ended".to_owned());
    }
    faults
}

/// What a file has to say before its first document.
fn faults_of_head(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let head = text.lines().take_while(|line| line.starts_with('#')).count();
    let mut faults = Vec::new();
    if head < 3 {
        faults.push("does not explain itself in its first lines".to_owned());
    }
    let has_sub_path = text.contains("subPath: ") || text.contains("subPathExpr: ");
    if has_sub_path && !text.contains("ENOTCONN") {
        faults.push("does not say what a crash means for a subPath".to_owned());
    }
    faults
}

#[test]
fn every_example_is_valid() {
    let files = documents::files("examples/storage");
    assert_eq!(invalid(&files, None), None);
    assert_eq!(invalid(&files, Some("1.29")), None);
}

#[test]
fn every_example_keeps_the_rules() {
    let shelf = Shelf::read();
    for (file, document) in &shelf.documents {
        let place = format!("{}: {}", file.display(), document["metadata"]["name"]);
        assert_eq!(faults(&shelf, document), Vec::<String>::new(), "{place}");
        assert_eq!(faults_of_head(file), Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn an_example_that_breaks_a_rule_is_noticed() {
    let shelf = Shelf::read();
    let broken: [(&str, &str, Value); 27] = [
        ("static.yaml", "/spec/csi/volumeAttributes/buket", json!("b")),
        ("static.yaml", "/spec/csi/volumeAttributes/cacheDir", json!("/")),
        ("static.yaml", "/spec/csi/volumeAttributes/bucket", Value::Null),
        ("static.yaml", "/spec/csi/volumeHandle", json!("imagenet")),
        ("static.yaml", "/spec/csi/nodePublishSecretRef/name", json!("other")),
        ("static.yaml", "/spec/persistentVolumeReclaimPolicy", json!("Delete")),
        ("static.yaml", "/spec/claimRef", Value::Null),
        ("static.yaml", "/spec/volumeName", json!("other")),
        ("static.yaml", "/spec/containers/0/volumeMounts/0/mountPropagation", Value::Null),
        ("static.yaml", "/spec/containers/0/volumeMounts/0/readOnly", json!(true)),
        ("static.yaml", "/spec/containers/0/resources", Value::Null),
        ("read-only-dataset.yaml", "/spec/csi/readOnly", Value::Null),
        ("dynamic.yaml", "/parameters/onDelete", Value::Null),
        ("dynamic.yaml", "/parameters/size", json!("1")),
        ("minio.yaml", "/parameters/endpointUrl", json!("http://minio:9000")),
        ("dynamic.yaml", "/parameters/csi.storage.k8s.io~1node-publish-secret-name", json!("x")),
        ("dynamic.yaml", "/spec/storageClassName", json!("other")),
        ("dynamic.yaml", "/spec/storageClassName", Value::Null),
        ("selector.yaml", "/spec/selector/matchLabels/kind", json!("other")),
        ("inline.yaml", "/spec/volumes/0/csi/nodePublishSecretRef", Value::Null),
        ("sidecar.yaml", "/spec/volumes/0/csi/volumeAttributes/handoff", json!("other")),
        ("sidecar.yaml", "/spec/initContainers/0/args/2", json!("/elsewhere/s3pod.sock")),
        ("sidecar.yaml", "/spec/initContainers/0/startupProbe", Value::Null),
        ("sidecar.yaml", "/spec/initContainers/0/lifecycle", Value::Null),
        ("sidecar.yaml", "/spec/initContainers/0/env/1/value", json!("11Gi")),
        ("sidecar.yaml", "/spec/containers/0/volumeMounts/0/name", json!("handoff")),
        (
            "statefulset.yaml",
            "/spec/template/spec/containers/0/volumeMounts/0/mountPropagation",
            Value::Null,
        ),
    ];
    for (name, place, value) in broken {
        // The first document that has what is to be broken, or would have it.
        let above = place.rsplit_once('/').unwrap().0;
        let has = |place: &str| {
            let is_it = |(file, document): &(PathBuf, Value)| {
                file.ends_with(name) && document.pointer(place).is_some()
            };
            shelf.documents.iter().position(is_it)
        };
        let at = has(place).or_else(|| has(above)).unwrap();
        let mut shelf = Shelf { documents: shelf.documents.clone() };
        let place = place.replace("~1", "/");
        let document = broken_at(&shelf.documents[at].1, above, &place, value);
        shelf.documents[at].1 = document.clone();
        assert!(!faults(&shelf, &document).is_empty(), "{name}: {place}");
    }
}

/// [`with`], for names that have a slash in them.
fn broken_at(document: &Value, above: &str, place: &str, value: Value) -> Value {
    let name = &place[above.len() + 1..];
    let mut inner = document.pointer(above).unwrap().clone();
    match name.parse::<usize>() {
        Ok(index) => inner[index] = value,
        Err(_) if value.is_null() => drop(inner.as_object_mut().unwrap().remove(name)),
        Err(_) => inner[name] = value,
    }
    with(document, above, inner)
}

#[test]
fn every_example_is_in_the_documentation() {
    for (folder, page) in
        [("pods", "docs/kubernetes/sidecar.md"), ("storage", "docs/kubernetes/csi.md")]
    {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        for file in documents::files(&format!("examples/{folder}")) {
            let name = file.file_name().unwrap().to_str().unwrap();
            let link = format!("(../../examples/{folder}/{name})");
            assert!(text.contains(&link), "{page} has no link to {link}");
        }
    }
}

/// Every `file::function` of the sources, a file `mod.rs` or `tests.rs` by its folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let own = path.file_stem().unwrap().to_str().unwrap();
        let above = folder.file_name().unwrap().to_str().unwrap();
        let name = if ["mod", "tests", "main"].contains(&own) { above } else { own };
        let text = std::fs::read_to_string(&path).unwrap();
        for rest in text.split("fn ").skip(1) {
            let function = rest.split('(').next().unwrap_or_default();
            found.insert(format!("{name}::{function}"));
        }
    }
}

#[test]
fn every_line_of_the_comparison_names_a_test_that_there_is() {
    let mut tests = BTreeSet::new();
    for folder in ["sidecar", "tests"] {
        functions(&root().join(folder), &mut tests);
    }
    let page = std::fs::read_to_string(root().join("docs/kubernetes/comparison.md")).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    let mut count = 0;
    for line in lines {
        let named: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test shows this: {line}");
        for test in named {
            assert!(tests.contains(test), "{test} is no test: {line}");
            count += 1;
        }
    }
    assert!(count >= 5);
}
