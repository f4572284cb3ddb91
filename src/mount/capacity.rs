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
    if config.capacity.is_some() || config.capacity_key.is_some() {
        let say = |bytes| vfs.set_usage(bytes);
        count_every(COUNT_EVERY, &*store, config.prefix.as_str(), say).await;
    }
}

async fn count_every(pause: Duration, store: &dyn ObjectStore, prefix: &str, say: impl Fn(u64)) {
    loop {
        match usage(store, prefix).await {
            Ok(bytes) => say(bytes),
            Err(error) => tracing::warn!(%error, "what is used of the capacity is not known"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Reads the capacity again and again; only returns where no object says it.
pub(super) async fn watch(config: Config, store: Arc<dyn ObjectStore>, vfs: Vfs) {
    if let Some(key) = config.capacity_key {
        look_every(LOOK_EVERY, &*store, &key, |bytes| vfs.set_capacity(bytes)).await;
    }
}

async fn look_every(
    pause: Duration,
    store: &dyn ObjectStore,
    key: &Key,
    say: impl Fn(Option<u64>),
) {
    let mut was_said = None;
    loop {
        match read(store, key).await {
            Ok(said) if was_said != Some(said) => {
                tracing::info!(bytes = said, "the capacity");
                say(Some(said).filter(|bytes| *bytes > 0));
                was_said = Some(said);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%key, %error, "the capacity stays as it was"),
        }
        tokio::time::sleep(pause).await;
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

#[cfg(test)]
mod tests {
    use s3pod_testkit::{Fault, Op, ServerOptions, TestServer};
    use tokio::sync::mpsc;

    use super::*;
    use crate::store::s3::{Credentials, S3Settings, S3Store};

    const PAUSE: Duration = Duration::from_millis(10);

    async fn opened() -> (TestServer, S3Store) {
        let server = TestServer::start(ServerOptions::with_bucket("data")).await.unwrap();
        let credentials = Credentials {
            access_key_id: server.access_key().to_owned(),
            secret_access_key: server.secret_key().to_owned(),
            session_token: None,
        };
        let settings = S3Settings {
            endpoint_url: Some(server.endpoint()),
            region: Some(server.region().to_owned()),
            force_path_style: true,
            credentials: Some(credentials),
            ..S3Settings::new("data")
        };
        (server, S3Store::connect(settings).await.unwrap())
    }

    #[tokio::test]
    async fn what_is_there_is_counted_again_and_again_also_behind_a_failure() {
        let (server, store) = opened().await;
        server.bucket("data").put("v/a", "12345");
        server.bucket("data").put("w/b", "123");
        let (sender, mut said) = mpsc::channel(16);
        let counting = count_every(PAUSE, &store, "v/", |bytes| sender.try_send(bytes).unwrap());
        let telling = async {
            assert_eq!(said.recv().await, Some(5));
            server.faults().add(Fault::InternalError.on(Op::List).times(3));
            server.bucket("data").put("v/c", "678");
            while said.recv().await != Some(8) {}
        };
        tokio::select! { () = counting => {}, () = telling => {} }
    }

    #[tokio::test]
    async fn a_capacity_that_grows_is_read_again_and_one_that_is_nonsense_changes_nothing() {
        let (server, store) = opened().await;
        let key = Key::new("marker");
        let write = |text: &str| drop(server.bucket("data").put("marker", text.to_owned()));
        write(r#"{"capacity": 10, "more": 1}"#);
        let (sender, mut said) = mpsc::channel(16);
        let looking = look_every(PAUSE, &store, &key, |bytes| sender.try_send(bytes).unwrap());
        let telling = async {
            assert_eq!(said.recv().await, Some(Some(10)));
            write("nonsense");
            let reads = || server.log().count(Op::Get);
            let before = reads();
            while reads() < before + 3 {
                tokio::time::sleep(PAUSE).await;
            }
            write(r#"{"capacity": 11}"#);
            assert_eq!(said.recv().await, Some(Some(11)), "nothing was said in between");
            write(r#"{"capacity": 0}"#);
            assert_eq!(said.recv().await, Some(None), "no bound");
        };
        tokio::select! { () = looking => {}, () = telling => {} }
    }
}
