//! The composition root: the only file that names every concrete part of a mount.
//!
//! Owns how settings become components, from the connection up to the file system. Must not know
//! how any of them works.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::allotment::{Allotment, Division, OnDisk};
use super::failure::Failure;
use super::traces::{self, Noted};
use crate::budget::Budget;
use crate::cache::{Cache, Disk, DiskSettings};
use crate::clock::Clock;
use crate::config::{self, Config, MetadataMode};
use crate::journal::{self, Journal, Leftover, Pending, Recovery, Slot};
use crate::store::s3::{Checksums, S3Settings, S3Store};
use crate::store::{
    Conditional, Counters, Hedged, Limit, Metered, ObjectStore, Requests, Retry, RetryPolicy,
};
use crate::units::MIB;
use crate::vfs::{DeleteMode, ExclusiveCreate, Metadata, Settings, Vfs};
use crate::write::{Engine, Limits, Staging};

/// The most that is fetched ahead of one reader, whatever the network and the budget allow: 10
/// Gbit/s over 200 ms of latency.
const WINDOW_MAX: u64 = 256 * MIB;

/// A file that is created or emptied and not written yet is stored after this; a shell's `> file`
/// has long written by then.
const EMPTY_DELAY: Duration = Duration::from_millis(100);

/// What failed with nobody waiting is tried again after this; the store's own retries have just
/// spent the operation timeout on it.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// One part in so many of the memory may hold blocks that wait to be written to the cache's disk.
const QUEUE_SHARE: u64 = 8;

/// A composed mount. Dropping it cancels what runs for it and gives its slot back.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) vfs: Vfs,
    pub(super) store: Arc<dyn ObjectStore>,
    /// What goes to the store, and whether it knows who asks.
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Clock,
    pub(super) allotment: Allotment,
    cache: Cache,
    // Dropped last: it locks the folder that the file system stages in.
    _journal: Journal,
}

/// What earlier mounts left in the journal.
#[derive(Debug)]
pub(super) struct Left {
    pending: Vec<Pending>,
}

/// The way to the store, which has not been asked for anything yet.
pub(super) async fn connect(config: &Config) -> Result<Arc<S3Store>, Failure> {
    let connected = S3Store::connect(s3_settings(config)).await;
    connected.map(Arc::new).map_err(|error| Failure::configuration(error.to_string()))
}

/// Builds the file system over a store, of which nothing is asked; what earlier mounts left is to
/// be taken up before anything is served.
pub(super) fn build(config: &Config, base: Arc<S3Store>) -> Result<(Stack, Left), Failure> {
    let clock = Clock::system();
    let disk = open_disk(config, base.endpoint(), &clock);
    let volume = volume(config, base.endpoint());
    let recovery = recovery(config, base.endpoint(), &volume);
    let (journal, pending) = open_journal(config, &volume)?;
    // One that may not write stages nothing.
    let staging = journal.folder().is_some() || config.read_only;
    let on_disk = OnDisk { cache: disk.is_some(), staging };
    let own = Division::of(config.sizes(), on_disk);
    let requests = Arc::new(Requests::new(own.requests));
    let base = Metered::new(base);
    let counters = base.counters();
    let store = decorate(base, &requests, &journal, config, &clock);
    let budget = Budget::new(own.budget);
    let cache = Cache::over(Arc::clone(&store), Arc::clone(&budget), own.requests, disk);
    let staging = Staging::new(journal.folder(), config.staging_size);
    let engine = Engine::new(
        Arc::clone(&store),
        cache.clone(),
        Arc::clone(&budget),
        Arc::clone(&staging),
        journal.clone(),
        limits(config),
        recovery,
    );
    let settings = Settings {
        ahead_max: (own.requests as usize * 3 / 4).max(1),
        ..vfs_settings(config, &clock)
    };
    let vfs = Vfs::new(settings, Arc::clone(&store), cache.clone(), engine, clock.clone());
    let (of_cache, of_vfs) = (cache.clone(), vfs.clone());
    let allotment = Allotment { budget, requests, cache: of_cache, staging, vfs: of_vfs, on_disk };
    let stack = Stack { vfs, store, counters, clock, allotment, cache, _journal: journal };
    Ok((stack, Left { pending }))
}

