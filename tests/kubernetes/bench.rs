//! A server, a node, and the pod that everybody starts from.
//!
//! Owns the manifest: what docs/kubernetes.md shows, with the server of the test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use s3pod_testkit::{Bucket, S3Endpoint, Server, ServerOptions, TestServer};
use serde_json::{Value, json};

use crate::clock::patience;
use crate::node::Node;
use crate::pod::Pod;
use crate::raw::Raw;

pub(crate) const BUCKET: &str = "photos";
/// A shell that is process 1 ends at SIGTERM only if it says so.
pub(crate) const IDLE: &str = "trap 'exit 0' TERM; echo up; while true; do sleep 0.1; done";

/// Has the file `log` open with `first` in it. Nobody closes it, not even a copy of its descriptor.
pub(crate) const OPEN: &str = "(echo first; sleep 600) | dd of=/s3/data/log bs=6 2> /dev/null & \
    until [ -s /s3/data/log ]; do sleep 0.1; done; echo up; while true; do sleep 0.1; done";

pub(crate) struct Bench {
    store: Server,
    endpoint: S3Endpoint,
    pub(crate) node: Arc<Node>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::on(Node::new())
    }

    /// The same on a node that has something of its own.
    pub(crate) fn on(node: Node) -> Self {
        // Whoever looks at the bucket from outside signs nothing.
        let options = ServerOptions { anonymous: true, ..ServerOptions::with_bucket(BUCKET) };
        let server = TestServer::spawn(options);
        Self::with(Server::Ours(Box::new(server)), node)
    }

    /// On somebody else's store.
    pub(crate) fn on_seaweedfs() -> Self {
        // Started before the node's namespace is made: it has no part in that.
        let store = Server::seaweed().unwrap();
        Self::with(store, Node::new())
    }

    fn with(store: Server, node: Node) -> Self {
        let endpoint = store.s3_endpoint(BUCKET).unwrap();
        Self { store, endpoint, node: Arc::new(node) }
    }

    /// The server of the tests, where it is that.
    pub(crate) fn server(&self) -> &TestServer {
        match &self.store {
            Server::Ours(server) => server,
            Server::Seaweed(_) => panic!("not on SeaweedFS"),
        }
    }

    /// The bucket, on the server of the tests.
    pub(crate) fn bucket(&self) -> Bucket {
        self.server().bucket(BUCKET)
    }

    /// The bucket as anybody sees it.
    pub(crate) fn objects(&self) -> Raw {
        Raw::new(self.endpoint.clone())
    }

    /// The store's access key, and its secret.
    pub(crate) fn keys(&self) -> (&str, &str) {
        (&self.endpoint.access_key, &self.endpoint.secret_key)
    }

    /// How large an object is, where it is there.
    pub(crate) fn size_of(&self, key: &str) -> Option<u64> {
        self.objects().head(key)?.header("content-length")?.parse().ok()
    }

    pub(crate) fn start(&self, manifest: &Value) -> Pod {
        Pod::start(&self.node, "pod", manifest)
    }

    /// A pod whose application runs this shell's line.
    pub(crate) fn manifest(&self, line: &str) -> Value {
        let shared = |how: &str| {
            let mount = json!({"name": "s3", "mountPath": "/s3", "mountPropagation": how});
            json!([mount])
        };
        json!({"kind": "Pod", "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 30,
            "initContainers": [
                {"name": "janitor", "image": "s3pod", "restartPolicy": "Always",
                 "args": ["janitor", "/s3"],
                 "securityContext": {"privileged": true},
                 "volumeMounts": shared("Bidirectional")},
                self.sidecar(),
            ],
            "containers": [
                {"name": "app", "image": "busybox", "command": ["/bin/sh", "-c", line],
                 "volumeMounts": shared("HostToContainer")},
            ],
            "volumes": [
                {"name": "s3", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "cache", "emptyDir": {}},
            ],
        }})
    }

    /// A pod whose application runs this shell's line on a volume that the node mounts and a
    /// container without any privilege serves.
    pub(crate) fn unprivileged(&self, line: &str) -> Value {
        json!({"kind": "Pod", "spec": {
            "restartPolicy": "Never",
            "initContainers": [
                {"name": "s3", "image": "s3pod", "restartPolicy": "Always",
                 "args": ["serve", "--volume", "v", BUCKET, "/handoff/s3pod.sock"],
                 "env": self.env(),
                 "securityContext": {"runAsUser": 65534, "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"}},
                 "resources": {"limits": {"memory": "256Mi"}},
                 "startupProbe": {
                    "exec": {"command": ["/s3pod", "health", "--served", "/handoff/s3pod.sock"]},
                    "periodSeconds": 1, "failureThreshold": 300},
                 "volumeMounts": [
                    {"name": "handoff", "mountPath": "/handoff"},
                    {"name": "cache", "mountPath": "/cache"},
                 ]},
            ],
            "containers": [
                {"name": "app", "image": "busybox", "command": ["/bin/sh", "-c", line],
                 "securityContext": {"runAsUser": 65534, "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"}},
                 "volumeMounts": [{"name": "data", "mountPath": "/data",
                    "mountPropagation": "HostToContainer"}]},
            ],
            "volumes": [
                {"name": "data", "csi": {"volumeAttributes": {"handoff": "handoff"}}},
                {"name": "handoff", "emptyDir": {}},
                {"name": "cache", "emptyDir": {}},
            ],
        }})
    }

    /// What the server is told by its environment.
    pub(crate) fn env(&self) -> Vec<Value> {
        let endpoint = &self.endpoint;
        let mut env: Vec<Value> = endpoint
            .environment()
            .into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        env.push(json!({"name": "S3POD_ENDPOINT_URL", "value": endpoint.endpoint}));
        env.push(json!({"name": "S3POD_CACHE_DIR", "value": "/cache"}));
        env
    }

    /// The container that serves the bucket.
    fn sidecar(&self) -> Value {
        json!({"name": "s3", "image": "s3pod", "restartPolicy": "Always",
        "args": ["run", BUCKET, "/s3/data"],
        "env": self.env(),
        "securityContext": {"privileged": true},
        "resources": {"limits": {"memory": "256Mi"}},
        "startupProbe": {
            "exec": {"command": ["/s3pod", "health", "--mounted", "/s3/data"]},
            "periodSeconds": 1, "failureThreshold": 300},
        "lifecycle": {"preStop": {
            "exec": {"command": ["/s3pod-sidecar", "drain-hint", "/s3/data"]}}},
        "volumeMounts": [
            {"name": "s3", "mountPath": "/s3", "mountPropagation": "Bidirectional"},
            {"name": "cache", "mountPath": "/cache"},
        ]})
    }

    /// A pod whose application does nothing but live, once it does.
    pub(crate) fn start_idle(&self) -> Pod {
        let pod = self.start(&self.manifest(IDLE));
        up(&pod);
        pod
    }

    /// Whether a bucket is mounted on the node.
    pub(crate) fn has_mount(&self) -> bool {
        // The table of this thread: the process's own is that of its first thread.
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let own = self.node.path().to_str().unwrap();
        table.lines().any(|line| line.contains(own) && line.contains("fuse.s3pod"))
    }

    /// Nothing is left of a pod: no mount, no folder; the bucket has what it should.
    pub(crate) fn assert_gone(&self) {
        assert!(!self.has_mount());
        let pods = std::fs::read_dir(self.node.pods()).unwrap();
        assert_eq!(pods.count(), 0);
    }
}

/// Waits until the application has said that it is up.
pub(crate) fn up(pod: &Pod) {
    wait_until("the application runs", || pod.log("app").contains("up"));
}

pub(crate) fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_within(patience(), what, is_so);
}

/// The same for what takes its time.
pub(crate) fn wait_within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < patience, "in vain: until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
