//! A stand-in for kubelet: it calls the driver as kubelet 1.36 does.
//!
//! Owns kubelet's folder, the driver, and the calls with what kubelet writes into them. Promises to
//! do no more than kubelet does: it makes the folder above a target and never the target. Must not
//! know how anything is mounted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod_testkit::csi::node_client::NodeClient;
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use s3pod_testkit::csi::{
    Code, NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, Status,
    VolumeCapability, VolumeUsage,
};
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::transport::Channel;

use crate::driver::ready;
use crate::stand::{BUCKET, Stand};

/// Kubelet waits longer, and the longer the more often.
const RETRY: Duration = Duration::from_millis(50);

/// Kubelet gives up a call after this, and makes it again.
const CALL_PATIENCE: Duration = Duration::from_secs(120);

/// Enough for many volumes.
pub(crate) const MEMORY: &str = "8GiB";

/// A node: the server of its volumes, the driver, and kubelet.
pub(crate) struct Kubelet {
    pub(crate) stand: Stand,
    /// What the driver is started with beside what each needs.
    more: Vec<String>,
    driver: Child,
    runtime: Runtime,
    channel: Channel,
}

/// A call with a deadline, which the driver is told too.
fn within<T>(patience: Duration, call: T) -> Request<T> {
    let mut request = Request::new(call);
    request.set_timeout(patience);
    request
}

impl Kubelet {
    pub(crate) fn new() -> Self {
        Self::with(MEMORY, &[])
    }

    /// One whose servers share so much memory, and whose driver has these arguments too.
    pub(crate) fn with(memory: &str, more: &[&str]) -> Self {
        let stand = Stand::new(memory);
        // Shared, so that what the driver mounts is seen where containers have it.
        let folder = stand.folder.path().join("kubelet");
        fs::create_dir(&folder).unwrap();
        let none: Option<&str> = None;
        mount(Some(&folder), &folder, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, &folder, none, MsFlags::MS_SHARED, none).unwrap();
        let more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        let (driver, runtime) = (launch(&stand, &more), Runtime::new().unwrap());
        let channel = runtime.block_on(ready(&socket(&stand)));
        Self { stand, more, driver, runtime, channel }
    }

