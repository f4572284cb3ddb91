//! The file system: every verb, in POSIX's words.
//!
//! Owns what a mount promises (`docs/semantics.md`) and keeps it with the floors below: `read`
//! for bytes that are in S3, `write` for bytes that are not yet. Knows no fuser type and no S3
//! code.
//!
//! **The durability contract.** A write is staged; `flush`, `fsync` and `release` commit it; only
//! after S3 acknowledged the commit do they answer Ok, and only then does the inode's `version`,
//! under the inode's lock, become the new one. A failed commit leaves the bytes staged.
//!
//! **Lock order**, outermost first. The first two are held across requests, the others never
//! across an await:
//!
//! 1. `namespace`: shared by everything that depends on where an inode stands, exclusive for a
//!    rename of a directory, which moves every key below it;
//! 2. `Inode::commit`: one change of an object at a time; of two inodes, the smaller number first;
//! 3. `table`: the tree;
//! 4. `Inode::state`.

mod ahead;
mod attr;
mod attributes;
mod backlog;
mod commit;
mod content;
mod copy_range;
mod create;
mod deletes;
mod drain;
mod error;
mod follow;
mod handle;
mod held;
mod inode;
mod knowledge;
mod leftover;
mod listed;
mod loans;
mod lookup;
mod move_list;
mod move_tree;
mod pages;
mod passthrough;
mod progress;
mod quota;
mod readdir;
mod remove;
mod rename;
mod resume;
mod settings;
mod table;
mod told;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, RwLock, Semaphore};

use crate::cache::Cache;
use crate::clock::Clock;
use crate::naming::{HiddenReason, Name};
use crate::store::ObjectStore;
use crate::tasks::Tasks;
use crate::telemetry::Once;
use crate::write::Engine;

use backlog::Backlog;
use deletes::Deletes;
use handle::Handles;
use inode::{Inode, State};
use loans::Loans;
use quota::Quota;
use table::Table;

pub use attr::{
    Attr, Caller, DirEntry, DirName, Entry, Fh, FileKind, FsStat, Ino, NewTime, OpenFlags, Opened,
    RenameMode, Seek, SetAttr,
};
pub use drain::Drained;
pub use error::{Error, Result};
pub use settings::{DeleteMode, ExclusiveCreate, Metadata, Settings};

/// The size `statfs` shows where no quota is set: a bucket has no end.
const BUCKET_BYTES: u64 = 1 << 50;

/// Hidden keys that get a line in the log; the rest are counted.
const HIDDEN_KEYS_SAID: usize = 100;

/// The preferred size of I/O that `stat` and `statfs` show.
const BLOCK_SIZE: u32 = 4096;

/// A mounted file system; cheap to clone.
#[derive(Clone, Debug)]
pub struct Vfs(Arc<Core>);

/// Files whose attributes wait to be sent; a further chmod is sent at once. Each keeps its inode
/// and a record, some 2 KiB.
const HELD_MAX: usize = 65_536;

#[derive(Debug)]
struct Core {
    settings: Settings,
    store: Arc<dyn ObjectStore>,
    cache: Cache,
    engine: Engine,
    clock: Clock,
    /// In nanoseconds; of all settings this one and the next alone change while a mount runs.
    metadata_ttl: AtomicU64,
    inodes_max: AtomicUsize,
    namespace: RwLock<()>,
    table: Mutex<Table>,
    handles: Handles,
    backlog: Arc<Backlog>,
    /// Who has bytes that only the object of another file has.
    loans: Loans,
    deletes: Arc<Deletes>,
    /// Questions that run ahead of their readers.
    ahead: Arc<Semaphore>,
    /// Room for attributes that wait.
    held: Arc<Semaphore>,
    /// The directories whose listings are remembered, oldest first.
    walks: Mutex<VecDeque<Weak<Inode>>>,
    /// Where directories' listings come from.
    listings: pages::Source,
    /// More inodes are known than there is memory for.
    crowded: Notify,
    /// Whole files of the cache are offered to the kernel.
    passes: AtomicBool,
    /// Keys that cannot be shown: counted, and said once each.
    hidden: Once,
    quota: Quota,
    tasks: Tasks,
}

/// A u64 of nanoseconds is 584 years, and `indefinite` is a hundred.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A verb under way that needs an inode.
#[derive(Debug)]
struct Pin {
    vfs: Vfs,
    ino: Ino,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut table = self.vfs.table();
        table.closed(self.ino);
        table.collect(self.ino);
    }
}

