//! The memory of whole blocks, straight from the kernel.
//!
//! Owns the pages that blocks lie in. Blocks from malloc leave holes that smaller allocations
//! settle in, so that no block fits there again: a budget of 192 MiB kept 272 MiB resident. Here
//! each block is a mapping of its own, which goes back whole; and since a mapping costs a page
//! fault per 4 KiB, an evicted block's is kept for a block that is on its way. Promises: what is
//! kept never exceeds what was promised. Must not know what is in a block.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;

/// Bytes of a buffer, whoever gave them.
enum Pages {
    Mapped(MmapMut),
    /// Where the kernel gives no more mappings (`vm.max_map_count`).
    Heap(Box<[u8]>),
}

impl Pages {
    fn new(size: usize) -> Self {
        match MmapMut::map_anon(size) {
            Ok(pages) => Self::Mapped(pages),
            Err(_) => Self::Heap(vec![0; size].into_boxed_slice()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(pages) => pages,
            Self::Heap(pages) => pages,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Mapped(pages) => pages,
            Self::Heap(pages) => pages,
        }
    }
}

/// Buffers of one size that come and go.
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    spare: Mutex<Spare>,
}

#[derive(Default)]
struct Spare {
    pages: Vec<Pages>,
    promised: usize,
}

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare")
            .field("pages", &self.pages.len())
            .field("promised", &self.promised)
            .finish()
    }
}

impl Spare {
    /// Gives back what nobody was promised.
    fn trim(&mut self) -> Vec<Pages> {
        self.pages.split_off(self.pages.len().min(self.promised))
    }
}

impl Pool {
    /// A pool of buffers of `size` bytes each.
    pub(super) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, spare: Mutex::default() })
    }

    /// Says that `buffers` buffers will be filled soon, so that as many are kept from now on.
    pub(super) fn promise(self: &Arc<Self>, buffers: usize) -> Promise {
        self.lock().promised += buffers;
        Promise { pool: Arc::clone(self), left: buffers }
    }

    /// Keeps a buffer, or lets it go.
    fn give_back(&self, pages: Pages) {
        let mut spare = self.lock();
        if spare.pages.len() < spare.promised {
            spare.pages.push(pages);
        } else {
            // Not under the lock: unmapping is a system call.
            drop(spare);
            drop(pages);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers that somebody will fill; dropping it says that the rest will not be needed.
#[derive(Debug)]
pub(super) struct Promise {
    pool: Arc<Pool>,
    left: usize,
}

impl Promise {
    /// The next buffer. One more than was promised is a new one.
    pub(super) fn buffer(&mut self) -> Buffer {
        let kept = {
            let mut spare = self.pool.lock();
            let kept = spare.pages.pop();
            if self.left > 0 {
                self.left -= 1;
                spare.promised -= 1;
            }
            kept
        };
        let pages = kept.unwrap_or_else(|| Pages::new(self.pool.size));
        Buffer { pages: Some(pages), filled: 0, pool: Arc::clone(&self.pool) }
    }

    /// Splits off so many of the buffers.
    pub(super) fn split(&mut self, buffers: usize) -> Self {
        let left = buffers.min(self.left);
        self.left -= left;
        Self { pool: Arc::clone(&self.pool), left }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let unneeded = {
            let mut spare = self.pool.lock();
            spare.promised -= self.left;
            spare.trim()
        };
        drop(unneeded);
    }
}

/// The memory of one block, filled from its beginning.
pub(super) struct Buffer {
    /// Some until it is dropped.
    pages: Option<Pages>,
    filled: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    /// Appends `bytes`; what does not fit is left out.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let Some(pages) = &mut self.pages else { return };
        let room = &mut pages.bytes_mut()[self.filled..];
        let length = room.len().min(bytes.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.filled += length;
    }

    /// All of its memory, to be filled as a whole.
    pub(super) fn fill(&mut self) -> &mut [u8] {
        let bytes = self.pages.as_mut().map_or(&mut [][..], Pages::bytes_mut);
        self.filled = bytes.len();
        bytes
    }

    /// What it was filled with, for as many readers as want it.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.pages.as_ref().map_or(&[], |pages| &pages.bytes()[..self.filled])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            self.pool.give_back(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 8192;

    fn kept(pool: &Pool) -> usize {
        pool.lock().pages.len()
    }

    #[test]
    fn a_buffer_holds_what_it_was_filled_with_and_not_what_was_there_before() {
        let pool = Pool::new(SIZE);
        let mut promise = pool.promise(3);
        let mut first = promise.buffer();
        first.append(&[7; SIZE + 1]);
        first.append(b"more");
        let first = first.freeze();
        assert_eq!(first, vec![7; SIZE]);
        drop(first);
        assert_eq!(kept(&pool), 1);
        let mut second = promise.buffer();
        assert_eq!(kept(&pool), 0, "the first one's memory is used again");
        second.append(b"short");
        assert_eq!(second.as_ref().len(), 5);
        assert_eq!(second.freeze(), "short");
    }

    #[test]
    fn no_more_is_kept_than_was_promised() {
        let pool = Pool::new(SIZE);
        let mut first = pool.promise(4);
        let blocks: Vec<_> = (0..4).map(|_| first.buffer().freeze()).collect();
        let mut second = pool.promise(2);
        drop(blocks);
        assert_eq!(kept(&pool), 2);
        drop(second.buffer());
        assert_eq!(kept(&pool), 1, "one of the two is still to come");
        drop(second);
        assert_eq!(kept(&pool), 0);
        drop(first);
        assert_eq!(pool.lock().promised, 0);
    }
}
