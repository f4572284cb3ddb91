//! The reference: a disk in memory, and the objects that stand behind it.
//!
//! Owns what each operation must answer and what is so afterwards. Every method takes what the
//! mount answered, says whether that was right, and follows it. On a disk that nobody else writes
//! to this is plain POSIX; what another client does is seen where a name is looked up, and not
//! while something is here that the store does not have. Must not know the mount.

mod look;
mod names;

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::operation::{How, PART};

pub(super) use names::Change;

/// What the mount answered: nothing, or the name of an errno.
pub(super) type Answer<T = ()> = Result<T, &'static str>;

/// Wrong answers, in words.
pub(super) type Checked<T = ()> = Result<T, String>;

type Id = usize;

/// Names an object's version.
type Token = u64;

/// The content of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Directory,
    File(Vec<u8>),
    Link(String),
}

/// What `stat` shows, as far as it can be foretold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) perm: u16,
    pub(super) uid: u32,
    /// None where nobody set it since the bytes changed.
    pub(super) mtime: Option<SystemTime>,
    pub(super) xattr: Option<u8>,
}

impl Shown {
    const fn new(perm: u16) -> Self {
        Self { perm, uid: super::OWNER, mtime: None, xattr: None }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) shown: Shown,
    /// The store lacks something of it.
    dirty: bool,
    version: Option<Token>,
    /// Bytes of that version that are still the file's.
    kept: usize,
    exclusive: bool,
    /// An object of an earlier file stands under its name until it is committed itself.
    hides: bool,
    /// Its name was taken away here.
    unlinked: bool,
    /// Its name stands for another client's object.
    lost: bool,
    /// Another client won.
    detached: bool,
    /// The kernel was told of it; what stands in the middle of a path is then not asked for again.
    known: bool,
    /// What of the store it needs was brought here when its name went.
    outlives: bool,
}

impl Node {
    fn new(body: Body, shown: Shown) -> Self {
        Self {
            body,
            shown,
            dirty: false,
            version: None,
            kept: 0,
            exclusive: false,
            hides: false,
            unlinked: false,
            lost: false,
            detached: false,
            known: true,
            outlives: false,
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        match &mut self.body {
            Body::File(bytes) => bytes,
            _ => unreachable!("only files are opened"),
        }
    }

    const fn is_file(&self) -> bool {
        matches!(self.body, Body::File(_))
    }

    const fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory)
    }

    fn changed(&mut self) {
        self.dirty = true;
        self.shown.mtime = None;
    }
}

#[derive(Debug)]
struct Handle {
    node: Id,
    write: bool,
    dirty: bool,
}

/// An object of the store.
#[derive(Clone, Debug)]
struct Object {
    token: Token,
    body: Body,
    shown: Shown,
}

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    nodes: Vec<Node>,
    names: BTreeMap<String, Id>,
    handles: BTreeMap<u64, Handle>,
    objects: BTreeMap<String, Object>,
    /// Objects of unlinked files that are still open.
    doomed: BTreeMap<String, Id>,
    last_token: Token,
    stopped: bool,
    /// The bytes of files that another client won over.
    beaten: Vec<Vec<u8>>,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn below(directory: &str) -> String {
    format!("{directory}/")
}

/// Fails where the answer is another one.
fn want(got: Answer, wanted: Answer) -> Checked {
    if got == wanted { Ok(()) } else { Err(format!("answered {got:?}, not {wanted:?}")) }
}

impl Disk {
    fn token(&mut self) -> Token {
        self.last_token += 1;
        self.last_token
    }

    fn add(&mut self, path: &str, node: Node) -> Id {
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.names.insert(path.to_owned(), id);
        id
    }

    fn node(&self, path: &str) -> Option<&Node> {
        self.names.get(path).map(|id| &self.nodes[*id])
    }

    /// True where what is so is up to chance, and there is nothing more to compare.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// What is at a path; nothing is looked up.
    pub(super) fn at(&self, path: &str) -> Option<&Node> {
        self.node(path)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.names.iter().map(|(path, id)| (path.as_str(), &self.nodes[*id]))
    }

    fn opens(&self, id: Id) -> usize {
        self.handles.values().filter(|handle| handle.node == id).count()
    }

