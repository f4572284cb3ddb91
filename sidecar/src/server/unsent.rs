//! What volumes have not sent that nobody serves any more.
//!
//! Owns the look at their journals: an inline volume's key, and that of a volume with its pod's
//! own identity, never come again, and neither does a volume whose claim is gone. Promises:
//! nothing is changed. Must not know what becomes of it: that is for people to decide.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use s3pod::journal::{Unsent, count_unsent};
use s3pod::units::ByteSize;

/// A volume's journal with something in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) key: String,
    folder: PathBuf,
    unsent: Unsent,
}

/// The journals below `journals` of volumes that are not among `running`, where they hold anything.
pub(super) fn look(journals: &Path, running: &HashSet<String>) -> Vec<Left> {
    let mut left = Vec::new();
    for entry in fs::read_dir(journals).into_iter().flatten().flatten() {
        let Ok(key) = entry.file_name().into_string() else { continue };
        if running.contains(&key) {
            continue;
        }
        let folder = entry.path();
        match count_unsent(&folder) {
            Ok(unsent) if unsent.is_empty() => {}
            Ok(unsent) => left.push(Left { key, folder, unsent }),
            Err(error) => crate::say(format_args!("{key}: its journal cannot be read: {error}")),
        }
    }
    left
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unsent { changes, bytes } = self.unsent;
        write!(
            f,
            "{}: nobody serves it, and {changes} of its changes ({}) are not in S3: they wait in \
             {}; docs/kubernetes/csi.md says how they are sent",
            self.key,
            ByteSize(bytes),
            self.folder.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use s3pod::journal::{Journal, Kind, Slot};

    use super::*;

    #[test]
    fn a_journal_that_nobody_serves_is_named_with_its_size() {
        let journals = tempfile::tempdir().unwrap();
        let mut open = Vec::new();
        for (key, has_changes) in [("left", true), ("served", true), ("empty", false)] {
            let (slot, _) = Slot::acquire(&journals.path().join(key), "photos-1").unwrap();
            let (journal, _, _) = Journal::open(slot).unwrap();
            fs::write(journal.folder().unwrap().join("1.stage"), vec![0; 2048]).unwrap();
            if has_changes {
                open.push(journal.begin(Kind::Commit, &["1.stage"], &"words").unwrap());
            }
        }
        let left = look(journals.path(), &HashSet::from(["served".to_owned()]));
        let said: Vec<String> = left.iter().map(Left::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("left: nobody serves it, and 1 of its changes (2KiB)"));
        assert!(said[0].contains(journals.path().join("left").to_str().unwrap()), "{said:?}");
    }
}
