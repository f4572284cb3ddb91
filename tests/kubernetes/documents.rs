//! Manifests, read and validated by programs that `make setup` installs.
//!
//! Owns how a test gets at a YAML file, a rendered chart and a kustomization. Promises: it
//! asks no cluster. Must not know what a manifest shall say.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A program of the environment that `make setup` makes.
pub(crate) fn python(program: &str) -> Command {
    let path = root().join(".venv/bin").join(program);
    assert!(path.exists(), "{} is missing; run `make setup`", path.display());
    Command::new(path)
}

/// What a script writes as JSON.
pub(crate) fn script(text: &str, arguments: &[&OsStr]) -> Value {
    let output = python("python").args(["-c", text]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Everything that a program wrote.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// The YAML files of a folder, in order.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension() == Some(OsStr::new("yaml"))).collect();
    files.sort();
    files
}

/// Every document of a file.
pub(crate) fn documents(file: &Path) -> Vec<Value> {
    let text = "import json,sys,yaml; \
                print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
    let found = script(text, &[file.as_os_str()]);
    found.as_array().unwrap().clone()
}

/// What the validator of Kubernetes' own schemas says against them; nothing where all is right.
pub(crate) fn invalid(files: &[PathBuf], version: Option<&str>) -> Option<String> {
    let mut command = python("kubernetes-validate");
    command.arg("--strict");
    if let Some(version) = version {
        command.args(["--kubernetes-version", version]);
    }
    let output = command.args(files).output().unwrap();
    (!output.status.success()).then(|| said(&output))
}

pub(crate) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// Every container of a pod, in the order in which they start.
pub(crate) fn containers(spec: &Value) -> Vec<&Value> {
    list(spec, "initContainers").iter().chain(list(spec, "containers")).collect()
}

/// The pod that a document runs: its metadata and its spec.
pub(crate) fn pod(document: &Value) -> Option<(&Value, &Value)> {
    let pod = match document["kind"].as_str()? {
        "Pod" => document,
        "Job" | "Deployment" | "StatefulSet" | "DaemonSet" => &document["spec"]["template"],
        _ => return None,
    };
    Some((&pod["metadata"], &pod["spec"]))
}

/// The same document with another value at `place`, a JSON pointer.
pub(crate) fn with(document: &Value, place: &str, value: Value) -> Value {
    let mut document = document.clone();
    let (above, name) = place.rsplit_once('/').unwrap();
    let above = document.pointer_mut(above).unwrap_or_else(|| panic!("nothing at {place}"));
    match name.parse::<usize>() {
        Ok(index) => above[index] = value,
        Err(_) => above[name] = value,
    }
    document
}
