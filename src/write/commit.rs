//! Making S3 hold what is staged.
//!
//! Owns the one way from staged bytes to an acknowledged version: finish the streamed upload, or
//! send what the plan says. Promises: an `Ok` means S3 acknowledged every staged byte; an error
//! leaves all of them staged. Must not know handles or when to commit.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::plan::{PartSource, Plan, PlannedPart, plan};
use super::settle::{self, classify, settle};
use super::stage::{Account, Slice};
use super::staging::Quota;
use super::stream::{PARTS_IN_FLIGHT_MAX, Running, Stream};
use super::upload::Open;
use super::{
    COMMIT_ID, Committed, CopiedRun, Error, Result, Staged, Target, copy, new_commit_id, with_id,
};
use crate::naming::Key;
use crate::store::{
    self, Condition, CopyRequest, ErrorKind, ObjectHead, Operation, PartTag, Payload, Properties,
    PutRequest, Version,
};
use crate::units::{ByteRange, MIB};

/// A file that goes in one PUT is read into memory up to this size.
const IN_MEMORY_MAX: u64 = 8 * MIB;

/// Base bytes fetched in one step when a part is filled up.
const FILL_STEP: u64 = 8 * MIB;

/// A Complete that was refused because another request on the key was under way is sent so often
/// on the same upload, the waits growing: 1 + 2 + 3 times the delay.
const CONTENDED_TRIES_MAX: u32 = 4;

/// The first such wait; S3's conflicting requests last milliseconds.
const CONTENDED_DELAY: Duration = Duration::from_millis(100);

pub(super) async fn commit(
    staged: &Staged,
    is_due: impl FnOnce(u64) -> bool + Send,
    target: impl FnOnce() -> Target + Send,
) -> Result<Option<Committed>> {
    let mut stream = staged.stream.lock().await;
    let target = &target();
    let account = staged.stage.account().clone();
    if account.epoch == account.committed {
        return Ok(None);
    }
    if staged.is_left(account.epoch) {
        staged.leave(&mut stream).await;
        return Ok(None);
    }
    if !is_due(account.size) {
        return Ok(None);
    }
    if let Some(head) = settle::is_done(staged, target, &account).await {
        let committed = attributed(staged, target, head).await;
        settle::done(staged, &mut stream, &committed, account.epoch).await;
        return Ok(Some(committed));
    }
    staged.promise_what_is_sent(&stream, &target.key, account.epoch).await;
    let sent = match usable(&mut stream, staged, target, &account).await {
        Some(running) => finish(staged, target, &account, &mut stream, running).await,
        // No upload is left that has what the staging file has not.
        None if !account.punched.is_empty() => settle::without_upload(staged, target).await,
        None => send(staged, target, &account).await,
    };
    let committed = match sent {
        Err(error @ (Error::Conflict { .. } | Error::Exists { .. })) => {
            settle::again(staged, target, error).await?
        }
        sent => sent?,
    };
    staged.stage.committed(Arc::clone(&committed.version), account.epoch);
    staged.end_promise();
    Ok(Some(committed))
}

/// The streamed upload, where it can become this commit; otherwise it is given up.
async fn usable(
    stream: &mut Stream,
    staged: &Staged,
    target: &Target,
    account: &Account,
) -> Option<Running> {
    let running = stream.take()?;
    let fits = running.fits(account.size, &staged.engine.0.limits);
    // Where it alone has bytes of the file, it must.
    if !account.punched.is_empty() || fits && running.open.upload.key == target.key {
        return Some(running);
    }
    running.open.abort(&staged.engine).await;
    None
}

