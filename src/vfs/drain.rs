//! What is left to send, sent.
//!
//! Owns the end of a mount (every dirty file committed, every waiting delete and attribute sent)
//! and the second tries of commits that failed with nobody waiting. Must not know signals.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::Vfs;
use super::commit::Cause;
use super::inode::Inode;

/// Files committed at once at the end of a mount.
const COMMITS_IN_FLIGHT_MAX: usize = 8;

/// The longest pause between two tries to send the same file.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// What a drain did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Files committed.
    pub committed: u64,
    /// Files whose bytes or attributes are not in S3, or whose delete failed.
    pub failed: u64,
}

/// What a kill would leave to the journal, or lose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsent {
    /// Bytes staged, of open and of closed files.
    pub bytes: u64,
    /// Files that were closed with `--write-back`.
    pub closed_files: u64,
}

impl Vfs {
    /// How much is not in S3 now.
    pub fn unsent(&self) -> Unsent {
        Unsent { bytes: self.0.engine.staged_bytes(), closed_files: self.closed_files() }
    }

    /// Sends everything that is not in S3. What cannot be sent is logged, counted and left.
    pub async fn drain(&self) -> Drained {
        if let Err(error) = self.settle_backlog().await {
            tracing::warn!(%error, "closed files are not in S3 yet; trying each once more");
        }
        self.delete_doomed(None).await;
        let waiting: Vec<Arc<Inode>> = {
            let all = self.table().all();
            all.into_iter().filter(|inode| is_waiting(inode)).collect()
        };
        let mut sends: Vec<BoxFuture<'_, bool>> = Vec::with_capacity(waiting.len());
        for inode in &waiting {
            sends.push(self.send_all(inode).boxed());
        }
        let mut sent = futures::stream::iter(sends).buffer_unordered(COMMITS_IN_FLIGHT_MAX);
        let mut drained = Drained { committed: 0, failed: self.end_deletes().await };
        while let Some(is_sent) = sent.next().await {
            if is_sent {
                drained.committed += 1;
            } else {
                drained.failed += 1;
            }
        }
        drained.failed += self.count_earlier_stages();
        self.0.engine.settle().await;
        drained
    }

    /// Begins to send what is dirty now, for an end that is near but not yet there. Files go on
    /// being served and may become dirty again; what fails stays for [`Vfs::drain`].
    pub async fn send_ahead(&self) -> u64 {
        let all = self.table().all();
        let waiting = all.into_iter().filter(|inode| is_waiting(inode));
        let sends = waiting.map(|inode| async move { self.send(&inode).await.is_ok() }.boxed());
        let sends: Vec<BoxFuture<'_, bool>> = sends.collect();
        let sent = futures::stream::iter(sends).buffer_unordered(COMMITS_IN_FLIGHT_MAX);
        sent.filter(|is_sent| std::future::ready(*is_sent)).count().await as u64
    }

    async fn send(&self, inode: &Arc<Inode>) -> super::Result<()> {
        self.try_in_background(inode, Cause::Time).await?;
        self.send_attributes(inode).await
    }

    async fn send_all(&self, inode: &Arc<Inode>) -> bool {
        let result = match self.try_once(inode).await {
            Ok(()) => self.send_attributes(inode).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            let key = self.table().key(inode.ino);
            let key = key.as_ref().map_or("?", |key| key.as_str());
            tracing::error!(%key, %error, "not in S3 at the end of the mount");
        }
        result.is_ok()
    }

    /// Tries again to send what could not be sent, after a few seconds and less and less often; at
    /// most one task per inode.
    pub(super) fn retry_later(&self, inode: &Arc<Inode>) {
        if std::mem::replace(&mut inode.state().retrying, true) {
            return;
        }
        let (core, inode) = (Arc::downgrade(&self.0), Arc::clone(inode));
        let mut delay = self.settings().retry_delay;
        self.0.tasks.spawn(async move {
            loop {
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_DELAY_MAX.max(delay));
                let Some(core) = core.upgrade() else { return };
                let vfs = Self(core);
                if vfs.try_in_background(&inode, Cause::Time).await.is_ok() {
                    // Logged by the store; still waiting is what counts.
                    let _still_waiting = vfs.send_attributes(&inode).await;
                }
                let mut state = inode.state();
                state.retrying = false;
                drop(state);
                if !is_waiting(&inode) {
                    vfs.let_go(&inode);
                    vfs.table().collect(inode.ino);
                    return;
                }
                inode.state().retrying = true;
            }
        });
    }
}

fn is_waiting(inode: &Inode) -> bool {
    let state = inode.state();
    let attributes = state.attributes_dirty && !state.unlinked && !state.detached;
    drop(state);
    attributes || inode.is_dirty()
}
