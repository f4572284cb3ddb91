//! A node: a mount namespace of its own, a root file system for containers, and crun.
//!
//! Owns what kubelet and the container runtime own on a machine. Promises: no mount of it is seen
//! outside; containers of a run that died are swept by the next. Must not know pods.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::seccomp;
use crate::spec::{self, Container};

/// Where crun keeps its state, for every node of this machine.
const STATE: &str = "/run/s3pod-test-pods";
const BUSYBOX: &str = "/bin/busybox";
/// The cgroup of all containers.
pub(crate) const GROUPS: &str = "s3pod-test-pods";
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const FIO: &str = "/usr/bin/fio";

/// The bound of the back-off of a container that crashes again and again.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(5);

/// Applets the applications use.
const APPLETS: [&str; 18] = [
    "cat", "cp", "dd", "find", "grep", "id", "ls", "mkdir", "mount", "mv", "rm", "sh", "sleep",
    "sync", "touch", "trap", "true", "unshare",
];

/// What containerd leaves a container that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What a privileged one has beside those, as far as it matters to a file system.
const PRIVILEGED: [&str; 4] =
    ["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_IPC_LOCK"];

/// The node; the thread that makes it, and those it starts from then on, live in its namespace.
pub(crate) struct Node {
    folder: TempDir,
    back_off_max: Duration,
}

/// A place of the node in a container.
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) propagation: Option<String>,
    pub(crate) read_only: bool,
}

