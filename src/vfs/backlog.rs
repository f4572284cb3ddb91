//! Closed files that are not in S3 yet, in the order in which they were closed (`--write-back`).
//!
//! Owns the queue between a close(2) that has returned and the commit that carries it out, and
//! what waits for it: fsync, and whatever would show another change before an earlier close.
//! Promises: commits become visible in the order of their closes; one that the store does not
//! take for now holds up those behind it, one that it will not take is tried after them. Must not
//! know how a file is committed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::commit::Cause;
use super::inode::Inode;
use super::progress::Progress;
use super::{Core, Error, Result, Vfs};
use crate::store;
use crate::write::{self, Staged, Target};

/// Files acknowledged and not in S3; a further close waits for room. Each is a staging file and
/// 2 KiB of journal and memory.
const FILES_MAX: usize = 10_000;

/// Closed states of one file that wait beside its present one; emptying it once more waits. The
/// last must know the commits of all that may be under way, see `write`.
const EARLIER_MAX: usize = 64;

/// After a commit failed: the store's own retries have just spent the operation timeout on it.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    queue: Mutex<Queue>,
    /// A file has left the queue, or a commit has failed.
    moved: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    files: VecDeque<File>,
    last: u64,
    /// Commits that failed for now, each time.
    failures: u64,
    failure: Option<store::Error>,
    /// Files that will not go, each time they were tried.
    refusals: u64,
    /// A task sends what comes.
    is_served: bool,
    /// Those that an earlier mount had closed.
    taken_up: Progress,
}

impl Queue {
    /// All closed states of the inode are tried after the other files, and among themselves in the
    /// order of their closes: an older one must never go over a newer.
    fn step_aside(&mut self, inode: &Arc<Inode>) {
        let files = std::mem::take(&mut self.files);
        let is_own = |file: &File| Arc::ptr_eq(&file.inode, inode);
        let (own, others): (VecDeque<File>, VecDeque<File>) = files.into_iter().partition(is_own);
        self.files = others;
        self.files.extend(own.into_iter().map(|file| File { is_refused: true, ..file }));
    }

    /// Closed states of the inode that are not its `current` one.
    fn earlier<'a>(
        &'a self,
        inode: &'a Arc<Inode>,
        current: Option<&'a Arc<Staged>>,
    ) -> impl Iterator<Item = &'a File> {
        let own = self.files.iter().filter(move |file| Arc::ptr_eq(&file.inode, inode));
        own.filter(move |file| !current.is_some_and(|now| Arc::ptr_eq(now, &file.staged)))
    }
}

/// A closed file.
#[derive(Clone, Debug)]
struct File {
    /// Which close it was.
    ticket: u64,
    inode: Arc<Inode>,
    staged: Arc<Staged>,
    target: Target,
    /// Nobody has closed it: it goes only as long as it is empty.
    cause: Cause,
    /// The store or the local disk said that it will not go: nothing else waits for it.
    is_refused: bool,
    /// An earlier mount had closed it.
    is_taken_up: bool,
}

impl File {
    /// True where a try has left it as it was: it is not empty any more, and whoever closes it
    /// promises it anew.
    fn is_parked(&self) -> bool {
        let state = self.inode.state();
        let is_over = state.unlinked || state.detached;
        drop(state);
        self.cause == Cause::Empty && !is_over && self.staged.is_promised()
    }
}

impl Backlog {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next file to commit; none where nothing is left, and then nobody serves the queue.
    fn first(&self) -> Option<File> {
        let mut queue = self.queue();
        let first = queue.files.iter().find(|file| !file.is_refused).or(queue.files.front());
        let first = first.cloned();
        queue.is_served = first.is_some();
        first
    }

