//! How much the cache may take, and who goes for whom.
//!
//! Owns the two bounds, the bytes all versions may have together and the bytes that stay free on
//! the file system, and the census that learns what other mounts did to the folder. Promises:
//! before anything is written there is room for it within both bounds, as far as this mount knows
//! the folder. What another mount writes is known once this one has written a sixteenth of the
//! bound itself. Must not know blocks.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::counters::{Counters, DiskSnapshot};
use super::eviction::{Eviction, NODE_SIZE};
use super::folder::{Folder, LEAVES};
use super::format::Id;
use crate::clock::Clock;
use crate::units::{KIB, MIB};

/// What sizes are counted in: the smallest block of the common file systems.
const PAGE: u64 = 4 * KIB;

/// A census goes round the folder while so much of the bound is written...
const CENSUS_SHARE: u64 = 16;
/// ...and not sooner, so that a small cache is not walked all the time.
const CENSUS_BYTES_MIN: u64 = 64 * MIB;

/// The bounds of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Bytes on disk of all versions.
    pub(super) size: u64,
    /// Bytes of the file system that stay free.
    pub(super) free_min: u64,
    /// Bytes of memory for the table of versions.
    pub(super) table: u64,
}

/// What is cached, and what may be.
#[derive(Debug)]
pub(super) struct Room {
    folder: Arc<Folder>,
    /// Bytes of the file system that stay free.
    free_min: u64,
    counters: Arc<Counters>,
    clock: Clock,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes on disk of all versions.
    size: u64,
    table: Eviction,
    next_leaf: u16,
    written: u64,
    /// Evicted since somebody asked.
    gone: Vec<Id>,
}

impl Room {
    pub(super) fn new(
        folder: Arc<Folder>,
        bounds: Bounds,
        counters: Arc<Counters>,
        clock: Clock,
    ) -> Self {
        let Bounds { size, free_min, table } = bounds;
        let table = Eviction::new(size / PAGE, nodes(table));
        let started = clock.now();
        let state = Mutex::new(State { size, table, next_leaf: 0, written: 0, gone: Vec::new() });
        Self { folder, free_min, counters, clock, started, state }
    }

    /// Other bounds; what is beyond them goes.
    pub(super) fn resize(&self, size: u64, table: u64) -> io::Result<()> {
        {
            let state = &mut *self.lock();
            state.size = size;
            state.table.resize(size / PAGE, nodes(table));
        }
        self.trim()
    }

    /// Makes room for `bytes` more of a version. False where nothing can go for them.
    pub(super) fn admit(&self, id: Id, bytes: u64) -> io::Result<bool> {
        if bytes > self.lock().size {
            return Ok(false);
        }
        while !self.fits(id, bytes) {
            if self.evict(Some(id))?.is_none() {
                return Ok(false);
            }
        }
        let mut free = self.folder.free()?;
        while free < self.free_min.saturating_add(bytes) {
            match self.evict(Some(id))? {
                Some(freed) => free += freed,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn fits(&self, id: Id, bytes: u64) -> bool {
        let state = self.lock();
        let has_node = state.table.has(id) || !state.table.is_full();
        has_node && state.table.pages() * PAGE + bytes <= state.size
    }

    /// What was evicted since the last time: whoever has it open keeps its place taken.
    pub(super) fn take_gone(&self) -> Vec<Id> {
        std::mem::take(&mut self.lock().gone)
    }

    /// A version has this size on disk now, after `written` more bytes.
    pub(super) fn grown(&self, id: Id, bytes: u64, written: u64) {
        let state = &mut *self.lock();
        state.table.put(id, pages(bytes));
        state.written += written;
    }

    /// True for a version that is there.
    pub(super) fn has(&self, id: Id) -> bool {
        self.lock().table.has(id)
    }

    /// Somebody read a version. Not worth waiting for.
    pub(super) fn used(&self, id: Id) {
        let seconds = self.clock.now().duration_since(self.started).as_secs();
        if let Ok(mut state) = self.state.try_lock() {
            state.table.used(id, u32::try_from(seconds).unwrap_or(u32::MAX).saturating_add(1));
        }
    }

    /// Removes a version's files.
    pub(super) fn remove(&self, id: Id) -> io::Result<()> {
        self.lock().table.remove(id);
        self.folder.remove(id)
    }

    /// Counts the whole folder, and evicts what is beyond the bounds.
    pub(super) fn count_all(&self) -> io::Result<()> {
        for _ in 0..LEAVES {
            self.count_next()?;
        }
        self.trim()
    }

    /// Evicts what is beyond the bounds.
    fn trim(&self) -> io::Result<()> {
        let is_over = || {
            let state = self.lock();
            state.table.pages() * PAGE > state.size || state.table.is_over()
        };
        while is_over() {
            if self.evict(None)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Counts on, as far as what was written calls for.
    pub(super) fn count_on(&self) -> io::Result<()> {
        let step = (self.lock().size / CENSUS_SHARE).max(CENSUS_BYTES_MIN) / u64::from(LEAVES);
        loop {
            {
                let state = &mut *self.lock();
                if state.written < step {
                    return Ok(());
                }
                state.written -= step;
            }
            self.count_next()?;
        }
    }

    fn count_next(&self) -> io::Result<()> {
        let leaf = self.lock().next_leaf;
        let found = self.folder.census(leaf)?;
        if leaf == 0 {
            self.lock().table.begin_census();
        }
        for found in found {
            while !self.fits(found.id, 0) && !self.lock().table.has(found.id) {
                if self.evict(None)?.is_none() {
                    break;
                }
            }
            self.lock().table.put(found.id, pages(found.bytes));
        }
        let state = &mut *self.lock();
        state.next_leaf = (leaf + 1) % LEAVES;
        if state.next_leaf == 0 {
            state.table.end_census();
        }
        Ok(())
    }

    /// Lets one version go; how many bytes that gives back. The lock is not held for the unlink,
    /// which takes long for a large file.
    fn evict(&self, except: Option<Id>) -> io::Result<Option<u64>> {
        let (gone, freed) = {
            let state = &mut *self.lock();
            let before = state.table.pages();
            let Some(gone) = state.table.evict(except) else { return Ok(None) };
            state.gone.push(gone);
            (gone, before - state.table.pages())
        };
        self.counters.evicted.add(1);
        self.folder.remove(gone)?;
        Ok(Some(freed * PAGE))
    }

    /// Adds what is cached to what was counted.
    pub(super) fn complete(&self, snapshot: DiskSnapshot) -> DiskSnapshot {
        let table = &self.lock().table;
        DiskSnapshot { used_bytes: table.pages() * PAGE, versions: table.len() as u64, ..snapshot }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many versions a table of so many bytes has.
fn nodes(table: u64) -> usize {
    usize::try_from(table / NODE_SIZE).unwrap_or(usize::MAX)
}

/// In pages, rounded up; a version of 16 TiB or more counts as just below.
fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX)
}
