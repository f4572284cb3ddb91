//! Bytes that a commit could never send, kept for a person to decide.
//!
//! Owns the folder `<journal-dir>/recover/<volume>` and its format: `<id>.data`, a sparse file as
//! long as the lost one, beside `<id>.json`, which says of what object it is and which of its
//! bytes count. Promises: the description is on disk before the bytes are moved, so that what
//! lies here can always be told; nothing is removed but by [`Item::discard`]. Must not know who
//! lost, or how bytes are staged.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::clock::Clock;
use crate::naming::Key;
use crate::store::Version;
use crate::units::ByteRange;

/// The folder below the cache folder.
const FOLDER: &str = "recover";

const DATA: &str = "data";
const DESCRIPTION: &str = "json";

/// Tries to find an id that is free: of 2^48, a thousand that wait hit one in 280 billion.
const ID_TRIES: usize = 8;

/// Why bytes could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The object that was being edited is another version, or gone.
    Changed,
    /// Another writer made the object first.
    Created,
    /// The store will never make the object of what it was sent.
    Refused,
}

impl Reason {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed by another writer",
            Self::Created => "created by another writer first",
            Self::Refused => "refused by the store",
        }
    }
}

/// The version that the lost bytes lay over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its entity tag.
    pub etag: Option<String>,
    /// Its id on a versioned bucket.
    pub version_id: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub last_modified: OffsetDateTime,
}

impl From<&Version> for Base {
    fn from(version: &Version) -> Self {
        Self {
            etag: version.etag.as_deref().map(str::to_owned),
            version_id: version.version_id.as_deref().map(str::to_owned),
            size: version.size,
            last_modified: version.last_modified.into(),
        }
    }
}

/// What is known of bytes that lost, before they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The object they were for.
    pub key: Key,
    /// Why they were not sent.
    pub reason: Reason,
    /// What they lay over; none for a new file.
    pub base: Option<Base>,
    /// The file's size in bytes.
    pub size: u64,
    /// What was written.
    pub dirty: Vec<ByteRange>,
    /// What is in the data file: the written bytes, and those of the base that were at hand.
    pub present: Vec<ByteRange>,
    /// What was only in the base. Bytes that are neither here nor present are zeros.
    pub missing: Vec<ByteRange>,
}

/// The description of kept bytes; its fields are those of [`Lost`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "`Lost` says what each field is")]
pub struct Recovered {
    pub id: String,
    pub endpoint: Option<String>,
    pub bucket: String,
    pub key: String,
    pub reason: Reason,
    #[serde(with = "time::serde::rfc3339")]
    pub kept_at: OffsetDateTime,
    pub base: Option<Base>,
    pub size: u64,
    pub dirty: Vec<ByteRange>,
    pub present: Vec<ByteRange>,
    pub missing: Vec<ByteRange>,
}

impl Recovered {
    /// Bytes that are not at hand.
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(ByteRange::len).sum()
    }
}

/// Where one mount keeps what it could not send.
#[derive(Clone, Debug)]
pub struct Recovery {
    folder: PathBuf,
    bucket: String,
    endpoint: Option<String>,
}

impl Recovery {
    /// The folder of `volume` below `journal_dir`, for objects of `bucket`; nothing is made yet.
    pub fn new(journal_dir: &Path, volume: &str, bucket: &str, endpoint: Option<&str>) -> Self {
        let folder = journal_dir.join(FOLDER).join(volume);
        Self { folder, bucket: bucket.to_owned(), endpoint: endpoint.map(str::to_owned) }
    }

    /// Takes the file at `data` over, which lies in the same cache folder.
    ///
    /// # Errors
    /// The disk's; then the file is where it was.
    pub fn keep(&self, data: &Path, lost: Lost) -> io::Result<Recovered> {
        let folder = &self.folder;
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let (id, file) = new_description(folder)?;
        let recovered = Recovered {
            id: id.clone(),
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            key: lost.key.as_str().to_owned(),
            reason: lost.reason,
            kept_at: Clock::system().wall().into(),
            base: lost.base,
            size: lost.size,
            dirty: lost.dirty,
            present: lost.present,
            missing: lost.missing,
        };
        let described = describe(&file, &recovered).and_then(|()| {
            File::open(data)?.sync_all()?;
            fs::rename(data, folder.join(&id).with_extension(DATA))
        });
        if let Err(error) = described {
            let _nothing_to_tell_of = fs::remove_file(folder.join(&id).with_extension(DESCRIPTION));
            return Err(error);
        }
        // The bytes are there, so they are told of also where this fails.
        File::open(folder)?.sync_all()?;
        Ok(recovered)
    }

    /// What this mount, or an earlier one of the same volume, has kept.
    ///
    /// # Errors
    /// The disk's.
    pub fn waiting(&self) -> io::Result<Found> {
        let mut found = Found::default();
        found.look_into(&self.folder)?;
        Ok(found)
    }
}

fn new_description(folder: &Path) -> io::Result<(String, File)> {
    let mut tries = 0;
    loop {
        let id = format!("{:012x}", fastrand::u64(..1 << 48));
        let path = folder.join(&id).with_extension(DESCRIPTION);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        tries += 1;
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < ID_TRIES => {}
            made => return Ok((id, made?)),
        }
    }
}

fn describe(mut file: &File, recovered: &Recovered) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(recovered)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()
}

/// Kept bytes with their description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What they are.
    pub recovered: Recovered,
    data: PathBuf,
    description: PathBuf,
}

