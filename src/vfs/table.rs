//! The tree of inodes that this mount and the kernel know.
//!
//! Owns which inode stands under which name, how often the kernel has looked it up, how many
//! handles are open on it, and which deletes wait for a last close. An inode leaves the table when
//! nobody knows it any more. Numbers are hashes of keys, probed past every number in use. Must not
//! know attributes or the store; holds no lock across an await.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::attr::{FileKind, Ino};
use super::deletes::Queued;
use super::inode::{Inode, State};
use super::told::Told;
use crate::naming::{Key, Name, NameError, Prefix};
use crate::store::{Condition, Version};

/// Where an inode stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) parent: Ino,
    pub(super) name: Name,
}

#[derive(Debug)]
struct Node {
    inode: Arc<Inode>,
    place: Option<Place>,
    children: HashMap<Name, Ino>,
    /// What the kernel must give back by FORGET.
    lookups: u64,
    /// Handles, and verbs under way, that need the inode.
    opens: u64,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Table {
    nodes: HashMap<Ino, Node>,
    root: Prefix,
    next_generation: u64,
    /// Keys whose object goes with the last close of an unlinked file.
    doomed: BTreeMap<Key, Doom>,
    pub(super) told: Told,
}

/// A delete that waits for a last close.
#[derive(Debug, Clone)]
pub(super) struct Doom {
    /// The unlinked file.
    pub(super) owner: Arc<Inode>,
    /// The delete that will be queued.
    pub(super) queued: Queued,
    /// Held while the delete is on its way, and by whoever calls it off: whatever is stored under
    /// the key next must not be overtaken by it.
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
}

impl Table {
    /// A tree of nothing but its root, the directory at `root`.
    pub(super) fn new(root: Prefix, state: State) -> Self {
        let inode = Inode::new(Ino::ROOT, 0, FileKind::Directory, state);
        let children = HashMap::new();
        let node = Node { inode, place: None, children, lookups: 1, opens: 0 };
        let nodes = HashMap::from([(Ino::ROOT, node)]);
        Self { nodes, root, next_generation: 1, doomed: BTreeMap::new(), told: Told::default() }
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.nodes.get(&ino).map(|node| Arc::clone(&node.inode))
    }

    pub(super) fn child(&self, parent: Ino, name: &Name) -> Option<Arc<Inode>> {
        self.get(*self.nodes.get(&parent)?.children.get(name)?)
    }

    /// The names below a directory that the table knows.
    pub(super) fn children(&self, parent: Ino) -> Vec<(Name, Arc<Inode>)> {
        let Some(node) = self.nodes.get(&parent) else { return Vec::new() };
        let known = node.children.iter();
        known.filter_map(|(name, ino)| Some((name.clone(), self.get(*ino)?))).collect()
    }

    pub(super) fn place(&self, ino: Ino) -> Option<Place> {
        self.nodes.get(&ino)?.place.clone()
    }

    pub(super) fn parent(&self, ino: Ino) -> Ino {
        self.place(ino).map_or(Ino::ROOT, |place| place.parent)
    }

    /// The prefix of a directory; none where it, or a directory above, was taken away.
    pub(super) fn prefix(&self, ino: Ino) -> Option<Prefix> {
        if ino == Ino::ROOT {
            return Some(self.root.clone());
        }
        let place = self.nodes.get(&ino)?.place.as_ref()?;
        self.prefix(place.parent)?.directory(&place.name).ok()
    }

    /// The key of whatever stands, or would stand, under a name.
    pub(super) fn key_at(&self, parent: Ino, name: &Name) -> Option<Result<Key, NameError>> {
        Some(self.prefix(parent)?.file(name))
    }

    /// The key of a file; none where its name was taken away.
    pub(super) fn key(&self, ino: Ino) -> Option<Key> {
        let place = self.place(ino)?;
        self.key_at(place.parent, &place.name)?.ok()
    }