impl Node {
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
        drop_copies();
        let node = Self::here();
        // The folder of kubelet, which must be shared for propagation to work at all; a mount of
        // its own, since crun makes the one that a root file system is on private.
        let pods = node.pods();
        fs::create_dir(&pods).unwrap();
        mount(Some(&pods), &pods, none, MsFlags::MS_BIND, none).expect("a bind");
        mount(none, &pods, none, MsFlags::MS_SHARED, none).expect("a shared mount");
        node
    }

    /// A runtime in the mount namespace that this thread has, for pods of somebody else.
    pub(crate) fn here() -> Self {
        assert!(Path::new(BUSYBOX).exists(), "busybox-static is missing; run `make setup`");
        sweep();
        // crun refuses both versions of cgroups at once, so of both only the first stays.
        if Path::new("/sys/fs/cgroup/memory").exists() {
            let _ = umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH);
        }
        let folder = TempDir::with_prefix("s3pod-node-").unwrap();
        let node = Self { folder, back_off_max: BACK_OFF_MAX };
        node.fill_root();
        node
    }

    /// The same with another bound of the back-off: `crashLoopBackOff.maxContainerRestartPeriod`
    /// of kubelet's configuration.
    pub(crate) fn restarting_within(mut self, back_off_max: Duration) -> Self {
        self.back_off_max = back_off_max;
        self
    }

    pub(crate) fn back_off_max(&self) -> Duration {
        self.back_off_max
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the pods' folders are.
    pub(crate) fn pods(&self) -> PathBuf {
        self.path().join("pods")
    }

    fn root(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// A root file system: busybox, and the libraries of our own programs, which are bound in.
    fn fill_root(&self) {
        let root = self.root();
        for folder in
            ["bin", "dev", "etc", "proc", "sys", "tmp", "s3", "cache", "config", "data", "handoff"]
        {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        for (name, program) in programs() {
            File::create(root.join(name)).unwrap();
            self.bring_libraries(&program);
        }
        // As in the image. They do not know the authorities of any test.
        let place = root.join(AUTHORITIES.strip_prefix('/').unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(AUTHORITIES, place).expect("ca-certificates is installed");
        // What is bound over them is the pod's.
        for name in ["hosts", "resolv.conf"] {
            File::create(root.join("etc").join(name)).unwrap();
        }
    }

    /// Puts fio into the containers' root file system.
    pub(crate) fn bring_fio(&self) {
        assert!(Path::new(FIO).exists(), "fio is missing; run `make setup`");
        fs::copy(FIO, self.root().join("bin/fio")).unwrap();
        self.bring_libraries(Path::new(FIO));
    }

    fn bring_libraries(&self, program: &Path) {
        for library in libraries(program) {
            let place = self.root().join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(&library, place).unwrap();
        }
    }

    /// Starts a container; its output goes to `log`. The child is crun, which ends with it.
    pub(crate) fn run(&self, id: &str, what: &Container, binds: &[Bind], log: &Path) -> Child {
        self.run_in(id, id, what, binds, log)
    }

    /// The same in a cgroup of this name, which may have slashes in it.
    pub(crate) fn run_in(
        &self,
        group: &str,
        id: &str,
        what: &Container,
        binds: &[Bind],
        log: &Path,
    ) -> Child {
        let bundle = self.path().join("bundles").join(id);
        fs::create_dir_all(&bundle).unwrap();
        let config = self.config(group, what, binds).to_string();
        fs::write(bundle.join("config.json"), config).unwrap();
        let out = File::options().create(true).append(true).open(log).unwrap();
        let mut command = crun();
        command.args(["run", "--bundle"]).arg(&bundle).arg(id);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        command.spawn().expect("crun is installed; run `make setup`")
    }

    fn config(&self, group: &str, what: &Container, binds: &[Bind]) -> Value {
        let uid = what.security_context.run_as_user.unwrap_or(0);
        let environment: Vec<String> = std::iter::once("PATH=/bin".to_owned())
            .chain(what.env.iter().map(|one| format!("{}={}", one.name, one.value)))
            .collect();
        let capabilities = capabilities(what);
        let wants = |word: &str| binds.iter().any(|bind| bind.propagation.as_deref() == Some(word));
        // containerd's own rule.
        let propagation = if wants("Bidirectional") {
            "rshared"
        } else if wants("HostToContainer") {
            "rslave"
        } else {
            "private"
        };
        json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": uid, "gid": uid},
                "args": arguments(what),
                "env": environment,
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities,
                    "effective": if uid == 0 { capabilities.clone() } else { Vec::new() },
                    "permitted": if uid == 0 { capabilities.clone() } else { Vec::new() },
                },
                "noNewPrivileges": !what.security_context.privileged,
            },
            "root": {"path": self.root(), "readonly": true},
            "hostname": "pod",
            "mounts": mounts(binds),
            "linux": {
                "cgroupsPath": format!("/{GROUPS}/{group}"),
                "devices": devices(what),
                "resources": resources(what),
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
                "rootfsPropagation": propagation,
                "seccomp": seccomp::profile(what),
            },
        })
    }

    /// Runs a command in a running container, charged to it, as its user.
    pub(crate) fn exec(&self, id: &str, what: &Container, command: &[String]) -> Output {
        exec(id, what, command).output().expect("crun runs")
    }

    /// The same with a bound; none where the command takes longer.
    pub(crate) fn try_exec(
        &self,
        id: &str,
        what: &Container,
        command: &[String],
        timeout: Duration,
    ) -> Option<Output> {
        let until = Instant::now() + timeout;
        let mut exec = exec(id, what, command);
        let mut child = exec.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() {
            if Instant::now() >= until {
                // It may have ended meanwhile.
                let _ = child.kill();
                child.wait().unwrap();
                return None;
            }
            std::thread::sleep(POLL);
        }
        child.wait_with_output().ok()
    }

    pub(crate) fn signal(&self, id: &str, signal: &str) {
        // It may have ended meanwhile.
        let _ = crun().args(["kill", "--all", id, signal]).output();
    }

    /// To process 1 alone.
    pub(crate) fn signal_first(&self, id: &str, signal: &str) {
        let _ = crun().args(["kill", id, signal]).output();
    }

    pub(crate) fn delete(&self, id: &str) {
        let _ = crun().args(["delete", "--force", id]).output();
    }

    /// How many processes the kernel has killed for memory in a container so far.
    pub(crate) fn oom_kills(&self, id: &str) -> u64 {
        let text = memory_file(id, "memory.oom_control", "memory.events").unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// The limit of memory that the kernel keeps a container to.
    pub(crate) fn memory_limit(&self, id: &str) -> u64 {
        let text = memory_file(id, "memory.limit_in_bytes", "memory.max").unwrap();
        text.trim().parse().expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Never through a mount that a failed test left.
        let _ = umount2(&self.pods(), MntFlags::MNT_DETACH);
    }
}

