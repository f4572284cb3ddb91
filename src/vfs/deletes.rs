//! Deletes that were acknowledged and leave together.
//!
//! Owns the queue between an unlink(2) that has returned and the DeleteObjects that carries it out,
//! and what waits for it: whoever stores under a queued key again, takes the directory away, syncs
//! it, or ends the mount. Promises: a queued name is gone for every verb; a key whose delete fails
//! is there again, and the next RMDIR or FSYNCDIR above it says why. Must not know inodes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use super::attr::Ino;
use super::{Core, Result, Vfs};
use crate::journal::{Kind, Record};
use crate::naming::{Key, Name, Prefix};
use crate::store::{self, Condition, Deletion, ErrorKind, Version};

/// Keys per DeleteObjects, S3's limit.
pub(super) const KEYS_PER_REQUEST: usize = 1000;

/// A request leaves when no key has joined it for so long.
const COMPANY_DELAY: Duration = Duration::from_millis(100);

/// The first key of a request waits no longer than this, however many join.
const COMPANY_MAX: Duration = Duration::from_secs(1);

/// Keys acknowledged and not carried out; a further unlink waits for room. Four full requests, so
/// that `rm -r` never waits for one to come back before it fills the next.
const KEYS_MAX: usize = 4 * KEYS_PER_REQUEST;

/// Requests on their way at once: the four full ones, and some that somebody hurried.
const REQUESTS_IN_FLIGHT_MAX: usize = 8;

/// Single deletes on their way at once, for a store that knows no DeleteObjects.
const SINGLES_IN_FLIGHT_MAX: usize = 32;

/// Failures kept for the RMDIR that will ask; the first says as much as the thousandth.
const FAILURES_MAX: usize = 1000;

/// Keys that have gone and that a listing asked before may still bring: a page brings 1 000.
const LANDED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("10 000 is not zero");

/// The queue.
#[derive(Debug)]
pub(super) struct Deletes {
    queue: Mutex<Queue>,
    /// Keys have left the queue.
    settled: Notify,
    /// The next request is to leave now.
    hurry: Notify,
    requests: Arc<Semaphore>,
}

/// A name that was taken away, whose object is to go.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    /// The directory it was in.
    pub(super) parent: Ino,
    /// Its name there.
    pub(super) name: Name,
    /// What a later process finds of it.
    pub(super) record: Record,
    /// What must go: whatever stands there, as unlink(2) means it, or a version that has waited
    /// so long that another client may have put its own in that place.
    pub(super) condition: Condition,
}

/// An acknowledged delete in the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DeleteIntent {
    /// What goes, and nothing else that may stand there later.
    pub(super) version: Version,
}

#[derive(Debug)]
struct Queue {
    /// Every key acknowledged and not carried out.
    keys: BTreeMap<Key, Queued>,
    /// Those of them in no request yet, oldest first.
    unsent: VecDeque<Key>,
    failures: BTreeMap<Key, store::Error>,
    landed: LruCache<Key, Instant>,
    is_urgent: bool,
    /// A task sends what comes.
    is_served: bool,
    /// The mount ends: what fails from now on is left to the next one.
    is_ending: bool,
}

impl Default for Deletes {
    fn default() -> Self {
        let queue = Queue {
            keys: BTreeMap::new(),
            unsent: VecDeque::new(),
            failures: BTreeMap::new(),
            landed: LruCache::new(LANDED_MAX),
            is_urgent: false,
            is_served: false,
            is_ending: false,
        };
        let requests = Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX));
        let (settled, hurry) = (Notify::new(), Notify::new());
        Self { queue: Mutex::new(queue), settled, hurry, requests }
    }
}

