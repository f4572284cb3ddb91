//! The end of a volume's objects: deleted, or moved aside, behind the caller's back.
//!
//! Owns the work and how far it has come, which stands in the marker: whoever asks again, in this
//! process or after it, goes on from there. Promises: nothing outside of the volume's prefix is
//! touched, nor the driver's own; an object is deleted only once its copy is there; the marker
//! goes last. Must not know who asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use s3pod::naming::{Key, MAX_KEY_BYTES, is_reserved};
use s3pod::store::{
    Condition, Deletion, ErrorKind, ListLine, ListRequest, ObjectStore, Version, copy_whole,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::class::OnDelete;
use super::marker::{Found, Marker, Markers, State};
use super::stores::{Bucket, refusal};
use crate::volume::id::VolumeId;
use crate::volume::refusal::{Code, Refusal};

/// How long a caller is kept waiting for a removal that may be short.
const PATIENCE: Duration = Duration::from_secs(5);

/// Copies of one volume at once.
const COPIES_MAX: usize = 16;

/// Times that a prefix is gone over again because somebody still writes to it.
const ROUNDS_MAX: u32 = 10;

/// The removals under way.
#[derive(Debug, Default)]
pub(super) struct Removals {
    state: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// What each came to; none while it runs.
    results: HashMap<VolumeId, watch::Receiver<Option<Result<(), Refusal>>>>,
    tasks: JoinSet<()>,
}

impl Removals {
    /// Sees to it that the volume is being removed, and waits a little for the end.
    pub(super) async fn run(
        &self,
        id: &VolumeId,
        bucket: Arc<Bucket>,
        found: Found,
    ) -> Result<(), Refusal> {
        let mut result = self.join(id, bucket, found);
        let ended = tokio::time::timeout(PATIENCE, result.wait_for(Option::is_some)).await;
        let Ok(ended) = ended else {
            let reason = "its objects are being removed; ask again, this goes on meanwhile";
            return Err(Refusal::new(Code::Aborted, reason));
        };
        let result = match ended {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(Refusal::new(Code::Aborted, "the removal was cut off; ask again")),
        };
        // The next one to ask begins anew where this failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner).results.remove(id);
        result
    }

    /// What the removal comes to; it begins where none is under way.
    fn join(
        &self,
        id: &VolumeId,
        bucket: Arc<Bucket>,
        found: Found,
    ) -> watch::Receiver<Option<Result<(), Refusal>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Of tasks that ended nothing is wanted.
        while state.tasks.try_join_next().is_some() {}
        if let Some(result) = state.results.get(id) {
            return result.clone();
        }
        let (sender, receiver) = watch::channel(None);
        state.results.insert(id.clone(), receiver.clone());
        let removal = Removal::new(bucket, found);
        let id = id.to_string();
        state.tasks.spawn(async move {
            let result = removal.run().await;
            if let Err(refusal) = &result {
                tracing::warn!(volume = id, %refusal, "a removal stopped; it goes on when asked");
            }
            sender.send_replace(Some(result));
        });
        receiver
    }
}

/// One volume's.
struct Removal {
    bucket: Arc<Bucket>,
    markers: Markers,
    found: Found,
}

impl Removal {
    fn new(bucket: Arc<Bucket>, found: Found) -> Self {
        let markers = Markers::of(Arc::clone(&bucket.store));
        Self { bucket, markers, found }
    }

    async fn run(mut self) -> Result<(), Refusal> {
        self.begin().await?;
        for _ in 0..ROUNDS_MAX {
            // A round that goes on behind a cursor has not seen what is before it.
            let is_whole = self.cursor().is_none();
            if self.round().await? == 0 && is_whole {
                self.remove_remnants().await?;
                return self.end().await;
            }
        }
        let reason = "somebody still writes to the volume; end the pods that use it";
        Err(Refusal::new(Code::FailedPrecondition, reason))
    }

    /// Writes down what is about to be done.
    async fn begin(&mut self) -> Result<(), Refusal> {
        if self.cursor().is_some() {
            return Ok(());
        }
        self.mark(None).await
    }

    async fn mark(&mut self, cursor: Option<String>) -> Result<(), Refusal> {
        let state = match self.found.marker.on_delete {
            OnDelete::Archive => State::Archiving { cursor },
            _ => State::Deleting { cursor },
        };
        if self.found.marker.state != state {
            let marker = Marker { state, ..self.found.marker.clone() };
            self.found = self.markers.replace(&self.found, &marker).await?;
        }
        Ok(())
    }

    fn cursor(&self) -> Option<String> {
        match &self.found.marker.state {
            State::Deleting { cursor } | State::Archiving { cursor } => cursor.clone(),
            _ => None,
        }
    }

