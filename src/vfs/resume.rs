//! What earlier mounts began and did not finish, taken up again.
//!
//! Owns the way from intents in the journal back to dirty inodes under their names, so that this
//! mount shows from its first moment on what an earlier one had promised, and sends it. Must not
//! know how a commit is written down.

use std::sync::Arc;

use futures::StreamExt;

use super::attr::{FileKind, Ino};
use super::inode::{Inode, State};
use super::{Error, Result, Vfs};
use crate::journal::Pending;
use crate::naming::{Key, Name};
use crate::write::{self, Resumed, Staged, Target};

/// Files asked about at once, whether S3 has them already.
const LOOKS_MAX: usize = 32;

async fn look(file: Resumed) -> (Resumed, bool) {
    let is_over = file.staged.is_over(&file.target).await;
    (file, is_over)
}

impl Vfs {
    /// Takes up what earlier mounts left. When this answers, every file of theirs stands under
    /// its name with its bytes; the commits go on in the background, in the order in which they
    /// were begun.
    pub async fn take_up(&self, pending: Vec<Pending>) {
        if pending.is_empty() {
            return;
        }
        let renames = self.end_leftovers(&pending).await;
        let files = self.0.engine.resume(&pending, |key, record| renames.key(key, record));
        let moved: Vec<Arc<Staged>> = {
            let moved = files.iter().filter(|file| file.is_moved);
            moved.map(|file| Arc::clone(&file.staged)).collect()
        };
        if !files.is_empty() {
            let files = files.len();
            tracing::info!(files, "an earlier mount ended before these were in S3; sending them");
            self.expect_taken_up(files);
        }
        let mut taken_up: Vec<(Arc<Inode>, Arc<Staged>, Target)> = Vec::with_capacity(files.len());
        let mut looked_at = futures::stream::iter(files.into_iter().map(look)).buffered(LOOKS_MAX);
        while let Some((Resumed { staged, target, .. }, is_over)) = looked_at.next().await {
            let key = &target.key;
            // A file that is in S3 must not be taken for one that is not: its name may be taken
            // away, or given to another, before its turn comes.
            if is_over {
                self.leave_earlier(&staged, key, &mut taken_up).await;
                self.taken_up_is_over();
                continue;
            }
            match self.put_back(Arc::clone(&staged), target.clone()).await {
                Ok(inode) => taken_up.push((inode, staged, target)),
                Err(error) => {
                    tracing::error!(%key, %error, "an unfinished commit waits for another mount");
                }
            }
        }
        self.take_up_attributes(&pending, &renames).await;
        for staged in moved {
            // Before the renames are over, of which a further mount would know nothing.
            if let Err(error) = staged.move_promise(Target::clone).await {
                tracing::warn!(%error, "a commit is noted by its old name");
            }
        }
        // Only now, since a directory goes from the table with the last of what is below it.
        for (inode, staged, target) in taken_up {
            self.enqueue_taken_up(&inode, staged, target);
        }
        renames.end();
    }

    /// What was promised of the name before that commit, by the same mount, is over with it: a
    /// power cut has taken the line that says so.
    async fn leave_earlier(
        &self,
        staged: &Staged,
        key: &Key,
        taken_up: &mut Vec<(Arc<Inode>, Arc<Staged>, Target)>,
    ) {
        let is_earlier = |(_, earlier, target): &mut (_, Arc<Staged>, Target)| {
            target.key == *key && earlier.lies_beside(staged)
        };
        let earlier: Vec<_> = taken_up.extract_if(.., is_earlier).collect();
        for (inode, ..) in earlier {
            let place = self.table().place(inode.ino);
            if let Some(place) = place {
                self.take_name(place.parent, &place.name, &inode).await;
                // The later commit's object stands there.
                if let Ok(directory) = self.inode(place.parent) {
                    directory.state().knowledge.forget(&place.name);
                }
            }
            self.taken_up_is_over();
        }
    }

    /// Puts a file back under its name.
    async fn put_back(&self, staged: Arc<Staged>, target: Target) -> Result<Arc<Inode>> {
        let root = self.settings().prefix.clone();
        let path = root.strip(target.key.as_str()).ok_or(Error::NotFound)?;
        let mut names = path.split('/').map(|name| Name::new(name.as_ref()));
        let last = names.next_back().ok_or(Error::Invalid)??;
        let (mut parent, mut pins) = (Ino::ROOT, Vec::new());
        for name in names {
            // Nothing else keeps a directory that nobody has looked up, nor those above it.
            let directory = self.directory(parent, &name?).await?;
            pins.push(self.pin(&directory));
            parent = directory.ino;
        }
        let before = self.table().child(parent, &last);
        if let Some(before) = before {
            // An earlier commit of the same name, which this one replaces.
            if self.keep_what_another_left(&before, &staged, &target.key).await {
                self.take_name(parent, &last, &before).await;
            } else {
                // Its record and its bytes wait for a mount that can keep them.
                self.take_name_now(parent, &last, &before);
            }
        }
        let (now, lenders) = (self.0.clock.now(), staged.lenders());
        let state = State::taken_up(staged, target, self.settings(), now);
        let inserted = self.table().insert(parent, &last, FileKind::File, state);
        let inode = inserted.ok_or(Error::NotFound)?;
        lenders.iter().for_each(|lender| self.lend(lender, &inode));
        Ok(inode)
    }

    /// Two mounts had promised the same name, and nobody knows whose bytes came first: the others
    /// are not thrown away. False where they could not be kept.
    async fn keep_what_another_left(&self, before: &Inode, staged: &Staged, key: &Key) -> bool {
        let others = before.staged().filter(|others| !others.lies_beside(staged));
        let Some(others) = others.filter(|others| others.is_dirty()) else { return true };
        let refusal = write::Error::Conflict { key: key.clone() };
        self.keep_aside(&others, key, &refusal).await
    }

    /// The directory of this name; where the store cannot say now, one without a marker.
    async fn directory(&self, parent: Ino, name: &Name) -> Result<Arc<Inode>> {
        match self.resolve(parent, name).await {
            Ok(Some(inode)) if inode.kind == FileKind::Directory => return Ok(inode),
            Ok(Some(_)) => return Err(Error::NotDirectory),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a directory of an unfinished commit"),
        }
        let state = State::implicit_directory(self.settings(), self.0.clock.now());
        let mut table = self.table();
        table.insert(parent, name, FileKind::Directory, state).ok_or(Error::NotFound)
    }
}
