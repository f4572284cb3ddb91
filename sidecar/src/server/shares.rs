//! The memory of a server pod, and who has how much of it.
//!
//! Owns one account for all volumes: what a volume may take is written off before its process
//! starts and comes back once it has ended. Promises: the sum never exceeds the budget, so that
//! the kernel has no reason to kill. Must not know what runs.

use std::sync::{Arc, Mutex, PoisonError};

use s3pod::units::{ByteSize, MIB};

use super::order::Refusal;

/// What a process needs beside its `--memory-limit`: code, stacks, allocator, TLS.
pub(crate) const BESIDE: u64 = 48 * MIB;

/// The least a volume is given: as `s3pod` itself takes where its cgroup is small.
pub(crate) const LEAST: u64 = 64 * MIB;

/// The part of a limit that volumes share; the rest is for this process, and for pages of files
/// that the kernel charges to the pod.
const SHARED_PERCENT: u64 = 80;

/// The account.
#[derive(Clone, Debug)]
pub(crate) struct Shares(Arc<Account>);

#[derive(Debug)]
struct Account {
    budget: u64,
    taken: Mutex<u64>,
}

/// What one volume may take; comes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    account: Arc<Account>,
    limit: u64,
}

impl Shares {
    /// What of so much memory volumes may share.
    pub(crate) const fn budget_of(limit: u64) -> u64 {
        limit / 100 * SHARED_PERCENT
    }

    /// An account of so many bytes.
    pub(crate) fn new(budget: u64) -> Self {
        Self(Arc::new(Account { budget, taken: Mutex::new(0) }))
    }

    /// Takes what a volume with this `--memory-limit` needs.
    pub(crate) fn take(&self, key: &str, limit: u64) -> Result<Share, Refusal> {
        let account = &self.0;
        let mut taken = account.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = account.budget - *taken;
        let Some(needed) = limit.checked_add(BESIDE).filter(|needed| *needed <= free) else {
            return Err(Refusal::Full(format!(
                "the volume {key} needs {} of memory ({} and {} beside it), and of the {} that \
                 this node's server shares among volumes {} are free; raise the memory limit of \
                 the server pods, lower the volume's, or serve it by a sidecar of its own",
                ByteSize(limit.saturating_add(BESIDE)),
                ByteSize(limit),
                ByteSize(BESIDE),
                rounded(account.budget),
                rounded(free),
            )));
        };
        *taken += needed;
        Ok(Share { account: Arc::clone(account), limit })
    }
}

/// A number for people.
const fn rounded(bytes: u64) -> ByteSize {
    ByteSize(bytes / MIB * MIB)
}

impl Share {
    /// The volume's `--memory-limit`.
    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    /// All that it may take.
    pub(crate) const fn total(&self) -> u64 {
        self.limit + BESIDE
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.account.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.total();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_until_something_has_ended() {
        let shares = Shares::new(2 * (LEAST + BESIDE) + MIB);
        let first = shares.take("a", LEAST).unwrap();
        let _second = shares.take("b", LEAST).unwrap();
        assert_eq!((first.limit(), first.total()), (LEAST, LEAST + BESIDE));
        let said = shares.take("c", LEAST).unwrap_err();
        assert!(matches!(said, Refusal::Full(_)));
        let said = said.to_string();
        assert!(said.contains("c needs 112MiB") && said.contains("1MiB are free"), "{said}");
        drop(first);
        shares.take("c", LEAST).unwrap();
    }

    #[test]
    fn absurd_sizes_are_no_overflow() {
        assert!(Shares::new(u64::MAX).take("a", u64::MAX).is_err());
        assert_eq!(Shares::budget_of(1000 * MIB), 800 * MIB);
    }
}
