//! The test server: its options, its accept loop, its life.
//!
//! Owns the listener and every connection's task; both end with the server. Listens on
//! 127.0.0.1 and a free port unless told otherwise.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::S3ServiceBuilder;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::checksum::EtagKind;
use crate::backend::conditions::Keeps;
use crate::backend::multipart::MIN_PART;
use crate::backend::service::Service;
use crate::backend::spill::Spill;
use crate::backend::{Abilities, Backend, Etags};
use crate::bucket::Bucket;
use crate::endpoint::S3Endpoint;
use crate::faults::Faults;
use crate::log::RequestLog;
use crate::wire::{Connection, PacedIo, Wire};

/// How a server behaves. Start from `ServerOptions::default()`.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Buckets that exist from the start.
    pub buckets: Vec<String>,
    /// Added to every request, before any work.
    pub latency: Duration,
    /// Bytes a second per connection and direction.
    pub bandwidth_per_connection: Option<u64>,
    /// The one access key and its secret.
    pub credentials: (String, String),
    /// Whether unsigned requests are served too.
    pub anonymous: bool,
    /// The region the server says it is in.
    pub region: String,
    /// Whether requests signed for another region are refused, as S3 does.
    pub enforce_region: bool,
    /// The folder for the spill file of bodies above 1 MiB; none keeps everything in memory.
    pub spill: Option<PathBuf>,
    /// ETags that are no MD5, for benchmarks: MD5 takes 2 CPU-seconds a GiB.
    pub quick_etags: bool,
    /// What it makes of conditions on PutObject and on a copy's destination.
    pub put_keeps: Keeps,
    /// What it makes of conditions on CompleteMultipartUpload.
    pub complete_keeps: Keeps,
    /// What it makes of conditions on DeleteObject.
    pub delete_keeps: Keeps,
    /// Which entity tags answers carry.
    pub etags: Etags,
    /// The smallest part of an upload that is not the last; S3's 5 MiB unless a test wants many
    /// parts of few bytes.
    pub min_part: u64,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            buckets: Vec::new(),
            latency: Duration::ZERO,
            bandwidth_per_connection: None,
            credentials: ("s3podtestkey".to_owned(), "s3podtestsecret".to_owned()),
            anonymous: false,
            region: "us-east-1".to_owned(),
            enforce_region: false,
            spill: Some(std::env::temp_dir()),
            quick_etags: false,
            put_keeps: Keeps::Always,
            complete_keeps: Keeps::Always,
            delete_keeps: Keeps::Always,
            etags: Etags::Strong,
            min_part: MIN_PART,
        }
    }
}

impl ServerOptions {
    /// The defaults with one bucket.
    #[must_use]
    pub fn with_bucket(name: &str) -> Self {
        Self { buckets: vec![name.to_owned()], ..Self::default() }
    }
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    backend: Arc<Backend>,
    log: RequestLog,
    faults: Faults,
    options: ServerOptions,
    stop: CancellationToken,
    tasks: TaskTracker,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    /// Starts a server on the current runtime.
    pub async fn start(options: ServerOptions) -> anyhow::Result<Self> {
        let (server, listener, wire) = Self::prepare(options).await?;
        server.tasks.spawn(server.acceptor(listener, wire).run());
        Ok(server)
    }

    /// Starts a server on a thread and runtime of its own, for tests that block.
    ///
    /// # Panics
    /// If the server cannot start: without it the test has nothing to say.
    #[must_use]
    pub fn spawn(options: ServerOptions) -> Self {
        Self::try_spawn(options).expect("the test server starts")
    }