impl Deletes {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True where the key's delete is acknowledged and not carried out.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.queue().keys.contains_key(key)
    }

    /// True where what the store said of the key, when it was `asked`, is outdated by its delete.
    pub(super) fn outdates(&self, key: &Key, asked: Instant) -> bool {
        let queue = self.queue();
        queue.keys.contains_key(key) || queue.landed.peek(key).is_some_and(|&at| at > asked)
    }

    /// Waits until `is_so`; what is queued leaves at once.
    async fn wait_until(&self, is_so: impl Fn(&Queue) -> bool) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let mut queue = self.queue();
                if is_so(&queue) {
                    return;
                }
                queue.is_urgent = !queue.unsent.is_empty();
            }
            self.hurry.notify_one();
            settled.await;
        }
    }

    /// Waits for company, for somebody in a hurry, or for a full request.
    async fn wait_until_due(&self) {
        let longest = tokio::time::sleep(COMPANY_MAX);
        tokio::pin!(longest);
        loop {
            let waiting = {
                let queue = self.queue();
                if queue.is_urgent || queue.unsent.len() >= KEYS_PER_REQUEST {
                    return;
                }
                queue.unsent.len()
            };
            tokio::select! {
                () = &mut longest => return,
                () = tokio::time::sleep(COMPANY_DELAY) => {
                    if self.queue().unsent.len() == waiting {
                        return;
                    }
                }
                () = self.hurry.notified() => {}
            }
        }
    }

    /// The objects of the next request; none where nothing is left, and then nobody serves the
    /// queue.
    fn take(&self) -> Option<Vec<Deletion>> {
        let mut queue = self.queue();
        let count = queue.unsent.len().min(KEYS_PER_REQUEST);
        let keys: Vec<Key> = queue.unsent.drain(..count).collect();
        let object = |key: Key| {
            let condition = queue.keys.get(&key).map(|queued| queued.condition.clone());
            Deletion { condition: condition.unwrap_or_default(), key }
        };
        let objects = keys.into_iter().map(object).collect();
        if queue.unsent.is_empty() {
            queue.is_urgent = false;
        }
        queue.is_served = count > 0;
        (count > 0).then_some(objects)
    }

    /// The request for these objects is over; returns the names that are back: with what failed, or
    /// because they are another client's now.
    fn land(
        &self,
        objects: &[Deletion],
        failed: Vec<(Key, store::Error)>,
        now: Instant,
    ) -> Vec<Queued> {
        let mut back = Vec::new();
        let mut queue = self.queue();
        for (key, error) in failed {
            back.extend(queue.keys.remove(&key));
            if !error.is_changed() && queue.failures.len() < FAILURES_MAX {
                queue.failures.insert(key, error);
            }
        }
        for Deletion { key, .. } in objects {
            if let Some(gone) = queue.keys.remove(key) {
                gone.record.end();
                queue.failures.remove(key);
                queue.landed.put(key.clone(), now);
            }
        }
        drop(queue);
        self.settled.notify_waiters();
        back
    }
}

impl Queue {
    fn has_below(&self, prefix: &Prefix) -> bool {
        let from = Key::new(prefix.as_str());
        self.keys.range(from..).next().is_some_and(|(key, _)| prefix.strip(key.as_str()).is_some())
    }

    /// What failed below `prefix`, forgotten by that; one of it, if any.
    fn take_failure(&mut self, prefix: &Prefix) -> Option<store::Error> {
        let below = |key: &Key| prefix.strip(key.as_str()).is_some();
        let from = Key::new(prefix.as_str());
        let failed: Vec<Key> = self
            .failures
            .range(from..)
            .map(|(key, _)| key)
            .take_while(|key| below(key))
            .cloned()
            .collect();
        let taken: Vec<store::Error> =
            failed.iter().filter_map(|key| self.failures.remove(key)).collect();
        taken.into_iter().next()
    }
}

impl Vfs {
    /// Writes down that an object is to go; it survives the process from here on.
    ///
    /// # Errors
    /// The journal's disk.
    pub(super) fn note_delete(&self, version: &Version) -> io::Result<Record> {
        let intent = DeleteIntent { version: version.clone() };
        self.0.engine.journal().begin(Kind::Delete, &[], &intent)
    }