    /// Waits until `answer` has one.
    async fn wait_until<T>(&self, answer: impl Fn(&Queue) -> Option<T>) -> T {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Before looking, so that no move is missed in between.
            moved.as_mut().enable();
            if let Some(answer) = answer(&self.queue()) {
                return answer;
            }
            moved.await;
        }
    }

    /// Waits until the queue is as `is_so` wants it.
    ///
    /// # Errors
    /// What the store said, where a commit has failed meanwhile.
    async fn wait_for(&self, is_so: impl Fn(&Queue) -> bool) -> Result<()> {
        self.wait_while(|queue| queue.failures, is_so).await
    }

    /// Waits for room, which also a file that will not go takes.
    ///
    /// # Errors
    /// As [`Backlog::wait_for`], and where one was refused meanwhile.
    async fn wait_for_room(&self, is_so: impl Fn(&Queue) -> bool) -> Result<()> {
        self.wait_while(|queue| queue.failures + queue.refusals, is_so).await
    }

    async fn wait_while(
        &self,
        failures: impl Fn(&Queue) -> u64,
        is_so: impl Fn(&Queue) -> bool,
    ) -> Result<()> {
        let before = failures(&self.queue());
        let answer = self.wait_until(|queue| {
            let failure = || queue.failure.clone().map_or(Error::TimedOut, Error::Store);
            match is_so(queue) {
                true => Some(Ok(())),
                false => (failures(queue) > before).then(|| Err(failure())),
            }
        });
        answer.await
    }

    /// The file of this ticket is in S3, or goes nowhere.
    fn settle(&self, ticket: u64, now: Instant) {
        let mut queue = self.queue();
        if let Some(at) = queue.files.iter().position(|file| file.ticket == ticket)
            && queue.files.remove(at).is_some_and(|file| file.is_taken_up)
        {
            queue.taken_up.landed(now);
        }
        drop(queue);
        self.moved.notify_waiters();
    }

    /// The store did not take it: for now, or not at all. None is the local disk's failure, which
    /// is of this file alone.
    fn fail(&self, failed: &File, error: Option<store::Error>) {
        let mut queue = self.queue();
        if error.as_ref().is_some_and(|error| error.kind().is_transient()) {
            queue.failures += 1;
            queue.failure = error;
        } else {
            queue.step_aside(&failed.inode);
            queue.refusals += 1;
        }
        drop(queue);
        self.moved.notify_waiters();
    }
}

