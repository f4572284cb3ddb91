//! A volume's credentials, as files that only its server can read.
//!
//! Owns the folder they are in. Promises: a file is replaced as a whole, so that a reader never
//! meets half a token; a file that is not among the new ones goes; nobody but the server's own user
//! may even list them. Must not know what is in them.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::order::{FILES, Files};

/// For the server to read; nobody writes to them, not even it: they are replaced.
const READ_ONLY: u32 = 0o400;

/// The folder is its user's alone.
const OWN: u32 = 0o700;

/// The folder of a volume's files. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    /// A new folder in `parent`, with these files.
    pub(crate) fn new(parent: &Path, key: &str, files: &Files) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{key}-"))
            .permissions(Permissions::from_mode(OWN))
            .tempdir_in(parent)?;
        let folder = Self(folder);
        folder.replace(files)?;
        Ok(folder)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes these files, each in one step, and removes the others.
    pub(crate) fn replace(&self, files: &Files) -> io::Result<()> {
        for (name, bytes) in &files.0 {
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(self.path())?;
            file.write_all(&self.filled(&bytes.0))?;
            file.as_file().set_permissions(Permissions::from_mode(READ_ONLY))?;
            file.persist(self.path().join(name)).map_err(|error| error.error)?;
        }
        self.remove_others(&files.0)
    }

    /// With the folder's own place where a file points to another one of them.
    fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.replace(FILES, &self.path().to_string_lossy()).into_bytes(),
            Err(_) => bytes.to_owned(),
        }
    }

    fn remove_others<T>(&self, kept: &BTreeMap<String, T>) -> io::Result<()> {
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            let is_kept = entry.file_name().to_str().is_some_and(|name| kept.contains_key(name));
            if !is_kept {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::order::Bytes;

    fn files(all: &[(&str, &str)]) -> Files {
        let owned =
            |(name, text): &(&str, &str)| ((*name).to_owned(), Bytes(text.as_bytes().into()));
        Files(all.iter().map(owned).collect())
    }

    #[test]
    fn a_file_may_point_to_another_one() {
        let parent = tempfile::tempdir().unwrap();
        let profile = files(&[("credentials", "token = {files}/token\n"), ("token", "t")]);
        let folder = Folder::new(parent.path(), "v", &profile).unwrap();
        let text = fs::read_to_string(folder.path().join("credentials")).unwrap();
        assert_eq!(text, format!("token = {}/token\n", folder.path().display()));
    }

    #[test]
    fn files_are_replaced_whole_and_nobody_else_may_read_them() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(parent.path(), "v", &files(&[("a", "1"), ("b", "2")])).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(folder.path()), mode(&folder.path().join("a"))), (0o700, 0o400));
        let open = fs::File::open(folder.path().join("a")).unwrap();
        folder.replace(&files(&[("a", "new")])).unwrap();
        let mut old = open;
        let mut text = String::new();
        io::Read::read_to_string(&mut old, &mut text).unwrap();
        assert_eq!(text, "1", "who reads meanwhile reads the old file to its end");
        assert_eq!(fs::read_to_string(folder.path().join("a")).unwrap(), "new");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }
}
