//! Volumes that come and go as they should.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::volume_capability::{AccessType, MountVolume};
use s3pod_testkit::csi::{Code, volume_usage};

use crate::kubelet::{Kubelet, capability, refusal};

fn errno<T>(answer: io::Result<T>) -> Errno {
    Errno::from_raw(answer.err().and_then(|error| error.raw_os_error()).unwrap_or(0))
}

#[test]
fn a_volume_is_written_and_read_and_every_call_may_come_ten_times() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let call = kubelet.call("v", "pod-1");
    for _ in 0..10 {
        kubelet.publish(&call).unwrap();
    }
    let target = kubelet.target("pod-1");
    assert_eq!(kubelet.mounts().len(), 2, "one of the driver's own, and one target");
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    fs::write(target.join("b"), "from a pod").unwrap();
    assert_eq!(kubelet.stand.bucket().get("b").unwrap(), "from a pod");
    for _ in 0..10 {
        kubelet.unpublish("v", &target).unwrap();
    }
    assert!(!target.exists());
    kubelet.assert_gone();
    kubelet.publish(&call).unwrap();
    assert_eq!(fs::read_to_string(target.join("b")).unwrap(), "from a pod");
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn what_is_dirty_is_in_the_bucket_when_the_last_target_has_gone() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let open = fs::File::create(target.join("open")).unwrap();
    io::Write::write_all(&mut &open, b"not closed").unwrap();
    kubelet.unpublish("v", &target).unwrap();
    assert_eq!(kubelet.stand.bucket().get("open").unwrap(), "not closed");
    kubelet.assert_gone();
}

#[test]
fn pods_share_a_mount_and_one_that_wants_to_be_alone_is() {
    let kubelet = Kubelet::new();
    let (first, second) = (kubelet.published("v", "pod-1"), kubelet.published("v", "pod-2"));
    assert_eq!(kubelet.mounts().len(), 3, "one mount of its own, and two targets");
    fs::write(first.join("a"), "one").unwrap();
    assert_eq!(fs::read_to_string(second.join("a")).unwrap(), "one");
    let mut alone = kubelet.call("v", "pod-3");
    alone.volume_capability = Some(capability(Mode::SingleNodeSingleWriter));
    let (code, said) = refusal(kubelet.publish(&alone));
    assert_eq!(code, Code::FailedPrecondition, "{said}");
    kubelet.unpublish("v", &first).unwrap();
    assert_eq!(fs::read_to_string(second.join("a")).unwrap(), "one", "the other one lives on");
    kubelet.unpublish("v", &second).unwrap();
    kubelet.assert_gone();
    kubelet.publish(&alone).unwrap();
    kubelet.publish(&alone).unwrap();
    let (code, said) = refusal(kubelet.publish(&kubelet.call("v", "pod-1")));
    assert_eq!(code, Code::FailedPrecondition, "{said}");
}

#[test]
fn read_only_is_the_kernels_word_by_the_call_and_by_the_access_mode() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let mut by_call = kubelet.call("v", "pod-1");
    by_call.readonly = true;
    let mut by_mode = kubelet.call("v", "pod-2");
    by_mode.volume_capability = Some(capability(Mode::MultiNodeReaderOnly));
    for (call, pod) in [(by_call, "pod-1"), (by_mode, "pod-2")] {
        kubelet.publish(&call).unwrap();
        let target = kubelet.target(pod);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
        assert_eq!(errno(fs::write(target.join("b"), "x")), Errno::EROFS);
    }
    let writes = kubelet.published("v", "pod-3");
    fs::write(writes.join("b"), "x").unwrap();
}

#[test]
fn the_pods_group_owns_what_nobody_else_does() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("folder/a", "hello");
    let mut call = kubelet.call("v", "pod-1");
    let mount = MountVolume { volume_mount_group: "4711".to_owned(), ..MountVolume::default() };
    let capability = call.volume_capability.as_mut().unwrap();
    capability.access_type = Some(AccessType::Mount(mount));
    kubelet.publish(&call).unwrap();
    let target = kubelet.target("pod-1");
    let file = fs::metadata(target.join("folder/a")).unwrap();
    assert_eq!((file.gid(), file.mode() & 0o7777), (4711, 0o664));
    let folder = fs::metadata(target.join("folder")).unwrap();
    assert_eq!((folder.gid(), folder.mode() & 0o7777), (4711, 0o2775));
}

#[test]
fn a_volume_says_how_full_it_is() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let path = target.to_str().unwrap();
    let usage = kubelet.stats("v", path).unwrap();
    for _ in 0..10 {
        assert_eq!(kubelet.stats("v", path).unwrap(), usage);
    }
    let bytes = volume_usage::Unit::Bytes as i32;
    assert_eq!(usage.len(), 1);
    assert_eq!((usage[0].unit, usage[0].total, usage[0].used), (bytes, 1 << 50, 0));
    for (volume, path, code) in [
        ("", path, Code::InvalidArgument),
        ("v", "", Code::InvalidArgument),
        ("w", path, Code::NotFound),
        ("v", "some/path", Code::NotFound),
        ("v", "/somewhere/else", Code::NotFound),
        ("v", &format!("{path}/../mount"), Code::NotFound),
    ] {
        assert_eq!(refusal(kubelet.stats(volume, path)).0, code, "{volume} {path}");
    }
}

#[test]
fn many_volumes_come_and_go_at_once() {
    const COUNT: u32 = 50;
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let each = |what: fn(&Kubelet, &str, &str)| {
        let call = |number: u32| {
            let (volume, pod) = (format!("v{number}"), format!("pod-{number}"));
            move |kubelet: &Kubelet| what(kubelet, &volume, &pod)
        };
        kubelet.at_once((0..COUNT).map(call).collect());
    };
    each(|kubelet, volume, pod| {
        let target = kubelet.published(volume, pod);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    });
    assert_eq!(kubelet.mounts().len(), 2 * COUNT as usize);
    each(|kubelet, volume, pod| kubelet.unpublish(volume, &kubelet.target(pod)).unwrap());
    kubelet.assert_gone();
}

#[test]
fn calls_of_one_volume_that_meet_are_told_so_and_do_no_harm() {
    let kubelet = Kubelet::new();
    let call = kubelet.call("v", "pod-1");
    let calls = (0..8).map(|_| |kubelet: &Kubelet| kubelet.publish(&call));
    for answer in kubelet.at_once(calls.collect()) {
        let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
        assert!([Code::Ok, Code::Aborted].contains(&code), "{code}");
    }
    kubelet.publish(&call).unwrap();
    assert_eq!(kubelet.mounts().len(), 2);
    kubelet.unpublish("v", &kubelet.target("pod-1")).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_rotated_secret_reaches_the_server_and_the_mount_stays() {
    let kubelet = Kubelet::new();
    let _target = kubelet.published("v", "pod-1");
    let (keys, mounts) = (kubelet.stand.keys(), kubelet.mounts());
    let pid = kubelet.stand.pid_of(&keys[0]);
    let mut call = kubelet.call("v", "pod-1");
    call.secrets.insert("secretAccessKey".into(), "r0tated".into());
    kubelet.publish(&call).unwrap();
    let folder = kubelet.stand.folder.path().join("secrets/secrets");
    let volumes: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
    assert_eq!(volumes.len(), 1);
    let text = fs::read_to_string(volumes[0].path().join("credentials")).unwrap();
    assert!(text.contains("aws_secret_access_key = r0tated\n"));
    assert_eq!((kubelet.stand.pid_of(&keys[0]), kubelet.mounts()), (pid, mounts));
}
