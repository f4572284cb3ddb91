//! Server-side copies of whole objects.
//!
//! Owns what a refusal means that may be the echo of a success, and silence that may hide one: a
//! copy onto itself has then replaced its own source. Must not know why something is copied.

use std::collections::BTreeMap;

use super::upload::Open;
use super::{COMMIT_ID, Engine, Error, Result};
use crate::naming::Key;
use crate::store::{self, Condition, Properties, Version};

/// Copies `source` to `key`. Given properties are not those of the source.
pub(super) async fn copy(
    engine: &Engine,
    source: &Version,
    key: &Key,
    properties: Option<Properties>,
    condition: &Condition,
) -> Result<Version> {
    let given = properties.as_ref().map(|own| own.user_metadata.clone());
    let copied = if store::is_one_copy(source) {
        store::copy_whole(&*engine.0.store, source, key, properties, condition).await
    } else {
        in_parts(engine, source, key, properties, condition).await
    };
    match copied {
        Err(error) if error.is_ambiguous() => {
            let echo = match given {
                Some(given) => own_copy(engine, key, &given).await,
                None => same_copy(engine, source, key).await,
            };
            echo.ok_or(Error::Store(error))
        }
        copied => Ok(copied?),
    }
}

/// By an upload, which the journal knows of: it may be under way for minutes, and what a dead mount
/// leaves of it costs storage.
async fn in_parts(
    engine: &Engine,
    source: &Version,
    key: &Key,
    properties: Option<Properties>,
    condition: &Condition,
) -> store::Result<Version> {
    let store = &*engine.0.store;
    let properties = match properties {
        Some(properties) => properties,
        None => store::carried_over(store, source).await?,
    };
    let open = Open::begin_copy(engine, key, &properties).await?;
    let copied = store::copy_in_parts(store, source, &open.upload, condition).await;
    match &copied {
        Ok(_) => open.completed(),
        Err(_) => open.abort(engine).await,
    }
    copied
}

/// The object under `key` where it carries what this copy was given, a commit id among it.
async fn own_copy(engine: &Engine, key: &Key, given: &BTreeMap<String, String>) -> Option<Version> {
    let head = engine.0.store.head(key).await.ok()?;
    let is_ours = given.contains_key(COMMIT_ID) && head.properties.user_metadata == *given;
    is_ours.then_some(head.version)
}

/// The object under `key` where it has all that `source` has, which still stands elsewhere: its
/// commit, or where this engine has not made it, its bytes by the entity tag. Another client's
/// object of the same size is none, since its source would be deleted.
async fn same_copy(engine: &Engine, source: &Version, key: &Key) -> Option<Version> {
    if source.key == *key {
        return None;
    }
    let store = &engine.0.store;
    let (original, copy) = futures::try_join!(store.head(&source.key), store.head(key)).ok()?;
    let is_same = original.version.is_same(source)
        && original.version.size == copy.version.size
        && (original.properties.user_metadata.contains_key(COMMIT_ID)
            || original.version.has_bytes_of(&copy.version))
        && original.properties.user_metadata == copy.properties.user_metadata;
    is_same.then_some(copy.version)
}