    /// True for a directory that is there, and for the root.
    pub(super) fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.node(path).is_some_and(Node::is_directory)
    }

    /// True where the walk to a path meets something that is no directory.
    pub(super) fn is_blocked(&self, path: &str) -> bool {
        let above = parent(path);
        !above.is_empty()
            && (self.is_blocked(above) || self.node(above).is_some_and(|node| !node.is_directory()))
    }

    // Open files.

    /// The answer to an open of what has been looked up.
    pub(super) fn open(&mut self, path: &str, how: How, got: Answer<u64>) -> Checked {
        let id = match self.names.get(path) {
            Some(&id) => id,
            None => {
                let mut node = Node::new(Body::File(Vec::new()), Shown::new(0o644));
                node.dirty = true;
                node.hides = self.spare(path);
                node.exclusive = how.exclusive && !node.hides;
                self.add(path, node)
            }
        };
        let fh = got.map_err(|errno| format!("open answered {errno}"))?;
        if how.truncate {
            self.cut(id, 0);
        }
        self.handles.insert(fh, Handle { node: id, write: how.write, dirty: false });
        Ok(())
    }

    fn cut(&mut self, id: Id, size: usize) {
        let node = &mut self.nodes[id];
        node.bytes().resize(size, 0);
        node.kept = node.kept.min(size);
        node.changed();
    }

    pub(super) fn size(&self, fh: u64) -> u64 {
        match &self.nodes[self.handles[&fh].node].body {
            Body::File(bytes) => bytes.len() as u64,
            _ => 0,
        }
    }

    pub(super) fn may_write(&self, fh: u64) -> bool {
        self.handles[&fh].write
    }

    fn open_node(&mut self, fh: u64) -> &mut Node {
        &mut self.nodes[self.handles[&fh].node]
    }

    pub(super) fn write(&mut self, fh: u64, at: u64, data: &[u8], got: Answer) -> Checked {
        if self.open_node(fh).detached {
            return want(got, Err("ESTALE"));
        }
        want(got, Ok(()))?;
        let node = self.open_node(fh);
        let (at, end) = (at as usize, at as usize + data.len());
        let bytes = node.bytes();
        bytes.resize(bytes.len().max(end), 0);
        bytes[at..end].copy_from_slice(data);
        node.changed();
        self.handle_changed(fh);
        Ok(())
    }

    fn handle_changed(&mut self, fh: u64) {
        if let Some(handle) = self.handles.get_mut(&fh) {
            handle.dirty = true;
        }
    }

    pub(super) fn resize(&mut self, fh: u64, size: u64, got: Answer) -> Checked {
        if self.open_node(fh).detached {
            return want(got, Err("ESTALE"));
        }
        want(got, Ok(()))?;
        self.cut(self.handles[&fh].node, size as usize);
        self.handle_changed(fh);
        Ok(())
    }

    pub(super) fn read(&mut self, fh: u64, at: u64, len: u64, got: Answer<Vec<u8>>) -> Checked {
        let id = self.handles[&fh].node;
        if self.nodes[id].detached {
            return want(got.map(drop), Err("ESTALE"));
        }
        let may_be_gone = {
            let node = &self.nodes[id];
            let is_there = |token| self.objects.values().any(|object| object.token == token);
            !node.outlives && node.version.is_some_and(|token| !is_there(token))
        };
        if may_be_gone && got == Err("ESTALE") {
            return Ok(());
        }
        let bytes = self.nodes[id].bytes();
        let end = bytes.len().min((at + len) as usize);
        let wanted = &bytes[end.min(at as usize)..end];
        match got {
            Ok(got) if got == wanted => Ok(()),
            Ok(got) => Err(format!("read {got:?}, not {wanted:?}")),
            Err(errno) => Err(format!("read answered {errno}")),
        }
    }

    /// SEEK_DATA passes over nothing but zeros, and SEEK_HOLE finds the end at the latest.
    pub(super) fn seek(
        &mut self,
        fh: u64,
        at: u64,
        data: Answer<u64>,
        hole: Answer<u64>,
    ) -> Checked {
        let node = self.open_node(fh);
        if node.detached {
            return want(data.and(hole).map(drop), Err("ESTALE"));
        }
        let bytes = node.bytes();
        let size = bytes.len() as u64;
        let passed = match data {
            Ok(data) if data >= at && data < size => at..data,
            Err("ENODATA") => at.min(size)..size,
            other => return Err(format!("data at {other:?} of {size}")),
        };
        let passed = &bytes[passed.start as usize..passed.end as usize];
        if passed.iter().any(|byte| *byte != 0) {
            return Err(format!("data at {data:?} passes over {passed:?}"));
        }
        match hole {
            Ok(hole) if hole >= at && hole <= size => Ok(()),
            Err("ENODATA") if at >= size => Ok(()),
            other => Err(format!("a hole at {other:?} of {size}")),
        }
    }

    /// A copy that moves all it is asked for: it ends within the source.
    pub(super) fn copy(
        &mut self,
        (from, at): (u64, u64),
        (to, into): (u64, u64),
        len: u64,
        got: Answer<u64>,
    ) -> Checked {
        let is_one_file = self.handles[&from].node == self.handles[&to].node;
        if is_one_file && at.max(into) < at.min(into).saturating_add(len) {
            return want(got.map(drop), Err("EINVAL"));
        }
        if len >= PART {
            // The store copies what it has, so the source is sent before.
            self.commit(self.handles[&from].node, got.map(drop))?;
        }
        if got != Ok(len) {
            return Err(format!("copied {got:?}, not {len} bytes"));
        }
        if len == 0 {
            return Ok(());
        }
        let bytes = self.open_node(from).bytes();
        let copied = bytes[at as usize..(at + len) as usize].to_vec();
        self.write(to, into, &copied, Ok(()))
    }

    /// A flush that the store lets through.
    pub(super) fn flush(&mut self, fh: u64, got: Answer) -> Checked {
        let (id, is_dirty) = (self.handles[&fh].node, self.handles[&fh].dirty);
        if self.nodes[id].detached {
            return want(got, Err("ESTALE"));
        }
        if is_dirty { self.commit(id, got) } else { want(got, Ok(())) }
    }

    /// True where a flush must send something, and nobody else is in its way.
    pub(super) fn flush_sends(&self, fh: u64) -> bool {
        let handle = &self.handles[&fh];
        let node = &self.nodes[handle.node];
        let is_free = !node.lost && !node.unlinked && !node.detached;
        handle.dirty && node.dirty && is_free && self.conflict(handle.node, false).is_none()
    }

    pub(super) fn fsync(&mut self, fh: u64, got: Answer) -> Checked {
        let id = self.handles[&fh].node;
        if self.nodes[id].detached {
            return want(got, Err("ESTALE"));
        }
        self.commit(id, got)
    }

    /// The RELEASE that follows the flush of a close.
    pub(super) fn release(&mut self, fh: u64, got: Answer) -> Checked {
        want(got, Ok(()))?;
        let Some(handle) = self.handles.remove(&fh) else { return Ok(()) };
        if handle.write && self.is_due(handle.node) {
            self.settle_commit(handle.node, self.conflict(handle.node, true));
        }
        if self.opens(handle.node) == 0 {
            let gone: Vec<String> = self
                .doomed
                .iter()
                .filter(|(_, id)| **id == handle.node)
                .map(|(k, _)| k.clone())
                .collect();
            for key in gone {
                self.doomed.remove(&key);
                self.objects.remove(&key);
            }
        }
        Ok(())
    }

    // Commits.

    fn is_due(&self, id: Id) -> bool {
        let node = &self.nodes[id];
        node.dirty && !node.unlinked && !node.detached
    }

    fn key_of(&self, id: Id) -> Option<String> {
        let name = self.names.iter().find(|(_, named)| **named == id);
        name.map(|(path, _)| path.clone())
    }

    /// The errno of a commit that another client is in the way of.
    fn conflict(&self, id: Id, in_background: bool) -> Option<&'static str> {
        let node = &self.nodes[id];
        let Some(key) = self.key_of(id) else { return Some("ESTALE") };
        let there = self.objects.get(&key).map(|object| object.token);
        match node.version {
            Some(version) if node.kept > 0 || in_background => {
                (there != Some(version)).then_some("ESTALE")
            }
            None if (node.exclusive || in_background) && !node.hides => {
                there.is_some().then_some("EEXIST")
            }
            _ => None,
        }
    }

    fn commit(&mut self, id: Id, got: Answer) -> Checked {
        if !self.is_due(id) {
            return want(got, Ok(()));
        }
        let conflict = self.conflict(id, false);
        want(got, conflict.map_or(Ok(()), Err))?;
        self.settle_commit(id, conflict);
        Ok(())
    }

    pub(super) fn lost_bytes(&self) -> Vec<Vec<u8>> {
        self.beaten.clone()
    }

    /// The end of a mount: what is only here is sent. Returns what another client won over.
    pub(super) fn drain(&mut self) -> u64 {
        let mut beaten = 0;
        for id in 0..self.nodes.len() {
            if self.is_due(id) {
                let conflict = self.conflict(id, true);
                beaten += u64::from(conflict.is_some());
                self.settle_commit(id, conflict);
            }
        }
        beaten
    }

    fn settle_commit(&mut self, id: Id, conflict: Option<&'static str>) {
        let key = self.key_of(id);
        let token = self.token();
        let node = &mut self.nodes[id];
        node.dirty = false;
        if conflict.is_some() {
            (node.detached, node.lost) = (true, true);
            let bytes = node.bytes().clone();
            self.beaten.extend((!bytes.is_empty()).then_some(bytes));
            if let Some(key) = key {
                self.names.remove(&key);
            }
            return;
        }
        node.version = Some(token);
        (node.exclusive, node.hides) = (false, false);
        node.kept = node.bytes().len();
        let object = Object { token, body: node.body.clone(), shown: node.shown.clone() };
        if let Some(key) = key {
            self.objects.insert(key, object);
        }
        self.handles.values_mut().filter(|handle| handle.node == id).for_each(|handle| {
            handle.dirty = false;
        });
    }

    pub(super) fn truncate(&mut self, path: &str, size: u64, got: Answer) -> Checked {
        let Some(&id) = self.names.get(path) else { return want(got, Err("ENOENT")) };
        if self.nodes[id].is_directory() {
            return want(got, Err("EISDIR"));
        }
        self.cut(id, size as usize);
        self.commit(id, got)
    }
}
