//! The mount under test, driven as a kernel drives it, beside the disk that it must resemble.
//!
//! Owns the walk to a path (each name looked up, the last one's attributes asked, once more after
//! ESTALE), the lookups that the kernel has to give back, and the comparisons. Must not know what
//! an operation ought to answer.

mod end;
mod handles;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3pod::vfs::{
    Attr, DirEntry, DirName, Error, FileKind, Ino, NewTime, RenameMode, SetAttr, Vfs,
};
use s3pod::write;

use super::disk::{Answer, Body, Change, Checked, Disk, Node};
use super::operation::Operation;
use crate::bench::CALLER;

pub(super) use world::{Mounted, World};

const XATTR: &str = "user.k";

/// Walks to a path before it is given up as never quiet.
const WALKS: usize = 3;

pub(super) struct Subject {
    world: Arc<World>,
    vfs: Vfs,
    disk: Disk,
    /// Open handles in the order of opening.
    handles: Vec<u64>,
    /// The inode of each.
    open: BTreeMap<u64, Ino>,
    /// Inodes that are directories.
    directories: BTreeSet<Ino>,
    /// What the kernel was told of, and how often.
    lookups: BTreeMap<Ino, u64>,
    /// Makes each written byte another one.
    written: u64,
}

/// The errno that a program sees.
fn errno(error: &Error) -> &'static str {
    match error {
        Error::NotFound => "ENOENT",
        Error::Exists | Error::Write(write::Error::Exists { .. }) => "EEXIST",
        Error::NotDirectory => "ENOTDIR",
        Error::IsDirectory => "EISDIR",
        Error::NotEmpty => "ENOTEMPTY",
        Error::Invalid => "EINVAL",
        Error::BadHandle => "EBADF",
        Error::NoData => "ENODATA",
        Error::Stale | Error::Write(write::Error::Conflict { .. }) => "ESTALE",
        Error::Store(error) if error.is_changed() => "ESTALE",
        other => String::leak(format!("{other:?}")),
    }
}

fn told<T>(answer: Result<T, Error>) -> Answer<T> {
    answer.map_err(|error| errno(&error))
}

fn split(path: &str) -> (&str, &OsStr) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    (parent, OsStr::new(name))
}

/// Says what of the attributes is not as it must be.
fn compare(attr: &Attr, xattr: Option<&[u8]>, node: &Node) -> Checked {
    let (kind, size) = match &node.body {
        Body::Directory => (FileKind::Directory, attr.size),
        Body::File(bytes) => (FileKind::File, bytes.len() as u64),
        Body::Link(target) => (FileKind::Symlink, target.len() as u64),
    };
    let shown = &node.shown;
    // Every name that comes or goes is a change of its directory.
    let foretold = shown.mtime.filter(|_| kind != FileKind::Directory);
    let mtime = foretold.unwrap_or(attr.mtime);
    let got = (attr.kind, attr.size, attr.perm, attr.uid, attr.mtime, xattr);
    let value = shown.xattr.map(|value| [value; 3]);
    let wanted = (kind, size, shown.perm, shown.uid, mtime, value.as_ref().map(|value| &value[..]));
    if got == wanted { Ok(()) } else { Err(format!("{got:?}, not {wanted:?}")) }
}

impl Subject {
    pub(super) async fn new(world: &Arc<World>, how: Mounted) -> Self {
        let vfs = world.mount(how).await;
        Self {
            world: Arc::clone(world),
            vfs,
            disk: Disk::default(),
            handles: Vec::new(),
            open: BTreeMap::new(),
            directories: BTreeSet::new(),
            lookups: BTreeMap::new(),
            written: 0,
        }
    }

    /// Does the steps, and compares everything at the end.
    pub(super) async fn run(&mut self, steps: &[Operation]) -> Checked {
        for (number, step) in steps.iter().enumerate() {
            let done = self.step(*step).await;
            done.map_err(|wrong| format!("step {number}, {step:?}: {wrong}"))?;
            if self.disk.has_stopped() {
                return Ok(());
            }
        }
        self.end().await.map_err(|wrong| format!("at the end: {wrong}"))
    }

