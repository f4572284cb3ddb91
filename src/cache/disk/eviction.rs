//! Which version goes when there is no room.
//!
//! Owns the table of cached versions and the order in which they go: S3-FIFO (Yang et al., SOSP
//! 2023), chosen by the traces in `eviction/tests.rs`
//! (`docs/decisions/0006-cache-eviction.md`). A version comes into a small queue, a tenth of the
//! room; if nobody asks for it there, it goes, and only its number is remembered. What is asked
//! for again, or comes back while it is remembered, lives in the main queue, where each use buys
//! one more turn, up to three. So a walk over everything costs what is hot a tenth of the room.
//! Promises: no more than `nodes_max` nodes of [`NODE_SIZE`] bytes. Pure. Must not know files.

use std::collections::HashMap;

use super::format::Id;

/// Memory of one version or of a remembered number: 36 bytes of [`Node`], and 17 to 34 in a hash
/// table that is at most 7/8 full and doubles.
pub(super) const NODE_SIZE: u64 = 72;

/// The share of the room for what came once.
const SMALL_SHARE: u64 = 10;

/// Turns that uses can buy.
const USES_MAX: u8 = 3;

/// A use counts once in so many seconds: reading one large file brings hundreds.
const USE_SECONDS: u32 = 60;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
    /// Gone, and remembered.
    Ghost,
}

#[derive(Debug)]
struct Node {
    id: Id,
    pages: u32,
    older: u32,
    newer: u32,
    /// When a use was counted, in seconds of whatever clock; 0 is never.
    used_at: u32,
    queue: Queue,
    uses: u8,
    is_seen: bool,
}

#[derive(Debug)]
struct List {
    oldest: u32,
    newest: u32,
    len: usize,
    pages: u64,
}

impl Default for List {
    fn default() -> Self {
        Self { oldest: NONE, newest: NONE, len: 0, pages: 0 }
    }
}

/// The cached versions, each with its size in pages.
#[derive(Debug)]
pub(super) struct Eviction {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_half: HashMap<u64, u32>,
    lists: [List; 3],
    room: u64,
    nodes_max: usize,
}

impl Eviction {
    /// An empty table; `room` in pages is what the small queue is a share of.
    pub(super) fn new(room: u64, nodes_max: usize) -> Self {
        let (nodes, free, by_half) = (Vec::new(), Vec::new(), HashMap::new());
        Self { nodes, free, by_half, lists: Default::default(), room, nodes_max: nodes_max.max(8) }
    }

    /// Another room, and another number of nodes; what is too much waits for [`Eviction::evict`].
    pub(super) fn resize(&mut self, room: u64, nodes_max: usize) {
        (self.room, self.nodes_max) = (room, nodes_max.max(8));
        while self.by_half.len() > self.nodes_max && self.lists[Queue::Ghost as usize].len > 0 {
            self.release(self.lists[Queue::Ghost as usize].oldest);
        }
    }

    /// Pages of all versions.
    pub(super) const fn pages(&self) -> u64 {
        self.lists[Queue::Small as usize].pages + self.lists[Queue::Main as usize].pages
    }

    /// How many versions.
    pub(super) const fn len(&self) -> usize {
        self.lists[Queue::Small as usize].len + self.lists[Queue::Main as usize].len
    }

    /// True where one more version needs another to go.
    pub(super) const fn is_full(&self) -> bool {
        // An eighth of the nodes is for what is remembered.
        self.len() >= self.nodes_max / 8 * 7
    }

    /// True where there are more versions than there are nodes for.
    pub(super) const fn is_over(&self) -> bool {
        self.len() > self.nodes_max / 8 * 7
    }

    /// True for a version that is there.
    pub(super) fn has(&self, id: Id) -> bool {
        self.resident(id).is_some()
    }

    /// A version is there and has this size; it may be new.
    pub(super) fn put(&mut self, id: Id, pages: u32) {
        let at = match self.by_half.get(&id.half()).copied() {
            Some(at) if self.nodes[at as usize].queue == Queue::Ghost => {
                self.unlink(at);
                self.link(at, Queue::Main);
                at
            }
            Some(at) => at,
            None => self.add(id),
        };
        let node = &mut self.nodes[at as usize];
        let before = u64::from(std::mem::replace(&mut node.pages, pages));
        (node.id, node.is_seen) = (id, true);
        let list = &mut self.lists[node.queue as usize];
        list.pages = list.pages - before + u64::from(pages);
    }

    /// Somebody read the version, at `now` seconds.
    pub(super) fn used(&mut self, id: Id, now: u32) {
        let Some(at) = self.resident(id) else { return };
        let node = &mut self.nodes[at as usize];
        if node.used_at == 0 || now.wrapping_sub(node.used_at) >= USE_SECONDS {
            node.uses = (node.uses + 1).min(USES_MAX);
            node.used_at = now.max(1);
        }
    }

    /// The version is no longer there, and nobody chose that.
    pub(super) fn remove(&mut self, id: Id) {
        if let Some(at) = self.resident(id) {
            self.release(at);
        }
    }

