//! Making S3 hold what is staged.
//!
//! Owns the one way from staged bytes to an acknowledged version: finish the streamed upload, or
//! send what the plan says, then settle what a lost answer left open. Promises: an `Ok` means S3
//! acknowledged every staged byte; an error leaves all of them staged. Must not know handles or
//! when to commit.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::plan::{Edit, PartSource, Plan, PlannedPart, plan};
use super::stage::{Account, Slice};
use super::stream::{PARTS_IN_FLIGHT_MAX, Running, Stream};
use super::upload::Open;
use super::{COMMIT_ID, Committed, Error, Result, Staged, Target, copy, with_id};
use crate::naming::Key;
use crate::store::{
    self, Condition, ErrorKind, ObjectHead, PartTag, Payload, Properties, PutRequest, Version,
};
use crate::units::{ByteRange, MIB};

/// Base bytes fetched in one step when a part is filled up.
const FILL_STEP: u64 = 8 * MIB;

/// A fresh commit id, 128 random bits.
pub(super) fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

pub(super) async fn commit(staged: &Staged, target: &Target) -> Result<Option<Committed>> {
    let mut stream = staged.stream.lock().await;
    let account = staged.stage.account().clone();
    if account.epoch == account.committed {
        return Ok(None);
    }
    if let Some(head) = is_done(staged, target, &account).await {
        return Ok(Some(done(staged, head, account.epoch)));
    }
    let sent = match usable(&mut stream, staged, target, &account).await {
        Some(running) => finish(staged, target, &account, running).await,
        None => send(staged, target, &account).await,
    };
    let committed = match sent {
        Err(error @ (Error::Conflict { .. } | Error::Exists { .. })) => {
            again(staged, target, error).await?
        }
        sent => sent?,
    };
    staged.stage.committed(Arc::clone(&committed.version), account.epoch);
    staged.end_promise();
    Ok(Some(committed))
}

/// The object, where an earlier process was cut off after S3 had done this very commit.
async fn is_done(staged: &Staged, target: &Target, account: &Account) -> Option<ObjectHead> {
    let id = staged.taken_up(&target.key, account.epoch)?;
    let head = staged.engine.0.store.head(&target.key).await.ok()?;
    head.properties.user_metadata.get(COMMIT_ID).is_some_and(|found| *found == id).then_some(head)
}

fn done(staged: &Staged, head: ObjectHead, epoch: u64) -> Committed {
    tracing::info!(key = %head.version.key, "in S3 already");
    let version = Arc::new(head.version);
    staged.stage.committed(Arc::clone(&version), epoch);
    staged.end_promise();
    Committed { version, properties: head.properties, carries_mtime: true }
}

/// Another version stands there. Where it is an earlier commit of this very file, which was given
/// up because no answer came, it is what the bytes not changed since are in, so the commit goes
/// over it; otherwise `refusal` stands.
async fn again(staged: &Staged, target: &Target, refusal: Error) -> Result<Committed> {
    let unknown = staged.stage.account().unknown.clone();
    if unknown.is_empty() {
        return Err(refusal);
    }
    let Ok(head) = staged.engine.0.store.head(&target.key).await else { return Err(refusal) };
    if !head.properties.user_metadata.get(COMMIT_ID).is_some_and(|id| unknown.contains(id)) {
        return Err(refusal);
    }
    tracing::info!(key = %target.key, "a commit that was given up has arrived after all");
    staged.stage.rebase(Arc::new(head.version.clone()));
    let condition = Condition::Unchanged(head.version);
    let account = staged.stage.account().clone();
    send(staged, &Target { condition, ..target.clone() }, &account).await
}

/// The streamed upload, where it can become this commit; otherwise it is given up.
async fn usable(
    stream: &mut Stream,
    staged: &Staged,
    target: &Target,
    account: &Account,
) -> Option<Running> {
    let running = stream.take()?;
    let fits = running.open.upload.key == target.key
        && account.base_len == 0
        && account.size > staged.engine.0.limits.upload_part;
    if fits {
        return Some(running);
    }
    running.open.abort(&staged.engine).await;
    None
}

