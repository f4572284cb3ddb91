//! What kubelet hears when it publishes again what is there: of each trouble once, and never more
//! than that it may pass.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use s3pod_testkit::Fault;
use s3pod_testkit::csi::{Code, NodePublishVolumeRequest};

use crate::kubelet::{Kubelet, MEMORY, refusal};
use crate::stand::until;

/// The words of a republish that fails; it fails once, whatever it is repeated.
fn told_once(kubelet: &Kubelet, call: &NodePublishVolumeRequest) -> String {
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
