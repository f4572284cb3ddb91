//! Blocks on their way to disk.
//!
//! Owns the queue and the one thread that empties it. Promises: whoever offers a block never
//! waits, since what does not fit into the queue is dropped and counted; a failure of the disk is
//! a number and one line in the log. Must not know where blocks come from.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use nix::errno::Errno;
use tokio::sync::oneshot;

use super::super::{BLOCK_SIZE, Block};
use super::counters::Counters;
use super::draft::Draft;
use super::folder::{Folder, is_passing};
use super::format::{Id, Identity};
use super::opened::{OpenFiles, Opened};
use super::room::Room;
use super::wanted::Wanted;
use crate::clock::Clock;
use crate::store::Version;
use crate::telemetry::Once;
use crate::units::{KIB, MIB};

/// Versions that are open for writing: as many streams as one machine reads at once, two
/// descriptors each.
const DRAFTS_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not zero");

/// Blocks that are taken from the queue at once: what one GET brings.
const BATCH_MAX: usize = 64;

/// Bytes that are written at once: room is made for them together, so it must be a small part of
/// the smallest cache.
const STEP_MAX: u64 = MIB;

/// Nothing came for so long: the versions are closed, so that another mount may write them.
const IDLE: Duration = Duration::from_millis(200);

/// It is looked so often what other mounts have removed.
const WATCH: Duration = Duration::from_secs(10);

/// How long an ending mount waits for a disk that does not answer.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// What a new version takes besides its bytes: its metadata file, and the rest of a page.
const FRAME: u64 = 8 * KIB;

/// Kinds of failure that get a line each.
const KINDS_MAX: usize = 32;

/// Something to do for a version.
enum Order {
    Write {
        version: Arc<Version>,
        index: u64,
        block: Arc<Block>,
    },
    Forget {
        identity: Arc<Identity>,
        index: u64,
    },
    /// Where `unless_good`, only if it cannot be opened any more.
    Remove {
        identity: Arc<Identity>,
        unless_good: bool,
    },
    Resize {
        size: u64,
        table: u64,
        done: oneshot::Sender<()>,
    },
    Flush(oneshot::Sender<()>),
}

/// The way in. Dropping it ends the thread, when what is queued is written.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<SyncSender<Order>>,
    counters: Arc<Counters>,
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works with.
pub(super) struct Desk {
    pub(super) place: Arc<str>,
    pub(super) folder: Arc<Folder>,
    pub(super) room: Arc<Room>,
    pub(super) counters: Arc<Counters>,
    pub(super) opened: Arc<OpenFiles>,
    pub(super) said: Arc<Said>,
    pub(super) wanted: Arc<Wanted>,
    pub(super) clock: Clock,
}

/// Failures of the disk, counted, and said once a kind.
#[derive(Debug)]
pub(super) struct Said {
    counters: Arc<Counters>,
    folder: Arc<Folder>,
    once: Once,
}

impl Said {
    pub(super) fn new(counters: Arc<Counters>, folder: Arc<Folder>) -> Self {
        Self { counters, folder, once: Once::new(KINDS_MAX) }
    }

    pub(super) fn failure(&self, error: &io::Error) {
        self.counters.errors.add(1);
        if self.once.is_new(&error.kind().to_string()) {
            let folder = self.folder.path().display();
            tracing::warn!(%folder, %error, "the disk cache fails; reads go on from the store");
        }
    }
}

impl Writer {
    /// Starts the thread, whose queue holds `blocks` blocks at most.
    pub(super) fn start(desk: Desk, blocks: usize) -> io::Result<Self> {
        let (queue, orders) = sync_channel(blocks);
        let (ending, ended) = sync_channel::<()>(0);
        let counters = Arc::clone(&desk.counters);
        let thread = thread::Builder::new().name("s3pod-cache".to_owned()).spawn(move || {
            let _ending = ending;
            desk.work(&orders);
        })?;
        let ended = Mutex::new(ended);
        Ok(Self { queue: Some(queue), counters, ended, thread: Some(thread) })
    }

    /// Takes a block, if there is room in the queue.
    pub(super) fn write(&self, version: &Arc<Version>, index: u64, block: &Arc<Block>) {
        let (version, block) = (Arc::clone(version), Arc::clone(block));
        if !self.order(Order::Write { version, index, block }) {
            self.counters.dropped.add(1);
        }
    }

    /// A block was damaged. If the queue is full it stays, and is found damaged again.
    pub(super) fn forget(&self, identity: &Arc<Identity>, index: u64) {
        self.order(Order::Forget { identity: Arc::clone(identity), index });
    }