async fn finish(
    staged: &Staged,
    target: &Target,
    account: &Account,
    mut running: Running,
) -> Result<Committed> {
    let engine = &staged.engine;
    promise(staged, target, account, Some(&running.open.commit_id));
    let tags = match running.finish(staged, account.size).await {
        Ok(tags) => tags,
        Err(error) => {
            running.open.abort_later(engine);
            return Err(classify(error, &target.key, &Condition::None));
        }
    };
    let open = running.open;
    let version = match complete(staged, target, &open, &tags).await {
        Ok(version) => version,
        Err(error) => {
            open.abort_later(engine);
            return Err(error);
        }
    };
    if open.properties == target.streamed && !target.mtime_is_explicit {
        let properties = with_id(&open.properties, &open.commit_id);
        return Ok(Committed { version: Arc::new(version), properties, carries_mtime: false });
    }
    let properties = with_id(&target.properties, &open.commit_id);
    let unchanged = Condition::Unchanged(version.clone());
    let copied =
        copy::copy(engine, &version, &target.key, Some(properties.clone()), &unchanged).await?;
    Ok(Committed { version: Arc::new(copied), properties, carries_mtime: true })
}

async fn send(staged: &Staged, target: &Target, account: &Account) -> Result<Committed> {
    let id = promise(staged, target, account, None);
    let properties = with_id(&target.properties, &id);
    let edit = Edit {
        base_size: account.base.is_some().then_some(account.base_len),
        dirty: &account.dirty,
        holes: &account.holes(),
        size: account.size,
    };
    let planned = plan(&edit, &staged.engine.0.limits);
    let version = match planned.map_err(|_| Error::TooBig { key: target.key.clone() })? {
        Plan::Put { .. } => put(staged, target, account, &properties, &id).await?,
        Plan::Multipart { parts, .. } => multipart(staged, target, &parts, &id).await?,
    };
    Ok(Committed { version: Arc::new(version), properties, carries_mtime: true })
}

/// Writes the commit down before it is sent, and returns its id. A journal that cannot be written
/// is no reason not to send: nobody has been told anything yet.
fn promise(staged: &Staged, target: &Target, account: &Account, id: Option<&str>) -> String {
    staged.promise(target, account, id).unwrap_or_else(|error| {
        tracing::warn!(key = %target.key, %error, "the journal does not know of a commit");
        id.map_or_else(new_id, str::to_owned)
    })
}

async fn put(
    staged: &Staged,
    target: &Target,
    account: &Account,
    properties: &Properties,
    id: &str,
) -> Result<Version> {
    let whole = ByteRange::new(0, account.size);
    fill(staged, &target.key, whole).await?;
    let engine = &staged.engine;
    let _grant = engine.0.budget.take(account.size).await;
    let bytes = staged
        .stage
        .read(whole)
        .map_err(|source| Error::Staging { key: target.key.clone(), source })?;
    let request = PutRequest {
        key: target.key.clone(),
        properties: properties.clone(),
        condition: target.condition.clone(),
    };
    let sent = engine.0.store.put(&request, &Payload::Bytes(bytes)).await;
    settle(staged, target, id, sent).await
}

async fn multipart(
    staged: &Staged,
    target: &Target,
    parts: &[PlannedPart],
    id: &str,
) -> Result<Version> {
    let engine = &staged.engine;
    let open = match resumable(staged, target, id).await {
        Some(open) => open,
        None => Open::begin(engine, target, &target.properties, id)
            .await
            .map_err(|error| classify(error, &target.key, &Condition::None))?,
    };
    let sent = send_parts(staged, target, &open, parts).await;
    let completed = match sent {
        Ok(tags) => complete(staged, target, &open, &tags).await,
        Err(error) => Err(error),
    };
    if completed.is_err() {
        open.abort_later(engine);
    }
    completed
}

/// The upload that an earlier process began for this very commit; any other is given up.
async fn resumable(staged: &Staged, target: &Target, id: &str) -> Option<Open> {
    let open = staged.resumable().take()?;
    let fits = open.upload.key == target.key
        && open.commit_id == id
        && open.properties == target.properties;
    if fits {
        return Some(open);
    }
    open.abort(&staged.engine).await;
    None
}

