//! SeaweedFS: a real S3 server beside ours, so that suites do not only agree with ourselves.
//!
//! Owns one `weed server` process on free ports in a folder of its own. Promises that it dies
//! with its handle or with the test process. Must not know what is tested on it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::child::{Tied, tied_command};
use crate::endpoint::S3Endpoint;

/// Names the `weed` binary where it is not in the project's virtual environment.
const BINARY_VARIABLE: &str = "S3POD_WEED";
const ACCESS_KEY: &str = "s3podtestkey";
const SECRET_KEY: &str = "s3podtestsecret";
/// SeaweedFS does not check the region.
const REGION: &str = "us-east-1";
/// It takes 3 to 4 seconds on an idle machine; a loaded one may take ten times that.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// A free port may be taken between our look and its bind; then it exits and we look again.
const ATTEMPTS: usize = 3;

/// A running SeaweedFS. Dropping it kills it.
#[derive(Debug)]
pub struct SeaweedFs {
    child: Tied,
    port: u16,
    _folder: TempDir,
}

impl SeaweedFs {
    /// Starts one and waits until a bucket can be created.
    pub fn spawn() -> anyhow::Result<Self> {
        let binary = binary()?;
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match Self::try_spawn(&binary) {
                Ok(server) => return Ok(server),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.expect("there was an attempt"))
    }

    fn try_spawn(binary: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("s3pod-seaweedfs-")?;
        let (child, port) = start(binary, folder.path())?;
        let server = Self { child, port, _folder: folder };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let mut waited = Duration::ZERO;
        while waited < START_LIMIT {
            if let Some(status) = self.child.status() {
                bail!("weed server ended with {status}:\n{}", self.last_output());
            }
            if self.call("PUT", "/s3pod-is-it-ready", "").is_ok_and(|status| status == 200) {
                self.call("DELETE", "/s3pod-is-it-ready", "")?;
                return Ok(());
            }
            std::thread::sleep(POLL);
            waited += POLL;
        }
        bail!("weed server is not ready after {START_LIMIT:?}:\n{}", self.last_output())
    }

    fn last_output(&self) -> String {
        let path = self._folder.path().join("weed.log");
        let log = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// One plain, unsigned HTTP request; its status.
    fn call(&self, method: &str, path: &str, body: &str) -> anyhow::Result<u16> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        // "HTTP/1.1 200": the twelve bytes that matter.
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(std::str::from_utf8(&start[9..])?.parse()?)
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The access key it accepts.
    #[must_use]
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret of that key.
    #[must_use]
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The region to sign for.
    #[must_use]
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Creates a bucket, or leaves one that is there.
    pub fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        match self.call("PUT", &format!("/{name}"), "")? {
            200 | 409 => Ok(()),
            status => bail!("creating bucket {name} answered {status}"),
        }
    }

    /// Keeps the versions of a bucket's objects from now on.
    pub fn enable_versioning(&self, bucket: &str) -> anyhow::Result<()> {
        let body = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <Status>Enabled</Status></VersioningConfiguration>";
        match self.call("PUT", &format!("/{bucket}?versioning"), body)? {
            200 => Ok(()),
            status => bail!("versioning of bucket {bucket} answered {status}"),
        }
    }

    /// All a client needs to reach `bucket`, which is created if it is not there.
    pub fn s3_endpoint(&self, bucket: &str) -> anyhow::Result<S3Endpoint> {
        self.create_bucket(bucket).with_context(|| format!("bucket {bucket}"))?;
        Ok(S3Endpoint {
            endpoint: self.endpoint(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            region: REGION.to_owned(),
            bucket: bucket.to_owned(),
        })
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.child.signal(Signal::SIGKILL);
        self.child.wait(Duration::from_secs(10));
    }
}

fn binary() -> anyhow::Result<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "tests have no config::resolve")]
    let named = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
    // tests/testkit lies two floors below the workspace's root.
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/weed");
    let path = named.unwrap_or(installed);
    if !path.is_file() {
        bail!(
            "SeaweedFS is not installed: {} is missing. Run `make setup`, or name a weed binary \
             in {BINARY_VARIABLE}.",
            path.display()
        );
    }
    Ok(path)
}

/// Nine free ports: all are bound at once before any is given back, so they differ.
fn free_ports() -> anyhow::Result<[u16; 9]> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = (0..9).map(bind).collect::<Result<Vec<_>, _>>()?;
    let mut ports = [0; 9];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn start(binary: &Path, folder: &Path) -> anyhow::Result<(Tied, u16)> {
    // Unsigned requests may do everything too: buckets are made by plain HTTP.
    let actions = r#"["Admin","Read","Write","List","Tagging"]"#;
    let config = format!(
        r#"{{"identities":[
            {{"name":"s3pod","actions":{actions},
              "credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}]}},
            {{"name":"anonymous","actions":{actions}}}]}}"#
    );
    std::fs::write(folder.join("s3.json"), config)?;
    std::fs::create_dir(folder.join("volumes"))?;
    let log = File::create(folder.join("weed.log"))?;
    let [s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc, metrics] =
        free_ports()?;
    let within = |name: &str| folder.join(name).display().to_string();
    let mut command = tied_command(binary, "KILL");
    command.arg("server").args([
        format!("-dir={}", within("volumes")),
        "-s3".to_owned(),
        format!("-s3.config={}", within("s3.json")),
        format!("-s3.port={s3}"),
        format!("-s3.port.grpc={s3_grpc}"),
        // Its own defaults for these two clash with any other instance, fatally.
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        format!("-s3.localSocket={}", within("s3.sock")),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        format!("-master.port={master}"),
        format!("-master.port.grpc={master_grpc}"),
        "-master.telemetry=false".to_owned(),
        // Each bucket takes seven volumes; many small ones leave room for many buckets.
        "-master.volumeSizeLimitMB=64".to_owned(),
        "-volume.max=500".to_owned(),
        format!("-volume.port={volume}"),
        format!("-volume.port.grpc={volume_grpc}"),
        format!("-filer.port={filer}"),
        format!("-filer.port.grpc={filer_grpc}"),
        format!("-filer.localSocket={}", within("filer.sock")),
        format!("-metricsPort={metrics}"),
    ]);
    command
        .current_dir(folder)
        .stdout(log.try_clone()?)
        .stderr(log)
        .stdin(std::process::Stdio::null());
    Ok((Tied::spawn(command)?, s3))
}
