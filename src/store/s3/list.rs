//! LIST, one page at a time.
//!
//! Owns the decoding of `encoding-type=url`, which the SDK leaves to its caller: without it a key
//! with a control character makes the page unreadable XML. Must not know which keys are visible.

use std::borrow::Cow;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::{S3Store, version};
use crate::naming::Key;
use crate::store::{Error, ErrorKind, ListLine, ListPage, ListRequest, Operation, Result};

pub(super) async fn list(store: &S3Store, request: &ListRequest) -> Result<ListPage> {
    let builder = store
        .client
        .list_objects_v2()
        .bucket(&*store.bucket)
        .prefix(&request.prefix)
        .encoding_type(EncodingType::Url)
        .set_delimiter(request.delimited.then(|| "/".to_owned()))
        .set_start_after(request.start_after.clone())
        .set_continuation_token(request.continuation.clone())
        .set_max_keys(request.max_keys.map(i32::from))
        .set_request_payer(store.payer.clone());
    let answer = store.within_bucket(Operation::List, store.read_timeout, builder.send()).await?;
    page(answer)
}

fn page(answer: ListObjectsV2Output) -> Result<ListPage> {
    // A store that ignores the parameter says so by not repeating it.
    let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
    let mut lines = Vec::with_capacity(answer.contents().len() + answer.common_prefixes().len());
    for object in answer.contents() {
        let Some(key) = object.key().and_then(|key| decoded(key, is_encoded)) else { continue };
        // Without one it would be a file that ends before its first byte.
        let Some(size) = object.size().and_then(|size| size.try_into().ok()) else {
            let said = ErrorKind::NotS3("a line of a listing has no size".to_owned());
            return Err(Error::new(Operation::List, said).with_key(&Key::new(key)));
        };
        let told = version::Told {
            etag: object.e_tag(),
            version_id: None,
            size,
            last_modified: version::whole_seconds(object.last_modified()),
        };
        lines.push(ListLine::Object(told.of(&Key::new(key))));
    }
    for common in answer.common_prefixes() {
        let prefix = common.prefix().and_then(|prefix| decoded(prefix, is_encoded));
        lines.extend(prefix.map(ListLine::Prefix));
    }
    lines.sort_by(|one, other| one.key().cmp(other.key()));
    let next = answer.next_continuation_token.filter(|token| !token.is_empty());
    if answer.is_truncated == Some(true) && next.is_none() {
        let said = ErrorKind::NotS3("a page is cut off and names no next one".to_owned());
        return Err(Error::new(Operation::List, said));
    }
    Ok(ListPage { lines, next: next.filter(|_| answer.is_truncated == Some(true)) })
}

/// A key as it is; none where it is not UTF-8, since no other request could name it.
pub(super) fn decoded(text: &str, is_encoded: bool) -> Option<String> {
    if !is_encoded {
        return Some(text.to_owned());
    }
    // A form's encoding: `+` is a space, and a plus is `%2B`.
    let spaced: Cow<'_, str> =
        if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(key) => Some(key.into_owned()),
        Err(_) => {
            tracing::warn!(key = text, "a key that is not UTF-8 is left out of the listing");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_forms_are() {
        let cases = [
            ("a/b.txt", "a/b.txt"),
            ("a+b", "a b"),
            ("a%2Bb", "a+b"),
            ("%C3%A9%01%0A", "é\u{1}\n"),
            ("100%25", "100%"),
            ("a%2Fb", "a/b"),
        ];
        for (encoded, key) in cases {
            assert_eq!(decoded(encoded, true).as_deref(), Some(key), "{encoded}");
            assert_eq!(decoded(encoded, false).as_deref(), Some(encoded));
        }
        assert_eq!(decoded("%FF", true), None);
    }
}
