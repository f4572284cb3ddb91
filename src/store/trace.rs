//! What a question to the store leaves in the bucket while it is asked.
//!
//! Owns the words for it, so that whoever keeps a journal can note it, and the next process can
//! wipe what one that died has left. Must not know how it is kept.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::{ObjectStore, Result, Upload};
use crate::naming::Key;

/// Something of ours that means nothing to anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trace {
    /// An object.
    Object(Key),
    /// An unfinished upload.
    Upload(Upload),
}

impl Trace {
    /// Removes it; what is gone already is no error.
    ///
    /// # Errors
    /// The store's.
    pub async fn wipe(&self, store: &dyn ObjectStore) -> Result<()> {
        match self {
            Self::Object(key) => store.delete(key, &super::Condition::None).await,
            Self::Upload(upload) => store.abort_upload(upload).await,
        }
    }
}

/// Ends the note of a trace.
pub type Wiped = Box<dyn FnOnce() + Send>;

/// Where traces are noted.
pub trait Traces: Debug + Send + Sync {
    /// The trace is there, or is about to be, until the answer is called.
    fn note(&self, trace: &Trace) -> Wiped;
}

/// Notes nothing: a process that dies in the middle leaves its traces.
#[derive(Debug)]
pub(super) struct Unnoted;

impl Traces for Unnoted {
    fn note(&self, _trace: &Trace) -> Wiped {
        Box::new(|| {})
    }
}
