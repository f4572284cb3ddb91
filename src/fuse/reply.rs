//! The file system's words, in the kernel's.
//!
//! Owns every translation between `vfs` types and fuser's, in both directions, and one function
//! per kind of answer. Must not know requests, errors or where an answer came from.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow,
};

use crate::naming::MAX_NAME_BYTES;
use crate::vfs::{Attr, DirEntry, DirName, Entry, Fh, FileKind, FsStat, Ino, NewTime, Opened};

/// What `stat` calls the preferred size of I/O: 128 KiB, what coreutils takes at least, and not
/// more, since Python and stdio allocate it for every open file.
const PREFERRED_IO: u32 = 128 * 1024;

/// POSIX counts `st_blocks` in these, whatever the block size.
const STAT_BLOCK: u64 = 512;

/// Inodes that `df -i` shows, all and free: S3 has no limit, and tools take 0 for a full disk.
const INODES: u64 = 1 << 30;

/// The longest value of an extended attribute the kernel takes (`XATTR_SIZE_MAX`), and the
/// longest list (`XATTR_LIST_MAX`).
const XATTR_MAX: usize = 64 * 1024;

/// What an operation sends: its value, or the errno.
pub(super) type Answer<T> = Result<T, Errno>;

/// A directory reply that the verb fills and the answer sends: both hold it, one after the other.
#[derive(Debug)]
pub(super) struct Page<R>(Arc<Mutex<Option<R>>>);

impl<R> Clone for Page<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> Page<R> {
    pub(super) fn new(reply: R) -> Self {
        Self(Arc::new(Mutex::new(Some(reply))))
    }

    fn take(&self) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fill(&self, add: impl FnOnce(&mut R) -> bool) -> bool {
        let mut reply = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reply.as_mut().is_some_and(|reply| !add(reply))
    }
}

impl Page<ReplyDirectory> {
    /// Takes an entry; false when it does not fit any more.
    pub(super) fn add(&self, entry: &DirEntry) -> bool {
        let (ino, name) = (INodeNo(entry.ino.0), entry.name.as_str());
        self.fill(|reply| reply.add(ino, entry.cookie, file_type(entry.kind), name))
    }

    /// Sends what was filled.
    pub(super) fn send(self, answer: Answer<()>) {
        match (self.take(), answer) {
            (Some(reply), Ok(())) => reply.ok(),
            (Some(reply), Err(errno)) => reply.error(errno),
            (None, _) => {}
        }
    }
}

impl Page<ReplyDirectoryPlus> {
    /// Takes an entry; false when it does not fit any more.
    ///
    /// fuser sends one number as nodeid and as `d_ino`. The kernel makes no inode of `.` and `..`,
    /// so theirs can be true; an entry of which no more is known than its name must go out as
    /// nodeid 0 ("not looked up").
    pub(super) fn add(&self, entry: &DirEntry) -> bool {
        let bare = |ino| bare_attr(ino, entry.kind);
        let (attr, ttl, generation) = match (&entry.entry, &entry.name) {
            (Some(known), _) => {
                (file_attr(&known.attr), both_ttls(known), Generation(known.generation))
            }
            (None, DirName::Dot | DirName::DotDot) => {
                (bare(entry.ino), Duration::ZERO, Generation(0))
            }
            (None, DirName::Child(_)) => (bare(Ino(0)), Duration::ZERO, Generation(0)),
        };
        let name = OsStr::new(entry.name.as_str());
        self.fill(|reply| reply.add(attr.ino, entry.cookie, name, &ttl, &attr, generation))
    }

    /// Sends what was filled.
    pub(super) fn send(self, answer: Answer<()>) {
        match (self.take(), answer) {
            (Some(reply), Ok(())) => reply.ok(),
            (Some(reply), Err(errno)) => reply.error(errno),
            (None, _) => {}
        }
    }
}

