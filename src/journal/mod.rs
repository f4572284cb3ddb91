//! The local folder in which a mount keeps what is not in S3 yet, and the log of what it has
//! begun there.
//!
//! Owns `<journal-dir>/journal/<volume>/<slot>`: every live mount of a volume holds the lock on one
//! slot, so that several mounts can share a cache folder, and a mount that died leaves slots that
//! the next one takes over. In each slot lies a log of *intents*: what is to be done in S3 and
//! must be finished, or given up, by whoever finds it. Beside them, in
//! `<journal-dir>/recover/<volume>`, waits what can never be sent. Promises: two live mounts never
//! share a slot; an intent is in the log before [`Journal::begin`] returns, and on disk when
//! [`Journal::sync`] does; it is found again until [`Record::end`]; a torn end of a log hides
//! nothing before it, and a damaged line nothing but itself. Must not know what an intent means:
//! the floors above give each [`Kind`] its words.

mod line;
mod log;
mod recovered;
mod slot;
mod unsent;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use line::Line;
use log::Log;

pub use line::Kind;
pub use recovered::{Base, Found, Item, Lost, Reason, Recovered, Recovery, find_recovered};
pub use slot::{Leftover, Slot};
pub use unsent::{Unsent, count_unsent};

/// The suffix of a staging file: whatever has it and belongs to no pending intent was never
/// promised to anybody.
const STAGE_SUFFIX: &str = "stage";

/// The suffix of one that a damaged line may have spoken of.
const ASIDE_SUFFIX: &str = "aside";

/// The log of one slot; cheap to clone. The slot stays locked while it, or a record of it, lives.
#[derive(Clone, Debug)]
pub struct Journal(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    slot: Slot,
    log: Mutex<Log>,
    /// Lines that are on disk for certain; whoever holds it is syncing.
    synced: tokio::sync::Mutex<u64>,
}

/// An intent in the log, for whoever carries it out.
#[derive(Clone, Debug)]
pub struct Record {
    journal: Option<Arc<Inner>>,
    id: u64,
}

/// A record that ends with this value, unless the process dies first.
#[derive(Debug)]
pub struct Ending(Record);

/// An intent that an earlier mount left.
#[derive(Debug)]
pub struct Pending {
    /// Whose words it is in.
    pub kind: Kind,
    intent: Value,
    steps: Vec<Value>,
    is_unsure: bool,
    record: Record,
}

impl Journal {
    /// A journal that keeps nothing, where there is no local folder.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Opens a slot's log, with what an earlier mount left in it, oldest first. Staging files
    /// that no intent needs are removed and counted: no close() or fsync() of theirs had returned.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::InvalidData`] for a log that a newer release wrote.
    pub fn open(slot: Slot) -> io::Result<(Self, Vec<Pending>, Leftover)> {
        let (log, found) = Log::open(slot.folder())?;
        let needed: Vec<&str> =
            found.iter().flat_map(|intent| intent.files.iter().map(String::as_str)).collect();
        let leftover = clear(slot.folder(), &needed, log.is_damaged())?;
        let inner =
            Arc::new(Inner { slot, log: Mutex::new(log), synced: tokio::sync::Mutex::new(0) });
        let mut pending = Vec::with_capacity(found.len());
        for intent in found {
            let record = Record { journal: Some(Arc::clone(&inner)), id: intent.id };
            let (kind, steps, is_unsure) = (intent.kind, intent.steps, intent.is_unsure);
            pending.push(Pending { kind, intent: intent.intent, steps, is_unsure, record });
        }
        Ok((Self(Some(inner)), pending, leftover))
    }

    /// Where the slot's files lie; none for a journal that keeps nothing.
    pub fn folder(&self) -> Option<&Path> {
        self.0.as_ref().map(|inner| inner.slot.folder())
    }

    /// Appends an intent. `files` are the names of files in the slot's folder that it needs, and
    /// which are kept for it. It survives the process from here on, and the machine from the next
    /// [`Journal::sync`].
    ///
    /// # Errors
    /// The disk's; then the intent is not in the log.
    pub fn begin(&self, kind: Kind, files: &[&str], intent: &impl Serialize) -> io::Result<Record> {
        let Some(inner) = &self.0 else { return Ok(Record { journal: None, id: 0 }) };
        let intent = serde_json::to_value(intent)?;
        let files = files.iter().map(|&file| file.to_owned()).collect();
        let mut log = inner.log();
        let id = log.next_id();
        log.append(Line::Begin { id, kind, files, intent })?;
        drop(log);
        Ok(Record { journal: Some(Arc::clone(inner)), id })
    }

