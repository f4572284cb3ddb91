//! Calls that cannot be done: their codes, their words, and that nothing is left of them.

use std::fs;

use nix::sys::signal::Signal;
use s3pod_testkit::Fault;
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::volume_capability::{AccessType, BlockVolume, MountVolume};
use s3pod_testkit::csi::{Code, NodePublishVolumeRequest};

use crate::kubelet::{Kubelet, MEMORY, capability, refusal};

type Change = fn(&mut NodePublishVolumeRequest);

#[test]
fn every_field_that_is_missing_or_wrong_is_named() {
    let kubelet = Kubelet::new();
    let wrong: [(&str, Change); 16] = [
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
        ("prefix", |call| drop(call.volume_context.insert("prefix".into(), "a/../b".into()))),
        ("target_path", |call| call.target_path.push_str(&"/x".repeat(2048))),
        ("volume_mount_group", |call| {
            let mount = MountVolume { volume_mount_group: "staff".into(), ..Default::default() };
            let capability = call.volume_capability.as_mut().unwrap();
            capability.access_type = Some(AccessType::Mount(mount));
        }),
        ("colour", |call| {
            let mount = MountVolume { mount_flags: vec!["colour".into()], ..Default::default() };
            let capability = call.volume_capability.as_mut().unwrap();
            capability.access_type = Some(AccessType::Mount(mount));
        }),
    ];
    for (field, change) in wrong {
        let mut call = kubelet.call("v", "pod-1");
        change(&mut call);
        let (code, said) = refusal(kubelet.publish(&call));
        assert_eq!(code, Code::InvalidArgument, "{field}: {said}");
        assert!(said.contains(field), "{field}: {said}");
        assert!(!said.contains(&call.secrets["secretAccessKey"]), "{said}");
    }
    for key in ["accessKeyId", "secretAccessKey"] {
        let mut half = kubelet.call("v", "pod-1");
        half.secrets.remove(key);
        let (code, said) = refusal(kubelet.publish(&half));
        assert!(code == Code::Unauthenticated && said.contains(key), "{said}");
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
        (Code::NotFound, "volumeAttributes.bucket: ", |call| {
            call.volume_context.insert("bucket".into(), "nowhere".into());
        }),
        (Code::Unauthenticated, "nodePublishSecretRef: ", |call| {
            call.secrets.insert("secretAccessKey".into(), "wr0ng".into());
        }),
    ];
    for (code, words, change) in wrong {
        let mut call = kubelet.call("v", "pod-1");
        change(&mut call);
        let (said, why) = refusal(kubelet.publish(&call));
        assert_eq!(said, code, "{why}");
        assert!(why.starts_with(words) && !why.contains("wr0ng"), "{why}");
        assert!(!why.contains("AWS_") && !why.contains(" --"), "{why}");
        assert!(!kubelet.target("pod-1").exists());
        kubelet.assert_gone();
    }
    let forbidden = Fault::status(403, "AccessDenied").on_any().always();
    let forbidden = kubelet.stand.store.faults().add(forbidden);
    let (code, why) = refusal(kubelet.publish(&kubelet.call("v", "pod-1")));
    assert_eq!(code, Code::PermissionDenied, "{why}");
    assert!(why.starts_with("nodePublishSecretRef: ") && why.contains("s3:ListBucket"), "{why}");
    kubelet.assert_gone();
    forbidden.remove();
    let _target = kubelet.published("v", "pod-1");
}

#[test]
fn a_volume_that_finds_no_memory_is_refused_and_the_others_go_on() {
    let kubelet = Kubelet::with("112MiB", &[]);
    kubelet.stand.bucket().put("a", "hello");
    let first = kubelet.published("v", "pod-1");
    let second = kubelet.call("w", "pod-2");
    let (code, said) = refusal(kubelet.publish(&second));
    assert!(code == Code::ResourceExhausted && said.contains("server pods"), "{said}");
    assert!(!kubelet.target("pod-2").exists());
    assert_eq!(kubelet.mounts().len(), 2);
    assert_eq!(fs::read_to_string(first.join("a")).unwrap(), "hello");
    kubelet.unpublish("v", &first).unwrap();
    kubelet.publish(&second).unwrap();
    assert_eq!(fs::read_to_string(kubelet.target("pod-2").join("a")).unwrap(), "hello");
}

#[test]
fn no_secret_is_in_a_log_however_much_it_says_and_whatever_fails() {
    let kubelet = Kubelet::with(MEMORY, &["--log-level", "trace"]);
    let mut call = kubelet.call("v", "pod-1");
    call.secrets.insert("sessionToken".into(), "s3ss10n".into());
    call.volume_context.insert("logLevel".into(), "trace".into());
    kubelet.publish(&call).unwrap();
    call.secrets.remove("sessionToken");
    kubelet.publish(&call).unwrap();
    fs::write(kubelet.target("pod-1").join("a"), "x").unwrap();
    let mut rotated = call.clone();
    rotated.secrets.insert("secretAccessKey".into(), "r0tated".into());
    kubelet.publish(&rotated).unwrap();
    let mut wrong = rotated.clone();
    wrong.volume_context.insert("colour".into(), "red".into());
    refusal(kubelet.publish(&wrong));
    kubelet.unpublish("v", &kubelet.target("pod-1")).unwrap();
    let (of_driver, of_servers) = (kubelet.log(), kubelet.stand.log());
    assert!(of_driver.contains("\"TRACE\"") || of_driver.contains("\"DEBUG\""), "{of_driver}");
    for secret in ["s3ss10n", "r0tated", call.secrets["secretAccessKey"].as_str()] {
        let lines = of_driver.lines().chain(of_servers.lines());
        let shown: Vec<&str> = lines.filter(|line| line.contains(secret)).collect();
        assert!(shown.is_empty(), "{secret}: {shown:?}");
    }
}

#[test]
fn one_target_shows_one_volume_in_one_way() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let changes: [Change; 2] =
        [|call| "w".clone_into(&mut call.volume_id), |call| call.readonly = true];
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
fn a_living_volume_whose_options_were_edited_gets_its_rotated_keys_all_the_same() {
    let mut kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let mut call = kubelet.call("v", "pod-1");
    let flags = vec!["metadata-ttl=7m".to_owned()];
    let mount = MountVolume { mount_flags: flags, ..Default::default() };
    call.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(mount));
    let file = kubelet.stand.credentials_of_volumes().remove(0);
    for (rotated, is_restarted) in [("0ne", false), ("tw0", true), ("thr33", false)] {
        if is_restarted {
            kubelet.restart(Signal::SIGKILL, |_| ());
        }
        call.secrets.insert("secretAccessKey".into(), rotated.into());
        kubelet.publish(&call).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.contains(&format!("aws_secret_access_key = {rotated}\n")),
            "{rotated}: {text}"
        );
    }
    assert_eq!(kubelet.stand.credentials_of_volumes(), [file], "it is the same server");
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