async fn send_parts(
    staged: &Staged,
    target: &Target,
    open: &Open,
    parts: &[PlannedPart],
) -> Result<Vec<PartTag>> {
    let mut sending: Vec<BoxFuture<'_, Result<PartTag>>> = Vec::with_capacity(parts.len());
    for part in parts {
        sending.push(send_part(staged, target, open, part).boxed());
    }
    futures::stream::iter(sending).buffered(PARTS_IN_FLIGHT_MAX).try_collect().await
}

async fn send_part(
    staged: &Staged,
    target: &Target,
    open: &Open,
    part: &PlannedPart,
) -> Result<PartTag> {
    if let Some(sent) = open.parts.get(&part.number).filter(|sent| sent.range == part.range) {
        return Ok(sent.tag.clone());
    }
    let store = &staged.engine.0.store;
    let to = open.target(part.number);
    let sent = match (part.source, staged.base()) {
        (PartSource::Copy(range), Some(base)) => store.copy_part(&to, &base, range).await,
        _ => {
            fill(staged, &target.key, part.range).await?;
            store.upload_part(&to, &Payload::File(staged.stage.file(), part.range)).await
        }
    };
    let tag = sent.map_err(|error| classify(error, &target.key, &target.condition))?;
    open.sent(&tag, part.range);
    Ok(tag)
}

/// Brings into the staging file what of `range` is still only in the base.
pub(super) async fn fill(staged: &Staged, key: &Key, range: ByteRange) -> Result<()> {
    let Some(base) = staged.base() else { return Ok(()) };
    for slice in staged.slices(range) {
        let Slice::Base(gap) = slice else { continue };
        let mut at = gap.start;
        while at < gap.end {
            let step = ByteRange::at(at, FILL_STEP).intersect(gap);
            let fetched = staged.engine.0.cache.get_or_fetch(&base, step).await;
            let unchanged = Condition::Unchanged(Version::clone(&base));
            let bytes = fetched.map_err(|error| classify(error, key, &unchanged))?;
            staged.stage.fill(at, &bytes).map_err(|error| staged.error(key, error))?;
            at = step.end;
        }
    }
    Ok(())
}

async fn complete(
    staged: &Staged,
    target: &Target,
    open: &Open,
    tags: &[PartTag],
) -> Result<Version> {
    let store = &staged.engine.0.store;
    let completed = store.complete_upload(&open.upload, tags, &target.condition).await;
    let version = settle(staged, target, &open.commit_id, completed).await?;
    open.completed();
    Ok(version)
}

/// Decides what an answer means that may be the echo of a success: the object carries our commit
/// id, or it does not.
async fn settle(
    staged: &Staged,
    target: &Target,
    id: &str,
    answer: store::Result<Version>,
) -> Result<Version> {
    let error = match answer {
        Ok(version) => return Ok(version),
        Err(error) => error,
    };
    if error.is_ambiguous() {
        staged.stage.unanswered(id);
    }
    // A store that has not answered within the operation timeout is not asked again now; the next
    // try knows the id.
    if error.is_ambiguous()
        && !error.kind().is_unanswered()
        && let Ok(head) = staged.engine.0.store.head(&target.key).await
        && head.properties.user_metadata.get(COMMIT_ID).is_some_and(|found| found == id)
    {
        tracing::debug!(key = %target.key, "the answer was lost, but the object is there");
        return Ok(head.version);
    }
    Err(classify(error, &target.key, &target.condition))
}

fn classify(error: store::Error, key: &Key, condition: &Condition) -> Error {
    let key = key.clone();
    match (error.kind(), condition) {
        (ErrorKind::Changed, Condition::Absent) => Error::Exists { key },
        // S3 answers If-Match on a key that is gone with NoSuchKey.
        (ErrorKind::Changed | ErrorKind::NotFound, Condition::Unchanged(_)) => {
            Error::Conflict { key }
        }
        (ErrorKind::TooLarge, _) => Error::TooBig { key },
        _ => Error::Store(error),
    }
}
