//! Commits in the journal: what is to be made of a staging file, for whoever finds it.
//!
//! Owns the words in which a commit is written down before it is sent. An intent that nobody was
//! told of ends with the next change of the file, since the bytes it speaks of are no more; one
//! that was acknowledged (`--write-back`) ends only when S3 has the bytes. Must not know how
//! anything is sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::copied::{Copied, CopiedRun};
use super::extents::Extents;
use super::stage::{Account, Stage};
use super::stream::Stream;
use super::{Error, Result, Staged, Target};
use crate::journal::{Ending, Kind, Record};
use crate::naming::Key;
use crate::store::Version;
use crate::units::ByteRange;

/// A commit, as the journal knows it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CommitIntent {
    /// The staging file's name in the slot's folder.
    pub(super) stage: String,
    size: u64,
    base: Option<Version>,
    base_len: u64,
    dirty: Extents,
    /// Dirty bytes that only the upload has.
    #[serde(default)]
    punched: Extents,
    /// Bytes that are another object's.
    #[serde(default)]
    copied: Vec<CopiedIntent>,
    /// What the object's metadata will say where the commit was done.
    pub(super) id: String,
    /// Ids of earlier commits that may still arrive.
    unknown: Vec<String>,
    /// close() or fsync() has answered 0 for it.
    pub(super) is_acknowledged: bool,
    pub(super) target: Target,
}

impl CommitIntent {
    /// What the bytes of the staging file are.
    pub(super) fn into_account(self) -> Account {
        let mut copied = Copied::new();
        self.copied.into_iter().for_each(|run| copied.insert(run.into_run()));
        // What else was staged can be had from the base again, and may have left since.
        let mut present = self.dirty.clone();
        self.punched.iter().for_each(|range| present.remove(range));
        // It may have been done, and only its answer, or the note of it, was lost.
        let mut unknown = self.unknown;
        unknown.push(self.id);
        Account {
            size: self.size,
            base: self.base.map(Arc::new),
            base_len: self.base_len,
            dirty: self.dirty,
            present,
            punched: self.punched,
            copied,
            lets_go: 0,
            epoch: 0,
            committed: 0,
            unknown,
        }
    }
}

/// A [`CopiedRun`], as the journal knows it.
#[derive(Debug, Serialize, Deserialize)]
struct CopiedIntent {
    range: ByteRange,
    version: Version,
    from: u64,
}

impl CopiedIntent {
    fn of(run: &CopiedRun) -> Self {
        let CopiedRun { range, version, from } = run.clone();
        Self { range, version: Version::clone(&version), from }
    }

    fn into_run(self) -> CopiedRun {
        CopiedRun { range: self.range, version: Arc::new(self.version), from: self.from }
    }
}

/// What the journal knows of one staging file.
#[derive(Debug, Default)]
pub(super) struct Promises {
    current: Option<Promise>,
    /// The id of the last commit that was written down, also when it is over.
    last_id: Option<String>,
    /// The file whose bytes come before these under the same name, until this one is written down.
    earlier: Option<Arc<Staged>>,
    /// A later file of the same name is written down: nothing more is promised of this one.
    is_followed: bool,
    /// The delete of an object that the commit replaces.
    replaced: Option<Ending>,
}

impl Promises {
    /// That of a commit which an earlier process has written down.
    pub(super) fn of(
        record: Record,
        id: String,
        target: Target,
        (epoch, is_acknowledged): (u64, bool),
    ) -> Self {
        let last_id = Some(id.clone());
        let (is_durable, is_taken_up) = (true, true);
        let promise =
            Promise { record, id, target, epoch, is_acknowledged, is_durable, is_taken_up };
        Self { last_id, current: Some(promise), ..Self::default() }
    }
}

/// A commit that stands in the journal.
#[derive(Debug)]
struct Promise {
    record: Record,
    id: String,
    target: Target,
    epoch: u64,
    /// Somebody was told that it will be kept.
    is_acknowledged: bool,
    /// It, and the bytes that it speaks of, are on disk and not only on their way there.
    is_durable: bool,
    /// An earlier process began it, and may have done it.
    is_taken_up: bool,
}

impl Promise {
    /// True where it says where the bytes go, and with what, as `target` does.
    fn is_for(&self, target: &Target) -> bool {
        self.target.key == target.key && self.target.properties == target.properties
    }
}

