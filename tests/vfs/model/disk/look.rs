//! The reference, looked up: what the store says of a name, but for what is only here.
//!
//! Owns how what another client did becomes visible. Must not know the mount.

use std::collections::BTreeMap;

use super::{Body, Disk, Id, Node, Object, Shown, below, parent};

impl Disk {
    /// The walk to a path: what the store says of each name counts, but for what is only here.
    pub(in super::super) fn look(&mut self, path: &str) {
        let above = parent(path);
        if !above.is_empty() {
            self.look_through(above);
        }
        if self.is_directory(above) {
            self.settle(path);
        }
    }

    fn look_through(&mut self, path: &str) {
        let above = parent(path);
        if !above.is_empty() {
            self.look_through(above);
        }
        let is_file = |node: &Node| !node.is_directory() && (node.known || node.dirty);
        if self.is_directory(above) && !self.node(path).is_some_and(is_file) {
            self.settle(path);
        }
    }

    pub(super) fn object(&self, key: &str) -> Option<&Object> {
        self.objects.get(key).filter(|_| !self.doomed.contains_key(key))
    }

    pub(super) fn has_objects_below(&self, directory: &str) -> bool {
        let prefix = below(directory);
        let keys = self.objects.keys();
        keys.filter(|key| key.starts_with(&prefix)).any(|key| !self.doomed.contains_key(key))
    }

    pub(super) fn has_unsent_below(&self, directory: &str) -> bool {
        let prefix = below(directory);
        let all = self.names.iter().filter(|(path, _)| path.starts_with(&prefix));
        all.into_iter().any(|(_, id)| self.nodes[*id].dirty)
    }

    pub(super) fn settle(&mut self, path: &str) {
        let is_right = match self.node(path) {
            Some(node) if node.is_directory() => {
                self.has_objects_below(path) || self.has_unsent_below(path)
            }
            Some(node) => {
                node.dirty || self.object(path).is_some_and(|it| Some(it.token) == node.version)
            }
            None => false,
        };
        if is_right {
            self.renew(path);
            return;
        }
        self.lose(path);
        if self.has_objects_below(path) {
            self.add(path, Node::new(Body::Directory, Shown::new(0o755)));
        } else if let Some(object) = self.object(path).cloned() {
            let mut node = Node::new(object.body, object.shown);
            node.version = Some(object.token);
            node.kept = if node.is_file() { node.bytes().len() } else { 0 };
            self.add(path, node);
        }
    }

    /// The bytes are the same; the attributes are the store's, unless it lacks something.
    pub(super) fn renew(&mut self, path: &str) {
        let Some(&id) = self.names.get(path) else { return };
        let key = if self.nodes[id].is_directory() { below(path) } else { path.to_owned() };
        let node = &mut self.nodes[id];
        node.known = true;
        if let Some(object) = self.objects.get(&key).filter(|_| !node.dirty) {
            node.shown = object.shown.clone();
        }
    }

    /// The kernel forgets every file that is not open.
    pub(in super::super) fn forget(&mut self) {
        for id in 0..self.nodes.len() {
            self.nodes[id].known &= self.opens(id) > 0;
        }
    }

    /// The name, and every name below, stands for something else.
    pub(super) fn lose(&mut self, path: &str) {
        let prefix = below(path);
        let gone = |name: &String| name == path || name.starts_with(&prefix);
        let ids: Vec<Id> =
            self.names.iter().filter(|(name, _)| gone(name)).map(|(_, id)| *id).collect();
        self.names.retain(|name, _| !gone(name));
        for id in ids {
            self.nodes[id].lost = true;
        }
    }

    /// What another client has done is seen everywhere.
    pub(in super::super) fn look_everywhere(&mut self) {
        let mut paths: Vec<String> =
            self.names.keys().chain(self.objects.keys()).cloned().collect();
        paths.sort();
        for path in paths {
            self.look(path.trim_end_matches('/'));
        }
    }

    /// The names in a directory, and whether each is one.
    pub(in super::super) fn list(&self, directory: &str) -> BTreeMap<String, bool> {
        let prefix = if directory.is_empty() { String::new() } else { below(directory) };
        let mut entries = BTreeMap::new();
        let seen = self.objects.keys().filter(|key| !self.doomed.contains_key(*key));
        for key in seen.filter_map(|key| key.strip_prefix(&prefix)) {
            match key.split_once('/') {
                _ if key.is_empty() => {}
                Some((name, _)) => drop(entries.insert(name.to_owned(), true)),
                None => drop(entries.entry(key.to_owned()).or_insert(false)),
            }
        }
        for (path, id) in &self.names {
            let is_here = parent(path) == directory && self.nodes[*id].version.is_none();
            if is_here && self.nodes[*id].is_file() {
                let name = path.rsplit('/').next().unwrap_or(path);
                entries.insert(name.to_owned(), false);
            }
        }
        entries
    }
}
