//! A pod's life, as kubelet leads it.
//!
//! Owns the order of things: volumes, init containers and native sidecars one by one, the
//! application, restarts with back-off, termination in order while grace lasts, and at last the
//! recursive delete of the pod's folder. Promises to do no better than kubelet does: the delete
//! crosses mounts. Must not know what runs in the containers.
//!
//! Times are scaled by [`SCALE`] where kubelet only waits to be polite (back-off, probe periods).
//! Grace periods are true: what runs in the containers measures them by its own clock.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::node::{Bind, Node};
use crate::plugin::Published;
use crate::spec::{self, Container, PodSpec, Probe, Volume};

/// Of back-off and probe periods: 10 s become 100 ms.
const SCALE: f64 = 0.01;
/// Kubelet's own numbers: the first back-off, its bound, the least grace of a container.
const BACK_OFF: Duration = Duration::from_secs(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);
const LEAST_GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// Longer than anything a healthy pod does here.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running pod. Its containers are killed when it is dropped.
pub(crate) struct Pod {
    node: Arc<Node>,
    spec: PodSpec,
    folder: PathBuf,
    kept: Mutex<Vec<Arc<Kept>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    published: Vec<Published>,
    walker: Mutex<Option<JoinHandle<()>>>,
    is_over: Arc<AtomicBool>,
}

/// A container that is kept running.
struct Kept {
    id: String,
    container: Container,
    policy: String,
    state: Mutex<State>,
    changed: Condvar,
    /// No more restarts.
    is_ending: AtomicBool,
    restarts: AtomicU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// It will not be started again; its exit code.
    Ended(i32),
}

