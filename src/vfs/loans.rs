//! Files whose bytes are still another file's object, or still in an upload.
//!
//! Owns what must happen before an object is replaced or goes: who copied from it by reference
//! (copy_file_range) and has not committed yet gets the bytes, and a file that loses its name gets
//! an object of what only its unfinished upload has. Must not know why the object goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::attr::Ino;
use super::commit::Cause;
use super::inode::Inode;
use super::{Result, Vfs};
use crate::naming::{Key, Prefix};
use crate::write::{Staged, Still};

/// Who borrowed from which object. As many entries as there are files with an uncommitted copy:
/// what has been committed is taken out as the table grows.
#[derive(Debug, Default)]
pub(super) struct Loans(Mutex<HashMap<Key, Vec<Weak<Inode>>>>);

impl Loans {
    /// `borrower` has bytes that only the object `lender` has.
    fn note(&self, lender: &Key, borrower: &Arc<Inode>) {
        let mut loans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if loans.len() == loans.capacity() {
            loans.retain(|_, borrowers| {
                borrowers.retain(|one| one.upgrade().is_some_and(|one| is_in_debt(&one)));
                !borrowers.is_empty()
            });
        }
        let borrowers = loans.entry(lender.clone()).or_default();
        borrowers.retain(|one| one.strong_count() > 0 && !one.ptr_eq(&Arc::downgrade(borrower)));
        borrowers.push(Arc::downgrade(borrower));
    }

    fn lenders(&self) -> Vec<Key> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn take(&self, lender: &Key) -> Vec<Arc<Inode>> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(lender);
        taken.unwrap_or_default().iter().filter_map(Weak::upgrade).collect()
    }
}

fn is_in_debt(inode: &Inode) -> bool {
    // One that waits to be sent may borrow where the present stage does not.
    inode.staged().is_some_and(|staged| staged.borrows() || staged.is_dirty())
}

impl Vfs {
    /// Notes a loan. The caller holds the lender's commit lock, so that its object stays until
    /// then.
    pub(super) fn lend(&self, lender: &Key, borrower: &Arc<Inode>) {
        self.0.loans.note(lender, borrower);
    }

    /// The object `lender` is about to be replaced or deleted: its borrowers get their bytes.
    ///
    /// # Errors
    /// The store's and the staging folder's: then the object must stay.
    pub(super) async fn repay(&self, lender: &Key) -> Result<()> {
        let borrowers = self.0.loans.take(lender);
        for (index, borrower) in borrowers.iter().enumerate() {
            let key = self.key_or_last(borrower);
            let stages = self.earlier_stages(borrower).into_iter().chain(borrower.staged());
            for staged in stages {
                if let Err(error) = staged.outlive(lender, &key).await {
                    for borrower in &borrowers[index..] {
                        self.lend(lender, borrower);
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// All objects below `prefix` are about to go.
    ///
    /// # Errors
    /// As [`Vfs::repay`].
    pub(super) async fn repay_below(&self, prefix: &Prefix) -> Result<()> {
        for lender in self.0.loans.lenders() {
            if lender.as_str().starts_with(prefix.as_str()) {
                self.repay(&lender).await?;
            }
        }
        Ok(())
    }

    /// True where the store has something of the file under its key, be it an unfinished upload
    /// that alone has some bytes.
    pub(super) fn is_in_store(inode: &Inode) -> bool {
        let is_in_upload = || inode.staged().is_some_and(|staged| staged.is_in_upload());
        Self::version_of(inode).is_some() || is_in_upload()
    }

    /// The key of the inode, whose commit lock is held, is about to change: what of the file is in
    /// the store is committed, and nothing is written until the guard is dropped.
    ///
    /// # Errors
    /// The commit's, and as [`Vfs::repay`].
    pub(super) async fn hold_still<'a>(
        &self,
        inode: &Arc<Inode>,
        staged: Option<&'a Staged>,
    ) -> Result<Option<Still<'a>>> {
        loop {
            if Self::is_in_store(inode) {
                self.commit_locked(inode, Cause::Call).await?;
                self.before_it_goes(inode).await?;
            }
            let Some(staged) = staged else { return Ok(None) };
            let still = staged.hold_still().await;
            if !staged.is_in_upload() {
                return Ok(Some(still));
            }
        }
    }

    /// The files below a directory that are staged.
    pub(super) fn staged_below(&self, ino: Ino) -> Vec<(Arc<Inode>, Arc<Staged>)> {
        let below = self.table().subtree(ino);
        below.into_iter().filter_map(|inode| Some((Arc::clone(&inode), inode.staged()?))).collect()
    }

    /// The inode, whose commit lock is held, is about to lose its name: its object's borrowers get
    /// their bytes, and open handles keep those that only its unfinished upload has.
    ///
    /// # Errors
    /// As [`Vfs::repay`].
    pub(super) async fn before_it_goes(&self, inode: &Arc<Inode>) -> Result<()> {
        let is_in_upload = inode.staged().is_some_and(|staged| staged.is_in_upload());
        let is_open = self.table().opens(inode.ino) > 0;
        if is_open
            && is_in_upload
            && let Err(error) = self.commit_locked(inode, Cause::Call).await
        {
            let key = self.key_or_last(inode);
            tracing::warn!(%key, %error, "open handles of a file that goes lose its bytes");
        }
        match Self::version_of(inode) {
            Some(version) => self.repay(&version.key).await,
            None => Ok(()),
        }
    }
}