impl Staged {
    /// Writes down that the bytes of `account` are to become an object, and returns the commit's
    /// id: the one that stands there already, where it says the same.
    ///
    /// # Errors
    /// The journal's disk.
    pub(super) fn promise(
        &self,
        target: &Target,
        account: &Account,
        id: Option<&str>,
    ) -> std::io::Result<String> {
        self.write_down(target, account, id, false, || ())
    }

    /// `stand` is called when a new record stands, before another one of the same name can.
    fn write_down(
        &self,
        target: &Target,
        account: &Account,
        id: Option<&str>,
        is_acknowledged: bool,
        stand: impl FnOnce(),
    ) -> std::io::Result<String> {
        let mut promised = self.promised();
        let was_acknowledged = promised.current.as_ref().is_some_and(|p| p.is_acknowledged);
        if let Some(promise) = &promised.current
            && promise.epoch == account.epoch
            // A commit under way keeps its place in the order of promises.
            && (promise.is_for(target) || !is_acknowledged && promise.target.key == target.key)
            && id.is_none_or(|id| id == promise.id)
            && (was_acknowledged || !is_acknowledged)
        {
            return Ok(promise.id.clone());
        }
        // The same bytes keep their id, by which a file that follows knows them.
        let same = promised.current.as_ref().filter(|promise| promise.epoch == account.epoch);
        let id = id.map(str::to_owned).or_else(|| same.map(|promise| promise.id.clone()));
        let id = id.unwrap_or_else(super::new_commit_id);
        self.come_after_earlier(&mut promised);
        let is_acknowledged = is_acknowledged || was_acknowledged;
        let record = self.begin(target, account, &id, is_acknowledged)?;
        let promise = Promise {
            record,
            id: id.clone(),
            target: target.clone(),
            epoch: account.epoch,
            is_acknowledged,
            is_durable: false,
            is_taken_up: false,
        };
        promised.last_id = Some(id.clone());
        if let Some(before) = promised.current.replace(promise) {
            before.record.end();
        }
        self.stage.keep(true);
        stand();
        Ok(id)
    }

    /// This file's bytes come after those of the earlier one: where a commit of those stands in
    /// S3, this one goes over it, and nothing more is promised of them.
    fn come_after_earlier(&self, promised: &mut Promises) {
        let Some(earlier) = promised.earlier.take() else { return };
        let last_id = {
            let mut promised = earlier.promised();
            promised.is_followed = true;
            promised.last_id.clone()
        };
        let mut ids = earlier.stage.account().unknown.clone();
        ids.extend(last_id);
        ids.iter().for_each(|id| self.stage.unanswered(id));
    }

    fn begin(
        &self,
        target: &Target,
        account: &Account,
        id: &str,
        is_acknowledged: bool,
    ) -> std::io::Result<Record> {
        let Some(stage) = self.stage.name() else { return Ok(Record::none()) };
        let intent = CommitIntent {
            stage: stage.to_owned(),
            size: account.size,
            base: account.base.as_deref().cloned(),
            base_len: account.base_len,
            dirty: account.dirty.clone(),
            punched: account.punched.clone(),
            copied: account.copied.iter().map(CopiedIntent::of).collect(),
            id: id.to_owned(),
            unknown: self.stage.account().unknown.clone(),
            is_acknowledged,
            target: target.clone(),
        };
        self.journal.begin(Kind::Commit, &[stage], &intent)
    }

    /// The id of the last commit that was written down.
    pub(super) fn last_id(&self) -> Option<String> {
        self.promised().last_id.clone()
    }

    /// True where the journal speaks of the file as it is.
    pub fn is_promised(&self) -> bool {
        self.promised().current.is_some()
    }

    /// The id of this commit, where an earlier process began it and may have done it.
    pub(super) fn taken_up(&self, key: &Key, epoch: u64) -> Option<String> {
        let promised = self.promised();
        let promise = promised.current.as_ref().filter(|promise| promise.is_taken_up)?;
        (promise.target.key == *key && promise.epoch == epoch).then(|| promise.id.clone())
    }

    /// The bytes are the same, and elsewhere: what stands in the journal is written anew.
    ///
    /// # Errors
    /// The disk's.
    pub(super) async fn renew_promise(&self, key: &Key) -> Result<()> {
        if self.promised().is_followed {
            // A record of these bytes behind that of later ones would be taken for the later.
            return Ok(());
        }
        let is_told = self.is_acknowledged();
        if is_told {
            self.sync_bytes(key).await?;
        }
        let account = self.stage.account().clone();
        if let Some(promise) = &mut self.promised().current {
            let is_acknowledged = promise.is_acknowledged;
            let begun = self.begin(&promise.target, &account, &promise.id, is_acknowledged);
            let record = begun.map_err(Error::Journal)?;
            std::mem::replace(&mut promise.record, record).end();
        }
        if is_told { self.sync_journal().await } else { Ok(()) }
    }

