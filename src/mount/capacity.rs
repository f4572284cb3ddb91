//! How much a mount may hold, and how much is there, asked of the store now and then.
//!
//! Owns the counting (a listing of everything, after the mount and every six hours) and the
//! reading of an object that says the capacity, which may grow while the mount runs. Promises: a
//! store that does not answer changes nothing. Must not know who writes that object.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use serde::Deserialize;

use crate::config::Config;
use crate::naming::{Key, is_reserved};
use crate::store::{self, GetPin, GetRequest, ListLine, ListRequest, ObjectStore};
use crate::vfs::Vfs;

/// A listing costs a request for a thousand objects.
const COUNT_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// So soon a volume that was made larger is larger here too.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The largest object that is read for one number.
const SIZE_MAX: u64 = 1 << 20;

/// What of the object counts.
#[derive(Deserialize)]
struct Said {
    /// Bytes; 0 is no bound.
    capacity: u64,
}

/// Counts again and again; only returns where nothing is bounded.
pub(super) async fn count(config: Config, store: Arc<dyn ObjectStore>, vfs: Vfs) {
    if config.capacity.is_none() && config.capacity_key.is_none() {
        return;
    }
    loop {
        match usage(&*store, config.prefix.as_str()).await {
            Ok(bytes) => vfs.set_usage(bytes),
            Err(error) => tracing::warn!(%error, "what is used of the capacity is not known"),
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Reads the capacity again and again; only returns where no object says it.
pub(super) async fn watch(config: Config, store: Arc<dyn ObjectStore>, vfs: Vfs) {
    let Some(key) = config.capacity_key else { return };
    let mut was_said = None;
    loop {
        match read(&*store, &key).await {
            Ok(said) if was_said != Some(said) => {
                tracing::info!(bytes = said, "the capacity");
                vfs.set_capacity(Some(said).filter(|bytes| *bytes > 0));
                was_said = Some(said);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%key, %error, "the capacity stays as it was"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn usage(store: &dyn ObjectStore, prefix: &str) -> store::Result<u64> {
    let mut request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
    let mut bytes = 0u64;
    loop {
        let page = store.list(&request).await?;
        for line in page.lines {
            if let ListLine::Object(version) = line
                && !is_reserved(version.key.as_str())
            {
                bytes = bytes.saturating_add(version.size);
            }
        }
        match page.next {
            Some(next) => request.continuation = Some(next),
            None => return Ok(bytes),
        }
    }
}

async fn read(store: &dyn ObjectStore, key: &Key) -> Result<u64, String> {
    let request = GetRequest { pin: GetPin::Latest(key.clone()), range: None };
    let answer = store.get(&request).await.map_err(|error| error.to_string())?;
    if answer.head.version.size > SIZE_MAX {
        return Err("it is too large for one number".to_owned());
    }
    let body: Vec<bytes::Bytes> =
        answer.body.try_collect().await.map_err(|error| error.to_string())?;
    let said: Said = serde_json::from_slice(&body.concat()).map_err(|error| error.to_string())?;
    Ok(said.capacity)
}
