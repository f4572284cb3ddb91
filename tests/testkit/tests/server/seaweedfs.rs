//! The other server starts, serves the same clients, and leaves nothing behind.

use s3pod_testkit::Server;

use crate::common::{BUCKET, client_at, get, put};

#[test]
fn seaweedfs_serves_and_dies_with_its_handle() {
    let server = Server::seaweed().unwrap();
    let client = client_at(&server.s3_endpoint(BUCKET).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        put(&client, "d/k", "hello").await;
        assert_eq!(get(&client, "d/k").await, "hello");
    });
    assert_eq!(server.name(), "seaweedfs");
    let Server::Seaweed(seaweed) = server else { panic!("it was asked for") };
    let process = format!("/proc/{}", seaweed.pid());
    assert!(std::path::Path::new(&process).exists());
    drop(seaweed);
    assert!(!std::path::Path::new(&process).exists());
}