    /// Chooses a version other than `except`, which is growing, to make room, and takes it out.
    /// None where that would have to be `except` itself: what came once never drives out what is
    /// used.
    pub(super) fn evict(&mut self, except: Option<Id>) -> Option<Id> {
        if self.is_small_over() || self.lists[Queue::Main as usize].len == 0 {
            let gone = self.evict_small(except);
            // What was used has left the queue now; what is still too much of it is `except`.
            if gone.is_some() || self.is_small_over() {
                return gone;
            }
        }
        self.evict_main(except).or_else(|| self.evict_small(except))
    }

    fn is_small_over(&self) -> bool {
        self.lists[Queue::Small as usize].pages > self.room / SMALL_SHARE
    }

    /// Begins to look which versions are still there: until the end, [`Eviction::put`] says so.
    pub(super) fn begin_census(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.is_seen = false);
    }

    /// Forgets the versions that were not there, and says how many.
    pub(super) fn end_census(&mut self) -> usize {
        let is_gone = |node: &Node| node.queue != Queue::Ghost && !node.is_seen;
        let found = (0..).zip(&self.nodes).filter(|(_, node)| is_gone(node)).map(|(at, _)| at);
        let gone: Vec<u32> = found.collect();
        gone.iter().for_each(|at| self.release(*at));
        gone.len()
    }

    fn evict_small(&mut self, except: Option<Id>) -> Option<Id> {
        for _ in 0..self.lists[Queue::Small as usize].len {
            let at = self.lists[Queue::Small as usize].oldest;
            let node = &self.nodes[at as usize];
            let (id, is_used) = (node.id, node.uses > 0);
            if is_used {
                self.turn(at, Queue::Main, 0);
            } else if except == Some(id) {
                self.turn(at, Queue::Small, 0);
            } else {
                self.banish(at);
                return Some(id);
            }
        }
        None
    }

    fn evict_main(&mut self, except: Option<Id>) -> Option<Id> {
        // Each turn takes a use, so that after so many one is found, or there is only `except`.
        let turns = self.lists[Queue::Main as usize].len * (usize::from(USES_MAX) + 1);
        for _ in 0..turns {
            let at = self.lists[Queue::Main as usize].oldest;
            let node = &self.nodes[at as usize];
            let (id, uses) = (node.id, node.uses);
            if uses > 0 || except == Some(id) {
                self.turn(at, Queue::Main, uses.saturating_sub(1));
            } else {
                self.release(at);
                return Some(id);
            }
        }
        None
    }

    /// Moves a version to the new end of a queue.
    fn turn(&mut self, at: u32, queue: Queue, uses: u8) {
        self.unlink(at);
        let node = &mut self.nodes[at as usize];
        node.uses = uses;
        if uses == 0 {
            node.used_at = 0;
        }
        self.link(at, queue);
    }

    /// Takes a version out and remembers its number, as many as there are versions.
    fn banish(&mut self, at: u32) {
        self.unlink(at);
        self.nodes[at as usize].pages = 0;
        self.link(at, Queue::Ghost);
        while self.lists[Queue::Ghost as usize].len > self.len().max(1) {
            self.release(self.lists[Queue::Ghost as usize].oldest);
        }
    }

    fn resident(&self, id: Id) -> Option<u32> {
        let at = *self.by_half.get(&id.half())?;
        (self.nodes[at as usize].queue != Queue::Ghost).then_some(at)
    }

    fn add(&mut self, id: Id) -> u32 {
        let ghosts = &self.lists[Queue::Ghost as usize];
        if self.by_half.len() >= self.nodes_max && ghosts.len > 0 {
            self.release(ghosts.oldest);
        }
        let node = Node {
            id,
            pages: 0,
            older: NONE,
            newer: NONE,
            used_at: 0,
            queue: Queue::Small,
            uses: 0,
            is_seen: true,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        self.by_half.insert(id.half(), at);
        self.link(at, Queue::Small);
        at
    }

    fn release(&mut self, at: u32) {
        self.unlink(at);
        let node = &mut self.nodes[at as usize];
        // No version, whatever it was, until it is used again.
        (node.queue, node.pages) = (Queue::Ghost, 0);
        self.by_half.remove(&node.id.half());
        self.free.push(at);
    }

    fn unlink(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let (older, newer, pages) = (node.older, node.newer, u64::from(node.pages));
        let list = &mut self.lists[node.queue as usize];
        list.len -= 1;
        list.pages -= pages;
        match older {
            NONE => list.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => list.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
    }

    fn link(&mut self, at: u32, queue: Queue) {
        let list = &mut self.lists[queue as usize];
        let newest = std::mem::replace(&mut list.newest, at);
        list.len += 1;
        let node = &mut self.nodes[at as usize];
        list.pages += u64::from(node.pages);
        (node.queue, node.older, node.newer) = (queue, newest, NONE);
        match newest {
            NONE => list.oldest = at,
            newest => self.nodes[newest as usize].newer = at,
        }
    }
}

#[cfg(test)]
mod tests;
