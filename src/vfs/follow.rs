//! What the journal says of an inode that has got another name.
//!
//! Owns that every record of it (a commit that was promised or tried in vain, attributes that wait)
//! stands under the new key before the one under the old key ends, so that the next mount finds
//! the file where it is. Must not know how anything moves, nor what a record says.

use std::sync::Arc;

use super::inode::Inode;
use super::{Result, Vfs};
use crate::write::Target;

impl Vfs {
    /// What is written down of the inode follows it to its new key. The caller holds the namespace
    /// and either the inode's commit lock or all of it.
    ///
    /// # Errors
    /// The journal's disk; then the records still stand under the old key.
    pub(super) async fn records_follow(&self, inode: &Arc<Inode>) -> Result<()> {
        self.attributes_follow(inode);
        let Some(key) = self.table().key(inode.ino) else { return Ok(()) };
        let later = inode.state().later();
        for earlier in self.earlier_stages(inode) {
            let moved = |old: &Target| {
                let (key, condition) = (key.clone(), later.clone());
                let later = condition.clone();
                Target { key, condition, later, ..old.clone() }
            };
            earlier.move_promise(moved).await?;
        }
        match inode.staged() {
            Some(staged) if staged.is_acknowledged() => self.promise(inode).await,
            Some(staged) => {
                let target = |_: &Target| inode.target(&key, self.settings(), true);
                Ok(staged.move_promise(target).await?)
            }
            None => Ok(()),
        }
    }

    /// The same for a directory and all that is below it. What cannot be written is only said: no
    /// byte is lost with it, and everything else has moved.
    pub(super) async fn records_below_follow(&self, directory: &Arc<Inode>) {
        let below = self.table().subtree(directory.ino);
        for inode in below {
            if let Err(error) = self.records_follow(&inode).await {
                let key = self.key_or_last(&inode);
                tracing::warn!(
                    %key, %error,
                    "the journal still has a renamed file under its old name, where it would be \
                     after a crash; see to its disk"
                );
            }
        }
    }
}
