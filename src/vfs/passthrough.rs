//! Files that the kernel reads by itself, from a whole file of the cache (FUSE passthrough).
//!
//! Owns which opens of an inode go that way. The kernel's rules (fs/fuse/iomode.c): while an inode
//! has a backing file every open of it must name that very one, and none of these may be open
//! beside one that goes through the page cache; anything else is EIO for the application. So an
//! inode is opened in one way at a time, and whoever wants to change one that the kernel reads by
//! itself gets ESTALE, which makes the kernel look the name up again and find another inode: those
//! readers keep the version they opened. Must not know how the kernel is told.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::attr::{Fh, FileKind, OpenFlags};
use super::inode::{Inode, State};
use super::{Error, Result, Vfs};
use crate::cache::WholeFile;
use crate::store::Version;
use crate::units::MIB;

/// A smaller file is one READ either way, and not worth the registration.
const SIZE_MIN: u64 = MIB;

/// What this mount wrote so recently is likely to be written again, and each time would cost the
/// writer an ESTALE and a lookup.
const QUIET: Duration = Duration::from_secs(60);

/// A version that does not become whole here is looked at again after this: another mount that
/// shares the cache's folder may have completed it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How an inode's files are open at the moment.
#[derive(Debug)]
pub(super) struct Ways<F = WholeFile> {
    /// Opens that read and write through the daemon.
    cached: u64,
    /// Opens that the kernel serves, all from one file.
    backed: u64,
    backing: Option<Arc<F>>,
    /// Somebody waits until the cache has all of the inode's version, and has it verified.
    is_awaited: bool,
}

impl<F> Default for Ways<F> {
    fn default() -> Self {
        Self { cached: 0, backed: 0, backing: None, is_awaited: false }
    }
}

impl<F> Ways<F> {
    /// True where the kernel reads the inode by itself: nothing of it may change.
    pub(super) const fn is_backed(&self) -> bool {
        self.backed > 0
    }

    /// Counts an open that is to read from `whole` if it can; the file it does read from.
    fn open(&mut self, whole: Option<Arc<F>>) -> Option<Arc<F>> {
        if self.backed == 0 {
            self.backing = whole.filter(|_| self.cached == 0);
        }
        if self.backing.is_some() {
            self.backed += 1;
        } else {
            self.cached += 1;
        }
        self.backing.clone()
    }

    /// An open of that kind has ended.
    fn close(&mut self, was_backed: bool) {
        if !was_backed {
            self.cached -= 1;
            return;
        }
        self.backed -= 1;
        if self.backed == 0 {
            self.backing = None;
        }
    }

    /// The kernel did not take the file of a backed open.
    fn turn(&mut self) {
        self.close(true);
        self.cached += 1;
    }
}

impl State {
    /// True for a file whose bytes are those of its object, and have been for a while.
    fn is_quiet(&self, now: Instant) -> bool {
        let is_still = |at: Instant| now.saturating_duration_since(at) >= QUIET;
        !self.unlinked
            && !self.detached
            && !self.damaged
            && self.staged.is_none()
            && self.written.is_none_or(is_still)
    }
}

/// True for an open that the kernel may serve: it opens its own file as the application opened
/// ours, which may not be written, and whose file system may want direct reads aligned or refuse
/// them.
pub(super) const fn may_pass(flags: OpenFlags) -> bool {
    !flags.write && !flags.truncate && !flags.direct
}

/// True while the inode is there, and its version is this one.
fn is_still(inode: &Weak<Inode>, version: &Version) -> bool {
    let Some(inode) = inode.upgrade() else { return false };
    let state = inode.state();
    state.version.as_ref().is_some_and(|own| own.is_same(version))
}

impl Vfs {
    /// From now on no file is offered to the kernel: it does not take them.
    pub fn without_passthrough(&self) {
        self.0.passes.store(false, Ordering::Relaxed);
    }

    /// Counts an open, and decides how it reads; the file that the kernel is to read.
    ///
    /// # Errors
    /// [`Error::Stale`] for an open that the kernel cannot serve of what it reads by itself.
    pub(super) fn open_way(
        &self,
        inode: &Arc<Inode>,
        flags: OpenFlags,
    ) -> Result<Option<Arc<WholeFile>>> {
        let may_pass = may_pass(flags);
        let offer = may_pass.then(|| self.offer(inode)).flatten();
        let mut state = inode.state();
        if !may_pass && state.ways.is_backed() {
            drop(state);
            self.leave_to_readers(inode);
            return Err(Error::Stale);
        }
        // Asked before, and under the lock again: a change may have begun meanwhile.
        let whole = offer.and_then(|(version, whole)| {
            let is_same = state.version.as_ref().is_some_and(|own| own.is_same(&version));
            (is_same && state.is_quiet(self.0.clock.now())).then(|| Arc::new(whole))
        });
        Ok(state.ways.open(whole))
    }