    /// Kubelet's own folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.stand.folder.path().join("kubelet")
    }

    /// Where a pod's volume is to appear; the folder above it is made.
    pub(crate) fn target(&self, pod: &str) -> PathBuf {
        let volume = self.folder().join("pods").join(pod).join("volumes/kubernetes.io~csi/pv");
        fs::create_dir_all(&volume).unwrap();
        volume.join("mount")
    }

    /// The call to publish the bucket at a pod's target.
    pub(crate) fn call(&self, volume: &str, pod: &str) -> NodePublishVolumeRequest {
        let endpoint = self.stand.store.s3_endpoint(BUCKET);
        let owned = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: self.target(pod).to_str().unwrap().to_owned(),
            volume_capability: Some(capability(Mode::MultiNodeMultiWriter)),
            volume_context: owned(&[
                ("bucket", BUCKET),
                ("endpointUrl", &endpoint.endpoint),
                ("region", &endpoint.region),
                ("forcePathStyle", "true"),
                ("csi.storage.k8s.io/pod.name", pod),
                ("csi.storage.k8s.io/pod.namespace", "default"),
                ("csi.storage.k8s.io/pod.uid", pod),
                ("csi.storage.k8s.io/ephemeral", "false"),
            ]),
            secrets: owned(&[
                ("accessKeyId", &endpoint.access_key),
                ("secretAccessKey", &endpoint.secret_key),
            ]),
            ..Default::default()
        }
    }

    pub(crate) fn publish(&self, call: &NodePublishVolumeRequest) -> Result<(), Status> {
        self.publish_within(CALL_PATIENCE, call)
    }

    /// The same with less patience.
    pub(crate) fn publish_within(
        &self,
        patience: Duration,
        call: &NodePublishVolumeRequest,
    ) -> Result<(), Status> {
        let mut node = NodeClient::new(self.channel.clone());
        self.runtime.block_on(node.node_publish_volume(within(patience, call.clone()))).map(drop)
    }

    /// The same, again while the driver is at the volume by itself, as kubelet does.
    pub(crate) fn republish(&self, call: &NodePublishVolumeRequest) -> Result<(), Status> {
        loop {
            match self.publish(call) {
                Err(status) if status.code() == Code::Aborted => std::thread::sleep(RETRY),
                answer => return answer,
            }
        }
    }

    /// Publishes the bucket to a pod; where it is.
    pub(crate) fn published(&self, volume: &str, pod: &str) -> PathBuf {
        let call = self.call(volume, pod);
        self.publish(&call).unwrap_or_else(|status| panic!("{status}\n{}", self.stand.log()));
        PathBuf::from(call.target_path)
    }

    /// Again while the driver is at the volume by itself, as kubelet does.
    pub(crate) fn unpublish(&self, volume: &str, target: &Path) -> Result<(), Status> {
        let mut node = NodeClient::new(self.channel.clone());
        let call = NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: target.to_str().unwrap().to_owned(),
        };
        loop {
            match self
                .runtime
                .block_on(node.node_unpublish_volume(within(CALL_PATIENCE, call.clone())))
            {
                Err(status) if status.code() == Code::Aborted => std::thread::sleep(RETRY),
                answer => return answer.map(drop),
            }
        }
    }

    pub(crate) fn stats(&self, volume: &str, path: &str) -> Result<Vec<VolumeUsage>, Status> {
        let mut node = NodeClient::new(self.channel.clone());
        let call = NodeGetVolumeStatsRequest {
            volume_id: volume.to_owned(),
            volume_path: path.to_owned(),
            ..Default::default()
        };
        let answer = self.runtime.block_on(node.node_get_volume_stats(within(CALL_PATIENCE, call)));
        answer.map(|answer| answer.into_inner().usage)
    }

    /// Makes calls at the same time; their answers.
    pub(crate) fn at_once<T: Send>(&self, calls: Vec<impl FnOnce(&Self) -> T + Send>) -> Vec<T> {
        std::thread::scope(|scope| {
            let all: Vec<_> =
                calls.into_iter().map(|call| scope.spawn(move || call(self))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    /// Ends the driver, does something, and starts it anew.
    pub(crate) fn restart(&mut self, by: Signal, meanwhile: impl FnOnce(&Self)) {
        kill(Pid::from_raw(self.driver.id().cast_signed()), by).unwrap();
        self.driver.wait().unwrap();
        meanwhile(self);
        self.driver = launch(&self.stand, &self.more);
        self.channel = self.runtime.block_on(ready(&socket(&self.stand)));
    }

    /// What the drivers have written, lines of JSON.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log(&self.stand)).unwrap()
    }

    /// Another driver at the folder of the one that runs; how it ends, and what it says.
    pub(crate) fn second_driver(&self) -> (Option<i32>, String) {
        let mut command = command(&self.stand, &self.more);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The state on disk.
    pub(crate) fn state(&self) -> PathBuf {
        state(&self.stand).join("state.json")
    }

    /// Every FUSE mount below kubelet's folder, from the table of this thread.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let points = table.lines().filter(|line| line.contains(" - fuse."));
        let points = points.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.folder())).collect()
    }

    /// Nothing is mounted, nothing is served, no directory is left.
    pub(crate) fn assert_gone(&self) {
        assert_eq!(self.mounts(), Vec::<PathBuf>::new());
        assert_eq!(self.stand.keys(), Vec::<String>::new());
        assert_eq!(fs::read_dir(state(&self.stand).join("mounts")).unwrap().count(), 0);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Gone already, where a test ended it.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        for point in self.mounts() {
            let _ = umount2(&point, MntFlags::MNT_DETACH);
        }
        let _ = umount2(&self.folder(), MntFlags::MNT_DETACH);
    }
}

/// How a volume may be used that is mounted.
pub(crate) fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

/// The code of a refusal, and its words.
pub(crate) fn refusal<T>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.err().expect("a refusal");
    assert!(status.details().is_empty());
    (status.code(), status.message().to_owned())
}

fn state(stand: &Stand) -> PathBuf {
    stand.folder.path().join("kubelet/plugins/csi.s3pod/state")
}

fn socket(stand: &Stand) -> PathBuf {
    stand.folder.path().join("csi/csi.sock")
}

fn log(stand: &Stand) -> PathBuf {
    stand.folder.path().join("driver.log")
}

fn launch(stand: &Stand, more: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(log(stand)).unwrap();
    command(stand, more).stderr(log).spawn().expect("the program starts")
}

fn command(stand: &Stand, more: &[String]) -> Command {
    let folder = stand.folder.path();
    let mut command = Command::new(folder.join("s3pod-sidecar"));
    command.args(["csi", "--mode", "node", "--node-id", "node-1", "--log-format", "json"]);
    command.arg("--endpoint").arg(format!("unix://{}", socket(stand).display()));
    command.arg("--state-dir").arg(state(stand)).arg("--socket-dir").arg(stand.sockets());
    command.arg("--kubelet-dir").arg(folder.join("kubelet")).stdin(Stdio::null());
    command.args(more);
    command
}
