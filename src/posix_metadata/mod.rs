//! POSIX attributes in object user metadata.
//!
//! Owns how mode, owner, times, symlinks and user xattrs stand in `x-amz-meta-*`: every common
//! dialect is read (one file each), one is written (`ours`). Promises: no value is an error (a
//! broken one is counted), and what [`write`] wrote [`read`] gives back. Pure. Must not know
//! requests or inodes.
//!
//! s3fs, geesefs, rclone and we share the keys `mode`, `uid`, `gid` and `mtime` and disagree about
//! what stands in them; the tables below say who is asked in which order.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

mod aws;
mod gcs;
mod geesefs;
mod ours;
mod rclone;
mod s3fs;

/// What S3 takes of user metadata in one object, as [`size_of`] counts.
pub const MAX_USER_METADATA: usize = 2048;

/// User metadata: names lower-case and without `x-amz-meta-`.
type UserMetadata = BTreeMap<String, String>;

/// What an object's user metadata says of the file; none where it says nothing readable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PosixMetadata {
    /// Permission bits (`0o7777`).
    pub perm: Option<u16>,
    /// `S_IFMT` bits, where the metadata says what kind of file it is.
    pub type_bits: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Modification time.
    pub mtime: Option<SystemTime>,
    /// The symlink's target where a dialect keeps it in metadata (geesefs).
    pub symlink_target: Option<String>,
    /// `user.*` extended attributes, names with the `user.` prefix. Foreign user metadata is
    /// among them, as geesefs, goofys and rclone show it: `x-amz-meta-team` is `user.team`.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// How many values were there and could not be read.
    pub unreadable: u32,
}

/// A key of user metadata and how its value is read.
struct Source<T: 'static> {
    key: &'static str,
    read: fn(&str, &UserMetadata) -> Option<T>,
}

/// Who says the mode, first come first believed.
const MODES: &[Source<u32>] = &[
    Source {
        key: ours::MODE,
        read: |text, _| {
            ours::mode(text).or_else(|| s3fs::mode(text)).or_else(|| rclone::mode(text))
        },
    },
    Source { key: aws::MODE, read: |text, _| aws::mode(text) },
    Source { key: gcs::MODE, read: |text, _| gcs::mode(text) },
];

/// Who says the owner.
const OWNERS: &[Source<u32>] = &[
    Source { key: ours::UID, read: |text, _| ours::id(text) },
    Source { key: aws::UID, read: |text, _| ours::id(text) },
    Source { key: gcs::UID, read: |text, _| ours::id(text) },
];

/// Who says the group.
const GROUPS: &[Source<u32>] = &[
    Source { key: ours::GID, read: |text, _| ours::id(text) },
    Source { key: aws::GID, read: |text, _| ours::id(text) },
    Source { key: gcs::GID, read: |text, _| ours::id(text) },
];

/// Who says the modification time.
const MTIMES: &[Source<SystemTime>] = &[
    Source {
        key: ours::MTIME,
        read: |text, all| if s3fs::wrote(all) { s3fs::time(text) } else { rclone::time(text) },
    },
    Source { key: aws::MTIME, read: |text, _| aws::time(text) },
    Source { key: gcs::MTIME, read: |text, _| rclone::time(text) },
];

/// Who says where a symlink leads.
const SYMLINKS: &[Source<String>] =
    &[Source { key: geesefs::SYMLINK, read: |text, _| geesefs::symlink(text) }];

/// Reads whatever dialects are present.
pub fn read(user_metadata: &BTreeMap<String, String>) -> PosixMetadata {
    let mut unreadable = 0;
    let mode = first(MODES, user_metadata, &mut unreadable);
    let symlink_target = first(SYMLINKS, user_metadata, &mut unreadable);
    let said_type = mode.map(|mode| mode & S_IFMT).filter(|bits| *bits != 0);
    let mut metadata = PosixMetadata {
        perm: mode.map(|mode| (mode & 0o7777) as u16),
        type_bits: said_type.or(symlink_target.is_some().then_some(S_IFLNK)),
        uid: first(OWNERS, user_metadata, &mut unreadable),
        gid: first(GROUPS, user_metadata, &mut unreadable),
        mtime: first(MTIMES, user_metadata, &mut unreadable),
        symlink_target,
        xattrs: foreign_xattrs(user_metadata),
        unreadable,
    };
    if let Some(text) = user_metadata.get(s3fs::XATTR) {
        let (xattrs, broken) = s3fs::xattrs(text);
        metadata.unreadable += broken;
        metadata.xattrs.extend(xattrs.into_iter().filter(|(name, _)| name.starts_with("user.")));
    }
    metadata
}

/// Writes `metadata` into `user_metadata` in our dialect: what other dialects said of the same
/// attributes is removed, everything foreign stays. An attribute that is none is not written, and
/// if it was there it is gone. Foreign user metadata goes only through [`remove_xattr`], so that
/// no caller drops it by not having read it.
pub fn write(metadata: &PosixMetadata, user_metadata: &mut BTreeMap<String, String>) {
    let mode = ours::write_mode(metadata.perm, metadata.type_bits);
    replace(MODES, mode, user_metadata);
    replace(OWNERS, metadata.uid.map(|uid| uid.to_string()), user_metadata);
    replace(GROUPS, metadata.gid.map(|gid| gid.to_string()), user_metadata);
    replace(MTIMES, metadata.mtime.map(ours::write_time), user_metadata);
    let target = metadata.symlink_target.as_deref().map(geesefs::escape);
    replace(SYMLINKS, target, user_metadata);
    write_xattrs(&metadata.xattrs, user_metadata);
}

