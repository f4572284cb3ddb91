//! What a case lives in: a bucket of its own on the server that all share, and mounts of it.
//!
//! Owns the composition: the same parts as a mount's, with parts of a few bytes, a clock that the
//! case moves, and retries that do not wait long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use s3pod::budget::Budget;
use s3pod::cache::Cache;
use s3pod::clock::Clock;
use s3pod::journal::{Item, Journal, Recovery, Slot, find_recovered};
use s3pod::naming::Prefix;
use s3pod::store::{Conditional, ObjectStore, Retry, RetryPolicy, s3::S3Store};
use s3pod::units::{GIB, MIB};
use s3pod::vfs::{DeleteMode, Settings, Vfs};
use s3pod::write::{Engine, Limits, Staging};
use s3pod_testkit::{Bucket, Fault, Faults, Op, TestServer};

use super::super::operation::{Mishap, PART};
use crate::bench;

const VOLUME: &str = "v";

/// Buckets have names, and cases may run at once.
static CASES: AtomicU64 = AtomicU64::new(0);

/// Parts of a few bytes, so that a small file has several, sent and copied.
const LIMITS: Limits = Limits {
    min_part: PART,
    upload_part: 2 * PART,
    copy_part: 4 * PART,
    single_put_max: 2 * PART,
    ..Limits::S3
};

/// Longer than any case: whether an empty file was stored by itself before it was written to would
/// be up to how busy the machine is.
const NEVER: Duration = Duration::from_secs(86_400);

/// How the bucket is mounted.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Mounted {
    pub(in super::super) ttl: Duration,
    pub(in super::super) attr_delay: Duration,
    pub(in super::super) delete: DeleteMode,
}

impl Mounted {
    /// The store is asked each time, and nothing waits.
    pub(in super::super) const STRICT: Self =
        Self { ttl: Duration::ZERO, attr_delay: Duration::ZERO, delete: DeleteMode::Sync };
}

#[derive(Debug)]
pub(in super::super) struct World {
    server: &'static TestServer,
    bucket: String,
    pub(super) clock: Clock,
    /// The cache folder.
    folder: tempfile::TempDir,
}

impl World {
    pub(in super::super) fn new(server: &'static TestServer) -> Self {
        let bucket = format!("case-{}", CASES.fetch_add(1, Ordering::Relaxed));
        let _made = server.bucket(&bucket);
        let (clock, folder) = (Clock::leaping(), tempfile::tempdir().unwrap());
        Self { server, bucket, clock, folder }
    }

    pub(super) fn bucket(&self) -> Bucket {
        self.server.bucket(&self.bucket)
    }

    fn slot(&self) -> Slot {
        Slot::acquire(self.folder.path(), VOLUME).unwrap().0
    }

    /// How many staging files there are.
    pub(super) fn staged(&self) -> usize {
        let slots = std::fs::read_dir(self.folder.path().join("journal").join(VOLUME)).unwrap();
        let files = slots.flat_map(|slot| std::fs::read_dir(slot.unwrap().path()).unwrap());
        files
            .filter(|file| file.as_ref().unwrap().path().extension() == Some("stage".as_ref()))
            .count()
    }

    /// What lost and was kept.
    pub(super) fn recovered(&self) -> Vec<Item> {
        find_recovered(self.folder.path()).unwrap().items
    }

    pub(super) fn faults(&self) -> &Faults {
        self.server.faults()
    }

    pub(super) async fn mount(&self, how: Mounted) -> Vfs {
        let Mounted { ttl, attr_delay, delete } = how;
        let patience = Duration::from_secs(20);
        let settings = bench::s3_settings(self.server, &self.bucket, patience);
        let base = S3Store::connect(settings).await.unwrap();
        let policy = RetryPolicy {
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(5),
            ..RetryPolicy::default()
        };
        let patient = Retry::new(base, policy, self.clock.clone());
        let store: Arc<dyn ObjectStore> = Arc::new(Conditional::new(patient, Prefix::root()));
        let budget = Budget::new(64 * MIB);
        let cache = Cache::new(Arc::clone(&store), Arc::clone(&budget));
        let (slot, volume) = (self.slot(), VOLUME);
        let (journal, pending, _) = Journal::open(slot).unwrap();
        assert!(pending.is_empty(), "an earlier mount ended with everything sent");
        let staging = Staging::new(journal.folder(), GIB);
        let recovery = Recovery::new(self.folder.path(), volume, &self.bucket, None);
        let (own, kept) = (Arc::clone(&store), cache.clone());
        let engine = Engine::new(own, kept, budget, staging, journal, LIMITS, Some(recovery));
        let settings = bench::settings(ttl, &self.clock);
        let (empty_delay, retry_delay) = (NEVER, NEVER);
        let settings = Settings { attr_delay, delete, empty_delay, retry_delay, ..settings };
        Vfs::new(settings, store, cache, engine, self.clock.clone())
    }

    pub(super) fn break_once(&self, mishap: Mishap) {
        let rule = match mishap {
            Mishap::Busy => Fault::SlowDown.on_any().times(3),
            Mishap::LostPut => Fault::LoseResponse.on(Op::Put),
            Mishap::LostCopy => Fault::LoseResponse.on(Op::Copy),
            Mishap::LostComplete => Fault::LoseResponse.on(Op::CompleteUpload),
            Mishap::LostDelete => Fault::LoseResponse.on(Op::Delete),
            Mishap::LostDeletes => Fault::LoseResponse.on(Op::DeleteMany),
        };
        self.faults().add(rule);
    }
}
