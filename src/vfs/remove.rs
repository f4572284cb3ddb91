//! Names taken away: UNLINK and RMDIR.
//!
//! Owns when an object goes: at once, with others soon after, or with the last close of an open
//! file. Must not know how a
//! name is made.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Instant;

use super::attr::{FileKind, Ino};
use super::deletes::Queued;
use super::inode::Inode;
use super::settings::DeleteMode;
use super::{Error, Result, Vfs};
use crate::journal::{Ending, Record};
use crate::naming::{Key, Name, Prefix};
use crate::store::{Condition, ListLine, ListRequest, ObjectStore as _, Version};
use crate::units::MIB;

/// The open file that is replaced keeps its bytes up to this size, since they must be fetched.
const OUTLIVE_MAX: u64 = 64 * MIB;

impl Vfs {
    /// Takes a file's name away; its object goes now, soon, or with the last close.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], the store's: then the name stays.
    pub async fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let (name, inode) = self.existing(parent, name).await?;
        if inode.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        if Self::version_of(&inode).is_some() {
            // What was closed before this name went is seen before it goes.
            self.settle_backlog().await?;
        }
        let _places_stand = self.0.namespace.read().await;
        let _one_at_a_time = inode.commit.lock().await;
        self.before_it_goes(&inode).await?;
        self.find_given_up(&inode).await?;
        if Self::version_of(&inode).is_some() {
            self.keep_directory(parent).await;
            self.delete_or_doom(parent, &name, &inode).await?;
        }
        let hidden = inode.state().hides.clone();
        if let Some(key) = hidden {
            self.delete_object(&key).await?;
        }
        self.discharge(&inode);
        self.take_name(parent, &name, &inode).await;
        Ok(())
    }

    /// A commit that nobody answered may stand under the name all the same: then that is what goes
    /// or moves.
    pub(super) async fn find_given_up(&self, inode: &Arc<Inode>) -> Result<()> {
        let (Some(staged), Some(key)) = (inode.staged(), self.table().key(inode.ino)) else {
            return Ok(());
        };
        if let Some(version) = staged.arrived(&key).await? {
            inode.state().version = Some(version);
        }
        Ok(())
    }

    /// The object goes now, soon, or with the last close. The first delete in a directory is waited
    /// for, so that whoever may not delete there is told at once.
    async fn delete_or_doom(&self, parent: Ino, name: &Name, inode: &Arc<Inode>) -> Result<()> {
        let directory = self.inode(parent)?;
        let key = {
            let mut table = self.table();
            let key = table.key(inode.ino).ok_or(Error::NotFound)?;
            if table.opens(inode.ino) > 0 {
                let record = self.note_unlink(inode).unwrap_or(Record::none());
                let version = Self::version_of(inode).ok_or(Error::NotFound)?;
                let condition = Condition::Unchanged(Version::clone(&version));
                let queued = Queued { parent, name: name.clone(), record, condition };
                table.doom(key, inode, queued);
                return Ok(());
            }
            // Whoever opens it from now on comes too late.
            inode.state().unlinked = true;
            key
        };
        let may_wait = directory.state().knowledge.may_delete;
        if may_wait
            && self.settings().delete == DeleteMode::Queue
            && let Some(record) = self.note_unlink(inode)
        {
            let (name, condition) = (name.clone(), Condition::None);
            self.delete_soon(key, Queued { parent, name, record, condition }).await;
            return Ok(());
        }
        let deleted = self.delete_object(&key).await;
        match &deleted {
            Ok(()) => directory.state().knowledge.may_delete = true,
            Err(_) => inode.state().unlinked = false,
        }
        deleted
    }

    /// Writes the delete of an inode's object down; none where the journal cannot be written.
    fn note_unlink(&self, inode: &Inode) -> Option<Record> {
        let version = Self::version_of(inode)?;
        let noted = self.note_delete(&version);
        if let Err(error) = &noted {
            tracing::warn!(key = %version.key, %error, "the journal does not know of a delete");
        }
        noted.ok()
    }

    /// The key is stored anew, so the delete that waits for a last close is called off, and one
    /// that is queued or on its way is waited for. Where the object of the unlinked file is still
    /// there, returns what the journal says of its delete: to be dropped when the object is
    /// replaced, since a crash before that must not bring the file back.
    pub(super) async fn spare(&self, key: &Key) -> Option<Ending> {
        let doom = self.table().doom_of(key);
        if let Some(doom) = doom {
            self.outlive_object(&doom.owner).await;
            let _not_under_way = doom.gate.lock().await;
            if self.table().spare(key, &doom) {
                return Some(Ending::new(doom.queued.record.clone()));
            }
        }
        // Where that has failed, nobody is to delete it later.
        self.settle_delete(key).await.then(|| Ending::new(Record::none()))
    }

    /// True where the object is one of an unlinked file, whose delete is still to come.
    pub(super) fn is_going(&self, version: &Version) -> bool {
        self.table().is_doomed(version) || self.0.deletes.has(&version.key)
    }

    /// Sends the deletes that waited for the last close of `ino`, or of anything.
    pub(super) async fn delete_doomed(&self, ino: Option<Ino>) {
        let doomed = self.table().doomed(ino);
        for (key, doom) in doomed {
            let _under_way = doom.gate.lock().await;
            if !self.table().is_doomed_by(&key, &doom) {
                continue;
            }
            if self.settings().delete == DeleteMode::Queue {
                self.delete_soon(key.clone(), doom.queued.clone()).await;
            } else {
                let deleted = self.0.store.delete(&key, &doom.queued.condition).await;
                if let Err(error) = deleted
                    && !error.is_changed()
                {
                    tracing::warn!(%key, %error, "an unlinked file's object stays in the bucket");
                }
                doom.queued.record.end();
            }
            self.table().spare(&key, &doom);
        }
    }

    /// The inode's object is about to be replaced: what is open goes on to show the old bytes, as
    /// on a disk, so those of a file that is not too large are brought here first.
    pub(super) async fn outlive_object(&self, inode: &Arc<Inode>) {
        let size = Self::version_of(inode).map_or(0, |version| version.size);
        if self.table().opens(inode.ino) == 0 || size == 0 || size > OUTLIVE_MAX {
            return;
        }
        let key = self.key_or_last(inode);
        let brought = match self.stage(inode) {
            Ok(staged) => staged.outlive_base(&key).await,
            Err(error) => return tracing::warn!(%key, %error, "its open handles lose their bytes"),
        };
        if let Err(error) = brought {
            tracing::warn!(%key, %error, "open handles of a replaced file lose its bytes");
        }
    }

    /// The inode has lost its name for good.
    pub(super) async fn take_name(&self, parent: Ino, name: &Name, inode: &Arc<Inode>) {
        self.take_name_now(parent, name, inode);
        self.abandon(inode).await;
    }

    pub(super) fn take_name_now(&self, parent: Ino, name: &Name, inode: &Arc<Inode>) {
        let now = self.0.clock.now();
        let mut table = self.table();
        {
            let mut state = inode.state();
            state.unlinked = true;
            state.drop_held();
        }
        table.detach(inode.ino);
        if let Some(directory) = table.get(parent) {
            directory.state().name_gone(name, now, self.0.clock.wall());
        }
    }

    /// Nothing of the inode is sent any more.
    pub(super) async fn abandon(&self, inode: &Arc<Inode>) {
        if let Some(staged) = inode.staged() {
            staged.abandon().await;
        }
        self.leave_backlog(inode).await;
        self.let_go(inode);
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
    async fn remove_empty(&self, inode: &Arc<Inode>) -> Result<()> {
        let prefix = self.check_empty(inode).await?;
        if let Some(marker) = prefix.marker() {
            self.delete_object(&marker).await?;
        }
        Ok(())
    }

    /// A directory's prefix, where nothing is below but its marker.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], and what a delete below failed with.
    pub(super) async fn check_empty(&self, inode: &Arc<Inode>) -> Result<Prefix> {
        let prefix = self.table().prefix(inode.ino).ok_or(Error::NotFound)?;
        self.settle_deletes(&prefix).await?;
        let local = self.table().children(inode.ino);
        if local.iter().any(|(_, child)| Self::version_of(child).is_none() && is_file(child)) {
            return Err(Error::NotEmpty);
        }
        if self.has_entries(&prefix).await? {
            return Err(Error::NotEmpty);
        }
        Ok(prefix)
    }

    /// True where the store has anything below `prefix` besides its marker.
    async fn has_entries(&self, prefix: &Prefix) -> Result<bool> {
        let is_entry = |key: &Key| key.as_str() != prefix.as_str();
        Ok(self.first_standing(prefix.as_str(), is_entry).await?.is_some())
    }

    /// The first line below `prefix` that counts. The objects of unlinked files do not: their
    /// directory may be gone or moved before they are.
    pub(super) async fn first_standing(
        &self,
        prefix: &str,
        counts: impl Fn(&Key) -> bool,
    ) -> Result<Option<ListLine>> {
        let mut request = ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() };
        // The marker, and one more.
        request.max_keys = Some(2);
        loop {
            let asked = self.0.clock.now();
            let page = self.0.store.list(&request).await?;
            let stands = |line: &ListLine| match line {
                ListLine::Object(version) => {
                    counts(&version.key) && !self.is_leftover(version, asked)
                }
                ListLine::Prefix(_) => true,
            };
            if let Some(line) = page.lines.into_iter().find(stands) {
                return Ok(Some(line));
            }
            let Some(next) = page.next else { return Ok(None) };
            request.continuation = Some(next);
            request.max_keys = None;
        }
    }

    /// True where a listing that was `asked` for then shows an object whose name is gone here.
    pub(super) fn is_leftover(&self, version: &Version, asked: Instant) -> bool {
        self.table().is_doomed(version) || self.0.deletes.outdates(&version.key, asked)
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
