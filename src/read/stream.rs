//! What is on its way ahead of one stream of reads.
//!
//! Owns the stream's window, its share of the mount's memory, and the GETs that are kept open for
//! it where that share is smaller than one request. Must not know how reads are judged.

use std::sync::Arc;

use tokio::sync::watch;

use super::pattern::Access;
use super::window::{REQUEST, START, Window};
use crate::cache::Cache;
use crate::store::Version;
use crate::units::ByteRange;

/// While nothing is known of the way to the store: eight requests fill 1 Gbit/s over 500 ms, or
/// 10 Gbit/s over 50 ms, and as many are read meanwhile.
const UNKNOWN_WAY: u64 = 16 * REQUEST;

/// The least window where the way is known: one request is read while another is on its way.
const WAY_MIN: u64 = 2 * REQUEST;

/// GETs kept open for one stream: the one that is read, and the next.
const DRAINS_MAX: usize = 2;

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    cache: Cache,
    number: u64,
    /// What runs ahead of the stream ends with it.
    reader: Arc<()>,
    window: Window,
    frontier: u64,
    /// How far the GETs kept open for it may be read.
    drains: Vec<watch::Sender<u64>>,
}

impl Stream {
    pub(super) fn new(cache: Cache) -> Self {
        let number = cache.new_stream();
        let (reader, window, drains) = (Arc::default(), Window::default(), Vec::new());
        Self { cache, number, reader, window, frontier: 0, drains }
    }

    /// The reads went elsewhere; true where that leaves much that was fetched for nothing.
    pub(super) fn ends(&mut self) -> bool {
        self.drains.clear();
        self.reader = Arc::default();
        self.cache.leave(self.number);
        self.window.ahead(self.frontier) > START
    }

    /// Another stream has this one's place.
    pub(super) const fn begins(&mut self, careful: bool) {
        self.window = Window::new(careful);
        self.frontier = 0;
    }

    /// A read went on: orders what comes after it. `missed` bytes of it had to be fetched.
    pub(super) fn goes_on(
        &mut self,
        version: &Arc<Version>,
        range: ByteRange,
        access: Access,
        (missed, window_max): (u64, u64),
    ) {
        let share = self.cache.share(self.number).min(window_max);
        let limit = self.limit(share);
        let orders = match access {
            Access::Random => return,
            Access::Forward { frontier } => {
                self.frontier = frontier;
                if missed > 0 && self.window.ordered().is_some_and(|end| range.end <= end) {
                    // What was fetched for this read was dropped before it came.
                    self.window.shrink(frontier);
                }
                let until = frontier.saturating_add(share);
                self.come_on(until);
                if share < REQUEST && self.drain(version, until) {
                    return;
                }
                self.window.forward(frontier, version.size, limit)
            }
            Access::Backward { frontier } => self.window.backward(frontier, limit),
            Access::Strided { last, step } => {
                self.window.strided((last, step), version.size, limit)
            }
        };
        for order in orders {
            if !self.cache.prefetch(version, order, &self.reader) {
                if matches!(access, Access::Forward { .. }) {
                    self.window.refused(order);
                }
                break;
            }
        }
    }

    /// As much as the way to the store takes, within the share.
    fn limit(&self, share: u64) -> u64 {
        let way = self.cache.way(REQUEST).map_or(UNKNOWN_WAY, |way| way.max(WAY_MIN));
        way.min(share)
    }

    /// Lets what is kept open for the stream come on.
    fn come_on(&mut self, until: u64) {
        // Those that have brought everything, or were given up, are closed.
        self.drains.retain(|drain| !drain.is_closed());
        for drain in &self.drains {
            drain.send_replace(until);
        }
    }

    /// Keeps a GET open that is read up to `until`; false where no request is free for that.
    fn drain(&mut self, version: &Arc<Version>, until: u64) -> bool {
        let ordered = self.window.ordered().unwrap_or(self.frontier).max(self.frontier);
        if ordered >= until.min(version.size) || self.drains.len() >= DRAINS_MAX {
            return true;
        }
        let boundary = (ordered / REQUEST + 1) * REQUEST;
        let (sender, receiver) = watch::channel(until);
        let range = ByteRange::new(ordered, boundary);
        match self.cache.drain(version, range, &receiver, &self.reader) {
            Some(end) => {
                self.drains.push(sender);
                self.window.reached(end);
                true
            }
            None => false,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.cache.leave(self.number);
    }
}
