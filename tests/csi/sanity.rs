//! A volume's whole way through a driver of the mode `all`, as the public conformance suite leads
//! it: it knows no kubelet, and makes the folder above a target anywhere.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use s3pod_testkit::csi::node_client::NodeClient;
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::{
    CapacityRange, Code, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest, Status, Volume,
};

use crate::controller::Suite;
use crate::kubelet::{capability, refusal};
use crate::stand::until;

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
/// So often a mount reads its capacity again.
const LOOKED_WITHIN: Duration = Duration::from_secs(60);
const REPEATS: usize = 10;

/// The suite's node half.
struct Node<'s> {
    suite: &'s Suite,
    /// What it makes before each case, and removes behind it.
    parent: PathBuf,
}

impl<'s> Node<'s> {
    fn new(suite: &'s Suite) -> Self {
        let parent = suite.driver.path().join("csi-mount");
        fs::create_dir_all(&parent).unwrap();
        Self { suite, parent }
    }

    fn target(&self, name: &str) -> PathBuf {
        self.parent.join(name)
    }

    fn publish(&self, volume: &Volume, target: &Path, mode: Mode) -> Result<(), Status> {
        let call = NodePublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            target_path: target.to_str().unwrap().to_owned(),
            volume_capability: Some(capability(mode)),
            volume_context: volume.volume_context.clone(),
            secrets: self.suite.secrets(),
            ..NodePublishVolumeRequest::default()
        };
        let mut client = NodeClient::new(self.suite.driver.channel());
        self.suite.driver.wait(client.node_publish_volume(call)).map(drop)
    }

    fn unpublish(&self, id: &str, target: &Path) -> Result<(), Status> {
        let (volume_id, target_path) = (id.to_owned(), target.to_str().unwrap().to_owned());
        let call = NodeUnpublishVolumeRequest { volume_id, target_path };
        let mut client = NodeClient::new(self.suite.driver.channel());
        self.suite.driver.wait(client.node_unpublish_volume(call)).map(drop)
    }

    fn total(&self, id: &str, path: &str) -> Result<i64, Status> {
        let (volume_id, volume_path) = (id.to_owned(), path.to_owned());
        let call = NodeGetVolumeStatsRequest { volume_id, volume_path, ..Default::default() };
        let mut client = NodeClient::new(self.suite.driver.channel());
        let answer = self.suite.driver.wait(client.node_get_volume_stats(call))?.into_inner();
        Ok(answer.usage[0].total)
    }
}

/// Drivers for volumes that share a bucket, with the store's address in the Secret and in the
/// class, and for volumes with a bucket each. Made one by one: each has mounts of its own.
const SUITES: [fn() -> Suite; 3] = [
    || Suite::new("all", &[("bucket", "volumes")]),
    || Suite::with_endpoint("all"),
    || Suite::new("all", &[]),
];

#[test]
fn a_volume_goes_its_whole_way_and_every_step_may_be_repeated() {
    for suite in SUITES {
        let suite = suite();
        let node = Node::new(&suite);
        let volume = suite.create(suite.asked("sanity-node-full")).unwrap();
        let target = node.target("target");
        for _ in 0..REPEATS {
            node.publish(&volume, &target, Mode::SingleNodeWriter).unwrap();
        }
        fs::write(target.join("a"), "hello").unwrap();
        let id = &volume.volume_id;
        let shown = target.to_str().unwrap();
        until("its marker is read", || node.total(id, shown).unwrap() == 10 * GIB);
        assert_eq!(suite.expand(id, Some(11 * GIB)).unwrap(), 11 * GIB);
        for _ in 0..REPEATS {
            assert_eq!(node.total(id, shown).unwrap(), 10 * GIB, "the mount looks each minute");
        }
        for (id, path, code) in [
            ("", "some/path", Code::InvalidArgument),
            (id, "", Code::InvalidArgument),
            ("fake-vol-id", "some/path", Code::NotFound),
            (id, "some/path", Code::NotFound),
            ("fake-vol-id", shown, Code::NotFound),
        ] {
            assert_eq!(refusal(node.total(id, path)).0, code, "{id} {path}");
        }
        // The suite clears up after every volume at the same place, whichever was there.
        assert_eq!(refusal(node.unpublish("fake-vol-id", &target)).0, Code::NotFound);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
        for _ in 0..REPEATS {
            node.unpublish(id, &target).unwrap();
        }
        assert!(fs::symlink_metadata(&target).is_err(), "the path itself is gone");
        node.publish(&volume, &target, Mode::SingleNodeWriter).unwrap();
        until("a new mount has what it was made larger to", || {
            node.total(id, shown).unwrap() == 11 * GIB
        });
        node.unpublish(id, &target).unwrap();
        fs::remove_dir(&node.parent).unwrap();
        for _ in 0..REPEATS {
            suite.delete(id).unwrap();
        }
        // As it does for volumes that no node ever had.
        node.unpublish(id, &target).unwrap();
    }
}

