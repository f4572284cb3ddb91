//! What kubelet hears when it publishes again what is there: of each trouble once, and never more
//! than that it may pass.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use s3pod_testkit::Fault;
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::{Code, NodePublishVolumeRequest};

use crate::kubelet::{Kubelet, MEMORY, capability, refusal};
use crate::stand::until;

/// The words of a republish that fails; it fails once, whatever it is repeated.
pub(crate) fn told_once(kubelet: &Kubelet, call: &NodePublishVolumeRequest) -> String {
    let (code, said) = refusal(kubelet.publish(call));
    assert_eq!(code, Code::Unavailable, "{said}");
    for _ in 0..3 {
        kubelet.publish(call).unwrap();
    }
    said
}

fn reads(target: &Path) -> bool {
    fs::read(target.join("a")).is_ok_and(|bytes| bytes == b"hello")
}

#[test]
fn credentials_that_the_store_takes_no_longer_are_told_once_each_time() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    let (call, mounts) = (kubelet.call("v", "pod-1"), kubelet.mounts());
    for _ in 0..2 {
        kubelet.publish(&call).unwrap();
        let revoked = Fault::status(403, "InvalidAccessKeyId").on_any().always();
        let revoked = kubelet.stand.store.faults().add(revoked);
        // Somebody has to notice: nobody asks the store for the sake of the question.
        until("the store is asked", || {
            let listed = fs::read_dir(&target).and_then(|mut found| found.next().transpose());
            listed.is_err()
        });
        let said = told_once(&kubelet, &call);
        assert!(said.contains("does not take the volume's credentials"), "{said}");
        // For a pod that is new to it, the volume is not fit.
        for _ in 0..2 {
            let (code, _) = refusal(kubelet.publish(&kubelet.call("v", "pod-2")));
            assert_eq!(code, Code::Unavailable);
        }
        assert!(!kubelet.target("pod-2").exists());
        revoked.remove();
        until("the store is asked again", || reads(&target));
    }
    kubelet.publish(&call).unwrap();
    assert_eq!(kubelet.mounts(), mounts, "nothing was mounted anew");
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_secret_that_lost_a_key_harms_no_pod_that_has_the_volume() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    let (right, mounts) = (kubelet.call("v", "pod-1"), kubelet.mounts());
    let mut wrong = right.clone();
    wrong.secrets.remove("secretAccessKey");
    for _ in 0..2 {
        let said = told_once(&kubelet, &wrong);
        assert!(said.contains("secretAccessKey"), "{said}");
        kubelet.publish(&right).unwrap();
    }
    let mut unknown = right.clone();
    unknown.volume_context.insert("colour".into(), "red".into());
    assert!(told_once(&kubelet, &unknown).contains("colour"));
    assert!(reads(&target));
    assert_eq!(kubelet.mounts(), mounts);
    // A pod that is new hears what is wrong by its code, each time.
    let mut of_new = kubelet.call("v", "pod-2");
    of_new.secrets.remove("secretAccessKey");
    for _ in 0..2 {
        let (code, said) = refusal(kubelet.publish(&of_new));
        assert_ne!(code, Code::Unavailable, "{said}");
    }
    assert!(!kubelet.target("pod-2").exists());
}

