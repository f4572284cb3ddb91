//! If-Match, If-None-Match and their date forms, for reads, writes and copy sources.
//!
//! Pure decisions over the current object; the callers hold the one lock while they ask, so a
//! decision and what follows it are atomic. Must not know HTTP or the store.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::dto::{CopySource, ETag, ETagCondition, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use super::object::Object;

/// What a server makes of conditions on a kind of write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeps {
    /// It decides them together with the write.
    #[default]
    Always,
    /// It does not look at them.
    Never,
    /// It answers 501 NotImplemented to them.
    Refuses,
}

/// Conditions of a GET or HEAD, or on a copy's source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

impl Read {
    /// Order of RFC 9110 §13.2.2: the ETag forms win over the date forms.
    fn verdict(&self, object: &Object) -> Verdict {
        match &self.if_match {
            Some(condition) if !matches(condition, object) => return Verdict::Failed,
            None if self.if_unmodified_since.as_ref().is_some_and(|at| newer(object, at)) => {
                return Verdict::Failed;
            }
            _ => {}
        }
        match &self.if_none_match {
            Some(condition) if matches(condition, object) => Verdict::NotModified,
            None if self.if_modified_since.as_ref().is_some_and(|at| !newer(object, at)) => {
                Verdict::NotModified
            }
            _ => Verdict::Holds,
        }
    }

    pub(crate) fn check_read(&self, object: &Object) -> S3Result<()> {
        match self.verdict(object) {
            Verdict::Holds => Ok(()),
            Verdict::Failed => Err(precondition_failed()),
            Verdict::NotModified => {
                let mut error = S3Error::new(S3ErrorCode::NotModified);
                error.set_headers(not_modified_headers(object));
                Err(error)
            }
        }
    }

    /// On a copy's source an unmodified object is a failed condition too.
    pub(crate) fn check_source(&self, object: &Object) -> S3Result<()> {
        match self.verdict(object) {
            Verdict::Holds => Ok(()),
            Verdict::Failed | Verdict::NotModified => Err(precondition_failed()),
        }
    }
}

enum Verdict {
    Holds,
    Failed,
    NotModified,
}

/// Conditions of a PUT, a COPY's destination, a Complete or a DELETE.
#[derive(Clone, Debug, Default)]
pub(crate) struct Write {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
}

impl Write {
    /// What is left of the conditions on a server that `keeps` them so.
    pub(crate) fn kept(self, keeps: Keeps) -> S3Result<Self> {
        let has_any = self.if_match.is_some() || self.if_none_match.is_some();
        match keeps {
            Keeps::Refuses if has_any => Err(s3_error!(NotImplemented, "conditions on writes")),
            Keeps::Never => Ok(Self::default()),
            _ => Ok(self),
        }
    }

    /// Reads them from the request itself: s3s does not parse them for CopyObject.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Self> {
        let read = |name: HeaderName| {
            let Some(value) = headers.get(&name) else { return Ok(None) };
            ETagCondition::parse_http_header(value.as_bytes())
                .map(Some)
                .map_err(|_| s3_error!(InvalidArgument, "invalid header: {name}"))
        };
        Ok(Self {
            if_match: read(http::header::IF_MATCH)?,
            if_none_match: read(http::header::IF_NONE_MATCH)?,
        })
    }

    pub(crate) fn check(&self, current: Option<&Object>) -> S3Result<()> {
        match &self.if_none_match {
            None => {}
            Some(ETagCondition::Any) if current.is_some() => return Err(precondition_failed()),
            Some(ETagCondition::Any) => {}
            // "If-None-Match expects the * character" for writes.
            Some(ETagCondition::ETag(_)) => return Err(s3_error!(NotImplemented)),
        }
        match (&self.if_match, current) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(s3_error!(NoSuchKey)),
            (Some(condition), Some(object)) if matches(condition, object) => Ok(()),
            (Some(_), Some(_)) => Err(precondition_failed()),
        }
    }

    /// A conditional delete of what is not there fails its condition.
    pub(crate) fn check_delete(&self, current: Option<&Object>) -> S3Result<()> {
        match (&self.if_match, current) {
            (None, _) => Ok(()),
            (Some(condition), Some(object)) if matches(condition, object) => Ok(()),
            (Some(_), _) => Err(precondition_failed()),
        }
    }
}

fn matches(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    }
}

fn newer(object: &Object, than: &Timestamp) -> bool {
    Timestamp::from(object.last_modified) > *than
}

pub(crate) fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

fn not_modified_headers(object: &Object) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(etag) = ETag::Strong(object.etag.clone()).to_http_header() {
        headers.insert(http::header::ETAG, etag);
    }
    if let Ok(value) = HeaderValue::from_str(&http_date(object.last_modified)) {
        headers.insert(http::header::LAST_MODIFIED, value);
    }
    headers
}

fn http_date(at: SystemTime) -> String {
    let mut text = Vec::new();
    let format = s3s::dto::TimestampFormat::HttpDate;
    Timestamp::from(at).format(format, &mut text).expect("a past time has an HTTP date");
    String::from_utf8(text).expect("an HTTP date is ASCII")
}

/// Bucket, key and version named by `x-amz-copy-source`.
pub(crate) fn copy_source(source: &CopySource) -> S3Result<(&str, &str, Option<&str>)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => Ok((bucket, key, version_id.as_deref())),
        _ => Err(s3_error!(NotImplemented, "copy sources are bucket/key here")),
    }
}