async fn finish(
    staged: &Staged,
    target: &Target,
    account: &Account,
    stream: &mut Stream,
    mut running: Running,
) -> Result<Committed> {
    let engine = &staged.engine;
    promise(staged, target, account, Some(&running.open.commit_id));
    let completed = complete_stream(staged, target, account, &mut running).await;
    let version = match completed {
        Ok(version) => version,
        Err(error) if account.punched.is_empty() => {
            running.open.abort_later(engine);
            // Refused for another writer, or given up by a rule of the bucket: a new upload.
            let is_anew = is_contended(&error) || is_gone(&error);
            return if is_anew { send(staged, target, account).await } else { Err(error) };
        }
        Err(error) if matches!(error, Error::Conflict { .. } | Error::Exists { .. }) => {
            running.open.abort_later(engine);
            return Err(error);
        }
        Err(error) if is_final(&error) => {
            return settle::without(staged, target, stream, running, error).await;
        }
        Err(error) => {
            // The next commit goes on with what this upload has.
            stream.put_back(running);
            return Err(error);
        }
    };
    with_attributes(staged, target, &running.open, version).await
}

/// Gives the object of a streamed upload the attributes that changed since that began.
async fn with_attributes(
    staged: &Staged,
    target: &Target,
    open: &Open,
    version: Version,
) -> Result<Committed> {
    let streamed = Committed {
        version: Arc::new(version),
        properties: with_id(&open.properties, &open.commit_id),
        carries_mtime: false,
        carries_attributes: true,
    };
    if open.properties == target.streamed && !target.mtime_is_explicit {
        return Ok(streamed);
    }
    Ok(give_attributes(staged, target, &open.commit_id, streamed).await)
}

/// What an earlier process stored, and whether it has come to give it its attributes.
pub(super) fn stored(target: &Target, head: ObjectHead) -> Committed {
    let id = head.properties.user_metadata.get(COMMIT_ID).cloned().unwrap_or_default();
    let says =
        |wanted: &Properties| with_id(wanted, &id).user_metadata == head.properties.user_metadata;
    let carries_mtime = says(&target.properties);
    let carries_attributes = carries_mtime || !target.mtime_is_explicit && says(&target.streamed);
    let (version, properties) = (Arc::new(head.version), head.properties);
    Committed { version, properties, carries_mtime, carries_attributes }
}

/// The same, with its attributes.
async fn attributed(staged: &Staged, target: &Target, head: ObjectHead) -> Committed {
    let stored = stored(target, head);
    if stored.carries_attributes {
        return stored;
    }
    let id = stored.properties.user_metadata.get(COMMIT_ID).cloned().unwrap_or_default();
    give_attributes(staged, target, &id, stored).await
}

/// One self-copy; where that fails, whoever keeps attributes sends them again.
async fn give_attributes(
    staged: &Staged,
    target: &Target,
    id: &str,
    stored: Committed,
) -> Committed {
    let (engine, properties) = (&staged.engine, with_id(&target.properties, id));
    let version = &stored.version;
    let unchanged = Condition::Unchanged(Version::clone(version));
    let copied =
        copy::copy(engine, version, &target.key, Some(properties.clone()), &unchanged).await;
    match copied {
        Ok(copied) => {
            let version = Arc::new(copied);
            Committed { version, properties, carries_mtime: true, carries_attributes: true }
        }
        // The bytes are there, so this is a commit.
        Err(error) => {
            tracing::warn!(key = %target.key, %error, "the attributes are not in S3 yet");
            Committed { carries_attributes: false, ..stored }
        }
    }
}

/// Sends what is missing of the streamed upload and completes it.
async fn complete_stream(
    staged: &Staged,
    target: &Target,
    account: &Account,
    running: &mut Running,
) -> Result<Version> {
    if running.open.upload.key != target.key {
        // It would make another object.
        let error = store::Error::new(Operation::CompleteUpload, ErrorKind::NoSuchUpload);
        return Err(error.into());
    }
    let tags = match running.finish(staged, account.size).await {
        Err(Error::Store(error)) => {
            return Err(classify(error, &target.key, &Condition::None));
        }
        tags => tags?,
    };
    let mut tries = 0;
    loop {
        let completed = complete(staged, target, &running.open, &tags).await;
        tries += 1;
        match completed {
            // What only this upload has cannot be sent in another one.
            Err(error)
                if is_contended(&error)
                    && !account.punched.is_empty()
                    && tries < CONTENDED_TRIES_MAX =>
            {
                tokio::time::sleep(CONTENDED_DELAY * tries).await;
            }
            completed => return completed,
        }
    }
}