#[test]
fn access_modes_that_were_edited_under_a_pod_are_no_final_error() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    let mounts = kubelet.mounts();
    let with = |kubelet: &Kubelet, pod: &str, mode: Mode| {
        let volume_capability = Some(capability(mode));
        NodePublishVolumeRequest { volume_capability, ..kubelet.call("v", pod) }
    };
    for mode in [Mode::SingleNodeWriter, Mode::SingleNodeMultiWriter, Mode::MultiNodeMultiWriter] {
        kubelet.publish(&with(&kubelet, "pod-1", mode)).unwrap();
        let state = fs::read_to_string(kubelet.state()).unwrap();
        assert!(state.contains(&format!("\"access_mode\": {}", i32::from(mode))), "{state}");
    }
    for mode in [Mode::SingleNodeSingleWriter, Mode::MultiNodeReaderOnly] {
        let said = told_once(&kubelet, &with(&kubelet, "pod-1", mode));
        assert!(said.contains("another access mode"), "{said}");
        fs::write(target.join("b"), "x").unwrap();
        // One pod more would not be alone.
        let alone = with(&kubelet, "pod-2", Mode::SingleNodeSingleWriter);
        assert_eq!(refusal(kubelet.publish(&alone)).0, Code::FailedPrecondition);
        kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    }
    kubelet.restart(Signal::SIGKILL, |_| ());
    kubelet.publish(&with(&kubelet, "pod-1", Mode::SingleNodeWriter)).unwrap();
    assert!(reads(&target));
    assert_eq!(kubelet.mounts(), mounts, "nothing was mounted anew");
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_call_that_repeats_writes_nothing_and_a_disk_that_takes_nothing_harms_no_volume() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    let shared = kubelet.published("v", "pod-2");
    let calls = ["pod-1", "pod-2"].map(|pod| kubelet.call("v", pod));
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let keys = kubelet.stand.credentials_of_volumes().remove(0);
    let written = (inode(&kubelet.state()), inode(&keys));
    for call in calls.iter().chain(&calls) {
        kubelet.publish(call).unwrap();
    }
    assert_eq!((inode(&kubelet.state()), inode(&keys)), written, "nothing is written anew");

    let state = kubelet.state().parent().unwrap().to_owned();
    let none: Option<&str> = None;
    mount(Some(&state), &state, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
    // On its own, so that its end is not that of the mounts which it is a copy of.
    mount(none, &state, none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, &state, none, read_only, none).unwrap();
    for call in &calls {
        kubelet.publish(call).unwrap();
    }
    for (volume, pod) in [("v", "pod-3"), ("w", "pod-4")] {
        let (code, said) = refusal(kubelet.publish(&kubelet.call(volume, pod)));
        assert!(code == Code::Internal && said.contains("cannot be written to"), "{said}");
        assert!(!kubelet.target(pod).exists());
    }
    assert!(reads(&target) && reads(&shared));
    umount2(&state, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(kubelet.stand.keys().len(), 1, "nobody serves what nobody has");
    for (volume, pod) in [("v", "pod-3"), ("w", "pod-4")] {
        assert!(reads(&kubelet.published(volume, pod)));
        kubelet.unpublish(volume, &kubelet.target(pod)).unwrap();
    }
    for target in [target, shared] {
        kubelet.unpublish("v", &target).unwrap();
    }
    kubelet.assert_gone();
}

#[test]
fn a_server_that_is_gone_is_told_once_and_comes_back_by_itself() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    let call = kubelet.call("v", "pod-1");
    kubelet.stand.end(Signal::SIGKILL);
    until("the volume is dead", || fs::read(target.join("a")).is_err());
    let mut said = String::new();
    until("kubelet hears of it", || match kubelet.republish(&call) {
        Ok(()) => false,
        Err(status) => {
            status.message().clone_into(&mut said);
            status.code() == Code::Unavailable
        }
    });
    assert!(said.contains("node's server does not answer"), "{said}");
    for _ in 0..5 {
        kubelet.republish(&call).unwrap();
    }
    kubelet.stand.start(MEMORY);
    until("it is served again", || reads(&target));
    until("and kubelet hears nothing more", || kubelet.publish(&call).is_ok());
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn every_line_about_a_volume_names_it() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("the-volume", "pod-1");
    let mut wrong = kubelet.call("the-volume", "pod-2");
    wrong.volume_context.insert("bucket".into(), "nowhere".into());
    refusal(kubelet.publish(&wrong));
    kubelet.unpublish("the-volume", &target).unwrap();
    let log = kubelet.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about: Vec<_> =
        lines.iter().filter(|line| !line["key"].is_null() || !line["call"].is_null()).collect();
    assert!(about.len() >= 2, "{log}");
    for line in about {
        assert_eq!(line["volume"], "the-volume", "{line}");
    }
    let of_servers = kubelet.stand.log();
    assert!(of_servers.contains("the-volume ("), "{of_servers}");
}
