//! The marker of a volume: an object that says whose it is and what becomes of it.
//!
//! Owns the form of `.s3pod/volumes/HASH` and how markers are read and written. Promises: a
//! marker is only ever replaced as it was read, so two controllers cannot both win; one that
//! this release cannot read is refused and never replaced. Must not know why it changes.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use s3pod::naming::Key;
use s3pod::store::{
    Condition, Error, GetPin, GetRequest, ListLine, ListRequest, ObjectStore, Payload, Properties,
    PutRequest, Version,
};
use serde::{Deserialize, Serialize};

use super::class::{OnDelete, Owner};
use crate::volume::id::{self, Hash, MARKERS};
use crate::volume::refusal::{Code, Refusal};

/// The form of a marker. A later one may say more.
const SCHEMA: u32 = 1;

/// The largest marker: names, and one key as a cursor.
const SIZE_MAX: u64 = 64 << 10;

/// Markers read at once.
const READS_MAX: usize = 16;

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) schema: u32,
    /// The name that the provisioner gave the volume.
    pub(super) name: String,
    pub(super) owner: Owner,
    /// Where its objects are: empty for the whole bucket, or with a slash at its end.
    pub(super) prefix: String,
    /// Where they are moved aside to.
    pub(super) archive: String,
    /// The bucket was made for it.
    pub(super) is_whole_bucket: bool,
    /// Bytes that it may hold; 0 for as many as it likes.
    pub(super) capacity: u64,
    pub(super) on_delete: OnDelete,
    pub(super) state: State,
}

/// Where a volume is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub(super) enum State {
    /// Its place is being looked at; nobody has it yet.
    Creating,
    /// Somebody has it.
    Ready,
    /// Nobody has it, and its objects wait for the same claim.
    Retained,
    /// Its objects are being deleted, up to this key.
    Deleting { cursor: Option<String> },
    /// Its objects are being moved aside, up to this key.
    Archiving { cursor: Option<String> },
}

impl Marker {
    /// A marker of a volume that is about to be made.
    pub(super) fn new(name: &str, owner: Owner, prefix: String, archive: String) -> Self {
        Self {
            schema: SCHEMA,
            name: name.to_owned(),
            owner,
            prefix,
            archive,
            is_whole_bucket: false,
            capacity: 0,
            on_delete: OnDelete::Delete,
            state: State::Creating,
        }
    }

    /// True where one volume would hold the other, or both be the same.
    pub(super) fn overlaps(&self, prefix: &str) -> bool {
        self.prefix.starts_with(prefix) || prefix.starts_with(&self.prefix)
    }
}

/// A marker as it was read.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) marker: Marker,
    pub(super) version: Version,
}

/// The markers of one bucket.
#[derive(Clone, Debug)]
pub(super) struct Markers {
    store: Arc<dyn ObjectStore>,
}

