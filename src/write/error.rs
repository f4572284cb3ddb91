//! What the write engine answers when bytes cannot be staged or committed.
//!
//! Owns [`Error`]. Must not know POSIX verbs or errno.

use std::io;

use super::Extents;
use crate::naming::Key;
use crate::store;

/// The result of staging or committing.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes were not staged or not committed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The staging quota is used up by bytes that are not in S3 yet.
    #[error("the staging area is full ({quota} bytes); raise --staging-size or write less at once")]
    StagingFull {
        /// `--staging-size`.
        quota: u64,
    },
    /// The staging folder's disk failed: full, read-only or broken.
    #[error("the staging file of {key}: {source}")]
    Staging {
        /// Whose bytes.
        key: Key,
        /// What the disk said.
        source: io::Error,
    },
    /// Another writer changed the object that was being edited.
    #[error("{key} was changed by another writer; the local bytes are kept for `s3pod recover`")]
    Conflict {
        /// Which object.
        key: Key,
    },
    /// Another writer made the object first (O_EXCL).
    #[error("{key} was created by another writer first")]
    Exists {
        /// Which object.
        key: Key,
    },
    /// Bytes of the file are only in its unfinished upload: a commit makes them an object's, and
    /// then this can be tried again.
    #[error("bytes of {key} are in an upload that is not finished")]
    InUpload {
        /// Whose bytes.
        key: Key,
    },
    /// The unfinished upload, which alone had some of the file's bytes, is gone.
    #[error(
        "the unfinished upload of {key} is gone or refused, and with it {} bytes, the first of \
         them at {}; the rest is kept for `s3pod recover`",
        .missing.total(),
        .missing.iter().next().map_or(0, |range| range.start)
    )]
    Lost {
        /// Whose bytes.
        key: Key,
        /// Which bytes.
        missing: Extents,
        /// What the store said.
        source: Box<Error>,
    },
    /// The file would pass the store's limit.
    #[error("{key} would be larger than the store takes")]
    TooBig {
        /// Which object.
        key: Key,
    },
    /// The journal could not be written.
    #[error("the journal: {0}")]
    Journal(#[source] io::Error),
    /// The store said no.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// True where no further try can succeed: another writer won, or bytes are gone.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Exists { .. } | Self::Lost { .. })
    }
}
