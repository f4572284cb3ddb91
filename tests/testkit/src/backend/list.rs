//! ListObjectsV2 and ListObjects: one walk over the keys in byte order, two shapes of answer.
//!
//! Owns paging: keys and common prefixes are merged in byte order, both count toward max-keys,
//! and a continuation token names the last of either, so that a prefix is told exactly once.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use s3s::dto::{
    CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object as ListedObject, Owner,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::object::Object;
use super::state::{BucketState, Entry};

/// "The response might contain fewer keys but will never contain more" than 1 000.
const MAX_KEYS: i32 = 1000;

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum After {
    Key(String),
    /// Past every key under this common prefix.
    Prefix(String),
}

impl After {
    fn token(&self) -> String {
        match self {
            Self::Key(key) => BASE64.encode(format!("k{key}")),
            Self::Prefix(prefix) => BASE64.encode(format!("p{prefix}")),
        }
    }

    fn parse(token: &str) -> S3Result<Self> {
        let wrong = || s3_error!(InvalidArgument, "The continuation token provided is incorrect");
        let bytes = BASE64.decode(token).map_err(|_| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_| wrong())?;
        match text.split_at_checked(1) {
            Some(("k", key)) => Ok(Self::Key(key.to_owned())),
            Some(("p", prefix)) => Ok(Self::Prefix(prefix.to_owned())),
            _ => Err(wrong()),
        }
    }
}

struct Query<'a> {
    prefix: &'a str,
    delimiter: &'a str,
    after: Option<After>,
    max_keys: usize,
}

#[derive(Default)]
struct Page {
    objects: Vec<(String, Arc<Object>)>,
    prefixes: Vec<String>,
    last: Option<After>,
    truncated: bool,
}

/// Walks the keys after `query.after`, skipping over each common prefix in one step.
fn walk(bucket: &BucketState, query: &Query<'_>) -> Page {
    let mut page = Page::default();
    if query.max_keys == 0 {
        return page;
    }
    let mut from = start(query);
    loop {
        let range = (from.as_ref().map(String::as_str), Bound::Unbounded);
        let mut keys = bucket.keys.range::<str, _>(range);
        let Some((key, object)) = keys.find_map(|(key, entries)| match entries.last() {
            Some(Entry::Object(object)) => Some((key, object)),
            _ => None,
        }) else {
            return page;
        };
        if !key.starts_with(query.prefix) {
            return page;
        }
        if page.objects.len() + page.prefixes.len() == query.max_keys {
            page.truncated = true;
            return page;
        }
        if let Some(prefix) = common_prefix(key, query) {
            page.prefixes.push(prefix.to_owned());
            page.last = Some(After::Prefix(prefix.to_owned()));
            let Some(next) = after_prefix(prefix) else { return page };
            from = Bound::Included(next);
        } else {
            page.objects.push((key.clone(), Arc::clone(object)));
            page.last = Some(After::Key(key.clone()));
            from = Bound::Excluded(key.clone());
        }
    }
}

fn start(query: &Query<'_>) -> Bound<String> {
    let from_prefix = Bound::Included(query.prefix.to_owned());
    let (bound, at) = match &query.after {
        None => return from_prefix,
        Some(After::Key(key)) => (Bound::Excluded(key.clone()), key.clone()),
        Some(After::Prefix(prefix)) => match after_prefix(prefix) {
            Some(next) => (Bound::Included(next.clone()), next),
            None => (Bound::Excluded(prefix.clone()), prefix.clone()),
        },
    };
    if at.as_str() < query.prefix { from_prefix } else { bound }
}

/// The least string after everything that starts with `prefix`: its last character that has a
/// successor is raised. None for a prefix of nothing but the last code point.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // UTF-8 sorts as code points do; the surrogates between D7FF and E000 are no chars.
        let next =
            if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

fn common_prefix<'a>(key: &'a str, query: &Query<'_>) -> Option<&'a str> {
    if query.delimiter.is_empty() {
        return None;
    }
    let rest = &key[query.prefix.len()..];
    let end = rest.find(query.delimiter)? + query.delimiter.len();
    Some(&key[..query.prefix.len() + end])
}

/// How names are written: as they are, or percent-encoded on request.
#[derive(Clone, Copy)]
pub(super) struct Encoding(bool);

impl Encoding {
    pub(super) fn of(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some(EncodingType::URL) => Ok(Self(true)),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified")),
        }
    }

    pub(super) fn apply(self, name: &str) -> String {
        if self.0 { url_encode(name) } else { name.to_owned() }
    }
}

/// S3 encodes as Java's URLEncoder does, with the slash left alone: a space becomes `+`.
fn url_encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub(super) fn page_size(asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(MAX_KEYS) {
        negative if negative < 0 => {
            Err(s3_error!(InvalidArgument, "maxKeys must be between 0 and 2147483647"))
        }
        asked => Ok(asked.min(MAX_KEYS)),
    }
}

