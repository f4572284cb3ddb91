//! What is on disk first, the rest from the store.
//!
//! Owns how a run of missing blocks is divided between the two, and the memory and the terms it
//! was ordered on with it. Promises: what cannot be read back is fetched. Must not know how either
//! is read.

use std::sync::{Arc, Weak};

use futures::future::{join, join_all};

use super::disk::{Held, Means};
use super::fetch::{Fetcher, Room, Terms};
use super::flight::{Call, Landing};
use crate::budget::Grant;
use crate::store::Version;

impl Fetcher {
    /// Brings a run of adjacent blocks.
    pub(super) async fn bring(
        self: Arc<Self>,
        version: Arc<Version>,
        run: Vec<Landing>,
        call: Arc<Call>,
        terms: Terms,
    ) {
        self.proofs.is_steady(&version).await;
        let Some(disk) = &self.disk else { return self.fly(version, run, call, terms).await };
        let (mut missing, held) = disk.look(&version, run).await;
        match (held, terms) {
            (None, terms) => {
                // One run still, whole as it came.
                if let Some(run) = missing.pop() {
                    self.fly(version, run, call, terms).await;
                }
            }
            (Some(held), Terms::Demand) => {
                let fly = |run| {
                    let (fetcher, version) = (Arc::clone(&self), Arc::clone(&version));
                    fetcher.fly(version, run, Arc::clone(&call), Terms::Demand)
                };
                join(join_all(missing.into_iter().map(fly)), self.land(&version, held, None)).await;
            }
            (Some(held), Terms::Ahead(mut room, reader)) => {
                let ahead = missing.into_iter().filter_map(|run| {
                    let terms = Terms::Ahead(room.split(&run)?, Weak::clone(&reader));
                    let (fetcher, version) = (Arc::clone(&self), Arc::clone(&version));
                    Some(fetcher.fly(version, run, Arc::clone(&call), terms))
                });
                let ahead: Vec<_> = ahead.collect();
                let Room { grant, promise } = room;
                // What is read back has buffers promised as it is.
                drop(promise);
                let means = Some((grant, reader));
                join(join_all(ahead), self.land(&version, held, means)).await;
            }
            // A reader whose share is less than a run reads back what he comes to, and no more:
            // whoever waits for what is given up here asks anew.
            (Some(held), drain) => {
                drop(held);
                if let Some(run) = (!missing.is_empty()).then(|| missing.swap_remove(0)) {
                    self.fly(version, run, call, drain).await;
                }
            }
        }
    }

    /// Reads back what is on disk, ahead of a reader into memory that he was given; fetches what
    /// is not as it was written.
    async fn land(
        self: &Arc<Self>,
        version: &Arc<Version>,
        held: Held,
        ahead: Option<(Grant, Weak<()>)>,
    ) {
        let means = Means { fetcher: self, version, ahead };
        let lost = held.land(means).await;
        let fly = |run| {
            let (fetcher, version) = (Arc::clone(self), Arc::clone(version));
            fetcher.fly(version, run, Arc::default(), Terms::Demand)
        };
        join_all(lost.into_iter().map(fly)).await;
    }
}
