//! The in-memory S3 behind the wire.
//!
//! Owns the one lock under which every condition is decided together with what follows it, and
//! the dispatch from s3s's trait to the files of this folder, one per group of verbs. Must not
//! know sockets, latency or faults: those are [`crate::wire`].

mod buckets;
pub(crate) mod checksum;
mod combine;
pub(crate) mod conditions;
pub(crate) mod content;
mod copy;
mod delete;
mod list;
mod list_versions;
pub(crate) mod multipart;
mod multipart_list;
pub(crate) mod object;
mod put;
mod read;
pub(crate) mod service;
pub(crate) mod spill;
pub(crate) mod state;
mod tags;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use checksum::EtagKind;
use conditions::Keeps;
use s3s::dto::ETag;
use spill::Spill;
use state::BucketState;

/// 5 GiB: the largest PUT, part, or copy source that is not a range.
pub(crate) const MAX_SINGLE: u64 = 5 * 1024 * 1024 * 1024;

type Buckets = BTreeMap<String, BucketState>;

/// All buckets of one server.
#[derive(Debug)]
pub(crate) struct Backend {
    buckets: Mutex<Buckets>,
    pub(crate) spill: Spill,
    pub(crate) region: String,
    pub(crate) etags: EtagKind,
    pub(crate) abilities: Abilities,
}

/// What a server can do that others cannot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    pub(crate) put: Keeps,
    pub(crate) complete: Keeps,
    pub(crate) delete: Keeps,
    pub(crate) etags: Etags,
    /// The smallest part that is not the last.
    pub(crate) min_part: u64,
}

/// Which entity tags answers carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Etags {
    /// Strong ones.
    #[default]
    Strong,
    /// `W/"..."`, as a proxy that compresses makes of them.
    Weak,
    /// None, but for parts, which nothing else names.
    None,
}

impl Backend {
    pub(crate) fn new(
        spill: Spill,
        region: String,
        etags: EtagKind,
        abilities: Abilities,
    ) -> Arc<Self> {
        Arc::new(Self { buckets: Mutex::default(), spill, region, etags, abilities })
    }

    /// An object's entity tag as this server tells it.
    pub(crate) fn told(&self, etag: ETag) -> Option<ETag> {
        match self.abilities.etags {
            Etags::Strong => Some(etag),
            Etags::Weak => Some(ETag::Weak(etag.into_value())),
            Etags::None => None,
        }
    }

    /// The one lock. A test that panicked while holding it must not fail the others.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a bucket that is not there yet.
    pub(crate) fn ensure_bucket(&self, bucket: &str) {
        self.lock().entry(bucket.to_owned()).or_insert_with(BucketState::new);
    }

    /// Runs `action` on a bucket under the lock, or answers NoSuchBucket.
    pub(crate) fn in_bucket<T>(
        &self,
        bucket: &str,
        action: impl FnOnce(&mut BucketState) -> S3Result<T>,
    ) -> S3Result<T> {
        let mut buckets = self.lock();
        let state = buckets
            .get_mut(bucket)
            .ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?;
        action(state)
    }
}

/// An error whose code s3s has no name for.
pub(crate) fn named_error(status: StatusCode, code: &'static str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).expect("an error code is UTF-8");
    let mut error = S3Error::new(code);
    error.set_status_code(status);
    error
}
