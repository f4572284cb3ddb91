//! A bucket without HTTP between: what tests use to prepare and to look.
//!
//! Everything here goes straight to the backend: nothing is logged, delayed or broken.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use s3s::dto::{Checksum, ServerSideEncryption, StorageClass, Timestamp, TimestampFormat};

use crate::backend::Backend;
use crate::backend::checksum::{derived_etag, digest, hex};
use crate::backend::content::Content;
use crate::backend::object::{Object, Properties};
use crate::backend::state::{BucketState, Entry, NULL_VERSION, Versioning, now};

/// What is kept beside an object's bytes and set by whoever writes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    /// Cache-Control.
    pub cache_control: Option<String>,
    /// Content-Disposition.
    pub content_disposition: Option<String>,
    /// Content-Encoding.
    pub content_encoding: Option<String>,
    /// Content-Language.
    pub content_language: Option<String>,
    /// Content-Type.
    pub content_type: Option<String>,
    /// Expires, as an HTTP date.
    pub expires: Option<String>,
    /// User metadata, without the `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// The storage class; none is STANDARD.
    pub storage_class: Option<String>,
    /// x-amz-server-side-encryption.
    pub encryption: Option<String>,
    /// The key of that encryption.
    pub kms_key_id: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

impl Attributes {
    /// User metadata alone.
    #[must_use]
    pub fn with_metadata<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self { metadata: pairs.into_iter().map(owned).collect(), ..Self::default() }
    }

    fn properties(self) -> Properties {
        let date = |text: String| Timestamp::parse(TimestampFormat::HttpDate, &text);
        Properties {
            cache_control: self.cache_control,
            content_disposition: self.content_disposition,
            content_encoding: self.content_encoding,
            content_language: self.content_language,
            content_type: self.content_type,
            expires: self.expires.map(|text| date(text).expect("an HTTP date")),
            metadata: self.metadata.into_iter().collect(),
            storage_class: self.storage_class.map(StorageClass::from),
            encryption: self.encryption.map(ServerSideEncryption::from),
            kms_key_id: self.kms_key_id,
            bucket_key_enabled: None,
            website_redirect: None,
        }
    }

    fn of(object: &Object) -> Self {
        let properties = object.properties.clone();
        let http_date = |at: Timestamp| {
            let mut text = Vec::new();
            at.format(TimestampFormat::HttpDate, &mut text).expect("a stored date can be told");
            String::from_utf8(text).expect("an HTTP date is ASCII")
        };
        Self {
            cache_control: properties.cache_control,
            content_disposition: properties.content_disposition,
            content_encoding: properties.content_encoding,
            content_language: properties.content_language,
            content_type: properties.content_type,
            expires: properties.expires.map(http_date),
            metadata: properties.metadata.into_iter().collect(),
            storage_class: properties.storage_class.map(|class| class.as_str().to_owned()),
            encryption: properties.encryption.map(|kind| kind.as_str().to_owned()),
            kms_key_id: properties.kms_key_id,
            tags: object.tags.clone(),
        }
    }
}

/// An object as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectInfo {
    /// Its size.
    pub size: u64,
    /// Its ETag, without quotes.
    pub etag: String,
    /// Its date, in whole seconds.
    pub last_modified: SystemTime,
    /// Its version; "null" where versioning was off.
    pub version_id: String,
    /// Sizes of the parts it was uploaded in; empty for one PUT or copy.
    pub parts: Vec<u64>,
    /// What else is kept.
    pub attributes: Attributes,
}

impl ObjectInfo {
    fn of(object: &Object) -> Self {
        Self {
            size: object.content.len(),
            etag: object.etag.clone(),
            last_modified: object.last_modified,
            version_id: object.version_id.clone(),
            parts: object.parts.clone(),
            attributes: Attributes::of(object),
        }
    }

    /// One entry of its user metadata.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.attributes.metadata.get(name).map(String::as_str)
    }
}

/// An unfinished multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// The key it is for.
    pub key: String,
    /// Its id.
    pub id: String,
    /// Number and size of the parts that arrived.
    pub parts: Vec<(i32, u64)>,
}

/// One bucket of a [`TestServer`](crate::TestServer).
#[derive(Clone, Debug)]
pub struct Bucket {
    backend: Arc<Backend>,
    name: String,
}

