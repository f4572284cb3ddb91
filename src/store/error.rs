//! What can go wrong with an object store, by what the caller can do about it.
//!
//! Owns [`Error`]. What S3's codes mean is decided in `store/s3/error.rs`; which errno an
//! application sees is decided in `fuse/errno.rs`. Must not know either.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::naming::Key;

/// The result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation: what kind of failure, of what, and what the store said.
/// Cheap to clone, since everyone who waited for the same bytes gets it.
#[derive(Debug, Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    operation: Operation,
    key: Option<Key>,
    request_id: Option<String>,
    ambiguous: bool,
    retry_after: Option<std::time::Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What kind of failure, by what the caller would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such object.
    NotFound,
    /// No such bucket.
    NoSuchBucket,
    /// The identity may not do this.
    Denied,
    /// There are no credentials, or they are wrong or expired; with what the store or the
    /// provider chain said.
    Unauthenticated(String),
    /// A condition did not hold: the object is there, gone, or another version.
    Changed,
    /// [`super::GetPin::IfChanged`] found the version it named.
    NotModified,
    /// Another writer was in the way (409); the same call may succeed.
    Conflict,
    /// The multipart upload is gone.
    NoSuchUpload,
    /// The range starts beyond the object's end.
    InvalidRange,
    /// The object, or a part, is larger than the store takes.
    TooLarge,
    /// The bucket lives in another region; which one, where the store said.
    WrongRegion(Option<String>),
    /// The store does not know this operation or condition.
    Unsupported,
    /// The archive class must be restored first.
    Archived,
    /// The store asked for fewer requests.
    Throttled,
    /// The store failed (5xx).
    Unavailable,
    /// No answer in time, or no byte of one.
    Timeout,
    /// The connection could not be made or broke; with what the network said.
    Connection(String),
    /// The TLS handshake failed; with what the library said.
    Tls(String),
    /// Bytes arrived that are not what was stored: a checksum or a length was wrong.
    Damaged(String),
    /// All of an object came in pieces, some of which were given out, and together they do not
    /// have the checksum that the store keeps of it.
    NotAsStored,
    /// What answered does not speak S3.
    NotS3(String),
    /// A local file could not be read while it was sent.
    Local(String),
    /// Anything else; the store's code and message.
    Other(String),
}

/// Which operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// HeadObject.
    Head,
    /// GetObject.
    Get,
    /// ListObjectsV2.
    List,
    /// PutObject.
    Put,
    /// CreateMultipartUpload.
    CreateUpload,
    /// UploadPart.
    UploadPart,
    /// UploadPartCopy.
    CopyPart,
    /// CompleteMultipartUpload.
    CompleteUpload,
    /// AbortMultipartUpload.
    AbortUpload,
    /// CopyObject.
    Copy,
    /// DeleteObject.
    Delete,
    /// DeleteObjects.
    DeleteMany,
    /// GetObjectTagging.
    Tags,
    /// HeadBucket.
    Probe,
    /// CreateBucket.
    CreateBucket,
    /// DeleteBucket.
    DeleteBucket,
    /// ListMultipartUploads.
    ListUploads,
    /// ListObjectVersions.
    ListVersions,
}

impl Operation {
    /// Every operation, in the order of declaration.
    pub const ALL: [Self; 18] = [
        Self::Head,
        Self::Get,
        Self::List,
        Self::Put,
        Self::CreateUpload,
        Self::UploadPart,
        Self::CopyPart,
        Self::CompleteUpload,
        Self::AbortUpload,
        Self::Copy,
        Self::Delete,
        Self::DeleteMany,
        Self::Tags,
        Self::Probe,
        Self::CreateBucket,
        Self::DeleteBucket,
        Self::ListUploads,
        Self::ListVersions,
    ];

    /// True where the operation leaves the store as it was, however often it is done.
    pub const fn is_read(self) -> bool {
        matches!(
            self,
            Self::Head
                | Self::Get
                | Self::List
                | Self::Tags
                | Self::Probe
                | Self::ListUploads
                | Self::ListVersions
        )
    }

    /// The API's name, for logs and as a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HeadObject",
            Self::Get => "GetObject",
            Self::List => "ListObjectsV2",
            Self::Put => "PutObject",
            Self::CreateUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::CopyPart => "UploadPartCopy",
            Self::CompleteUpload => "CompleteMultipartUpload",
            Self::AbortUpload => "AbortMultipartUpload",
            Self::Copy => "CopyObject",
            Self::Delete => "DeleteObject",
            Self::DeleteMany => "DeleteObjects",
            Self::Tags => "GetObjectTagging",
            Self::Probe => "HeadBucket",
            Self::CreateBucket => "CreateBucket",
            Self::DeleteBucket => "DeleteBucket",
            Self::ListUploads => "ListMultipartUploads",
            Self::ListVersions => "ListObjectVersions",
        }
    }
}

