//! Volumes that a pod's own sidecar serves: `server: sidecar`.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;
use s3pod_testkit::csi::{Code, NodePublishVolumeRequest};
use serde_json::{Value, json};

use crate::containers::{Running, bind, nobody};
use crate::kubelet::{Kubelet, refusal};
use crate::node::Node;
use crate::silent::{freeze, thaw};
use crate::stand::{BUCKET, until};

const IDLE: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

/// A node, and a pod on it whose sidecar is to serve a volume.
struct Bench {
    kubelet: Kubelet,
    node: Arc<Node>,
    /// The pod's uid: no other test's, since cgroups are the machine's.
    pod: String,
}

impl Bench {
    fn new() -> Self {
        let kubelet = Kubelet::new();
        kubelet.stand.bucket().put("a", "hello");
        let pod = format!("0f-{}", std::process::id());
        let bench = Self { kubelet, node: Arc::new(Node::here()), pod };
        for name in ["handoff", "cache"] {
            let folder = bench.empty_dir(name);
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        }
        bench
    }

    fn empty_dir(&self, name: &str) -> PathBuf {
        let pod = self.kubelet.folder().join("pods").join(&self.pod);
        pod.join("volumes/kubernetes.io~empty-dir").join(name)
    }

    fn socket(&self) -> PathBuf {
        self.empty_dir("handoff").join("s3pod.sock")
    }

    fn target(&self) -> PathBuf {
        self.kubelet.target(&self.pod)
    }

    fn call(&self) -> NodePublishVolumeRequest {
        let mut call = self.kubelet.call("v", &self.pod);
        call.volume_context.insert("server".into(), "sidecar".into());
        call.secrets.clear();
        call
    }

    fn published(self) -> Self {
        self.kubelet.republish(&self.call()).unwrap();
        self
    }

    /// The code and the words of a republish that fails.
    fn trouble(&self, words: &str) {
        let mut said = String::new();
        until("kubelet hears of it", || match self.kubelet.republish(&self.call()) {
            Ok(()) => false,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                status.message().clone_into(&mut said);
                true
            }
        });
        assert!(said.contains(words), "{said}");
        // Once.
        self.kubelet.republish(&self.call()).unwrap();
    }

    fn sidecar(&self, more: &[&str]) -> Running {
        self.sidecar_in(&self.pod, more)
    }

    /// One that serves as if it were the pod's.
    fn sidecar_in(&self, pod: &str, more: &[&str]) -> Running {
        let endpoint = self.kubelet.stand.store.s3_endpoint(BUCKET);
        let named = |(name, value): (&str, String)| json!({"name": name, "value": value});
        let mut env: Vec<Value> = endpoint.environment().into_iter().map(named).collect();
        env.push(named(("S3POD_ENDPOINT_URL", endpoint.endpoint.clone())));
        env.push(named(("S3POD_CACHE_DIR", "/cache".to_owned())));
        let args: Vec<&str> = ["serve"].iter().chain(more).copied().collect();
        let args = [&args[..], &[BUCKET, "/handoff/s3pod.sock"]].concat();
        let what = json!({"name": "s3", "image": "s3pod", "args": args, "env": env,
            "securityContext": nobody()});
        let binds =
            ["handoff", "cache"].map(|name| bind(&self.empty_dir(name), &format!("/{name}"), None));
        Running::start(&self.node, pod, what, binds.into())
    }

    fn app(&self) -> Running {
        let what = json!({"name": "app", "image": "busybox", "command": ["/bin/sh", "-c", IDLE],
            "securityContext": nobody()});
        let binds = vec![bind(&self.target(), "/data", Some("HostToContainer"))];
        Running::start(&self.node, &self.pod, what, binds).up()
    }

    fn end(&self, containers: Vec<Running>) {
        drop(containers);
        self.kubelet.unpublish("v", &self.target()).unwrap();
        assert!(fs::symlink_metadata(self.target()).is_err());
        self.kubelet.assert_gone();
    }
}

