//! Staged bytes that become an object: when, and what a commit leaves known.
//!
//! Owns FLUSH and FSYNC, commits with nobody waiting, and what becomes of bytes that lost against
//! another writer. Must not know how bytes are sent, nor who has written them.

use std::sync::Arc;

use super::attr::Fh;
use super::inode::Inode;
use super::{Error, Result, Vfs};
use crate::naming::Key;
use crate::write::{self, Staged};

/// Who wants a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A call that waits for it.
    Call,
    /// Nobody who waits: it goes only over the version that the file was opened on.
    Time,
    /// The same, and only while the file is empty: the first bytes of what is just being written
    /// are half a file.
    Empty,
}

impl Cause {
    /// True where a file of this size is to go.
    pub(super) fn is_due(self, size: u64) -> bool {
        self != Self::Empty || size == 0
    }
}

impl Vfs {
    /// A close(2) of one of the handle's descriptors: a dirty one commits, any other sends
    /// nothing.
    ///
    /// # Errors
    /// The commit's.
    pub async fn flush(&self, fh: Fh) -> Result<()> {
        let handle = self.handle(fh)?;
        if handle.flags.write && handle.is_dirty() {
            self.close(&handle.inode).await
        } else {
            Ok(())
        }
    }

    /// Commits whatever is not in S3, attributes included.
    ///
    /// # Errors
    /// The commit's.
    pub async fn fsync(&self, fh: Fh) -> Result<()> {
        let handle = self.handle(fh)?;
        if self.settings().write_back {
            self.settle_backlog().await?;
        }
        self.commit(&handle.inode).await?;
        self.send_attributes(&handle.inode).await?;
        self.sync_journal().await
    }

    /// With `--write-back` a power cut must not bring back what is over: a promise whose end is not
    /// on disk is sent once more, under a name that may have been taken away since.
    pub(super) async fn sync_journal(&self) -> Result<()> {
        if !self.settings().write_back {
            return Ok(());
        }
        self.0.engine.journal().sync().await.map_err(|error| write::Error::Journal(error).into())
    }

    /// Brings S3 up to date with the inode.
    ///
    /// # Errors
    /// What the write engine says; a conflict detaches the inode and keeps its bytes aside.
    pub(super) async fn commit(&self, inode: &Arc<Inode>) -> Result<()> {
        self.commit_for(inode, Cause::Call).await
    }

    async fn commit_for(&self, inode: &Arc<Inode>, cause: Cause) -> Result<()> {
        let _places_stand = self.0.namespace.read().await;
        let _one_at_a_time = inode.commit.lock().await;
        self.commit_locked(inode, cause).await
    }

    /// Commits with nobody waiting: only over the version that the file was opened on. What
    /// fails is tried again.
    pub(super) async fn commit_in_background(&self, inode: &Arc<Inode>) {
        if self.settings().write_back && self.close_soon(inode).await.is_ok() {
            return;
        }
        if self.try_in_background(inode, Cause::Time).await.is_err() {
            self.retry_later(inode);
        }
    }

    /// One such try, of which nobody has heard yet.
    pub(super) async fn try_once(&self, inode: &Arc<Inode>) -> Result<()> {
        self.commit_for(inode, Cause::Time).await
    }

    /// The same, told in the log where it fails.
    pub(super) async fn try_in_background(&self, inode: &Arc<Inode>, cause: Cause) -> Result<()> {
        let committed = self.commit_for(inode, cause).await;
        if let Err(error) = &committed {
            let key = self.key_or_last(inode);
            tracing::error!(%key, %error, "not in S3 yet; the bytes stay staged");
        }
        committed
    }

