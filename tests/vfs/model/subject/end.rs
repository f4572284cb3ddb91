//! The end of a case: everything is closed and sent, and compared once more in this mount, in the
//! bucket and in a new mount.

use std::collections::BTreeMap;
use std::time::Duration;

use s3pod::vfs::{Attr, Fh, FileKind, Ino, OpenFlags};

use super::super::disk::{Body, Checked};
use super::super::operation::PATHS;
use super::{Mounted, Subject, told};

/// What nobody waits for is done within this on the busiest machine.
const PATIENCE: usize = 2_000;

impl Subject {
    /// The kernel forgets what it need not know: with files open, only files that are not.
    pub(super) fn forget(&mut self) {
        let is_all = self.open.is_empty();
        self.disk.forget();
        let open: Vec<Ino> = self.open.values().copied().collect();
        let is_kept = |ino: &Ino| {
            *ino == Ino::ROOT || !is_all && (open.contains(ino) || self.directories.contains(ino))
        };
        let lookups = std::mem::take(&mut self.lookups);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            lookups.into_iter().partition(|(ino, _)| is_kept(ino));
        for (ino, count) in gone {
            self.vfs.forget(ino, count);
        }
        self.lookups = kept;
    }

    pub(super) async fn end(&mut self) -> Checked {
        for fh in self.handles.clone() {
            self.close(fh).await?;
        }
        self.world.faults().clear();
        let drained = self.vfs.drain().await;
        let beaten = self.disk.drain();
        if drained.failed != beaten {
            return Err(format!("{} files could not be sent, not {beaten}", drained.failed));
        }
        self.compare_all().await?;
        self.compare_bucket()?;
        self.compare_recovered()?;
        self.forget();
        self.nothing_is_left().await?;
        self.vfs = self.world.mount(Mounted::STRICT).await;
        self.lookups.clear();
        self.compare_all().await.map_err(|wrong| format!("in a new mount: {wrong}"))
    }

    async fn compare_all(&mut self) -> Checked {
        self.disk.look_everywhere();
        self.list("").await?;
        for path in PATHS {
            let Some(attr) = self.seen(path).await? else { continue };
            self.compare_content(path, &attr).await.map_err(|wrong| format!("{path}: {wrong}"))?;
        }
        Ok(())
    }

    async fn compare_content(&mut self, path: &str, attr: &Attr) -> Checked {
        match attr.kind {
            FileKind::Directory => self.list(path).await,
            FileKind::File => {
                let flags = OpenFlags { read: true, ..OpenFlags::default() };
                let opened = told(self.vfs.open(attr.ino, flags).await)?;
                let got = told(self.vfs.read(opened.fh, 0, 1 << 20).await)?;
                told(self.vfs.release(Fh(opened.fh.0)).await)?;
                self.is_body(path, &Body::File(got.to_vec()))
            }
            _ => {
                let target = told(self.vfs.readlink(attr.ino).await)?;
                self.is_body(path, &Body::Link(String::from_utf8_lossy(&target).into_owned()))
            }
        }
    }

    fn is_body(&self, path: &str, got: &Body) -> Checked {
        match self.disk.at(path) {
            Some(node) if node.body == *got => Ok(()),
            other => Err(format!("{got:?}, not {:?}", other.map(|node| &node.body))),
        }
    }

    /// Every file is one object with its bytes, and there is no other object but markers.
    fn compare_bucket(&self) -> Checked {
        let bucket = self.world.bucket();
        let keys: Vec<String> =
            bucket.keys().into_iter().filter(|key| !key.ends_with('/')).collect();
        let wanted = self.disk.file_keys();
        if keys != wanted {
            return Err(format!("the bucket holds {keys:?}, not {wanted:?}"));
        }
        for (path, node) in self.disk.names() {
            let wanted = match &node.body {
                Body::Directory => continue,
                Body::File(bytes) => bytes.as_slice(),
                Body::Link(target) => target.as_bytes(),
            };
            let got = bucket.get(path);
            if got.as_deref() != Some(wanted) {
                return Err(format!("the object {path} is {got:?}, not {wanted:?}"));
            }
        }
        Ok(())
    }

    /// What another client won over is kept, as far as it was here.
    fn compare_recovered(&self) -> Checked {
        let mut lost = self.disk.lost_bytes();
        let folder = tempfile::tempdir().unwrap();
        for (number, item) in self.world.recovered().iter().enumerate() {
            let saved = folder.path().join(number.to_string());
            item.save(&saved, false).unwrap();
            let mut got = std::fs::read(saved).unwrap();
            let is_same = |wanted: &Vec<u8>| {
                let (mut wanted, len) = (wanted.clone(), wanted.len());
                for missing in &item.recovered.missing {
                    wanted[len.min(missing.start as usize)..len.min(missing.end as usize)].fill(0);
                }
                wanted == got
            };
            match lost.iter().position(is_same) {
                Some(at) => drop(lost.remove(at)),
                None => {
                    got.truncate(50);
                    return Err(format!("nobody lost {got:?}, of {:?}", item.recovered));
                }
            }
        }
        if lost.is_empty() { Ok(()) } else { Err(format!("{lost:?} were not kept")) }
    }

    /// No inode that nobody knows, no staged byte, no unfinished upload; what nobody waits for may
    /// take a moment.
    async fn nothing_is_left(&self) -> Checked {
        let mut left = String::new();
        for _ in 0..PATIENCE {
            let inodes = self.vfs.inode_count() - 1;
            let staged = self.world.staged();
            let uploads = self.world.bucket().uploads().len();
            if (inodes, staged, uploads) == (0, 0, 0) {
                return Ok(());
            }
            left = format!("{inodes} inodes, {staged} staged files, {uploads} uploads are left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(left)
    }
}