    /// [`spawn`](Self::spawn) with its error.
    pub fn try_spawn(options: ServerOptions) -> anyhow::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let run = move || {
            let started = own_runtime().and_then(|runtime| {
                let (server, listener, wire) = runtime.block_on(Self::prepare(options))?;
                Ok((runtime, server.acceptor(listener, wire), server))
            });
            match started {
                Ok((runtime, acceptor, server)) => {
                    let tasks = server.tasks.clone();
                    // The receiver is waiting below; without it there is nobody to serve.
                    if sender.send(Ok(server)).is_ok() {
                        runtime.block_on(async {
                            acceptor.run().await;
                            tasks.wait().await;
                        });
                    }
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("s3pod-testserver".to_owned()).spawn(run)?;
        let mut server: Self = receiver.recv().context("the server's thread ended")??;
        server.thread = Some(thread);
        Ok(server)
    }

    async fn prepare(options: ServerOptions) -> anyhow::Result<(Self, TcpListener, Arc<Wire>)> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}", options.listen))?;
        let spill = match &options.spill {
            Some(folder) => Spill::in_folder(folder)
                .with_context(|| format!("no spill file in {}", folder.display()))?,
            None => Spill::in_memory(),
        };
        let etags = if options.quick_etags { EtagKind::Quick } else { EtagKind::Md5 };
        let abilities = Abilities {
            put: options.put_keeps,
            complete: options.complete_keeps,
            delete: options.delete_keeps,
            etags: options.etags,
            min_part: options.min_part,
        };
        let backend = Backend::new(spill, options.region.clone(), etags, abilities);
        for bucket in &options.buckets {
            backend.ensure_bucket(bucket);
        }
        let (log, faults) = (RequestLog::new(), Faults::default());
        let mut builder = S3ServiceBuilder::new(Service(Arc::clone(&backend)));
        let (key, secret) = &options.credentials;
        builder.set_auth(OneKey { key: key.clone(), secret: secret.as_str().into() });
        if options.anonymous {
            builder.set_access(Everyone);
        }
        let wire = Arc::new(Wire {
            service: builder.build(),
            log: log.clone(),
            faults: faults.clone(),
            latency: options.latency,
            only_region: options.enforce_region.then(|| options.region.clone()),
        });
        let server = Self {
            address: listener.local_addr()?,
            backend,
            log,
            faults,
            options,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            thread: None,
        };
        Ok((server, listener, wire))
    }

    fn acceptor(&self, listener: TcpListener, wire: Arc<Wire>) -> Acceptor {
        Acceptor {
            listener,
            wire,
            bandwidth: self.options.bandwidth_per_connection,
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The access key it accepts.
    #[must_use]
    pub fn access_key(&self) -> &str {
        &self.options.credentials.0
    }

    /// The secret of that key.
    #[must_use]
    pub fn secret_key(&self) -> &str {
        &self.options.credentials.1
    }

    /// The region it says it is in.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.options.region
    }

    /// All a client needs to reach `bucket`, which is created if it is not there.
    #[must_use]
    pub fn s3_endpoint(&self, bucket: &str) -> S3Endpoint {
        self.backend.ensure_bucket(bucket);
        S3Endpoint {
            endpoint: self.endpoint(),
            access_key: self.access_key().to_owned(),
            secret_key: self.secret_key().to_owned(),
            region: self.region().to_owned(),
            bucket: bucket.to_owned(),
        }
    }

    /// A bucket without HTTP between; created if it is not there. Nothing done through it is
    /// logged, delayed or broken.
    #[must_use]
    pub fn bucket(&self, name: &str) -> Bucket {
        self.backend.ensure_bucket(name);
        Bucket::new(Arc::clone(&self.backend), name)
    }

    /// The fault rules.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The request log.
    #[must_use]
    pub fn log(&self) -> &RequestLog {
        &self.log
    }

    /// Stops accepting, closes every connection and waits for their tasks.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(thread) = self.thread.take() {
            // The thread only waits for the same tasks.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn own_runtime() -> anyhow::Result<runtime::Runtime> {
    // Two workers: one hashes an upload while the other serves.
    let mut builder = runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).thread_name("s3pod-testserver").enable_all().build()?)
}

/// Knows one access key, and refuses any other with S3's own code.
struct OneKey {
    key: String,
    secret: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for OneKey {
    async fn get_secret_key(&self, access_key: &str) -> s3s::S3Result<SecretKey> {
        if access_key == self.key {
            return Ok(self.secret.clone());
        }
        Err(s3s::s3_error!(
            InvalidAccessKeyId,
            "The AWS Access Key Id you provided does not exist in our records."
        ))
    }
}

/// Lets unsigned requests in.
struct Everyone;

#[async_trait::async_trait]
impl S3Access for Everyone {
    async fn check(&self, _: &mut S3AccessContext<'_>) -> s3s::S3Result<()> {
        Ok(())
    }
}

struct Acceptor {
    listener: TcpListener,
    wire: Arc<Wire>,
    bandwidth: Option<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    async fn run(self) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.serve(stream),
                    // Out of descriptors, most likely: others will close.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
            }
        }
    }

    fn serve(&self, stream: TcpStream) {
        // Without it small answers wait for a delayed ACK; failing to set it only slows tests.
        let _ = stream.set_nodelay(true);
        let connection = Connection::of(&stream);
        let io = PacedIo::new(stream, Arc::clone(&connection), self.bandwidth);
        let wire = Arc::clone(&self.wire);
        let service = service_fn(move |request| {
            let (wire, connection) = (Arc::clone(&wire), Arc::clone(&connection));
            async move { wire.answer(connection, request).await }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(io), service);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Broken connections are the faults' doing, or the client's.
                _ = serving => {}
                () = stop.cancelled() => {}
            }
        });
    }
}
