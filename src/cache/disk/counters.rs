//! What the disk cache did, in numbers.
//!
//! Owns the counters and their snapshot. Promises: counting never waits. Must not know who reads
//! the numbers.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counts since the mount began.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)+
        }

        /// What the counters said at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct DiskSnapshot {
            $($(#[$doc])* pub $name: u64,)+
            /// Bytes that all cached versions take on disk, as far as this mount knows.
            pub used_bytes: u64,
            /// Versions that are cached, as far as this mount knows.
            pub versions: u64,
        }

        impl Counters {
            /// The numbers now; what is not counted here is 0.
            pub(super) fn snapshot(&self) -> DiskSnapshot {
                DiskSnapshot { $($name: self.$name.get(),)+ ..DiskSnapshot::default() }
            }
        }
    };
}

counters! {
    /// Blocks that were read from disk.
    hits,
    /// Blocks that were looked for and not there.
    misses,
    /// Blocks that were written.
    written,
    /// Blocks that were not written because the disk did not keep up.
    dropped,
    /// Blocks that were not written because nothing could go for them.
    refused,
    /// Versions that went to make room.
    evicted,
    /// Blocks and versions that were not as they had been written.
    damaged,
    /// Failures of the disk.
    errors,
}

/// One number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