    /// The whole file of the inode's version, where the cache has one and passing it on is worth
    /// anything.
    fn offer(&self, inode: &Arc<Inode>) -> Option<(Arc<Version>, WholeFile)> {
        let version = self.worth_passing(inode)?;
        let whole = self.0.cache.whole_file(&version);
        if whole.is_none() {
            self.verify_when_whole(inode, version);
            return None;
        }
        whole.map(|whole| (version, whole))
    }

    fn worth_passing(&self, inode: &Inode) -> Option<Arc<Version>> {
        if inode.kind != FileKind::File || !self.0.passes.load(Ordering::Relaxed) {
            return None;
        }
        let state = inode.state();
        let is_idle = !state.ways.is_backed() && state.is_quiet(self.0.clock.now());
        state.version.clone().filter(|version| is_idle && version.size >= SIZE_MIN)
    }

    /// Has the cache verify the version's file once it has all of it, so that the next open may be
    /// passed on.
    fn verify_when_whole(&self, inode: &Arc<Inode>, version: Arc<Version>) {
        if std::mem::replace(&mut inode.state().ways.is_awaited, true) {
            return;
        }
        let (cache, inode) = (self.0.cache.clone(), Arc::downgrade(inode));
        self.0.tasks.spawn(async move {
            loop {
                // Before it is looked at: the last block may come in between.
                let whole = cache.when_whole(&version);
                if cache.verified_file(&version).await.is_some() {
                    break;
                }
                match tokio::time::timeout(LOOK_AGAIN, whole).await {
                    Ok(true) => {}
                    Err(_) if is_still(&inode, &version) => {}
                    _ => break,
                }
            }
            if let Some(inode) = inode.upgrade() {
                inode.state().ways.is_awaited = false;
            }
        });
    }

    /// An open has ended.
    pub(super) fn close_way(inode: &Inode, was_backed: bool) {
        inode.state().ways.close(was_backed);
    }

    /// The kernel did not take the file: this open reads through the daemon.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub fn read_here(&self, fh: Fh) -> Result<()> {
        let handle = self.handle(fh)?;
        if handle.is_backed.swap(false, Ordering::Relaxed) {
            handle.inode.state().ways.turn();
        }
        Ok(())
    }

    /// Before a change: who reads the inode by the kernel alone keeps it, and the name gets
    /// another inode at the lookup that ESTALE brings.
    ///
    /// # Errors
    /// [`Error::Stale`] where there is such a reader; the store's, for attributes that wait.
    pub(super) async fn before_change(&self, inode: &Arc<Inode>) -> Result<()> {
        if !inode.state().ways.is_backed() {
            return Ok(());
        }
        // The other inode will show what the store has.
        self.send_attributes(inode).await?;
        self.leave_to_readers(inode);
        Err(Error::Stale)
    }

    fn leave_to_readers(&self, inode: &Inode) {
        self.table().lose(inode.ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_opened_in_one_way_at_a_time() {
        let whole = || Some(Arc::new(()));
        let mut ways = Ways::default();
        assert!(ways.open(None).is_none());
        assert!(ways.open(whole()).is_none(), "another open goes through the page cache");
        ways.close(false);
        ways.close(false);
        let first = ways.open(whole()).unwrap();
        let second = ways.open(None).unwrap();
        assert!(Arc::ptr_eq(&first, &second), "one backing file per inode");
        let third = ways.open(whole()).unwrap();
        assert!(Arc::ptr_eq(&first, &third));
        ways.close(true);
        ways.close(true);
        assert!(ways.is_backed());
        ways.close(true);
        assert!(!ways.is_backed());
        assert!(ways.open(None).is_none());
    }

    #[test]
    fn what_the_kernel_does_not_take_is_read_here() {
        let mut ways = Ways::default();
        ways.open(Some(Arc::new(()))).unwrap();
        ways.turn();
        assert!(!ways.is_backed());
        assert!(ways.open(Some(Arc::new(()))).is_none());
    }
}