impl Vfs {
    /// A file system over `store`, reading through `cache` and writing through `engine`.
    pub fn new(
        settings: Settings,
        store: Arc<dyn ObjectStore>,
        cache: Cache,
        engine: Engine,
        clock: Clock,
    ) -> Self {
        let mut root = State::implicit_directory(&settings, clock.now());
        root.knowledge.has_marker = true;
        let table = Mutex::new(Table::new(settings.prefix.clone(), root));
        let (namespace, handles, tasks) = (RwLock::new(()), Handles::default(), Tasks::new());
        let hidden = Once::new(HIDDEN_KEYS_SAID);
        let passes = AtomicBool::new(settings.passthrough);
        let ahead = Arc::new(Semaphore::new(settings.ahead_max));
        let held = Arc::new(Semaphore::new(HELD_MAX));
        let metadata_ttl = AtomicU64::new(nanoseconds(settings.metadata_ttl));
        let inodes_max = AtomicUsize::new(settings.inodes_max);
        let listings = pages::Source::new(Arc::clone(&store), clock.clone());
        let core = Core {
            settings,
            metadata_ttl,
            inodes_max,
            store,
            cache,
            engine,
            clock,
            namespace,
            table,
            handles,
            backlog: Arc::default(),
            loans: Loans::default(),
            deletes: Arc::default(),
            ahead,
            held,
            walks: Mutex::default(),
            listings,
            crowded: Notify::new(),
            passes,
            hidden,
            quota: Quota::default(),
            tasks,
        };
        Self(Arc::new(core))
    }

    /// The kernel gives lookups back. Never waits.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.table().forget(ino, count);
    }

    /// True where listings carry all attributes there are, so that READDIRPLUS is worth
    /// negotiating.
    pub fn lists_attributes(&self) -> bool {
        self.0.settings.metadata == Metadata::List
    }

    /// Believes names and attributes for so long from here on; what the kernel was told before
    /// stays as it was told.
    pub fn set_metadata_ttl(&self, ttl: Duration) {
        self.0.metadata_ttl.store(nanoseconds(ttl), Ordering::Relaxed);
    }

    /// Knows at most so many inodes from here on, as soon as the kernel has forgotten the others.
    pub fn set_inodes_max(&self, inodes_max: usize) {
        self.0.inodes_max.store(inodes_max, Ordering::Relaxed);
        self.0.crowded.notify_one();
    }

    fn inodes_max(&self) -> usize {
        self.0.inodes_max.load(Ordering::Relaxed)
    }

    fn metadata_ttl(&self) -> Duration {
        Duration::from_nanos(self.0.metadata_ttl.load(Ordering::Relaxed))
    }

    /// How many inodes are known.
    pub fn inode_count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.table().get(ino).ok_or(Error::Stale)
    }

    fn check_writable(&self) -> Result<()> {
        if self.settings().read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// True where the store's last word on the inode is young enough.
    fn is_fresh(&self, inode: &Inode) -> bool {
        let age = self.0.clock.now().saturating_duration_since(inode.state().seen);
        age < self.metadata_ttl()
    }

    /// True where its attributes may be told: the store's word is young enough, or a walk that
    /// goes on has brought them.
    fn is_believed(&self, inode: &Inode) -> bool {
        let walked = inode.state().walked;
        let ttl = self.metadata_ttl();
        self.is_fresh(inode)
            || walked.is_some_and(|at| self.0.clock.now().saturating_duration_since(at) < ttl)
    }

    /// Keeps an inode in the table as long as the pin lives.
    fn pin(&self, inode: &Inode) -> Pin {
        self.table().opened(inode.ino);
        Pin { vfs: self.clone(), ino: inode.ino }
    }

    /// The entry that the kernel is told of an inode, counted as a lookup.
    fn entry(&self, inode: &Inode, attr_ttl: Duration) -> Entry {
        self.remember(inode);
        self.entry_uncounted(inode, attr_ttl)
    }

    fn entry_uncounted(&self, inode: &Inode, attr_ttl: Duration) -> Entry {
        let entry_ttl = self.metadata_ttl();
        Entry { attr: inode.attr(), generation: inode.generation, entry_ttl, attr_ttl }
    }

    /// Notes a key that no path can name.
    fn hide(&self, key: &str, reason: HiddenReason) {
        let reason = reason.as_str();
        metrics::counter!("s3pod_hidden_keys_total", "reason" => reason).increment(1);
        if self.0.hidden.is_new(key) {
            tracing::warn!(key, "not shown, since the key has {reason}");
        }
    }

    fn name(&self, name: &std::ffi::OsStr) -> Result<Name> {
        Ok(Name::new(name)?)
    }
}