/// What lies below a cache folder.
#[derive(Debug, Default)]
pub struct Found {
    /// What can be saved, the oldest first.
    pub items: Vec<Item>,
    /// Descriptions that cannot be read, and why.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Everything that any mount with this cache folder has kept.
///
/// # Errors
/// The disk's.
pub fn find_recovered(journal_dir: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for volume in entries(&journal_dir.join(FOLDER))? {
        if volume.is_dir() {
            found.look_into(&volume)?;
        }
    }
    found.items.sort_by(|one, other| {
        let age = |item: &Item| (item.recovered.kept_at, item.recovered.id.clone());
        age(one).cmp(&age(other))
    });
    Ok(found)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Found {
    fn look_into(&mut self, volume: &Path) -> io::Result<()> {
        for description in entries(volume)? {
            let data = description.with_extension(DATA);
            // Without its bytes a description is one that was being made, or is being discarded.
            let is_one = description.extension().is_some_and(|extension| extension == DESCRIPTION);
            if !is_one || !data.exists() {
                continue;
            }
            match read_description(&description) {
                Ok(recovered) => self.items.push(Item { recovered, data, description }),
                Err(reason) => self.damaged.push((description, reason)),
            }
        }
        Ok(())
    }
}

fn read_description(path: &Path) -> Result<Recovered, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let recovered: Recovered = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let is_within = |range: &ByteRange| range.end <= recovered.size;
    let ranges = [&recovered.dirty, &recovered.present, &recovered.missing];
    if !ranges.into_iter().flatten().all(is_within) {
        return Err("it names bytes beyond the file's end".to_owned());
    }
    Ok(recovered)
}

impl Item {
    /// Writes the file to `target`, whole or not at all: what was written and what of the base was
    /// at hand; everything else is a hole. An existing file is replaced only where `force` says so.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::AlreadyExists`].
    pub fn save(&self, target: &Path, force: bool) -> io::Result<()> {
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !force && target.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut copy = tempfile::Builder::new()
            .prefix(".s3pod-recover-")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(folder)?;
        let mut data = File::open(&self.data)?;
        copy.as_file().set_len(self.recovered.size)?;
        for range in &self.recovered.present {
            data.seek(SeekFrom::Start(range.start))?;
            copy.as_file_mut().seek(SeekFrom::Start(range.start))?;
            let copied = io::copy(&mut (&data).take(range.len()), copy.as_file_mut())?;
            if copied != range.len() {
                let said = format!("{} ends before {}", self.data.display(), range.end);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, said));
            }
        }
        copy.as_file().sync_all()?;
        let saved = if force { copy.persist(target) } else { copy.persist_noclobber(target) };
        saved.map(drop).map_err(|error| error.error)?;
        // Whoever discards the original relies on the name, too.
        File::open(folder)?.sync_all()
    }

    /// Removes the bytes, then their description.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard(&self) -> io::Result<()> {
        fs::remove_file(&self.data)?;
        fs::remove_file(&self.description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(size: u64, present: ByteRange, missing: Vec<ByteRange>) -> Lost {
        let (dirty, present) = (vec![present], vec![present]);
        let (key, reason) = ("a/b".into(), Reason::Changed);
        Lost { key, reason, base: None, size, dirty, present, missing }
    }

    fn kept(root: &Path) -> Recovered {
        let staged = root.join("7.stage");
        fs::write(&staged, b"\0\0mine").unwrap();
        let recovery = Recovery::new(root, "v", "photos", Some("http://store"));
        let lost = lost(10, ByteRange::new(2, 6), vec![ByteRange::new(0, 2)]);
        let recovered = recovery.keep(&staged, lost).unwrap();
        assert!(!staged.exists());
        recovered
    }

    #[test]
    fn what_is_kept_is_found_saved_and_discarded() {
        let root = tempfile::tempdir().unwrap();
        let recovered = kept(root.path());
        let found = find_recovered(root.path()).unwrap();
        assert_eq!(found.items[0].recovered, recovered);
        assert_eq!((found.items.len(), recovered.missing_bytes()), (1, 2));
        let item = &found.items[0];
        let target = root.path().join("saved");
        item.save(&target, false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"\0\0mine\0\0\0\0");
        assert_eq!(item.save(&target, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        item.save(&target, true).unwrap();
        item.discard().unwrap();
        assert!(find_recovered(root.path()).unwrap().items.is_empty());
        assert_eq!(entries(&root.path().join("recover/v")).unwrap().len(), 0);
    }

    #[test]
    fn a_folder_that_never_kept_anything_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let found = find_recovered(&root.path().join("missing")).unwrap();
        assert!(found.items.is_empty() && found.damaged.is_empty());
    }

    #[test]
    fn a_damaged_description_is_told_and_hides_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let recovered = kept(root.path());
        let folder = root.path().join("recover/v");
        fs::write(folder.join("1.json"), b"{").unwrap();
        fs::write(folder.join("1.data"), b"").unwrap();
        let (other, beyond) = (folder.join("2.json"), Recovered { size: 3, ..recovered });
        fs::write(other, serde_json::to_vec(&beyond).unwrap()).unwrap();
        fs::write(folder.join("2.data"), b"").unwrap();
        let found = find_recovered(root.path()).unwrap();
        assert_eq!((found.items.len(), found.damaged.len()), (1, 2));
    }

    #[test]
    fn what_cannot_be_moved_leaves_no_description() {
        let root = tempfile::tempdir().unwrap();
        let recovery = Recovery::new(root.path(), "v", "photos", None);
        let lost = lost(1, ByteRange::new(0, 1), Vec::new());
        recovery.keep(&root.path().join("missing"), lost).unwrap_err();
        assert_eq!(entries(&root.path().join("recover/v")).unwrap().len(), 0);
    }
}
