//! Server-side copies of whole objects.
//!
//! Owns the choice between one CopyObject and parallel part copies above S3's 5 GiB, and what a
//! refusal means that may be the echo of a success: a copy onto itself has then replaced its own
//! source. Must not know why something is copied.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::{COMMIT_ID, Engine, Error, Result};
use crate::naming::Key;
use crate::store::{
    self, Condition, CopyRequest, PartTag, PartTarget, Properties, Upload, Version,
};
use crate::units::{ByteRange, GIB, MIB};

/// S3's limit for CopyObject and for one UploadPartCopy.
const COPY_SIZE_MAX: u64 = 5 * GIB;

/// Parts copied at once.
const COPIES_IN_FLIGHT_MAX: usize = 16;

/// Copies `source` to `key`. Given properties are not those of the source.
pub(super) async fn copy(
    engine: &Engine,
    source: &Version,
    key: &Key,
    properties: Option<Properties>,
    condition: &Condition,
) -> Result<Version> {
    let given = properties.as_ref().map(|own| own.user_metadata.clone());
    match send(engine, source, key, properties, condition).await {
        Err(Error::Store(error)) if error.is_ambiguous() && !error.kind().is_unanswered() => {
            let echo = match given {
                Some(given) => own_copy(engine, key, &given).await,
                None => same_copy(engine, source, key).await,
            };
            echo.ok_or(Error::Store(error))
        }
        copied => copied,
    }
}

/// The object under `key` where it carries what this copy was given, a commit id among it.
async fn own_copy(engine: &Engine, key: &Key, given: &BTreeMap<String, String>) -> Option<Version> {
    let head = engine.0.store.head(key).await.ok()?;
    let is_ours = given.contains_key(COMMIT_ID) && head.properties.user_metadata == *given;
    is_ours.then_some(head.version)
}

/// The object under `key` where it has all that `source` has, which still stands elsewhere.
async fn same_copy(engine: &Engine, source: &Version, key: &Key) -> Option<Version> {
    if source.key == *key {
        return None;
    }
    let store = &engine.0.store;
    let (original, copy) = futures::try_join!(store.head(&source.key), store.head(key)).ok()?;
    let is_same = original.version.is_same(source)
        && original.version.size == copy.version.size
        && original.properties.user_metadata == copy.properties.user_metadata;
    is_same.then_some(copy.version)
}

async fn send(
    engine: &Engine,
    source: &Version,
    key: &Key,
    properties: Option<Properties>,
    condition: &Condition,
) -> Result<Version> {
    if source.size <= COPY_SIZE_MAX {
        let (key, condition) = (key.clone(), condition.clone());
        let request = CopyRequest { key, properties, tags_follow: true, condition };
        return Ok(engine.0.store.copy(source, &request).await?);
    }
    let properties = match properties {
        Some(properties) => properties,
        None => carried_over(engine, source).await?,
    };
    let id = engine.0.store.create_upload(key, &properties).await?;
    let upload = Upload { key: key.clone(), id };
    match copy_parts(engine, source, &upload, condition).await {
        Ok(version) => Ok(version),
        Err(error) => {
            let aborted = engine.0.store.abort_upload(&upload).await;
            if let Err(error) = aborted {
                tracing::warn!(%key, %error, "an unfinished upload stays in the bucket");
            }
            Err(error)
        }
    }
}

/// What CopyObject would take over by itself.
async fn carried_over(engine: &Engine, source: &Version) -> Result<Properties> {
    let head = engine.0.store.head(&source.key).await?;
    let mut properties = head.properties;
    if head.tag_count > 0 {
        properties.tags = engine.0.store.tags(source).await?;
    }
    Ok(properties)
}

async fn copy_parts(
    engine: &Engine,
    source: &Version,
    upload: &Upload,
    condition: &Condition,
) -> Result<Version> {
    let mut copies: Vec<BoxFuture<'_, store::Result<PartTag>>> = Vec::new();
    for (index, range) in part_ranges(source.size).into_iter().enumerate() {
        let target = PartTarget { upload: upload.clone(), number: index as u32 + 1 };
        let copy = async move { engine.0.store.copy_part(&target, source, range).await };
        copies.push(copy.boxed());
    }
    let copied = futures::stream::iter(copies).buffered(COPIES_IN_FLIGHT_MAX);
    let tags: Vec<PartTag> = copied.try_collect().await?;
    Ok(engine.0.store.complete_upload(upload, &tags, condition).await?)
}

/// About 100 parts of 256 MiB or more: time first, then requests.
fn part_ranges(size: u64) -> Vec<ByteRange> {
    let part = (size / 100).clamp(256 * MIB, COPY_SIZE_MAX).next_multiple_of(MIB);
    let count = size.div_ceil(part);
    (0..count).map(|n| ByteRange::at(n * part, part).intersect(ByteRange::new(0, size))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TIB;

    #[test]
    fn parts_of_a_copy_tile_the_object_within_the_limits() {
        for size in [COPY_SIZE_MAX + 1, 100 * GIB, TIB, 5 * TIB, 48 * TIB] {
            let parts = part_ranges(size);
            assert!(parts.len() <= 10_000, "{size}");
            assert_eq!(parts.iter().map(ByteRange::len).sum::<u64>(), size);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(parts.iter().all(|part| part.len() <= COPY_SIZE_MAX && !part.is_empty()));
        }
    }
}
