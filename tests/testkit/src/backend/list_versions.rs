//! ListObjectVersions: every entry of every key, newest first within a key. No delimiter.

use s3s::dto::{
    DeleteMarkerEntry, ListObjectVersionsInput, ListObjectVersionsOutput, ObjectVersion,
    ObjectVersionStorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::list::{Encoding, page_size};
use super::state::Entry;

struct Row {
    key: String,
    entry: Entry,
    latest: bool,
}

pub(super) fn list_object_versions(
    backend: &Backend,
    req: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = req.input;
    if input.delimiter.as_deref().is_some_and(|delimiter| !delimiter.is_empty()) {
        return Err(s3_error!(NotImplemented, "versions are listed without a delimiter here"));
    }
    let encoding = Encoding::of(input.encoding_type.as_ref())?;
    let max = page_size(input.max_keys)?;
    let limit = usize::try_from(max).expect("page_size is never negative");
    let rows = backend.in_bucket(&input.bucket, |bucket| Ok(rows(&bucket.keys, &input)))?;
    let truncated = rows.len() > limit;
    let page = &rows[..limit.min(rows.len())];
    let last = page.last().filter(|_| truncated);
    let (mut versions, mut delete_markers) = (Vec::new(), Vec::new());
    for row in page {
        let version_id = Some(row.entry.version_id().to_owned());
        match &row.entry {
            Entry::Object(object) => versions.push(ObjectVersion {
                e_tag: Some(object.etag()),
                is_latest: Some(row.latest),
                key: Some(encoding.apply(&row.key)),
                last_modified: Some(object.modified()),
                size: Some(object.size()),
                storage_class: Some(ObjectVersionStorageClass::from(
                    object.listed_class().as_str().to_owned(),
                )),
                version_id,
                ..ObjectVersion::default()
            }),
            Entry::DeleteMarker { last_modified, .. } => delete_markers.push(DeleteMarkerEntry {
                is_latest: Some(row.latest),
                key: Some(encoding.apply(&row.key)),
                last_modified: Some((*last_modified).into()),
                version_id,
                ..DeleteMarkerEntry::default()
            }),
        }
    }
    Ok(S3Response::new(ListObjectVersionsOutput {
        next_key_marker: last.map(|row| encoding.apply(&row.key)),
        next_version_id_marker: last.map(|row| row.entry.version_id().to_owned()),
        versions: Some(versions),
        delete_markers: Some(delete_markers),
        encoding_type: input.encoding_type,
        is_truncated: Some(truncated),
        key_marker: input.key_marker,
        max_keys: Some(max),
        name: Some(input.bucket),
        prefix: Some(encoding.apply(input.prefix.as_deref().unwrap_or(""))),
        version_id_marker: input.version_id_marker,
        ..ListObjectVersionsOutput::default()
    }))
}

fn rows(
    keys: &std::collections::BTreeMap<String, Vec<Entry>>,
    input: &ListObjectVersionsInput,
) -> Vec<Row> {
    let prefix = input.prefix.as_deref().unwrap_or("");
    let mut rows = Vec::new();
    for (key, entries) in keys.range(prefix.to_owned()..) {
        if !key.starts_with(prefix) {
            break;
        }
        let newest_first = entries.iter().rev().enumerate();
        rows.extend(newest_first.map(|(age, entry)| Row {
            key: key.clone(),
            entry: entry.clone(),
            latest: age == 0,
        }));
    }
    let Some(marker) = &input.key_marker else { return rows };
    let passed = |row: &Row| match &input.version_id_marker {
        Some(id) if row.key == *marker => row.entry.version_id() != id,
        _ => row.key <= *marker,
    };
    let at = rows.iter().position(|row| !passed(row)).unwrap_or(rows.len());
    let found =
        input.version_id_marker.is_some() && rows.get(at).is_some_and(|row| row.key == *marker);
    rows.split_off(at + usize::from(found))
}
