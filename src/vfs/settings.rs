//! What a mount is set to, as the file system needs it.
//!
//! Plain data. Where it comes from is `config`'s business.

use std::time::{Duration, SystemTime};

use crate::naming::Prefix;

/// Where attributes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// From each object's metadata: a HEAD per file, everything a disk shows.
    Posix,
    /// From listings only: no HEADs, defaults for owner and mode.
    List,
}

/// When an exclusive create is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExclusiveCreate {
    /// At the first commit, at no cost.
    Commit,
    /// At open, for one more PUT.
    Open,
}

/// When the object of an unlinked file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteMode {
    /// Before unlink answers.
    Sync,
    /// Soon after, with others, once a first delete in the directory was answered.
    Queue,
}

/// The settings of a mount.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The mount's root in the bucket.
    pub prefix: Prefix,
    /// No verb changes anything.
    pub read_only: bool,
    /// Where attributes come from.
    pub metadata: Metadata,
    /// How long what the store said is believed; [`Duration::MAX`] for ever.
    pub metadata_ttl: Duration,
    /// How long an attribute change waits for company.
    pub attr_delay: Duration,
    /// How long a file that is created or emptied may wait for its first bytes before it is stored
    /// as it is, so that other clients see it.
    pub empty_delay: Duration,
    /// After how long what could not be sent, with nobody waiting for it, is tried again.
    pub retry_delay: Duration,
    /// When an exclusive create is decided.
    pub exclusive_create: ExclusiveCreate,
    /// When the object of an unlinked file goes.
    pub delete: DeleteMode,
    /// A close answers when bytes and intent are on local disk.
    pub write_back: bool,
    /// Whole files of the cache are offered to the kernel, which then reads them by itself.
    pub passthrough: bool,
    /// Owner of what says none.
    pub uid: u32,
    /// Group of what says none.
    pub gid: u32,
    /// Permissions of files that say none.
    pub file_mode: u16,
    /// Permissions of directories that say none.
    pub dir_mode: u16,
    /// The most one reader fetches ahead, in bytes.
    pub window_max: u64,
    /// Questions about names that are asked ahead of whoever reads or walks a directory, at once.
    pub ahead_max: usize,
    /// Inodes to keep; the kernel is asked to forget those beyond.
    pub inodes_max: usize,
    /// When the mount began: the time of directories that have none.
    pub started: SystemTime,
}