    /// Waits until every line appended before is on disk. Whoever asks while another syncs waits
    /// for the next sync, together with everyone else.
    ///
    /// # Errors
    /// The disk's; then nothing may be acknowledged that relies on it.
    pub async fn sync(&self) -> io::Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let wanted = inner.log().appended();
        let mut synced = inner.synced.lock().await;
        if *synced >= wanted {
            return Ok(());
        }
        let (file, appended) = {
            let log = inner.log();
            (log.file()?, log.appended())
        };
        let folder = fs::File::open(inner.slot.folder())?;
        let syncing = tokio::task::spawn_blocking(move || {
            file.sync_data()?;
            // The names of new staging files, too.
            folder.sync_all()
        });
        let on_disk = syncing.await.map_err(io::Error::other).and_then(|on_disk| on_disk);
        // Linux tells of a page that it could not write once, and then takes it for written: until
        // all of the log is written anew nothing in it counts.
        let on_disk = on_disk.or_else(|error| inner.log().renew().map_err(|_| error));
        on_disk?;
        *synced = appended;
        Ok(())
    }
}

impl Inner {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// The record of an intent that nobody keeps.
    pub const fn none() -> Self {
        Self { journal: None, id: 0 }
    }

    /// Appends what has been done of the intent so far.
    ///
    /// # Errors
    /// The disk's.
    pub fn note(&self, step: &impl Serialize) -> io::Result<()> {
        let Some(inner) = &self.journal else { return Ok(()) };
        let step = serde_json::to_value(step)?;
        inner.log().append(Line::Step { id: self.id, step })
    }

    /// The intent is carried out, or given up: nobody will find it again. That this could not be
    /// written is only logged: an intent that is found although it was done must be harmless.
    pub fn end(&self) {
        let Some(inner) = &self.journal else { return };
        if let Err(error) = inner.log().append(Line::End { id: self.id }) {
            tracing::warn!(%error, "the journal still has what is done");
        }
    }

    /// True where both stand in one journal, and this one was begun first.
    pub fn is_before(&self, other: &Self) -> bool {
        let journals = self.journal.as_ref().zip(other.journal.as_ref());
        journals.is_some_and(|(own, others)| Arc::ptr_eq(own, others)) && self.id < other.id
    }

    /// The journal that it stands in.
    pub fn journal(&self) -> Journal {
        Journal(self.journal.clone())
    }

    /// Where the files of the intent lie.
    pub fn folder(&self) -> Option<&Path> {
        self.journal.as_ref().map(|inner| inner.slot.folder())
    }
}

impl Ending {
    /// Whoever drops this has carried the intent out, or given it up.
    pub const fn new(record: Record) -> Self {
        Self(record)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Pending {
    /// The intent, in the words of its kind.
    ///
    /// # Errors
    /// Where they are not these words.
    pub fn intent<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        T::deserialize(&self.intent)
    }

    /// What was done of it, in order.
    ///
    /// # Errors
    /// Where they are not these words.
    pub fn steps<T: DeserializeOwned>(&self) -> serde_json::Result<Vec<T>> {
        self.steps.iter().map(T::deserialize).collect()
    }

    /// True where the journal was damaged behind the intent: a step of it may be missing.
    pub const fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// The record, for whoever carries the intent out.
    pub fn record(&self) -> Record {
        self.record.clone()
    }
}

/// Removes staging files that no pending intent needs. Where the line may be damaged that speaks of
/// them, they are put aside under another suffix, which is for a person to look at.
fn clear(folder: &Path, needed: &[&str], is_damaged: bool) -> io::Result<Leftover> {
    use std::os::unix::fs::MetadataExt;
    let mut leftover = Leftover::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_stage = entry.path().extension().is_some_and(|suffix| suffix == STAGE_SUFFIX);
        let is_needed = || needed.iter().any(|&name| entry.file_name() == name);
        if is_stage && !is_needed() && is_damaged {
            let aside = free_aside(&entry.path());
            fs::rename(entry.path(), &aside)?;
            let path = aside.display();
            tracing::error!(%path, "the journal may have spoken of these bytes; look at them");
        } else if is_stage && !is_needed() {
            leftover.files += 1;
            leftover.bytes += entry.metadata()?.blocks() * 512;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(leftover)
}

/// A name beside a staging file that no other has: their numbers are used again.
fn free_aside(stage: &Path) -> PathBuf {
    let plain = stage.with_extension(ASIDE_SUFFIX);
    let suffix = |number: u32| format!("{number}.{ASIDE_SUFFIX}");
    let numbered = (2..).map(|number| stage.with_extension(suffix(number)));
    let mut names = std::iter::once(plain.clone()).chain(numbered);
    names.find(|name| !name.exists()).unwrap_or(plain)
}

#[cfg(test)]
mod tests;
