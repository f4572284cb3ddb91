//! Where a commit goes, what goes with it, and by what it is known again.
//!
//! Plain data. Must not know how anything is sent.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::naming::Key;
use crate::store::{Condition, Properties, Version};

/// The user metadata key under which each commit's id stands, so that a lost answer can be
/// settled by a HEAD.
pub const COMMIT_ID: &str = "s3pod-commit";

/// What the id takes of an object's user metadata: its name with `x-amz-meta-`, and 32 digits.
pub const COMMIT_ID_BYTES: usize = "x-amz-meta-".len() + COMMIT_ID.len() + 32;

/// An id that no other commit has: 128 random bits.
pub fn new_commit_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Where a commit goes and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The object's key.
    pub key: Key,
    /// What is kept with the bytes, as it must be after the commit.
    pub properties: Properties,
    /// What a streamed upload may start with: the same without what changes while it is written
    /// (the modification time). Where the two differ at commit, a self-copy follows the Complete;
    /// a modification time that nobody set is not worth one, see `mtime_is_explicit`.
    pub streamed: Properties,
    /// The modification time was set by a call, so it must reach S3.
    pub mtime_is_explicit: bool,
    /// What must hold at the destination.
    pub condition: Condition,
    /// What must hold where nobody waits any more: in the background, or after a crash.
    pub later: Condition,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The object as it is now.
    pub version: Arc<Version>,
    /// The properties it has now.
    pub properties: Properties,
    /// They are [`Target::properties`]; otherwise [`Target::streamed`], without the time.
    pub carries_mtime: bool,
    /// The other attributes are those of the target; otherwise the bytes alone are committed.
    pub carries_attributes: bool,
}

/// The properties with a commit's id among them.
pub(super) fn with_id(properties: &Properties, id: &str) -> Properties {
    let mut properties = properties.clone();
    properties.user_metadata.insert(COMMIT_ID.into(), id.into());
    properties
}