/// Answers with nothing.
pub(super) fn empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with a name's entry.
pub(super) fn entry(reply: ReplyEntry, answer: Answer<Entry>) {
    match answer {
        Ok(entry) => reply.entry_with_ttls(
            &entry.attr_ttl,
            &entry.entry_ttl,
            &file_attr(&entry.attr),
            Generation(entry.generation),
        ),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with attributes.
pub(super) fn attr(reply: ReplyAttr, answer: Answer<(Attr, Duration)>) {
    match answer {
        Ok((attr, ttl)) => reply.attr(&ttl, &file_attr(&attr)),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with bytes.
pub(super) fn bytes(reply: ReplyData, answer: Answer<Bytes>) {
    match answer {
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with an open directory.
pub(super) fn opened_dir(reply: ReplyOpen, answer: Answer<Fh>) {
    match answer {
        Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with a new name and its open file. fuser sends one time to live for both the name and
/// the attributes: the shorter.
pub(super) fn created(reply: ReplyCreate, answer: Answer<(Entry, Opened)>) {
    match answer {
        Ok((entry, opened)) => reply.created(
            &both_ttls(&entry),
            &file_attr(&entry.attr),
            Generation(entry.generation),
            FileHandle(opened.fh.0),
            open_flags(&opened),
        ),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with the number of bytes taken.
pub(super) fn written(reply: ReplyWrite, answer: Answer<u32>) {
    match answer {
        Ok(count) => reply.written(count),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with an offset. "Nothing behind this offset" is ENODATA in the file system's words and
/// ENXIO in lseek's.
pub(super) fn offset(reply: ReplyLseek, answer: Answer<u64>) {
    match answer.map(i64::try_from) {
        Ok(Ok(offset)) => reply.offset(offset),
        Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
        Err(Errno::ENODATA) => reply.error(Errno::ENXIO),
        Err(errno) => reply.error(errno),
    }
}

/// Answers a question for an extended attribute, or for the list of them: with the length where
/// the caller's buffer is 0 bytes, with ERANGE where it is too small.
pub(super) fn xattr(reply: ReplyXattr, buffer: u32, answer: Answer<Bytes>) {
    match answer {
        Ok(value) if value.len() > XATTR_MAX => reply.error(Errno::E2BIG),
        Ok(value) if buffer == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > buffer as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with the file system's size.
pub(super) fn fs_stat(reply: ReplyStatfs, answer: Answer<FsStat>) {
    match answer {
        Ok(stat) => {
            let unit = u64::from(stat.block_size.max(1));
            let (all, free) = (stat.total_bytes / unit, stat.free_bytes / unit);
            let (size, name_max) = (stat.block_size.max(1), MAX_NAME_BYTES as u32);
            reply.statfs(all, free, free, INODES, INODES, size, name_max, size);
        }
        Err(errno) => reply.error(errno),
    }
}

/// How the kernel is to treat an open file.
pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    if opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

fn both_ttls(entry: &Entry) -> Duration {
    entry.entry_ttl.min(entry.attr_ttl)
}

const fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        size: attr.size,
        blocks: attr.size.div_ceil(STAT_BLOCK),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.ctime,
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        ..bare_attr(attr.ino, attr.kind)
    }
}

fn bare_attr(ino: Ino, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

/// The time a SETATTR asks for.
pub(super) fn new_time(time: TimeOrNow) -> NewTime {
    match time {
        TimeOrNow::Now => NewTime::Now,
        TimeOrNow::SpecificTime(at) => NewTime::At(before_epoch_mended(at)),
    }
}

/// fuser 0.18 reads a time before 1970 as seconds and nanoseconds both counted backwards, while
/// the kernel counts the nanoseconds forwards: -1.5 s arrives as (-2, 500 000 000) and is read as
/// -2.5 s. Both parts are still there, so the time can be put right.
fn before_epoch_mended(read: SystemTime) -> SystemTime {
    let Err(before) = read.duration_since(UNIX_EPOCH) else { return read };
    let before = before.duration();
    let whole = UNIX_EPOCH.checked_sub(Duration::from_secs(before.as_secs()));
    let nanos = Duration::from_nanos(u64::from(before.subsec_nanos()));
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr_of(size: u64, kind: FileKind) -> Attr {
        Attr {
            ino: Ino(7),
            kind,
            size,
            perm: 0o640,
            uid: 3,
            gid: 4,
            nlink: 1,
            atime: UNIX_EPOCH + Duration::from_secs(8),
            mtime: UNIX_EPOCH + Duration::new(9, 1),
            ctime: UNIX_EPOCH + Duration::from_secs(10),
        }
    }

    #[test]
    fn attributes_are_told_as_stat_counts_them() {
        for (size, blocks) in [(0, 0), (1, 1), (512, 1), (513, 2), (5 << 40, 5 << 31)] {
            assert_eq!(file_attr(&attr_of(size, FileKind::File)).blocks, blocks, "{size} bytes");
        }
        let told = file_attr(&attr_of(1, FileKind::Symlink));
        assert_eq!((told.ino, told.kind), (INodeNo(7), FileType::Symlink));
        assert_eq!((told.perm, told.uid, told.gid, told.nlink), (0o640, 3, 4, 1));
        let second = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!([told.atime, told.mtime, told.ctime].map(second), [8, 9, 10]);
    }

    #[test]
    fn times_before_1970_are_what_the_caller_set() {
        let half = Duration::from_millis(500);
        // The caller's -1.5 s, as the kernel sends it and as fuser reads that.
        let read = UNIX_EPOCH - Duration::from_secs(2) - half;
        let want = UNIX_EPOCH - Duration::from_secs(1) - half;
        assert_eq!(new_time(TimeOrNow::SpecificTime(read)), NewTime::At(want));
        for right in [UNIX_EPOCH + half, UNIX_EPOCH, UNIX_EPOCH - Duration::from_secs(3)] {
            assert_eq!(new_time(TimeOrNow::SpecificTime(right)), NewTime::At(right));
        }
    }
}
