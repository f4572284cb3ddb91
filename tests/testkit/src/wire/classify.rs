//! Which S3 operation a request is, from its method, path, query and copy-source header.
//!
//! Pure. Knows the shapes of S3 requests and nothing of what they do.

use http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;

/// The operations that tests count and break. Everything else S3 has is [`Op::Other`]:
/// bucket calls, tagging, ListParts, ListMultipartUploads, ListObjectVersions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// HeadObject.
    Head,
    /// GetObject.
    Get,
    /// ListObjectsV2 or ListObjects.
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
    /// Any request by which s3pod finds out once what a store can do. Counted apart: no total has
    /// it, and no fault meets it that does not name it.
    Probe,
    /// Any other request.
    Other,
}

/// What the last component of a probe's key begins with.
const PROBE: &str = ".s3pod-probe-";

impl Op {
    /// Every operation, in the order of the enum.
    pub const ALL: [Self; 14] = [
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
        Self::Probe,
        Self::Other,
    ];
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) bucket: String,
    /// The object's key; the prefix of a listing.
    pub(crate) key: String,
}

impl Call {
    pub(crate) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let path = uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = Query(uri.query().unwrap_or(""));
        let copies = headers.contains_key("x-amz-copy-source");
        let op = if key.is_empty() {
            on_bucket(method, bucket, query)
        } else {
            on_object(method, query, copies)
        };
        let key = if op == Op::List { query.value("prefix") } else { decode(key) };
        let is_probe = key.rsplit('/').next().is_some_and(|name| name.starts_with(PROBE));
        let op = if is_probe { Op::Probe } else { op };
        Self { op, bucket: decode(bucket), key }
    }
}

fn on_bucket(method: &Method, bucket: &str, query: Query<'_>) -> Op {
    const OTHERS: [&str; 6] =
        ["uploads", "versions", "location", "versioning", "policy", "tagging"];
    match *method {
        Method::POST if query.has("delete") => Op::DeleteMany,
        Method::GET if bucket.is_empty() || OTHERS.iter().any(|name| query.has(name)) => Op::Other,
        Method::GET => Op::List,
        _ => Op::Other,
    }
}

fn on_object(method: &Method, query: Query<'_>, copies: bool) -> Op {
    if ["tagging", "acl", "attributes", "retention"].iter().any(|name| query.has(name)) {
        return Op::Other;
    }
    let in_upload = query.has("uploadId");
    match *method {
        Method::HEAD => Op::Head,
        Method::GET if in_upload => Op::Other,
        Method::GET => Op::Get,
        Method::PUT if in_upload && copies => Op::CopyPart,
        Method::PUT if in_upload => Op::UploadPart,
        Method::PUT if copies => Op::Copy,
        Method::PUT => Op::Put,
        Method::POST if query.has("uploads") => Op::CreateUpload,
        Method::POST if in_upload => Op::CompleteUpload,
        Method::DELETE if in_upload => Op::AbortUpload,
        Method::DELETE => Op::Delete,
        _ => Op::Other,
    }
}

#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn has(self, name: &str) -> bool {
        self.pairs().any(|(key, _)| key == name)
    }

    fn value(self, name: &str) -> String {
        let value = self.pairs().find_map(|(key, value)| (key == name).then_some(value));
        decode(&value.unwrap_or("").replace('+', " "))
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_request_has_its_operation() {
        let rows = [
            ("GET", "/", false, Op::Other),
            ("HEAD", "/b", false, Op::Other),
            ("PUT", "/b", false, Op::Other),
            ("GET", "/b?list-type=2&prefix=x", false, Op::List),
            ("GET", "/b/?prefix=x", false, Op::List),
            ("GET", "/b?uploads", false, Op::Other),
            ("GET", "/b?versions", false, Op::Other),
            ("POST", "/b?delete", false, Op::DeleteMany),
            ("GET", "/b/k", false, Op::Get),
            ("GET", "/b/k?versionId=1", false, Op::Get),
            ("GET", "/b/k?tagging", false, Op::Other),
            ("GET", "/b/k?uploadId=1", false, Op::Other),
            ("HEAD", "/b/k", false, Op::Head),
            ("PUT", "/b/k", false, Op::Put),
            ("PUT", "/b/k", true, Op::Copy),
            ("PUT", "/b/k?partNumber=1&uploadId=1", false, Op::UploadPart),
            ("PUT", "/b/k?partNumber=1&uploadId=1", true, Op::CopyPart),
            ("POST", "/b/k?uploads", false, Op::CreateUpload),
            ("POST", "/b/k?uploadId=1", false, Op::CompleteUpload),
            ("DELETE", "/b/k?uploadId=1", false, Op::AbortUpload),
            ("DELETE", "/b/k", false, Op::Delete),
        ];
        for (method, uri, copies, op) in rows {
            let mut headers = HeaderMap::new();
            if copies {
                headers.insert("x-amz-copy-source", "b/k".parse().unwrap());
            }
            let call = Call::of(&method.parse().unwrap(), &uri.parse().unwrap(), &headers);
            assert_eq!(call.op, op, "{method} {uri}");
        }
        let uri = "/b?list-type=2&prefix=a%20b%2F".parse().unwrap();
        assert_eq!(Call::of(&Method::GET, &uri, &HeaderMap::new()).key, "a b/");
        let uri = "/b/d/%C3%A4+".parse().unwrap();
        assert_eq!(Call::of(&Method::GET, &uri, &HeaderMap::new()).key, "d/ä+");
        let uri = "/b/d/.s3pod-probe-1?uploads".parse().unwrap();
        assert_eq!(Call::of(&Method::POST, &uri, &HeaderMap::new()).op, Op::Probe);
    }
}
