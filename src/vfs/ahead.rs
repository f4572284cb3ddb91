//! Attributes asked for: when somebody needs them, and ahead of somebody who will.
//!
//! Owns the questions that make an inode of a listed name: none while its listing says enough, a
//! HEAD ahead of a reader whose entry needs its kind and ahead of whoever walks through a
//! directory, and for one small file alone a GET, whose body is then kept for the open that
//! follows. Must not know what a name resolves to: that is `lookup`.

use std::sync::{Arc, Weak};

use bytes::BytesMut;
use futures::TryStreamExt;

use super::attr::FileKind;
use super::inode::{Inode, State, kind_of};
use super::listed::{Answer, Asking, Listed, Question};
use super::{Core, Error, Metadata, Result, Vfs};
use crate::naming::{Key, Name};
use crate::store::{self, GetPin, GetRequest, GetResponse, ObjectHead, Version};
use crate::tasks::Tasks;
use crate::units::KIB;

/// Up to this size a readdir asks whether an object is a symlink or a FIFO. Longer links are so
/// rare that they are not worth a HEAD for each object of their size: READDIR calls them files.
pub(super) const SPECIAL_MAX: u64 = KIB;

/// The largest body that is fetched where a HEAD would do: at 1 Gbit/s it takes half a
/// millisecond, and a second request 10 or more.
const BODY_MAX: u64 = 64 * KIB;

impl Vfs {
    /// True where only a listing has told of the file: its bytes are known, and its mode, owner,
    /// times and extended attributes are not.
    pub(super) fn is_unread(&self, inode: &Inode) -> bool {
        if self.settings().metadata == Metadata::List || inode.kind != FileKind::File {
            return false;
        }
        let state = inode.state();
        let is_known = state.properties.is_some() || state.staged.is_some();
        state.version.is_some() && !is_known && !state.unlinked && !state.detached
    }

    /// Brings the attributes of a file that only a listing has told of.
    ///
    /// # Errors
    /// [`Error::Stale`] where it is no such file any more: the kernel looks the name up again. The
    /// store's.
    pub(super) async fn learn(&self, inode: &Arc<Inode>) -> Result<()> {
        if !self.is_unread(inode) {
            return Ok(());
        }
        let (directory, name, key) = {
            let table = self.table();
            let (Some(place), Some(key)) = (table.place(inode.ino), table.key(inode.ino)) else {
                return Ok(());
            };
            (table.get(place.parent).ok_or(Error::Stale)?, place.name, key)
        };
        let wants_body = Self::version_of(inode).is_some_and(|version| self.is_wanted(&version));
        let answer = self.demand(&directory, &name, &key, wants_body).await?;
        directory.state().knowledge.listing.remove(&name);
        let found = answer.found?;
        let mut state = inode.state();
        if state.properties.is_some() || state.staged.is_some() || state.unlinked {
            return Ok(());
        }
        // An answer from before its directory's rename is another object's.
        let is_its = |head: &Arc<ObjectHead>| {
            head.version.key == key && kind_of(head, self.settings()) == inode.kind
        };
        match found.filter(is_its) {
            Some(head) => {
                let mut read = State::of_head(&head, self.settings(), answer.asked);
                // Nobody reads it yet, so another version since the listing harms nobody; who has
                // it open already is still counted.
                read.ways = std::mem::take(&mut state.ways);
                read.executions = state.executions;
                *state = read;
                Ok(())
            }
            None => {
                drop(state);
                self.table().lose(inode.ino);
                Err(Error::Stale)
            }
        }
    }

    /// Somebody opens the file: bodies of its neighbours may be worth fetching.
    pub(super) fn note_open(&self, inode: &Inode) {
        let table = self.table();
        if let Some(directory) = table.place(inode.ino).and_then(|place| table.get(place.parent)) {
            directory.state().knowledge.listing.is_opened();
        }
    }