    /// Acknowledges a delete: it leaves soon, with others.
    pub(super) async fn delete_soon(&self, key: Key, queued: Queued) {
        let deletes = &self.0.deletes;
        deletes.wait_until(|queue| queue.keys.len() < KEYS_MAX).await;
        let (is_full, was_served) = {
            let mut queue = deletes.queue();
            if queue.keys.insert(key.clone(), queued).is_none() {
                queue.unsent.push_back(key);
            }
            let is_full = queue.unsent.len() >= KEYS_PER_REQUEST;
            (is_full, std::mem::replace(&mut queue.is_served, true))
        };
        if is_full {
            deletes.hurry.notify_one();
        }
        if !was_served {
            self.0.tasks.spawn(serve(Arc::clone(deletes), Arc::downgrade(&self.0)));
        }
    }

    /// Waits for the delete of `key`, where one is queued. True where it failed, so that the object
    /// is still there.
    pub(super) async fn settle_delete(&self, key: &Key) -> bool {
        let deletes = &self.0.deletes;
        deletes.wait_until(|queue| !queue.keys.contains_key(key)).await;
        deletes.queue().failures.remove(key).is_some()
    }

    /// Waits for every delete below `prefix`.
    ///
    /// # Errors
    /// What the store said of one that failed since the last time somebody asked.
    pub(super) async fn settle_deletes(&self, prefix: &Prefix) -> Result<()> {
        let deletes = &self.0.deletes;
        deletes.wait_until(|queue| !queue.has_below(prefix)).await;
        match deletes.queue().take_failure(prefix) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Waits for every delete; how many failed that nobody asked about.
    pub(super) async fn end_deletes(&self) -> u64 {
        let deletes = &self.0.deletes;
        deletes.queue().is_ending = true;
        deletes.wait_until(|queue| queue.keys.is_empty()).await;
        let queue = deletes.queue();
        queue.failures.len() as u64
    }

    /// Carries out one request's deletes.
    async fn send_deletes(&self, objects: Vec<Deletion>) {
        let failed = self.delete_all(&objects).await;
        let refused = || failed.iter().filter(|(_, error)| !error.is_changed());
        if let Some((key, error)) = refused().next() {
            let count = refused().count();
            tracing::error!(
                %key, %error, count,
                "unlinked files could not be deleted and are there again; check the permission to \
                 delete (s3:DeleteObject), and remove them again"
            );
        }
        let back = self.0.deletes.land(&objects, failed, self.0.clock.now());
        let is_ending = self.0.deletes.queue().is_ending;
        for Queued { parent, name, record, condition } in back {
            // The next mount looks for itself whether a version still stands.
            if !is_ending || condition != Condition::None {
                record.end();
            }
            if let Ok(directory) = self.inode(parent) {
                directory.state().knowledge.is_back(&name);
            }
        }
    }

    /// Deletes objects together where the store can; returns those that could not be deleted.
    pub(super) async fn delete_all(&self, objects: &[Deletion]) -> Vec<(Key, store::Error)> {
        let mut failed = Vec::new();
        for batch in objects.chunks(KEYS_PER_REQUEST) {
            let refused = match batch {
                [_] => self.delete_singly(batch).await,
                _ => match self.0.store.delete_many(batch).await {
                    Ok(refused) => refused,
                    Err(error) if *error.kind() == ErrorKind::Unsupported => {
                        self.delete_singly(batch).await
                    }
                    Err(error) => {
                        batch.iter().map(|one| (one.key.clone(), error.clone())).collect()
                    }
                },
            };
            failed.extend(refused);
        }
        failed
    }

    async fn delete_singly(&self, objects: &[Deletion]) -> Vec<(Key, store::Error)> {
        let mut sends: Vec<BoxFuture<'_, Option<(Key, store::Error)>>> = Vec::new();
        for Deletion { key, condition } in objects {
            let send = async move {
                let deleted = self.0.store.delete(key, condition).await;
                deleted.err().map(|error| (key.clone(), error))
            };
            sends.push(send.boxed());
        }
        let sent = futures::stream::iter(sends).buffer_unordered(SINGLES_IN_FLIGHT_MAX);
        sent.filter_map(std::future::ready).collect().await
    }
}

/// Sends what is queued until nothing is.
async fn serve(deletes: Arc<Deletes>, core: Weak<Core>) {
    loop {
        deletes.wait_until_due().await;
        let Ok(permit) = Arc::clone(&deletes.requests).acquire_owned().await else { return };
        let Some(objects) = deletes.take() else { return };
        let Some(core) = core.upgrade() else { return };
        let vfs = Vfs(core);
        vfs.0.tasks.spawn({
            let vfs = vfs.clone();
            async move {
                vfs.send_deletes(objects).await;
                drop(permit);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Operation;

    fn queued(keys: &[&str]) -> Deletes {
        let deletes = Deletes::default();
        let name = Name::new("n".as_ref()).unwrap();
        for key in keys {
            let mut queue = deletes.queue();
            let (name, record) = (name.clone(), Record::none());
            let (parent, condition) = (Ino::ROOT, Condition::None);
            queue.keys.insert(Key::from(*key), Queued { parent, name, record, condition });
            queue.unsent.push_back(Key::from(*key));
        }
        deletes
    }

    #[test]
    fn a_directory_waits_for_what_is_below_it_and_nothing_else() {
        let deletes = queued(&["a-b", "a/b/c", "b"]);
        let has = |prefix: &str| deletes.queue().has_below(&Prefix::from_user(prefix));
        assert!(has("") && has("a") && has("a/b"));
        assert!(!has("a/b/c") && !has("b") && !has("c"));
    }

    #[test]
    fn what_fails_is_there_again_and_is_told_once() {
        let clock = Clock::manual();
        let deletes = queued(&["d/gone", "d/kept"]);
        let objects = deletes.take().unwrap();
        let denied = store::Error::new(Operation::DeleteMany, ErrorKind::Denied);
        let asked = clock.now();
        clock.advance(COMPANY_DELAY);
        let back = deletes.land(&objects, vec![(Key::from("d/kept"), denied)], clock.now());
        assert_eq!(back.len(), 1);
        assert!(deletes.outdates(&Key::from("d/gone"), asked));
        assert!(!deletes.outdates(&Key::from("d/gone"), clock.now()));
        assert!(
            !deletes.outdates(&Key::from("d/kept"), asked) && !deletes.has(&Key::from("d/kept"))
        );
        let told = |prefix| deletes.queue().take_failure(&Prefix::from_user(prefix)).is_some();
        assert!(!told("e") && told("d") && !told("d"));
    }

    #[test]
    fn a_name_that_is_another_clients_now_is_there_and_no_failure() {
        let clock = Clock::manual();
        let deletes = queued(&["d/theirs"]);
        let objects = deletes.take().unwrap();
        let asked = clock.now();
        clock.advance(COMPANY_DELAY);
        let changed = store::Error::new(Operation::DeleteMany, ErrorKind::Changed);
        let back = deletes.land(&objects, vec![(Key::from("d/theirs"), changed)], clock.now());
        assert_eq!(back.len(), 1);
        assert!(!deletes.outdates(&Key::from("d/theirs"), asked));
        assert!(deletes.queue().take_failure(&Prefix::from_user("d")).is_none());
    }

    #[test]
    fn a_request_has_at_most_a_thousand_keys() {
        let names: Vec<String> = (0..2_500).map(|number| format!("{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let deletes = queued(&names);
        let sizes = std::iter::from_fn(|| deletes.take().map(|objects| objects.len()));
        assert_eq!(sizes.collect::<Vec<_>>(), [1000, 1000, 500]);
    }
}
