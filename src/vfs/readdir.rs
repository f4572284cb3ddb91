//! Directories read: OPENDIR, READDIR, READDIRPLUS.
//!
//! Owns a directory handle's walk: the pages of its listing, merged with the files that are not in
//! S3 yet. A cookie is the count of entries before it. Must not know how one name is looked up, nor
//! when a page is asked for.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use super::ahead::SPECIAL_MAX;
use super::attr::{DirEntry, DirName, Fh, FileKind, Ino};
use super::inode::{Inode, kind_of};
use super::listed::{Asking, Coming, Listed as Remembered, Question};
use super::lookup::Found;
use super::pages::{Page, Pages};
use super::{Error, Metadata, Result, Vfs};
use crate::naming::{Child, Listed, Merge, Name, Prefix, classify};
use crate::store::{ListLine, Version};
use crate::tasks::Tasks;

/// Entries kept behind the reader, so that a small seek back costs no request. The kernel asks
/// again for what did not fit into its buffer: at most 32 KiB, some 1 000 entries.
const KEPT_BEHIND: usize = 2_000;

/// Walks whose listings are remembered for the lookups that follow.
const WALKS_MAX: usize = 64;

/// Names that all of them remember; at about 1 KiB each with its answer: 24 MB.
const NAMES_MAX: usize = 24_000;

/// An open directory.
#[derive(Debug)]
pub(super) struct Listing {
    inode: Arc<Inode>,
    walk: tokio::sync::Mutex<Walk>,
}

#[derive(Debug)]
struct Walk {
    entries: VecDeque<Item>,
    /// How many entries came before the first one kept.
    dropped: u64,
    /// Names that are not in S3 yet and were given first.
    local: HashSet<Name>,
    merge: Merge<Arc<Version>>,
    next: Next,
    /// A page that has come and is not among the entries yet.
    page: Option<Page>,
    /// What runs ahead of the reader; it ends with him.
    tasks: Tasks,
}

#[derive(Debug)]
enum Next {
    Begin,
    Pages(Pages),
    End,
}

#[derive(Debug, Clone)]
struct Item {
    name: DirName,
    kind: FileKind,
    /// What the listing said of a file.
    version: Option<Arc<Version>>,
    /// What the object itself says: a small one may be a link or a FIFO.
    answer: Option<Coming>,
    /// It says that there is no such object any more.
    is_gone: bool,
    /// When the listing was asked.
    asked: Instant,
}

impl Walk {
    fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            dropped: 0,
            local: HashSet::new(),
            merge: Merge::default(),
            next: Next::Begin,
            page: None,
            tasks: Tasks::new(),
        }
    }
}

impl Vfs {
    /// Opens a directory; nothing is asked before it is read.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::Stale`].
    pub async fn opendir(&self, ino: Ino) -> Result<Fh> {
        let inode = self.inode(ino)?;
        if inode.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        self.table().opened(ino);
        let walk = tokio::sync::Mutex::new(Walk::new());
        Ok(self.0.handles.add_listing(Listing { inode, walk }))
    }