    /// True where somebody was told, or is about to be, that bytes are kept which S3 does not have.
    pub fn is_acknowledged(&self) -> bool {
        self.promised().current.as_ref().is_some_and(|promise| promise.is_acknowledged)
    }

    async fn sync_journal(&self) -> Result<()> {
        self.journal.sync().await.map_err(Error::Journal)
    }

    /// The file goes elsewhere: a commit of it that stands in the journal is written anew, for the
    /// target that `moved` makes of its own.
    ///
    /// # Errors
    /// The journal's disk.
    pub async fn move_promise(&self, moved: impl FnOnce(&Target) -> Target + Send) -> Result<()> {
        let _nothing_changes = self.stream.lock().await;
        let account = self.stage.account().clone();
        if let Some(promise) = &mut self.promised().current {
            let target = moved(&promise.target);
            let begun = self.begin(&target, &account, &promise.id, promise.is_acknowledged);
            let record = begun.map_err(Error::Journal)?;
            std::mem::replace(&mut promise.record, record).end();
            promise.target = target;
        }
        Ok(())
    }

    /// Bytes are about to leave the staging file: what was acknowledged of it is promised anew, and
    /// on local disk, as the file will be `after` that. A crash in between finds what the promise
    /// speaks of, and never holes.
    ///
    /// # Errors
    /// The disk's; then the bytes must stay.
    pub(super) async fn promise_ahead(
        &self,
        stream: &Stream,
        key: &Key,
        after: impl FnOnce(&mut Account) + Send,
    ) -> Result<()> {
        if !self.is_acknowledged() {
            return Ok(());
        }
        self.sync_bytes(key).await?;
        let mut account = self.stage.account().clone();
        after(&mut account);
        // Other bytes are another commit, but for those that only an upload has.
        let of_upload = || self.last_id().filter(|_| !account.punched.is_empty());
        let id = stream.commit_id().map(str::to_owned).or_else(of_upload);
        let id = id.unwrap_or_else(super::new_commit_id);
        self.promise_instead(&account, id).map_err(Error::Journal)?;
        self.sync_journal().await
    }

    /// Later bytes are about to be sent than were acknowledged: their record stands in place of the
    /// one that somebody was told of, so it must be as durable before. Where the disk fails, they
    /// are sent all the same.
    pub(super) async fn promise_what_is_sent(&self, stream: &Stream, key: &Key, epoch: u64) {
        let is_later = |promise: &Promise| promise.is_acknowledged && promise.epoch < epoch;
        if !self.promised().current.as_ref().is_some_and(is_later) {
            return;
        }
        if let Err(error) = self.promise_ahead(stream, key, |_| ()).await {
            tracing::warn!(%key, %error, "the journal does not know of a commit");
            return;
        }
        if let Some(promise) = &mut self.promised().current {
            (promise.epoch, promise.is_durable) = (epoch, true);
        }
    }

    /// The record of this epoch is on disk, and its bytes were before.
    fn note_durable(&self, epoch: u64) {
        let mut promised = self.promised();
        let current = promised.current.as_mut();
        if let Some(promise) = current.filter(|promise| promise.epoch <= epoch) {
            promise.is_durable = true;
        }
    }

    /// What stands in the journal ends where a record of `account` stands.
    fn promise_instead(&self, account: &Account, id: String) -> std::io::Result<()> {
        let mut promised = self.promised();
        let Some(promise) = &mut promised.current else { return Ok(()) };
        let record = self.begin(&promise.target, account, &id, promise.is_acknowledged)?;
        std::mem::replace(&mut promise.record, record).end();
        (promise.id, promise.is_taken_up) = (id.clone(), false);
        promised.last_id = Some(id);
        Ok(())
    }