impl Markers {
    pub(super) fn of(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The marker of a volume; none where there is none.
    pub(super) async fn read(&self, hash: Hash) -> Result<Option<Found>, Failure> {
        self.read_key(key(hash)).await
    }

    /// Writes the marker of a volume that has none.
    pub(super) async fn create(&self, hash: Hash, marker: &Marker) -> Result<Found, Failure> {
        self.put(key(hash), marker, Condition::Absent).await
    }

    /// Writes a marker anew, where it still is as it was read.
    pub(super) async fn replace(&self, found: &Found, marker: &Marker) -> Result<Found, Failure> {
        let version = found.version.clone();
        self.put(version.key.clone(), marker, Condition::Unchanged(version)).await
    }

    /// Removes a marker, where it still is as it was read.
    pub(super) async fn remove(&self, found: &Found) -> Result<(), Failure> {
        let condition = Condition::Unchanged(found.version.clone());
        Ok(self.store.delete(&found.version.key, &condition).await?)
    }

    /// Every marker of the bucket but that of `own`.
    pub(super) async fn others(&self, own: Hash) -> Result<Vec<Found>, Failure> {
        let own = key(own);
        let mut keys = Vec::new();
        let mut request = ListRequest { prefix: MARKERS.to_owned(), ..ListRequest::default() };
        loop {
            let page = self.store.list(&request).await?;
            keys.extend(page.lines.into_iter().filter_map(|line| match line {
                ListLine::Object(version) if version.key != own => Some(version.key),
                _ => None,
            }));
            match page.next {
                Some(next) => request.continuation = Some(next),
                None => break,
            }
        }
        let reads: Vec<_> = keys.into_iter().map(|key| self.read_key(key).boxed()).collect();
        let reads = futures::stream::iter(reads).buffer_unordered(READS_MAX);
        let found: Vec<Option<Found>> = reads.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn read_key(&self, key: Key) -> Result<Option<Found>, Failure> {
        let request = GetRequest { pin: GetPin::Latest(key.clone()), range: None };
        let answer = match self.store.get(&request).await {
            Err(error) if error.is_not_found() => return Ok(None),
            answer => answer?,
        };
        let version = answer.head.version;
        if version.size > SIZE_MAX {
            return Err(Failure::Unreadable(key));
        }
        let body: Vec<bytes::Bytes> = answer.body.try_collect().await?;
        let marker: Marker =
            serde_json::from_slice(&body.concat()).map_err(|_| Failure::Unreadable(key.clone()))?;
        if marker.schema != SCHEMA {
            return Err(Failure::Unreadable(key));
        }
        Ok(Some(Found { marker, version }))
    }

    async fn put(&self, key: Key, marker: &Marker, condition: Condition) -> Result<Found, Failure> {
        let text = serde_json::to_vec_pretty(marker).unwrap_or_default();
        let properties = Properties {
            content_type: Some("application/json".to_owned()),
            ..Properties::default()
        };
        let request = PutRequest { key, properties, condition };
        let payload = Payload::Bytes(bytes::Bytes::from(text));
        let version = self.store.put(&request, &payload).await?;
        Ok(Found { marker: marker.clone(), version })
    }
}

/// Why a marker could not be read or written.
#[derive(Debug)]
pub(super) enum Failure {
    Store(Error),
    Unreadable(Key),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => super::stores::refusal(&error),
            Failure::Unreadable(key) => Self::new(
                Code::FailedPrecondition,
                format!(
                    "the marker {key} is not one that this release of the driver can read; if a \
                     newer one wrote it, install that, else look at the object and delete it"
                ),
            ),
        }
    }
}

fn key(hash: Hash) -> Key {
    Key::new(id::marker(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(prefix: &str) -> Marker {
        Marker::new("pvc-1", Owner::default(), prefix.to_owned(), String::new())
    }

    #[test]
    fn a_volume_overlaps_what_is_equal_inside_and_above() {
        for (one, other, is_so) in [
            ("a/b/", "a/b/", true),
            ("a/b/", "a/b/c/", true),
            ("a/b/", "a/", true),
            ("", "a/", true),
            ("a/b/", "a/bc/", false),
            ("a/b/", "a/c/", false),
        ] {
            assert_eq!(marker(one).overlaps(other), is_so, "{one} {other}");
            assert_eq!(marker(other).overlaps(one), is_so, "{one} {other}");
        }
    }

    #[test]
    fn a_marker_looks_the_same_in_every_release() {
        let mut marker = marker("team-a/web/");
        marker.state = State::Deleting { cursor: Some("team-a/web/k".to_owned()) };
        let text = serde_json::to_string(&marker).unwrap();
        // Written down: volumes outlive the driver that made them.
        assert_eq!(
            text,
            "{\"schema\":1,\"name\":\"pvc-1\",\"owner\":{\"namespace\":null,\"claim\":null,\
             \"volume\":\"\"},\"prefix\":\"team-a/web/\",\"archive\":\"\",\
             \"is_whole_bucket\":false,\"capacity\":0,\"on_delete\":\"delete\",\
             \"state\":{\"phase\":\"deleting\",\"cursor\":\"team-a/web/k\"}}"
        );
        assert_eq!(serde_json::from_str::<Marker>(&text).unwrap(), marker);
    }
}
