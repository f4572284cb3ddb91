//! What an answer means that may be the echo of a success, and what silence may hide.
//!
//! Owns how a commit finds its own earlier work in S3: by the commit id that an object carries.
//! Promises: what is there already is not sent again over something later, and bytes that only a
//! lost upload had are never made up. Must not know what is sent, nor in how many requests.

use std::sync::Arc;

use super::commit::{send, stored};
use super::stage::Account;
use super::stream::{Running, Stream};
use super::{COMMIT_ID, Committed, Error, Result, Staged, Target};
use crate::naming::Key;
use crate::store::{self, Condition, ErrorKind, ObjectHead, Operation, Version};

/// True where an earlier process was cut off after S3 had done this commit, and nothing is left to
/// do. Attributes that are missing are left to the commit, since a copy may take minutes.
pub(super) async fn is_over(staged: &Staged, target: &Target) -> bool {
    let mut stream = staged.stream.lock().await;
    let account = staged.stage.account().clone();
    let Some(head) = is_done(staged, target, &account).await else { return false };
    let committed = stored(target, head);
    if committed.carries_attributes {
        done(staged, &mut stream, &committed, account.epoch).await;
    }
    committed.carries_attributes
}

/// The object, where an earlier process was cut off after S3 had done this very commit.
pub(super) async fn is_done(
    staged: &Staged,
    target: &Target,
    account: &Account,
) -> Option<ObjectHead> {
    let id = staged.taken_up(&target.key, account.epoch)?;
    let head = staged.engine.0.store.head(&target.key).await.ok()?;
    carries(&head, &id).then_some(head)
}

/// Nothing of it is left to send.
pub(super) async fn done(staged: &Staged, stream: &mut Stream, committed: &Committed, epoch: u64) {
    tracing::info!(key = %committed.version.key, "in S3 already");
    staged.stage.committed(Arc::clone(&committed.version), epoch);
    // It may have been another upload that became the object.
    staged.leave(stream).await;
}

/// Another version stands there. Where it is an earlier commit of this very file, which was given
/// up because no answer came, it is what the bytes not changed since are in, so the commit goes
/// over it; otherwise `refusal` stands.
pub(super) async fn again(staged: &Staged, target: &Target, refusal: Error) -> Result<Committed> {
    let mut ids = staged.stage.account().unknown.clone();
    // A copy onto itself that gave the last one its attributes, and was not answered, has its id.
    ids.extend(staged.last_id());
    if ids.is_empty() || !staged.stage.account().punched.is_empty() {
        return Err(refusal);
    }
    let Some(version) = own(staged, &target.key, &ids).await? else { return Err(refusal) };
    tracing::info!(key = %target.key, "a commit that was given up has arrived after all");
    staged.stage.rebase_committed(Arc::new(version.clone()));
    over(staged, target, version).await
}

/// The upload that alone had some of the bytes will not become the object. If it already has, in
/// an earlier attempt whose answer was lost, the commit goes over that; if it has not, they are
/// lost; where the store does not say, the next commit asks again.
pub(super) async fn without(
    staged: &Staged,
    target: &Target,
    stream: &mut Stream,
    running: Running,
    error: Error,
) -> Result<Committed> {
    let ids = std::slice::from_ref(&running.open.commit_id);
    match own(staged, &target.key, ids).await.map(|own| has_punched(staged, own)) {
        Ok(Some(version)) => {
            running.open.completed();
            staged.stage.rebase_punched(Arc::new(version.clone()));
            over(staged, target, version).await
        }
        Ok(None) => {
            running.open.abort_later(&staged.engine);
            Err(lost(staged, target, error))
        }
        Err(_unsaid) => {
            stream.put_back(running);
            Err(error)
        }
    }
}

/// The same, where not even the upload is known any more.
pub(super) async fn without_upload(staged: &Staged, target: &Target) -> Result<Committed> {
    let mut ids = staged.stage.account().unknown.clone();
    ids.extend(staged.last_id());
    match has_punched(staged, own(staged, &target.key, &ids).await?) {
        Some(version) => {
            staged.stage.rebase_punched(Arc::new(version.clone()));
            over(staged, target, version).await
        }
        None => {
            let gone = store::Error::new(Operation::CompleteUpload, ErrorKind::NoSuchUpload);
            Err(lost(staged, target, gone.into()))
        }
    }
}

/// What stands under `key`, where it is a commit of this file that was given up because no answer
/// came; the file is over it from now on.
///
/// # Errors
/// The store's: then nobody knows.
pub(super) async fn arrived(staged: &Staged, key: &Key) -> Result<Option<Arc<Version>>> {
    let _nothing_changes = staged.stream.lock().await;
    let unknown = staged.stage.account().unknown.clone();
    if unknown.is_empty() || !staged.stage.account().punched.is_empty() {
        return Ok(None);
    }
    let arrived = own(staged, key, &unknown).await?.map(Arc::new);
    if let Some(version) = &arrived {
        staged.stage.rebase_committed(Arc::clone(version));
    }
    Ok(arrived)
}

/// An earlier commit of the file may be shorter than what the upload alone had.
fn has_punched(staged: &Staged, own: Option<Version>) -> Option<Version> {
    let end = staged.stage.account().punched.end();
    own.filter(|version| version.size >= end)
}

fn lost(staged: &Staged, target: &Target, error: Error) -> Error {
    let (key, missing) = (target.key.clone(), staged.stage.account().punched.clone());
    Error::Lost { key, missing, source: Box::new(error) }
}

/// The commit over an earlier one of this very file.
async fn over(staged: &Staged, target: &Target, version: Version) -> Result<Committed> {
    let condition = Condition::Unchanged(version);
    let account = staged.stage.account().clone();
    send(staged, &Target { condition, ..target.clone() }, &account).await
}

/// What stands there, where one of these commits has made it.
///
/// # Errors
/// The store's: then nobody knows.
async fn own(staged: &Staged, key: &Key, ids: &[String]) -> Result<Option<Version>> {
    match staged.engine.0.store.head(key).await {
        Ok(head) => Ok(ids.iter().any(|id| carries(&head, id)).then_some(head.version)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn carries(head: &ObjectHead, id: &str) -> bool {
    head.properties.user_metadata.get(COMMIT_ID).is_some_and(|found| found == id)
}

/// Decides what an answer means that may be the echo of a success: the object carries our commit
/// id, or it does not. Where the store does not say, nobody has won over this commit yet.
pub(super) async fn settle(
    staged: &Staged,
    target: &Target,
    id: &str,
    answer: store::Result<Version>,
) -> Result<Version> {
    let error = match answer {
        Ok(version) => return Ok(version),
        Err(error) => error,
    };
    let is_ambiguous = error.is_ambiguous();
    if is_ambiguous {
        staged.stage.unanswered(id);
    }
    // A store that has not answered within the operation timeout is not asked again now; the next
    // try knows the id.
    let is_asked = is_ambiguous && !error.kind().is_unanswered();
    let refusal = classify(error, &target.key, &target.condition);
    if !is_asked {
        return Err(refusal);
    }
    match own(staged, &target.key, &[id.to_owned()]).await {
        Ok(Some(version)) => {
            tracing::debug!(key = %target.key, "the answer was lost, but the object is there");
            Ok(version)
        }
        Err(unsaid) if matches!(refusal, Error::Conflict { .. } | Error::Exists { .. }) => {
            Err(unsaid)
        }
        _ => Err(refusal),
    }
}

pub(super) fn classify(error: store::Error, key: &Key, condition: &Condition) -> Error {
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
