//! A driver that needs nobody: `--mode all`, as a conformance suite is pointed at it.

use std::collections::HashMap;
use std::fs;

use nix::mount::{MntFlags, umount2};
use s3pod_testkit::csi::node_client::NodeClient;
use s3pod_testkit::csi::volume_capability::access_mode::Mode;
use s3pod_testkit::csi::{
    NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest,
};
use s3pod_testkit::{ServerOptions, TestServer};

use crate::driver::Driver;
use crate::kubelet::capability;
use crate::stand::BUCKET;

#[test]
fn it_mounts_anywhere_and_serves_by_itself() {
    let store = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let endpoint = store.s3_endpoint(BUCKET);
    let mut driver = Driver::start("all");
    let mut node = NodeClient::new(driver.channel());
    let info = driver.wait(node.node_get_info(NodeGetInfoRequest {})).unwrap().into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 0));
    let said = driver.wait(node.node_get_capabilities(NodeGetCapabilitiesRequest {}));
    assert_eq!(said.unwrap().into_inner().capabilities.len(), 3);

    let target = driver.path().join("target");
    let words = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let publish = NodePublishVolumeRequest {
        volume_id: "v".to_owned(),
        target_path: target.to_str().unwrap().to_owned(),
        volume_capability: Some(capability(Mode::SingleNodeWriter)),
        volume_context: words(&[("bucket", BUCKET), ("endpointUrl", &endpoint.endpoint)]),
        secrets: words(&[("key_id", &endpoint.access_key), ("access_key", &endpoint.secret_key)]),
        ..Default::default()
    };
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