fn is_contended(error: &Error) -> bool {
    matches!(error, Error::Store(error) if *error.kind() == ErrorKind::Conflict)
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Store(error) if *error.kind() == ErrorKind::NoSuchUpload)
}

/// True where the same upload can never become the object.
fn is_final(error: &Error) -> bool {
    match error {
        Error::TooBig { .. } => true,
        Error::Store(error) => match error.kind() {
            ErrorKind::NoSuchUpload => true,
            // Of a part it may be a full quota or a key that is switched off: that may pass.
            ErrorKind::Other(_) => error.operation() == Operation::CompleteUpload,
            _ => false,
        },
        _ => false,
    }
}

pub(super) async fn send(staged: &Staged, target: &Target, account: &Account) -> Result<Committed> {
    let id = promise(staged, target, account, None);
    let properties = with_id(&target.properties, &id);
    let planned = plan(&account.edit(&account.holes()), &staged.engine.0.limits);
    let version = match planned.map_err(|_| Error::TooBig { key: target.key.clone() })? {
        Plan::Put { .. } => put(staged, target, account, &properties, &id).await?,
        Plan::Copy(source) => match copy_whole(staged, target, &source, &properties, &id).await {
            Err(error) if is_unsupported(&error) => {
                return Box::pin(send_copied(staged, target, &source)).await;
            }
            copied => copied?,
        },
        Plan::Multipart { parts, .. } => multipart(staged, target, &parts, &id).await?,
    };
    let version = Arc::new(version);
    Ok(Committed { version, properties, carries_mtime: true, carries_attributes: true })
}

fn is_unsupported(error: &Error) -> bool {
    matches!(error, Error::Store(error) if *error.kind() == ErrorKind::Unsupported)
}

/// The file is a copy of another object, and the store cannot make it: its bytes go through here.
async fn send_copied(staged: &Staged, target: &Target, source: &Version) -> Result<Committed> {
    let whole = ByteRange::new(0, source.size);
    fill(staged, &target.key, whole, Quota::Kept).await?;
    staged.stage.adopt_copied(&source.key);
    let account = staged.stage.account().clone();
    send(staged, target, &account).await
}

/// The file is a copy of another object, and the store makes it.
async fn copy_whole(
    staged: &Staged,
    target: &Target,
    source: &Version,
    properties: &Properties,
    id: &str,
) -> Result<Version> {
    let request = CopyRequest {
        key: target.key.clone(),
        properties: Some(properties.clone()),
        tags_follow: false,
        condition: target.condition.clone(),
    };
    let copied = staged.engine.0.store.copy(source, &request).await;
    let settled = settle(staged, target, id, copied).await;
    // S3 does not say which of the two objects is not what it should be.
    if let Err(Error::Conflict { .. } | Error::Exists { .. } | Error::Store(_)) = &settled
        && let Some(error) = changed(staged, source).await
    {
        return Err(error);
    }
    settled
}

/// What it means for a copy of it that `source` is not there any more; none where it is.
async fn changed(staged: &Staged, source: &Version) -> Option<Error> {
    match staged.engine.0.store.head(&source.key).await {
        Ok(head) if head.version.is_same(source) || source.version_id.is_some() => None,
        Err(error) if !error.is_not_found() => None,
        _ => Some(Error::Conflict { key: source.key.clone() }),
    }
}

