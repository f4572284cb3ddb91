//! Getting bytes into S3.
//!
//! Owns the way of written bytes: staged in a local file ([`Staged`]), sent as parts while a file
//! is still being written (`stream`), let go from there when staging is full (`room`), and
//! committed by the cheapest legal requests (`plan`, `commit`). Promises: [`Staged::commit`]
//! returns a version only after S3 acknowledged every byte written before it; on any error the
//! bytes stay staged and the commit can be tried again.
//! Must not know inodes, handles or reading ahead.

mod commit;
mod copied;
mod copy;
mod error;
mod extents;
mod intent;
mod plan;
mod rescue;
mod resumed;
mod room;
mod settle;
mod stage;
mod staging;
mod stream;
mod target;
mod upload;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::budget::Budget;
use crate::cache::Cache;
use crate::journal::{Journal, Pending, Record, Recovered, Recovery};
use crate::naming::Key;
use crate::store::{Condition, ObjectStore, Properties, Version};
use crate::tasks::Tasks;
use crate::units::ByteRange;

use intent::Promises;
use room::{Lack, Traffic};
use stage::{Stage, StageError};
use staging::Quota;
use stream::Stream;
use target::with_id;
use upload::Open;

pub use copied::{Copied, CopiedRun};
pub use error::{Error, Result};
pub use extents::Extents;
pub use plan::{Edit, Limits, Origin, PartSource, Plan, PlannedPart, TooLarge, plan};
pub use resumed::Resumed;
pub use stage::Slice;
pub use staging::Staging;
pub use target::{COMMIT_ID, COMMIT_ID_BYTES, Committed, Target, new_commit_id};

/// What every staged file of a mount shares; cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    cache: Cache,
    budget: Arc<Budget>,
    staging: Arc<Staging>,
    journal: Journal,
    limits: Limits,
    /// None where there is no local folder.
    recovery: Option<Recovery>,
    tasks: Tasks,
    /// Uploads being given up.
    aborts: Tasks,
    /// Every staged file of the mount, oldest first; as many as there are dirty or open ones.
    files: std::sync::Mutex<Vec<Weak<Staged>>>,
    traffic: Arc<Traffic>,
}

impl Engine {
    /// An engine that stages in `staging`, notes in `journal` and sends through `store`; what a
    /// conflict leaves goes to `recovery`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cache: Cache,
        budget: Arc<Budget>,
        staging: Arc<Staging>,
        journal: Journal,
        limits: Limits,
        recovery: Option<Recovery>,
    ) -> Self {
        let (tasks, aborts) = (Tasks::new(), Tasks::new());
        let (files, traffic) = (std::sync::Mutex::default(), Arc::default());
        Self(Arc::new(Inner {
            store,
            cache,
            budget,
            staging,
            journal,
            limits,
            recovery,
            tasks,
            aborts,
            files,
            traffic,
        }))
    }

    /// The journal of the mount.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Takes up the commits that earlier mounts left, in order, and gives their other uploads up.
    /// Each is tried again by [`Staged::commit`] or let go by [`Staged::abandon`]. `moved` tells
    /// under which key a file stands now.
    pub fn resume(&self, pending: &[Pending], moved: impl Fn(Key, &Record) -> Key) -> Vec<Resumed> {
        resumed::resume(self, pending, &moved)
    }

    /// Begins to stage changes of a file whose bytes are `base`'s; none for a new file.
    ///
    /// # Errors
    /// [`Error::Staging`] where the staging file cannot be made.
    pub fn stage(&self, key: &Key, base: Option<Arc<Version>>) -> Result<Arc<Staged>> {
        let stage = Stage::create(&self.0.staging, base)
            .map_err(|source| Error::Staging { key: key.clone(), source })?;
        let stream = Mutex::new(Stream::default());
        let [stays_local, lost, sync_failed] = [(); 3].map(|()| AtomicBool::new(false));
        let (promised, resumable) = (std::sync::Mutex::default(), std::sync::Mutex::default());
        let engine = self.clone();
        let journal = self.0.journal.clone();
        Ok(self.register(Staged {
            engine,
            journal,
            stage,
            stream,
            stays_local,
            lost,
            sync_failed,
            promised,
            resumable,
        }))
    }

    /// Waits until the uploads that were given up are gone, or the store would not hear of it.
    pub async fn settle(&self) {
        self.0.aborts.idle().await;
    }

    /// The smallest range that the store copies into the middle of an object.
    pub fn min_part(&self) -> u64 {
        self.0.limits.min_part
    }

    /// Bytes that all files have in staging.
    pub fn staged_bytes(&self) -> u64 {
        self.0.staging.used()
    }

    fn register(&self, staged: Staged) -> Arc<Staged> {
        let staged = Arc::new(staged);
        let mut files = self.registered();
        if files.len() == files.capacity() {
            files.retain(|file| file.strong_count() > 0);
        }
        files.push(Arc::downgrade(&staged));
        staged
    }

    fn registered(&self) -> MutexGuard<'_, Vec<Weak<Staged>>> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a whole object of any size server-side, pinned to `source`.
    ///
    /// # Errors
    /// The store's.
    pub async fn copy(
        &self,
        source: &Version,
        key: &Key,
        properties: Option<Properties>,
        condition: &Condition,
    ) -> Result<Version> {
        copy::copy(self, source, key, properties, condition).await
    }
}

