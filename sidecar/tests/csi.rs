//! What the driver says where it cannot start.

mod server;

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod-sidecar"));
    command.arg("csi").args(arguments).env_remove("CSI_ENDPOINT").env_remove("NODE_ID");
    command.output().expect("the program starts")
}

#[test]
fn what_is_missing_or_wrong_is_named_before_anything_is_served() {
    let node = ["--mode", "node", "--endpoint", "/tmp/s3pod.sock", "--node-id", "n"];
    let with = |more: &[&'static str]| [&node[..], more].concat();
    for (arguments, code, word) in [
        (vec![], 2, "--mode"),
        (vec!["--mode", "both"], 2, "--mode"),
        (vec!["--mode", "controller"], 2, "--endpoint"),
        (vec!["--mode", "controller", "--endpoint", "tcp://[::]:1"], 78, "--endpoint"),
        (with(&[]), 2, "--state-dir"),
        (with(&["--state-dir", "relative"]), 78, "--state-dir"),
        (with(&["--state-dir", "/s", "--kubelet-dir", "/a/../b"]), 78, "--kubelet-dir"),
        (with(&["--state-dir", "/s", "--driver-name", "1"]), 78, "--driver-name"),
    ] {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}
