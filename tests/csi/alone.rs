//! A driver that needs nobody: `--mode all`, as a conformance suite is pointed at it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod_testkit::csi::node_client::NodeClient;
use s3pod_testkit::csi::node_service_capability::{self, rpc};
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::{
    NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest,
};
use s3pod_testkit::{S3Endpoint, ServerOptions, TestServer};

use crate::driver::Driver;
use crate::kubelet::capability;
use crate::stand::{BUCKET, own_mounts, until};

fn publish(endpoint: &S3Endpoint, target: &Path) -> NodePublishVolumeRequest {
    let words = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    NodePublishVolumeRequest {
        volume_id: "v".to_owned(),
        target_path: target.to_str().unwrap().to_owned(),
        volume_capability: Some(capability(Mode::SingleNodeWriter)),
        volume_context: words(&[("bucket", BUCKET), ("endpointUrl", &endpoint.endpoint)]),
        secrets: words(&[("key_id", &endpoint.access_key), ("access_key", &endpoint.secret_key)]),
        ..Default::default()
    }
}

#[test]
fn who_it_is_and_what_it_can_is_the_same_as_often_as_it_is_asked() {
    let driver = Driver::start("all");
    let mut node = NodeClient::new(driver.channel());
    for _ in 0..10 {
        let info = driver.wait(node.node_get_info(NodeGetInfoRequest {})).unwrap().into_inner();
        assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 0));
        assert!(info.accessible_topology.is_none(), "a bucket is everywhere");
        let said = driver.wait(node.node_get_capabilities(NodeGetCapabilitiesRequest {}));
        let kinds = said.unwrap().into_inner().capabilities.into_iter().filter_map(|one| match one
            .r#type?
        {
            node_service_capability::Type::Rpc(rpc) => Some(rpc.r#type()),
        });
        let kinds: Vec<rpc::Type> = kinds.collect();
        let all = [
            rpc::Type::GetVolumeStats,
            rpc::Type::VolumeMountGroup,
            rpc::Type::SingleNodeMultiWriter,
        ];
        assert_eq!(kinds, all, "and no staging");
    }
}

#[test]
fn its_server_is_started_again_and_so_are_its_volumes() {
    own_mounts();
    let store = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    store.bucket(BUCKET).put("a", "hello");
    let driver = Driver::start("all");
    let mut node = NodeClient::new(driver.channel());
    let target = driver.path().join("target");
    let publish = publish(&store.s3_endpoint(BUCKET), &target);
    driver.wait(node.node_publish_volume(publish.clone())).unwrap();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let server = driver.child();
        kill(Pid::from_raw(server), signal).unwrap();
        until("there is another one", || driver.children().iter().any(|pid| *pid != server));
        until("kubelet's call finds the volume served", || {
            driver.wait(node.node_publish_volume(publish.clone())).is_ok()
                && fs::read(target.join("a")).is_ok_and(|bytes| bytes == b"hello")
        });
    }
    let (volume_id, target_path) = ("v".to_owned(), publish.target_path);
    let unpublish = NodeUnpublishVolumeRequest { volume_id, target_path };
    until("it goes", || driver.wait(node.node_unpublish_volume(unpublish.clone())).is_ok());
    assert!(!target.exists());
}

#[test]
fn it_mounts_anywhere_and_serves_by_itself() {
    let store = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let endpoint = store.s3_endpoint(BUCKET);
    let mut driver = Driver::start("all");
    let mut node = NodeClient::new(driver.channel());
    let target = driver.path().join("target");
    let publish = publish(&endpoint, &target);
    for _ in 0..10 {
        driver.wait(node.node_publish_volume(publish.clone())).unwrap();
    }
    fs::write(target.join("a"), "hello").unwrap();
    let unpublish = NodeUnpublishVolumeRequest {
        volume_id: "v".to_owned(),
        target_path: publish.target_path.clone(),
    };
    for _ in 0..10 {
        driver.wait(node.node_unpublish_volume(unpublish.clone())).unwrap();
    }
    assert!(!target.exists());
    assert_eq!(store.bucket(BUCKET).get("a").unwrap(), "hello");

    // What is open at the end of the driver is sent all the same; the mount is dead then.
    driver.wait(node.node_publish_volume(publish.clone())).unwrap();
    let file = fs::File::create(target.join("b")).unwrap();
    std::io::Write::write_all(&mut &file, b"open").unwrap();
    assert!(driver.terminate());
    assert_eq!(store.bucket(BUCKET).get("b").unwrap(), "open");
    drop(file);
    for point in [target, driver.path().join("state/mounts")] {
        let own = fs::read_dir(&point).into_iter().flatten().flatten().map(|entry| entry.path());
        for point in own.chain([point]) {
            while umount2(&point, MntFlags::MNT_DETACH).is_ok() {}
        }
    }
}