/// Writes the commit down before it is sent, and returns its id. A journal that cannot be written
/// is no reason not to send: nobody has been told anything yet.
fn promise(staged: &Staged, target: &Target, account: &Account, id: Option<&str>) -> String {
    staged.promise(target, account, id).unwrap_or_else(|error| {
        tracing::warn!(key = %target.key, %error, "the journal does not know of a commit");
        id.map_or_else(new_commit_id, str::to_owned)
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
    fill(staged, &target.key, whole, Quota::MayBePassed).await?;
    let engine = &staged.engine;
    let (_grant, payload) = if account.size > IN_MEMORY_MAX {
        (None, Payload::File(staged.stage.file(), whole))
    } else {
        let grant = engine.0.budget.take(account.size).await;
        let read = staged.stage.read(whole);
        let failed = |source| Error::Staging { key: target.key.clone(), source };
        (Some(grant), Payload::Bytes(read.map_err(failed)?))
    };
    let request = PutRequest {
        key: target.key.clone(),
        properties: properties.clone(),
        condition: target.condition.clone(),
    };
    let sent = engine.0.store.put(&request, &payload).await;
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
    let copied = match (&part.source, staged.base()) {
        (PartSource::Base(range), Some(base)) => Some((base, *range)),
        (PartSource::Other(source, range), _) => Some((Arc::clone(source), *range)),
        _ => None,
    };
    if let Some((source, range)) = copied {
        match store.copy_part(&to, &source, range).await {
            // The bytes go through here instead.
            Err(error) if *error.kind() == ErrorKind::Unsupported => {}
            Err(error) => return Err(source_error(error, &source)),
            Ok(tag) => {
                open.sent(&tag, part.range);
                return Ok(tag);
            }
        }
    }
    fill(staged, &target.key, part.range, Quota::MayBePassed).await?;
    let sent = store.upload_part(&to, &Payload::File(staged.stage.file(), part.range)).await;
    let tag = sent.map_err(|error| classify(error, &target.key, &target.condition))?;
    open.sent(&tag, part.range);
    Ok(tag)
}

/// Brings into the staging file what of `range` is only in objects.
pub(super) async fn fill(staged: &Staged, key: &Key, range: ByteRange, quota: Quota) -> Result<()> {
    let (base, slices) = staged.view(range);
    for slice in slices {
        match (slice, &base) {
            (Slice::Base(gap), Some(base)) => {
                let run = CopiedRun { range: gap, version: Arc::clone(base), from: gap.start };
                fetch(staged, key, &run, quota).await?;
            }
            (Slice::Copied(run), _) => fetch(staged, key, &run, quota).await?,
            _ => {}
        }
    }
    Ok(())
}

async fn fetch(staged: &Staged, key: &Key, run: &CopiedRun, quota: Quota) -> Result<()> {
    let (source, mut done) = (run.source(), 0);
    while done < source.len() {
        let step = ByteRange::at(source.start + done, FILL_STEP).intersect(source);
        let fetched = staged.engine.0.cache.get_or_fetch(&run.version, step).await;
        let bytes = fetched.map_err(|error| source_error(error, &run.version))?;
        let staging = staged.stage.fill(run.range.start + done, &bytes, quota);
        staging.map_err(|error| staged.error(key, error))?;
        done += step.len();
    }
    Ok(())
}

/// What it means that an object could not be read or copied from.
pub(super) fn source_error(error: store::Error, source: &Version) -> Error {
    classify(error, &source.key, &Condition::Unchanged(source.clone()))
}

async fn complete(
    staged: &Staged,
    target: &Target,
    open: &Open,
    tags: &[PartTag],
) -> Result<Version> {
    let store = &staged.engine.0.store;
    let completed = store.complete_upload(&open.upload, tags, &target.condition).await;
    let is_told = completed.is_ok();
    let version = settle(staged, target, &open.commit_id, completed).await?;
    if is_told {
        open.completed();
    } else {
        // It may have been an earlier upload with the same id that became the object.
        open.clone().abort_later(&staged.engine);
    }
    Ok(version)
}
