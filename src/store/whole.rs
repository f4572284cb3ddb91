//! A copy of a whole object, however large.
//!
//! Owns the choice between one CopyObject and parallel part copies above S3's 5 GiB. Promises: an
//! upload that fails is given up. Must not know why something is copied.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::{
    Condition, CopyRequest, ObjectStore, PartTag, PartTarget, Properties, Result, Upload, Version,
};
use crate::naming::Key;
use crate::units::{ByteRange, GIB, MIB};

/// S3's limit for CopyObject and for one UploadPartCopy.
const COPY_SIZE_MAX: u64 = 5 * GIB;

/// Parts copied at once.
const COPIES_IN_FLIGHT_MAX: usize = 16;

/// True where one CopyObject takes it.
pub const fn is_one_copy(source: &Version) -> bool {
    source.size <= COPY_SIZE_MAX
}

/// Copies `source` to `key`. Properties that are given replace those of the source, except for its
/// tags. Where it takes an upload, nobody is told of it: a process that dies leaves it behind.
///
/// # Errors
/// What the store said.
pub async fn copy_whole(
    store: &dyn ObjectStore,
    source: &Version,
    key: &Key,
    properties: Option<Properties>,
    condition: &Condition,
) -> Result<Version> {
    if is_one_copy(source) {
        let (key, condition) = (key.clone(), condition.clone());
        let request = CopyRequest { key, properties, tags_follow: true, condition };
        return store.copy(source, &request).await;
    }
    let properties = match properties {
        Some(properties) => properties,
        None => carried_over(store, source).await?,
    };
    let id = store.create_upload(key, &properties).await?;
    let upload = Upload { key: key.clone(), id };
    match copy_in_parts(store, source, &upload, condition).await {
        Ok(version) => Ok(version),
        Err(error) => {
            if let Err(error) = store.abort_upload(&upload).await {
                tracing::warn!(%key, %error, "an unfinished upload stays in the bucket");
            }
            Err(error)
        }
    }
}

/// What CopyObject would take over by itself.
///
/// # Errors
/// What the store said.
pub async fn carried_over(store: &dyn ObjectStore, source: &Version) -> Result<Properties> {
    let head = store.head(&source.key).await?;
    let mut properties = head.properties;
    if head.tag_count > 0 {
        properties.tags = store.tags(source).await?;
    }
    Ok(properties)
}

/// Makes `source` the object of a begun upload, whatever its size.
///
/// # Errors
/// What the store said; the upload is still there.
pub async fn copy_in_parts(
    store: &dyn ObjectStore,
    source: &Version,
    upload: &Upload,
    condition: &Condition,
) -> Result<Version> {
    let mut copies: Vec<BoxFuture<'_, Result<PartTag>>> = Vec::new();
    for (index, range) in part_ranges(source.size).into_iter().enumerate() {
        let target = PartTarget { upload: upload.clone(), number: index as u32 + 1 };
        let copy = async move { store.copy_part(&target, source, range).await };
        copies.push(copy.boxed());
    }
    let copied = futures::stream::iter(copies).buffered(COPIES_IN_FLIGHT_MAX);
    let tags: Vec<PartTag> = copied.try_collect().await?;
    store.complete_upload(upload, &tags, condition).await
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