impl Kept {
    fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
        self.changed.notify_all();
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap()
    }

    /// Waits until it has ended, at most until `until`.
    fn ends_by(&self, until: Instant) -> bool {
        let mut state = self.state.lock().unwrap();
        loop {
            if matches!(*state, State::Ended(_)) {
                return true;
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else { return false };
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Pod {
    /// Starts a pod; returns once its application containers are started.
    pub(crate) fn start(node: &Arc<Node>, name: &str, manifest: &Value) -> Self {
        let folder = node.pods().join(name);
        let mut pod = Self {
            node: Arc::clone(node),
            spec: PodSpec::read(manifest),
            folder,
            kept: Mutex::default(),
            threads: Mutex::default(),
            published: Vec::new(),
            walker: Mutex::default(),
            is_over: Arc::default(),
        };
        for volume in &pod.spec.volumes {
            pod.make(volume);
        }
        pod.published = pod.publish(name);
        pod.walk();
        for container in &pod.spec.init_containers {
            pod.init(name, container);
        }
        for container in &pod.spec.containers {
            pod.launch(name, container, &pod.spec.restart_policy.clone());
        }
        pod
    }

    /// The folder of one of its emptyDirs, on the node.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.folder.join("volumes/kubernetes.io~empty-dir").join(name)
    }

    /// Changes a file of a ConfigMap's volume as kubelet does: a new folder, and `..data` swapped.
    pub(crate) fn set_config(&self, volume: &str, file: &str, text: &str) {
        let folder = self.volume(volume);
        let count = fs::read_dir(&folder).unwrap().count();
        let version = format!("..version-{count}");
        fs::create_dir(folder.join(&version)).unwrap();
        fs::write(folder.join(&version).join(file), text).unwrap();
        let new = folder.join("..data_tmp");
        symlink(&version, &new).unwrap();
        fs::rename(&new, folder.join("..data")).unwrap();
        // There already after the first time.
        let _ = symlink(Path::new("..data").join(file), folder.join(file));
    }

    fn make(&self, volume: &Volume) {
        if let Some(config_map) = &volume.config_map {
            fs::create_dir_all(self.volume(&volume.name)).unwrap();
            for (file, text) in &config_map.data {
                self.set_config(&volume.name, file, text);
            }
        }
        let Some(empty_dir) = &volume.empty_dir else { return };
        let folder = self.volume(&volume.name);
        fs::create_dir_all(&folder).unwrap();
        if empty_dir.medium.as_deref() == Some("Memory") {
            let limit = empty_dir.size_limit.as_deref().map(spec::bytes);
            let size = limit.map(|limit| format!("size={limit}"));
            let kind = Some("tmpfs");
            mount(kind, &folder, kind, MsFlags::empty(), size.as_deref()).expect("a tmpfs");
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    }

    /// What the node's plugin mounts for this pod.
    fn publish(&self, name: &str) -> Vec<Published> {
        let volumes = self.spec.volumes.iter();
        let served = volumes.filter_map(|volume| Some((volume, volume.csi.as_ref()?)));
        let publish = |(volume, csi): (&Volume, &spec::Csi)| {
            let target = self.target(&volume.name);
            fs::create_dir_all(&target).unwrap();
            let handoff = self.volume(&csi.volume_attributes.handoff);
            Published::new(&target, &handoff, &format!("{}-{name}-", std::process::id()))
        };
        served.map(publish).collect()
    }

    fn target(&self, volume: &str) -> PathBuf {
        self.folder.join("volumes/kubernetes.io~csi").join(volume).join("mount")
    }

    /// The volume that the node mounted.
    pub(crate) fn published(&self) -> &Published {
        self.published.first().expect("a volume of the node's plugin")
    }

    fn init(&self, name: &str, container: &Container) {
        let policy = if container.is_sidecar() { "Always" } else { "OnFailure" };
        let kept = self.launch(name, container, policy);
        if container.is_sidecar() {
            self.await_started(&kept);
        } else {
            assert!(kept.ends_by(Instant::now() + PATIENCE), "{}", self.log(&container.name));
        }
    }

    fn await_started(&self, kept: &Kept) {
        let Some(probe) = &kept.container.startup_probe else { return };
        let tries = probe.failure_threshold.unwrap_or(3);
        for _ in 0..tries {
            if self.probe(kept, probe) {
                return;
            }
            thread::sleep(POLL);
        }
        let name = &kept.container.name;
        let last = self.node.exec(&kept.id, &kept.container, &probe.exec.command);
        panic!("{name} did not start in {tries} probes: {last:?}\n{}", self.log(name));
    }

    fn probe(&self, kept: &Kept, probe: &Probe) -> bool {
        kept.state() == State::Running
            && self.node.exec(&kept.id, &kept.container, &probe.exec.command).status.success()
    }

    fn launch(&self, pod: &str, container: &Container, policy: &str) -> Arc<Kept> {
        let shared = Arc::new(Kept {
            id: format!("{}-{pod}-{}", std::process::id(), container.name),
            container: container.clone(),
            policy: policy.to_owned(),
            state: Mutex::new(State::Waiting),
            changed: Condvar::new(),
            is_ending: AtomicBool::new(false),
            restarts: AtomicU32::new(0),
        });
        let (node, kept) = (Arc::clone(&self.node), Arc::clone(&shared));
        let binds = self.binds(container);
        let log = self.log_file(&container.name);
        let thread = thread::spawn(move || keep(&node, &kept, &binds, &log));
        self.kept.lock().unwrap().push(Arc::clone(&shared));
        self.threads.lock().unwrap().push(thread);
        shared
    }

    fn binds(&self, container: &Container) -> Vec<Bind> {
        let bind = |mount: &spec::VolumeMount| Bind {
            source: self.source(&mount.name),
            target: mount.mount_path.clone(),
            propagation: mount.mount_propagation.clone(),
            read_only: mount.read_only,
        };
        container.volume_mounts.iter().map(bind).collect()
    }

    fn source(&self, volume: &str) -> PathBuf {
        let target = self.target(volume);
        // Not a question to the file system: nobody may serve it yet.
        let is_published =
            self.spec.volumes.iter().any(|one| one.name == volume && one.csi.is_some());
        if is_published { target } else { self.volume(volume) }
    }

    fn log_file(&self, container: &str) -> PathBuf {
        fs::create_dir_all(self.node.path().join("logs")).unwrap();
        let pod = self.folder.file_name().unwrap().to_string_lossy().into_owned();
        self.node.path().join("logs").join(format!("{pod}-{container}.log"))
    }

    /// What a container has written so far.
    pub(crate) fn log(&self, container: &str) -> String {
        let bytes = fs::read(self.log_file(container)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn kept(&self, container: &str) -> Arc<Kept> {
        let kept = self.kept.lock().unwrap();
        let found = kept.iter().find(|kept| kept.container.name == container);
        Arc::clone(found.expect("a container of this pod"))
    }

    /// Runs a command in a container.
    pub(crate) fn exec(&self, container: &str, command: &[&str]) -> std::process::Output {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let kept = self.kept(container);
        self.node.exec(&kept.id, &kept.container, &command)
    }

    /// Runs a shell's line in a container, and gives its output; it must succeed.
    pub(crate) fn shell(&self, container: &str, line: &str) -> String {
        let output = self.exec(container, &["/bin/sh", "-c", line]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// SIGKILL to everything in a container, as for memory.
    pub(crate) fn crash(&self, container: &str) {
        self.signal(container, "KILL");
    }

    /// A signal to everything in a container.
    pub(crate) fn signal(&self, container: &str, signal: &str) {
        self.node.signal(&self.kept(container).id, signal);
    }

    pub(crate) fn restarts(&self, container: &str) -> u32 {
        self.kept(container).restarts.load(Ordering::Relaxed)
    }

    /// Waits until the application has ended by itself, then ends the sidecars, as for a Job.
    pub(crate) fn complete(&self) -> Vec<i32> {
        let mut codes = Vec::new();
        for container in &self.spec.containers {
            let kept = self.kept(&container.name);
            let ended = kept.ends_by(Instant::now() + PATIENCE);
            assert!(ended, "{} does not end:\n{}", container.name, self.log(&container.name));
            if let State::Ended(code) = kept.state() {
                codes.push(code);
            }
        }
        self.terminate(Duration::from_secs(self.spec.termination_grace_period_seconds));
        self.tear_down();
        codes
    }

    /// Deletes the pod, with this grace or its own.
    pub(crate) fn delete(&self, grace: Option<u64>) {
        let grace = grace.unwrap_or(self.spec.termination_grace_period_seconds);
        self.terminate(Duration::from_secs(grace));
        self.tear_down();
    }

    /// Each container on a thread of its own: preStop, its turn, SIGTERM, SIGKILL.
    pub(crate) fn terminate(&self, grace: Duration) {
        let all: Vec<Arc<Kept>> = self.kept.lock().unwrap().clone();
        let deadline = Instant::now() + grace;
        for kept in &all {
            kept.is_ending.store(true, Ordering::SeqCst);
        }
        thread::scope(|scope| {
            for (index, kept) in all.iter().enumerate() {
                // A sidecar waits for the application and for the sidecars behind it.
                let before =
                    if kept.container.is_sidecar() { &all[index + 1..] } else { &all[..0] };
                scope.spawn(move || end(&self.node, kept, grace, deadline, before));
            }
        });
        for thread in self.threads.lock().unwrap().drain(..) {
            thread.join().unwrap();
        }
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(walker) = self.walker.lock().unwrap().take() {
            walker.join().unwrap();
        }
    }

    /// What kubelet does once every container is gone: a recursive delete that crosses mounts,
    /// again and again until it succeeds.
    pub(crate) fn tear_down(&self) {
        let begin = Instant::now();
        loop {
            let failure = match self.remove() {
                Ok(()) => return,
                Err(error) => error,
            };
            assert!(begin.elapsed() < PATIENCE, "the pod hangs in Terminating: {failure}");
            thread::sleep(Duration::from_millis(500).mul_f64(SCALE * 10.0));
        }
    }

    /// One such try.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.published.iter().for_each(Published::unpublish);
        for volume in &self.spec.volumes {
            let is_memory = |empty_dir: &spec::EmptyDir| empty_dir.medium.is_some();
            if volume.empty_dir.as_ref().is_some_and(is_memory) {
                // Gone already where an earlier try came so far.
                let _ = umount2(&self.volume(&volume.name), MntFlags::empty());
            }
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// The usage walk: looks at every entry of every emptyDir and stops where another file system
    /// begins, but it looks at that one's root.
    fn walk(&self) {
        let is_over = Arc::clone(&self.is_over);
        let folders: Vec<PathBuf> =
            self.spec.volumes.iter().map(|volume| self.volume(&volume.name)).collect();
        let walker = thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                folders.iter().for_each(|folder| walk(folder));
                thread::sleep(Duration::from_millis(200));
            }
        });
        *self.walker.lock().unwrap() = Some(walker);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for kept in self.kept.lock().unwrap().iter() {
            kept.is_ending.store(true, Ordering::SeqCst);
            self.node.delete(&kept.id);
        }
        self.published.iter().for_each(Published::unpublish);
        self.is_over.store(true, Ordering::SeqCst);
    }
}

fn walk(folder: &Path) {
    let Ok(own) = fs::symlink_metadata(folder) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
        if found.is_dir() && found.dev() == own.dev() {
            walk(&entry.path());
        }
    }
}

/// Runs a container, and again after each end, as its policy wants.
fn keep(node: &Node, kept: &Kept, binds: &[Bind], log: &Path) {
    let mut back_off = Duration::ZERO;
    loop {
        let mut child = node.run(&kept.id, &kept.container, binds, log);
        kept.set(State::Running);
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code().unwrap_or(-1);
            }
            // memory.oom.group: with one process the kernel kills them all.
            if node.oom_kills(&kept.id) > 0 {
                node.signal(&kept.id, "KILL");
            }
            thread::sleep(POLL);
        };
        node.delete(&kept.id);
        let is_done = match kept.policy.as_str() {
            "Always" => false,
            "OnFailure" => code == 0,
            _ => true,
        };
        if is_done || kept.is_ending.load(Ordering::SeqCst) {
            return kept.set(State::Ended(code));
        }
        kept.set(State::Waiting);
        kept.restarts.fetch_add(1, Ordering::Relaxed);
        thread::sleep(back_off.mul_f64(SCALE));
        if kept.is_ending.load(Ordering::SeqCst) {
            return kept.set(State::Ended(code));
        }
        back_off = if back_off.is_zero() { BACK_OFF } else { (back_off * 2).min(BACK_OFF_MAX) };
    }
}

/// Ends one container: kubelet's killContainer.
fn end(node: &Node, kept: &Kept, grace: Duration, deadline: Instant, before: &[Arc<Kept>]) {
    let is_running = kept.state() == State::Running;
    if let Some(hook) = kept.container.lifecycle.pre_stop.as_ref()
        && !grace.is_zero()
        && is_running
    {
        node.exec(&kept.id, &kept.container, &hook.exec.command);
    }
    for other in before {
        other.ends_by(deadline);
    }
    let left = deadline.saturating_duration_since(Instant::now()).max(LEAST_GRACE);
    let until = Instant::now() + left;
    while !matches!(kept.state(), State::Ended(_)) {
        node.signal_first(&kept.id, "TERM");
        if kept.ends_by((Instant::now() + left).min(until)) || Instant::now() >= until {
            break;
        }
    }
    while !kept.ends_by(Instant::now() + POLL) {
        node.signal(&kept.id, "KILL");
    }
}
