//! Which inodes the kernel has been told of, and which it should forget so that memory suffices.
//!
//! Owns their order and the bound on their number: the kernel gives an inode back only when it is
//! short of memory itself, so a walk over a million files would keep a million inodes here. Beyond
//! the bound those told of first are named, for the kernel to drop its entries; its FORGETs then
//! empty the table. Must not know how the kernel is asked.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;

use super::attr::{FileKind, Ino};
use super::table::Table;
use super::{Settings, Vfs};

/// What an inode takes with its name and its place among the others, in bytes: a walk over 100 000
/// files with names of 30 bytes kept 1.1 KiB of each; names of 255 bytes stand in it twice.
const INODE_BYTES: u64 = 1536;

/// Names handed out at once: so many dentries are dropped before the next look.
const BATCH: usize = 1_000;

/// Entries looked at for a batch: directories and open files are passed over.
const LOOKS_MAX: usize = 4 * BATCH;

/// The inodes that the kernel knows.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// With their generation; some are gone by now.
    order: VecDeque<(Ino, u64)>,
    /// The kernel was asked to forget these, and has not yet.
    asked: HashSet<Ino>,
}

impl Told {
    /// The kernel is told of an inode: for the first time where `is_new`.
    pub(super) fn note(&mut self, ino: Ino, generation: u64, is_new: bool) {
        if self.asked.remove(&ino) || is_new {
            self.order.push_back((ino, generation));
        }
    }

    /// The inode has left the table.
    pub(super) fn gone(&mut self, ino: Ino) {
        self.asked.remove(&ino);
        if self.asked.capacity() > 4 * BATCH && self.asked.is_empty() {
            self.asked.shrink_to_fit();
        }
    }
}

impl Table {
    /// True where more inodes are known, and not about to go, than `inodes_max`.
    pub(super) fn is_crowded(&self, inodes_max: usize) -> bool {
        self.len() > inodes_max.saturating_add(self.told.asked.len())
    }

    /// Names that the kernel should forget so that a sixteenth of `inodes_max` becomes free.
    fn take_excess(&mut self, inodes_max: usize) -> Vec<(Ino, OsString)> {
        let wanted = inodes_max - inodes_max / 16;
        let mut excess = Vec::new();
        for _ in 0..LOOKS_MAX.min(self.told.order.len()) {
            let remaining = self.len().saturating_sub(self.told.asked.len());
            if remaining <= wanted || excess.len() == BATCH {
                break;
            }
            let Some((ino, generation)) = self.told.order.pop_front() else { break };
            let Some(inode) = self.get(ino).filter(|inode| inode.generation == generation) else {
                continue;
            };
            // Dropping a directory's entry would unmount what somebody has mounted below it.
            let is_needed = inode.kind == FileKind::Directory || self.opens(ino) > 0;
            match self.place(ino).filter(|_| !is_needed && !inode.is_dirty()) {
                Some(place) => {
                    self.told.asked.insert(ino);
                    excess.push((place.parent, place.name.as_os_str().to_owned()));
                }
                None => self.told.order.push_back((ino, generation)),
            }
        }
        excess
    }
}

impl Settings {
    /// How many inodes fit into an eighth of so much memory.
    pub const fn inodes_within(memory: u64) -> usize {
        (memory / 8 / INODE_BYTES) as usize
    }
}

impl Vfs {
    /// Waits until more inodes are known than there is memory for; the directories and names that
    /// the kernel should forget.
    pub async fn excess(&self) -> Vec<(Ino, OsString)> {
        loop {
            self.0.crowded.notified().await;
            let excess = self.table().take_excess(self.inodes_max());
            if !excess.is_empty() {
                // There may be more of them than one batch.
                self.0.crowded.notify_one();
                return excess;
            }
        }
    }

    /// Counts a lookup; false where the inode has left the table.
    pub(super) fn remember(&self, inode: &super::inode::Inode) -> bool {
        let (is_known, is_crowded) = {
            let mut table = self.table();
            (table.remember(inode), table.is_crowded(self.inodes_max()))
        };
        if is_crowded {
            self.0.crowded.notify_one();
        }
        is_known
    }
}