    /// Puts a new inode under a name, which must be free.
    pub(super) fn insert(
        &mut self,
        parent: Ino,
        name: &Name,
        kind: FileKind,
        state: State,
    ) -> Option<Arc<Inode>> {
        let prefix = self.prefix(parent)?;
        let hash = match kind {
            FileKind::Directory => prefix.directory(name).ok()?.ino(),
            _ => prefix.file(name).ok()?.ino(),
        };
        let ino = self.free_number(hash);
        let generation = self.next_generation;
        self.next_generation += 1;
        let inode = Inode::new(ino, generation, kind, state);
        let place = Some(Place { parent, name: name.clone() });
        let children = HashMap::new();
        let node = Node { inode: Arc::clone(&inode), place, children, lookups: 0, opens: 0 };
        self.nodes.insert(ino, node);
        self.nodes.get_mut(&parent)?.children.insert(name.clone(), ino);
        Some(inode)
    }

    /// The number that an inode with this hash gets.
    pub(super) fn free_number(&self, hash: u64) -> Ino {
        let mut number = hash;
        while number < 2 || self.nodes.contains_key(&Ino(number)) {
            number = number.wrapping_add(1);
        }
        Ino(number)
    }

    /// Takes a name away; the inode lives on for whoever holds it.
    pub(super) fn detach(&mut self, ino: Ino) {
        let Some(place) = self.nodes.get_mut(&ino).and_then(|node| node.place.take()) else {
            return;
        };
        if let Some(parent) = self.nodes.get_mut(&place.parent)
            && parent.children.get(&place.name) == Some(&ino)
        {
            parent.children.remove(&place.name);
        }
        self.collect(ino);
        self.collect(place.parent);
    }

    /// Takes a name away because the store has another object there, or none that is known: the
    /// next lookup must ask.
    pub(super) fn lose(&mut self, ino: Ino) {
        if let Some(parent) = self.place(ino).and_then(|place| self.get(place.parent)) {
            parent.state().knowledge.incomplete();
        }
        self.detach(ino);
    }

    /// Moves an inode to another name, which must be free.
    pub(super) fn relink(&mut self, ino: Ino, parent: Ino, name: &Name) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        let old = node.place.replace(Place { parent, name: name.clone() });
        if let Some(old) = old
            && let Some(old_parent) = self.nodes.get_mut(&old.parent)
        {
            old_parent.children.remove(&old.name);
        }
        if let Some(new_parent) = self.nodes.get_mut(&parent) {
            new_parent.children.insert(name.clone(), ino);
        }
    }

    /// Every inode at or below `ino`.
    pub(super) fn subtree(&self, ino: Ino) -> Vec<Arc<Inode>> {
        let mut found = Vec::new();
        let mut next = vec![ino];
        while let Some(ino) = next.pop() {
            if let Some(node) = self.nodes.get(&ino) {
                found.push(Arc::clone(&node.inode));
                next.extend(node.children.values());
            }
        }
        found
    }

    /// Every inode there is.
    pub(super) fn all(&self) -> Vec<Arc<Inode>> {
        self.nodes.values().map(|node| Arc::clone(&node.inode)).collect()
    }

    /// The kernel is told of the inode once more; false where the table has let go of it meanwhile,
    /// and nobody may be told.
    pub(super) fn remember(&mut self, inode: &Inode) -> bool {
        let node = self.nodes.get_mut(&inode.ino);
        let known = node.filter(|node| node.inode.generation == inode.generation);
        let Some(node) = known else { return false };
        node.lookups += 1;
        self.told.note(inode.ino, inode.generation, node.lookups == 1);
        true
    }

