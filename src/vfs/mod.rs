//! seam
mod attr;
mod error;

use std::ffi::OsStr;
use std::time::Duration;

use bytes::Bytes;

pub use attr::{
    Attr, Caller, DirEntry, DirName, Entry, Fh, FileKind, FsStat, Ino, NewTime, OpenFlags, Opened,
    RenameMode, Seek, SetAttr,
};
pub use error::{Error, Result};

/// The file system: every verb, in POSIX's words.
#[derive(Debug)]
pub struct Vfs {}

#[expect(unused_variables, missing_docs, reason = "the verbs are declared, not made")]
impl Vfs {
    pub async fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        unimplemented!()
    }
    /// Never waits.
    pub fn forget(&self, ino: Ino, count: u64) {
        unimplemented!()
    }
    pub async fn getattr(&self, ino: Ino, fh: Option<Fh>) -> Result<(Attr, Duration)> {
        unimplemented!()
    }
    pub async fn setattr(
        &self,
        ino: Ino,
        fh: Option<Fh>,
        change: SetAttr,
    ) -> Result<(Attr, Duration)> {
        unimplemented!()
    }
    pub async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        unimplemented!()
    }
    pub async fn mknod(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> Result<Entry> {
        unimplemented!()
    }
    pub async fn mkdir(
        &self,
        parent: Ino,
        name: &OsStr,
        perm: u16,
        caller: Caller,
    ) -> Result<Entry> {
        unimplemented!()
    }
    pub async fn symlink(
        &self,
        parent: Ino,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> Result<Entry> {
        unimplemented!()
    }
    pub async fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        unimplemented!()
    }
    pub async fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        unimplemented!()
    }
    pub async fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Result<()> {
        unimplemented!()
    }
    pub async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        unimplemented!()
    }
    pub async fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        perm: u16,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(Entry, Opened)> {
        unimplemented!()
    }
    pub async fn read(&self, fh: Fh, offset: u64, size: u32) -> Result<Bytes> {
        unimplemented!()
    }
    pub async fn write(&self, fh: Fh, offset: u64, bytes: Bytes) -> Result<u32> {
        unimplemented!()
    }
    pub async fn flush(&self, fh: Fh) -> Result<()> {
        unimplemented!()
    }
    pub async fn fsync(&self, fh: Fh) -> Result<()> {
        unimplemented!()
    }
    pub async fn release(&self, fh: Fh) -> Result<()> {
        unimplemented!()
    }
    pub async fn opendir(&self, ino: Ino) -> Result<Fh> {
        unimplemented!()
    }
    /// `sink` answers false when its buffer is full; with `plus`, a taken entry counts as a lookup.
    pub async fn readdir(
        &self,
        fh: Fh,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(&DirEntry) -> bool + Send),
    ) -> Result<()> {
        unimplemented!()
    }
    pub async fn releasedir(&self, fh: Fh) -> Result<()> {
        unimplemented!()
    }
    pub async fn fsyncdir(&self, fh: Fh) -> Result<()> {
        unimplemented!()
    }
    /// Never waits.
    pub fn statfs(&self) -> FsStat {
        unimplemented!()
    }
    pub async fn getxattr(&self, ino: Ino, name: &OsStr) -> Result<Bytes> {
        unimplemented!()
    }
    pub async fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        unimplemented!()
    }
    /// Names, each followed by a NUL.
    pub async fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        unimplemented!()
    }
    pub async fn removexattr(&self, ino: Ino, name: &OsStr) -> Result<()> {
        unimplemented!()
    }
    pub async fn fallocate(&self, fh: Fh, offset: u64, len: u64, mode: i32) -> Result<()> {
        unimplemented!()
    }
    pub async fn lseek(&self, fh: Fh, offset: u64, seek: Seek) -> Result<u64> {
        unimplemented!()
    }
    pub async fn copy_file_range(
        &self,
        from: Fh,
        from_offset: u64,
        to: Fh,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        unimplemented!()
    }
    /// True where READDIRPLUS is worth negotiating (`--metadata list`).
    pub fn lists_attributes(&self) -> bool {
        unimplemented!()
    }
    /// Commits every dirty file, sends every queued delete; errors of single files are logged
    /// and counted.
    pub async fn drain(&self) -> Drained {
        unimplemented!()
    }
}

/// What a drain left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Files committed.
    pub committed: u64,
    /// Files whose commit failed; their bytes stay staged.
    pub failed: u64,
}
