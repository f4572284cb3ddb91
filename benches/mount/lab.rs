//! Servers and mounts to measure.
//!
//! Owns the processes: a server of ours apart from this process, so that its CPU time is not the
//! mount's, SeaweedFS, and a new mount for each round, since a new mount has nothing cached. Must
//! not know what is measured.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use s3pod::fuse::registrar;
use s3pod::mount::broker::{self, Kernel, attend};
use s3pod::mount::handoff::attach;
use s3pod_testkit::{Mount, S3Endpoint, SeaweedFs, ServerOptions, TestServer};
use serde::{Deserialize, Serialize};

use crate::ceiling::{Get, Measured, Plan};

const BUCKET: &str = "bench";

/// As whom the testkit runs a server without privilege, and what it calls the volume.
const NOBODY: u32 = 65534;
const VOLUME: &str = "test";

/// Opens before a cached file has to have been handed to the kernel, 50 ms apart.
const TRIES: u32 = 600;

/// What a server of ours is to be, and to hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Served {
    /// Milliseconds before each answer.
    latency: u64,
    /// Bytes per second of each connection.
    bandwidth: Option<u64>,
    /// Keys and sizes.
    objects: Vec<(String, u64)>,
}

impl Served {
    /// A server on this machine.
    pub(crate) fn near() -> Self {
        Self::default()
    }

    /// A server 25 ms away, at 90 MB/s per connection: what S3 is within its region.
    pub(crate) fn remote() -> Self {
        Self { latency: 25, bandwidth: Some(90_000_000), objects: Vec::new() }
    }

    pub(crate) fn with(mut self, key: impl Into<String>, size: u64) -> Self {
        self.objects.push((key.into(), size));
        self
    }
}

/// The process of a server of ours: serves what standard input says until that is closed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let mut input = BufReader::new(std::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line)?;
    let served: Served = serde_json::from_str(&line)?;
    let server = TestServer::spawn(ServerOptions {
        latency: Duration::from_millis(served.latency),
        bandwidth_per_connection: served.bandwidth,
        ..ServerOptions::with_bucket(BUCKET)
    });
    for (number, (key, size)) in served.objects.iter().enumerate() {
        server.bucket(BUCKET).put_synthetic(key, *size, number as u64);
    }
    let endpoint = server.s3_endpoint(BUCKET);
    writeln!(std::io::stdout(), "{}", endpoint.endpoint)?;
    input.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: S3Endpoint,
    ours: Option<Child>,
    _seaweed: Option<SeaweedFs>,
}

impl Server {
    pub(crate) fn ours(served: &Served) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().context("a pipe")?;
        writeln!(input, "{}", serde_json::to_string(served)?)?;
        child.stdin = Some(input);
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().context("a pipe")?).read_line(&mut url)?;
        let defaults = ServerOptions::default();
        let endpoint = S3Endpoint {
            endpoint: url.trim().to_owned(),
            access_key: defaults.credentials.0,
            secret_key: defaults.credentials.1,
            region: defaults.region,
            bucket: BUCKET.to_owned(),
        };
        Ok(Self { endpoint, ours: Some(child), _seaweed: None })
    }

    pub(crate) fn seaweed() -> anyhow::Result<Self> {
        let server = SeaweedFs::spawn()?;
        let endpoint = server.s3_endpoint(BUCKET)?;
        Ok(Self { endpoint, ours: None, _seaweed: Some(server) })
    }

    /// A mount that has nothing cached.
    pub(crate) fn mount(&self, arguments: &[&str]) -> anyhow::Result<Mounted> {
        let mount = Mount::start(env!("CARGO_BIN_EXE_s3pod"), &self.endpoint, arguments)
            .map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let before = cpu_seconds(mount.pid())?;
        Ok(Mounted { mount, before })
    }

    /// The same, served without any privilege: what only root may ask of the kernel, this process
    /// does for it, as the CSI driver would.
    pub(crate) fn mount_unprivileged(&self, arguments: &[&str]) -> anyhow::Result<Mounted> {
        let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &self.endpoint);
        let mount = options.args(arguments).brokered().start();
        let mount = mount.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let line = UnixStream::connect(mount.handoff_socket().context("a socket")?)?;
        let (reply, device) = attach(&line, VOLUME)?;
        anyhow::ensure!(reply.refused.is_none(), "{reply:?}");
        let mut connection = Connection(device.context("the connection's descriptor")?);
        // It ends with the server, which shuts the line.
        std::thread::spawn(move || {
            attend(&line, broker::Server { uid: NOBODY, device: None }, &mut connection);
        });
        let before = cpu_seconds(mount.pid())?;
        Ok(Mounted { mount, before })
    }

    /// What the SDK alone takes for these GETs.
    pub(crate) fn ceiling(&self, gets: Vec<Get>, parallel: usize) -> anyhow::Result<Measured> {
        let plan = Plan {
            endpoint: self.endpoint.endpoint.clone(),
            access_key: self.endpoint.access_key.clone(),
            secret_key: self.endpoint.secret_key.clone(),
            bucket: self.endpoint.bucket.clone(),
            gets,
            parallel,
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("ceiling").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        serde_json::to_writer(child.stdin.take().context("a pipe")?, &plan)?;
        let output = child.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "the ceiling failed: {}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.ours.take() {
            drop(child.stdin.take());
            // It ends by itself when its input does.
            let _ = child.wait();
        }
    }
}

/// A mount's connection, on which files are registered.
struct Connection(OwnedFd);

impl Kernel for Connection {
    fn register(&mut self, file: &File) -> io::Result<u32> {
        registrar::register(&self.0, file)
    }

    fn unregister(&mut self, number: u32) {
        // What stays registered goes with the connection.
        let _ = registrar::unregister(&self.0, number);
    }
}

/// A mount, and what it has cost.
#[derive(Debug)]
pub(crate) struct Mounted {
    mount: Mount,
    before: f64,
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Has all of a file cached, and waits until the kernel reads it by itself.
    pub(crate) fn hand_over(&self, file: &Path) -> anyhow::Result<()> {
        let warmed = Command::new(env!("CARGO_BIN_EXE_s3pod")).arg("warm").arg(file).output()?;
        let said = String::from_utf8_lossy(&warmed.stderr);
        anyhow::ensure!(warmed.status.success(), "warm: {said}");
        for _ in 0..TRIES {
            drop(std::fs::File::open(file)?);
            if self.mount.stderr().contains("the kernel reads the file by itself") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("{} was never handed to the kernel", file.display())
    }

    /// CPU time since it answered first.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        Ok(cpu_seconds(self.mount.pid())? - self.before)
    }

    /// The most memory it ever had, in bytes.
    pub(crate) fn peak(&self) -> anyhow::Result<u64> {
        Ok(self.mount.rss_bytes()?.peak)
    }

    pub(crate) fn end(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.mount.unmount()?.success(), "the mount ended badly");
        Ok(())
    }
}

/// User and system time of a process, from its line in /proc.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    /// `sysconf(_SC_CLK_TCK)`, which is 100 on every Linux that Rust runs on.
    const TICKS: f64 = 100.0;
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = line.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut times = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let mut next = || times.next().context("/proc/PID/stat is short")?.context("no number");
    Ok((next()? + next()?) / TICKS)
}
