//! Commits in the journal: what is to be made of a staging file, for whoever finds it.
//!
//! Owns the words in which a commit is written down before it is sent, and how a later process
//! takes it up again. An intent that nobody was told of ends with the next change of the file,
//! since the bytes it speaks of are no more; one that was acknowledged (`--write-back`) ends only
//! when S3 has the bytes. Must not know how anything is sent.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::copied::{Copied, CopiedRun};
use super::extents::Extents;
use super::stage::{Account, Stage};
use super::stream::{Running, Stream};
use super::upload::{Open, UploadIntent, UploadStep};
use super::{Engine, Error, Result, Staged, Target};
use crate::journal::{Ending, Kind, Pending, Record};
use crate::naming::Key;
use crate::store::Version;
use crate::units::ByteRange;

/// A commit, as the journal knows it.
#[derive(Debug, Serialize, Deserialize)]
struct CommitIntent {
    /// The staging file's name in the slot's folder.
    stage: String,
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
    id: String,
    /// Ids of earlier commits that may still arrive.
    unknown: Vec<String>,
    /// close() or fsync() has answered 0 for it.
    is_acknowledged: bool,
    target: Target,
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

/// A commit that stands in the journal.
#[derive(Debug)]
struct Promise {
    record: Record,
    id: String,
    target: Target,
    epoch: u64,
    /// Somebody was told that it will be kept.
    is_acknowledged: bool,
    /// An earlier process began it, and may have done it.
    is_taken_up: bool,
}

impl Promise {
    /// True where it says where the bytes go, and with what, as `target` does.
    fn is_for(&self, target: &Target) -> bool {
        self.target.key == target.key && self.target.properties == target.properties
    }
}

/// A file whose commit an earlier process began.
#[derive(Debug)]
pub struct Resumed {
    /// Its bytes.
    pub staged: Arc<Staged>,
    /// Where they go.
    pub target: Target,
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
        let id = id.unwrap_or_else(super::commit::new_id);
        self.come_after_earlier(&mut promised);
        let is_acknowledged = is_acknowledged || was_acknowledged;
        let record = self.begin(target, account, &id, is_acknowledged)?;
        let promise = Promise {
            record,
            id: id.clone(),
            target: target.clone(),
            epoch: account.epoch,
            is_acknowledged,
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
        self.engine.0.journal.begin(Kind::Commit, &[stage], &intent)
    }

