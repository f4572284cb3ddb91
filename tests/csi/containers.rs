//! Containers on published volumes: crun, as the suite of whole pods has it.
//!
//! Owns a running container, and what its processes are doing. Promises: each is in its pod's
//! cgroup, where kubelet would have put it, and ends with the test. Must not know volumes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::node::{Bind, GROUPS, Node};
use crate::spec::Container;
use crate::stand::until;

/// A container that runs until it is dropped.
pub(crate) struct Running {
    node: Arc<Node>,
    pod: String,
    id: String,
    what: Container,
    binds: Vec<Bind>,
    child: Child,
}

/// A place of the node in a container.
pub(crate) fn bind(source: &Path, target: &str, propagation: Option<&str>) -> Bind {
    Bind {
        source: source.to_owned(),
        target: target.to_owned(),
        propagation: propagation.map(str::to_owned),
        read_only: false,
    }
}

/// A container's words about who it runs as: nobody, who may do nothing.
pub(crate) fn nobody() -> Value {
    json!({"runAsUser": 65534, "capabilities": {"drop": ["ALL"]}})
}

impl Running {
    /// Starts a container of a pod, by its words in a manifest.
    pub(crate) fn start(node: &Arc<Node>, pod: &str, what: Value, binds: Vec<Bind>) -> Self {
        let what: Container = serde_json::from_value(what).unwrap();
        let id = format!("{}-{pod}-{}", std::process::id(), what.name);
        let child = launch(node, pod, &id, &what, &binds);
        Self { node: Arc::clone(node), pod: pod.to_owned(), id, what, binds, child }
    }

    /// Waits until commands can be run in it.
    pub(crate) fn up(self) -> Self {
        until("the container runs", || self.exec(&["/bin/true"]).status.success());
        self
    }

    pub(crate) fn exec(&self, command: &[&str]) -> Output {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        self.node.exec(&self.id, &self.what, &command)
    }

    /// What a file says, or why it cannot be read.
    pub(crate) fn read(&self, path: &str) -> String {
        let output = self.exec(&["/bin/cat", path]);
        let said = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Everything that it has written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log(&self.node, &self.id)).unwrap_or_default()
    }

    /// Kills every process in it, and waits for their ends.
    pub(crate) fn kill(&mut self) {
        self.node.signal(&self.id, "KILL");
        self.child.wait().unwrap();
        self.node.delete(&self.id);
    }

    /// Starts it anew, as kubelet does when it has ended.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = launch(&self.node, &self.pod, &self.id, &self.what, &self.binds);
        until("the container runs", || self.exec(&["/bin/true"]).status.success());
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let group = group(&self.pod, &self.id);
        let files = ["memory/", ""].map(|kind| groups().join(format!("{kind}{GROUPS}/{group}")));
        let read = |folder: &PathBuf| fs::read_to_string(folder.join("cgroup.procs")).ok();
        let listed = files.iter().find_map(read).unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.delete(&self.id);
        // Gone already, where the test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The pod's own groups; the last container finds them empty.
        for kind in fs::read_dir(groups()).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(kind.path().join(GROUPS).join(pod_group(&self.pod)));
        }
        let _ = fs::remove_dir(groups().join(GROUPS).join(pod_group(&self.pod)));
    }
}

fn launch(node: &Node, pod: &str, id: &str, what: &Container, binds: &[Bind]) -> Child {
    node.run_in(&group(pod, id), id, what, binds, &log(node, id))
}

fn groups() -> PathBuf {
    PathBuf::from("/sys/fs/cgroup")
}

/// As kubelet calls a pod's cgroup.
fn pod_group(pod: &str) -> String {
    format!("pod{pod}")
}

fn group(pod: &str, id: &str) -> String {
    format!("{}/{id}", pod_group(pod))
}

fn log(node: &Node, id: &str) -> PathBuf {
    node.path().join(format!("{id}.log"))
}

/// True for a process that waits in the kernel, and cannot be asked for anything meanwhile.
pub(crate) fn is_stuck(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may have any character in it, but the last `)` is behind it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
}
