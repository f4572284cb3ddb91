//! One operation per volume at a time.
//!
//! Owns the locks, by volume id. Promises: a call that meets another one of its volume is told so
//! at once; what the driver does by itself waits its turn. Must not know what is done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::volume::refusal::{Code, Refusal};

/// The volumes that something is done to.
#[derive(Debug, Default)]
pub(super) struct Busy(Mutex<HashMap<String, Arc<Turn<()>>>>);

/// The right to work at a volume, until it is dropped.
#[derive(Debug)]
pub(super) struct Alone {
    _turn: OwnedMutexGuard<()>,
}

impl Busy {
    /// For a call: now or never.
    pub(super) fn enter(&self, volume: &str) -> Result<Alone, Refusal> {
        self.turn(volume).try_lock_owned().map(|turn| Alone { _turn: turn }).map_err(|_| {
            let why = format!("the volume {volume} is being worked at; the next try will do");
            Refusal::new(Code::Aborted, why)
        })
    }

    /// For the driver itself: after whoever is at it.
    pub(super) async fn wait(&self, volume: &str) -> Alone {
        Alone { _turn: self.turn(volume).lock_owned().await }
    }

    fn turn(&self, volume: &str) -> Arc<Turn<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody holds or awaits what only this table knows.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(volume.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_call_is_told_so_and_another_volume_does_not_care() {
        let busy = Busy::default();
        let first = busy.enter("a").unwrap();
        assert_eq!(busy.enter("a").unwrap_err().code, Code::Aborted);
        let _other = busy.enter("b").unwrap();
        drop(first);
        let _waited = busy.wait("a").await;
        assert!(busy.enter("a").is_err());
    }
}