    async fn step(&mut self, step: Operation) -> Checked {
        match step {
            Operation::Open(path, how) => self.open(path, how).await,
            Operation::Stat(path) => self.look(path.text()).await,
            Operation::List(path) => self.list(path.text()).await,
            Operation::Unlink(path) => self.unlink(path.text()).await,
            Operation::Mkdir(path) => self.mkdir(path.text()).await,
            Operation::Rmdir(path) => self.rmdir(path.text()).await,
            Operation::Symlink(path) => self.symlink(path.text()).await,
            Operation::Truncate(path, size) => self.truncate(path.text(), size).await,
            Operation::Rename(from, to, keeps) => self.rename(from.text(), to.text(), keeps).await,
            Operation::Chmod(path, mode) => self.change(path.text(), Change::Perm(mode)).await,
            Operation::Chown(path, owner) => self.change(path.text(), Change::Owner(owner)).await,
            Operation::Touch(path, at) => {
                let at = SystemTime::UNIX_EPOCH + Duration::new(u64::from(at), at);
                self.change(path.text(), Change::Mtime(at)).await
            }
            Operation::SetXattr(path, value) => {
                self.change(path.text(), Change::Xattr(value)).await
            }
            Operation::RemoveXattr(path) => self.change(path.text(), Change::NoXattr).await,
            Operation::RemotePut(path, len) => self.put_elsewhere(path.text(), len).await,
            Operation::RemoteDelete(path) => self.delete_elsewhere(path.text()).await,
            Operation::RemoteChmod(path, mode) => self.chmod_elsewhere(path.text(), mode).await,
            Operation::Wait(millis) => {
                self.world.clock.advance(Duration::from_millis(u64::from(millis)));
                Ok(())
            }
            Operation::Forget => {
                self.forget();
                Ok(())
            }
            Operation::Mishap(mishap) => {
                self.world.break_once(mishap);
                Ok(())
            }
            Operation::Copy(from, to, at, into, len) => {
                self.copy((from, at), (to, into), len).await
            }
            on_handle => self.on_handle(on_handle).await,
        }
    }

    // Names.

    async fn look_up(&mut self, parent: Ino, name: &OsStr) -> Answer<(Ino, FileKind)> {
        let entry = told(self.vfs.lookup(parent, name).await)?;
        self.remember(&entry.attr);
        Ok((entry.attr.ino, entry.attr.kind))
    }

    fn remember(&mut self, attr: &Attr) {
        *self.lookups.entry(attr.ino).or_default() += 1;
        if attr.kind == FileKind::Directory {
            self.directories.insert(attr.ino);
        }
    }

    /// The inode at a path, with its attributes.
    async fn walk(&mut self, path: &str) -> Answer<Attr> {
        let mut walks = 0;
        loop {
            walks += 1;
            match self.walk_once(path).await {
                Err("ESTALE") if walks < WALKS => {}
                answer => return answer,
            }
        }
    }

