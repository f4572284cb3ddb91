//! A volume whose server is killed.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kubelet::Kubelet;
use crate::stand::until;

/// A shell in a mount namespace of its own: a container, as far as mounts matter.
struct Container {
    shell: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Container {
    /// `propagation` is what unshare(1) calls it: `slave` is HostToContainer, `private` None.
    fn new(propagation: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", propagation, "/bin/sh"]);
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let mut container = Self { shell, to, from: BufReader::new(from) };
        assert_eq!(container.run("echo up"), "up");
        container
    }

    /// The last word of a line's output.
    fn run(&mut self, line: &str) -> String {
        writeln!(self.to, "echo \"$({{ {line}; }} 2>&1 | tail -n 1)\"").unwrap();
        let mut said = String::new();
        self.from.read_line(&mut said).unwrap();
        said.trim_end().to_owned()
    }

    fn read(&mut self, path: &Path) -> String {
        self.run(&format!("cat {}", path.display()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn kill_server(kubelet: &Kubelet) {
    let keys = kubelet.stand.keys();
    let pid = kubelet.stand.pid_of(&keys[0]);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

fn is_dead(path: &Path) -> bool {
    let errno = fs::read(path).err().and_then(|error| error.raw_os_error());
    errno.is_some_and(|errno| {
        [Errno::ENOTCONN, Errno::ECONNABORTED].contains(&Errno::from_raw(errno))
    })
}

#[test]
fn after_each_crash_of_its_server_a_volume_is_served_again_wherever_it_is() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("sub/a", "hello");
    let (one, two) = (kubelet.published("v", "pod-1"), kubelet.published("v", "pod-2"));
    // What kubelet does for a subPath.
    let sub = kubelet.folder().join("pods/pod-1/volume-subpaths/pv/app/0");
    fs::create_dir_all(&sub).unwrap();
    let none: Option<&str> = None;
    mount(Some(&one.join("sub")), &sub, none, MsFlags::MS_BIND, none).unwrap();
    let (mut follows, mut alone) = (Container::new("slave"), Container::new("private"));
    for crash in 1..=2 {
        let before = kubelet.mounts().len();
        kill_server(&kubelet);
        // A new one of the driver's own, both targets, the subPath, and what the kernel makes of
        // that one within the dead mount that it was a folder of.
        until("every place is mounted over", || kubelet.mounts().len() == before + 5);
        for place in [&one.join("sub/a"), &two.join("sub/a"), &sub.join("a")] {
            assert_eq!(fs::read_to_string(place).unwrap(), "hello", "{}", place.display());
        }
        assert_eq!(follows.read(&two.join("sub/a")), "hello");
        let said = alone.read(&two.join("sub/a"));
        assert!(said.contains("not connected") || said.contains("aborted"), "{said}");
        fs::write(one.join(format!("closed-{crash}")), "x").unwrap();
        assert!(kubelet.stand.bucket().contains(&format!("closed-{crash}")));
    }
    // A container that is started anew gets the mount of now.
    assert_eq!(Container::new("private").read(&two.join("sub/a")), "hello");
    while umount2(&sub, MntFlags::MNT_DETACH).is_ok() {}
    kubelet.unpublish("v", &one).unwrap();
    assert!(fs::symlink_metadata(&one).is_err());
    assert_eq!(fs::read_to_string(two.join("sub/a")).unwrap(), "hello", "the other one lives on");
    assert_eq!(follows.read(&two.join("sub/a")), "hello");
    kubelet.unpublish("v", &two).unwrap();
    assert!(fs::symlink_metadata(&two).is_err());
    kubelet.assert_gone();
}

#[test]
fn whoever_reads_when_the_server_is_killed_gets_an_error_and_is_not_stuck() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put_synthetic("large", 256 << 20, 3);
    let target = kubelet.published("v", "pod-1");
    let file = target.join("large");
    let read = || Command::new("/bin/busybox").arg("cat").arg(&file).stdout(Stdio::null()).spawn();
    let mut readers: Vec<Child> = (0..4).map(|_| read().unwrap()).collect();
    kill_server(&kubelet);
    for reader in &mut readers {
        // An end is what matters: one that had read everything before is as good.
        reader.wait().unwrap();
    }
    until("it can be read again", || fs::File::open(&file).is_ok());
    assert_eq!(fs::metadata(&file).unwrap().len(), 256 << 20);
}

#[test]
fn a_volume_that_cannot_be_served_again_is_dead_and_goes_when_kubelet_says_so() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    kubelet.stand.bucket().put("a", "hello");
    let mut stand = kubelet;
    stand.stand.end(Signal::SIGKILL);
    until("the volume is dead", || is_dead(&target.join("a")));
    stand.unpublish("v", &target).unwrap();
    assert!(fs::symlink_metadata(&target).is_err());
    assert!(stand.mounts().is_empty());
}