impl Vfs {
    /// What a close(2) waits for: with `--write-back` that bytes and intent are on local disk,
    /// otherwise that they are in S3.
    ///
    /// # Errors
    /// The commit's.
    pub(super) async fn close(&self, inode: &Arc<Inode>) -> Result<()> {
        if !self.settings().write_back {
            return self.commit(inode).await;
        }
        match self.close_soon(inode).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // What cannot be promised is done.
                tracing::warn!(%error, "the journal takes nothing: this close waits for S3");
                self.commit(inode).await
            }
        }
    }

    /// Puts the file's bytes and the intent to commit them on local disk, and queues the commit.
    ///
    /// # Errors
    /// The disk's; what the store said, where too many wait and it takes none. Nothing is promised
    /// then.
    pub(super) async fn close_soon(&self, inode: &Arc<Inode>) -> Result<()> {
        self.room_in_backlog().await?;
        let _places_stand = self.0.namespace.read().await;
        self.promise(inode).await
    }

    /// The same for a file that nobody has closed, as long as it is empty: what is being written to
    /// it is half of something.
    ///
    /// # Errors
    /// As [`Vfs::close_soon`].
    pub(super) async fn promise_empty(&self, inode: &Arc<Inode>) -> Result<()> {
        self.room_in_backlog().await?;
        let _places_stand = self.0.namespace.read().await;
        self.promise_for(inode, Cause::Empty).await
    }

    /// The same; the caller holds the namespace. The inode's commit lock is not needed, and
    /// whoever closes does not wait for an upload of what was closed before: a rename in between
    /// is seen by the name, and then it is promised once more.
    pub(super) async fn promise(&self, inode: &Arc<Inode>) -> Result<()> {
        self.promise_for(inode, Cause::Time).await
    }

    async fn promise_for(&self, inode: &Arc<Inode>, cause: Cause) -> Result<()> {
        let is_due = |size| cause.is_due(size);
        loop {
            let Some(staged) = inode.staged().filter(|_| inode.is_dirty()) else { return Ok(()) };
            let Some(key) = self.table().key(inode.ino) else { return Err(Error::Stale) };
            let target = || inode.target(&key, self.settings(), true);
            let stand = |target| self.queue_up(inode, Arc::clone(&staged), target, (cause, false));
            staged.promise_durably(is_due, target, stand).await?;
            if self.table().key(inode.ino).is_none_or(|now| now == key) {
                return Ok(());
            }
        }
    }

    /// So many files of an earlier mount are to be sent.
    pub(super) fn expect_taken_up(&self, files: usize) {
        self.0.backlog.queue().taken_up.expect(files);
    }

    /// One of them needed nothing more.
    pub(super) fn taken_up_is_over(&self) {
        self.0.backlog.queue().taken_up.landed(self.0.clock.now());
    }

    /// Queues a file that an earlier mount had closed.
    pub(super) fn enqueue_taken_up(&self, inode: &Arc<Inode>, staged: Arc<Staged>, target: Target) {
        self.queue_up(inode, staged, target, (Cause::Time, true));
    }

    /// Queues a file whose intent is written down; its place is that of its last record.
    fn queue_up(
        &self,
        inode: &Arc<Inode>,
        staged: Arc<Staged>,
        target: Target,
        (cause, mut is_taken_up): (Cause, bool),
    ) {
        let backlog = &self.0.backlog;
        let was_served = {
            let mut queue = backlog.queue();
            if let Some(at) = queue.files.iter().position(|f| Arc::ptr_eq(&f.staged, &staged)) {
                is_taken_up |= queue.files.remove(at).is_some_and(|file| file.is_taken_up);
            }
            queue.last += 1;
            let (ticket, inode, is_refused) = (queue.last, Arc::clone(inode), false);
            let file = File { ticket, inode, staged, target, cause, is_refused, is_taken_up };
            queue.files.push_back(file);
            std::mem::replace(&mut queue.is_served, true)
        };
        if !was_served {
            self.0.tasks.spawn(serve(Arc::clone(backlog), Arc::downgrade(&self.0)));
        }
    }

    /// True where some of the inode's bytes wait under an earlier stage than its present one.
    pub(super) fn has_earlier_stage(&self, inode: &Arc<Inode>) -> bool {
        !self.earlier_stages(inode).is_empty()
    }

    /// Those earlier stages, in the order of their closes.
    pub(super) fn earlier_stages(&self, inode: &Arc<Inode>) -> Vec<Arc<Staged>> {
        let current = inode.staged();
        let queue = self.0.backlog.queue();
        let earlier = queue.earlier(inode, current.as_ref());
        earlier.map(|file| Arc::clone(&file.staged)).collect()
    }

    /// The inode's bytes go nowhere any more: earlier stages of it are given up.
    pub(super) async fn leave_backlog(&self, inode: &Arc<Inode>) {
        let left: Vec<File> = {
            let queue = self.0.backlog.queue();
            let own = queue.files.iter().filter(|file| Arc::ptr_eq(&file.inode, inode));
            own.cloned().collect()
        };
        for file in &left {
            self.0.backlog.settle(file.ticket, self.0.clock.now());
        }
        for file in left {
            file.staged.abandon().await;
        }
    }

    /// Waits until everything that was closed before is in S3.
    ///
    /// # Errors
    /// What the store said, where it does not take it.
    pub(super) async fn settle_backlog(&self) -> Result<()> {
        let last = self.0.backlog.queue().last;
        let is_over =
            |queue: &Queue| queue.files.iter().all(|file| file.ticket > last || file.is_refused);
        self.0.backlog.wait_for(is_over).await
    }

    /// Waits until the inode may be emptied once more, which takes its bytes for a closed state
    /// of it that waits.
    ///
    /// # Errors
    /// What the store said, where it does not take what waits.
    pub(super) async fn room_for_earlier(&self, inode: &Arc<Inode>) -> Result<()> {
        let current = inode.staged();
        let has_room = |queue: &Queue| queue.earlier(inode, current.as_ref()).count() < EARLIER_MAX;
        self.0.backlog.wait_for_room(has_room).await
    }

    /// Files that are closed and not in S3 although their inode has nothing to commit.
    pub(super) fn count_earlier_stages(&self) -> u64 {
        let files = self.0.backlog.queue().files.clone();
        let is_earlier = |file: &&File| {
            !file.inode.staged().is_some_and(|staged| Arc::ptr_eq(&staged, &file.staged))
        };
        files.iter().filter(is_earlier).count() as u64
    }

    /// How many files wait.
    pub(super) fn closed_files(&self) -> u64 {
        self.0.backlog.queue().files.len() as u64
    }

    async fn room_in_backlog(&self) -> Result<()> {
        self.0.backlog.wait_for_room(|queue| queue.files.len() < FILES_MAX).await
    }

    /// Commits one file of the queue.
    async fn commit_closed(&self, file: &File) -> Result<()> {
        let _places_stand = self.0.namespace.read().await;
        let _one_at_a_time = file.inode.commit.lock().await;
        if file.inode.state().unlinked {
            return Ok(());
        }
        let current = file.inode.staged();
        if current.is_some_and(|staged| Arc::ptr_eq(&staged, &file.staged)) {
            return self.commit_locked(&file.inode, file.cause).await;
        }
        self.commit_earlier(file).await
    }

    /// Commits what was closed of the inode before its present stage was begun, so that later
    /// bytes never come before earlier ones. The caller holds the inode's commit lock.
    pub(super) async fn commit_earlier_stages(
        &self,
        inode: &Arc<Inode>,
        current: &Arc<Staged>,
    ) -> Result<()> {
        let earlier: Vec<File> = {
            let queue = self.0.backlog.queue();
            let own = queue.files.iter().filter(|file| Arc::ptr_eq(&file.inode, inode));
            own.take_while(|file| !Arc::ptr_eq(&file.staged, current)).cloned().collect()
        };
        for file in earlier {
            match self.commit_earlier(&file).await {
                Err(Error::Write(error)) if error.is_lost() => {}
                committed => committed?,
            }
            if file.is_parked() {
                continue;
            }
            self.0.backlog.settle(file.ticket, self.0.clock.now());
        }
        Ok(())
    }

    /// The file was emptied since and is being written anew: these bytes come before.
    async fn commit_earlier(&self, file: &File) -> Result<()> {
        // It may have been renamed since it was closed.
        let key = self.table().key(file.inode.ino).unwrap_or_else(|| file.target.key.clone());
        self.repay(&key).await?;
        let target = file.inode.over_current(&file.target, key);
        let committed =
            match file.staged.commit(|size| file.cause.is_due(size), || target.clone()).await {
                Ok(None) => return Ok(()),
                Ok(Some(committed)) => committed,
                Err(error) => {
                    if error.is_lost() {
                        self.keep_aside(&file.staged, &target.key, &error).await;
                    }
                    return Err(error.into());
                }
            };
        let now = self.0.clock.now();
        let mut state = file.inode.state();
        state.committed(committed.version, committed.properties, now);
        Ok(())
    }
}

