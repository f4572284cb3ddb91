//! What the verbs take and give: attributes, entries, open flags.
//!
//! Owns the plain data of the file system's interface. Must not know fuser, S3 or state.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cache::WholeFile;
use crate::naming::Name;

/// An inode number, also the kernel's nodeid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The mount's root.
    pub const ROOT: Self = Self(1);
}

/// A file handle: one open file description, all its dups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fh(pub u64);

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// The name of a socket.
    Socket,
}

impl FileKind {
    /// The `S_IFMT` bits of a mode.
    pub const fn type_bits(self) -> u32 {
        match self {
            Self::Directory => 0o040_000,
            Self::File => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
        }
    }

    /// The kind that the `S_IFMT` bits of `mode` say; none for a kind that S3 files are not.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o040_000 => Some(Self::Directory),
            0o100_000 | 0 => Some(Self::File),
            0o120_000 => Some(Self::Symlink),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            _ => None,
        }
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Kind of file.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, `0o7777`.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links; 1 for everything, 0 once unlinked.
    pub nlink: u32,
    /// What a call set it to, while the inode is known; else `mtime`.
    pub atime: SystemTime,
    /// Time of the last change of the bytes.
    pub mtime: SystemTime,
    /// Time of the last change of anything.
    pub ctime: SystemTime,
}

/// The answer to a LOOKUP and to every verb that makes a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub attr: Attr,
    /// Tells apart two inodes that had the same number one after the other.
    pub generation: u64,
    /// How long the kernel may trust the name.
    pub entry_ttl: Duration,
    /// How long the kernel may trust the attributes.
    pub attr_ttl: Duration,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_APPEND.
    pub append: bool,
    /// O_EXCL; only with create.
    pub exclusive: bool,
    /// Opened by execve(2).
    pub execute: bool,
    /// O_DIRECT.
    pub direct: bool,
}

/// An opened file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The handle.
    pub fh: Fh,
    /// The kernel's cached pages of this inode are still right (FOPEN_KEEP_CACHE).
    pub keep_cache: bool,
    /// The file that the kernel is to read by itself.
    pub backing: Option<Arc<WholeFile>>,
}

/// What SETATTR changes; none leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub perm: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time, which is never stored.
    pub atime: Option<NewTime>,
    /// Modification time.
    pub mtime: Option<NewTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// The time of the call.
    Now,
    /// This time.
    At(SystemTime),
}

/// One entry of a directory, as READDIR gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The entry's inode number.
    pub ino: Ino,
    /// Where to go on behind this entry.
    pub cookie: u64,
    /// What it is.
    pub kind: FileKind,
    /// Its name; `.` and `..` are [`DirName::Dot`] and [`DirName::DotDot`].
    pub name: DirName,
    /// Everything LOOKUP would say; only where READDIRPLUS asked. A taken entry counts as a
    /// lookup.
    pub entry: Option<Entry>,
}

/// A name in a READDIR answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirName {
    /// The directory itself.
    Dot,
    /// Its parent.
    DotDot,
    /// A child.
    Child(Name),
}

impl DirName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dot => ".",
            Self::DotDot => "..",
            Self::Child(name) => name.as_str(),
        }
    }
}

/// RENAME2's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// An existing target is replaced.
    Replace,
    /// An existing target is EEXIST (RENAME_NOREPLACE).
    NoReplace,
}

/// LSEEK's two questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Where the next data begins (SEEK_DATA).
    Data,
    /// Where the next hole begins (SEEK_HOLE).
    Hole,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsStat {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Bytes of a block, the preferred size of I/O.
    pub block_size: u32,
}
