//! What the sidecar's programs say where they cannot work.

mod in_use;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod-sidecar"));
    command.args(arguments).output().expect("the program starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_directory_that_no_other_container_would_see_is_refused_with_the_line_to_add() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("data");
    let directory = directory.to_str().expect("a path of plain words");
    let output = run(&["run", "photos", directory]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("mountPropagation: Bidirectional"), "{}", said(&output));
    let output = run(&["janitor", folder.path().to_str().expect("a path of plain words")]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
}

#[test]
fn by_the_name_of_the_server_it_is_the_server() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod-sidecar"));
    let output = command.arg0("/s3pod").args(["health", "--mounted", "/proc"]).output();
    let output = output.expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("s3pod: /proc: no bucket"), "{}", said(&output));
}

#[test]
fn a_hook_without_a_mount_is_no_failure() {
    let output = run(&["drain-hint", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(said(&output).contains("no bucket is mounted there"), "{}", said(&output));
}

#[test]
fn what_is_typed_wrong_is_exit_code_2() {
    for arguments in [&[][..], &["walk"], &["run", "photos"], &["run", "photos", "/s3", "--odd"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