impl Stack {
    /// Takes up what earlier mounts left. The store is asked for each of it, and where it is away
    /// that takes its time.
    pub(super) async fn take_up(&self, left: Left) {
        traces::wipe(&left.pending, &*self.store).await;
        self.vfs.take_up(left.pending).await;
    }

    /// Waits for the disk to have what was read, within `patience`.
    pub(super) async fn settle(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.cache.flush()).await.is_err() {
            tracing::warn!(
                ?patience,
                "the disk of the cache is slow; its last blocks are not kept"
            );
        }
    }
}

/// The cache on disk. A folder below --cache-dir that cannot be used is no reason not to mount.
fn open_disk(config: &Config, endpoint: Option<&str>, clock: &Clock) -> Option<Disk> {
    let folder = config.cache_dir.clone().filter(|_| config.cache_size > 0)?;
    let settings = DiskSettings {
        folder,
        place: format!("{}\n{}", endpoint.unwrap_or_default(), config.bucket),
        size: config.cache_size,
        free_min: config.cache_min_free,
        queue: config.memory_limit / QUEUE_SHARE,
        table: Division::of(config.sizes(), OnDisk { cache: true, staging: true }).table,
    };
    match Disk::open(&settings, clock.clone()) {
        Ok(disk) => Some(disk),
        Err(error) => {
            let folder = settings.folder.join("cache");
            let folder = folder.display();
            tracing::warn!(%folder, %error, "no cache on disk: reads are kept in memory alone");
            None
        }
    }
}

/// Each attempt is counted, a slow GET is raced by another one, the number of attempts at once is
/// bounded, what failed in passing is tried again, and conditions go only where the store keeps
/// them.
fn decorate(
    base: Metered<Arc<S3Store>>,
    requests: &Arc<Requests>,
    journal: &Journal,
    config: &Config,
    clock: &Clock,
) -> Arc<dyn ObjectStore> {
    let policy = RetryPolicy { op_timeout: config.op_timeout, ..RetryPolicy::default() };
    let hedged = Hedged::new(base, clock.clone());
    let limited = Limit::within(hedged, Arc::clone(requests));
    let patient = Retry::new(limited, policy, clock.clone());
    let traces = Arc::new(Noted(journal.clone()));
    Arc::new(Conditional::new(patient, config.prefix.clone()).noting(traces))
}

fn s3_settings(config: &Config) -> S3Settings {
    let (s3, upload) = (&config.s3, &config.upload);
    let proxy = s3.proxies.towards(s3.endpoint_url.as_ref().map(config::EndpointUrl::as_str));
    let defaults = S3Settings::new(config.bucket.as_str());
    S3Settings {
        endpoint_url: s3.endpoint_url.as_ref().map(|url| url.as_str().to_owned()),
        region: s3.region.clone(),
        profile: s3.profile.clone(),
        credentials_file: s3.credentials_file.clone(),
        no_sign_request: s3.no_sign_request,
        force_path_style: s3.force_path_style,
        requester_pays: s3.requester_pays,
        sse: upload.sse.map(|sse| sse.as_str().to_owned()),
        sse_kms_key_id: upload.sse_kms_key_id.clone(),
        storage_class: upload.storage_class.clone(),
        ca_bundle: s3.ca_bundle.clone(),
        proxy: proxy.map(|url| url.expose().to_owned()),
        no_proxy: Some(s3.proxies.bypass.clone()).filter(|hosts| !hosts.is_empty()),
        connect_timeout: defaults.connect_timeout.min(config.op_timeout),
        read_timeout: defaults.read_timeout.min(config.op_timeout),
        // No byte moves while the store copies, so nobody sees whether it still does: it has twice
        // as long as what makes no progress.
        attempt_timeout: defaults.attempt_timeout.min(config.op_timeout * 2),
        checksums: match upload.checksums {
            config::Checksums::Auto => Checksums::Auto,
            config::Checksums::Always => Checksums::Always,
            config::Checksums::WhenRequired => Checksums::WhenRequired,
        },
        ..defaults
    }
}

fn limits(config: &Config) -> Limits {
    let part = config.upload.part_size;
    Limits { upload_part: part, single_put_max: part, ..Limits::S3 }
}

