//! Lines that are worth saying once.
//!
//! Owns [`Once`]: for things that come by the million, like keys that cannot be file names, it
//! counts them all and says of each whether it is new. Promises: bounded memory. Must not know
//! what is counted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts occurrences and tells the first of each kind from the rest.
#[derive(Debug)]
pub struct Once {
    kinds_max: usize,
    seen: Mutex<HashSet<String>>,
    count: AtomicU64,
}

impl Once {
    /// Remembers at most `kinds_max` kinds; those beyond it are counted and never new.
    pub fn new(kinds_max: usize) -> Self {
        Self { kinds_max, seen: Mutex::new(HashSet::new()), count: AtomicU64::new(0) }
    }

    /// Counts one occurrence; true where `kind` comes for the first time and is worth a line.
    pub fn is_new(&self, kind: &str) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= self.kinds_max || seen.contains(kind) {
            return false;
        }
        seen.insert(kind.to_owned())
    }

    /// Occurrences of every kind, the repeated ones too.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_new_once_and_counted_always() {
        let once = Once::new(10);
        assert!(once.is_new("a//b"));
        assert!(!once.is_new("a//b"));
        assert!(once.is_new("a/../b"));
        assert_eq!(once.count(), 3);
    }

    #[test]
    fn kinds_beyond_the_bound_are_counted_and_forgotten() {
        let once = Once::new(2);
        let new = (0..1000).filter(|kind| once.is_new(&kind.to_string())).count();
        assert_eq!((new, once.count()), (2, 1000));
    }
}
