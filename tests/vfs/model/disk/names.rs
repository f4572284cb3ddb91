//! The reference's names: made, moved and taken away, and the attributes that go with them.
//!
//! Owns the rules of POSIX for names, and which objects come and go with them. Each method is
//! told of paths that have just been looked up. Must not know the mount.

use super::{Answer, Body, Checked, Disk, Id, Node, Object, Shown, below, parent, want};

/// A change of attributes.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Change {
    Perm(u16),
    Owner(u32),
    Mtime(std::time::SystemTime),
    Xattr(u8),
    NoXattr,
}

impl Disk {
    /// The errno of making something at a path; none where it can be made.
    fn in_the_way(&self, path: &str) -> Option<&'static str> {
        if self.is_blocked(path) {
            Some("ENOTDIR")
        } else if !self.is_directory(parent(path)) {
            Some("ENOENT")
        } else {
            self.node(path).map(|_| "EEXIST")
        }
    }

    /// A directory outlives its last name: it gets a marker before that goes.
    fn keep_directory(&mut self, path: &str) {
        if !path.is_empty() && !self.objects.contains_key(&below(path)) {
            self.put_marker(path);
        }
    }

    fn put_marker(&mut self, path: &str) {
        let token = self.token();
        let shown = self.node(path).map_or(Shown::new(0o755), |node| node.shown.clone());
        self.objects.insert(below(path), Object { token, body: Body::Directory, shown });
    }

    /// A delete that waited is called off; true where there was one.
    pub(super) fn spare(&mut self, key: &str) -> bool {
        let Some(id) = self.doomed.remove(key) else { return false };
        self.nodes[id].outlives = true;
        true
    }

    pub(in super::super) fn mkdir(&mut self, path: &str, got: Answer) -> Checked {
        if let Some(errno) = self.in_the_way(path) {
            return want(got, Err(errno));
        }
        want(got, Ok(()))?;
        self.add(path, Node::new(Body::Directory, Shown::new(0o755)));
        self.put_marker(path);
        Ok(())
    }

    pub(in super::super) fn symlink(&mut self, path: &str, target: &str, got: Answer) -> Checked {
        if let Some(errno) = self.in_the_way(path) {
            return want(got, Err(errno));
        }
        want(got, Ok(()))?;
        self.spare(path);
        let (token, body) = (self.token(), Body::Link(target.to_owned()));
        let shown = Shown::new(0o777);
        let mut node = Node::new(body.clone(), shown.clone());
        node.version = Some(token);
        self.add(path, node);
        self.objects.insert(path.to_owned(), Object { token, body, shown });
        Ok(())
    }

    pub(in super::super) fn unlink(&mut self, path: &str, got: Answer) -> Checked {
        let Some(&id) = self.names.get(path) else { return want(got, Err("ENOENT")) };
        if self.nodes[id].is_directory() {
            return want(got, Err("EISDIR"));
        }
        want(got, Ok(()))?;
        if self.nodes[id].version.is_some() {
            self.keep_directory(parent(path));
            if self.opens(id) > 0 {
                // Another client's in its place is not what goes with the last close.
                let there = self.objects.get(path).map(|object| object.token);
                if there == self.nodes[id].version {
                    self.doomed.insert(path.to_owned(), id);
                }
            } else {
                self.objects.remove(path);
            }
        }
        if self.nodes[id].hides {
            self.objects.remove(path);
        }
        self.nodes[id].unlinked = true;
        self.names.remove(path);
        Ok(())
    }

    fn is_empty(&self, path: &str) -> bool {
        let prefix = below(path);
        let marker = below(path);
        let mut keys =
            self.objects.keys().filter(|key| key.starts_with(&prefix) && **key != marker);
        let unsent = |(name, id): (&String, &Id)| {
            let node = &self.nodes[*id];
            parent(name) == path && node.is_file() && node.version.is_none()
        };
        !keys.any(|key| !self.doomed.contains_key(key)) && !self.names.iter().any(unsent)
    }

    pub(in super::super) fn rmdir(&mut self, path: &str, got: Answer) -> Checked {
        match self.node(path) {
            None => return want(got, Err("ENOENT")),
            Some(node) if !node.is_directory() => return want(got, Err("ENOTDIR")),
            Some(_) => {}
        }
        self.keep_directory(parent(path));
        if !self.is_empty(path) {
            return want(got, Err("ENOTEMPTY"));
        }
        want(got, Ok(()))?;
        self.remove_directory(path);
        Ok(())
    }

    fn remove_directory(&mut self, path: &str) {
        self.objects.remove(&below(path));
        let id = self.names.get(path).copied();
        self.lose(path);
        if let Some(id) = id {
            self.nodes[id].unlinked = true;
        }
    }

    /// The errno of a rename that cannot be; none where it is tried.
    fn rename_refusal(&self, from: &str, to: &str, noreplace: bool) -> Option<&'static str> {
        if self.is_blocked(from) || self.is_blocked(to) {
            return Some("ENOTDIR");
        }
        let Some(source) = self.node(from) else { return Some("ENOENT") };
        if !self.is_directory(parent(to)) {
            return Some("ENOENT");
        }
        let replaced = self.node(to).map(Node::is_directory);
        match (replaced, source.is_directory()) {
            (Some(_), _) if noreplace => Some("EEXIST"),
            (Some(false), true) => Some("ENOTDIR"),
            (Some(true), false) => Some("EISDIR"),
            (_, true) if to.starts_with(&below(from)) => Some("EINVAL"),
            (Some(true), true) if !self.is_empty(to) => Some("ENOTEMPTY"),
            _ => None,
        }
    }

    pub(in super::super) fn rename(
        &mut self,
        (from, to): (&str, &str),
        noreplace: bool,
        got: Answer,
    ) -> Checked {
        if let Some(errno) = self.rename_refusal(from, to, noreplace) {
            return want(got, Err(errno));
        }
        let id = self.names[from];
        if self.nodes[id].is_directory() {
            self.rename_directory(from, to, got)
        } else {
            self.rename_file(id, from, (to, noreplace), got)
        }
    }

    fn rename_file(
        &mut self,
        id: Id,
        from: &str,
        (to, keeps): (&str, bool),
        got: Answer,
    ) -> Checked {
        if self.nodes[id].version.is_some() && self.is_due(id) {
            let conflict = self.conflict(id, false);
            want(got, conflict.map_or(Ok(()), Err))?;
            self.settle_commit(id, conflict);
            if conflict.is_some() {
                return Ok(());
            }
        }
        want(got, Ok(()))?;
        let replaced = self.names.get(to).copied();
        let mut stands_there = self.spare(to);
        if let Some(replaced) = replaced {
            let version = self.nodes[replaced].version;
            let current = self.objects.get(to).map(|object| object.token);
            stands_there |= version.is_some() || self.nodes[replaced].hides;
            self.nodes[replaced].outlives |= version == current;
            self.nodes[replaced].unlinked = true;
        }
        if self.nodes[id].version.is_some() {
            self.keep_directory(parent(from));
            if let Some(object) = self.objects.remove(from) {
                self.objects.insert(to.to_owned(), object);
            }
        } else {
            if self.nodes[id].hides {
                self.objects.remove(from);
            }
            self.nodes[id].hides = stands_there;
            self.nodes[id].exclusive &= !stands_there;
            // Whether another client has made the name is decided by the commit.
            self.nodes[id].exclusive |= keeps && !stands_there;
        }
        self.names.remove(from);
        self.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn rename_directory(&mut self, from: &str, to: &str, got: Answer) -> Checked {
        let prefix = below(from);
        let edits: Vec<Id> = {
            let all = self.names.iter().filter(|(name, _)| name.starts_with(&prefix));
            let edited = |id: &Id| self.nodes[*id].version.is_some() && self.is_due(*id);
            all.map(|(_, id)| *id).filter(edited).collect()
        };
        let refused = edits.iter().find_map(|id| self.conflict(*id, false));
        if refused.is_some() || got.is_err() {
            // Which of several edits was sent before one was refused is chance.
            self.stopped = true;
            return want(got, refused.map_or(Ok(()), Err));
        }
        for id in edits {
            self.settle_commit(id, None);
        }
        self.lose_what_is_gone(&prefix);
        if self.names.contains_key(to) {
            self.remove_directory(to);
        }
        self.keep_directory(parent(from));
        let moved = |key: &str| format!("{to}{}", &key[from.len()..]);
        let is_moved = |key: &&String| key.starts_with(&prefix) && !self.doomed.contains_key(*key);
        let keys: Vec<String> = self.objects.keys().filter(is_moved).cloned().collect();
        for key in keys {
            self.spare(&moved(&key));
            if let Some(object) = self.objects.remove(&key) {
                self.objects.insert(moved(&key), object);
            }
        }
        let names: Vec<String> = {
            let is_moved = |name: &&String| *name == from || name.starts_with(&prefix);
            self.names.keys().filter(is_moved).cloned().collect()
        };
        for name in names {
            if let Some(id) = self.names.remove(&name) {
                // The object it hid stays behind, or has gone along and is hidden there.
                self.names.insert(moved(&name), id);
            }
        }
        Ok(())
    }

    /// Who moves a directory finds out which of its files other clients have replaced or deleted.
    fn lose_what_is_gone(&mut self, prefix: &str) {
        let below = self.names.iter().filter(|(path, _)| path.starts_with(prefix));
        let gone = below.filter(|(path, id)| {
            let node = &self.nodes[**id];
            let there = self.object(path).map(|object| object.token);
            !node.is_directory() && node.version.is_some() && there != node.version
        });
        let gone: Vec<String> = gone.map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.lose(&path);
        }
    }

    pub(in super::super) fn change(&mut self, path: &str, change: Change, got: Answer) -> Checked {
        let Some(&id) = self.names.get(path) else { return want(got, Err("ENOENT")) };
        let shown = &mut self.nodes[id].shown;
        let before = shown.clone();
        match change {
            Change::NoXattr if shown.xattr.is_none() => return want(got, Err("ENODATA")),
            Change::NoXattr => shown.xattr = None,
            Change::Xattr(value) => shown.xattr = Some(value),
            Change::Perm(perm) => shown.perm = perm,
            Change::Owner(owner) => shown.uid = owner,
            Change::Mtime(mtime) => shown.mtime = Some(mtime),
        }
        want(got, Ok(()))?;
        let node = &self.nodes[id];
        if node.shown == before || node.dirty {
            return Ok(());
        }
        if node.is_directory() {
            self.put_marker(path);
            return Ok(());
        }
        let (token, body, shown) =
            (self.token(), node_body(self, id), self.nodes[id].shown.clone());
        self.nodes[id].version = Some(token);
        self.objects.insert(path.to_owned(), Object { token, body, shown });
        Ok(())
    }

    // Other clients.

    /// The state in which another client may meet this mount's files without chance deciding.
    pub(in super::super) fn may_be_changed_elsewhere(&self, path: &str) -> bool {
        !self.is_directory(path)
            && !self.is_blocked(path)
            && !self.node(path).is_some_and(|node| node.hides)
    }

    /// What waited there to go is replaced, and nothing here takes the new object away.
    pub(in super::super) fn put_elsewhere(&mut self, path: &str, bytes: Vec<u8>) {
        self.doomed.remove(path);
        let (token, body) = (self.token(), Body::File(bytes));
        let shown = Shown::new(0o644);
        self.objects.insert(path.to_owned(), Object { token, body, shown });
    }

    /// The key of the object whose metadata is another from now on; none where there is none, or
    /// where this mount is about to write its own.
    pub(in super::super) fn chmod_elsewhere(&mut self, path: &str, perm: u16) -> Option<String> {
        let node = self.node(path)?;
        let key = match &node.body {
            Body::Directory => below(path),
            Body::File(_) if !node.dirty && !self.doomed.contains_key(path) => path.to_owned(),
            _ => return None,
        };
        self.objects.get_mut(&key)?.shown = Shown::new(perm);
        Some(key)
    }

    /// True where there was an object.
    pub(in super::super) fn delete_elsewhere(&mut self, path: &str) -> bool {
        self.doomed.remove(path);
        self.objects.remove(path).is_some()
    }

    /// The keys of the files in the store.
    pub(in super::super) fn file_keys(&self) -> Vec<String> {
        let is_file = |key: &&String| !key.ends_with('/');
        self.objects.keys().filter(is_file).cloned().collect()
    }
}

fn node_body(disk: &Disk, id: Id) -> Body {
    disk.nodes[id].body.clone()
}
