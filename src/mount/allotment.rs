//! What a mount may take, and who of its parts has how much of it.
//!
//! Owns the division of the memory limit, and [`Allotment`], the parts that change their size
//! while the mount runs. Promises: what is set aside is never given out twice; a smaller size
//! holds once what was taken has come back. Must not know who asks for a change.

use std::sync::Arc;

use crate::budget::Budget;
use crate::cache::Cache;
use crate::config::Sizes;
use crate::store::Requests;
use crate::units::KIB;
use crate::vfs::{self, Vfs};
use crate::write::Staging;

/// What a request under way takes beside the blocks it brings: an upload's two frames of 256 KiB,
/// or a download's read buffer, which hyper lets grow to 400 KiB.
const REQUEST_BUFFERS: u64 = 512 * KIB;

/// One part in so many of the memory is for the table of what is cached on disk: 192 MiB are
/// enough for 145 000 objects.
const TABLE_SHARE: u64 = 16;

/// What the smallest cached object takes on disk, a page for itself and one for its metadata...
const VERSION_MIN: u64 = 8 * KIB;
/// ...and in the table, where one that went may be remembered for each.
const VERSION_NODES: u64 = 144;

/// What of a mount lies on a disk; the rest is memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) cache: bool,
    pub(super) staging: bool,
}

/// How much each part has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Division {
    /// Requests at once: as many as asked for, within a quarter of the memory. Their buffers are
    /// set aside and not taken from the budget: a commit that holds its bytes waits for a request,
    /// and would wait forever for one that waits for bytes.
    pub(super) requests: u32,
    /// Bytes of memory for the table of what is on disk.
    pub(super) table: u64,
    /// Bytes for everything that holds file bytes.
    pub(super) budget: u64,
    /// Inodes that are known at once.
    pub(super) inodes: usize,
}

impl Division {
    /// Of so much. Without a cache on disk there is no table of it; what is staged in memory is set
    /// aside, since a writer cannot wait for readers to give theirs back.
    pub(super) fn of(sizes: Sizes, on_disk: OnDisk) -> Self {
        let fitting = sizes.memory_limit / 4 / REQUEST_BUFFERS;
        let requests = sizes.max_requests.min(u32::try_from(fitting).unwrap_or(u32::MAX)).max(1);
        let within_disk = sizes.cache_size / VERSION_MIN * VERSION_NODES;
        let table = (sizes.memory_limit / TABLE_SHARE).min(within_disk) * u64::from(on_disk.cache);
        let staged = sizes.staging_size * u64::from(!on_disk.staging);
        let buffers = u64::from(requests) * REQUEST_BUFFERS;
        let set_aside = buffers + sizes.memory_limit / 8 + table + staged;
        Self {
            requests,
            table,
            budget: sizes.memory_limit - set_aside,
            inodes: vfs::Settings::inodes_within(sizes.memory_limit),
        }
    }
}

/// The parts of a mount that have a size.
#[derive(Clone, Debug)]
pub(super) struct Allotment {
    pub(super) budget: Arc<Budget>,
    pub(super) requests: Arc<Requests>,
    pub(super) cache: Cache,
    pub(super) staging: Arc<Staging>,
    pub(super) vfs: Vfs,
    pub(super) on_disk: OnDisk,
}

impl Allotment {
    /// Changes every size, and waits until what is taken fits. One change at a time.
    pub(super) async fn resize(&self, sizes: Sizes) {
        let own = Division::of(sizes, self.on_disk);
        self.staging.set_quota(sizes.staging_size);
        self.vfs.set_inodes_max(own.inodes);
        let memory = async {
            // In this order: once reads hold no more than half of a smaller budget, it has room for
            // them. The other way round they could wait for what waits for them.
            self.cache.resize(own.budget, own.requests).await;
            self.budget.resize(own.budget).await;
        };
        tokio::join!(
            memory,
            self.requests.resize(own.requests),
            self.cache.resize_disk(sizes.cache_size, own.table),
        );
        if !self.on_disk.cache && sizes.cache_size > 0 {
            tracing::warn!("a cache on disk begins with the next start of the mount");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    const DISK: OnDisk = OnDisk { cache: true, staging: true };

    fn sizes(memory_limit: u64, max_requests: u32) -> Sizes {
        Sizes { memory_limit, cache_size: 1 << 40, staging_size: 1 << 40, max_requests }
    }

    #[test]
    fn something_is_left_for_bytes_however_little_there_is_and_however_much_is_asked() {
        for memory in [32 * MIB, 64 * MIB, 192 * MIB, 8192 * MIB] {
            for requests in [1, 64, 1024] {
                let own = Division::of(sizes(memory, requests), DISK);
                assert!(own.budget >= memory / 2, "{own:?}");
                assert!((1..=requests).contains(&own.requests));
            }
        }
    }

    #[test]
    fn what_is_not_cached_on_disk_needs_no_table_of_it() {
        let with = Division::of(sizes(192 * MIB, 64), DISK);
        let without = Division::of(sizes(192 * MIB, 64), OnDisk { cache: false, ..DISK });
        assert_eq!((with.table, without.table), (12 * MIB, 0));
        assert_eq!(without.budget - with.budget, 12 * MIB);
    }

    #[test]
    fn what_is_staged_in_memory_is_not_given_to_blocks() {
        for memory_limit in [32 * MIB, 64 * MIB, 192 * MIB, 8192 * MIB] {
            let staging_size = memory_limit / 4;
            let sizes = Sizes { staging_size, ..sizes(memory_limit, 1024) };
            let memory = OnDisk { cache: false, staging: false };
            let apart = Division::of(sizes, OnDisk { staging: true, ..memory });
            let own = Division::of(sizes, memory);
            assert_eq!(apart.budget - own.budget, staging_size);
            assert!(own.budget >= memory_limit / 3, "{own:?}");
        }
    }
}
