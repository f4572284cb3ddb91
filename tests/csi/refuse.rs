//! Calls that cannot be done: their codes, their words, and that nothing is left of them.

use std::fs;

use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::volume_capability::{AccessType, BlockVolume};
use s3pod_testkit::csi::{Code, NodePublishVolumeRequest};

use crate::kubelet::{Kubelet, capability, refusal};

type Change = fn(&mut NodePublishVolumeRequest);

#[test]
fn every_field_that_is_missing_or_wrong_is_named() {
    let kubelet = Kubelet::new();
    let wrong: [(&str, Change); 12] = [
        ("volume_id", |call| call.volume_id.clear()),
        ("target_path", |call| call.target_path.clear()),
        ("target_path", |call| "relative/path".clone_into(&mut call.target_path)),
        ("target_path", |call| "/tmp/outside".clone_into(&mut call.target_path)),
        ("target_path", |call| call.target_path.push_str("/../../../mount")),
        ("volume_capability", |call| call.volume_capability = None),
        ("access_mode", |call| call.volume_capability.as_mut().unwrap().access_mode = None),
        ("access_mode", |call| call.volume_capability = Some(capability(Mode::Unknown))),
        ("access_type", |call| call.volume_capability.as_mut().unwrap().access_type = None),
        ("access_type", |call| {
            let block = Some(AccessType::Block(BlockVolume {}));
            call.volume_capability.as_mut().unwrap().access_type = block;
        }),
        ("bucket", |call| drop(call.volume_context.remove("bucket"))),
        ("colour", |call| drop(call.volume_context.insert("colour".into(), "red".into()))),
    ];
    for (field, change) in wrong {
        let mut call = kubelet.call("v", "pod-1");
        change(&mut call);
        let (code, said) = refusal(kubelet.publish(&call));
        assert_eq!(code, Code::InvalidArgument, "{field}: {said}");
        assert!(said.contains(field), "{field}: {said}");
        assert!(!said.contains(&call.secrets["secretAccessKey"]), "{said}");
    }
    let target = kubelet.target("pod-1");
    assert_eq!(refusal(kubelet.unpublish("", &target)).0, Code::InvalidArgument);
    assert_eq!(refusal(kubelet.unpublish("v", "".as_ref())).0, Code::InvalidArgument);
    assert_eq!(refusal(kubelet.unpublish("v", "/tmp".as_ref())).0, Code::InvalidArgument);
    assert!(!target.exists());
    kubelet.assert_gone();
}

#[test]
fn a_store_that_says_no_is_passed_on_by_its_code_and_nothing_stays() {
    let kubelet = Kubelet::new();
    let wrong: [(Code, &str, Change); 2] = [
        (Code::NotFound, "nowhere", |call| {
            call.volume_context.insert("bucket".into(), "nowhere".into());
        }),
        (Code::Unauthenticated, "secret", |call| {
            call.secrets.insert("secretAccessKey".into(), "wr0ng".into());
        }),
    ];
    for (code, words, change) in wrong {
        let mut call = kubelet.call("v", "pod-1");
        change(&mut call);
        let (said, why) = refusal(kubelet.publish(&call));
        assert_eq!(said, code, "{why}");
        assert!(why.contains(words) && !why.contains("wr0ng"), "{why}");
        assert!(!kubelet.target("pod-1").exists());
        kubelet.assert_gone();
    }
    let _target = kubelet.published("v", "pod-1");
}

#[test]
fn one_target_shows_one_volume_in_one_way() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let changes: [Change; 3] = [
        |call| "w".clone_into(&mut call.volume_id),
        |call| call.readonly = true,
        |call| call.volume_capability = Some(capability(Mode::SingleNodeMultiWriter)),
    ];
    for change in changes {
        let mut call = kubelet.call("v", "pod-1");
        change(&mut call);
        let (code, said) = refusal(kubelet.publish(&call));
        assert_eq!(code, Code::AlreadyExists, "{said}");
    }
    fs::write(target.join("a"), "still writable").unwrap();
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_living_volume_keeps_its_options_and_a_call_with_others_is_no_failure() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let mut call = kubelet.call("v", "pod-1");
    call.volume_context.insert("prefix".into(), "elsewhere/".into());
    kubelet.publish(&call).unwrap();
    fs::write(target.join("a"), "x").unwrap();
    assert!(kubelet.stand.bucket().contains("a"));
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn no_secret_is_on_disk_beside_its_server_or_in_a_command_line() {
    let kubelet = Kubelet::new();
    let call = kubelet.call("v", "pod-1");
    let _target = kubelet.published("v", "pod-1");
    let secret = &call.secrets["secretAccessKey"];
    assert!(!fs::read_to_string(kubelet.state()).unwrap().contains(secret));
    for key in kubelet.stand.keys() {
        let process = format!("/proc/{}", kubelet.stand.pid_of(&key));
        for part in ["cmdline", "environ"] {
            let shown = fs::read(format!("{process}/{part}")).unwrap();
            assert!(!String::from_utf8_lossy(&shown).contains(secret.as_str()), "{part}");
        }
    }
}