    /// Goes over the prefix once, from the cursor on, and says how many objects it found.
    async fn round(&mut self) -> Result<usize, Refusal> {
        let mut count = 0;
        let mut after = self.cursor();
        loop {
            let request = ListRequest {
                prefix: self.found.marker.prefix.clone(),
                start_after: after.clone(),
                ..ListRequest::default()
            };
            let page = self.bucket.store.list(&request).await.map_err(|e| refusal(&e))?;
            let last = page.lines.last().map(|line| line.key().to_owned());
            let is_last = page.next.is_none();
            let objects = self.own(page.lines);
            count += objects.len();
            self.remove(objects).await?;
            if is_last {
                // The next round looks at everything again.
                self.mark(None).await?;
                return Ok(count);
            }
            self.mark(last.clone()).await?;
            after = last;
        }
    }

    /// The objects of the volume: of a whole bucket neither what the driver keeps there nor what
    /// was moved aside.
    fn own(&self, lines: Vec<ListLine>) -> Vec<Version> {
        let marker = &self.found.marker;
        let is_own = |key: &str| {
            !is_reserved(key)
                && (marker.on_delete != OnDelete::Archive || !key.starts_with(&marker.archive))
        };
        let objects = lines.into_iter().filter_map(|line| match line {
            ListLine::Object(version) => Some(version),
            ListLine::Prefix(_) => None,
        });
        objects.filter(|version| is_own(version.key.as_str())).collect()
    }

    async fn remove(&self, objects: Vec<Version>) -> Result<(), Refusal> {
        if objects.is_empty() {
            return Ok(());
        }
        if self.found.marker.on_delete == OnDelete::Archive {
            self.copy_aside(&objects).await?;
        }
        // What somebody wrote since the listing is found by the next one.
        let gone: Vec<Deletion> = objects.into_iter().map(Deletion::from).collect();
        let failed = self.bucket.store.delete_many(&gone).await.map_err(|e| refusal(&e))?;
        let refused = failed.iter().find(|(_, error)| !error.is_changed());
        refused.map_or(Ok(()), |(_, error)| Err(refusal(error)))
    }

    async fn copy_aside(&self, objects: &[Version]) -> Result<(), Refusal> {
        let copies: Vec<_> = objects.iter().map(|source| self.copy(source).boxed()).collect();
        let copies = futures::stream::iter(copies).buffer_unordered(COPIES_MAX);
        copies.try_for_each(|()| std::future::ready(Ok(()))).await
    }

    async fn copy(&self, source: &Version) -> Result<(), Refusal> {
        let key = self.aside(source.key.as_str())?;
        let store: &dyn ObjectStore = &*self.bucket.store;
        let copied = copy_whole(store, source, &key, None, &Condition::None).await;
        copied.map(drop).map_err(|error| refusal(&error))
    }

    /// Where an object is moved aside to.
    fn aside(&self, key: &str) -> Result<Key, Refusal> {
        let marker = &self.found.marker;
        let rest = key.strip_prefix(&marker.prefix).unwrap_or(key);
        let aside = format!("{}{rest}", marker.archive);
        if aside.len() > MAX_KEY_BYTES {
            let reason = format!(
                "{key} would get a name longer than {MAX_KEY_BYTES} bytes below {}; rename it",
                marker.archive
            );
            return Err(Refusal::new(Code::FailedPrecondition, reason));
        }
        Ok(Key::new(aside))
    }

    /// Ends what a listing of objects does not show. Older versions are removed only with a bucket
    /// that was made for the volume: elsewhere whoever switched them on wants to have them.
    async fn remove_remnants(&self) -> Result<(), Refusal> {
        let (marker, bare) = (&self.found.marker, &self.bucket.bare);
        bare.remove_uploads(&marker.prefix).await.map_err(|error| refusal(&error))?;
        if self.takes_the_bucket() {
            bare.remove_versions("", is_reserved).await.map_err(|error| refusal(&error))?;
        }
        Ok(())
    }

    fn takes_the_bucket(&self) -> bool {
        let marker = &self.found.marker;
        marker.is_whole_bucket && marker.on_delete == OnDelete::Delete
    }

    /// Removes the marker, and the bucket that was made for the volume.
    async fn end(self) -> Result<(), Refusal> {
        self.markers.remove(&self.found).await?;
        if self.takes_the_bucket() {
            remove_bucket(&self.bucket).await?;
        }
        Ok(())
    }
}

/// Removes a bucket in which nothing is. Some stores would remove what is in it too.
pub(super) async fn remove_bucket(bucket: &Bucket) -> Result<(), Refusal> {
    let request = ListRequest { max_keys: Some(1), ..ListRequest::default() };
    let page = match bucket.store.list(&request).await {
        Err(error) if *error.kind() == ErrorKind::NoSuchBucket => return Ok(()),
        page => page.map_err(|error| refusal(&error))?,
    };
    if let Some(line) = page.lines.first() {
        let reason = format!("the bucket {} stays: {} is in it", bucket.bare.bucket(), line.key());
        return Err(Refusal::new(Code::FailedPrecondition, reason));
    }
    // The marker is gone, and what the store was asked with; either may have had versions.
    bucket
        .bare
        .remove_versions("", |key| !is_reserved(key))
        .await
        .map_err(|error| refusal(&error))?;
    bucket.bare.delete_bucket().await.map_err(|error| refusal(&error))
}