    /// Closes a directory.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub async fn releasedir(&self, fh: Fh) -> Result<()> {
        let listing = self.0.handles.listing(fh)?;
        self.0.handles.remove_listing(fh);
        let mut table = self.table();
        table.closed(listing.inode.ino);
        table.collect(listing.inode.ino);
        Ok(())
    }

    /// Names are in S3 when the verbs that made them answer; deletes may still be on their way.
    ///
    /// # Errors
    /// [`Error::BadHandle`]; the store's, also for a delete that was acknowledged before.
    pub async fn fsyncdir(&self, fh: Fh) -> Result<()> {
        let listing = self.0.handles.listing(fh)?;
        let prefix = self.table().prefix(listing.inode.ino);
        if let Some(prefix) = prefix {
            self.settle_deletes(&prefix).await?;
        }
        self.send_attributes(&listing.inode).await?;
        self.sync_journal().await
    }

    /// Gives the entries behind `cookie` to `sink` until it answers false or no more are at hand
    /// without another request. With `plus`, a taken entry counts as a lookup.
    ///
    /// # Errors
    /// The store's.
    pub async fn readdir(
        &self,
        fh: Fh,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(&DirEntry) -> bool + Send),
    ) -> Result<()> {
        let listing = self.0.handles.listing(fh)?;
        let mut walk = listing.walk.lock().await;
        let is_rewind = cookie == 0 && !matches!(walk.next, Next::Begin);
        if is_rewind || cookie < walk.dropped {
            *walk = Walk::new();
        }
        while walk.dropped + walk.entries.len() as u64 <= cookie {
            if matches!(walk.next, Next::End) {
                return Ok(());
            }
            self.fetch(&listing.inode, &mut walk).await?;
            walk.trim(cookie);
        }
        let skip = usize::try_from(cookie - walk.dropped).unwrap_or(usize::MAX);
        let dropped = walk.dropped;
        let mut has_given = false;
        for (index, item) in walk.entries.iter_mut().enumerate().skip(skip) {
            if has_given && item.answer.as_ref().is_some_and(|answer| !answer.has_arrived()) {
                // What is at hand goes to the reader first.
                break;
            }
            if !item.settle(self).await {
                continue;
            }
            let behind = dropped + index as u64 + 1;
            if !self.give(&listing.inode, item, behind, plus, sink) {
                break;
            }
            has_given = true;
        }
        Ok(())
    }

    /// Brings the next entries: the local ones first, then page by page.
    async fn fetch(&self, inode: &Arc<Inode>, walk: &mut Walk) -> Result<()> {
        let prefix = self.table().prefix(inode.ino);
        let (pages, prefix) = match (&mut walk.next, prefix) {
            (Next::Pages(pages), Some(prefix)) => (pages, prefix),
            (Next::Begin, Some(prefix)) => {
                self.begin(inode, prefix, walk);
                return Ok(());
            }
            (_, None) => {
                // Removed while open: an empty directory, as on a disk.
                walk.next = Next::End;
                return Ok(());
            }
            (Next::End, _) => return Ok(()),
        };
        pages.follow(prefix.clone());
        // Left there until all is known of it, since a reader that gives up drops this future.
        if walk.page.is_none() {
            walk.page = pages.next().await?;
        }
        let ghosts = match &walk.page {
            Some(page) => self.ghosts(page).await?,
            None => HashSet::new(),
        };
        match walk.page.take() {
            Some(mut page) => {
                page.lines.retain(|line| !ghosts.contains(line.key()));
                self.take_page(inode, &prefix, page, walk);
            }
            None => walk.next = Next::End,
        }
        Ok(())
    }

    /// Those directories of a page that are only there as long as unlinked files below are open.
    async fn ghosts(&self, page: &Page) -> Result<HashSet<String>> {
        let mut ghosts = HashSet::new();
        for line in &page.lines {
            if let ListLine::Prefix(prefix) = line
                && self.table().has_doomed_below(prefix)
                && self.first_standing(prefix, |_| true).await?.is_none()
            {
                ghosts.insert(prefix.clone());
            }
        }
        Ok(ghosts)
    }

    fn begin(&self, inode: &Arc<Inode>, prefix: Prefix, walk: &mut Walk) {
        let asked = self.0.clock.now();
        let entry = |name, kind| Item::new(name, kind, asked);
        walk.entries.push_back(entry(DirName::Dot, FileKind::Directory));
        walk.entries.push_back(entry(DirName::DotDot, FileKind::Directory));
        let known = self.table().children(inode.ino);
        for (name, child) in known {
            if Self::version_of(&child).is_none() && child.kind != FileKind::Directory {
                walk.entries.push_back(entry(DirName::Child(name.clone()), child.kind));
                walk.local.insert(name);
            }
        }
        walk.next = Next::Pages(self.0.listings.pages(prefix));
    }

    fn take_page(&self, inode: &Arc<Inode>, prefix: &Prefix, page: Page, walk: &mut Walk) {
        let asked = page.asked;
        let mut children = Vec::with_capacity(page.lines.len());
        for line in page.lines {
            match classify(prefix, line.key()) {
                Listed::Marker => inode.state().knowledge.has_marker = true,
                Listed::File(name) => {
                    let ListLine::Object(version) = line else { continue };
                    if !self.is_leftover(&version, asked) {
                        walk.merge.file(name, Arc::new(version), &mut children);
                    }
                }
                Listed::Directory(name) => walk.merge.directory(name, &mut children),
                Listed::Hidden(reason) => self.hide(line.key(), reason),
                Listed::Reserved => {}
            }
        }
        if page.is_last {
            walk.merge.finish(&mut children);
            walk.next = Next::End;
        }
        let local = &walk.local;
        let children = children.into_iter().filter(|child| !local.contains(child.name()));
        let (items, questions) = self.take_children(inode, children, asked);
        walk.entries.extend(items);
        self.ask_ahead(inode, questions, &walk.tasks);
        self.bound_listed(inode);
    }

    /// Remembers the children for the lookups that follow, and says which to ask about: those
    /// that may be something else than files.
    fn take_children(
        &self,
        inode: &Arc<Inode>,
        children: impl Iterator<Item = Child<Arc<Version>>>,
        asked: Instant,
    ) -> (Vec<Item>, Vec<Question>) {
        let (mut items, mut questions) = (Vec::new(), Vec::new());
        let now = self.0.clock.now();
        for child in children {
            let (name, kind, version) = match child {
                Child::File(name, version) => (name, FileKind::File, Some(version)),
                Child::Directory(name) => (name, FileKind::Directory, None),
            };
            let listed = version.clone().map_or(Remembered::Directory, Remembered::File);
            let mut answer = None;
            if self.may_be_special(inode, &name, version.as_deref()) {
                let (asking, coming) = Asking::new();
                questions.push(Question { name: name.clone(), listed: listed.clone(), asking });
                answer = Some(coming);
            }
            let knowledge = &mut inode.state().knowledge;
            if !knowledge.is_gone_since(&name, asked) {
                knowledge.is_there(&name);
                knowledge.listing.put(&name, listed, answer.clone(), now);
            }
            let item = Item::new(DirName::Child(name), kind, asked);
            items.push(Item { version, answer, ..item });
        }
        (items, questions)
    }

    /// True for an object that may be a link or a FIFO, and of which nothing is known yet.
    fn may_be_special(&self, directory: &Inode, name: &Name, version: Option<&Version>) -> bool {
        self.settings().metadata == Metadata::Posix
            && version.is_some_and(|version| version.size <= SPECIAL_MAX)
            && self.table().child(directory.ino, name).is_none()
    }

    /// Keeps what all directories together remember of listings within bounds: the walk that
    /// nobody went on with for longest is over first. One that goes down a tree comes back to the
    /// directories above.
    fn bound_listed(&self, inode: &Arc<Inode>) {
        let mut walks = self.0.walks.lock().unwrap_or_else(PoisonError::into_inner);
        if walks.iter().all(|walk| walk.as_ptr() != Arc::as_ptr(inode)) {
            walks.push_back(Arc::downgrade(inode));
        }
        let remembered = |walk: &Weak<Inode>| {
            walk.upgrade().map_or(0, |inode| inode.state().knowledge.listing.len())
        };
        let mut names: usize = walks.iter().map(remembered).sum();
        while walks.len() > 1 && (walks.len() > WALKS_MAX || names > NAMES_MAX) {
            let used = |walk: &Weak<Inode>| {
                walk.upgrade().and_then(|inode| inode.state().knowledge.listing.used())
            };
            let Some(oldest) = (0..walks.len()).min_by_key(|&at| used(&walks[at])) else { return };
            if let Some(oldest) = walks.remove(oldest).and_then(|oldest| oldest.upgrade()) {
                let listing = std::mem::take(&mut oldest.state().knowledge.listing);
                names -= listing.len().min(names);
            }
        }
    }

    /// Gives one entry; false where it was not taken.
    fn give(
        &self,
        directory: &Arc<Inode>,
        item: &Item,
        cookie: u64,
        plus: bool,
        sink: &mut (dyn FnMut(&DirEntry) -> bool + Send),
    ) -> bool {
        let ttl = self.metadata_ttl();
        let name = match &item.name {
            DirName::Child(name) => name,
            dots => {
                let is_dot = *dots == DirName::Dot;
                let parent = || self.table().parent(directory.ino);
                let ino = if is_dot { directory.ino } else { parent() };
                // The kernel makes no dentry of the dots, so they count as no lookup.
                let inode = self.table().get(ino).unwrap_or_else(|| Arc::clone(directory));
                let entry = plus.then(|| self.entry_uncounted(&inode, ttl));
                let kind = FileKind::Directory;
                return sink(&DirEntry { ino, cookie, kind, name: dots.clone(), entry });
            }
        };
        if directory.state().knowledge.is_gone_since(name, item.asked) {
            return true;
        }
        let known = if plus {
            self.adopt_item(directory.ino, name, item)
        } else {
            self.table().child(directory.ino, name)
        };
        let (ino, kind) = match &known {
            Some(inode) => (inode.ino, inode.kind),
            None => (self.number_of(directory.ino, name, item.kind), item.kind),
        };
        let entry = known.as_ref().filter(|_| plus).map(|inode| self.entry_uncounted(inode, ttl));
        let taken = sink(&DirEntry { ino, cookie, kind, name: item.name.clone(), entry });
        if plus {
            if taken && let Some(inode) = &known {
                self.remember(inode);
            } else {
                self.table().collect(ino);
            }
        }
        taken
    }

    fn adopt_item(&self, parent: Ino, name: &Name, item: &Item) -> Option<Arc<Inode>> {
        debug_assert!(self.settings().metadata == Metadata::List, "listings carry everything");
        let found = match (&item.version, item.kind) {
            (Some(version), _) => Found::Listed(Arc::clone(version)),
            (None, FileKind::Directory) => Found::Directory(None),
            (None, _) => return self.table().child(parent, name),
        };
        if let Some(version) = &item.version
            && self.table().key_at(parent, name).and_then(Result::ok).as_ref() != Some(&version.key)
        {
            // The directory was renamed while it was read.
            return self.table().child(parent, name);
        }
        self.adopt(parent, name, found, item.asked)
    }

    /// The number that a name without an inode will have when it is looked up.
    fn number_of(&self, parent: Ino, name: &Name, kind: FileKind) -> Ino {
        let table = self.table();
        let hash = table.prefix(parent).and_then(|prefix| match kind {
            FileKind::Directory => prefix.directory(name).ok().map(|below| below.ino()),
            _ => prefix.file(name).ok().map(|key| key.ino()),
        });
        // A directory that was removed while open: any number but 0, which hides the entry.
        hash.map_or(Ino(u64::MAX), |hash| table.free_number(hash))
    }
}

impl Item {
    const fn new(name: DirName, kind: FileKind, asked: Instant) -> Self {
        Self { name, kind, version: None, answer: None, is_gone: false, asked }
    }

    /// Waits until it is known what the entry is; false where it is gone.
    async fn settle(&mut self, vfs: &Vfs) -> bool {
        // Cloned, since a reader that gives up drops this future.
        let Some(answer) = self.answer.clone() else { return !self.is_gone };
        match answer.arrives().await.map(|answer| answer.found) {
            Some(Ok(Some(head))) => self.kind = kind_of(&head, vfs.settings()),
            Some(Ok(None)) => self.is_gone = true,
            // Nobody may look at it; a lookup will say why.
            Some(Err(_)) | None => {}
        }
        self.answer = None;
        !self.is_gone
    }
}

impl Walk {
    /// Lets go of entries that the reader has long passed.
    fn trim(&mut self, cookie: u64) {
        while self.entries.len() > KEPT_BEHIND && self.dropped + (KEPT_BEHIND as u64) < cookie {
            self.entries.pop_front();
            self.dropped += 1;
        }
    }
}
