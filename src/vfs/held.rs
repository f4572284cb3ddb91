//! Attribute changes that wait for company, in the journal.
//!
//! Owns what is written down of a chmod, chown, utimes or setxattr that was acknowledged and is
//! not in S3 (`--attr-delay`), and how a later mount sends it. Must not know how attributes reach
//! an object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::attr::{FileKind, Ino};
use super::inode::{Inode, State};
use super::leftover::Renames;
use super::{Error, Metadata, Pin, Result, Vfs};
use crate::journal::{Kind, Pending, Record};
use crate::naming::{Key, Name};
use crate::posix_metadata;
use crate::store::Version;

/// Attributes that wait, as the journal knows them.
#[derive(Debug, Serialize, Deserialize)]
struct HeldIntent {
    key: Key,
    is_directory: bool,
    /// The object they belong to; none for a directory without a marker.
    version: Option<Version>,
    perm: u16,
    uid: u32,
    gid: u32,
    /// Where a call has set it; in the words of metadata, which know every time.
    mtime: Option<String>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// What the object may have and is to lose.
    #[serde(default)]
    removed_xattrs: BTreeSet<String>,
}

impl HeldIntent {
    fn of(inode: &Inode, key: Key) -> Self {
        let state = inode.state();
        Self {
            key,
            is_directory: inode.kind == FileKind::Directory,
            version: state.version.as_deref().cloned(),
            perm: state.perm,
            uid: state.uid,
            gid: state.gid,
            mtime: state.mtime_is_explicit.then(|| posix_metadata::write_time(state.mtime)),
            xattrs: state.xattrs.clone(),
            removed_xattrs: state.removed_xattrs.clone(),
        }
    }

    /// The same, where its directory's rename has been finished since.
    fn moved(self, renames: &Renames, record: &Record) -> Self {
        let version = self.version.map(|version| renames.version(version, record));
        Self { key: renames.key(self.key, record), version, ..self }
    }

    /// True where they belong to what the inode is now.
    fn fits(&self, inode: &Inode) -> bool {
        let state = inode.state();
        match (&self.version, &state.version) {
            (Some(held), Some(found)) => held.is_same(found),
            (None, _) => self.is_directory,
            (Some(_), None) => false,
        }
    }

    fn apply(self, state: &mut State, now: SystemTime) {
        (state.perm, state.uid, state.gid) = (self.perm, self.uid, self.gid);
        if let Some(mtime) = self.mtime.as_deref().and_then(posix_metadata::read_time) {
            state.mtime = mtime;
            (state.mtime_is_explicit, state.mtime_is_guess) = (true, false);
        }
        (state.xattrs, state.removed_xattrs) = (self.xattrs, self.removed_xattrs);
        state.changed_attributes(now);
    }
}

impl Vfs {
    /// Writes down that the inode's attributes wait. Those that a commit will carry are promised
    /// with it, where that was promised to anybody.
    pub(super) async fn hold(&self, inode: &Arc<Inode>) {
        if inode.is_dirty()
            && inode.staged().is_some_and(|staged| staged.is_acknowledged())
            && let Err(error) = self.close_soon(inode).await
        {
            tracing::warn!(%error, "the journal does not know of attributes");
        }
        if !inode.is_dirty() {
            // A commit that was under way ends without them, and first says which version it made.
            let _one_at_a_time = inode.commit.lock().await;
            self.note_held(inode);
        } else if self.is_over_an_object(inode) {
            // Of bytes that nobody was told of, a crash leaves the object, which is to have them. A
            // commit under way notes them anew, and nobody waits for it.
            let _none_begins = inode.commit.try_lock();
            self.note_held(inode);
        }
    }

    /// True for a file whose staged bytes no promise speaks of, and which stands in S3 without
    /// them.
    fn is_over_an_object(&self, inode: &Inode) -> bool {
        let is_promised = inode.staged().is_some_and(|staged| staged.is_acknowledged());
        !is_promised && Self::version_of(inode).is_some()
    }

    /// The inode has another key: attributes that wait are written down anew under it.
    pub(super) fn attributes_follow(&self, inode: &Inode) {
        if inode.state().held.is_some() {
            self.note_held(inode);
        }
    }

