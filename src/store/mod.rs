//! An object store, as the floors above see one.
//!
//! Owns the trait [`ObjectStore`], one method per capability, and the words its callers use:
//! [`Version`], [`Properties`], [`Condition`]. Promises: every method is whole (done or not done,
//! never half), a body arrives as it was stored or ends in an error, and a retry never repeats
//! something that may have been done without saying so ([`Error::is_ambiguous`]). Must not know
//! files, directories or caches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::naming::Key;
use crate::units::ByteRange;

mod checksum;
mod conditional;
mod error;
mod hedged;
mod limit;
mod metered;
mod retry;
pub mod s3;
mod text;
mod trace;
mod whole;

pub use checksum::{Checksum, ChecksumKind, Summed, Summing};
pub use conditional::Conditional;
pub use error::{Error, ErrorKind, Operation, Result};
pub use hedged::Hedged;
pub use limit::{Limit, Requests};
pub use metered::{Counters, Metered};
pub use retry::{Retry, RetryPolicy};
pub use trace::{Trace, Traces, Wiped};
pub use whole::{carried_over, copy_in_parts, copy_whole, is_one_copy};

/// A store with one bucket. Wrappers add limits, retries and metrics.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// The object's version and properties (HEAD).
    async fn head(&self, key: &Key) -> Result<ObjectHead>;

    /// The version's tags; those of the object as it stands where the version has no id.
    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>>;

    /// The object's bytes. An answer of [`ErrorKind::Changed`] means the pinned version is gone,
    /// [`ErrorKind::NotModified`] that [`GetPin::IfChanged`] found the version it named.
    async fn get(&self, request: &GetRequest) -> Result<GetResponse>;

    /// One page of a listing, in key order, at most 1 000 lines.
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// Stores an object in one request. The version's `last_modified` is the time of the answer
    /// by the store's clock, which can be a second or two later than what a HEAD will say.
    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version>;

    /// Begins a multipart upload.
    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId>;

    /// Sends one part.
    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag>;

    /// Takes one part from an existing object, server-side; `range` within `source`.
    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag>;

    /// Makes the object of the parts, which are in order of number. `last_modified` is the time of
    /// the answer; S3 itself dates the object back to when the upload was created.
    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        condition: &Condition,
    ) -> Result<Version>;

    /// Gives an unfinished upload up; one that is gone already is no error.
    async fn abort_upload(&self, upload: &Upload) -> Result<()>;

    /// Copies a whole object of at most 5 GiB, server-side, pinned to `source`.
    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version>;

    /// Deletes one object; one that is gone already is no error, unless it was to be
    /// [`Condition::Unchanged`]. [`Condition::Absent`] is [`ErrorKind::Unsupported`].
    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()>;

    /// Deletes up to 1 000 objects and returns those that could not be; one that is gone already is
    /// no error, whatever its condition.
    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore + ?Sized> ObjectStore for Arc<S> {
    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        (**self).head(key).await
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        (**self).tags(version).await
    }

    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        (**self).get(request).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        (**self).list(request).await
    }

    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version> {
        (**self).put(request, payload).await
    }

    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId> {
        (**self).create_upload(key, properties).await
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        (**self).upload_part(part, payload).await
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        (**self).copy_part(part, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        condition: &Condition,
    ) -> Result<Version> {
        (**self).complete_upload(upload, parts, condition).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        (**self).abort_upload(upload).await
    }

    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version> {
        (**self).copy(source, request).await
    }

    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()> {
        (**self).delete(key, condition).await
    }

    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        (**self).delete_many(objects).await
    }
}

/// One version of one object: the only pin there is.
///
/// Two versions are the same where the ETag and the key are; stores without ETags are compared by
/// size and time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The object's key.
    pub key: Key,
    /// The entity tag with its quotes, as the store wrote it; none where the store has none.
    #[serde(with = "text")]
    pub etag: Option<Arc<str>>,
    /// The version's id on a versioned bucket.
    #[serde(with = "text")]
    pub version_id: Option<Arc<str>>,
    /// Bytes.
    pub size: u64,
    /// Whole seconds: stores disagree about the rest between LIST and HEAD.
    pub last_modified: SystemTime,
}

impl Version {
    /// True where both say the same bytes under the same key, whichever request told.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_tag = match (&self.etag, &other.etag) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => self.last_modified == other.last_modified,
        };
        self.key == other.key && self.size == other.size && same_tag
    }

    /// True where both have the same bytes by their entity tags, whatever their keys.
    pub fn has_bytes_of(&self, other: &Self) -> bool {
        self.size == other.size && self.etag.is_some() && self.etag == other.etag
    }

    /// True where no other bytes can be told as this version. Without an entity tag those of the
    /// same second and size look the same, so there a version is certain only when it is `now` so
    /// old that its second is over, by however far the two clocks are apart.
    pub fn is_certain(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.last_modified).unwrap_or_default();
        self.etag.is_some() || self.version_id.is_some() || age > CLOCKS_APART_MAX
    }
}

/// Clocks that are further apart make S3 refuse signatures only at 15 minutes, but then most else
/// fails too.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);

/// What a store keeps with an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`, as the store spelled it.
    pub expires: Option<String>,
    /// Storage class where it is not the bucket's default.
    pub storage_class: Option<String>,
    /// `x-amz-server-side-encryption` where it is not the bucket's default.
    pub sse: Option<String>,
    /// The KMS key of that encryption.
    pub sse_kms_key_id: Option<String>,
    /// `x-amz-meta-*`, names lower-case and without the prefix.
    pub user_metadata: BTreeMap<String, String>,
    /// Object tags; only ever filled where they are known to be there.
    pub tags: Vec<(String, String)>,
}

