//! A driver that is started anew, and what it finds: living volumes, dead ones, another boot.

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod_testkit::csi::Code;
use serde_json::json;

use crate::kubelet::{Kubelet, refusal};
use crate::stand::until;

#[test]
fn volumes_live_on_while_the_driver_is_away_and_are_known_to_the_next_one() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    for by in [Signal::SIGTERM, Signal::SIGKILL] {
        let path = target.join("a");
        kubelet.restart(by, |_| assert_eq!(fs::read_to_string(&path).unwrap(), "hello"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
        kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
        assert_eq!(kubelet.mounts().len(), 2, "nothing is mounted twice");
        assert_eq!(kubelet.stats("v", target.to_str().unwrap()).unwrap().len(), 1);
    }
    // The next driver, too, hears of a server's end.
    let keys = kubelet.stand.keys();
    let pid = kubelet.stand.pid_of(&keys[0]);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    until("it is served again", || fs::read(target.join("a")).is_ok());
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_volume_that_died_while_the_driver_was_away_is_mended_by_kubelets_next_call() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    kubelet.restart(Signal::SIGKILL, |kubelet| {
        let keys = kubelet.stand.keys();
        let pid = kubelet.stand.pid_of(&keys[0]);
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        until("its server has gone", || kubelet.stand.keys().is_empty());
    });
    kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_server_that_a_killed_driver_left_half_started_is_ended_by_the_next_one() {
    let mut kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let known = kubelet.stand.keys();
    kubelet.restart(Signal::SIGKILL, |kubelet| {
        // As if it had died between the start and the mount.
        let answer = kubelet.stand.ask(&json!({"start": kubelet.stand.order("nobodys")}));
        assert!(answer["started"].is_object(), "{answer}");
        assert_eq!(kubelet.stand.keys().len(), 2);
    });
    assert_eq!(kubelet.stand.keys(), known);
    kubelet.stand.bucket().put("a", "hello");
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
}

#[test]
fn a_target_that_shows_another_file_system_is_not_taken_for_the_volumes() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let (one, two) = (kubelet.published("v", "pod-1"), kubelet.published("w", "pod-2"));
    kubelet.restart(Signal::SIGKILL, |_| {
        umount2(&one, MntFlags::MNT_DETACH).unwrap();
        let none: Option<&str> = None;
        mount(Some(&two), &one, none, MsFlags::MS_BIND, none).unwrap();
    });
    let (code, said) = refusal(kubelet.stats("v", one.to_str().unwrap()));
    assert_eq!(code, Code::NotFound, "{said}");
    assert_eq!(kubelet.stand.keys().len(), 1, "what nobody has is not served");
    assert_eq!(kubelet.stats("w", two.to_str().unwrap()).unwrap().len(), 1);
    kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    assert_eq!(fs::read_to_string(one.join("a")).unwrap(), "hello");
    kubelet.unpublish("v", &one).unwrap();
    kubelet.unpublish("w", &two).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_state_that_is_nonsense_ends_no_volume_and_is_written_anew() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let (one, two) = (kubelet.published("v", "pod-1"), kubelet.published("w", "pod-2"));
    let (keys, mounts) = (kubelet.stand.keys(), kubelet.mounts());
    let pids = |kubelet: &Kubelet| -> Vec<u32> {
        keys.iter().map(|key| kubelet.stand.pid_of(key)).collect()
    };
    let before = pids(&kubelet);
    kubelet.restart(Signal::SIGKILL, |kubelet| fs::write(kubelet.state(), "{nonsense").unwrap());
    kubelet.restart(Signal::SIGKILL, |kubelet| fs::remove_file(kubelet.state()).unwrap());
    assert_eq!((pids(&kubelet), kubelet.mounts()), (before, mounts));
    assert_eq!(fs::read_to_string(one.join("a")).unwrap(), "hello");
    assert_eq!(kubelet.stats("v", one.to_str().unwrap()).unwrap().len(), 1);
    // Each target is its volume's, whether kubelet publishes it again or not.
    let (code, said) = refusal(kubelet.unpublish("v", &two));
    assert!(code == Code::NotFound && said.contains("the volume w"), "{said}");
    kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    kubelet.publish(&kubelet.call("v", "pod-3")).unwrap();
    assert_eq!(kubelet.stand.keys(), keys, "and shares the server that was there");
    kubelet.unpublish("w", &two).unwrap();
    kubelet.unpublish("v", &one).unwrap();
    kubelet.unpublish("v", &kubelet.target("pod-3")).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_later_releases_state_stops_an_earlier_driver_and_ends_no_volume() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    kubelet.restart(Signal::SIGKILL, |kubelet| {
        let text = fs::read_to_string(kubelet.state()).unwrap();
        let later = text.replace("\"schema\": 1", "\"schema\": 2");
        assert_ne!(later, text);
        fs::write(kubelet.state(), later).unwrap();
        let (code, said) = kubelet.second_driver();
        assert_eq!(code, Some(78), "{said}");
        let file = kubelet.state().to_str().unwrap().to_owned();
        assert!(said.contains(&file) && said.contains("later release"), "{said}");
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
        fs::write(kubelet.state(), text).unwrap();
    });
    kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn a_second_driver_at_the_same_folder_is_refused_and_disturbs_nobody() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let target = kubelet.published("v", "pod-1");
    let (code, said) = kubelet.second_driver();
    assert_eq!(code, Some(1), "{said}");
    let folder = kubelet.state().parent().unwrap().to_str().unwrap().to_owned();
    assert!(said.contains("another driver is at work") && said.contains(&folder), "{said}");
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    kubelet.unpublish("v", &target).unwrap();
    kubelet.assert_gone();
}

#[test]
fn after_a_reboot_directories_are_there_and_mounts_are_not() {
    let mut kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let (one, two) = (kubelet.published("v", "pod-1"), kubelet.published("w", "pod-2"));
    kubelet.restart(Signal::SIGKILL, |kubelet| {
        for point in kubelet.mounts() {
            umount2(&point, MntFlags::MNT_DETACH).unwrap();
        }
        let state = fs::read_to_string(kubelet.state()).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert!(state.contains(boot.trim()));
        fs::write(kubelet.state(), state.replace(boot.trim(), "before")).unwrap();
        until("the servers have ended", || kubelet.stand.keys().is_empty());
    });
    assert!(one.exists() && two.exists());
    kubelet.publish(&kubelet.call("v", "pod-1")).unwrap();
    assert_eq!(fs::read_to_string(one.join("a")).unwrap(), "hello");
    kubelet.unpublish("w", &two).unwrap();
    assert!(!two.exists(), "what is not mounted is removed all the same");
    kubelet.unpublish("v", &one).unwrap();
    kubelet.assert_gone();
}

#[test]
fn what_is_stacked_at_a_target_goes_whole_and_files_beneath_stay() {
    let kubelet = Kubelet::new();
    let target = kubelet.published("v", "pod-1");
    let none: Option<&str> = None;
    mount(Some(&target), &target, none, MsFlags::MS_BIND, none).unwrap();
    kubelet.unpublish("v", &target).unwrap();
    assert!(!target.exists());
    kubelet.assert_gone();
    fs::create_dir_all(target.join("written")).unwrap();
    let said = kubelet.unpublish("v", &target).unwrap_err();
    assert!(said.message().contains("has files in it"), "{said}");
    assert!(target.join("written").exists());
}
