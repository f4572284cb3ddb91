//! The servers under the suite: one of each per test run, a bucket per case.
//!
//! Owns their start and their end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use futures::TryStreamExt;
use s3pod::naming::Key;
use s3pod::store::s3::{Credentials, S3Settings, S3Store};
use s3pod::store::{
    Condition, GetPin, GetRequest, ObjectStore, Properties, PutRequest, Result, Version,
};
use s3pod_testkit::{S3Endpoint, SeaweedFs, ServerOptions, TestServer};

/// Which server, for the cases in which they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    /// The project's own, which is as S3 is.
    Testkit,
    /// SeaweedFS 4.48.
    SeaweedFs,
}

/// A bucket of its own on some server.
#[derive(Debug)]
pub(crate) struct Subject {
    /// The bucket.
    pub(crate) store: S3Store,
    /// The server.
    pub(crate) flavor: Flavor,
    settings: S3Settings,
    server: Running,
}

#[derive(Debug)]
enum Running {
    Testkit(Box<TestServer>),
    SeaweedFs(Arc<SeaweedFs>),
}

impl Subject {
    /// A new bucket on a server of the project's own.
    pub(crate) async fn testkit(case: &str) -> Self {
        let bucket = bucket_name(case);
        let server = TestServer::start(ServerOptions::with_bucket(&bucket)).await.unwrap();
        let settings = testkit_settings(&server, &bucket);
        Self::connect(settings, Flavor::Testkit, Running::Testkit(Box::new(server))).await
    }

    /// A new bucket on SeaweedFS.
    pub(crate) async fn seaweedfs(case: &str) -> Self {
        let server = shared_seaweedfs();
        let endpoint = server.s3_endpoint(&bucket_name(case)).unwrap();
        Self::connect(of_endpoint(&endpoint), Flavor::SeaweedFs, Running::SeaweedFs(server)).await
    }

    async fn connect(settings: S3Settings, flavor: Flavor, server: Running) -> Self {
        let store = S3Store::connect(settings.clone()).await.expect("usable settings");
        Self { store, flavor, settings, server }
    }

    /// The settings that reach this bucket.
    pub(crate) fn settings(&self) -> S3Settings {
        self.settings.clone()
    }

    /// The server, where it takes orders.
    pub(crate) fn server(&self) -> &TestServer {
        match &self.server {
            Running::Testkit(server) => server,
            Running::SeaweedFs(_) => panic!("a case for the project's own server"),
        }
    }

    /// Keeps the versions of objects from now on.
    pub(crate) fn keep_versions(&self) {
        let bucket = self.store.bucket();
        match &self.server {
            Running::Testkit(server) => server.bucket(bucket).enable_versioning(),
            Running::SeaweedFs(server) => server.enable_versioning(bucket).unwrap(),
        }
    }

    /// Stores `bytes` under `key`.
    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Version {
        self.put_if(key, bytes, Condition::None).await.expect("a plain put succeeds")
    }

    /// Stores `bytes` under `key` on a condition.
    pub(crate) async fn put_if(
        &self,
        key: &str,
        bytes: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Version> {
        let properties = Properties::default();
        let request = PutRequest { key: Key::from(key), properties, condition };
        self.store.put(&request, &bytes.into().into()).await
    }

    /// The bytes under `key`.
    pub(crate) async fn read(&self, key: &str) -> Result<Bytes> {
        self.read_pinned(GetPin::Latest(Key::from(key))).await
    }

    /// The bytes that `pin` names.
    pub(crate) async fn read_pinned(&self, pin: GetPin) -> Result<Bytes> {
        let response = self.store.get(&GetRequest { pin, range: None }).await?;
        let frames: Vec<Bytes> = response.body.try_collect().await?;
        Ok(frames.concat().into())
    }
}

/// Where `server` serves `bucket`, for a client that thinks it is in `us-east-1`.
pub(crate) fn testkit_settings(server: &TestServer, bucket: &str) -> S3Settings {
    let region = "us-east-1".to_owned();
    of_endpoint(&S3Endpoint { region, ..server.s3_endpoint(bucket) })
}

/// Where `address` would serve `bucket`.
pub(crate) fn settings(address: SocketAddr, bucket: &str) -> S3Settings {
    of_endpoint(&S3Endpoint {
        endpoint: format!("http://{address}"),
        access_key: "s3pod-test".to_owned(),
        secret_key: "s3pod-test-secret".to_owned(),
        region: "us-east-1".to_owned(),
        bucket: bucket.to_owned(),
    })
}

fn of_endpoint(endpoint: &S3Endpoint) -> S3Settings {
    S3Settings {
        endpoint_url: Some(endpoint.endpoint.clone()),
        region: Some(endpoint.region.clone()),
        credentials: Some(Credentials {
            access_key_id: endpoint.access_key.clone(),
            secret_access_key: endpoint.secret_key.clone(),
            session_token: None,
        }),
        force_path_style: true,
        ..S3Settings::new(&endpoint.bucket)
    }
}

/// One SeaweedFS for all cases that run at the same time; it ends with the last of them.
fn shared_seaweedfs() -> Arc<SeaweedFs> {
    static SHARED: Mutex<Weak<SeaweedFs>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(SeaweedFs::spawn().unwrap());
    *shared = Arc::downgrade(&server);
    server
}

/// A name of its own for each case: cases of one name exist in several modules.
fn bucket_name(case: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let case: String = case.replace('_', "-").chars().take(40).collect();
    format!("{}-{number}", case.trim_end_matches('-'))
}
