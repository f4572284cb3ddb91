//! Versions that somebody wants whole.
//!
//! Owns who is told when a version's last block is on disk. Promises: whoever asked before that
//! block was written is told after it, or hears that he is not waited for any more; never more
//! than a fixed number wait. Must not know what they do then.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::oneshot;

use super::format::Id;

/// Versions that are waited for, 100 bytes each; the one that was asked for first goes first.
const WANTED_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1 024 is not zero");

/// Who waits, one for a version.
#[derive(Debug)]
pub(super) struct Wanted(Mutex<LruCache<Id, oneshot::Sender<()>>>);

impl Default for Wanted {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(WANTED_MAX)))
    }
}

impl Wanted {
    /// Waits for a version from now on, in the place of who did before.
    pub(super) fn wait(&self, id: Id) -> oneshot::Receiver<()> {
        let (told, whole) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(id, told);
        whole
    }

    /// A version is whole now.
    pub(super) fn is_whole(&self, id: Id) {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(&id);
        if let Some(told) = told {
            // Who waited may be gone.
            let _ = told.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(number: u16) -> Id {
        let mut id = [0; 16];
        [id[0], id[1]] = number.to_be_bytes();
        Id(id)
    }

    #[tokio::test]
    async fn who_waits_is_told_once_and_the_oldest_is_given_up() {
        let wanted = Wanted::default();
        let (first, second) = (wanted.wait(id(1)), wanted.wait(id(2)));
        wanted.is_whole(id(2));
        wanted.is_whole(id(2));
        assert!(second.await.is_ok());
        let others: Vec<_> = (2..=1025).map(|number| wanted.wait(id(number))).collect();
        assert!(first.await.is_err(), "it made room");
        drop(others);
        wanted.is_whole(id(7));
    }
}