    /// True where the bytes of a version are few, and not here.
    pub(super) fn is_wanted(&self, version: &Arc<Version>) -> bool {
        version.size <= BODY_MAX && !self.0.cache.is_near(version)
    }

    /// Asks about a listed name on somebody's behalf; about the next ones too, where he walks.
    pub(super) async fn demand(
        &self,
        directory: &Arc<Inode>,
        name: &Name,
        key: &Key,
        wants_body: bool,
    ) -> Result<Answer> {
        let is_read = self.table().opens(directory.ino) > 0;
        let asked = self.0.clock.now();
        let ahead_max = self.settings().ahead_max as u64;
        let demand = directory.state().knowledge.listing.demand(name, is_read, ahead_max, asked);
        self.ask_ahead(directory, demand.ahead, &self.0.tasks);
        if let Some(coming) = demand.coming
            && let Some(answer) = coming.arrives().await
        {
            return Ok(answer);
        }
        let wants_body =
            wants_body && !demand.is_walk && directory.state().knowledge.listing.may_take_body();
        let found = self.ask(key, wants_body).await;
        let answer = Answer { found, asked };
        if let Some(asking) = demand.asking {
            asking.answer(answer.clone());
        }
        Ok(answer)
    }

    /// Asks about names that somebody will need soon; the questions end with `tasks`, or when
    /// nobody wants to know any more.
    pub(super) fn ask_ahead(
        &self,
        directory: &Arc<Inode>,
        questions: Vec<Question>,
        tasks: &Tasks,
    ) {
        let Some(prefix) = self.table().prefix(directory.ino) else { return };
        for Question { name, listed, asking } in questions {
            let key = match listed {
                Listed::File(version) => Some(version.key.clone()),
                Listed::Directory => prefix.directory(&name).ok().and_then(|below| below.marker()),
            };
            let known = self.table().child(directory.ino, &name);
            if let Some(key) = key
                && known.is_none_or(|inode| self.is_unread(&inode))
            {
                tasks.spawn(answer(Arc::downgrade(&self.0), key, asking));
            }
        }
    }

    /// Asks about an object; with its body where that is small, which is then kept.
    pub(super) async fn ask(
        &self,
        key: &Key,
        wants_body: bool,
    ) -> store::Result<Option<Arc<ObjectHead>>> {
        let asked = if wants_body {
            let request = GetRequest { pin: GetPin::Latest(key.clone()), range: None };
            match self.0.store.get(&request).await {
                Ok(answer) => Ok(self.keep_body(answer).await),
                Err(error) if error.is_not_found() => Err(error),
                // It may be archived, or be shown to this identity by its head alone.
                Err(_) => self.0.store.head(key).await,
            }
        } else {
            self.0.store.head(key).await
        };
        match asked {
            Ok(head) => Ok(Some(Arc::new(head))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn keep_body(&self, answer: GetResponse) -> ObjectHead {
        let GetResponse { head, mut body, .. } = answer;
        if head.version.size > BODY_MAX {
            return head;
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(head.version.size).unwrap_or(0));
        loop {
            match body.try_next().await {
                Ok(Some(frame)) => bytes.extend_from_slice(&frame),
                Ok(None) => break,
                // Whoever reads it asks again, and is told.
                Err(_) => return head,
            }
        }
        self.0.cache.keep_small(&Arc::new(head.version.clone()), bytes.freeze()).await;
        head
    }
}

async fn answer(core: Weak<Core>, key: Key, asking: Asking) {
    let answered = async {
        let limit = Arc::clone(&core.upgrade()?.ahead);
        let _permit = limit.acquire_owned().await.ok()?;
        let vfs = Vfs(core.upgrade()?);
        let asked = vfs.0.clock.now();
        Some(Answer { found: vfs.ask(&key, false).await, asked })
    };
    tokio::select! {
        () = asking.is_pointless() => {}
        answer = answered => {
            if let Some(answer) = answer {
                asking.answer(answer);
            }
        }
    }
}
