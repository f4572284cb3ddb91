//! The words behind our commands in the examples: each is one that the command knows.
//!
//! Owns what no schema says of `args`, `env` and a file of options. Promises: nothing is run but
//! for its help. Must not know what a pod needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Arg, Command};
use s3pod::config::{Host, MountArguments, OPTIONS, Options, mount_command, serve_command};
use serde_json::Value;

use crate::documents::{self, containers, documents, list};

/// What a command says against these words; nothing where it takes them.
fn refusal(words: &[&str]) -> Option<String> {
    let typed = |command: Command| arguments(command, words).err();
    match words.first().copied() {
        Some("run") => typed(mount_command(Command::new("run"))),
        Some("serve") => {
            let volume = Arg::new("volume").long("volume");
            typed(serve_command(Command::new("serve")).arg(volume))
        }
        Some("janitor" | "drain-hint") if words.len() == 2 => {
            let server = Path::new(env!("CARGO_BIN_EXE_s3pod"));
            let mut sidecar = Process::new(server.with_file_name("s3pod-sidecar"));
            // Help is given behind words that are understood, and only there.
            let output = sidecar.args(words).arg("--help").output().unwrap();
            (!output.status.success()).then(|| documents::said(&output))
        }
        _ => Some(format!("{words:?} is no command of the sidecar's with its directory")),
    }
}

fn arguments(command: Command, words: &[&str]) -> Result<MountArguments, String> {
    let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
    MountArguments::from_matches(&matches).map_err(|error| error.to_string())
}

/// What is wrong with a variable that is an option of ours.
fn refusal_of_variable(name: &str, value: Option<&str>) -> Option<String> {
    if !name.starts_with("S3POD_") {
        return None;
    }
    let Some(option) = OPTIONS.iter().find(|option| option.env() == name) else {
        return Some(format!("{name} is no option"));
    };
    let set = |value| Options::default().set(option, value).err();
    value.and_then(set).map(|reason| format!("{name}: {reason}"))
}

/// What is wrong with a file of options.
fn refusal_of_file(text: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("options");
    fs::write(&file, text).unwrap();
    let words = ["run", "photos", "/s3/data", "--config", file.to_str().unwrap()];
    let typed = arguments(mount_command(Command::new("run")), &words).unwrap();
    typed.with_surroundings(&Host::with_environment([])).err().map(|error| error.to_string())
}

fn strings(words: &[Value]) -> Vec<&str> {
    words.iter().map(|word| word.as_str().expect("a word is a string")).collect()
}

/// Everything that a container of ours tells a command wrongly.
fn refusals(container: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if container["image"].as_str().is_some_and(|image| image.contains("s3pod")) {
        found.extend(refusal(&strings(list(container, "args"))));
    }
    let hook = strings(list(&container["lifecycle"]["preStop"]["exec"], "command"));
    if let Some(("/s3pod-sidecar", words)) = hook.split_first().map(|(first, rest)| (*first, rest))
    {
        found.extend(refusal(words));
    }
    for variable in list(container, "env") {
        let name = variable["name"].as_str().unwrap_or_default();
        found.extend(refusal_of_variable(name, variable["value"].as_str()));
    }
    found
}

/// What is wrong with a ConfigMap's or a Secret's words: a file of options, or an environment.
fn refusals_of_data(document: &Value) -> Vec<String> {
    let fields = ["data", "stringData"].map(|field| document[field].as_object());
    let words = fields.into_iter().flatten().flatten();
    let refused = |(name, value): (&String, &Value)| match value.as_str() {
        Some(text) if name == "options" => refusal_of_file(text),
        value => refusal_of_variable(name, value),
    };
    words.filter_map(refused).collect()
}

fn examples() -> Vec<PathBuf> {
    ["examples/pods", "examples/storage"].into_iter().flat_map(documents::files).collect()
}

#[test]
fn every_word_of_the_examples_is_understood() {
    let (mut commands, mut files) = (0, 0);
    for file in examples() {
        for document in documents(&file) {
            let place = format!("{}: {}", file.display(), document["metadata"]["name"]);
            if let Some((_, spec)) = documents::pod(&document) {
                for container in containers(spec) {
                    assert_eq!(refusals(container), Vec::<String>::new(), "{place}");
                    commands += usize::from(container["args"][0] == "run");
                }
            } else if matches!(document["kind"].as_str(), Some("ConfigMap" | "Secret")) {
                assert_eq!(refusals_of_data(&document), Vec::<String>::new(), "{place}");
                files += usize::from(document["data"]["options"].is_string());
            }
        }
    }
    assert!(commands > 10 && files > 0, "{commands} {files}");
}

#[test]
fn a_word_that_is_misspelled_is_noticed() {
    let broken: [&[&str]; 6] = [
        &["run", "s3://photos", "/s3/data", "--read-onyl"],
        &["run", "s3://photos", "/s3/data", "--metadata-ttl", "whenever"],
        &["serve", "s3://photos", "/handoff/s3pod.sock", "--volum", "v"],
        &["janitor", "--s3"],
        &["drain-hint", "/s3/data", "/s3/more"],
        &["sweep", "/s3"],
    ];
    for words in broken {
        assert!(refusal(words).is_some(), "{words:?}");
    }
    for (name, value) in [("S3POD_CACHE_DRI", "/cache"), ("S3POD_DISK_LIMIT", "much")] {
        assert!(refusal_of_variable(name, Some(value)).is_some(), "{name}");
    }
    for text in ["dsik-limit = 10Gi", "metadata-ttl = whenever"] {
        assert!(refusal_of_file(text).is_some(), "{text}");
    }
}