#[test]
fn a_sidecar_without_privileges_serves_its_pod_and_may_end_and_come_back() {
    let bench = Bench::new().published();
    assert!(bench.kubelet.stand.keys().is_empty(), "the node's server has no part in it");
    let path = bench.target().to_str().unwrap().to_owned();
    let code = refusal(bench.kubelet.stats("v", &path)).0;
    assert_eq!(code, Code::Unavailable, "nobody can say how full it is yet");
    bench.kubelet.republish(&bench.call()).unwrap();
    let mut sidecar = bench.sidecar(&[]).up();
    let app = bench.app();
    assert_eq!(app.read("/data/a"), "hello", "{}", sidecar.log());
    let status = sidecar.read("/proc/1/status");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let written = app.exec(&["/bin/sh", "-c", "echo from the pod > /data/b"]);
    assert!(written.status.success(), "{written:?}");
    assert_eq!(bench.kubelet.stand.bucket().get("b").unwrap(), "from the pod\n");
    assert_eq!(bench.kubelet.stats("v", &path).unwrap().len(), 1);

    sidecar.kill();
    bench.trouble("the pod's sidecar has ended");
    sidecar.restart();
    until("the application reads again", || app.read("/data/a") == "hello");
    bench.kubelet.republish(&bench.call()).unwrap();
    bench.end(vec![app, sidecar]);
}

#[test]
fn the_driver_may_be_replaced_before_and_after_the_sidecar_begins() {
    let mut bench = Bench::new().published();
    bench.kubelet.restart(Signal::SIGKILL, |_| ());
    let mut sidecar = bench.sidecar(&[]).up();
    let app = bench.app();
    until("it is served by the second driver", || app.read("/data/a") == "hello");
    for by in [Signal::SIGTERM, Signal::SIGKILL] {
        bench.kubelet.restart(by, |_| assert_eq!(app.read("/data/a"), "hello"));
        bench.kubelet.republish(&bench.call()).unwrap();
        assert_eq!(bench.kubelet.stats("v", bench.target().to_str().unwrap()).unwrap().len(), 1);
    }
    let before = bench.kubelet.mounts();
    // What was written down is lost: the sidecar's name comes with kubelet's next call.
    bench.kubelet.restart(Signal::SIGKILL, |kubelet| fs::write(kubelet.state(), "{").unwrap());
    assert_eq!(app.read("/data/a"), "hello");
    bench.kubelet.republish(&bench.call()).unwrap();
    assert_eq!(bench.kubelet.stats("v", bench.target().to_str().unwrap()).unwrap().len(), 1);
    assert_eq!(app.read("/data/a"), "hello");
    assert_eq!(bench.kubelet.mounts(), before, "nothing was mounted anew");
    // The line is there again: the new driver notices the sidecar's end at once.
    sidecar.restart();
    until("it is mounted anew", || app.read("/data/a") == "hello");
    bench.end(vec![app, sidecar]);
}

#[test]
fn a_sidecar_that_says_nothing_to_a_new_driver_keeps_its_mount() {
    let mut bench = Bench::new().published();
    let sidecar = bench.sidecar(&[]).up();
    let app = bench.app();
    until("it is served", || app.read("/data/a") == "hello");
    let (before, processes) = (bench.kubelet.mounts(), sidecar.processes());
    bench.kubelet.restart(Signal::SIGKILL, |_| processes.iter().for_each(|pid| freeze(*pid)));
    bench.trouble("the pod's sidecar does not say whether it serves the volume");
    processes.iter().for_each(|pid| thaw(*pid));
    let path = bench.target().to_str().unwrap().to_owned();
    until("it is known again", || bench.kubelet.stats("v", &path).is_ok());
    bench.kubelet.republish(&bench.call()).unwrap();
    assert_eq!(app.read("/data/a"), "hello");
    assert_eq!((bench.kubelet.mounts(), sidecar.processes()), (before, processes));
    bench.end(vec![app, sidecar]);
}

#[test]
fn nobody_but_the_pod_gets_its_mount() {
    let bench = Bench::new().published();
    let socket = bench.socket();
    let stranger = UnixListener::bind(&socket).unwrap();
    bench.trouble("no process of the pod");
    let (mut line, _) = stranger.accept().unwrap();
    let mut heard = Vec::new();
    line.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"", "not even what would be handed over");
    // A link that leads out of the pod's folder, to somebody who would be believed.
    fs::remove_file(&socket).unwrap();
    let elsewhere = bench.kubelet.folder().join("elsewhere.sock");
    let other = UnixListener::bind(&elsewhere).unwrap();
    symlink(&elsewhere, &socket).unwrap();
    bench.trouble("symbolic links");
    other.set_nonblocking(true).unwrap();
    let heard = other.accept().unwrap_err();
    assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
    fs::remove_file(&socket).unwrap();
    // A server in the right place, in another pod's cgroup.
    let foreign = bench.sidecar_in(&format!("{}1", bench.pod), &[]).up();
    bench.trouble("no process of the pod");
    drop(foreign);
    let sidecar = bench.sidecar(&[]).up();
    until("the pod's own sidecar is taken", || fs::read(bench.target().join("a")).is_ok());
    bench.end(vec![sidecar]);
}

