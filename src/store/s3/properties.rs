//! Object properties as request headers, and back.
//!
//! Owns the spelling. The headers of PUT, CreateMultipartUpload and CopyObject are the same, so
//! they are set on the request itself and not three times on the SDK's builders; that also keeps
//! `Expires` in the words of whoever wrote it. Must not know what the properties mean.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::http::HttpError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::store::Properties;

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The headers that say `properties`, with `defaults` where they say nothing.
pub(super) fn headers(properties: &Properties, defaults: &Properties) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut set = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            headers.push((name.to_owned(), value.clone()));
        }
    };
    set("content-type", properties.content_type.as_ref());
    set("content-encoding", properties.content_encoding.as_ref());
    set("content-language", properties.content_language.as_ref());
    set("content-disposition", properties.content_disposition.as_ref());
    set("cache-control", properties.cache_control.as_ref());
    set("expires", properties.expires.as_ref());
    let class = properties.storage_class.as_ref().or(defaults.storage_class.as_ref());
    set("x-amz-storage-class", class);
    // The key belongs to its algorithm: one is never taken from here and the other from there.
    let encryption = if properties.sse.is_some() { properties } else { defaults };
    set("x-amz-server-side-encryption", encryption.sse.as_ref());
    let kms_key = encryption.sse_kms_key_id.as_ref();
    set("x-amz-server-side-encryption-aws-kms-key-id", kms_key);
    if !properties.tags.is_empty() {
        set("x-amz-tagging", Some(&tagging(&properties.tags)));
    }
    for (name, value) in &properties.user_metadata {
        set(&format!("x-amz-meta-{name}"), Some(value));
    }
    headers
}

/// Puts `headers` on a request, over what the SDK set by itself.
pub(super) fn apply(
    headers: &[(String, String)],
    mut request: HttpRequest,
) -> Result<HttpRequest, HttpError> {
    for (name, value) in headers {
        request.headers_mut().try_insert(name.clone(), value.clone())?;
    }
    Ok(request)
}

fn tagging(tags: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in tags {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, RESERVED));
        text.push('=');
        text.extend(utf8_percent_encode(value, RESERVED));
    }
    text
}

/// What the answers to HEAD and GET have in common.
pub(super) struct Told {
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) expires: Option<String>,
    pub(super) storage_class: Option<StorageClass>,
    pub(super) sse: Option<ServerSideEncryption>,
    pub(super) sse_kms_key_id: Option<String>,
    pub(super) metadata: Option<HashMap<String, String>>,
}

impl From<Told> for Properties {
    fn from(told: Told) -> Self {
        // S3 says STANDARD by saying nothing; the stores that do say it mean the same.
        let class = told.storage_class.filter(|class| *class != StorageClass::Standard);
        let metadata = told.metadata.unwrap_or_default();
        let user_metadata: BTreeMap<_, _> =
            metadata.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        Self {
            content_type: told.content_type,
            content_encoding: told.content_encoding,
            content_language: told.content_language,
            content_disposition: told.content_disposition,
            cache_control: told.cache_control,
            expires: told.expires,
            storage_class: class.map(|class| class.as_str().to_owned()),
            sse: told.sse.map(|sse| sse.as_str().to_owned()),
            sse_kms_key_id: told.sse_kms_key_id,
            user_metadata,
            tags: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_paired_with_another_sources_algorithm() {
        let defaults = Properties {
            sse: Some("aws:kms".into()),
            sse_kms_key_id: Some("default-key".into()),
            ..Properties::default()
        };
        let own = Properties { sse: Some("AES256".into()), ..Properties::default() };
        let own = headers(&own, &defaults);
        assert_eq!(own, [("x-amz-server-side-encryption".to_owned(), "AES256".to_owned())]);
        assert_eq!(headers(&Properties::default(), &defaults).len(), 2);
    }

    #[test]
    fn tags_are_encoded_as_a_query() {
        let tags = [("team".to_owned(), "a&b".to_owned()), ("x y".to_owned(), "é=1".to_owned())];
        assert_eq!(tagging(&tags), "team=a%26b&x%20y=%C3%A9%3D1");
    }
}
