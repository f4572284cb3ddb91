//! Names taken away: UNLINK and RMDIR.
//!
//! Owns when an object goes: at once, or with the last close of an open file. Must not know how a
//! name is made.

use std::ffi::OsStr;
use std::sync::Arc;

use super::attr::{FileKind, Ino};
use super::inode::Inode;
use super::{Error, Result, Vfs};
use crate::naming::{Name, Prefix};
use crate::store::{ListLine, ListRequest};

impl Vfs {
    /// Takes a file's name away; its object goes now, or with the last close.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], the store's: then the name stays.
    pub async fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let (name, inode) = self.existing(parent, name).await?;
        if inode.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        let _places_stand = self.0.namespace.read().await;
        let _one_at_a_time = inode.commit.lock().await;
        let is_in_store = Self::version_of(&inode).is_some();
        if is_in_store {
            self.keep_directory(parent).await;
            let key = self.table().key(inode.ino).ok_or(Error::NotFound)?;
            if self.table().opens(inode.ino) > 0 {
                self.table().doom(key, inode.ino);
            } else {
                self.delete_object(&key).await?;
            }
        }
        self.take_name(parent, &name, &inode).await;
        Ok(())
    }

    /// The inode has lost its name for good.
    pub(super) async fn take_name(&self, parent: Ino, name: &Name, inode: &Arc<Inode>) {
        inode.state().unlinked = true;
        if let Some(staged) = inode.staged() {
            staged.abandon().await;
        }
        let now = self.0.clock.now();
        let mut table = self.table();
        if table.opens(inode.ino) == 0 {
            inode.state().staged = None;
        }
        table.detach(inode.ino);
        if let Some(directory) = table.get(parent) {
            directory.state().knowledge.gone(name, now);
        }
    }

    /// Takes an empty directory away.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::NotDirectory`], the store's.
    pub async fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let (name, inode) = self.existing(parent, name).await?;
        if inode.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        let _places_stand = self.0.namespace.read().await;
        let _one_at_a_time = inode.commit.lock().await;
        self.keep_directory(parent).await;
        self.remove_empty(&inode).await?;
        self.take_name(parent, &name, &inode).await;
        Ok(())
    }

    /// Removes a directory's marker if nothing else is below.
    pub(super) async fn remove_empty(&self, inode: &Arc<Inode>) -> Result<()> {
        let prefix = self.table().prefix(inode.ino).ok_or(Error::NotFound)?;
        let local = self.table().children(inode.ino);
        if local.iter().any(|(_, child)| Self::version_of(child).is_none() && is_file(child)) {
            return Err(Error::NotEmpty);
        }
        if self.has_entries(&prefix).await? {
            return Err(Error::NotEmpty);
        }
        if let Some(marker) = prefix.marker() {
            self.delete_object(&marker).await?;
        }
        Ok(())
    }

    /// True where the store has anything below `prefix` besides its marker and the objects of
    /// unlinked files that are still open.
    async fn has_entries(&self, prefix: &Prefix) -> Result<bool> {
        let mut request =
            ListRequest { prefix: prefix.as_str().to_owned(), ..ListRequest::default() };
        request.max_keys = Some(2);
        loop {
            let page = self.0.store.list(&request).await?;
            let counts = |line: &ListLine| match line {
                ListLine::Object(version) => {
                    version.key.as_str() != prefix.as_str() && !self.table().is_doomed(&version.key)
                }
                ListLine::Prefix(_) => true,
            };
            if page.lines.iter().any(counts) {
                return Ok(true);
            }
            let Some(next) = page.next else { return Ok(false) };
            request.continuation = Some(next);
            request.max_keys = None;
        }
    }

    /// A name that must be there to be changed.
    pub(super) async fn existing(&self, parent: Ino, name: &OsStr) -> Result<(Name, Arc<Inode>)> {
        self.check_writable()?;
        let name = self.name(name)?;
        let inode = self.resolve(parent, &name).await?.ok_or(Error::NotFound)?;
        Ok((name, inode))
    }
}

fn is_file(inode: &Inode) -> bool {
    inode.kind != FileKind::Directory
}