    /// A version cannot be read, or (`unless_good`) has files that are not its own.
    pub(super) fn remove(&self, identity: &Arc<Identity>, unless_good: bool) {
        self.order(Order::Remove { identity: Arc::clone(identity), unless_good });
    }

    /// Waits until everything before it is done, and other mounts may write what this one did.
    pub(super) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        self.order_surely(Order::Flush(done)).await;
        // An error is a thread that is gone, with everything done.
        let _ = wait.await;
    }

    /// Other bounds from here on; waits until what is beyond them is gone.
    pub(super) async fn resize(&self, size: u64, table: u64) {
        let (done, wait) = oneshot::channel();
        self.order_surely(Order::Resize { size, table, done }).await;
        // As above.
        let _ = wait.await;
    }

    /// A version is not what it should be: it goes, however full the queue is.
    pub(super) async fn remove_surely(&self, identity: &Arc<Identity>) {
        let identity = Arc::clone(identity);
        self.order_surely(Order::Remove { identity, unless_good: false }).await;
    }

    /// Waits for a place in the queue.
    async fn order_surely(&self, mut order: Order) {
        while let Some(queue) = &self.queue {
            match queue.try_send(order) {
                Err(TrySendError::Full(back)) => order = back,
                _ => break,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn order(&self, order: Order) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(order).is_ok())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: it ends with the thread.
        if ended.recv_timeout(LAST_WRITES) == Err(RecvTimeoutError::Disconnected)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

type Drafts = LruCache<Id, Draft>;

impl Desk {
    fn work(&self, orders: &Receiver<Order>) {
        if let Err(error) = self.room.count_all() {
            self.said.failure(&error);
        }
        let (mut drafts, mut looked) = (Drafts::new(DRAFTS_MAX), self.clock.now());
        loop {
            match orders.recv_timeout(if drafts.is_empty() { WATCH } else { IDLE }) {
                Ok(order) => self.carry_out(gather(order, orders), &mut drafts),
                Err(RecvTimeoutError::Timeout) => {
                    drafts.clear();
                    self.opened.close_removed();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.room.count_on() {
                self.said.failure(&error);
            }
            self.close_gone(&mut drafts);
            if self.clock.now().saturating_duration_since(looked) >= WATCH {
                self.close_removed(&mut drafts);
                looked = self.clock.now();
            }
        }
    }

    /// Closes what other mounts have evicted, however much comes meanwhile.
    fn close_removed(&self, drafts: &mut Drafts) {
        let is_gone = |draft: &Draft| draft.is_removed().unwrap_or(true);
        let gone = drafts.iter().filter(|(_, draft)| is_gone(draft)).map(|(id, _)| *id);
        for id in gone.collect::<Vec<Id>>() {
            drafts.pop(&id);
        }
        self.opened.close_removed();
    }

    /// Closes what was evicted: an open file keeps its place on disk.
    fn close_gone(&self, drafts: &mut Drafts) {
        for id in self.room.take_gone() {
            drafts.pop(&id);
            self.opened.close(id);
        }
    }

    fn carry_out(&self, orders: Vec<Order>, drafts: &mut Drafts) {
        let mut writes: Vec<(Arc<Version>, u64, Arc<Block>)> = Vec::new();
        for order in orders {
            if let Order::Write { version, index, block } = order {
                writes.push((version, index, block));
                continue;
            }
            // In order: what is written before it is done before it.
            self.write_all(&mut writes, drafts);
            let done = match order {
                Order::Forget { identity, index } => self.forget(&identity, index, drafts),
                Order::Remove { identity, unless_good } => {
                    self.remove(&identity, unless_good, drafts)
                }
                Order::Resize { size, table, done } => {
                    let resized = self.room.resize(size, table);
                    self.close_gone(drafts);
                    // Who waited may be gone.
                    let _ = done.send(());
                    resized
                }
                Order::Flush(done) => {
                    drafts.clear();
                    // As above.
                    let _ = done.send(());
                    Ok(())
                }
                Order::Write { .. } => Ok(()),
            };
            if let Err(error) = done {
                self.said.failure(&error);
            }
        }
        self.write_all(&mut writes, drafts);
    }

    /// Writes blocks of several streams, each stretch of adjacent ones together.
    fn write_all(&self, writes: &mut Vec<(Arc<Version>, u64, Arc<Block>)>, drafts: &mut Drafts) {
        // Stable, and versions by address: all that matters is that equal ones are together.
        writes.sort_by_key(|(version, index, _)| (Arc::as_ptr(version), *index));
        let adjoins = |one: &(Arc<Version>, u64, Arc<Block>),
                       next: &(Arc<Version>, u64, Arc<Block>)| {
            Arc::ptr_eq(&one.0, &next.0) && one.1 + 1 == next.1
        };
        for stretch in writes.chunk_by(adjoins) {
            let Some((version, ..)) = stretch.first() else { continue };
            let Some(identity) = Identity::new(&self.place, version) else { continue };
            let identity = Arc::new(identity);
            for step in stretch.chunks((STEP_MAX / BLOCK_SIZE) as usize) {
                let blocks: Vec<Bytes> = step.iter().map(|(_, _, block)| block.bytes()).collect();
                let first = step.first().map_or(0, |(_, index, _)| *index);
                self.write(&identity, first, &blocks, drafts);
            }
        }
        writes.clear();
    }

    fn write(&self, identity: &Arc<Identity>, first: u64, blocks: &[Bytes], drafts: &mut Drafts) {
        let count = blocks.len() as u64;
        match self.try_write(identity, first, blocks, drafts) {
            Ok(Some(written)) => self.counters.written.add(written),
            Ok(None) => self.counters.refused.add(count),
            Err(error) => {
                self.counters.refused.add(count);
                drafts.pop(&identity.id);
                // A disk that is full all the same is no failure: the bound was set too high, or
                // somebody else was faster.
                let full = [Errno::ENOSPC, Errno::EDQUOT].map(|errno| Some(errno as i32));
                if !full.contains(&error.raw_os_error()) {
                    self.said.failure(&error);
                }
            }
        }
    }

    fn try_write(
        &self,
        identity: &Arc<Identity>,
        first: u64,
        blocks: &[Bytes],
        drafts: &mut Drafts,
    ) -> io::Result<Option<u64>> {
        let bytes: u64 = blocks.iter().map(|block| block.len() as u64).sum();
        let is_admitted = self.room.admit(identity.id, bytes + FRAME);
        self.close_gone(drafts);
        if !is_admitted? {
            return Ok(None);
        }
        let Some(draft) = self.draft(identity, drafts)? else { return Ok(None) };
        let written = draft.write(first, blocks)?;
        let (allocated, is_whole) = (draft.allocated()?, draft.is_whole());
        self.room.grown(identity.id, allocated, written * BLOCK_SIZE);
        if is_whole && written > 0 {
            self.wanted.is_whole(identity.id);
        }
        Ok(Some(written))
    }

    fn draft<'d>(
        &self,
        identity: &Arc<Identity>,
        drafts: &'d mut Drafts,
    ) -> io::Result<Option<&'d mut Draft>> {
        if let Some(draft) = drafts.get(&identity.id)
            && (draft.is_removed()? || draft.identity() != identity)
        {
            drafts.pop(&identity.id);
        }
        if !drafts.contains(&identity.id) {
            let damaged = || self.counters.damaged.add(1);
            let Some(draft) = Draft::open(&self.folder, identity, damaged)? else {
                return Ok(None);
            };
            drafts.put(identity.id, draft);
        }
        Ok(drafts.get_mut(&identity.id))
    }

    fn forget(&self, identity: &Arc<Identity>, index: u64, drafts: &mut Drafts) -> io::Result<()> {
        // Several readers may have seen the damage, and the first one has had it repaired.
        if let Ok(Some(opened)) = Opened::open(&self.folder, identity)
            && opened.is_sound(index)?
        {
            return Ok(());
        }
        match self.draft(identity, drafts)? {
            Some(draft) => draft.forget(index),
            None => Ok(()),
        }
    }

    fn remove(
        &self,
        identity: &Arc<Identity>,
        unless_good: bool,
        drafts: &mut Drafts,
    ) -> io::Result<()> {
        // As above: others may have replaced the files since they were seen.
        if unless_good {
            match Opened::open(&self.folder, identity) {
                Ok(_) => return Ok(()),
                Err(error) if is_passing(&error) => return Err(error),
                Err(_) => {}
            }
        }
        drafts.pop(&identity.id);
        self.room.remove(identity.id)
    }
}

/// What else is there already.
fn gather(first: Order, orders: &Receiver<Order>) -> Vec<Order> {
    std::iter::once(first).chain(orders.try_iter().take(BATCH_MAX - 1)).collect()
}