/// The staged changes of one file.
///
/// Writes, truncates and commits of one file take turns; reads do not wait for them.
#[derive(Debug)]
pub struct Staged {
    engine: Engine,
    /// Where the staging file lies: an earlier mount's, where that has left it.
    journal: Journal,
    stage: Stage,
    /// Held by whoever changes or commits the file.
    stream: Mutex<Stream>,
    /// The file was unlinked: nothing of it is sent any more.
    stays_local: AtomicBool,
    /// The bytes were kept for recovery: none is taken any more.
    lost: AtomicBool,
    /// The disk once failed to take them: none of them is promised any more.
    sync_failed: AtomicBool,
    /// What stands in the journal.
    promised: std::sync::Mutex<Promises>,
    /// An upload of an earlier process that this commit may go on with.
    resumable: std::sync::Mutex<Option<Open>>,
}

/// While it lives, a staged file does not change: [`Staged::hold_still`].
#[derive(Debug)]
pub struct Still<'a> {
    _stream: tokio::sync::MutexGuard<'a, Stream>,
}

impl Staged {
    /// Stages bytes and, in a file written in order, sends the parts that are full; `target` is
    /// asked only when an upload begins, and stays what it is until its guard goes. None begins
    /// where it has no answer. Waits for parts on their way where staging is full. Returns the
    /// change's epoch.
    ///
    /// # Errors
    /// [`Error::StagingFull`], [`Error::Staging`], [`Error::TooBig`]; [`Error::InUpload`], and
    /// after a commit it can be written.
    pub async fn write_at<G: Send>(
        &self,
        offset: u64,
        bytes: &[u8],
        key: &Key,
        target: impl FnOnce() -> Option<(Target, G)> + Send,
    ) -> Result<u64> {
        let range = ByteRange::at(offset, bytes.len() as u64);
        self.check_size(range.end, key)?;
        let mut stream = self.stream.lock().await;
        self.check_not_lost(key)?;
        self.make_changeable(range, &mut stream, key).await?;
        self.change_promise();
        while let Err(error) = self.stage.write_at(offset, bytes) {
            let lack = self.lack(&error, range.len());
            if !room::make_room(self, &mut stream, lack).await {
                return Err(self.error(key, error));
            }
            // What left meanwhile may be what is being written.
            self.make_changeable(range, &mut stream, key).await?;
        }
        stream.touched(range);
        if !self.is_local() {
            stream.advance(self, target).await;
        }
        Ok(self.stage.account().epoch)
    }

    /// Sends the parts that are full by now, where no write could begin that.
    pub async fn advance<G: Send>(&self, target: impl FnOnce() -> Option<(Target, G)> + Send) {
        let mut stream = self.stream.lock().await;
        if !self.is_local() {
            stream.advance(self, target).await;
        }
    }

    /// Makes `run.range` another object's bytes, without moving any. Returns the change's epoch.
    ///
    /// # Errors
    /// As [`Staged::write_at`].
    pub async fn copy_in(&self, run: CopiedRun, key: &Key) -> Result<u64> {
        self.check_size(run.range.end, key)?;
        let mut stream = self.stream.lock().await;
        self.check_not_lost(key)?;
        if self.is_in_upload() {
            return Err(Error::InUpload { key: key.clone() });
        }
        self.change_promise();
        stream.abandon(&self.engine).await;
        self.promise_ahead(&stream, key, |account| account.take_copy(run.clone())).await?;
        self.stage.copy_in(run).map_err(|error| self.error(key, error))?;
        Ok(self.stage.account().epoch)
    }

    /// Sets the file's size. Returns the change's epoch.
    ///
    /// # Errors
    /// As [`Staged::write_at`].
    pub async fn truncate(&self, size: u64, key: &Key) -> Result<u64> {
        self.check_size(size, key)?;
        let mut stream = self.stream.lock().await;
        self.check_not_lost(key)?;
        if self.is_in_upload() && size > 0 && !stream.can_be_cut(size, &self.stage.account()) {
            return Err(Error::InUpload { key: key.clone() });
        }
        self.change_promise();
        let before = self.size();
        if size < before {
            self.promise_ahead(&stream, key, |account| account.cut(size)).await?;
        }
        self.stage.truncate(size).map_err(|error| self.error(key, error))?;
        stream.touched(ByteRange::new(size.min(before), size.max(before)));
        stream.truncate(size, &self.engine).await;
        Ok(self.stage.account().epoch)
    }