/// A time as [`write`] writes it.
pub fn write_time(time: SystemTime) -> String {
    ours::write_time(time)
}

/// A time that [`write_time`] has written.
pub fn read_time(text: &str) -> Option<SystemTime> {
    s3fs::time(text)
}

/// Writes down the time that the object itself had, for a copy that will have another.
pub fn keep_time(mtime: SystemTime, user_metadata: &mut BTreeMap<String, String>) {
    user_metadata.insert(ours::MTIME.to_owned(), ours::write_time(mtime));
}

/// Removes one extended attribute (name with `user.`) from both sides, in whichever dialect it
/// stands; true where it was there.
pub fn remove_xattr(
    name: &str,
    metadata: &mut PosixMetadata,
    user_metadata: &mut BTreeMap<String, String>,
) -> bool {
    user_metadata.retain(|key, _| !is_foreign(key) || geesefs::xattr_name(key) != name);
    let was_there = metadata.xattrs.remove(name).is_some();
    write_xattrs(&metadata.xattrs, user_metadata);
    was_there
}

/// Removes what dialects said of the object's bytes, for a commit of other bytes.
pub fn forget_checksums(user_metadata: &mut BTreeMap<String, String>) {
    user_metadata.remove(rclone::CHECKSUM);
}

/// What `user_metadata` counts toward S3's 2 KiB: the bytes of names and values. The names count
/// with `x-amz-meta-`: Amazon leaves it out and MinIO does not, and too early a "no" is better
/// than a refused commit.
pub fn size_of(user_metadata: &BTreeMap<String, String>) -> usize {
    let line = |(key, value): (&String, &String)| "x-amz-meta-".len() + key.len() + value.len();
    user_metadata.iter().map(line).sum()
}

/// The same as the most generous store counts.
pub fn least_size_of(user_metadata: &BTreeMap<String, String>) -> usize {
    user_metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The first readable value, counting the unreadable ones before it.
fn first<T>(sources: &[Source<T>], all: &UserMetadata, unreadable: &mut u32) -> Option<T> {
    sources.iter().find_map(|source| {
        let value = (source.read)(all.get(source.key)?, all);
        *unreadable += u32::from(value.is_none());
        value
    })
}

/// Removes what all sources say and puts `value` under the first one's key. Where there is no
/// value, what cannot be read stays: it may mean something to somebody.
fn replace<T>(sources: &[Source<T>], value: Option<String>, all: &mut UserMetadata) {
    let said = |source: &&Source<T>| {
        all.get(source.key)
            .is_some_and(|text| value.is_some() || (source.read)(text, all).is_some())
    };
    let keys: Vec<&str> = sources.iter().filter(said).map(|source| source.key).collect();
    for key in keys {
        all.remove(key);
    }
    if let Some(value) = value {
        all.insert(sources[0].key.to_owned(), value);
    }
}

/// Foreign user metadata as extended attributes.
fn foreign_xattrs(all: &UserMetadata) -> BTreeMap<String, Vec<u8>> {
    let foreign = all.iter().filter(|(key, _)| is_foreign(key));
    foreign.map(|(key, value)| (geesefs::xattr_name(key), geesefs::unescape(value))).collect()
}

/// What foreign keys already say stays there; the rest goes into the one key that s3fs reads.
fn write_xattrs(xattrs: &BTreeMap<String, Vec<u8>>, all: &mut UserMetadata) {
    let foreign = foreign_xattrs(all);
    all.retain(|key, value| {
        let said = xattrs.get(&geesefs::xattr_name(key));
        !is_foreign(key) || said.is_none_or(|said| *said == geesefs::unescape(value))
    });
    let (mut kept, broken) =
        all.get(s3fs::XATTR).map_or_else(|| (BTreeMap::new(), 0), |text| s3fs::xattrs(text));
    kept.retain(|name, _| !name.starts_with("user."));
    let own = xattrs.iter().filter(|(name, value)| foreign.get(*name) != Some(*value));
    kept.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    if !kept.is_empty() {
        all.insert(s3fs::XATTR.to_owned(), s3fs::write_xattrs(&kept));
    } else if broken == 0 {
        all.remove(s3fs::XATTR);
    }
}

/// True for a key that no dialect uses for something else.
fn is_foreign(key: &str) -> bool {
    const OTHER_WORDS: [&str; 7] =
        [s3fs::XATTR, "atime", "btime", "ctime", "rdev", "file-atime", rclone::CHECKSUM];
    let is_source = MODES.iter().any(|source| source.key == key)
        || OWNERS.iter().chain(GROUPS).any(|source| source.key == key)
        || MTIMES.iter().any(|source| source.key == key)
        || SYMLINKS.iter().any(|source| source.key == key);
    !is_source && !OTHER_WORDS.contains(&key) && !key.starts_with("s3pod-")
}

/// The bits of a mode that say the kind of file.
const S_IFMT: u32 = 0o170_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFREG: u32 = 0o100_000;

/// True where the type bits of `mode` are a kind of file that Linux has.
const fn has_type(mode: u32) -> bool {
    // FIFO, character device, directory, block device, regular file, symlink, socket.
    mode <= 0o177_777 && matches!(mode >> 12, 0o01 | 0o02 | 0o04 | 0o06 | 0o10 | 0o12 | 0o14)
}

/// An octal number of nothing but digits.
fn octal(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

/// A time so far from 1970, forward or back.
fn since_1970(back: bool, distance: Duration) -> Option<SystemTime> {
    let epoch = SystemTime::UNIX_EPOCH;
    if back { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
}

#[cfg(test)]
mod tests;
