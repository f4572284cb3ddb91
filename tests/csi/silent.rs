//! Nobody answers: the store, the node's server, or the process of one volume. Whoever waits for
//! them waits for an end, and nobody else waits at all.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod_testkit::Op;
use s3pod_testkit::csi::Code;

use crate::kubelet::{Kubelet, refusal};
use crate::republish::told_once;
use crate::stand::until;

/// What the first contact is: a HEAD of the bucket, and a listing.
const CONTACT: [Op; 2] = [Op::Other, Op::List];

/// Has a process do nothing more until SIGCONT.
pub(crate) fn freeze(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).unwrap();
    let is_stopped = |task: fs::DirEntry| {
        fs::read_to_string(task.path().join("status")).unwrap().contains("State:\tT")
    };
    until("each of its threads has stopped", || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| is_stopped(task.unwrap()))
    });
}

pub(crate) fn thaw(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT).unwrap();
}

#[test]
fn a_call_that_kubelet_gave_up_is_made_again_and_there_is_one_mount() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let held = CONTACT.map(|op| kubelet.stand.store.faults().hold(op, ""));
    let call = kubelet.call("v", "pod-1");
    // The store is asked for two seconds before anybody goes on without it.
    let given_up = kubelet.publish_within(Duration::from_secs(1), &call);
    assert!(matches!(refusal(given_up).0, Code::Cancelled | Code::DeadlineExceeded));
    held.iter().for_each(s3pod_testkit::Hold::release);
    kubelet.republish(&call).unwrap();
    let target = kubelet.target("pod-1");
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    assert_eq!(kubelet.mounts().len(), 2, "one of the driver's own, and one target");
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_volume_is_published_and_served_again_while_the_store_says_nothing() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let held = CONTACT.map(|op| kubelet.stand.store.faults().hold(op, ""));
    let target = kubelet.published("v", "pod-1");
    let call = kubelet.call("v", "pod-1");
    assert!(held[0].arrived() > 0, "the store was asked");
    assert!(fs::metadata(&target).unwrap().is_dir(), "the root needs no store");
    let said = told_once(&kubelet, &call);
    assert!(said.contains("without its store") && said.contains("does not answer"), "{said}");
    let shared = kubelet.published("v", "pod-2");

    let (key, before) = (kubelet.stand.keys().remove(0), kubelet.mounts().len());
    let pid = kubelet.stand.pid_of(&key);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    until("each place is mounted over", || kubelet.mounts().len() == before + 3);
    assert!(fs::metadata(&target).unwrap().is_dir());
    assert_eq!(kubelet.stats("v", target.to_str().unwrap()).unwrap().len(), 1);

    held.iter().for_each(s3pod_testkit::Hold::release);
    for target in [&target, &shared] {
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    }
    until("the store has been reached", || kubelet.publish(&call).is_ok());
    kubelet.publish(&call).unwrap();
    for target in [target, shared] {
        kubelet.unpublish("v", &target).unwrap();
    }
    kubelet.assert_gone();
}

