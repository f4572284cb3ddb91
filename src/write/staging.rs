//! Where staging files lie, and their quota.
//!
//! Owns the folder, the names in it, and how many bytes all of them together hold. Must not know
//! what is in one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Where staging files lie, and their quota.
#[derive(Debug)]
pub struct Staging {
    /// None keeps them in memory.
    folder: Option<PathBuf>,
    quota: AtomicU64,
    used: AtomicU64,
    next: AtomicU64,
    /// Counts every change of every file, so that the stages of one inode, one after the other,
    /// never give the same epoch twice.
    epochs: AtomicU64,
}

impl Staging {
    /// Staging files in `folder`, or in memory where there is none, at most `quota` bytes
    /// together.
    pub fn new(folder: Option<&Path>, quota: u64) -> Arc<Self> {
        let (used, next, epochs) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (folder, quota) = (folder.map(Path::to_owned), AtomicU64::new(quota));
        Arc::new(Self { folder, quota, used, next, epochs })
    }

    pub(super) fn create(&self) -> io::Result<(File, Option<PathBuf>)> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("{number}.stage");
            let Some(folder) = &self.folder else {
                let memory = memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC)?;
                return Ok((File::from(memory), None));
            };
            let path = folder.join(name);
            match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((file, Some(path))),
                // An earlier mount's, whose commit is being taken up.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The quota in bytes.
    pub fn quota(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    /// Another quota for what is staged from here on.
    pub fn set_quota(&self, quota: u64) {
        self.quota.store(quota, Ordering::Relaxed);
    }

    /// Bytes staged by all files together.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Charges what is there already.
    pub(super) fn charge_whatever(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn charge(&self, bytes: u64, quota: Quota) -> bool {
        let limit = match quota {
            Quota::Kept => self.quota(),
            Quota::MayBePassed => u64::MAX,
        };
        let within = |used: u64| used.checked_add(bytes).filter(|&total| total <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    pub(super) fn refund(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Whether bytes are staged beyond the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quota {
    Kept,
    /// For a commit, which gives more back than it takes: at most the parts it has on their way.
    MayBePassed,
}
