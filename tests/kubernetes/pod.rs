//! A pod's life, as kubelet leads it.
//!
//! Owns the order of things: volumes, init containers and native sidecars one by one, the
//! application, restarts with back-off, probes, termination in order while grace lasts, and at
//! last the removal of the pod's folder. Must not know what runs in the containers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clock::{patience, scaled};
use crate::node::Node;
use crate::plugin::Published;
use crate::spec::{Container, PodSpec, Probe};
use crate::volumes::Volumes;

/// Kubelet's own numbers: the first back-off, the least grace of a container, how often it looks
/// at what emptyDirs take, and tries again to tear down.
const BACK_OFF: Duration = Duration::from_secs(10);
const LEAST_GRACE: Duration = Duration::from_secs(2);
const USAGE_PERIOD: Duration = Duration::from_secs(20);
const TEAR_DOWN_PERIOD: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// A running pod. Its containers are killed when it is dropped.
pub(crate) struct Pod {
    node: Arc<Node>,
    spec: PodSpec,
    name: String,
    volumes: Arc<Volumes>,
    kept: Mutex<Vec<Arc<Kept>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    published: Vec<Published>,
    observers: Mutex<Vec<JoinHandle<()>>>,
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
    /// What its readiness probe said last; at once where it has none.
    is_ready: AtomicBool,
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
        let spec = PodSpec::read(manifest);
        let volumes = Volumes::make(node.pods().join(name), &spec);
        let published = volumes.publish(name);
        let pod = Self {
            node: Arc::clone(node),
            spec,
            name: name.to_owned(),
            volumes: Arc::new(volumes),
            kept: Mutex::default(),
            threads: Mutex::default(),
            published,
            observers: Mutex::default(),
            is_over: Arc::default(),
        };
        let walked = Arc::clone(&pod.volumes);
        pod.observe(USAGE_PERIOD, move || walked.walk());
        for container in &pod.spec.init_containers {
            pod.init(container);
        }
        for container in &pod.spec.containers {
            let kept = pod.launch(container, &pod.spec.restart_policy.clone());
            pod.watch_readiness(kept);
        }
        pod
    }

    /// The folder of one of its emptyDirs, on the node.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.volumes.folder_of(name)
    }

    /// Changes a file of a ConfigMap's or a Secret's volume.
    pub(crate) fn set_config(&self, volume: &str, file: &str, text: &str) {
        self.volumes.set_config(volume, file, text);
    }

    /// The volume that the node mounted.
    pub(crate) fn published(&self) -> &Published {
        self.published.first().expect("a volume of the node's plugin")
    }

    /// How many roots of mounts kubelet's looks at the volumes have met so far.
    pub(crate) fn roots_seen(&self) -> u32 {
        self.volumes.roots_seen()
    }

    fn init(&self, container: &Container) {
        let policy = if container.is_sidecar() { "Always" } else { "OnFailure" };
        let kept = self.launch(container, policy);
        if container.is_sidecar() {
            self.await_started(&kept);
            self.watch_readiness(kept);
        } else {
            assert!(kept.ends_by(Instant::now() + patience()), "{}", self.log(&container.name));
        }
    }

    fn await_started(&self, kept: &Kept) {
        let Some(probe) = &kept.container.startup_probe else { return };
        let tries = probe.failure_threshold.unwrap_or(3);
        for _ in 0..tries {
            if probed(&self.node, kept, probe) {
                return;
            }
            thread::sleep(scaled(probe.period()));
        }
        let name = &kept.container.name;
        let last = self.node.exec(&kept.id, &kept.container, &probe.exec.command);
        panic!("{name} did not start in {tries} probes: {last:?}\n{}", self.log(name));
    }

    fn watch_readiness(&self, kept: Arc<Kept>) {
        let Some(probe) = kept.container.readiness_probe.clone() else { return };
        let node = Arc::clone(&self.node);
        let threshold = probe.failure_threshold.unwrap_or(3);
        let mut failures = 0;
        self.observe(probe.period(), move || {
            failures = if probed(&node, &kept, &probe) { 0 } else { failures + 1 };
            if failures == 0 || failures >= threshold {
                kept.is_ready.store(failures == 0, Ordering::SeqCst);
            }
        });
    }

    /// Does something again and again while the pod lives.
    fn observe(&self, period: Duration, mut look: impl FnMut() + Send + 'static) {
        let is_over = Arc::clone(&self.is_over);
        let observer = thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                look();
                let next = Instant::now() + scaled(period);
                while Instant::now() < next && !is_over.load(Ordering::SeqCst) {
                    thread::sleep(POLL);
                }
            }
        });
        self.observers.lock().unwrap().push(observer);
    }

    fn launch(&self, container: &Container, policy: &str) -> Arc<Kept> {
        let shared = Arc::new(Kept {
            id: format!("{}-{}-{}", std::process::id(), self.name, container.name),
            container: container.clone(),
            policy: policy.to_owned(),
            state: Mutex::new(State::Waiting),
            changed: Condvar::new(),
            is_ending: AtomicBool::new(false),
            restarts: AtomicU32::new(0),
            is_ready: AtomicBool::new(container.readiness_probe.is_none()),
        });
        let (node, kept) = (Arc::clone(&self.node), Arc::clone(&shared));
        let volumes = Arc::clone(&self.volumes);
        let log = self.log_file(&container.name);
        let thread = thread::spawn(move || keep(&node, &kept, &volumes, &log));
        self.kept.lock().unwrap().push(Arc::clone(&shared));
        self.threads.lock().unwrap().push(thread);
        shared
    }

    fn log_file(&self, container: &str) -> PathBuf {
        fs::create_dir_all(self.node.path().join("logs")).unwrap();
        self.node.path().join("logs").join(format!("{}-{container}.log", self.name))
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
    pub(crate) fn exec(&self, container: &str, command: &[&str]) -> Output {
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

    /// The limit of memory that the kernel keeps a container to.
    pub(crate) fn memory_limit(&self, container: &str) -> u64 {
        self.node.memory_limit(&self.kept(container).id)
    }

    /// How many of its processes the kernel has killed for it since its last start.
    pub(crate) fn oom_kills(&self, container: &str) -> u64 {
        self.node.oom_kills(&self.kept(container).id)
    }

    pub(crate) fn has_ended(&self, container: &str) -> bool {
        matches!(self.kept(container).state(), State::Ended(_))
    }

    pub(crate) fn restarts(&self, container: &str) -> u32 {
        self.kept(container).restarts.load(Ordering::Relaxed)
    }

    /// Whether its readiness probe is content.
    pub(crate) fn is_ready(&self, container: &str) -> bool {
        self.kept(container).is_ready.load(Ordering::SeqCst)
    }

    /// Waits until the application has ended by itself, then ends the sidecars, as for a Job.
    pub(crate) fn complete(&self) -> Vec<i32> {
        let mut codes = Vec::new();
        for container in &self.spec.containers {
            let kept = self.kept(&container.name);
            let ended = kept.ends_by(Instant::now() + patience());
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
        for observer in self.observers.lock().unwrap().drain(..) {
            observer.join().unwrap();
        }
    }

    /// What kubelet does once every container is gone, again and again until it succeeds.
    pub(crate) fn tear_down(&self) {
        let begin = Instant::now();
        loop {
            let failure = match self.remove() {
                Ok(()) => return,
                Err(error) => error,
            };
            assert!(begin.elapsed() < patience(), "the pod hangs in Terminating: {failure}");
            thread::sleep(scaled(TEAR_DOWN_PERIOD));
        }
    }

    /// One such try.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.volumes.remove(&self.published)
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

/// Asks a container's probe: a command that runs in it, charged to it.
fn probed(node: &Node, kept: &Kept, probe: &Probe) -> bool {
    let asked = || node.try_exec(&kept.id, &kept.container, &probe.exec.command, probe.timeout());
    kept.state() == State::Running && asked().is_some_and(|output| output.status.success())
}

/// Runs a container, and again after each end, as its policy wants.
fn keep(node: &Node, kept: &Kept, volumes: &Volumes, log: &Path) {
    let mut back_off = Duration::ZERO;
    loop {
        let code = live(node, kept, volumes, log);
        kept.is_ready.store(kept.container.readiness_probe.is_none(), Ordering::SeqCst);
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
        thread::sleep(scaled(back_off));
        if kept.is_ending.load(Ordering::SeqCst) {
            return kept.set(State::Ended(code));
        }
        back_off = if back_off.is_zero() { BACK_OFF } else { back_off * 2 };
        back_off = back_off.min(node.back_off_max());
    }
}

/// Runs a container once; its exit code.
fn live(node: &Node, kept: &Kept, volumes: &Volumes, log: &Path) -> i32 {
    let binds = match volumes.binds(&kept.container) {
        Ok(binds) => binds,
        Err(error) => {
            fs::write(log, format!("cannot be started: {error}\n")).unwrap();
            return 128;
        }
    };
    let mut child = node.run(&kept.id, &kept.container, &binds, log);
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
    code
}

/// Ends one container: kubelet's killContainer.
fn end(node: &Node, kept: &Kept, grace: Duration, deadline: Instant, before: &[Arc<Kept>]) {
    let is_running = kept.state() == State::Running;
    if let Some(hook) = kept.container.lifecycle.pre_stop.as_ref()
        && !grace.is_zero()
        && is_running
    {
        // One that takes longer than the whole grace is left to itself.
        node.try_exec(&kept.id, &kept.container, &hook.exec.command, grace);
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