    async fn sync_bytes(&self, key: &Key) -> Result<()> {
        let file = self.stage.file();
        let syncing = tokio::task::spawn_blocking(move || file.sync_data());
        let synced = syncing.await.map_err(std::io::Error::other).and_then(|synced| synced);
        self.sync_failed.fetch_or(synced.is_err(), Ordering::Relaxed);
        // Linux tells of a page that it could not write once, and then takes it for written.
        let synced = match synced {
            Ok(()) if self.sync_failed.load(Ordering::Relaxed) => Err(Errno::EIO.into()),
            synced => synced,
        };
        synced.map_err(|source| Error::Staging { key: key.clone(), source })
    }

    /// True where what is promised of the file was written down after `record`, in one journal.
    pub fn is_promised_after(&self, record: &Record) -> bool {
        let promised = self.promised();
        promised.current.as_ref().is_some_and(|promise| record.is_before(&promise.record))
    }

    /// Puts the bytes and the intent to commit them on local disk: data first, then the record,
    /// then the names of both; nothing where its size makes it not due. When this answers,
    /// whoever wrote them may be told that they are kept. `target` is asked when nothing of the
    /// file changes any more; `stand` is told of it where a new record stands, in the order of
    /// the records of one name.
    ///
    /// # Errors
    /// The disk's; nothing is promised then.
    pub async fn promise_durably(
        &self,
        is_due: impl FnOnce(u64) -> bool + Send,
        target: impl FnOnce() -> Target + Send,
        stand: impl FnOnce(Target) + Send,
    ) -> Result<()> {
        let stream = self.stream.lock().await;
        let (target, account) = (target(), self.stage.account().clone());
        if account.epoch <= account.committed || !is_due(account.size) {
            return Ok(());
        }
        let is_told = {
            let promised = self.promised();
            let is_same = |promise: &Promise| {
                let is_kept = promise.is_acknowledged && promise.is_durable;
                is_kept && promise.epoch >= account.epoch && promise.is_for(&target)
            };
            promised.is_followed || promised.current.as_ref().is_some_and(is_same)
        };
        let epoch = account.epoch;
        if !is_told {
            self.sync_bytes(&target.key).await?;
            let stand = || stand(target.clone());
            // Whoever finds it goes on with the upload, which alone may have some of the bytes.
            self.write_down(&target, &account, stream.commit_id(), true, stand)
                .map_err(Error::Journal)?;
        }
        // Also what another has just written down, so that its record is on disk.
        self.sync_journal().await?;
        self.note_durable(epoch);
        Ok(())
    }

    /// This file's bytes come after those of `earlier`, under the same name.
    pub fn follow(&self, earlier: &Arc<Self>) {
        self.promised().earlier = Some(Arc::clone(earlier));
    }

    /// True where later bytes of the same name are promised, and these have changed since they
    /// were: nobody waits for them.
    pub(super) fn is_left(&self, epoch: u64) -> bool {
        let promised = self.promised();
        let is_as_promised = |promise: &Promise| promise.epoch == epoch;
        promised.is_followed && !promised.current.as_ref().is_some_and(is_as_promised)
    }

    /// The last epoch that may be acknowledged without being in S3: bytes and record are on disk.
    /// 0 for none.
    pub fn promised_epoch(&self) -> u64 {
        let promised = self.promised();
        let is_kept = |one: &&Promise| one.is_acknowledged && one.is_durable;
        promised.current.as_ref().filter(is_kept).map_or(0, |one| one.epoch)
    }

    /// The bytes are in S3, or go nowhere: nobody will find them again.
    pub(super) fn end_promise(&self) {
        let mut promised = self.promised();
        // In this order: what was just stored may be the same bytes as what is to be deleted, and
        // as long as the promise stands it would be stored again.
        promised.replaced = None;
        Self::take_promise_back(&self.stage, &mut promised);
    }

    fn take_promise_back(stage: &Stage, promised: &mut Promises) {
        if let Some(promise) = promised.current.take() {
            promise.record.end();
        }
        stage.keep(false);
    }

    /// The first commit replaces an object whose delete is written down, and until then a crash
    /// must find that; what was said so before is over.
    pub fn replaces(&self, delete: Option<Ending>) {
        self.promised().replaced = delete;
    }

    /// That delete, where somebody else replaces the object now.
    pub fn take_replaced(&self) -> Option<Ending> {
        self.promised().replaced.take()
    }

    /// The file is about to change: what nobody was told of is no promise any more.
    pub(super) fn change_promise(&self) {
        let mut promised = self.promised();
        if promised.current.as_ref().is_some_and(|promise| !promise.is_acknowledged) {
            Self::take_promise_back(&self.stage, &mut promised);
        }
    }
}
