//! Room in a full staging area.
//!
//! Owns what may leave the staging files so that a writer can go on, and how long it waits for
//! that: first what objects have, then what running uploads have acknowledged, oldest first. The
//! first 16 MiB of a file stay as long as anything else can go, since headers are patched.
//! Promises: a writer waits only while parts are on their way, and each of those is given up after
//! the operation timeout without progress. Must not know what writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{MutexGuard, Notify};

use super::stream::Stream;
use super::{Engine, Staged};
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

/// Makes room for `wanted` bytes more, waiting for parts on their way; false where nothing is left
/// that could go. The caller holds `stream`, which is `own`'s.
pub(super) async fn make_room(own: &Staged, stream: &mut Stream, wanted: u64) -> bool {
    let (staging, traffic) = (&own.engine.0.staging, &own.engine.0.traffic);
    if wanted > staging.quota() {
        return false;
    }
    loop {
        let answered = traffic.answered.notified();
        tokio::pin!(answered);
        // Before looking, so that no answer is missed in between.
        answered.as_mut().enable();
        let is_idle = traffic.is_idle();
        sweep(own, stream, wanted, is_idle).await;
        if staging.has_room(wanted) {
            return true;
        }
        if is_idle && traffic.is_idle() {
            return false;
        }
        answered.await;
    }
}

/// One look at everything that may go.
async fn sweep(own: &Staged, stream: &mut Stream, wanted: u64, is_last_look: bool) {
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
    let enough = || own.engine.0.staging.has_room(wanted);
    let swept = all().try_for_each(|(one, _)| one.drop_clean(&enough)).and_then(|()| {
        let heads = [HEAD, 0].into_iter();
        heads.flat_map(|head| all().map(move |(one, stream)| (one, stream, head))).try_for_each(
            |(one, stream, head)| if enough() { Ok(()) } else { stream.punch(one, head, &enough) },
        )
    });
    if let Err(error) = swept {
        tracing::warn!(%error, "the disk below --cache-dir makes no holes, so staging stays full");
    }
}

impl Staged {
    fn drop_clean(&self, enough: &impl Fn() -> bool) -> std::io::Result<()> {
        // The object beneath an unlinked file is going.
        if self.is_local() || enough() { Ok(()) } else { self.stage.drop_clean(enough) }
    }
}

impl Engine {
    /// The files that are staged, oldest first.
    fn files(&self) -> Vec<Arc<Staged>> {
        self.registered().iter().filter_map(std::sync::Weak::upgrade).collect()
    }
}
