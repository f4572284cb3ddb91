//! A running driver.
//!
//! Owns its process, its socket and its folders, and the clients of its services. Promises that
//! the process ends with the test. Must not know what is called.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use s3pod_testkit::csi::identity_client::IdentityClient;
use s3pod_testkit::csi::{self, ProbeRequest};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A driver, and a runtime to call it from.
pub(crate) struct Driver {
    folder: TempDir,
    mode: String,
    environment: Vec<(String, String)>,
    child: Child,
    runtime: Runtime,
    channel: Channel,
}

impl Driver {
    /// Starts one in this mode, and returns once it is ready.
    pub(crate) fn start(mode: &str) -> Self {
        Self::start_in(mode, &[])
    }

    /// The same, with these variables beside those of the test.
    pub(crate) fn start_in(mode: &str, environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::with_prefix("s3pod-csi-").unwrap();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<(String, String)> = environment.iter().map(owned).collect();
        let child = launch(folder.path(), mode, &environment);
        let runtime = Runtime::new().unwrap();
        let channel = runtime.block_on(ready(&socket(folder.path())));
        Self { folder, mode: mode.to_owned(), environment, child, runtime, channel }
    }

    /// Kills it, and starts the next one at the same folders.
    pub(crate) fn replace(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = launch(self.folder.path(), &self.mode, &self.environment);
        self.channel = self.runtime.block_on(ready(&socket(self.folder.path())));
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.path())
    }

    /// The processes that it has started and that run.
    pub(crate) fn children(&self) -> Vec<i32> {
        let pid = self.child.id();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let all: Vec<String> = children.collect();
        all.iter()
            .flat_map(|line| line.split_whitespace())
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    /// Its only one: the server of its volumes.
    pub(crate) fn child(&self) -> i32 {
        let children = self.children();
        assert_eq!(children.len(), 1, "{children:?}");
        children[0]
    }

    /// The way to it, for clients of any service.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone())
    }

    /// Waits for a call's answer.
    pub(crate) fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// SIGTERM; true where it ends well.
    pub(crate) fn terminate(&mut self) -> bool {
        use nix::sys::signal::{Signal, kill};
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // In order, so that what it has started ends too; gone already, where the test ended it.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("csi/csi.sock")
}

fn launch(folder: &Path, mode: &str, environment: &[(String, String)]) -> Child {
    let server = PathBuf::from(env!("CARGO_BIN_EXE_s3pod"));
    let program = server.with_file_name("s3pod-sidecar");
    assert!(program.exists(), "{} is missing; build the workspace", program.display());
    let mut command = Command::new(program);
    command.args(["csi", "--mode", mode, "--state-dir"]);
    command.arg(folder.join("state")).arg("--socket-dir").arg(folder.join("sockets"));
    command.stdin(Stdio::null());
    // As the chart gives them.
    command.env("NODE_ID", "node-1");
    command.env("CSI_ENDPOINT", format!("unix://{}", socket(folder).display()));
    command.envs(environment.iter().cloned());
    command.spawn().expect("the program starts")
}

/// Waits as the livenessprobe sidecar does, until it says that it is ready.
pub(crate) async fn ready(socket: &Path) -> Channel {
    let begin = Instant::now();
    loop {
        if let Ok(channel) = csi::connect(socket).await {
            let asked = IdentityClient::new(channel.clone()).probe(ProbeRequest {}).await;
            if asked.is_ok_and(|answer| answer.into_inner().ready == Some(true)) {
                return channel;
            }
        }
        assert!(begin.elapsed() < PATIENCE, "the driver does not become ready");
        thread::sleep(POLL);
    }
}
