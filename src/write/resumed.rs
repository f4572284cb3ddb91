//! Commits that earlier processes left in the journal, taken up again.
//!
//! Owns the way from an intent back to a staged file with its upload, and what becomes of uploads
//! that belong to none. Must not know the words of an intent, nor what is done with the file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Mutex;

use super::intent::{CommitIntent, Promises};
use super::stage::{Stage, Trust};
use super::stream::{Running, Stream};
use super::upload::{Open, UploadIntent, UploadStep};
use super::{Engine, Error, Result, Staged, Target};
use crate::journal::{Kind, Pending, Record};
use crate::naming::Key;

/// A file whose commit an earlier process began.
#[derive(Debug)]
pub struct Resumed {
    /// Its bytes.
    pub staged: Arc<Staged>,
    /// Where they go.
    pub target: Target,
    /// The journal says another key: that of a directory whose rename has been finished since.
    pub is_moved: bool,
}

/// Takes up the commits that earlier processes left in `pending`, in order, and gives up the
/// uploads that belong to none. What cannot be read stays where it is.
pub(super) fn resume(
    engine: &Engine,
    pending: &[Pending],
    moved: &impl Fn(Key, &Record) -> Key,
) -> Vec<Resumed> {
    let mut uploads = uploads(pending);
    let (mut resumed, mut waiting) = (Vec::new(), Vec::new());
    for (pending, superseded) in commits(pending) {
        match take_up(engine, pending, &mut uploads, moved) {
            Ok(file) => {
                superseded.iter().for_each(Record::end);
                resumed.push(file);
            }
            Err(error) => {
                tracing::error!(%error, "the journal has a commit that cannot be taken up");
                if is_gone(&error) || is_short(&error) && !was_acknowledged(pending) {
                    pending.record().end();
                } else {
                    waiting.extend(id_of(pending));
                }
            }
        }
    }
    // One of a commit that a later mount may take up has bytes that nothing else has.
    for open in uploads.into_iter().filter(|open| !waiting.contains(&open.commit_id)) {
        tracing::info!(key = %open.upload.key, "giving up an upload that was never finished");
        open.abort_later(engine);
    }
    resumed
}

/// The commits, the last of each staging file, with the records of those before: a mount that was
/// killed between writing one anew and ending what it replaces has left both.
fn commits(pending: &[Pending]) -> Vec<(&Pending, Vec<Record>)> {
    let mut at: HashMap<PathBuf, usize> = HashMap::new();
    let mut commits: Vec<(&Pending, Vec<Record>)> = Vec::new();
    for pending in pending.iter().rev().filter(|pending| pending.kind == Kind::Commit) {
        let intent: serde_json::Result<CommitIntent> = pending.intent();
        let record = pending.record();
        let stage = record.folder().zip(intent.ok()).map(|(at, intent)| at.join(intent.stage));
        match stage.as_ref().and_then(|stage| at.get(stage)) {
            Some(&later) => commits[later].1.push(record),
            None => {
                at.extend(stage.map(|stage| (stage, commits.len())));
                commits.push((pending, Vec::new()));
            }
        }
    }
    commits.reverse();
    commits
}

/// A power cut took what the record speaks of.
fn is_short(error: &Error) -> bool {
    let short = std::io::ErrorKind::InvalidData;
    matches!(error, Error::Staging { source, .. } if source.kind() == short)
}

fn id_of(pending: &Pending) -> Option<String> {
    pending.intent::<CommitIntent>().ok().map(|intent| intent.id)
}

fn was_acknowledged(pending: &Pending) -> bool {
    let intent: serde_json::Result<CommitIntent> = pending.intent();
    intent.is_ok_and(|intent| intent.is_acknowledged)
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
        // One that is missing may say that a part is outdated.
        let read = read.map(|(intent, steps)| match pending.is_unsure() {
            true => (intent, Vec::new()),
            false => (intent, steps),
        });
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

fn take_up(
    engine: &Engine,
    pending: &Pending,
    uploads: &mut Vec<Open>,
    moved: &impl Fn(Key, &Record) -> Key,
) -> Result<Resumed> {
    let intent: CommitIntent =
        pending.intent().map_err(|error| Error::Journal(std::io::Error::other(error)))?;
    let record = pending.record();
    let path = record.folder().map(|folder| folder.join(&intent.stage)).unwrap_or_default();
    let (id, is_acknowledged) = (intent.id.clone(), intent.is_acknowledged);
    let target = Target { key: moved(intent.target.key.clone(), &record), ..intent.target.clone() };
    let is_moved = target.key != intent.target.key;
    // What was acknowledged had been synced before.
    let trust = if is_acknowledged { Trust::Synced } else { Trust::Looked };
    let stage = Stage::resume(&engine.0.staging, &path, intent.into_account(), trust)
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
    let journal = record.journal();
    let promised = Promises::of(record, id, target.clone(), (epoch, is_acknowledged));
    let staged = Staged {
        engine: engine.clone(),
        journal,
        stage,
        stream: Mutex::new(stream),
        stays_local: AtomicBool::new(false),
        lost: AtomicBool::new(false),
        sync_failed: AtomicBool::new(false),
        promised: std::sync::Mutex::new(promised),
        resumable: std::sync::Mutex::new(resumable),
    };
    staged.stage.keep(true);
    Ok(Resumed { staged: engine.register(staged), target, is_moved })
}
