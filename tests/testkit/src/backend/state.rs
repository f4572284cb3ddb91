//! Buckets, keys, versions and uploads: the state behind the one lock.
//!
//! Owns the rules of versioning: what a write replaces, what a delete leaves behind, which
//! version a read sees. Must not know HTTP, conditions or how bodies are stored.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use s3s::{S3Result, s3_error};

use super::multipart::Upload;
use super::object::Object;

/// The id of a version that was written while versioning was off or suspended.
pub(crate) const NULL_VERSION: &str = "null";

/// Whether writes keep the versions they replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Versioning {
    #[default]
    Never,
    Enabled,
    Suspended,
}

/// One entry in a key's history.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Object(Arc<Object>),
    DeleteMarker { version_id: String, last_modified: SystemTime },
}

impl Entry {
    pub(crate) fn version_id(&self) -> &str {
        match self {
            Self::Object(object) => &object.version_id,
            Self::DeleteMarker { version_id, .. } => version_id,
        }
    }
}

/// What looking up a key, or a version of it, finds.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Object(Arc<Object>),
    DeleteMarker { version_id: String },
    Nothing,
}

/// What a delete left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) marker: bool,
    pub(crate) version_id: Option<String>,
}

/// One bucket. `keys` is ordered by bytes, as listings are; a key's entries are oldest first
/// and never empty.
#[derive(Debug)]
pub(crate) struct BucketState {
    pub(crate) created: SystemTime,
    pub(crate) versioning: Versioning,
    pub(crate) keys: BTreeMap<String, Vec<Entry>>,
    pub(crate) uploads: HashMap<String, Upload>,
}

impl BucketState {
    pub(crate) fn new() -> Self {
        Self {
            created: now(),
            versioning: Versioning::Never,
            keys: BTreeMap::new(),
            uploads: HashMap::new(),
        }
    }

    pub(crate) fn current(&self, key: &str) -> Option<&Arc<Object>> {
        match self.keys.get(key)?.last()? {
            Entry::Object(object) => Some(object),
            Entry::DeleteMarker { .. } => None,
        }
    }

    pub(crate) fn find(&self, key: &str, version: Option<&str>) -> Found {
        let entries = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let entry = match version {
            None => entries.last(),
            Some(id) => entries.iter().find(|entry| entry.version_id() == id),
        };
        match entry {
            Some(Entry::Object(object)) => Found::Object(Arc::clone(object)),
            Some(Entry::DeleteMarker { version_id, .. }) => {
                Found::DeleteMarker { version_id: version_id.clone() }
            }
            None => Found::Nothing,
        }
    }

    /// The object itself, or the error that a sub-resource of a missing one answers.
    pub(crate) fn object(&self, key: &str, version: Option<&str>) -> S3Result<Arc<Object>> {
        match self.find(key, version) {
            Found::Object(object) => Ok(object),
            Found::DeleteMarker { .. } if version.is_some() => Err(s3_error!(MethodNotAllowed)),
            Found::Nothing if version.is_some() => Err(s3_error!(NoSuchVersion)),
            Found::DeleteMarker { .. } | Found::Nothing => Err(s3_error!(NoSuchKey)),
        }
    }

    /// Makes `object` the current version of `key` and returns the version id to tell.
    pub(crate) fn install(&mut self, key: &str, mut object: Object) -> Option<String> {
        let (id, told) = self.next_version();
        object.version_id = id;
        self.push(key, Entry::Object(Arc::new(object)));
        told
    }

    fn push(&mut self, key: &str, entry: Entry) {
        let entries = self.keys.entry(key.to_owned()).or_default();
        if entry.version_id() == NULL_VERSION {
            entries.retain(|entry| entry.version_id() != NULL_VERSION);
        }
        entries.push(entry);
    }

    fn next_version(&self) -> (String, Option<String>) {
        match self.versioning {
            Versioning::Never => (NULL_VERSION.to_owned(), None),
            Versioning::Suspended => (NULL_VERSION.to_owned(), Some(NULL_VERSION.to_owned())),
            Versioning::Enabled => {
                let id = random_id();
                (id.clone(), Some(id))
            }
        }
    }

    pub(crate) fn delete(&mut self, key: &str, version: Option<&str>) -> Deleted {
        if let Some(id) = version {
            return self.delete_version(key, id);
        }
        if self.versioning == Versioning::Never {
            self.keys.remove(key);
            return Deleted::default();
        }
        let (version_id, told) = self.next_version();
        self.push(key, Entry::DeleteMarker { version_id, last_modified: now() });
        Deleted { marker: true, version_id: told }
    }

    fn delete_version(&mut self, key: &str, id: &str) -> Deleted {
        let mut marker = false;
        if let Some(entries) = self.keys.get_mut(key) {
            entries.retain(|entry| {
                let goes = entry.version_id() == id;
                marker |= goes && matches!(entry, Entry::DeleteMarker { .. });
                !goes
            });
            if entries.is_empty() {
                self.keys.remove(key);
            }
        }
        Deleted { marker, version_id: Some(id.to_owned()) }
    }

    /// Changes an object in place (its tags): no new version.
    pub(crate) fn amend(
        &mut self,
        key: &str,
        version: Option<&str>,
        change: impl FnOnce(&mut Object),
    ) -> S3Result<Arc<Object>> {
        let id = self.object(key, version)?.version_id.clone();
        let entries = self.keys.get_mut(key).into_iter().flatten();
        for entry in entries {
            if let Entry::Object(object) = entry
                && object.version_id == id
            {
                change(Arc::make_mut(object));
                return Ok(Arc::clone(object));
            }
        }
        Err(s3_error!(NoSuchKey))
    }

    /// The version id to tell about an object that was read.
    pub(crate) fn told_version(&self, object: &Object) -> Option<String> {
        (self.versioning != Versioning::Never).then(|| object.version_id.clone())
    }
}

/// The time in whole seconds, the only precision S3 keeps.
pub(crate) fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the one clock of a server that plays S3")]
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs())
}

/// 32 characters nobody can guess: version ids and upload ids.
pub(crate) fn random_id() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(32).collect()
}
