//! Caches of volumes that nobody serves any more.
//!
//! Owns how long such a cache is kept, and which one goes first where the disk is full: a volume's
//! own bounds hold only while it is served. Promises: a journal is never touched, nor what
//! somebody wants to recover; the cache of a volume that is being started meanwhile is empty at
//! worst. Must not know what is in a cache.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;

/// The folder of a volume's that holds nothing but its cache.
const CACHE: &str = "cache";

/// Where a cache waits for its removal: nobody opens it any more.
const GONE: &str = "cache.gone";

/// A cache that was not used for so long is of no use: whoever comes back reads it again.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often is looked.
pub(super) const EVERY: Duration = Duration::from_secs(3600);

/// As much of the disk is to be free, as for a single cache's default (`--cache-min-free`): 5 %.
const FREE_SHARE: u64 = 20;

/// What has gone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// The keys of the volumes.
    pub(super) keys: Vec<String>,
}

/// Removes caches below `caches` that are used by none of `running`: those that nobody used for a
/// week, and while the disk is nearly full the one that was used last the longest ago.
pub(super) fn sweep(caches: &Path, running: &HashSet<String>, now: SystemTime) -> Swept {
    sweep_while(caches, running, now, || is_nearly_full(caches))
}

fn sweep_while(
    caches: &Path,
    running: &HashSet<String>,
    now: SystemTime,
    is_full: impl Fn() -> bool,
) -> Swept {
    let mut swept = Swept::default();
    for (used, key) in unused(caches, running, now) {
        let is_old = now.duration_since(used).is_ok_and(|age| age >= KEPT);
        if !is_old && !is_full() {
            break;
        }
        match remove(&caches.join(&key)) {
            Ok(()) => swept.keys.push(key),
            Err(error) => crate::say(format_args!("{key}: its old cache stays: {error}")),
        }
    }
    swept
}

/// The volumes that have a cache and nobody who serves them, the longest unused first.
fn unused(caches: &Path, running: &HashSet<String>, now: SystemTime) -> Vec<(SystemTime, String)> {
    let mut unused = Vec::new();
    for entry in fs::read_dir(caches).into_iter().flatten().flatten() {
        let Ok(key) = entry.file_name().into_string() else { continue };
        let folder = entry.path();
        if running.contains(&key) {
            // The time of the folder says when its volume was served last.
            let _ = fs::File::open(&folder).and_then(|folder| folder.set_modified(now));
        } else if [CACHE, GONE].iter().any(|name| is_folder(&folder.join(name))) {
            let used = entry.metadata().and_then(|metadata| metadata.modified());
            unused.extend(used.ok().map(|used| (used, key)));
        }
    }
    unused.sort();
    unused
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn remove(volume: &Path) -> io::Result<()> {
    let (cache, gone): (PathBuf, PathBuf) = (volume.join(CACHE), volume.join(GONE));
    // Of a removal that was cut off.
    if is_folder(&gone) {
        fs::remove_dir_all(&gone)?;
    }
    // Aside first: a volume that starts now finds no cache, and never half of one.
    match fs::rename(&cache, &gone) {
        Ok(()) => fs::remove_dir_all(&gone),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_nearly_full(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|disk| disk.blocks_available() < disk.blocks() / FREE_SHARE)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use s3pod::clock::Clock;

    use super::*;

    /// A volume's folder with a cache and a journal, used so long before `now`.
    fn volume(caches: &Path, key: &str, now: SystemTime, age: Duration) {
        let folder = caches.join(key);
        fs::create_dir_all(folder.join("cache/v1")).unwrap();
        fs::write(folder.join("cache/v1/block"), b"bytes").unwrap();
        fs::create_dir_all(folder.join("journal/a/0")).unwrap();
        fs::write(folder.join("journal/a/0/log"), b"intent").unwrap();
        fs::File::open(folder).unwrap().set_modified(now - age).unwrap();
    }

    fn has_cache(caches: &Path, key: &str) -> bool {
        assert!(caches.join(key).join("journal/a/0/log").exists(), "{key}");
        assert!(!caches.join(key).join(GONE).exists(), "{key}");
        caches.join(key).join("cache/v1/block").exists()
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_cache_goes_a_week_after_its_volume_and_its_journal_stays() {
        let (caches, now) = (tempfile::tempdir().unwrap(), Clock::system().wall());
        volume(caches.path(), "old", now, 8 * DAY);
        volume(caches.path(), "new", now, 6 * DAY);
        volume(caches.path(), "served", now, 30 * DAY);
        let running = HashSet::from(["served".to_owned()]);
        let swept = sweep_while(caches.path(), &running, now, || false);
        assert_eq!(swept.keys, ["old"]);
        let left = ["old", "new", "served"].map(|key| has_cache(caches.path(), key));
        assert_eq!(left, [false, true, true]);
        let swept = sweep_while(caches.path(), &HashSet::new(), now + 2 * DAY, || false);
        assert_eq!(swept.keys, ["new"], "being served was a use");
    }

    #[test]
    fn a_disk_that_is_nearly_full_gets_room_from_the_longest_unused() {
        let (caches, now) = (tempfile::tempdir().unwrap(), Clock::system().wall());
        for (key, days) in [("a", 1), ("b", 3), ("c", 2)] {
            volume(caches.path(), key, now, days * DAY);
        }
        let rounds = Cell::new(0);
        let is_full = || rounds.replace(rounds.get() + 1) < 2;
        let swept = sweep_while(caches.path(), &HashSet::new(), now, is_full);
        assert_eq!(swept.keys, ["b", "c"]);
        assert!(has_cache(caches.path(), "a"));
    }

    #[test]
    fn a_removal_that_was_cut_off_is_finished() {
        let (caches, now) = (tempfile::tempdir().unwrap(), Clock::system().wall());
        volume(caches.path(), "a", now, 8 * DAY);
        fs::rename(caches.path().join("a/cache"), caches.path().join("a").join(GONE)).unwrap();
        fs::File::open(caches.path().join("a")).unwrap().set_modified(now - 8 * DAY).unwrap();
        assert_eq!(sweep_while(caches.path(), &HashSet::new(), now, || false).keys, ["a"]);
        assert!(!has_cache(caches.path(), "a"));
    }
}
