//! What journals hold that is not in S3, counted by somebody who does not mount.
//!
//! Owns the look into folders that may be in use this very moment. Promises: it takes no lock and
//! changes nothing, so that a mount which begins meanwhile finds everything. Must not know what an
//! intent means.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::log::Log;
use super::{Kind, find_recovered};

/// What waits in a folder of journals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// Changes that are not in S3, and files that another writer won over.
    pub changes: u64,
    /// The bytes on disk that they need.
    pub bytes: u64,
}

impl Unsent {
    /// True where everything is in S3.
    pub const fn is_empty(self) -> bool {
        self.changes == 0
    }

    const fn add(&mut self, bytes: u64) {
        self.changes += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Counts what is in the journals below `journal_dir`, which may be missing.
///
/// # Errors
/// The disk's; [`io::ErrorKind::InvalidData`] for a log that a newer release wrote.
pub fn count_unsent(journal_dir: &Path) -> io::Result<Unsent> {
    let mut unsent = Unsent::default();
    for volume in folders(&journal_dir.join("journal"))? {
        for slot in folders(&volume)? {
            look_into(&slot, &mut unsent)?;
        }
    }
    for item in find_recovered(journal_dir)?.items {
        unsent.add(item.recovered.size);
    }
    Ok(unsent)
}

fn look_into(slot: &Path, unsent: &mut Unsent) -> io::Result<()> {
    let found = match Log::look(slot) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    // What was only a question, and an upload that somebody else would abort, is nobody's bytes.
    let counts = |kind: Kind| !matches!(kind, Kind::Trace | Kind::Upload);
    for intent in found.iter().filter(|intent| counts(intent.kind)) {
        let size = |name: &String| slot.join(name).metadata().map_or(0, |file| file.len());
        unsent.add(intent.files.iter().map(size).sum());
    }
    Ok(())
}

fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    Ok(paths?.into_iter().filter(|path| path.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, Slot};

    #[test]
    fn what_is_pending_is_counted_by_somebody_who_leaves_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(count_unsent(&folder.path().join("none")).unwrap(), Unsent::default());
        let (slot, _) = Slot::acquire(folder.path(), "photos-1").unwrap();
        let (journal, _, _) = Journal::open(slot).unwrap();
        fs::write(journal.folder().unwrap().join("1.stage"), b"bytes").unwrap();
        let over = journal.begin(Kind::Commit, &[], &"over").unwrap();
        let record = journal.begin(Kind::Commit, &["1.stage"], &"words").unwrap();
        let question = journal.begin(Kind::Trace, &[], &"words").unwrap();
        over.end();
        let expected = Unsent { changes: 1, bytes: 5 };
        assert_eq!(count_unsent(folder.path()).unwrap(), expected, "also beside who writes it");
        drop((record, question, over, journal));
        assert_eq!(count_unsent(folder.path()).unwrap(), expected);
        let (slot, _) = Slot::acquire(folder.path(), "photos-1").unwrap();
        let (_journal, pending, _) = Journal::open(slot).unwrap();
        assert_eq!(pending.len(), 2, "the next mount finds all of it");
        pending.iter().for_each(|pending| pending.record().end());
        assert!(count_unsent(folder.path()).unwrap().is_empty());
    }
}
