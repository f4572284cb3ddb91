//! COPY_FILE_RANGE: bytes of one open file into another, without the caller between.
//!
//! Owns which bytes the store will copy and which go through here. A large range of what is in S3,
//! and a whole object into an empty file, is noted and nothing moves: the commit has the store copy
//! it. The rest is read and staged. Must not know how a commit is planned.

use std::sync::Arc;

use super::attr::Fh;
use super::content::is_current;
use super::handle::Handle;
use super::{Error, Result, Vfs};
use crate::store::Version;
use crate::units::{ByteRange, MIB};
use crate::write::{self, CopiedRun};

/// What is moved through here in one call, so that it ends; the caller asks again for the rest.
const THROUGH_HERE_MAX: u64 = 8 * MIB;

/// Bytes in memory at once, as with a READ and a WRITE.
const STEP: u64 = MIB;

impl Vfs {
    /// Copies bytes between open files; fewer than `len` where the source ends, or where the caller
    /// is to ask again.
    ///
    /// # Errors
    /// [`Error::BadHandle`]; [`Error::Invalid`] where the ranges overlap in one file; what READ and
    /// WRITE answer.
    pub async fn copy_file_range(
        &self,
        from: Fh,
        from_offset: u64,
        to: Fh,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        let (source, target) = (self.handle(from)?, self.handle(to)?);
        if !source.flags.read || !target.flags.write {
            return Err(Error::BadHandle);
        }
        let size = source.inode.attr().size;
        let len = len.min(size.saturating_sub(from_offset));
        let (read, written) = (ByteRange::at(from_offset, len), ByteRange::at(to_offset, len));
        let is_one_file = source.inode.ino == target.inode.ino;
        if is_one_file && !read.intersect(written).is_empty() {
            return Err(Error::Invalid);
        }
        if len == 0 {
            return Ok(0);
        }
        self.check_room(&target.inode, written.end)?;
        // A small file that is dirty is cheaper sent twice than committed now.
        let is_whole = len == size && to_offset == 0 && target.inode.attr().size == 0;
        // The store copies nothing smaller into the middle of an object.
        let is_large = len >= self.0.engine.min_part();
        if (is_large || is_whole && !source.inode.is_dirty())
            && self.copy_by_store(&source, read, &target, to_offset).await?
        {
            return Ok(len);
        }
        self.copy_through_here((from, from_offset), (to, to_offset), len).await
    }

    /// Notes that bytes are another object's; false where the store does not have them.
    async fn copy_by_store(
        &self,
        source: &Handle,
        read: ByteRange,
        target: &Handle,
        to_offset: u64,
    ) -> Result<bool> {
        let inode = &target.inode;
        let key = self.key_or_last(inode);
        let range = ByteRange::at(to_offset, read.len());
        let before = inode.state().size();
        loop {
            if source.inode.is_dirty() {
                if self.settings().write_back {
                    // What was closed before is seen before.
                    self.settle_backlog().await?;
                }
                self.commit(&source.inode).await?;
            }
            let places_stand = self.0.namespace.read().await;
            let object_stays = source.inode.commit.lock().await;
            let Some(version) = in_store(source, read) else { return Ok(false) };
            let staged = self.stage(inode)?;
            if source.inode.ino != inode.ino {
                self.lend(&version.key, inode);
            }
            let run = CopiedRun { range, version, from: read.start };
            let epoch = match staged.copy_in(run, &key).await {
                Err(write::Error::InUpload { .. }) => {
                    drop((object_stays, places_stand));
                    self.checkpoint(inode).await?;
                    continue;
                }
                copied => copied?,
            };
            if is_current(inode, &staged) {
                target.changed(epoch);
                self.touch_times(inode);
                self.charge(inode, before);
                return Ok(true);
            }
        }
    }

    async fn copy_through_here(
        &self,
        (from, from_offset): (Fh, u64),
        (to, to_offset): (Fh, u64),
        len: u64,
    ) -> Result<u64> {
        let (len, mut done) = (len.min(THROUGH_HERE_MAX), 0);
        while done < len {
            let step = u32::try_from(STEP.min(len - done)).unwrap_or(u32::MAX);
            let bytes = self.read(from, from_offset + done, step).await?;
            if bytes.is_empty() {
                break;
            }
            match self.write(to, to_offset + done, bytes).await {
                Ok(written) => done += u64::from(written),
                // What has been copied counts; the caller meets the error when it asks again.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// The version that has the bytes of `read` as the file has them now.
fn in_store(source: &Handle, read: ByteRange) -> Option<Arc<Version>> {
    let state = source.inode.state();
    let is_dirty = state.staged.as_ref().is_some_and(|staged| staged.is_dirty());
    if is_dirty || state.unlinked || state.detached {
        return None;
    }
    state.version.clone().filter(|version| read.end <= version.size)
}