    /// The kernel gives `count` lookups back.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            debug_assert!(node.lookups >= count, "the kernel forgets what it was told");
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.collect(ino);
    }

    pub(super) fn opened(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.opens += 1;
        }
    }

    /// Returns how many handles stay open.
    pub(super) fn closed(&mut self, ino: Ino) -> u64 {
        let Some(node) = self.nodes.get_mut(&ino) else { return 0 };
        node.opens = node.opens.saturating_sub(1);
        node.opens
    }

    pub(super) fn opens(&self, ino: Ino) -> u64 {
        self.nodes.get(&ino).map_or(0, |node| node.opens)
    }

    /// Drops the inode if nobody knows it any more, and then perhaps its parent.
    pub(super) fn collect(&mut self, ino: Ino) {
        let mut next = Some(ino);
        while let Some(ino) = next.take().filter(|&ino| ino != Ino::ROOT) {
            let Some(node) = self.nodes.get(&ino) else { return };
            let is_known = node.lookups > 0 || node.opens > 0 || !node.children.is_empty();
            if is_known || needs_commit(&node.inode) {
                return;
            }
            self.told.gone(ino);
            let place = self.nodes.remove(&ino).and_then(|node| node.place);
            if let Some(place) = place
                && let Some(parent) = self.nodes.get_mut(&place.parent)
            {
                if parent.children.get(&place.name) == Some(&ino) {
                    parent.children.remove(&place.name);
                    // The name is there, only nobody here knows it any more.
                    parent.inode.state().knowledge.incomplete();
                }
                next = Some(place.parent);
            }
        }
    }

    /// The object under `key` goes when the unlinked file `owner` is closed for the last time.
    pub(super) fn doom(&mut self, key: Key, owner: &Arc<Inode>, queued: Queued) {
        let (owner, gate) = (Arc::clone(owner), Arc::default());
        if let Some(before) = self.doomed.insert(key, Doom { owner, queued, gate }) {
            // Another client has replaced that one, or it would not have been there to unlink.
            before.queued.record.end();
        }
    }

    pub(super) fn doom_of(&self, key: &Key) -> Option<Doom> {
        self.doomed.get(key).cloned()
    }

    /// The version that waits for a last close under `key`; any other there is somebody's file.
    pub(super) fn doomed_version(&self, key: &Key) -> Option<Version> {
        match &self.doomed.get(key)?.queued.condition {
            Condition::Unchanged(version) => Some(version.clone()),
            Condition::None | Condition::Absent => None,
        }
    }

    /// True for the object of an unlinked file.
    pub(super) fn is_doomed(&self, version: &Version) -> bool {
        self.doomed_version(&version.key).is_some_and(|doomed| doomed.is_same(version))
    }

    /// True where a delete below `prefix` waits for a last close.
    pub(super) fn has_doomed_below(&self, prefix: &str) -> bool {
        let first = self.doomed.range(Key::new(prefix)..).next();
        first.is_some_and(|(key, _)| key.as_str().starts_with(prefix))
    }

    /// True while this delete is due.
    pub(super) fn is_doomed_by(&self, key: &Key, doom: &Doom) -> bool {
        self.doomed.get(key).is_some_and(|found| Arc::ptr_eq(&found.gate, &doom.gate))
    }

    /// This delete is called off, or over; false where it was before.
    pub(super) fn spare(&mut self, key: &Key, doom: &Doom) -> bool {
        self.is_doomed_by(key, doom) && self.doomed.remove(key).is_some()
    }

    /// The deletes that wait for the last close of `ino`, or of anything.
    pub(super) fn doomed(&self, ino: Option<Ino>) -> Vec<(Key, Doom)> {
        let all = self.doomed.iter();
        let wanted = all.filter(|(_, doom)| ino.is_none_or(|ino| doom.owner.ino == ino));
        wanted.map(|(key, doom)| (key.clone(), doom.clone())).collect()
    }

    /// How many inodes there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

fn needs_commit(inode: &Inode) -> bool {
    inode.is_dirty() || {
        let state = inode.state();
        state.attributes_dirty && !state.unlinked && !state.detached
    }
}
