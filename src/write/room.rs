//! Room in a full staging area.
//!
//! Owns what may leave the staging files so that a writer can go on, and how long it waits for
//! that: first what objects have, then what running uploads have acknowledged, oldest first. The
//! first 16 MiB of a file stay as long as anything else can go, since headers are patched and no
//! part on its way would make room.
//! Promises: a writer waits only while parts are on their way, and each of those is given up after
//! the operation timeout without progress. Must not know what writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{MutexGuard, Notify};

use super::stream::Stream;
use super::{Engine, Staged, Staging};
use crate::units::MIB;

/// Kept of each file as long as possible.
const HEAD: u64 = 16 * MIB;

/// A last look at what others hold waits so long for each; they may only be in the middle of a
/// write.
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// The parts of all streams that are on their way, and who waits for an answer to one.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    under_way: AtomicUsize,
    answered: Notify,
}

/// One part on its way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Traffic>);

impl Traffic {
    pub(super) fn enter(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(Arc::clone(self))
    }

    fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        self.0.answered.notify_waiters();
    }
}

/// What a writer lacks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lack {
    wanted: u64,
    /// What all files together may occupy with the wanted bytes.
    limit: u64,
}

impl Lack {
    /// The quota has no room for so many bytes.
    pub(super) fn of_quota(staging: &Staging, wanted: u64) -> Self {
        Self { wanted, limit: staging.quota() }
    }

    /// The disk has no room for so many bytes, whatever the quota says.
    pub(super) fn of_disk(staging: &Staging, wanted: u64) -> Self {
        Self { wanted, limit: staging.used() }
    }

    fn is_met(&self, staging: &Staging) -> bool {
        staging.used().saturating_add(self.wanted) <= self.limit
    }
}

/// Makes room, waiting for parts on their way; false where nothing is left that could go. The
/// caller holds `stream`, which is `own`'s.
pub(super) async fn make_room(own: &Staged, stream: &mut Stream, lack: Lack) -> bool {
    let (staging, traffic) = (&own.engine.0.staging, &own.engine.0.traffic);
    if lack.wanted > lack.limit {
        return false;
    }
    // What the store did not take when it was tried last is tried once more.
    for other in own.engine.files() {
        if let Ok(mut stream) = other.stream.try_lock() {
            stream.go_on(&other);
        }
    }
    stream.go_on(own);
    loop {
        let answered = traffic.answered.notified();
        tokio::pin!(answered);
        // Before looking, so that no answer is missed in between.
        answered.as_mut().enable();
        let is_idle = traffic.is_idle();
        sweep(own, stream, lack, is_idle).await;
        if lack.is_met(staging) {
            return true;
        }
        if is_idle && traffic.is_idle() {
            return false;
        }
        answered.await;
    }
}

/// One look at everything that may go.
async fn sweep(own: &Staged, stream: &mut Stream, lack: Lack, is_last_look: bool) {
    stream.settle(own);
    let others: Vec<Arc<Staged>> =
        own.engine.files().into_iter().filter(|other| !std::ptr::eq(&**other, own)).collect();
    let mut held: Vec<(&Staged, MutexGuard<'_, Stream>)> = Vec::new();
    for other in &others {
        // Held by a writer or a commit: what it holds becomes free, or is in use.
        let locked = match other.stream.try_lock() {
            Ok(stream) => Some(stream),
            Err(_) if is_last_look => {
                tokio::time::timeout(BUSY_WAIT, other.stream.lock()).await.ok()
            }
            Err(_) => None,
        };
        if let Some(mut locked) = locked {
            locked.settle(other);
            held.push((other, locked));
        }
    }
    let all = || std::iter::once((own, &*stream)).chain(held.iter().map(|(one, s)| (*one, &**s)));
    let enough = || lack.is_met(&own.engine.0.staging);
    let heads: &[u64] = if is_last_look { &[HEAD, 0] } else { &[HEAD] };
    let swept =
        all().try_for_each(|(one, stream)| one.drop_clean(stream, &enough)).and_then(|()| {
            heads.iter().try_for_each(|&head| {
                // What the journal says of a promised file holds until its commit.
                let mut free = all().filter(|(one, _)| !one.is_promised());
                free.try_for_each(|(one, stream)| stream.punch(one, head, &enough))
            })
        });
    if let Err(error) = swept {
        tracing::warn!(%error, "the disk of the journal makes no holes, so staging stays full");
    }
}

impl Staged {
    fn drop_clean(&self, stream: &Stream, enough: &impl Fn() -> bool) -> std::io::Result<()> {
        // The object beneath an unlinked file is going.
        if self.is_local() || enough() {
            return Ok(());
        }
        self.stage.drop_clean(&stream.being_sent(), enough)
    }
}

impl Engine {
    /// The files that are staged, oldest first.
    fn files(&self) -> Vec<Arc<Staged>> {
        self.registered().iter().filter_map(std::sync::Weak::upgrade).collect()
    }
}