    /// The commit itself; the caller holds the inode's commit lock and the namespace.
    pub(super) async fn commit_locked(&self, inode: &Arc<Inode>, cause: Cause) -> Result<()> {
        if inode.state().detached {
            // Whoever waits for bytes that lost must not be told that they are in S3.
            return if cause == Cause::Call { Err(Error::Stale) } else { Ok(()) };
        }
        let Some(staged) = inode.staged() else { return Ok(()) };
        self.commit_earlier_stages(inode, &staged).await?;
        let is_unlinked = inode.state().unlinked;
        // The stage itself is asked, since the inode may have begun another meanwhile.
        if is_unlinked || !staged.is_dirty() {
            return Ok(());
        }
        let Some(key) = self.table().key(inode.ino) else {
            // The name stands for another object by now, so there is nowhere to send this.
            let key = self.key_or_last(inode);
            let conflict = write::Error::Conflict { key };
            return Err(self.commit_failed(inode, &staged, conflict).await);
        };
        self.repay(&key).await?;
        self.learn_tags(inode).await?;
        let mut attributes = 0;
        let target = || {
            // Before the target: what changes in between is sent once more, and not forgotten.
            attributes = inode.state().attributes_epoch;
            let mut target = inode.target(&key, self.settings(), cause != Cause::Call);
            if staged.keeps_base() {
                target.condition = target.later.clone();
            }
            target
        };
        let committed = match staged.commit(|size| cause.is_due(size), target).await {
            Ok(Some(committed)) => committed,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.commit_failed(inode, &staged, error).await),
        };
        let mut state = inode.state();
        if !committed.carries_mtime && !state.mtime_is_explicit {
            state.mtime = committed.version.last_modified;
            state.mtime_is_guess = true;
        }
        if committed.carries_attributes {
            state.attributes_sent(attributes);
        } else {
            state.attributes_dirty = true;
        }
        state.committed(committed.version, committed.properties, self.0.clock.now());
        // Those that changed since are promised with it no more, nor with the version before.
        let are_left = state.attributes_dirty;
        drop(state);
        self.forget_listed(inode);
        if are_left {
            self.note_held(inode);
        }
        if !committed.carries_attributes {
            self.retry_later(inode);
        }
        Ok(())
    }

    /// What a listing said of the name is not so any more.
    fn forget_listed(&self, inode: &Inode) {
        let table = self.table();
        if let Some(place) = table.place(inode.ino)
            && let Some(directory) = table.get(place.parent)
        {
            directory.state().knowledge.forget(&place.name);
        }
    }

    /// Lets a stage go that holds nothing S3 lacks, when no handle is left that may use it.
    pub(super) fn let_go(&self, inode: &Inode) {
        let table = self.table();
        if table.opens(inode.ino) > 0 {
            return;
        }
        let mut state = inode.state();
        let is_done = |staged: &Arc<Staged>| {
            // A commit that has just ended is noted in the inode a moment later; until then only
            // the stage knows which version the next change lies over.
            let is_noted = match (staged.base(), &state.version) {
                (Some(base), Some(version)) => base.is_same(version),
                (base, version) => base.is_none() && version.is_none(),
            };
            !staged.is_dirty() && is_noted
        };
        if state.staged.as_ref().is_some_and(is_done) || state.unlinked || state.detached {
            state.staged = None;
        }
    }

    async fn commit_failed(
        &self,
        inode: &Arc<Inode>,
        staged: &Staged,
        error: write::Error,
    ) -> Error {
        if error.is_lost() {
            // Before the bytes are moved, so that no write is acknowledged behind them.
            inode.state().detached = true;
            self.keep_aside(staged, &self.key_or_last(inode), &error).await;
            self.table().lose(inode.ino);
        }
        error.into()
    }

    /// Keeps the bytes of a commit that can never succeed.
    pub(super) async fn keep_aside(
        &self,
        staged: &Staged,
        key: &Key,
        refusal: &write::Error,
    ) -> bool {
        match staged.keep_for_recovery(key, refusal).await {
            Ok(Some(kept)) => {
                metrics::counter!("s3pod_kept_for_recovery_total").increment(1);
                tracing::error!(
                    %key, id = kept.id, missing = kept.missing_bytes(), error = %refusal,
                    "`s3pod recover` has the local bytes"
                );
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%key, %error, "the local bytes could not be kept");
                return false;
            }
        }
        true
    }
}
