//! Traces of questions to the store, in the journal.
//!
//! Owns how the words of the store's traces become intents, and that what an earlier mount left is
//! wiped. Must not know what was asked.

use crate::journal::{Journal, Kind, Pending, Record};
use crate::store::{ObjectStore, Trace, Traces, Wiped};

/// A journal that traces are noted in.
#[derive(Debug)]
pub(super) struct Noted(pub(super) Journal);

impl Traces for Noted {
    fn note(&self, trace: &Trace) -> Wiped {
        let begun = self.0.begin(Kind::Trace, &[], trace);
        let record = begun.unwrap_or_else(|error| {
            tracing::debug!(?trace, %error, "should this mount die now, this stays in the bucket");
            Record::none()
        });
        Box::new(move || record.end())
    }
}

/// Removes what earlier mounts left; what cannot be removed waits for another mount.
pub(super) async fn wipe(pending: &[Pending], store: &dyn ObjectStore) {
    for one in pending.iter().filter(|one| one.kind == Kind::Trace) {
        let trace: Trace = match one.intent() {
            Ok(trace) => trace,
            Err(error) => {
                tracing::error!(%error, "the journal has a trace nobody can read");
                continue;
            }
        };
        match trace.wipe(store).await {
            Ok(()) => one.record().end(),
            Err(error) => {
                tracing::warn!(?trace, %error, "what a dead mount left waits for another one");
            }
        }
    }
}