    /// Before bytes in `range` change: an upload that cannot take it is given up, unless it alone
    /// has bytes of the file.
    async fn make_changeable(
        &self,
        range: ByteRange,
        stream: &mut Stream,
        key: &Key,
    ) -> Result<()> {
        let is_only_there = self.stage.account().punched.intersects(range);
        if !is_only_there && stream.takes(range, &self.engine.0.limits) {
            return Ok(());
        }
        if self.is_in_upload() {
            return Err(Error::InUpload { key: key.clone() });
        }
        stream.abandon(&self.engine).await;
        Ok(())
    }

    /// Notes that the file is to exist although no byte was written.
    pub fn touch(&self) -> u64 {
        self.stage.touch();
        self.stage.account().epoch
    }

    /// Asks whether S3 has done the commit that an earlier process began; then nothing is left of
    /// it to do. Where S3 does not say, the commit itself asks again.
    pub async fn is_over(&self, target: &Target) -> bool {
        settle::is_over(self, target).await
    }

    /// The object under `key`, where it is a commit of this file that was given up because no
    /// answer came; it is underneath the file from then on.
    ///
    /// # Errors
    /// The store's: then nobody knows.
    pub async fn arrived(&self, key: &Key) -> Result<Option<Arc<Version>>> {
        settle::arrived(self, key).await
    }

    /// True where the bytes of both lie in the same folder of the journal.
    pub fn lies_beside(&self, other: &Self) -> bool {
        self.journal.folder() == other.journal.folder()
    }

    /// Brings S3 up to date and returns what stands there; sends nothing where nothing is dirty, or
    /// where the file's size makes it not due. `target` is asked when nothing of the file changes
    /// any more, so that what has been promised of it until then is sent.
    ///
    /// # Errors
    /// The store's, [`Error::Conflict`] or [`Error::Exists`]; the bytes stay staged.
    pub async fn commit(
        &self,
        is_due: impl FnOnce(u64) -> bool + Send,
        target: impl FnOnce() -> Target + Send,
    ) -> Result<Option<Committed>> {
        commit::commit(self, is_due, target).await
    }

    /// From now on nothing is sent: the file was unlinked. What was streamed is given up.
    pub async fn abandon(&self) {
        self.stay_local();
        let mut stream = self.stream.lock().await;
        self.leave(&mut stream).await;
    }

    /// Nothing of the file will be sent any more, or all of it has been: neither an upload nor a
    /// record of it stays.
    async fn leave(&self, stream: &mut Stream) {
        stream.abandon(&self.engine).await;
        let resumable = self.resumable().take();
        if let Some(open) = resumable {
            open.abort(&self.engine).await;
        }
        self.end_promise();
    }