fn vfs_settings(config: &Config, clock: &Clock) -> Settings {
    Settings {
        prefix: config.prefix.clone(),
        read_only: config.read_only,
        metadata: match config.metadata {
            MetadataMode::Posix => Metadata::Posix,
            MetadataMode::List => Metadata::List,
        },
        metadata_ttl: config.metadata_ttl,
        attr_delay: config.attr_delay,
        empty_delay: EMPTY_DELAY,
        retry_delay: RETRY_DELAY,
        write_back: config.write_back,
        exclusive_create: match config.exclusive_create {
            config::ExclusiveCreate::Commit => ExclusiveCreate::Commit,
            config::ExclusiveCreate::Open => ExclusiveCreate::Open,
        },
        delete: match config.delete {
            config::DeleteMode::Sync => DeleteMode::Sync,
            config::DeleteMode::Queue => DeleteMode::Queue,
        },
        passthrough: config.passthrough,
        uid: config.uid,
        gid: config.gid,
        file_mode: config.file_mode,
        dir_mode: config.dir_mode,
        window_max: WINDOW_MAX,
        ahead_max: 1,
        inodes_max: Settings::inodes_within(config.memory_limit),
        started: clock.wall(),
    }
}

/// This mount's journal, and what earlier mounts left in this and other slots.
fn open_journal(config: &Config, volume: &str) -> Result<(Journal, Vec<Pending>), Failure> {
    let Some(folder) = &config.journal_dir else { return Ok((Journal::none(), Vec::new())) };
    if config.read_only {
        // What it held would be kept from a mount that may write, for as long as this one lives.
        say_what_waits(folder);
        return Ok((Journal::none(), Vec::new()));
    }
    let (own, others) = Slot::acquire(folder, volume).map_err(|error| unusable(folder, &error))?;
    let opened = Journal::open(own).map_err(|error| unusable(folder, &error))?;
    let (journal, mut pending, leftover) = opened;
    say(leftover);
    for slot in others {
        match Journal::open(slot) {
            Ok((_, more, leftover)) => {
                pending.extend(more);
                say(leftover);
            }
            Err(error) => tracing::error!(%error, "what another mount left stays where it is"),
        }
    }
    Ok((journal, pending))
}

fn say_what_waits(folder: &Path) {
    match journal::count_unsent(folder) {
        Ok(unsent) if unsent.is_empty() => {}
        Ok(unsent) => tracing::warn!(
            changes = unsent.changes,
            bytes = unsent.bytes,
            "an earlier mount left what is not in S3; this one is --read-only, so it waits for a \
             mount that may write"
        ),
        Err(error) => tracing::warn!(%error, "whether something waits to be sent is not known"),
    }
}

fn say(leftover: Leftover) {
    if leftover.files > 0 {
        tracing::warn!(
            files = leftover.files,
            bytes = leftover.bytes,
            "an earlier mount ended without closing these files; no close() or fsync() of theirs \
             had returned, and their staged bytes are removed"
        );
    }
}

/// Where bytes go that can never be sent; says how many wait there from before.
fn recovery(config: &Config, endpoint: Option<&str>, volume: &str) -> Option<Recovery> {
    let folder = config.journal_dir.as_ref()?;
    let recovery = Recovery::new(folder, volume, &config.bucket, endpoint);
    match recovery.waiting() {
        Ok(found) if found.items.is_empty() => {}
        Ok(found) => {
            let bytes: u64 = found.items.iter().map(|item| item.recovered.size).sum();
            tracing::warn!(
                files = found.items.len(),
                bytes,
                "files that another writer won wait for a decision: `s3pod recover list`"
            );
        }
        Err(error) => tracing::warn!(%error, "what waits for `s3pod recover` cannot be read"),
    }
    Some(recovery)
}

fn unusable(folder: &Path, error: &io::Error) -> Failure {
    Failure::configuration(format!(
        "the journal: cannot write to {}: {error}; name a folder that this user may write to as \
         --journal-dir, or as --cache-dir",
        folder.display()
    ))
}

/// The folder's name for what is mounted: the bucket, for people, and a number that tells
/// endpoints and prefixes apart, wherever the endpoint was said.
fn volume(config: &Config, endpoint: Option<&str>) -> String {
    let endpoint = endpoint.unwrap_or_default();
    let place = format!("{endpoint}\n{}\n{}", config.bucket, config.prefix.as_str());
    let number = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, place.as_bytes());
    // An access point's ARN has slashes and colons.
    let name: String =
        config.bucket.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{name}-{number:016x}")
}
