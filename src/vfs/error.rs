//! What a verb of the file system answers when it cannot do what was asked.
//!
//! Owns [`Error`], in the words of POSIX. Which errno each becomes is `fuse/errno.rs`'s business.

use crate::naming::NameError;
use crate::store;
use crate::write;

/// The result of a verb.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such name, or the inode's name was taken away.
    #[error("no such file or directory")]
    NotFound,
    /// The name exists.
    #[error("the name exists")]
    Exists,
    /// A directory was wanted.
    #[error("not a directory")]
    NotDirectory,
    /// A file was wanted.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The arguments make no sense together.
    #[error("invalid argument")]
    Invalid,
    /// A name that is none, or that makes no key.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The handle is closed, or was not opened for this.
    #[error("bad file handle")]
    BadHandle,
    /// The file is being executed.
    #[error("the file is being executed")]
    Executed,
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// S3, or this mount's options, cannot represent it; with the reason.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// Refused although it could be represented; with the reason.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// The file was replaced by another writer since it was looked up.
    #[error("the file was replaced by another writer")]
    Stale,
    /// The mount holds as much as it may.
    #[error("the capacity of the volume is used up")]
    Full,
    /// The file would pass the store's limit.
    #[error("larger than the store takes")]
    TooBig,
    /// No such extended attribute, or no data behind the offset.
    #[error("no data")]
    NoData,
    /// The caller's buffer is too small.
    #[error("the buffer is too small")]
    BufferTooSmall,
    /// The attributes would pass S3's 2 KiB of user metadata.
    #[error("more attributes than an object can carry")]
    AttributesTooBig,
    /// The operation made no progress within `--op-timeout`.
    #[error("no progress within the operation timeout")]
    TimedOut,
    /// The mount is shutting down.
    #[error("the mount is shutting down")]
    ShuttingDown,
    /// The store said no.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The write engine said no.
    #[error(transparent)]
    Write(#[from] write::Error),
}

impl Error {
    /// True where the store has said that it does not do it: nothing comes of that later.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Store(error) if !error.is_ambiguous())
    }
}