    /// Writes down that the inode's attributes wait, whatever becomes of its bytes.
    pub(super) fn note_held(&self, inode: &Inode) {
        if !inode.state().attributes_dirty {
            // Something has just carried them.
            return;
        }
        let key = match inode.kind {
            FileKind::Directory => self.table().prefix(inode.ino).and_then(|p| p.marker()),
            _ => self.table().key(inode.ino),
        };
        let Some(key) = key else { return };
        let intent = HeldIntent::of(inode, key);
        match self.0.engine.journal().begin(Kind::Attributes, &[], &intent) {
            Ok(record) => {
                let mut state = inode.state();
                if let Some(before) = state.held.replace(record) {
                    before.end();
                }
                if !state.attributes_dirty {
                    state.drop_held();
                }
            }
            // What was acknowledged before is better than nothing.
            Err(error) => {
                let key = &intent.key;
                tracing::warn!(%key, %error, "the journal does not know of attributes");
            }
        }
    }

    /// Takes up attributes that earlier mounts had acknowledged.
    pub(super) async fn take_up_attributes(&self, pending: &[Pending], renames: &Renames) {
        if self.settings().metadata == Metadata::List {
            // This mount can write none, so they wait for one that does.
            return;
        }
        for pending in pending.iter().filter(|pending| pending.kind == Kind::Attributes) {
            match pending.intent::<HeldIntent>() {
                Ok(held) => {
                    let (record, noted) = (pending.record(), held.key.clone());
                    self.take_up_held(held.moved(renames, &record), record, noted).await;
                }
                Err(error) => tracing::error!(%error, "the journal has attributes nobody can read"),
            }
        }
    }

    /// `noted` is the key that the record says.
    async fn take_up_held(&self, held: HeldIntent, record: Record, noted: Key) {
        let key = held.key.clone();
        let (found, _pins) = self.find_held(&held).await;
        match found {
            // What was promised of the bytes since has what was set since.
            Ok(Some(inode)) if inode.staged().is_some_and(|now| now.is_promised_after(&record)) => {
                record.end();
            }
            Ok(Some(inode)) if held.fits(&inode) => {
                let is_moved = held.key != noted;
                held.apply(&mut inode.state(), self.0.clock.wall());
                let before = inode.state().held.replace(record);
                if let Some(before) = before {
                    // Written down before this one, which was to end it.
                    before.end();
                }
                if is_moved {
                    self.note_held(&inode);
                }
                // The commit of a dirty file carries them, when its turn comes.
                if !inode.is_dirty()
                    && let Err(error) = self.send_attributes_soon(&inode).await
                {
                    tracing::error!(%key, %error, "attributes are not in S3 yet");
                    self.retry_later(&inode);
                }
            }
            // The object they belonged to is not there any more.
            Ok(_) => record.end(),
            Err(error) => tracing::error!(%key, %error, "attributes wait for another mount"),
        }
    }

    /// The inode that they belong to. It, and the directories above it, stay in the table while the
    /// pins live: nobody has looked them up.
    async fn find_held(&self, held: &HeldIntent) -> (Result<Option<Arc<Inode>>>, Vec<Pin>) {
        let mut pins = Vec::new();
        let found = self.walk_to_held(held, &mut pins).await;
        (found, pins)
    }

    async fn walk_to_held(
        &self,
        held: &HeldIntent,
        pins: &mut Vec<Pin>,
    ) -> Result<Option<Arc<Inode>>> {
        let root = self.settings().prefix.clone();
        let path = root.strip(held.key.as_str()).ok_or(Error::NotFound)?;
        let mut parent = Ino::ROOT;
        if path.is_empty() {
            return Ok(Some(self.inode(parent)?));
        }
        let mut found = None;
        for name in path.trim_end_matches('/').split('/') {
            match self.resolve(parent, &Name::new(name.as_ref())?).await? {
                Some(inode) => {
                    pins.push(self.pin(&inode));
                    parent = inode.ino;
                    found = Some(inode);
                }
                None => return Ok(None),
            }
        }
        if let Some(inode) = &found {
            // What is read later would be taken for newer.
            self.learn(inode).await?;
        }
        Ok(found)
    }
}

impl State {
    /// S3 has the attributes as of `epoch`; later changes still wait.
    pub(super) fn attributes_sent(&mut self, epoch: u64) {
        self.attributes_dirty = self.attributes_epoch != epoch;
        if !self.attributes_dirty {
            self.removed_xattrs.clear();
            self.drop_held();
        }
    }

    /// The attributes wait no more: they are in S3, or go nowhere.
    pub(super) fn drop_held(&mut self) {
        self.attributes_dirty = false;
        if let Some(record) = self.held.take() {
            record.end();
        }
    }
}