#[test]
fn a_sidecar_that_refuses_and_an_emptydir_that_is_not_there_are_told_once() {
    let bench = Bench::new();
    let mut call = bench.call();
    call.volume_context.insert("handoff".into(), "other".into());
    bench.kubelet.republish(&call).unwrap();
    let mut said = String::new();
    until("kubelet hears of it", || {
        bench
            .kubelet
            .republish(&call)
            .map_err(|status| status.message().clone_into(&mut said))
            .is_err()
    });
    assert!(said.contains("no emptyDir `other`"), "{said}");
    bench.kubelet.republish(&call).unwrap();
    bench.kubelet.unpublish("v", &bench.target()).unwrap();
    bench.kubelet.assert_gone();

    let bench = bench.published();
    let wrong = bench.sidecar(&["--volume", "other"]).up();
    bench.trouble("is not served here");
    drop(wrong);
    let sidecar = bench.sidecar(&["--volume", "handoff"]).up();
    until("the right one takes it", || fs::read(bench.target().join("a")).is_ok());
    bench.end(vec![sidecar]);
}

#[test]
fn what_cannot_be_served_by_a_sidecar_is_refused_by_its_field() {
    type Change = fn(&mut NodePublishVolumeRequest);
    let bench = Bench::new();
    let wrong: [(&str, Change); 6] = [
        ("nodePublishSecretRef", |call| {
            call.secrets.insert("accessKeyId".into(), "AKIA".into());
            call.secrets.insert("secretAccessKey".into(), "s3cr3t".into());
        }),
        ("volumeAttributes.metadataTtl", |call| {
            call.volume_context.insert("metadataTtl".into(), "5m".into());
        }),
        ("volumeAttributes.handoff", |call| {
            call.volume_context.insert("handoff".into(), "../other".into());
        }),
        ("csi.storage.k8s.io/pod.uid", |call| {
            call.volume_context.remove("csi.storage.k8s.io/pod.uid");
        }),
        ("target_path", |call| {
            call.volume_context.insert("csi.storage.k8s.io/pod.uid".into(), "another".into());
        }),
        ("target_path", |call| {
            call.volume_context.insert("csi.storage.k8s.io/pod.uid".into(), "..".into());
        }),
    ];
    for (field, change) in wrong {
        let mut call = bench.call();
        change(&mut call);
        let (code, said) = refusal(bench.kubelet.republish(&call));
        assert_eq!(code, Code::InvalidArgument, "{field}: {said}");
        assert!(said.contains(field) && !said.contains("s3cr3t"), "{field}: {said}");
        assert!(!Path::new(&call.target_path).exists());
    }
    bench.kubelet.assert_gone();
}

/// What is handed over in one emptyDir goes to whoever listens there.
#[test]
fn a_second_volume_of_a_pod_needs_an_emptydir_of_its_own() {
    let bench = Bench::new().published();
    let second = bench.empty_dir("second");
    fs::create_dir_all(&second).unwrap();
    let mut call = bench.call();
    call.volume_id = "w".to_owned();
    let target = bench.target().parent().unwrap().with_file_name("second").join("mount");
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    call.target_path = target.to_str().unwrap().to_owned();
    let (code, said) = refusal(bench.kubelet.republish(&call));
    assert_eq!(code, Code::InvalidArgument, "{said}");
    for words in ["volumeAttributes.handoff", "`handoff`", "volume v", "an emptyDir of its own"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!target.exists());
    call.volume_context.insert("handoff".into(), "second".into());
    bench.kubelet.republish(&call).unwrap();
    bench.kubelet.unpublish("w", &target).unwrap();
    // The first one is as it was.
    let sidecar = bench.sidecar(&[]).up();
    until("it is served", || fs::read(bench.target().join("a")).is_ok());
    bench.end(vec![sidecar]);
}