    async fn walk_once(&mut self, path: &str) -> Answer<Attr> {
        let (mut ino, mut kind) = (Ino::ROOT, FileKind::Directory);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if kind != FileKind::Directory {
                return Err("ENOTDIR");
            }
            (ino, kind) = self.look_up(ino, OsStr::new(name)).await?;
        }
        told(self.vfs.getattr(ino, None).await).map(|(attr, _)| attr)
    }

    /// Looks a path up here and there; both must see the same.
    async fn look(&mut self, path: &str) -> Checked {
        self.seen(path).await.map(drop)
    }

    async fn seen(&mut self, path: &str) -> Checked<Option<Attr>> {
        self.disk.look(path);
        let seen = self.walk(path).await;
        if path.is_empty() {
            return seen.map(Some).map_err(|errno| format!("the root answers {errno}"));
        }
        let wanted = match (self.disk.is_blocked(path), self.disk.at(path)) {
            (true, _) => Err("ENOTDIR"),
            (_, None) => Err("ENOENT"),
            (_, Some(node)) => Ok(node),
        };
        match (seen, wanted) {
            (Ok(attr), Ok(node)) => {
                let xattr = told(self.vfs.getxattr(attr.ino, OsStr::new(XATTR)).await);
                compare(&attr, xattr.ok().as_deref(), node)
                    .map_err(|wrong| format!("{path} has {wrong}"))?;
                Ok(Some(attr))
            }
            (Err(got), Err(errno)) if got == errno => Ok(None),
            (got, Err(errno)) => {
                Err(format!("{path} answers {:?}, not {errno}", got.map(|attr| attr.kind)))
            }
            (Err(got), Ok(_)) => Err(format!("{path} answers {got}, but it is there")),
        }
    }

    /// The directory that a path is in, and the name there.
    async fn place<'p>(&mut self, path: &'p str) -> Answer<(Ino, &'p OsStr)> {
        let (parent, name) = split(path);
        if !parent.is_empty() {
            self.disk.look(parent);
        }
        let attr = self.walk(parent).await?;
        if attr.kind != FileKind::Directory {
            return Err("ENOTDIR");
        }
        Ok((attr.ino, name))
    }

    async fn unlink(&mut self, path: &str) -> Checked {
        self.look(path).await?;
        let got = match self.place(path).await {
            Ok((parent, name)) => told(self.vfs.unlink(parent, name).await),
            Err(_) => return Ok(()),
        };
        self.disk.unlink(path, got)
    }

    async fn mkdir(&mut self, path: &str) -> Checked {
        self.look(path).await?;
        let got = match self.place(path).await {
            Ok((parent, name)) => told(self.vfs.mkdir(parent, name, 0o755, CALLER).await),
            Err(errno) => Err(errno),
        };
        if let Ok(entry) = &got {
            self.remember(&entry.attr);
        }
        self.disk.mkdir(path, got.map(drop))
    }

    async fn rmdir(&mut self, path: &str) -> Checked {
        self.look(path).await?;
        let got = match self.place(path).await {
            Ok((parent, name)) => told(self.vfs.rmdir(parent, name).await),
            Err(_) => return Ok(()),
        };
        self.disk.rmdir(path, got)
    }

    async fn symlink(&mut self, path: &str) -> Checked {
        self.look(path).await?;
        self.written += 1;
        let target = format!("to/{}", self.written);
        let got = match self.place(path).await {
            Ok((parent, name)) => {
                told(self.vfs.symlink(parent, name, OsStr::new(&target), CALLER).await)
            }
            Err(errno) => Err(errno),
        };
        if let Ok(entry) = &got {
            self.remember(&entry.attr);
        }
        self.disk.symlink(path, &target, got.map(drop))
    }

    async fn rename(&mut self, from: &str, to: &str, noreplace: bool) -> Checked {
        self.look(from).await?;
        self.look(to).await?;
        // The kernel answers by itself where one is above the other, or both are one.
        if from == to || from.starts_with(&format!("{to}/")) {
            return Ok(());
        }
        let (Ok((parent, name)), Ok((new_parent, new_name))) =
            (self.place(from).await, self.place(to).await)
        else {
            return Ok(());
        };
        let mode = if noreplace { RenameMode::NoReplace } else { RenameMode::Replace };
        let got = told(self.vfs.rename(parent, name, new_parent, new_name, mode).await);
        self.disk.rename((from, to), noreplace, got)
    }

    async fn truncate(&mut self, path: &str, size: u64) -> Checked {
        let Some(attr) = self.seen(path).await? else { return Ok(()) };
        if attr.kind == FileKind::Symlink {
            return Ok(());
        }
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        let got = told(self.vfs.setattr(attr.ino, None, change).await);
        self.disk.truncate(path, size, got.map(drop))
    }

    async fn change(&mut self, path: &str, change: Change) -> Checked {
        let Some(attr) = self.seen(path).await? else { return Ok(()) };
        if attr.kind == FileKind::Symlink {
            return Ok(());
        }
        let set = |change| self.vfs.setattr(attr.ino, None, change);
        let (none, name) = (SetAttr::default(), OsStr::new(XATTR));
        let got = match change {
            Change::Perm(perm) => set(SetAttr { perm: Some(perm), ..none }).await.map(drop),
            Change::Owner(uid) => set(SetAttr { uid: Some(uid), ..none }).await.map(drop),
            Change::Mtime(at) => {
                set(SetAttr { mtime: Some(NewTime::At(at)), ..none }).await.map(drop)
            }
            Change::Xattr(value) => self.vfs.setxattr(attr.ino, name, &[value; 3], 0).await,
            Change::NoXattr => self.vfs.removexattr(attr.ino, name).await,
        };
        self.disk.change(path, change, told(got))
    }

    async fn list(&mut self, path: &str) -> Checked {
        let Some(attr) = self.seen(path).await? else { return Ok(()) };
        if attr.kind != FileKind::Directory {
            return Ok(());
        }
        let entries = self.read_directory(attr.ino).await.map_err(|errno| format!("it {errno}"))?;
        let names: BTreeMap<String, bool> =
            entries.iter().map(|(name, (_, is_directory))| (name.clone(), *is_directory)).collect();
        let wanted = self.disk.list(path);
        if names != wanted {
            return Err(format!("{path:?} lists {names:?}, not {wanted:?}"));
        }
        for (name, (ino, _)) in entries {
            let found = self.look_up(attr.ino, OsStr::new(&name)).await.map(|(found, _)| found);
            if found != Ok(ino) && found != self.number_of(attr.ino, &name).await {
                return Err(format!("{path:?} lists {name} as {ino:?}; it is {found:?}"));
            }
        }
        Ok(())
    }

    /// The number that a name is listed with. A renamed directory keeps its number while anything
    /// of it is here, held attributes too, and nobody knows when those are sent.
    async fn number_of(&self, parent: Ino, name: &str) -> Answer<Ino> {
        let entries = self.read_directory(parent).await?;
        entries.get(name).map(|(ino, _)| *ino).ok_or("ENOENT")
    }

    async fn read_directory(&self, ino: Ino) -> Answer<BTreeMap<String, (Ino, bool)>> {
        let fh = told(self.vfs.opendir(ino).await)?;
        let (mut entries, mut cookie) = (BTreeMap::new(), 0);
        loop {
            let before = cookie;
            let mut take = |entry: &DirEntry| {
                cookie = entry.cookie;
                if let DirName::Child(name) = &entry.name {
                    let value = (entry.ino, entry.kind == FileKind::Directory);
                    let twice = entries.insert(name.as_str().to_owned(), value);
                    assert!(twice.is_none(), "{name:?} is listed twice");
                }
                true
            };
            told(self.vfs.readdir(fh, before, false, &mut take).await)?;
            if cookie == before {
                break;
            }
        }
        told(self.vfs.releasedir(fh).await)?;
        Ok(entries)
    }

    // Another client.

    async fn put_elsewhere(&mut self, path: &str, len: u64) -> Checked {
        self.look(path).await?;
        if self.disk.may_be_changed_elsewhere(path) {
            let bytes = self.fresh(len);
            self.world.bucket().put(path, bytes.clone());
            self.disk.put_elsewhere(path, bytes);
        }
        Ok(())
    }

    async fn chmod_elsewhere(&mut self, path: &str, perm: u16) -> Checked {
        self.look(path).await?;
        if let Some(key) = self.disk.chmod_elsewhere(path, perm) {
            let kind = if key.ends_with('/') { 0o040_000 } else { 0o100_000 };
            let mode = format!("0{:o}", kind | u32::from(perm));
            self.world.bucket().set_metadata(&key, [("mode", mode.as_str())]);
        }
        Ok(())
    }

    async fn delete_elsewhere(&mut self, path: &str) -> Checked {
        self.look(path).await?;
        if self.disk.may_be_changed_elsewhere(path) && self.disk.delete_elsewhere(path) {
            self.world.bucket().delete(path);
        }
        Ok(())
    }
}
