//! Where a script runs: bash under a timeout, on a fresh mount.
//!
//! Owns the two ways: on our server, and on SeaweedFS. A script finds the mount in `$M`, where it
//! also starts, a local folder in `$L`, which is its home and the oracle, and for other clients
//! the store: `$ENDPOINT`, `$BUCKET` and the variables of AWS. Must not know what it asserts.

use std::process::Command;

use s3pod_testkit::{Mount, S3Endpoint, SeaweedFs, ServerOptions, TestServer};

const BUCKET: &str = "programs";

/// A script that hangs ends so that the mount can be taken down.
const SECONDS: &str = "240";

/// Starts the mount.
pub(crate) fn mount(endpoint: &S3Endpoint, arguments: &[&str]) -> Mount {
    Mount::start(env!("CARGO_BIN_EXE_s3pod"), endpoint, arguments).unwrap()
}

/// Runs `script` on `mount`, with `environment` beside what every script has; it must succeed.
/// What it printed.
pub(crate) fn run(mount: &Mount, script: &str, environment: &[(&str, String)]) -> String {
    let local = tempfile::tempdir().unwrap();
    let script = format!("trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n{script}");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", SECONDS, "bash", "-euo", "pipefail", "-c", &script]);
    command.current_dir(mount.path()).env("M", mount.path()).env("L", local.path());
    command.env("HOME", local.path()).env("GIT_CONFIG_NOSYSTEM", "1");
    // rclone cannot start where it is set.
    command.env_remove("AWS_CA_BUNDLE");
    command.envs(environment.iter().map(|(name, value)| (*name, value)));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{printed}\n{said}\n{}", output.status, mount.stderr());
    let daemon = mount.stderr();
    assert!(!daemon.contains("panicked"), "{daemon}");
    printed
}

fn on(endpoint: &S3Endpoint, script: &str) {
    let mount = mount(endpoint, &[]);
    let mut environment = endpoint.environment().to_vec();
    environment.push(("ENDPOINT", endpoint.endpoint.clone()));
    environment.push(("BUCKET", endpoint.bucket.clone()));
    run(&mount, script, &environment);
    assert!(mount.unmount().unwrap().success());
}

/// Runs `script` on our server.
pub(crate) fn on_ours(script: &str) {
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    on(&server.s3_endpoint(BUCKET), script);
}

/// Runs `script` on SeaweedFS.
pub(crate) fn on_seaweedfs(script: &str) {
    let server = SeaweedFs::spawn().unwrap();
    on(&server.s3_endpoint(BUCKET).unwrap(), script);
}

/// Makes two tests of a script: one on each server.
macro_rules! on_both {
    ($name:ident, $script:expr) => {
        mod $name {
            #[test]
            fn on_ours() {
                $crate::stage::on_ours($script);
            }

            #[test]
            fn on_seaweedfs() {
                $crate::stage::on_seaweedfs($script);
            }
        }
    };
}

pub(crate) use on_both;