fn listed(backend: &Backend, page: &Page, encoding: Encoding, owner: bool) -> Vec<ListedObject> {
    let owner = owner
        .then(|| Owner { display_name: Some("s3pod".to_owned()), id: Some("s3pod".to_owned()) });
    let row = |(key, object): &(String, Arc<Object>)| ListedObject {
        e_tag: backend.told(object.etag()),
        key: Some(encoding.apply(key)),
        last_modified: Some(object.modified()),
        owner: owner.clone(),
        size: Some(object.size()),
        storage_class: Some(object.listed_class()),
        ..ListedObject::default()
    };
    page.objects.iter().map(row).collect()
}

fn common_prefixes(page: &Page, encoding: Encoding) -> Vec<CommonPrefix> {
    let row = |prefix: &String| CommonPrefix { prefix: Some(encoding.apply(prefix)) };
    page.prefixes.iter().map(row).collect()
}

pub(super) fn list_objects_v2(
    backend: &Backend,
    req: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = req.input;
    let encoding = Encoding::of(input.encoding_type.as_ref())?;
    let max_keys = page_size(input.max_keys)?;
    let after = match &input.continuation_token {
        Some(token) => Some(After::parse(token)?),
        None => input.start_after.clone().map(After::Key),
    };
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or(""),
        delimiter: input.delimiter.as_deref().unwrap_or(""),
        after,
        max_keys: usize::try_from(max_keys).expect("page_size is never negative"),
    };
    let page = backend.in_bucket(&input.bucket, |bucket| Ok(walk(bucket, &query)))?;
    let contents = listed(backend, &page, encoding, input.fetch_owner == Some(true));
    let prefixes = common_prefixes(&page, encoding);
    Ok(S3Response::new(ListObjectsV2Output {
        key_count: i32::try_from(contents.len() + prefixes.len()).ok(),
        contents: Some(contents),
        common_prefixes: Some(prefixes),
        delimiter: input.delimiter.map(|text| encoding.apply(&text)),
        encoding_type: input.encoding_type,
        is_truncated: Some(page.truncated),
        max_keys: Some(max_keys),
        name: Some(input.bucket),
        next_continuation_token: page.last.filter(|_| page.truncated).map(|last| last.token()),
        continuation_token: input.continuation_token,
        prefix: Some(encoding.apply(input.prefix.as_deref().unwrap_or(""))),
        start_after: input.start_after.map(|text| encoding.apply(&text)),
        ..ListObjectsV2Output::default()
    }))
}

pub(super) fn list_objects(
    backend: &Backend,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = req.input;
    let encoding = Encoding::of(input.encoding_type.as_ref())?;
    let max_keys = page_size(input.max_keys)?;
    let delimiter = input.delimiter.as_deref().unwrap_or("");
    // A NextMarker that is a common prefix means: past all of it.
    let after = input.marker.clone().map(|marker| {
        let is_prefix = !delimiter.is_empty() && marker.ends_with(delimiter);
        if is_prefix { After::Prefix(marker) } else { After::Key(marker) }
    });
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or(""),
        delimiter,
        after,
        max_keys: usize::try_from(max_keys).expect("page_size is never negative"),
    };
    let page = backend.in_bucket(&input.bucket, |bucket| Ok(walk(bucket, &query)))?;
    // S3 tells a NextMarker only with a delimiter; without one the last key serves.
    let next = page.last.clone().filter(|_| page.truncated && !delimiter.is_empty());
    let next = next.map(|last| match last {
        After::Key(name) | After::Prefix(name) => encoding.apply(&name),
    });
    Ok(S3Response::new(ListObjectsOutput {
        contents: Some(listed(backend, &page, encoding, true)),
        common_prefixes: Some(common_prefixes(&page, encoding)),
        delimiter: input.delimiter.as_deref().map(|text| encoding.apply(text)),
        encoding_type: input.encoding_type,
        is_truncated: Some(page.truncated),
        marker: Some(encoding.apply(input.marker.as_deref().unwrap_or(""))),
        max_keys: Some(max_keys),
        name: Some(input.bucket),
        next_marker: next,
        prefix: Some(encoding.apply(input.prefix.as_deref().unwrap_or(""))),
        ..ListObjectsOutput::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_string_after_a_prefix_sorts_after_all_it_covers() {
        for prefix in ["a/", "ä", "x\u{D7FF}", "y\u{10FFFF}"] {
            let next = after_prefix(prefix).unwrap();
            assert!(next.as_str() > format!("{prefix}\u{10FFFF}\u{10FFFF}").as_str(), "{prefix:?}");
            assert!(!next.starts_with(prefix));
        }
        assert_eq!(after_prefix("\u{10FFFF}"), None);
    }

    #[test]
    fn names_are_encoded_as_s3_does() {
        assert_eq!(url_encode("a b/ä+\u{1}~*"), "a+b/%C3%A4%2B%01%7E*");
    }
}