impl Properties {
    /// True where a copy by the store takes all of them over: storage class and encryption are
    /// the bucket's default.
    pub const fn is_plain(&self) -> bool {
        self.storage_class.is_none() && self.sse.is_none() && self.sse_kms_key_id.is_none()
    }
}

/// What a HEAD, or the headers of a GET, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// Which version this is.
    pub version: Version,
    /// What is kept with it; `tags` is empty, since no HEAD carries them.
    pub properties: Properties,
    /// How many tags the object has.
    pub tag_count: u32,
    /// What the store keeps of all of the bytes; only a HEAD tells, or a GET of all of them.
    pub checksum: Option<Checksum>,
}

/// Which version a GET wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetPin {
    /// This one and no other (`If-Match`, and `versionId` where known).
    Version(Version),
    /// Whatever stands under the key.
    Latest(Key),
    /// Whatever stands under the key unless it is still this (`If-None-Match`).
    IfChanged(Version),
}

impl GetPin {
    /// The object's key.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Version(version) | Self::IfChanged(version) => &version.key,
            Self::Latest(key) => key,
        }
    }
}

/// A GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetRequest {
    /// Which object and which version of it.
    pub pin: GetPin,
    /// Which bytes; none for all. A range that ends beyond the object is cut to it; one that
    /// starts beyond it is [`ErrorKind::InvalidRange`].
    pub range: Option<ByteRange>,
}

/// The answer to a GET: the head at once, the bytes as they come.
pub struct GetResponse {
    /// Version and properties of the whole object.
    pub head: ObjectHead,
    /// The bytes that `body` will yield, in full or ending in an error.
    pub range: ByteRange,
    /// A body that breaks off can be taken up again: nothing is compared with it as it comes, or
    /// the head's checksum, which pieces can be compared with too.
    pub is_divisible: bool,
    /// Frames in order.
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for GetResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetResponse")
            .field("head", &self.head)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// A LIST of one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys that start so.
    pub prefix: String,
    /// Group at the first `/` behind the prefix.
    pub delimited: bool,
    /// Only keys after this one.
    pub start_after: Option<String>,
    /// Where the last page ended: [`ListPage::next`].
    pub continuation: Option<String>,
    /// At most so many lines (1 to 1 000; none is 1 000).
    pub max_keys: Option<u16>,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects and common prefixes together, in key order.
    pub lines: Vec<ListLine>,
    /// How to ask for the next page; none at the end.
    pub next: Option<String>,
}

/// A line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListLine {
    /// An object.
    Object(Version),
    /// A common prefix, ending in `/`.
    Prefix(String),
}

impl ListLine {
    /// The line's key or prefix.
    pub fn key(&self) -> &str {
        match self {
            Self::Object(version) => version.key.as_str(),
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// What must hold for a write to be done.
///
/// A store that gives no entity tags cannot be asked for one: there [`Condition::Unchanged`] of a
/// version without a tag holds always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing: the last writer wins.
    #[default]
    None,
    /// No object under the key (`If-None-Match: *`).
    Absent,
    /// Still this version (`If-Match`).
    Unchanged(Version),
}

/// One of many objects that are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Its key.
    pub key: Key,
    /// [`Condition::Absent`] makes no sense here, and is refused for this object.
    pub condition: Condition,
}

impl From<Key> for Deletion {
    /// Whatever stands under the key.
    fn from(key: Key) -> Self {
        Self { key, condition: Condition::None }
    }
}

impl From<Version> for Deletion {
    /// This version, and nothing that another client has put in its place.
    fn from(version: Version) -> Self {
        Self { key: version.key.clone(), condition: Condition::Unchanged(version) }
    }
}

/// A PUT, or the object a multipart upload makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutRequest {
    /// Where to.
    pub key: Key,
    /// What is kept with the bytes.
    pub properties: Properties,
    /// What must hold.
    pub condition: Condition,
}

/// A server-side copy of a whole object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    /// Where to; may be the source's own key.
    pub key: Key,
    /// The copy's properties; none takes the source's over, tags included, except for storage
    /// class and encryption, which S3 gives a copy as it gives a new object.
    pub properties: Option<Properties>,
    /// Where properties are given, the tags still are the source's.
    pub tags_follow: bool,
    /// What must hold at the destination.
    pub condition: Condition,
}

/// The store's name for an unfinished upload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UploadId(#[serde(with = "text::always")] pub Arc<str>);

/// An unfinished upload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upload {
    /// The object it will make.
    pub key: Key,
    /// The store's name for it.
    pub id: UploadId,
}

/// Where a part goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartTarget {
    /// Which upload.
    pub upload: Upload,
    /// 1 to 10 000.
    pub number: u32,
}

/// A part the store has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartTag {
    /// 1 to 10 000.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// Its entity tag.
    #[serde(with = "text::always")]
    pub etag: Arc<str>,
    /// The CRC-32 that was sent with it, base64, which Complete must repeat.
    #[serde(with = "text")]
    pub crc32: Option<Arc<str>>,
}

/// Bytes to send. Cheap to clone, and it can be read again from the start, so that a request can
/// be repeated.
#[derive(Clone, Debug)]
pub enum Payload {
    /// In memory.
    Bytes(Bytes),
    /// A range of an open local file, which must not change until the request is answered.
    File(Arc<std::fs::File>, ByteRange),
}

impl Payload {
    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, range) => range.len(),
        }
    }

    /// True for no bytes at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}
