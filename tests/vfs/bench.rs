//! A file system over the project's own server, without a kernel.
//!
//! Owns the composition: the same parts as a mount's, with short patience and no TTL. The kernel
//! would keep some verbs apart (its locks on directories); here a case decides what overlaps.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3pod::budget::Budget;
use s3pod::cache::Cache;
use s3pod::clock::Clock;
use s3pod::journal::Journal;
use s3pod::naming::Prefix;
use s3pod::store::s3::{Credentials, S3Settings, S3Store};
use s3pod::store::{ObjectStore, Retry, RetryPolicy};
use s3pod::units::{GIB, MIB};
use s3pod::vfs::{
    Caller, DeleteMode, ExclusiveCreate, Fh, Ino, Metadata, OpenFlags, RenameMode, Result,
    Settings, Vfs,
};
use s3pod::write::{Engine, Limits, Staging};
use s3pod_testkit::{Bucket, ServerOptions, TestServer};

const BUCKET: &str = "vfs";

/// Whoever creates.
pub(crate) const CALLER: Caller = Caller { uid: 7, gid: 7 };

/// O_RDWR.
pub(crate) const READ_WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    truncate: false,
    append: false,
    exclusive: false,
    execute: false,
    direct: false,
};

/// A server with one bucket, and a file system on it.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The file system.
    pub(crate) vfs: Vfs,
    /// The server, for its faults.
    pub(crate) server: TestServer,
    /// The staging folder.
    pub(crate) staging: tempfile::TempDir,
}

impl Bench {
    /// A mount that asks the store each time and gives up after `op_timeout`.
    pub(crate) async fn new(op_timeout: Duration) -> Self {
        Self::with(op_timeout, Duration::ZERO).await
    }

    /// A mount that believes the store for `metadata_ttl`.
    pub(crate) async fn with(op_timeout: Duration, metadata_ttl: Duration) -> Self {
        Self::within(op_timeout, metadata_ttl, Limits::S3, GIB).await
    }

    /// A mount of a store with these limits, with so many bytes of staging.
    pub(crate) async fn within(
        op_timeout: Duration,
        metadata_ttl: Duration,
        limits: Limits,
        quota: u64,
    ) -> Self {
        let options = ServerOptions::with_bucket(BUCKET);
        let options = ServerOptions { min_part: limits.min_part, ..options };
        Self::on(TestServer::start(options).await.unwrap(), op_timeout, metadata_ttl, limits, quota)
            .await
    }

    /// A mount of a store that answers after `latency`.
    pub(crate) async fn far(latency: Duration) -> Self {
        let options = ServerOptions { latency, ..ServerOptions::with_bucket(BUCKET) };
        let server = TestServer::start(options).await.unwrap();
        let patience = Duration::from_secs(60);
        Self::on(server, patience, Duration::ZERO, Limits::S3, GIB).await
    }

    async fn on(
        server: TestServer,
        op_timeout: Duration,
        metadata_ttl: Duration,
        limits: Limits,
        quota: u64,
    ) -> Self {
        let clock = Clock::system();
        let base = S3Store::connect(s3_settings(&server, BUCKET, op_timeout)).await.unwrap();
        let policy = RetryPolicy { op_timeout, ..RetryPolicy::default() };
        let store: Arc<dyn ObjectStore> = Arc::new(Retry::new(base, policy, clock.clone()));
        let budget = Budget::new(256 * MIB);
        let cache = Cache::new(Arc::clone(&store), Arc::clone(&budget));
        let staging = tempfile::tempdir().unwrap();
        let stages = Staging::new(Some(staging.path()), quota);
        let (own, kept) = (Arc::clone(&store), cache.clone());
        let engine = Engine::new(own, kept, budget, stages, Journal::none(), limits, None);
        let vfs = Vfs::new(settings(metadata_ttl, &clock), store, cache, engine, clock);
        Self { vfs, server, staging }
    }

    /// What is in the bucket.
    pub(crate) fn bucket(&self) -> Bucket {
        self.server.bucket(BUCKET)
    }

    /// Looks a name of the root up and opens it.
    pub(crate) async fn open(&self, name: &str) -> Result<Fh> {
        let entry = self.vfs.lookup(Ino::ROOT, OsStr::new(name)).await?;
        Ok(self.vfs.open(entry.attr.ino, READ_WRITE).await?.fh)
    }

    /// Makes a file in the root.
    pub(crate) async fn create(&self, name: &str, exclusive: bool) -> Result<Fh> {
        let flags = OpenFlags { exclusive, ..READ_WRITE };
        let name = OsStr::new(name);
        Ok(self.vfs.create(Ino::ROOT, name, 0o644, flags, CALLER).await?.1.fh)
    }

    /// Makes a file in the root, with bytes, and closes it.
    pub(crate) async fn store(&self, name: &str, bytes: &'static [u8]) {
        let fh = self.create(name, false).await.unwrap();
        self.vfs.write(fh, 0, Bytes::from_static(bytes)).await.unwrap();
        self.close(fh).await.unwrap();
    }

    /// FLUSH and RELEASE; the flush's answer is close(2)'s.
    pub(crate) async fn close(&self, fh: Fh) -> Result<()> {
        let flushed = self.vfs.flush(fh).await;
        self.vfs.release(fh).await.unwrap();
        flushed
    }

    /// Takes a name of the root away.
    pub(crate) async fn unlink(&self, name: &str) {
        self.vfs.unlink(Ino::ROOT, OsStr::new(name)).await.unwrap();
    }

    /// Renames within the root.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (OsStr::new(from), OsStr::new(to));
        self.vfs.rename(Ino::ROOT, from, Ino::ROOT, to, RenameMode::Replace).await
    }

    /// How many staging files there are.
    pub(crate) fn staged(&self) -> usize {
        std::fs::read_dir(self.staging.path()).unwrap().count()
    }
}

/// How `bucket` of `server` is reached.
pub(crate) fn s3_settings(server: &TestServer, bucket: &str, op_timeout: Duration) -> S3Settings {
    let defaults = S3Settings::new(bucket);
    S3Settings {
        endpoint_url: Some(server.endpoint()),
        region: Some(server.region().to_owned()),
        credentials: Some(Credentials {
            access_key_id: server.access_key().to_owned(),
            secret_access_key: server.secret_key().to_owned(),
            session_token: None,
        }),
        force_path_style: true,
        read_timeout: defaults.read_timeout.min(op_timeout),
        ..defaults
    }
}

/// A mount that believes the store for `metadata_ttl`.
pub(crate) fn settings(metadata_ttl: Duration, clock: &Clock) -> Settings {
    Settings {
        prefix: Prefix::root(),
        read_only: false,
        metadata: Metadata::Posix,
        metadata_ttl,
        attr_delay: Duration::ZERO,
        empty_delay: Duration::from_millis(100),
        retry_delay: Duration::from_secs(5),
        write_back: false,
        exclusive_create: ExclusiveCreate::Commit,
        delete: DeleteMode::Queue,
        inodes_max: usize::MAX,
        passthrough: true,
        uid: 7,
        gid: 7,
        file_mode: 0o644,
        dir_mode: 0o755,
        window_max: 8 * MIB,
        ahead_max: 32,
        started: clock.wall(),
    }
}
