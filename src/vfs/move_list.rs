//! What the rename of a directory moves, written down.
//!
//! Owns the list of objects beside the journal's log: each source before its copy is asked for, in
//! key order, and each copy that cannot be told from its source's entity tag. So a rename of any
//! number of keys takes no memory for them, and a later process knows what to finish or take back.
//! Where there is no local folder the list is in memory. Must not know how anything is copied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::naming::Key;
use crate::store::Version;

/// A line of the list.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// An object that moves.
    Source(Version),
    /// A copy whose entity tag is another than its source's: the store made it in parts, or under
    /// another encryption.
    Copy(Version),
}

/// The list of one rename.
#[derive(Debug)]
pub(super) enum MoveList {
    OnDisk { path: PathBuf, file: File },
    InMemory { sources: Vec<Version>, copies: Mutex<Vec<Version>> },
}

impl MoveList {
    const fn in_memory() -> Self {
        Self::InMemory { sources: Vec::new(), copies: Mutex::new(Vec::new()) }
    }

    /// A fresh name for a list in the journal's folder.
    pub(super) fn fresh_name() -> String {
        format!("{:016x}.move", fastrand::u64(..))
    }

    /// An empty list in `folder`; in memory where there is none.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn create(folder: Option<&Path>, name: &str) -> io::Result<Self> {
        let Some(folder) = folder else { return Ok(Self::in_memory()) };
        let path = folder.join(name);
        let file = OpenOptions::new().create_new(true).append(true).open(&path)?;
        Ok(Self::OnDisk { path, file })
    }

    /// The list that an earlier process left; empty where it had not come to make one.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self::OnDisk { path, file })
    }

    /// Notes objects that are about to be copied, in key order behind those noted before.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn add(&mut self, sources: &[Version]) -> io::Result<()> {
        match self {
            Self::InMemory { sources: list, .. } => list.extend_from_slice(sources),
            Self::OnDisk { file, .. } => {
                let mut text = Vec::new();
                for source in sources {
                    write_line(&mut text, &Line::Source(source.clone()))?;
                }
                file.write_all(&text)?;
            }
        }
        Ok(())
    }

    /// Notes a copy that its source's entity tag does not tell.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn add_copy(&self, copy: &Version) -> io::Result<()> {
        match self {
            Self::InMemory { copies, .. } => {
                copies.lock().unwrap_or_else(PoisonError::into_inner).push(copy.clone());
                Ok(())
            }
            Self::OnDisk { file, .. } => {
                let mut text = Vec::new();
                write_line(&mut text, &Line::Copy(copy.clone()))?;
                (&*file).write_all(&text)
            }
        }
    }

    /// Brings the list to disk.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::OnDisk { file, .. } => file.sync_data(),
            Self::InMemory { .. } => Ok(()),
        }
    }

    /// The objects noted, in key order. What a crash left of a last line is none: nothing was
    /// asked for before its line was whole.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn sources(&self) -> io::Result<Box<dyn Iterator<Item = Version> + Send + '_>> {
        let source = |line| match line {
            Line::Source(version) => Some(version),
            Line::Copy(_) => None,
        };
        Ok(match self {
            Self::InMemory { sources, .. } => Box::new(sources.iter().cloned()),
            Self::OnDisk { path, .. } => Box::new(lines(path)?.filter_map(source)),
        })
    }

    /// The copies noted.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn copies(&self) -> io::Result<Vec<Version>> {
        let copy = |line| match line {
            Line::Copy(version) => Some(version),
            Line::Source(_) => None,
        };
        match self {
            Self::InMemory { copies, .. } => {
                Ok(copies.lock().unwrap_or_else(PoisonError::into_inner).clone())
            }
            Self::OnDisk { path, .. } => Ok(lines(path)?.filter_map(copy).collect()),
        }
    }

    /// The rename is over.
    pub(super) fn remove(self) {
        if let Self::OnDisk { path, .. } = self
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "a list that nobody needs stays");
        }
    }
}

fn write_line(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

fn lines(path: &Path) -> io::Result<impl Iterator<Item = Line> + Send + use<>> {
    let lines = BufReader::new(File::open(path)?).lines();
    Ok(lines.map_while(|line| serde_json::from_str(&line.ok()?).ok()))
}

/// The object's key below another prefix.
pub(super) fn moved_key(key: &Key, old: &str, new: &str) -> Key {
    let rest = key.as_str().strip_prefix(old).unwrap_or_default();
    Key::new(format!("{new}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn version(key: &str) -> Version {
        let etag = Some("\"e\"".into());
        let last_modified = SystemTime::UNIX_EPOCH;
        Version { key: Key::from(key), etag, version_id: None, size: 7, last_modified }
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_a_torn_line_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut list = MoveList::create(Some(folder.path()), "list").unwrap();
        list.add(&[version("a\n"), version("b")]).unwrap();
        list.add_copy(&version("new/a")).unwrap();
        list.add(&[version("c")]).unwrap();
        drop(list);
        let path = folder.path().join("list");
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"source\":{\"key\":\"d").unwrap();
        let list = MoveList::open(folder.path(), "list").unwrap();
        let sources: Vec<Version> = list.sources().unwrap().collect();
        assert_eq!(sources, [version("a\n"), version("b"), version("c")]);
        assert_eq!(list.copies().unwrap(), [version("new/a")]);
        list.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_list_that_was_never_made_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let list = MoveList::open(folder.path(), "list").unwrap();
        assert_eq!(list.sources().unwrap().count(), 0);
    }
}