/// A new namespace has copies of every mount, and a copy keeps the FUSE mount of another test
/// alive when that one unmounts it.
fn drop_copies() {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let is_fuse = |line: &&str| line.contains(" - fuse.");
    for line in table.lines().filter(is_fuse) {
        if let Some(point) = line.split(' ').nth(4) {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// What the kernel says of a container's memory, by either version of cgroups.
fn memory_file(id: &str, v1: &str, v2: &str) -> Option<String> {
    let groups = Path::new("/sys/fs/cgroup");
    let files = [format!("memory/{GROUPS}/{id}/{v1}"), format!("{GROUPS}/{id}/{v2}")];
    files.iter().find_map(|file| fs::read_to_string(groups.join(file)).ok())
}

fn crun() -> Command {
    let mut command = Command::new("crun");
    command.args(["--root", STATE, "--cgroup-manager", "cgroupfs"]);
    command
}

fn exec(id: &str, what: &Container, command: &[String]) -> Command {
    let uid = what.security_context.run_as_user.unwrap_or(0);
    let user = format!("{uid}:{uid}");
    let mut exec = crun();
    exec.args(["exec", "--user", &user, id]).args(command).stdin(Stdio::null());
    exec
}

/// Removes the containers of runs that are no more: their names begin with the process's number.
fn sweep() {
    let listed = crun().args(["list", "--quiet"]).output();
    let listed = listed.expect("crun is installed; run `make setup`").stdout;
    for id in String::from_utf8_lossy(&listed).lines() {
        let run = id.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(run).exists() {
            let _ = crun().args(["delete", "--force", id]).output();
        }
    }
}

/// Our own programs: their places in a container, and on this machine. Both are built whenever
/// this suite is, since both packages have one of its name.
fn programs() -> [(&'static str, PathBuf); 2] {
    let server = PathBuf::from(env!("CARGO_BIN_EXE_s3pod"));
    let sidecar = server.with_file_name("s3pod-sidecar");
    assert!(sidecar.exists(), "{} is missing; build the workspace", sidecar.display());
    [("s3pod", server), ("s3pod-sidecar", sidecar)]
}

fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(program).output().expect("ldd is part of libc");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// The image's entry point is the sidecar; other images have a shell.
fn arguments(what: &Container) -> Vec<String> {
    let is_ours = what.image.contains("s3pod") && what.command.is_empty();
    let entry = is_ours.then(|| "/s3pod-sidecar".to_owned());
    entry.into_iter().chain(what.command.clone()).chain(what.args.clone()).collect()
}

fn capabilities(what: &Container) -> Vec<String> {
    let context = &what.security_context;
    let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    if context.privileged {
        return [own(&DEFAULT_CAPABILITIES), own(&PRIVILEGED)].concat();
    }
    let drops_all = context.capabilities.drop.iter().any(|name| name == "ALL");
    let mut capabilities = if drops_all { Vec::new() } else { own(&DEFAULT_CAPABILITIES) };
    capabilities.extend(context.capabilities.add.iter().map(|name| format!("CAP_{name}")));
    capabilities
}

fn devices(what: &Container) -> Value {
    if !what.security_context.privileged {
        return json!([]);
    }
    json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}])
}

fn resources(what: &Container) -> Value {
    let fuse = json!({"allow": what.security_context.privileged, "type": "c", "major": 10,
        "minor": 229, "access": "rwm"});
    let mut resources = json!({"devices": [fuse]});
    if let Some(memory) = &what.resources.limits.memory {
        resources["memory"] = json!({"limit": spec::bytes(memory)});
    }
    resources
}

fn mounts(binds: &[Bind]) -> Vec<Value> {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}),
    ];
    for (name, program) in programs() {
        mounts.push(json!({"destination": format!("/{name}"), "type": "none",
            "source": program, "options": ["bind", "ro", "rprivate"]}));
    }
    for bind in binds {
        let propagation = match bind.propagation.as_deref() {
            Some("Bidirectional") => "rshared",
            Some("HostToContainer") => "rslave",
            _ => "rprivate",
        };
        let access = if bind.read_only { "ro" } else { "rw" };
        mounts.push(json!({"destination": bind.target, "type": "none", "source": bind.source,
            "options": ["rbind", access, propagation]}));
    }
    mounts
}
