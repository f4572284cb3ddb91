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
use super::{COMMIT_ID, Committed, Error, Result, Staged, Target, copy};
use crate::naming::Key;
use crate::store::{
    self, Condition, ErrorKind, PartTag, PartTarget, Payload, Properties, PutRequest, Upload,
    Version,
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
    Ok(Some(committed))
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
    let fits = running.upload.key == target.key
        && account.base_len == 0
        && account.size > staged.engine.0.limits.upload_part;
    if fits {
        return Some(running);
    }
    running.abort(&staged.engine).await;
    None
}

async fn finish(
    staged: &Staged,
    target: &Target,
    account: &Account,
    mut running: Running,
) -> Result<Committed> {
    let engine = &staged.engine;
    let tags = match running.finish(staged, account.size).await {
        Ok(tags) => tags,
        Err(error) => {
            running.abort_later(engine);
            return Err(classify(error, &target.key, &Condition::None));
        }
    };
    let version = match complete(staged, target, &running.upload, &tags, &running.commit_id).await {
        Ok(version) => version,
        Err(error) => {
            running.abort_later(engine);
            return Err(error);
        }
    };
    if running.properties == target.streamed && !target.mtime_is_explicit {
        let properties = with_id(&running.properties, &running.commit_id);
        return Ok(Committed { version: Arc::new(version), properties, carries_mtime: false });
    }
    let properties = with_id(&target.properties, &running.commit_id);
    let unchanged = Condition::Unchanged(version.clone());
    let copied =
        copy::copy(engine, &version, &target.key, Some(properties.clone()), &unchanged).await?;
    Ok(Committed { version: Arc::new(copied), properties, carries_mtime: true })
}

async fn send(staged: &Staged, target: &Target, account: &Account) -> Result<Committed> {
    let id = new_id();
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
        Plan::Multipart { parts, .. } => {
            multipart(staged, target, &parts, &properties, &id).await?
        }
    };
    Ok(Committed { version: Arc::new(version), properties, carries_mtime: true })
}

fn with_id(properties: &Properties, id: &str) -> Properties {
    let mut properties = properties.clone();
    properties.user_metadata.insert(COMMIT_ID.into(), id.into());
    properties
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
    properties: &Properties,
    id: &str,
) -> Result<Version> {
    let engine = &staged.engine;
    let begun = engine.0.store.create_upload(&target.key, properties).await;
    let upload_id = begun.map_err(|error| classify(error, &target.key, &Condition::None))?;
    let upload = Upload { key: target.key.clone(), id: upload_id };
    let sent = send_parts(staged, target, &upload, parts).await;
    let completed = match sent {
        Ok(tags) => complete(staged, target, &upload, &tags, id).await,
        Err(error) => Err(error),
    };
    if completed.is_err() {
        let engine = engine.clone();
        staged.engine.0.tasks.spawn(async move {
            if let Err(error) = engine.0.store.abort_upload(&upload).await {
                let key = &upload.key;
                tracing::warn!(%key, %error, "an unfinished upload stays in the bucket");
            }
        });
    }
    completed
}

async fn send_parts(
    staged: &Staged,
    target: &Target,
    upload: &Upload,
    parts: &[PlannedPart],
) -> Result<Vec<PartTag>> {
    let mut sending: Vec<BoxFuture<'_, Result<PartTag>>> = Vec::with_capacity(parts.len());
    for part in parts {
        sending.push(send_part(staged, target, upload, part).boxed());
    }
    futures::stream::iter(sending).buffered(PARTS_IN_FLIGHT_MAX).try_collect().await
}

async fn send_part(
    staged: &Staged,
    target: &Target,
    upload: &Upload,
    part: &PlannedPart,
) -> Result<PartTag> {
    let store = &staged.engine.0.store;
    let to = PartTarget { upload: upload.clone(), number: part.number };
    let sent = match (part.source, staged.base()) {
        (PartSource::Copy(range), Some(base)) => store.copy_part(&to, &base, range).await,
        _ => {
            fill(staged, &target.key, part.range).await?;
            store.upload_part(&to, &Payload::File(staged.stage.file(), part.range)).await
        }
    };
    sent.map_err(|error| classify(error, &target.key, &target.condition))
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
    upload: &Upload,
    tags: &[PartTag],
    id: &str,
) -> Result<Version> {
    let store = &staged.engine.0.store;
    let completed = store.complete_upload(upload, tags, &target.condition).await;
    settle(staged, target, id, completed).await
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
