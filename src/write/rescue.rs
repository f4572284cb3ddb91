//! Staged bytes that lost, made ready to be kept.
//!
//! Owns what is known of them: which bytes were written, which of the version underneath are at
//! hand, which are missing. Must not know the folder they are kept in, or who won.

use std::io;
use std::pin::pin;

use futures::StreamExt;

use super::stage::Slice;
use super::staging::Quota;
use super::{Error, Staged};
use crate::journal::{Lost, Reason, Recovered};
use crate::naming::Key;
use crate::units::ByteRange;

/// Keeps the bytes, and with them what the cache has of those underneath: a moment later the
/// version they belong to may be nowhere. The caller sees to it that nothing changes meanwhile.
pub(super) async fn keep(
    staged: &Staged,
    key: &Key,
    refusal: &Error,
) -> io::Result<Option<Recovered>> {
    let size = staged.size();
    if size == 0 {
        return Ok(None);
    }
    let (Some(recovery), Some(path)) = (&staged.engine.0.recovery, staged.stage.path()) else {
        return Err(io::Error::other("staged in memory, since there is no --journal-dir"));
    };
    let whole = ByteRange::new(0, size);
    bring_cached(staged, whole).await;
    let account = staged.stage.account().clone();
    let lost = Lost {
        key: key.clone(),
        reason: match refusal {
            Error::Exists { .. } => Reason::Created,
            Error::Lost { .. } => Reason::Refused,
            _ => Reason::Changed,
        },
        base: account.base.as_deref().map(Into::into),
        size,
        dirty: account.dirty.iter().collect(),
        present: account.present.iter().collect(),
        missing: staged.missing().iter().collect(),
    };
    let (recovery, path) = (recovery.clone(), path.to_owned());
    // It waits until the disk has the bytes.
    let kept = tokio::task::spawn_blocking(move || recovery.keep(&path, lost)).await;
    let kept = kept.map_err(io::Error::other)??;
    staged.stage.moved_away();
    Ok(Some(kept))
}

/// What does not fit into the staging folder any more is as good as not cached.
async fn bring_cached(staged: &Staged, whole: ByteRange) {
    let Some(base) = staged.base() else { return };
    for slice in staged.slices(whole) {
        let Slice::Base(gap) = slice else { continue };
        let mut at_hand = pin!(staged.engine.0.cache.at_hand(&base, gap));
        while let Some((at, bytes)) = at_hand.next().await {
            if staged.stage.fill(at, &bytes, Quota::Kept).is_err() {
                return;
            }
        }
    }
}