/// Whoever serves the queue; should it panic, the next close begins another.
struct Serving(Arc<Backlog>);

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue().is_served = false;
        }
    }
}

/// Commits what is queued until nothing is.
async fn serve(backlog: Arc<Backlog>, core: Weak<Core>) {
    let _until_it_dies = Serving(Arc::clone(&backlog));
    while let Some(file) = backlog.first() {
        let Some(core) = core.upgrade() else { return };
        let vfs = Vfs(core);
        match vfs.commit_closed(&file).await {
            Ok(()) if file.is_parked() => {
                backlog.queue().step_aside(&file.inode);
                drop(vfs);
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Ok(()) => settled(&vfs, &file),
            Err(Error::Write(error)) if error.is_lost() => settled(&vfs, &file),
            Err(error) => {
                let key = &file.target.key;
                tracing::error!(%key, %error, "closed and not in S3 yet; it stays in the journal");
                let cause = match error {
                    Error::Write(write::Error::Store(error)) | Error::Store(error) => Some(error),
                    _ => None,
                };
                backlog.fail(&file, cause);
                drop(vfs);
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

fn settled(vfs: &Vfs, file: &File) {
    vfs.0.backlog.settle(file.ticket, vfs.0.clock.now());
    vfs.let_go(&file.inode);
    vfs.table().collect(file.inode.ino);
}
