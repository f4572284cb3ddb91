//! Reading ahead of the reader.
//!
//! Owns how one handle's reads become orders to the cache: the pattern of its reads, and a window
//! of parallel GETs ahead of a sequential one, within a bound of bytes. Promises: the bytes of
//! the version asked for or the store's error. Must not know inodes, staging or FUSE.

mod pattern;
mod window;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::cache::Cache;
use crate::store::{Result, Version};
use crate::units::ByteRange;

pub use pattern::{Access, Pattern};
pub use window::Window;

/// Reads in a row before anything is fetched ahead: the first read of a file is often the only
/// one (`file`, `head -c`), the second one rarely is.
const STREAK_MIN: u32 = 2;

/// One handle's reader.
#[derive(Debug)]
pub struct Reader {
    cache: Cache,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pattern: Pattern,
    window: Window,
}

impl Reader {
    /// A reader that has at most `window_max` bytes ordered ahead.
    pub fn new(cache: Cache, window_max: u64) -> Self {
        let state = State { pattern: Pattern::default(), window: Window::new(window_max) };
        Self { cache, state: Mutex::new(state) }
    }

    /// The bytes of `range` of `version`, cut to its size.
    ///
    /// # Errors
    /// What the store said; [`crate::store::ErrorKind::Changed`] where the version is gone.
    pub async fn read_at(&self, version: &Arc<Version>, range: ByteRange) -> Result<Bytes> {
        let range = range.intersect(ByteRange::new(0, version.size));
        let orders = self.observe(version, range);
        let wanted = self.cache.get_or_fetch(version, range);
        // The demanded bytes are ordered first: a future does nothing until it is polled.
        tokio::pin!(wanted);
        if let std::task::Poll::Ready(found) = futures::poll!(&mut wanted) {
            self.order(version, &orders);
            return found;
        }
        self.order(version, &orders);
        wanted.await
    }

    fn observe(&self, version: &Version, range: ByteRange) -> Vec<ByteRange> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.pattern.observe(range) {
            Access::Sequential { streak } if streak >= STREAK_MIN => {
                let frontier = state.pattern.frontier();
                state.window.advance(frontier, version.size)
            }
            Access::Sequential { .. } => Vec::new(),
            Access::Random => {
                state.window.reset();
                Vec::new()
            }
        }
    }

    fn order(&self, version: &Arc<Version>, orders: &[ByteRange]) {
        for &order in orders {
            self.cache.prefetch(version, order);
        }
    }
}
