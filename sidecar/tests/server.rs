//! What the server of a node's volumes says where it cannot work.

use std::process::{Command, Output};

fn server(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod-sidecar"));
    command.arg("server").args(arguments).output().expect("the program starts")
}

fn assert_refused(arguments: &[&str], code: i32, words: &str) {
    let output = server(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("file"), "").expect("a file");
    let (sockets, cache, file) = (path("sockets"), path("cache"), path("file"));
    let both = ["--socket-dir", &sockets, "--cache-dir", &cache];
    assert_refused(&both[..2], 2, "--cache-dir");
    assert_refused(&["--socket-dir", &file, "--cache-dir", &cache], 78, "--socket-dir");
    let small: Vec<&str> = both.into_iter().chain(["--memory-limit", "111MiB"]).collect();
    assert_refused(&small, 78, "too few for one volume");
    let odd: Vec<&str> = both.into_iter().chain(["--volume-memory", "much"]).collect();
    assert_refused(&odd, 2, "not a size");
}