impl Bucket {
    pub(crate) fn new(backend: Arc<Backend>, name: &str) -> Self {
        Self { backend, name: name.to_owned() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn with<T>(&self, action: impl FnOnce(&mut BucketState) -> T) -> T {
        self.backend
            .in_bucket(&self.name, |state| Ok(action(state)))
            .expect("a test does not delete the bucket it holds")
    }

    fn object_of(&self, key: &str) -> Option<Arc<Object>> {
        self.with(|state| state.current(key).cloned())
    }

    /// Writes an object; its ETag.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) -> String {
        self.put_with(key, bytes, Attributes::default())
    }

    /// Writes an object with all that goes with it; its ETag.
    ///
    /// # Panics
    /// If `expires` is no HTTP date.
    pub fn put_with(&self, key: &str, bytes: impl Into<Bytes>, attributes: Attributes) -> String {
        let content = Content::from_bytes(bytes.into());
        let (md5, sums) = digest(&content, &Checksum::default()).expect("memory can be read");
        self.install(key, content, hex(&md5), sums, attributes)
    }

    /// Writes an object of `size` bytes that takes no memory. Its bytes are
    /// [`synthetic_bytes`](crate::synthetic_bytes); its ETag is not their MD5.
    pub fn put_synthetic(&self, key: &str, size: u64, seed: u64) -> String {
        self.put_synthetic_with(key, size, seed, Attributes::default())
    }

    /// Such an object with all that goes with it; its ETag.
    ///
    /// # Panics
    /// If `expires` is no HTTP date.
    pub fn put_synthetic_with(
        &self,
        key: &str,
        size: u64,
        seed: u64,
        attributes: Attributes,
    ) -> String {
        let etag = hex(&derived_etag(&format!("synthetic {seed} {size}")));
        let content = Content::synthetic(seed, size);
        self.install(key, content, etag, Checksum::default(), attributes)
    }

    fn install(
        &self,
        key: &str,
        content: Content,
        etag: String,
        sums: Checksum,
        mut attributes: Attributes,
    ) -> String {
        let tags = std::mem::take(&mut attributes.tags);
        let object = Object {
            version_id: NULL_VERSION.to_owned(),
            content,
            etag: etag.clone(),
            parts: Vec::new(),
            sums,
            last_modified: now(),
            properties: attributes.properties(),
            tags,
        };
        self.with(|state| state.install(key, object));
        etag
    }

    /// The whole object. Not for synthetic giants: see [`get_range`](Self::get_range).
    ///
    /// # Panics
    /// If the spill file cannot be read.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Bytes> {
        let object = self.object_of(key)?;
        Some(object.content.to_bytes().expect("the spill file can be read"))
    }

    /// A part of an object, cut at its end.
    ///
    /// # Panics
    /// If the spill file cannot be read.
    #[must_use]
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Option<Bytes> {
        let object = self.object_of(key)?;
        Some(object.content.slice(range).to_bytes().expect("the spill file can be read"))
    }

    /// What is known about an object.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<ObjectInfo> {
        self.object_of(key).map(|object| ObjectInfo::of(&object))
    }

    /// Whether the key has an object.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.object_of(key).is_some()
    }

    /// Deletes as DELETE does; whether there was something.
    pub fn delete(&self, key: &str) -> bool {
        self.with(|state| {
            let was = state.current(key).is_some();
            state.delete(key, None);
            was
        })
    }

    /// The keys of current objects, in byte order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let current = |(key, entries): (&String, &Vec<Entry>)| {
            matches!(entries.last(), Some(Entry::Object(_))).then(|| key.clone())
        };
        self.with(|state| state.keys.iter().filter_map(current).collect())
    }

    /// Replaces the user metadata in place and sets the date: a foreign self-copy, same ETag.
    ///
    /// # Panics
    /// If the key has no object.
    pub fn set_metadata<'a>(&self, key: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let metadata = Attributes::with_metadata(pairs).metadata;
        self.change(key, |object| {
            object.properties.metadata = metadata.into_iter().collect();
            object.last_modified = now();
        });
    }

    /// Keeps a checksum with the object that is not of its bytes, as if the store had lost some.
    ///
    /// # Panics
    /// If the key has no object, or one without a checksum.
    pub fn spoil_checksum(&self, key: &str) {
        self.change(key, |object| {
            let sum = object.sums.checksum_crc64nvme.as_mut().expect("S3 keeps one of its own");
            *sum = "AAAAAAAAAAA=".to_owned();
        });
    }

    /// Sets an object's date.
    ///
    /// # Panics
    /// If the key has no object.
    pub fn set_last_modified(&self, key: &str, at: SystemTime) {
        self.change(key, |object| object.last_modified = at);
    }

    fn change(&self, key: &str, change: impl FnOnce(&mut Object)) {
        let changed = self.with(|state| state.amend(key, None, change));
        changed.expect("the key has an object");
    }

    /// Writes keep the versions they replace from now on.
    pub fn enable_versioning(&self) {
        self.with(|state| state.versioning = Versioning::Enabled);
    }

    /// The versions of a key, oldest first, with whether each is a delete marker.
    #[must_use]
    pub fn versions(&self, key: &str) -> Vec<(String, bool)> {
        let row = |entry: &Entry| {
            (entry.version_id().to_owned(), matches!(entry, Entry::DeleteMarker { .. }))
        };
        self.with(|state| state.keys.get(key).into_iter().flatten().map(row).collect())
    }

    /// Uploads that were neither completed nor aborted.
    #[must_use]
    pub fn uploads(&self) -> Vec<UploadInfo> {
        self.with(|state| {
            let rows = state.uploads.iter().map(|(id, upload)| UploadInfo {
                key: upload.key.clone(),
                id: id.clone(),
                parts: upload.parts.iter().map(|(at, part)| (*at, part.content.len())).collect(),
            });
            rows.collect()
        })
    }

    /// Makes an upload vanish, as a lifecycle rule does: the next call on it is NoSuchUpload.
    pub fn forget_upload(&self, id: &str) {
        self.with(|state| state.uploads.remove(id));
    }
}