#[test]
fn a_journal_that_is_not_empty_keeps_no_mount_away_and_is_taken_up_before_it_is_read() {
    let kubelet = Kubelet::new();
    let mut call = kubelet.call("v", "pod-1");
    call.volume_context.insert("writeBack".into(), "true".into());
    kubelet.publish(&call).unwrap();
    let target = kubelet.target("pod-1");
    let faults = kubelet.stand.store.faults();
    let sending = faults.hold(Op::Put, "");
    fs::write(target.join("kept"), "acknowledged").unwrap();
    assert!(sending.wait_for_blocking(1, Duration::from_secs(30)));
    let held = [Op::Head, Op::Get, Op::Other, Op::List].map(|op| faults.hold(op, ""));
    let key = kubelet.stand.keys().remove(0);
    kill(Pid::from_raw(kubelet.stand.pid_of(&key).cast_signed()), Signal::SIGKILL).unwrap();
    until("each place is mounted over", || kubelet.mounts().len() == 4);
    assert_eq!(kubelet.stats("v", target.to_str().unwrap()).unwrap().len(), 1);
    let path = target.join("kept");
    let reader = thread::spawn(move || fs::read_to_string(path));
    held.iter().chain([&sending]).for_each(s3pod_testkit::Hold::release);
    assert_eq!(reader.join().unwrap().unwrap(), "acknowledged");
    until("it is in the bucket", || kubelet.stand.bucket().contains("kept"));
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn what_the_store_refuses_late_is_told_the_pod_that_has_it_and_kept_from_others() {
    let kubelet = Kubelet::new();
    let held = CONTACT.map(|op| kubelet.stand.store.faults().hold(op, ""));
    let mut call = kubelet.call("v", "pod-1");
    call.volume_context.insert("bucket".into(), "nowhere".into());
    kubelet.publish(&call).unwrap();
    held.iter().for_each(s3pod_testkit::Hold::release);
    let mut said = String::new();
    until("kubelet hears of it", || {
        let answer = kubelet.publish(&call);
        said = answer.err().map(|status| status.message().to_owned()).unwrap_or_default();
        said.contains("no bucket `nowhere`")
    });
    let mut second = kubelet.call("v", "pod-2");
    second.volume_context.insert("bucket".into(), "nowhere".into());
    assert_eq!(refusal(kubelet.publish(&second)).0, Code::Unavailable);
    assert!(!kubelet.target("pod-2").exists());
    kubelet.unpublish("v", &kubelet.target("pod-1")).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_driver_starts_beside_a_server_that_says_nothing_and_leaves_its_volumes_alone() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    let call = kubelet.call("v", "pod-1");
    let (key, mounts) = (kubelet.stand.keys().remove(0), kubelet.mounts());
    let pid = kubelet.stand.pid_of(&key);
    // Ready within the patience of a livenessprobe, else this fails.
    kubelet.restart(Signal::SIGKILL, |kubelet| kubelet.stand.signal(Signal::SIGSTOP));
    assert!(told_once(&kubelet, &call).contains("does not say whether it serves the volume"));
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello", "its process is well");
    kubelet.stand.signal(Signal::SIGCONT);
    until("it is known again", || kubelet.stats("v", target.to_str().unwrap()).is_ok());
    kubelet.publish(&call).unwrap();
    assert_eq!((kubelet.stand.pid_of(&key), kubelet.mounts()), (pid, mounts));
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_process_that_says_nothing_to_a_new_driver_is_not_taken_for_dead() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let (target, other) = (kubelet.published("v", "pod-1"), kubelet.published("w", "pod-2"));
    let (call, mounts) = (kubelet.call("v", "pod-1"), kubelet.mounts());
    let pids = |kubelet: &Kubelet| -> Vec<u32> {
        kubelet.stand.keys().iter().map(|key| kubelet.stand.pid_of(key)).collect()
    };
    let before = pids(&kubelet);
    kubelet.restart(Signal::SIGKILL, |_| before.iter().for_each(|pid| freeze(*pid)));
    let said = told_once(&kubelet, &call);
    assert!(said.contains("does not say whether it serves the volume"), "{said}");
    assert_eq!((pids(&kubelet), kubelet.mounts()), (before, mounts));
    // One that nobody has any more is not waited for.
    kubelet.unpublish("w", &other).unwrap();
    let (left, mounts) = (pids(&kubelet), kubelet.mounts());
    assert_eq!((left.len(), mounts.len()), (1, 2));
    thaw(left[0]);
    until("it is known again", || kubelet.stats("v", target.to_str().unwrap()).is_ok());
    kubelet.republish(&call).unwrap();
    assert_eq!((pids(&kubelet), kubelet.mounts()), (left, mounts));
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_process_that_says_nothing_holds_up_no_call_and_ends_with_its_volume() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let key = kubelet.stand.keys().remove(0);
    freeze(kubelet.stand.pid_of(&key));
    let (code, said) = refusal(kubelet.stats("v", target.to_str().unwrap()));
    assert!(code == Code::Unavailable && said.contains("does not answer"), "{said}");
    kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    kubelet.publish(&kubelet.call("v", "pod-2")).unwrap();
    // A call that had looked at a path of it would hang by now.
    let other = kubelet.published("w", "pod-3");
    fs::write(other.join("b"), "x").unwrap();
    for (volume, target) in [("v", target), ("v", kubelet.target("pod-2")), ("w", other)] {
        kubelet.unpublish(volume, &target).unwrap();
    }
    kubelet.assert_gone();
}

/// A node's server that says that a volume's process listens at `socket`, whatever becomes of it.
fn pretend(listener: UnixListener, socket: &str) {
    let started = format!("{{\"version\":1,\"started\":{{\"socket\":\"{socket}\"}}}}\n");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut asked = String::new();
            let _ = BufReader::new(&stream).read_line(&mut asked);
            let answer = match () {
                () if asked.contains("\"start\"") => started.as_str(),
                () if asked.contains("\"list\"") => "{\"version\":1,\"volumes\":[]}\n",
                () => "{\"version\":1,\"done\":{}}\n",
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

#[test]
fn a_mount_whose_init_is_not_answered_in_time_is_taken_away_again() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.end(Signal::SIGKILL);
    let sockets = kubelet.stand.sockets();
    fs::remove_file(sockets.join("server.sock")).unwrap();
    pretend(UnixListener::bind(sockets.join("server.sock")).unwrap(), "silent.sock");
    // It can be connected to, and nobody accepts.
    let _silent = UnixListener::bind(sockets.join("silent.sock")).unwrap();
    let (code, said) = refusal(kubelet.publish(&kubelet.call("v", "pod-1")));
    assert!(code == Code::Unavailable && said.contains("did not take it"), "{said}");
    assert!(!kubelet.target("pod-1").exists());
    kubelet.assert_gone();
}