#[test]
fn a_living_mount_becomes_larger_with_its_volume() {
    let suite = Suite::with_endpoint("all");
    let node = Node::new(&suite);
    let mut asked = suite.asked("sanity-grown");
    asked.capacity_range = Some(CapacityRange { required_bytes: MIB, limit_bytes: 0 });
    let volume = suite.create(asked).unwrap();
    let (id, target) = (&volume.volume_id, node.target("target"));
    node.publish(&volume, &target, Mode::SingleNodeWriter).unwrap();
    let shown = target.to_str().unwrap();
    until("its marker is read", || node.total(id, shown).unwrap() == MIB);
    let large = vec![7; 2 * MIB as usize];
    // Until what is used has been counted, nobody knows that it is too much.
    until("there is no room for more", || {
        let refused = fs::write(target.join("large"), &large).err();
        refused.is_some_and(|error| error.kind() == ErrorKind::StorageFull)
    });
    assert_eq!(suite.expand(id, Some(4 * MIB)).unwrap(), 4 * MIB);
    let begin = Instant::now();
    while node.total(id, shown).unwrap() == MIB {
        assert!(begin.elapsed() < 3 * LOOKED_WITHIN, "the mount does not look");
        thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(node.total(id, shown).unwrap(), 4 * MIB);
    fs::write(target.join("large"), &large).unwrap();
    assert!(fs::read(target.join("large")).unwrap() == large);
    node.unpublish(id, &target).unwrap();
    suite.delete(id).unwrap();
}

#[test]
fn a_volume_for_one_pod_alone_has_one_place() {
    let suite = Suite::with_endpoint("all");
    let node = Node::new(&suite);
    let mut asked = suite.asked("sanity-single-writer");
    asked.volume_capabilities = vec![capability(Mode::SingleNodeSingleWriter)];
    let volume = suite.create(asked).unwrap();
    let (target, other) = (node.target("target"), node.target("other_target"));
    node.publish(&volume, &target, Mode::SingleNodeSingleWriter).unwrap();
    let second = node.publish(&volume, &other, Mode::SingleNodeSingleWriter);
    assert_eq!(refusal(second).0, Code::FailedPrecondition);
    assert!(!other.exists());
    node.unpublish(&volume.volume_id, &target).unwrap();
    node.unpublish(&volume.volume_id, &other).unwrap();
    suite.delete(&volume.volume_id).unwrap();
}

#[test]
fn a_driver_that_is_killed_takes_its_servers_along_and_the_next_one_mends_its_volumes() {
    let mut suite = Suite::with_endpoint("all");
    let volume = suite.create(suite.asked("sanity-killed")).unwrap();
    let target = Node::new(&suite).target("target");
    Node::new(&suite).publish(&volume, &target, Mode::SingleNodeWriter).unwrap();
    fs::write(target.join("a"), "hello").unwrap();
    suite.driver.replace();
    let node = Node::new(&suite);
    // Its own server waits for the earlier one, which sends what it has.
    until("it is published again", || {
        node.publish(&volume, &target, Mode::SingleNodeWriter).is_ok()
            && fs::read(target.join("a")).is_ok()
    });
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    node.unpublish(&volume.volume_id, &target).unwrap();
    // The store's address came from the class alone, and is known to this driver too.
    suite.delete(&volume.volume_id).unwrap();
}
