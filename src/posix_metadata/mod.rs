//! POSIX attributes in object user metadata.
//!
//! Owns how mode, owner, times, symlinks and user xattrs stand in `x-amz-meta-*`: every common
//! dialect is read (one file each), one is written. Pure. Must not know requests or inodes.

use std::collections::BTreeMap;
use std::time::SystemTime;

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
    /// `user.*` extended attributes, names with the `user.` prefix.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// How many values were there and could not be read.
    pub unreadable: u32,
}

/// Reads whatever dialects are present.
pub fn read(_user_metadata: &BTreeMap<String, String>) -> PosixMetadata {
    unimplemented!()
}

/// Writes `metadata` into `user_metadata` in our dialect: what other dialects said of the same
/// attributes is removed, everything foreign stays. An attribute that is none is not written.
pub fn write(_metadata: &PosixMetadata, _user_metadata: &mut BTreeMap<String, String>) {
    unimplemented!()
}