    /// True where the journal speaks of the file as it is.
    pub(super) fn is_promised(&self) -> bool {
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
    /// The journal's disk.
    pub(super) fn renew_promise(&self) -> std::io::Result<()> {
        let account = self.stage.account().clone();
        if let Some(promise) = &mut self.promised().current {
            let is_acknowledged = promise.is_acknowledged;
            let record = self.begin(&promise.target, &account, &promise.id, is_acknowledged)?;
            std::mem::replace(&mut promise.record, record).end();
        }
        Ok(())
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
        let is_acknowledged = |promise: &Promise| promise.is_acknowledged;
        if !self.promised().current.as_ref().is_some_and(is_acknowledged) {
            return Ok(());
        }
        self.sync_bytes(key).await?;
        let mut account = self.stage.account().clone();
        after(&mut account);
        // Other bytes are another commit, but for those that only an upload has.
        let id = stream.commit_id().map_or_else(super::commit::new_id, str::to_owned);
        self.promise_instead(&account, id).map_err(Error::Journal)?;
        self.engine.0.journal.sync().await.map_err(Error::Journal)
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
        synced.map_err(|source| Error::Staging { key: key.clone(), source })
    }

    /// Puts the bytes and the intent to commit them on local disk: data first, then the record,
    /// then the names of both. When this answers, whoever wrote them may be told that they are
    /// kept. `target` is asked when nothing of the file changes any more; `stand` is told of it
    /// where a new record stands, in the order of the records of one name.
    ///
    /// # Errors
    /// The disk's; nothing is promised then.
    pub async fn promise_durably(
        &self,
        target: impl FnOnce() -> Target + Send,
        stand: impl FnOnce(Target) + Send,
    ) -> Result<()> {
        let stream = self.stream.lock().await;
        let (target, account) = (target(), self.stage.account().clone());
        if account.epoch <= account.committed {
            return Ok(());
        }
        let is_told = {
            let promised = self.promised();
            let is_same = |promise: &Promise| {
                promise.is_acknowledged && promise.epoch >= account.epoch && promise.is_for(&target)
            };
            promised.is_followed || promised.current.as_ref().is_some_and(is_same)
        };
        if !is_told {
            self.sync_bytes(&target.key).await?;
            let stand = || stand(target.clone());
            // Whoever finds it goes on with the upload, which alone may have some of the bytes.
            self.write_down(&target, &account, stream.commit_id(), true, stand)
                .map_err(Error::Journal)?;
        }
        // Also what another has just written down, so that its record is on disk.
        self.engine.0.journal.sync().await.map_err(Error::Journal)
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

    /// The last epoch that was acknowledged without being in S3; 0 for none.
    pub fn promised_epoch(&self) -> u64 {
        let promised = self.promised();
        promised.current.as_ref().filter(|one| one.is_acknowledged).map_or(0, |one| one.epoch)
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

/// Takes up the commits that earlier processes left in `pending`, in order, and gives up the
/// uploads that belong to none. What cannot be read stays where it is.
pub(super) fn resume(engine: &Engine, pending: &[Pending]) -> Vec<Resumed> {
    let mut uploads = uploads(pending);
    let mut resumed = Vec::new();
    for pending in pending.iter().filter(|pending| pending.kind == Kind::Commit) {
        match take_up(engine, pending, &mut uploads) {
            Ok(file) => resumed.push(file),
            Err(error) => {
                tracing::error!(%error, "the journal has a commit that cannot be taken up");
                if is_gone(&error) {
                    pending.record().end();
                }
            }
        }
    }
    for open in uploads {
        tracing::info!(key = %open.upload.key, "giving up an upload that was never finished");
        open.abort_later(engine);
    }
    resumed
}

/// The bytes are not where they were: a mount was killed when it had just kept them for recovery,
/// or somebody has removed them. No later mount will find them either.
fn is_gone(error: &Error) -> bool {
    let gone = std::io::ErrorKind::NotFound;
    matches!(error, Error::Staging { source, .. } if source.kind() == gone)
}

/// In the order in which they were begun.
fn uploads(pending: &[Pending]) -> Vec<Open> {
    let mut uploads = Vec::new();
    for pending in pending.iter().filter(|pending| pending.kind == Kind::Upload) {
        let read = || Ok((pending.intent::<UploadIntent>()?, pending.steps::<UploadStep>()?));
        let read: serde_json::Result<_> = read();
        match read {
            Ok((intent, steps)) => uploads.push(Open::resume(intent, steps, pending.record())),
            Err(error) => tracing::error!(%error, "the journal has an upload nobody can read"),
        }
    }
    uploads
}

/// The upload of the commit `id`: the last one, since those before it were given up.
fn take_upload(uploads: &mut Vec<Open>, id: &str, key: &Key) -> Option<Open> {
    let at = uploads.iter().rposition(|open| open.commit_id == id)?;
    let open = uploads.remove(at);
    let parts = open.parts.len();
    tracing::info!(%key, parts, "going on with its upload behind the parts that were sent");
    Some(open)
}

fn take_up(engine: &Engine, pending: &Pending, uploads: &mut Vec<Open>) -> Result<Resumed> {
    let intent: CommitIntent =
        pending.intent().map_err(|error| Error::Journal(std::io::Error::other(error)))?;
    let CommitIntent { stage, size, base, base_len, dirty, punched, id, .. } = intent;
    let (mut unknown, target, is_acknowledged) =
        (intent.unknown, intent.target, intent.is_acknowledged);
    let mut copied = Copied::new();
    intent.copied.into_iter().for_each(|run| copied.insert(run.into_run()));
    // What else was staged can be had from the base again, and may have left since.
    let mut present = dirty.clone();
    punched.iter().for_each(|range| present.remove(range));
    // It may have been done, and only its answer, or the note of it, was lost.
    unknown.push(id.clone());
    let record = pending.record();
    let folder = record.folder().map(|folder| folder.join(&stage)).unwrap_or_default();
    let base = base.map(Arc::new);
    let account = Account {
        size,
        base,
        base_len,
        dirty,
        present,
        punched,
        copied,
        lets_go: 0,
        epoch: 0,
        committed: 0,
        unknown,
    };
    let stage = Stage::resume(&engine.0.staging, &folder, account)
        .map_err(|source| Error::Staging { key: target.key.clone(), source })?;
    let epoch = stage.account().epoch;
    let (mut stream, mut resumable) = (Stream::default(), None);
    if let Some(open) = take_upload(uploads, &id, &target.key) {
        // A stream begins without a time, unless nobody keeps one.
        let is_planned = open.properties == target.properties;
        if is_planned && stage.account().punched.is_empty() {
            resumable = Some(open);
        } else {
            stream = Stream::resume(Running::resume(open, &stage));
        }
    }
    let (promised, is_taken_up) = (target.clone(), true);
    let promised = Promises {
        last_id: Some(id.clone()),
        current: Some(Promise {
            record,
            id,
            target: promised,
            epoch,
            is_acknowledged,
            is_taken_up,
        }),
        ..Promises::default()
    };
    let staged = Staged {
        engine: engine.clone(),
        stage,
        stream: Mutex::new(stream),
        stays_local: AtomicBool::new(false),
        lost: AtomicBool::new(false),
        promised: std::sync::Mutex::new(promised),
        resumable: std::sync::Mutex::new(resumable),
    };
    staged.stage.keep(true);
    Ok(Resumed { staged: engine.register(staged), target })
}