    /// Holds the file still while it gets another name: nothing of it changes, and an upload to
    /// the old key is given up, until the guard is dropped. If only that upload has some bytes, it
    /// is not, and must be completed first: [`Staged::is_in_upload`].
    pub async fn hold_still(&self) -> Still<'_> {
        let mut stream = self.stream.lock().await;
        if !self.is_in_upload() {
            stream.abandon(&self.engine).await;
        }
        Still { _stream: stream }
    }

    /// From now on no upload begins.
    pub fn stay_local(&self) {
        self.stays_local.store(true, Ordering::Relaxed);
    }

    /// Brings every byte that is still only in the version underneath into the staging file, so
    /// that they outlive it.
    ///
    /// # Errors
    /// The store's and the staging folder's.
    pub async fn outlive_base(&self, key: &Key) -> Result<()> {
        let _nothing_changes = self.stream.lock().await;
        commit::fill(self, key, ByteRange::new(0, self.size()), Quota::Kept).await
    }

    /// Brings what was copied of the object `source` into the staging file: that object is about
    /// to change.
    ///
    /// # Errors
    /// The store's and the staging folder's.
    pub async fn outlive(&self, source: &Key, key: &Key) -> Result<()> {
        let mut stream = self.stream.lock().await;
        let runs: Vec<CopiedRun> = self.stage.account().copied.iter().cloned().collect();
        let runs = runs.iter().filter(|run| run.version.key == *source);
        // The lender's commit must not fail because there is little room.
        let wanted = runs.clone().map(|run| run.range.len()).sum();
        let lack = Lack::of_quota(&self.engine.0.staging, wanted);
        let _as_far_as_it_goes = room::make_room(self, &mut stream, lack).await;
        for run in runs {
            commit::fill(self, key, run.range, Quota::MayBePassed).await?;
        }
        self.stage.adopt_copied(source);
        self.renew_promise(key).await
    }

    /// The objects that have bytes of this file until it is committed.
    pub fn lenders(&self) -> Vec<Key> {
        self.stage.account().copied.iter().map(|run| run.version.key.clone()).collect()
    }

    /// True where some of the file's bytes are another object's until it is committed.
    pub fn borrows(&self) -> bool {
        !self.stage.account().copied.is_empty()
    }

    /// True where only an unfinished upload has some of the file's bytes.
    pub fn is_in_upload(&self) -> bool {
        !self.stage.account().punched.is_empty()
    }

    /// The bytes that [`Staged::keep_for_recovery`] cannot keep, since they are in objects or were
    /// in an upload.
    pub fn missing(&self) -> Extents {
        let whole = ByteRange::new(0, self.size());
        let kept = |slice: &Slice| matches!(slice, Slice::Dirty(_) | Slice::Hole(_));
        let missing = self.slices(whole).into_iter().filter(|slice| !kept(slice));
        missing.map(|slice| slice.range()).collect()
    }

    fn is_local(&self) -> bool {
        self.stays_local.load(Ordering::Relaxed)
    }

    /// This mount itself replaced the version underneath by `version`, a copy of it.
    pub fn rebase(&self, version: Arc<Version>) {
        self.stage.rebase(version);
    }

    /// Keeps what can never be sent for `s3pod recover`; from now on the file takes no change.
    /// None where there are no bytes to keep.
    ///
    /// # Errors
    /// The disk's; without a cache folder there is nowhere to keep anything.
    pub async fn keep_for_recovery(
        &self,
        key: &Key,
        refusal: &Error,
    ) -> io::Result<Option<Recovered>> {
        let mut stream = self.stream.lock().await;
        self.lost.store(true, Ordering::Relaxed);
        stream.abandon(&self.engine).await;
        let kept = rescue::keep(self, key, refusal).await?;
        self.end_promise();
        Ok(kept)
    }

    /// Where the bytes of `range`, cut to the size, are.
    pub fn slices(&self, range: ByteRange) -> Vec<Slice> {
        self.stage.slices(range)
    }

    /// The version underneath, and where the bytes of `range` are, as of one moment.
    pub fn view(&self, range: ByteRange) -> (Option<Arc<Version>>, Vec<Slice>) {
        self.stage.view(range)
    }

    /// Reads a [`Slice::Dirty`] range.
    ///
    /// # Errors
    /// The disk's; an early end where the bytes are somewhere else, or gone, by now.
    pub fn read(&self, range: ByteRange) -> io::Result<Bytes> {
        self.stage.read_present(range)
    }

    /// The version underneath.
    pub fn base(&self) -> Option<Arc<Version>> {
        self.stage.account().base.clone()
    }

    /// True where bytes of the version underneath are still the file's.
    pub fn keeps_base(&self) -> bool {
        self.stage.account().base_len > 0
    }

    /// The file's size in bytes.
    pub fn size(&self) -> u64 {
        self.stage.account().size
    }

    /// The epoch that S3 has; a change of a later one is not committed.
    pub fn committed_epoch(&self) -> u64 {
        self.stage.account().committed
    }

    /// True where S3 lacks a change.
    pub fn is_dirty(&self) -> bool {
        let account = self.stage.account();
        account.epoch > account.committed
    }

    fn check_not_lost(&self, key: &Key) -> Result<()> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(Error::Conflict { key: key.clone() });
        }
        Ok(())
    }

    fn promised(&self) -> MutexGuard<'_, Promises> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resumable(&self) -> MutexGuard<'_, Option<Open>> {
        self.resumable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a write that failed lacks; nothing that could be made where the disk is broken.
    fn lack(&self, error: &StageError, len: u64) -> Lack {
        let staging = &self.engine.0.staging;
        match error {
            StageError::Full { wanted } => Lack::of_quota(staging, *wanted),
            StageError::Disk(error) if error.kind() == io::ErrorKind::StorageFull => {
                Lack::of_disk(staging, len)
            }
            StageError::Disk(_) => Lack::of_quota(staging, u64::MAX),
        }
    }

    fn check_size(&self, end: u64, key: &Key) -> Result<()> {
        if end > self.engine.0.limits.max_size() {
            return Err(Error::TooBig { key: key.clone() });
        }
        Ok(())
    }

    fn error(&self, key: &Key, error: StageError) -> Error {
        match error {
            StageError::Full { .. } => Error::StagingFull { quota: self.engine.0.staging.quota() },
            StageError::Disk(source) => Error::Staging { key: key.clone(), source },
        }
    }
}
