//! Reading ahead of the reader.
//!
//! Owns how one handle's reads become orders to the cache: the streams its reads belong to, and
//! ahead of each a window of parallel GETs, as large as the way to the store is long and as the
//! stream's share of the memory allows. Promises: the bytes of the version asked for or the
//! store's error; what is demanded is ordered before what is ahead of it. Must not know inodes,
//! staging or FUSE.

mod pattern;
mod stream;
mod window;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::cache::Cache;
use crate::store::{Result, Version};
use crate::units::ByteRange;

pub use pattern::{Access, Pattern, STREAMS_MAX, Seen};
pub use window::Window;

use stream::Stream;

/// Reads in a row before anything is fetched ahead: the first read of a file is often the only
/// one (`file`, `head -c`), the second one rarely is.
const STREAK_MIN: u32 = 2;

/// One handle's reader.
#[derive(Debug)]
pub struct Reader {
    cache: Cache,
    window_max: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pattern: Pattern,
    streams: Vec<Stream>,
    /// Some of what was ordered ahead was for nothing.
    careful: bool,
}

impl Reader {
    /// A reader that has at most `window_max` bytes ordered ahead in each stream.
    pub fn new(cache: Cache, window_max: u64) -> Self {
        Self { cache, window_max, state: Mutex::default() }
    }

    /// The bytes of `range` of `version`, cut to its size.
    ///
    /// # Errors
    /// What the store said; [`crate::store::ErrorKind::Changed`] where the version is gone.
    pub async fn read_at(&self, version: &Arc<Version>, range: ByteRange) -> Result<Bytes> {
        let range = range.intersect(ByteRange::new(0, version.size));
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        // Before it is ordered, since who waits for memory comes behind those who came before.
        let demand = self.cache.demand(version, range).await;
        let is_passed = self.look_ahead(version, range, demand.missed());
        let bytes = demand.bytes().await?;
        if is_passed {
            self.cache.passed(version, range);
        }
        Ok(bytes)
    }

    /// Takes note of a read and orders what comes after it; true where it will not come again.
    fn look_ahead(&self, version: &Arc<Version>, range: ByteRange, missed: u64) -> bool {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        let seen = state.pattern.observe(range);
        while state.streams.len() <= seen.slot {
            state.streams.push(Stream::new(self.cache.clone()));
        }
        let stream = &mut state.streams[seen.slot];
        if seen.is_new {
            state.careful |= stream.ends();
            stream.begins(state.careful);
        }
        if seen.streak < STREAK_MIN {
            return false;
        }
        stream.goes_on(version, range, seen.access, (missed, self.window_max));
        matches!(seen.access, Access::Forward { .. } | Access::Backward { .. })
    }
}