impl ErrorKind {
    /// The kind in one word, as a metric's label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NoSuchBucket => "no_such_bucket",
            Self::Denied => "denied",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Changed => "changed",
            Self::NotModified => "not_modified",
            Self::Conflict => "conflict",
            Self::NoSuchUpload => "no_such_upload",
            Self::InvalidRange => "invalid_range",
            Self::TooLarge => "too_large",
            Self::WrongRegion(_) => "wrong_region",
            Self::Unsupported => "unsupported",
            Self::Archived => "archived",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Connection(_) => "connection",
            Self::Tls(_) => "tls",
            Self::Damaged(_) => "damaged",
            Self::NotAsStored => "not_as_stored",
            Self::NotS3(_) => "not_s3",
            Self::Local(_) => "local",
            Self::Other(_) => "other",
        }
    }

    /// True where the same request may succeed a moment later.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Conflict
                | Self::Throttled
                | Self::Unavailable
                | Self::Timeout
                | Self::Connection(_)
                | Self::Damaged(_)
        )
    }

    /// True where the request may have been done although no good answer came.
    pub const fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::Connection(_) | Self::Damaged(_))
    }
}

impl Error {
    /// A failure of `operation`.
    pub fn new(operation: Operation, kind: ErrorKind) -> Self {
        Self(Arc::new(Inner {
            kind,
            operation,
            key: None,
            request_id: None,
            ambiguous: false,
            retry_after: None,
            source: None,
        }))
    }

    /// Errors are built before they are shared, so the only owner is at hand.
    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }

    /// Says which object.
    #[must_use]
    pub fn with_key(self, key: &Key) -> Self {
        self.edit(|inner| inner.key = Some(key.clone()))
    }

    /// Says which request, in the store's own words.
    #[must_use]
    pub fn with_request_id(self, id: Option<&str>) -> Self {
        self.edit(|inner| inner.request_id = id.map(str::to_owned))
    }

    /// Says how long the store wants to be left alone.
    #[must_use]
    pub fn with_retry_after(self, wait: Option<std::time::Duration>) -> Self {
        self.edit(|inner| inner.retry_after = wait)
    }

    /// Says what lies beneath.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.edit(|inner| inner.source = Some(source.into()))
    }

    /// Says that an earlier attempt of the same call ended without an answer, so that this error
    /// may be the echo of a success: a conditional write must look before it believes it.
    #[must_use]
    pub fn after_lost_answer(self) -> Self {
        self.edit(|inner| inner.ambiguous = true)
    }

    /// The kind of failure.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Which operation failed.
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// Which object, where it was one.
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// The store's name for the request.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// How long the store wants to be left alone.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.0.retry_after
    }

    /// True where the operation may have been done all the same.
    pub fn is_ambiguous(&self) -> bool {
        self.0.ambiguous || self.0.kind.is_unanswered()
    }

    /// True for [`ErrorKind::NotFound`].
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// True for [`ErrorKind::Damaged`].
    pub fn is_damage(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Damaged(_))
    }

    /// True for [`ErrorKind::NotAsStored`].
    pub fn is_not_as_stored(&self) -> bool {
        self.0.kind == ErrorKind::NotAsStored
    }

    /// True for [`ErrorKind::Changed`].
    pub fn is_changed(&self) -> bool {
        self.0.kind == ErrorKind::Changed
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such object"),
            Self::NoSuchBucket => f.write_str("no such bucket"),
            Self::Denied => f.write_str("access denied"),
            Self::Unauthenticated(said) => write!(f, "credentials: {said}"),
            Self::Changed => f.write_str("the object is not the version expected"),
            Self::NotModified => f.write_str("the object has not changed"),
            Self::Conflict => f.write_str("another request on the object is in progress"),
            Self::NoSuchUpload => f.write_str("the multipart upload is gone"),
            Self::InvalidRange => f.write_str("the range lies beyond the object's end"),
            Self::TooLarge => f.write_str("larger than the store takes"),
            Self::WrongRegion(Some(region)) => write!(f, "the bucket is in region {region}"),
            Self::WrongRegion(None) => f.write_str("the bucket is in another region"),
            Self::Unsupported => f.write_str("the store does not support this"),
            Self::Archived => f.write_str("the object is archived and must be restored first"),
            Self::Throttled => f.write_str("the store asked for fewer requests"),
            Self::Unavailable => f.write_str("the store failed"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Connection(said) => write!(f, "no connection: {said}"),
            Self::Tls(said) => write!(f, "TLS: {said}"),
            Self::Damaged(said) => write!(f, "damaged on the way: {said}"),
            Self::NotAsStored => f.write_str("what came does not have the object's checksum"),
            Self::NotS3(said) => write!(f, "the endpoint does not speak S3: {said}"),
            Self::Local(said) => write!(f, "a local file: {said}"),
            Self::Other(said) => f.write_str(said),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.operation.as_str())?;
        if let Some(key) = &self.0.key {
            write!(f, " {key}")?;
        }
        write!(f, ": {}", self.0.kind)?;
        if let Some(id) = &self.0.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
