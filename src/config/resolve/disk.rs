//! How much of the disk of its folder a mount may take.
//!
//! Owns the sizes that nobody gave, and how a limit of the whole folder is divided. Promises:
//! under a limit, what was read and what is staged fit together, with a twentieth to spare; where
//! the folder is in memory, they and the process fit into the cgroup. Must not know what is kept
//! in the folder.

use std::path::Path;

use super::host;
use crate::config::Error;
use crate::config::asked::Options;
use crate::units::{ByteSize, MIB};

/// The cache gets one part in so many of its file system. Not of what is free there: a restart,
/// which finds its own files, must not shrink it.
const CACHE_SHARE: u64 = 4;

/// One part in so many of the memory limit may be staged in memory.
const MEMORY_STAGING_SHARE: u64 = 4;

/// The cache leaves one part in so many free, as journals, logs and other programs need.
const FREE_SHARE: u64 = 20;

/// Of a limit, so much is used: whoever set it counts what the file system allocates, folders and
/// journal too, and evicts the pod that exceeds it.
const USED_PERCENT: u64 = 95;

/// What of a streamed file stays staged whatever happens.
const STAGING_MIN: u64 = 16 * MIB;

/// Where what was read is kept, and what is not in the store yet; the same folder, mostly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folders<'f> {
    pub(super) cache: Option<&'f Path>,
    pub(super) journal: Option<&'f Path>,
}

/// What there is of memory, and of a disk that this mount has filled already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// The mount's own.
    pub(super) memory_limit: u64,
    /// What its cgroup has beside that; none without a limit.
    pub(super) beside: Option<u64>,
    /// What might be staged when the mount began: what is free now is less by what is.
    pub(super) staged: Option<u64>,
}

/// Bytes for what was read (0 without a folder), and for what is written and not in the store.
pub(super) fn sizes(
    asked: &Options,
    folders: Folders<'_>,
    room: Room,
) -> Result<(u64, u64), Error> {
    let cache = cache_size(asked, folders.cache)?;
    let staging = staging_size(asked, folders.journal, room)?;
    within_memory(asked, folders, room, (cache, staging))
}

fn cache_size(asked: &Options, folder: Option<&Path>) -> Result<u64, Error> {
    match (within_limit(asked)?, asked.operator.cache_size) {
        _ if folder.is_none() => Ok(0),
        (Some((cache, _)), _) => Ok(cache),
        (None, Some(size)) => Ok(size),
        (None, None) => share_of(folder, CACHE_SHARE),
    }
}

/// Bytes of the file system that the cache leaves free; 0 without a folder.
pub(super) fn cache_min_free(asked: &Options, folder: Option<&Path>) -> Result<u64, Error> {
    match asked.local.cache_min_free {
        Some(size) if folder.is_some() => Ok(size),
        _ => share_of(folder, FREE_SHARE),
    }
}

fn staging_size(asked: &Options, folder: Option<&Path>, room: Room) -> Result<u64, Error> {
    let size = asked.operator.staging_size;
    let Some(folder) = folder else {
        // It is set aside from what everything else has.
        return Ok(size.unwrap_or(u64::MAX).min(room.memory_limit / MEMORY_STAGING_SHARE));
    };
    match (within_limit(asked)?, size, room.staged) {
        (Some((_, Some(staging))), _, _) => Ok(staging),
        (_, Some(size), _) | (_, None, Some(size)) => Ok(size),
        (_, None, None) => host::free_space(folder).map(|free| free / 2).map_err(|source| {
            Error::Folder { flag: "--journal-dir", path: folder.to_owned(), source }
        }),
    }
}

/// Files on a tmpfs are memory of whoever writes them. Their sizes are cut to what the cgroup has
/// beside the process; those that somebody asked for are refused where they do not fit.
fn within_memory(
    asked: &Options,
    folders: Folders<'_>,
    room: Room,
    (cache, staging): (u64, u64),
) -> Result<(u64, u64), Error> {
    let Some(beside) = room.beside else { return Ok((cache, staging)) };
    let beside = beside / 100 * USED_PERCENT;
    let reads = folders.cache.filter(|folder| host::is_in_memory(folder));
    let writes = folders.journal.filter(|folder| host::is_in_memory(folder));
    let Some(path) = writes.or(reads) else { return Ok((cache, staging)) };
    let counted = |folder: Option<&Path>, size: u64| if folder.is_some() { size } else { 0 };
    let (wanted_cache, wanted_staging) = (asked.operator.cache_size, asked.operator.staging_size);
    // Half for each where nobody said so; a cache that was asked for leaves staging the rest.
    let share = counted(reads, wanted_cache.unwrap_or(beside / 2));
    let most = beside.saturating_sub(share).max(STAGING_MIN.min(beside));
    let staging =
        if writes.is_some() { wanted_staging.unwrap_or(staging.min(most)) } else { staging };
    let most = beside.saturating_sub(counted(writes, staging));
    let cache = if reads.is_some() { wanted_cache.unwrap_or(cache.min(most)) } else { cache };
    let is_too_little = writes.is_some() && staging < STAGING_MIN;
    let taken = counted(reads, cache).saturating_add(counted(writes, staging));
    if is_too_little || taken > beside {
        return Err(Error::MemoryDisk {
            path: path.to_owned(),
            room: ByteSize(beside),
            cache: ByteSize(counted(reads, cache)),
            staging: ByteSize(counted(writes, staging)),
        });
    }
    Ok((cache, staging))
}

/// One part in `share` of the folder's file system; 0 without a folder.
fn share_of(folder: Option<&Path>, share: u64) -> Result<u64, Error> {
    let Some(folder) = folder else { return Ok(0) };
    host::total_space(folder).map(|total| total / share).map_err(|source| Error::Folder {
        flag: "--cache-dir",
        path: folder.to_owned(),
        source,
    })
}

/// How a limit, where there is one, is divided between cache and staging, which may have a folder
/// of its own.
fn within_limit(asked: &Options) -> Result<Option<(u64, Option<u64>)>, Error> {
    let Some(limit) = asked.operator.disk_limit else { return Ok(None) };
    let used = limit / 100 * USED_PERCENT;
    if asked.local.journal_dir.is_some() {
        return Ok(Some((asked.operator.cache_size.unwrap_or(used).min(used), None)));
    }
    let (cache, staging) = match (asked.operator.cache_size, asked.operator.staging_size) {
        (None, None) => (used - used / 2, used / 2),
        (Some(cache), None) => (cache, used.saturating_sub(cache)),
        (None, Some(staging)) => (used.saturating_sub(staging), staging),
        (Some(cache), Some(staging)) => (cache, staging),
    };
    if staging < STAGING_MIN || cache.saturating_add(staging) > used {
        return Err(Error::Argument {
            argument: "--disk-limit".to_owned(),
            reason: format!(
                "{USED_PERCENT} % of {} are less than --cache-size {} and --staging-size {} (at \
                 least {}); ask for less, or for more disk",
                ByteSize(limit),
                ByteSize(cache),
                ByteSize(staging.max(STAGING_MIN)),
                ByteSize(STAGING_MIN)
            ),
        });
    }
    Ok(Some((cache, Some(staging))))
}
