//! Names to inodes, and whether what is known of them is still so.
//!
//! Owns LOOKUP and GETATTR, the questions they cost, and the rule that a remote replacement is a
//! new inode. Must not know handles or bytes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attr::{Attr, Entry, Fh, FileKind, Ino};
use super::inode::{Inode, LINK_MAX, State, kind_of};
use super::listed::{Hint, Listed};
use super::table::Table;
use super::{Error, Metadata, Result, Vfs};
use crate::naming::{Key, Name, NameError, Prefix};
use crate::store::{self, ErrorKind, ListLine, ListRequest, ObjectHead, Properties, Version};

/// `S_ISVTX` of a directory's mode.
const STICKY: u16 = 0o1000;

/// Each further one takes a task that ends just then.
const LOOKUP_TRIES: u32 = 5;

/// What stands under a name in the store.
pub(super) enum Found {
    Nothing,
    /// An object, with everything a HEAD says.
    Object(Arc<ObjectHead>),
    /// An object, as a listing shows it.
    Listed(Arc<Version>),
    /// A directory, with its marker where it has one that was asked for.
    Directory(Option<Arc<ObjectHead>>),
}

impl Vfs {
    /// The inode under a name.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        // A name that no key can have is not there; creating it says why.
        let name = match Name::new(name) {
            Ok(name) => name,
            Err(NameError::Invalid | NameError::NotUtf8) => return Err(Error::NotFound),
            Err(error) => return Err(error.into()),
        };
        let inode = self.resolve_for_kernel(parent, &name).await?;
        let is_local = inode.state().version.is_none() || inode.is_dirty();
        let ttl = self.metadata_ttl();
        let is_told = !self.is_unread(&inode) && (is_local || self.is_believed(&inode));
        let attr_ttl = if is_told { ttl } else { Duration::ZERO };
        Ok(self.entry_uncounted(&inode, attr_ttl))
    }

    /// The inode under a name, counted as a lookup. One that nobody knew may leave the table
    /// before it is counted: its attributes were sent.
    async fn resolve_for_kernel(&self, parent: Ino, name: &Name) -> Result<Arc<Inode>> {
        for _ in 0..LOOKUP_TRIES {
            let inode = self.resolve(parent, name).await?.ok_or(Error::NotFound)?;
            if self.remember(&inode) {
                return Ok(inode);
            }
        }
        Err(Error::Stale)
    }

    /// The inode under a name, asking the store only where memory does not say.
    pub(super) async fn resolve(&self, parent: Ino, name: &Name) -> Result<Option<Arc<Inode>>> {
        let directory = self.inode(parent)?;
        if directory.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        let known = self.table().child(parent, name);
        if known.as_ref().is_some_and(|inode| inode.state().unlinked) {
            // Its delete is on the way.
            return Ok(None);
        }
        if let Some(inode) = &known
            && (inode.kind != FileKind::Directory || self.is_fresh(inode))
        {
            // A file past its TTL is answered from memory too: its attributes get no TTL, so the
            // GETATTR or OPEN that follows asks the store.
            return Ok(known);
        }
        // It must not leave the table meanwhile: what it knows is newer than what may be answered.
        let _pin = known.as_ref().map(|inode| self.pin(inode));
        let (now, ttl) = (self.0.clock.now(), self.metadata_ttl());
        let hint = {
            let mut state = directory.state();
            if known.is_none() && state.knowledge.is_absent(name, ttl, now) {
                return Ok(None);
            }
            state.knowledge.listing.get(name, now)
        };
        let prefix = self.table().prefix(parent).ok_or(Error::NotFound)?;
        let is_listed = hint.is_some();
        let (found, asked) = self.find(&directory, &prefix, name, hint).await?;
        if self.table().prefix(parent) != Some(prefix) {
            // The directory was renamed meanwhile, and what was found may be gone from there.
            return Err(Error::Stale);
        }
        let inode = self.adopt(parent, name, found, asked);
        if let Some(inode) = inode.as_ref().filter(|_| is_listed) {
            inode.state().walked = Some(self.0.clock.now());
        }
        Ok(inode)
    }

    /// Asks what stands under a name whose object is an unlinked file's: it is free unless another
    /// client has taken it.
    async fn find_beside(&self, doomed: &Version, below: &Prefix) -> Result<Found> {
        let (below, object) =
            tokio::join!(self.find_directory(below), self.find_object(&doomed.key));
        let below = below?;
        let object = match &below {
            Found::Nothing => object?,
            _ => return Ok(below),
        };
        let is_gone = match &object {
            Found::Object(head) => head.version.is_same(doomed),
            Found::Listed(version) => version.is_same(doomed),
            Found::Nothing | Found::Directory(_) => false,
        };
        Ok(if is_gone { Found::Nothing } else { object })
    }

    /// Asks what stands under a name: the store, unless a listing that is still valid has said
    /// enough. Also when it was asked.
    async fn find(
        &self,
        directory: &Arc<Inode>,
        prefix: &Prefix,
        name: &Name,
        hint: Option<Hint>,
    ) -> Result<(Found, Instant)> {
        let key = prefix.file(name)?;
        let now = self.0.clock.now();
        if self.0.deletes.has(&key) {
            return Ok((self.find_directory(&prefix.directory(name)?).await?, now));
        }
        let doomed = self.table().doomed_version(&key);
        if let Some(doomed) = doomed {
            return Ok((self.find_beside(&doomed, &prefix.directory(name)?).await?, now));
        }
        let is_posix = self.settings().metadata == Metadata::Posix;
        match hint {
            Some(Hint { listed: Listed::File(version), .. }) if !is_posix && version.key == key => {
                Ok((Found::Listed(version), now))
            }
            Some(hint) if is_posix && matches!(&hint.listed, Listed::File(v) if v.key == key) => {
                self.find_listed(directory, name, &key, hint).await
            }
            Some(Hint { listed: Listed::Directory, .. }) if !is_posix => {
                Ok((Found::Directory(None), now))
            }
            Some(Hint { listed: Listed::Directory, .. }) => {
                self.find_marker(directory, name, &prefix.directory(name)?).await
            }
            _ => {
                let below = prefix.directory(name)?;
                let (below, object) =
                    tokio::join!(self.find_directory(&below), self.find_object(&key));
                // The directory wins over a file of the same name.
                match below? {
                    Found::Nothing => Ok((object?, now)),
                    directory => Ok((directory, now)),
                }
            }
        }
    }

    /// A file that a listing has told of. What the listing said is enough for a name; whoever
    /// needs the attributes asks (`ahead`).
    async fn find_listed(
        &self,
        directory: &Arc<Inode>,
        name: &Name,
        key: &Key,
        hint: Hint,
    ) -> Result<(Found, Instant)> {
        // In a sticky directory the kernel decides by the owner who may take the name away.
        let is_sticky = directory.state().perm & STICKY != 0;
        let wants_body = matches!(&hint.listed, Listed::File(version) if self.is_wanted(version));
        let answer = match (hint.answer, hint.listed) {
            (None, Listed::File(version)) if version.size > LINK_MAX && !is_sticky => {
                return Ok((Found::Listed(version), self.0.clock.now()));
            }
            (Some(coming), _) if !hint.is_ahead => coming.arrives().await,
            _ => None,
        };
        let answer = match answer {
            Some(answer) => answer,
            None => self.demand(directory, name, key, wants_body).await?,
        };
        match answer.found {
            Ok(found) => Ok((found.map_or(Found::Nothing, Found::Object), answer.asked)),
            Err(error) => Err(ask_again(directory, name, error)),
        }
    }

    /// A directory that a listing has told of.
    async fn find_marker(
        &self,
        directory: &Arc<Inode>,
        name: &Name,
        prefix: &Prefix,
    ) -> Result<(Found, Instant)> {
        let Some(marker) = prefix.marker() else { return Err(Error::NotFound) };
        let answer = self.demand(directory, name, &marker, false).await?;
        match answer.found {
            Ok(head) => Ok((Found::Directory(head), answer.asked)),
            // Whoever may not look at it may still look below it.
            Err(error) if *error.kind() == ErrorKind::Denied => {
                Ok((Found::Directory(None), answer.asked))
            }
            Err(error) => Err(ask_again(directory, name, error)),
        }
    }

    pub(super) async fn find_object(&self, key: &Key) -> Result<Found> {
        if self.settings().metadata == Metadata::Posix {
            return Ok(self.ask(key, false).await?.map_or(Found::Nothing, Found::Object));
        }
        let first = self.first_below(key.as_str()).await?;
        Ok(match first {
            // The prefix itself sorts before everything that it begins.
            Some(ListLine::Object(version)) if version.key == *key => {
                Found::Listed(Arc::new(version))
            }
            _ => Found::Nothing,
        })
    }

    async fn find_directory(&self, prefix: &Prefix) -> Result<Found> {
        match self.first_standing(prefix.as_str(), |_| true).await? {
            None => Ok(Found::Nothing),
            Some(ListLine::Object(version))
                if version.key.as_str() == prefix.as_str()
                    && self.settings().metadata == Metadata::Posix =>
            {
                match self.0.store.head(&version.key).await {
                    Ok(marker) => Ok(Found::Directory(Some(Arc::new(marker)))),
                    // As in `find_marker`; or it went meanwhile.
                    Err(error) if *error.kind() == ErrorKind::Denied || error.is_not_found() => {
                        Ok(Found::Directory(None))
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Some(_) => Ok(Found::Directory(None)),
        }
    }

    /// The first line of the listing of everything that begins with `prefix`.
    async fn first_below(&self, prefix: &str) -> Result<Option<ListLine>> {
        let request =
            ListRequest { prefix: prefix.to_owned(), max_keys: Some(1), ..ListRequest::default() };
        Ok(self.0.store.list(&request).await?.lines.into_iter().next())
    }

    /// Makes the tree say what the store said. An inode whose object was replaced keeps its
    /// handles and loses its name; local changes are never overwritten by what the store says, nor
    /// is what became known after it was `asked`.
    pub(super) fn adopt(
        &self,
        parent: Ino,
        name: &Name,
        found: Found,
        asked: Instant,
    ) -> Option<Arc<Inode>> {
        let now = self.0.clock.now();
        let mut table = self.table();
        let known = table.child(parent, name);
        if let Some(inode) = &known
            && (inode.state().seen > asked
                || confirm(inode, &found, asked, self)
                || has_local(&table, inode))
        {
            if let Some(directory) = table.get(parent)
                && !matches!(found, Found::Listed(_))
            {
                // What a listing said answers once: from here on the TTL decides.
                directory.state().knowledge.listing.remove(name);
            }
            return known;
        }
        if let Some(inode) = known {
            table.lose(inode.ino);
        }
        let settings = self.settings();
        let (kind, mut state) = match &found {
            Found::Nothing => {
                if let Some(directory) = table.get(parent) {
                    directory.state().knowledge.gone(name, now);
                }
                return None;
            }
            Found::Object(head) => (kind_of(head, settings), State::of_head(head, settings, asked)),
            Found::Listed(version) => {
                let state = State::of_version(Arc::clone(version), settings, asked);
                (FileKind::File, state)
            }
            Found::Directory(Some(head)) => {
                (FileKind::Directory, State::of_head(head, settings, asked))
            }
            Found::Directory(None) => {
                (FileKind::Directory, State::implicit_directory(settings, asked))
            }
        };
        state.knowledge.has_marker = matches!(found, Found::Directory(Some(_)));
        if let Some(directory) = table.get(parent) {
            let mut directory = directory.state();
            // Of a file that only a listing has told of, more will be asked.
            match &found {
                Found::Listed(_) => directory.knowledge.is_there(name),
                _ => directory.knowledge.forget(name),
            }
        }
        table.insert(parent, name, kind, state)
    }

    /// The attributes of an inode. Through a handle, and for what is changed here, they come from
    /// memory; otherwise the store is asked when the TTL is over.
    ///
    /// # Errors
    /// [`Error::Stale`] where another object, or none, stands under the name: the kernel looks the
    /// name up again.
    pub async fn getattr(&self, ino: Ino, fh: Option<Fh>) -> Result<(Attr, Duration)> {
        let inode = self.inode(ino)?;
        let ttl = self.metadata_ttl();
        self.learn(&inode).await?;
        self.learn_mtime(&inode).await;
        if fh.is_none() && !self.is_believed(&inode) && !self.is_listed_directory(&inode) {
            self.revalidate(&inode).await?;
        }
        Ok((inode.attr(), ttl))
    }

    /// Asks for the time of an object that was streamed, once somebody looks at it. Where the store
    /// does not say, the guess stands: it is off by what the upload took.
    pub(super) async fn learn_mtime(&self, inode: &Arc<Inode>) {
        let version = {
            let state = inode.state();
            state.version.clone().filter(|_| state.mtime_is_guess)
        };
        let Some(version) = version.filter(|_| !inode.is_dirty()) else { return };
        let Ok(head) = self.0.store.head(&version.key).await else { return };
        if head.version.is_same(&version) {
            inode.state().time_told(&head.version);
        }
    }

    /// True for a directory that a walk of the one above has just brought: whoever goes on into
    /// it lists it, which says more than asking for it would.
    fn is_listed_directory(&self, inode: &Inode) -> bool {
        if inode.kind != FileKind::Directory || self.settings().metadata == Metadata::Posix {
            return false;
        }
        let (place, above) = {
            let table = self.table();
            let place = table.place(inode.ino);
            let above = place.as_ref().and_then(|place| table.get(place.parent));
            (place, above)
        };
        let (Some(place), Some(above)) = (place, above) else { return false };
        let (now, ttl) = (self.0.clock.now(), self.settings().metadata_ttl);
        let listing = &mut above.state().knowledge.listing;
        let goes_on = listing.used().is_some_and(|at| now.saturating_duration_since(at) < ttl);
        let hint = listing.get(&place.name, now).filter(|_| goes_on);
        hint.is_some_and(|hint| matches!(hint.listed, Listed::Directory))
    }

    /// Asks the store, where the TTL is over, whether the inode is still the current one.
    ///
    /// # Errors
    /// [`Error::Stale`] where it is not; its name is free then for the next lookup.
    pub(super) async fn revalidate(&self, inode: &Arc<Inode>) -> Result<()> {
        self.revalidate_for(inode, false).await
    }

    /// The same, with the body of a small file where somebody is about to read it.
    pub(super) async fn revalidate_for(&self, inode: &Arc<Inode>, is_read: bool) -> Result<()> {
        let version = inode.state().version.clone();
        if version.is_some_and(|version| self.0.cache.takes_damage(&version)) {
            self.give_up_damaged(inode);
        }
        let is_over = {
            let state = inode.state();
            state.detached || state.damaged
        };
        if is_over {
            return Err(Error::Stale);
        }
        self.learn(inode).await?;
        let is_ours = inode.kind == FileKind::Directory || inode.is_dirty();
        if is_ours || inode.state().unlinked || self.is_fresh(inode) {
            return Ok(());
        }
        let Some(key) = self.table().key(inode.ino) else { return Ok(()) };
        let before = inode.state().version.clone();
        let asked = self.0.clock.now();
        let wants_body = is_read && before.as_ref().is_some_and(|version| self.is_wanted(version));
        let found = match self.settings().metadata {
            Metadata::Posix if wants_body => {
                self.ask(&key, true).await?.map_or(Found::Nothing, Found::Object)
            }
            _ => self.find_object(&key).await?,
        };
        let moved_on = {
            let state = inode.state();
            state.unlinked || state.version != before
        };
        if moved_on || inode.is_dirty() || confirm(inode, &found, asked, self) {
            return Ok(());
        }
        self.table().lose(inode.ino);
        Err(Error::Stale)
    }
}

/// A failure is told once, and not for as long as the listing is believed.
fn ask_again(directory: &Inode, name: &Name, error: store::Error) -> Error {
    directory.state().knowledge.listing.remove(name);
    error.into()
}

/// True where S3 lacks something of the inode, or of what is below it, so that what the store says
/// cannot end it.
fn has_local(table: &Table, inode: &Inode) -> bool {
    table.subtree(inode.ino).iter().any(|inode| inode.is_dirty())
}

/// True where `found` is what the inode already is; then it is as fresh as the question.
fn confirm(inode: &Inode, found: &Found, asked: Instant, vfs: &Vfs) -> bool {
    let mut state = inode.state();
    // What is asked before the last word on an inode says nothing of its attributes.
    let may_renew = !state.attributes_dirty && asked > state.seen;
    let is_same = match (found, inode.kind) {
        (Found::Directory(Some(marker)), FileKind::Directory) => {
            let moved = |known| has_moved(known, &marker.properties);
            if may_renew && state.properties.as_ref().is_none_or(moved) {
                state.renew_directory(marker, vfs.settings());
            }
            true
        }
        (Found::Directory(None), FileKind::Directory) => true,
        (Found::Object(head), kind) if kind != FileKind::Directory => {
            // Two empty objects have the same tag, and one may be a FIFO.
            let is_same = kind_of(head, vfs.settings()) == kind
                && state.version.as_ref().is_some_and(|own| own.is_same(&head.version));
            if is_same {
                state.checksum = head.checksum.or(state.checksum);
            }
            let is_listing = vfs.settings().metadata == Metadata::List;
            if is_same && is_listing && state.properties.is_none() {
                state.properties = Some(head.properties.clone());
                state.tags_unread = head.tag_count > 0;
            }
            // A self-copy elsewhere changes the metadata and not the ETag.
            if is_same && metadata_moved(&state, head) && may_renew {
                *state = renewed(&mut state, head, vfs, asked);
            }
            is_same
        }
        (Found::Listed(version), FileKind::File) => {
            let is_same = state.version.as_ref().is_some_and(|own| own.is_same(version));
            if is_same {
                state.time_told(version);
            }
            is_same
        }
        _ => false,
    };
    if is_same {
        state.seen = state.seen.max(asked);
    }
    is_same
}

/// True where the head says something else of the object than what is known. It tells only how
/// many tags there are.
fn metadata_moved(state: &State, head: &ObjectHead) -> bool {
    let Some(known) = &state.properties else { return true };
    let tags_moved = !state.tags_unread && known.tags.len() != head.tag_count as usize;
    tags_moved || has_moved(known, &head.properties)
}

/// True where what is kept with an object is something else than what is known, its tags apart.
fn has_moved(known: &Properties, found: &Properties) -> bool {
    // Amazon says so of every object since 2023; who stored it may have asked for nothing.
    let is_default = known.sse.is_none() && found.sse.as_deref() == Some("AES256");
    let sse = if is_default { None } else { found.sse.clone() };
    let found = Properties { tags: known.tags.clone(), sse, ..found.clone() };
    *known != found
}

/// The state of the same bytes under changed metadata; what is open stays as it is.
fn renewed(state: &mut State, head: &ObjectHead, vfs: &Vfs, asked: Instant) -> State {
    let mut renewed = State::of_head(head, vfs.settings(), asked);
    renewed.staged = state.staged.take();
    renewed.version = state.version.take();
    renewed.attributes_epoch = state.attributes_epoch;
    renewed.retrying = state.retrying;
    (renewed.executions, renewed.atime) = (state.executions, state.atime);
    renewed.ways = std::mem::take(&mut state.ways);
    renewed.written = state.written;
    (renewed.unlinked, renewed.detached) = (state.unlinked, state.detached);
    renewed.damaged = state.damaged;
    renewed
}
