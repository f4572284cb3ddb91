//! How much the mount may hold.
//!
//! Owns the capacity, what is used of it as far as anybody knows, and the refusal to grow beyond.
//! A soft quota: other mounts write too, so what is used is counted now and then by whoever owns
//! the mount, and between two counts only this mount's own changes are added. Promises: never
//! waits; nothing is refused before the first count. Must not know how it is counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::inode::Inode;
use super::{BLOCK_SIZE, BUCKET_BYTES, Error, FsStat, Result, Vfs};

/// What is known of the room.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// Bytes; 0 is no bound.
    capacity: AtomicU64,
    used: AtomicU64,
    is_counted: AtomicBool,
}

impl Quota {
    /// True where `more` bytes would be too many.
    fn refuses(&self, more: u64) -> bool {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let used = self.used.load(Ordering::Relaxed);
        capacity > 0
            && more > 0
            && self.is_counted.load(Ordering::Relaxed)
            && used.saturating_add(more) > capacity
    }

    fn is_bounded(&self) -> bool {
        self.capacity.load(Ordering::Relaxed) > 0
    }

    /// What had `before` bytes has `after`.
    fn change(&self, before: u64, after: u64) {
        let changed = |used: u64| Some(used.saturating_add(after).saturating_sub(before));
        // The closure never says no.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

impl Vfs {
    /// Bounds what the mount may hold; none is no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.quota.capacity.store(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    /// Says how many bytes were found in the store.
    pub fn set_usage(&self, bytes: u64) {
        self.0.quota.used.store(bytes, Ordering::Relaxed);
        self.0.quota.is_counted.store(true, Ordering::Relaxed);
    }

    /// Room in the file system. Never waits.
    pub fn statfs(&self) -> FsStat {
        let quota = &self.0.quota;
        let (total_bytes, used) = match quota.capacity.load(Ordering::Relaxed) {
            0 => (BUCKET_BYTES, 0),
            capacity => (capacity, quota.used.load(Ordering::Relaxed)),
        };
        let free_bytes = total_bytes.saturating_sub(used);
        FsStat { total_bytes, free_bytes, block_size: BLOCK_SIZE }
    }

    /// Refuses to let a file grow to `size` where there is no room for that.
    pub(super) fn check_room(&self, inode: &Inode, size: u64) -> Result<()> {
        let quota = &self.0.quota;
        if quota.is_bounded() && quota.refuses(size.saturating_sub(inode.state().size())) {
            Err(Error::Full)
        } else {
            Ok(())
        }
    }

    /// The size of a file may have changed; before a change that this mount made it had `before`
    /// bytes. A file without a name takes no room in the store.
    pub(super) fn charge(&self, inode: &Inode, before: u64) {
        if !self.0.quota.is_bounded() {
            return;
        }
        let mut state = inode.state();
        if !state.unlinked {
            let size = state.size();
            // Of two writers at once, the second finds what the first has charged.
            let charged = state.charged.replace(size).unwrap_or(before);
            self.0.quota.change(charged, size);
        }
    }

    /// The file's name goes, and in the end its bytes.
    pub(super) fn discharge(&self, inode: &Inode) {
        if self.0.quota.is_bounded() {
            let mut state = inode.state();
            let charged = state.charged.take().unwrap_or_else(|| state.size());
            self.0.quota.change(charged, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_refused_before_it_was_counted_nor_without_a_bound() {
        let quota = Quota::default();
        quota.capacity.store(10, Ordering::Relaxed);
        assert!(!quota.refuses(11));
        quota.is_counted.store(true, Ordering::Relaxed);
        assert!(quota.refuses(11) && !quota.refuses(10));
        quota.change(0, 10);
        assert!(quota.refuses(1) && !quota.refuses(0));
        quota.change(20, 0);
        assert!(!quota.refuses(10), "what was never counted makes no room");
        quota.capacity.store(0, Ordering::Relaxed);
        assert!(!quota.refuses(u64::MAX));
    }
}
