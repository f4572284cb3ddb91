//! What a server keeps, and on which of the pod's disks.
//!
//! Owns the lines that are said at the start of what the pod's author may not have meant: nothing
//! is refused for it. Must not know what is kept.

use std::path::{Path, PathBuf};

use s3pod::config::{CacheDir, Host, Options, journal_folder};
use s3pod::mount::mountinfo::{self, MountInfo};

/// Says what a restart would cost of what the server keeps.
pub(super) fn say(asked: &Options) {
    // Without the table nothing is known, and nothing said.
    let mounts = mountinfo::read().unwrap_or_default();
    if let Some(line) = folder(asked).and_then(|folder| why_lost(&mounts, &folder)) {
        crate::say(line);
    }
}

/// The folder with the journal, and with the cache where nobody said otherwise.
fn folder(asked: &Options) -> Option<PathBuf> {
    match (&asked.local.journal_dir, &asked.local.cache_dir) {
        (Some(journal), _) => Some(journal.clone()),
        (None, Some(CacheDir::At(cache))) => Some(cache.clone()),
        (None, Some(CacheDir::None)) => None,
        // Nobody named one, the environment included.
        (None, None) => journal_folder(None, &Host::read()).ok(),
    }
}

fn why_lost(mounts: &[MountInfo], folder: &Path) -> Option<String> {
    let is_own = mountinfo::around(mounts, folder)?.point == Path::new("/");
    is_own.then(|| {
        format!(
            "{} is on the container's own file system: what is journaled there is lost when the \
             container restarts; mount a volume, like {{name: cache, mountPath: /cache}}, and let \
             S3POD_CACHE_DIR be /cache",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 0:60 / / rw - overlay overlay rw\n\
30 22 254:0 /pods/u/volumes/kubernetes.io~empty-dir/c /cache rw - ext4 /dev/vda rw\n";

    #[test]
    fn a_folder_that_is_on_no_volume_is_named_with_the_line_to_add() {
        let mounts = mountinfo::read_table(TABLE);
        let said = why_lost(&mounts, Path::new("/var/cache/s3pod")).unwrap();
        assert!(said.starts_with("/var/cache/s3pod is on the container's own"), "{said}");
        assert!(said.contains("mountPath: /cache"), "{said}");
        assert_eq!(why_lost(&mounts, Path::new("/cache/s3pod")), None);
    }

    #[test]
    fn the_folder_is_the_journals_or_the_caches_or_the_default() {
        let asked = |journal: Option<&str>, cache: Option<CacheDir>| {
            let mut asked = Options::default();
            asked.local.journal_dir = journal.map(PathBuf::from);
            asked.local.cache_dir = cache;
            folder(&asked)
        };
        let cache = || Some(CacheDir::At(PathBuf::from("/cache")));
        assert_eq!(asked(Some("/journal"), cache()), Some(PathBuf::from("/journal")));
        assert_eq!(asked(None, cache()), Some(PathBuf::from("/cache")));
        assert_eq!(asked(None, Some(CacheDir::None)), None);
        assert!(asked(None, None).is_some_and(|folder| folder.ends_with("s3pod")));
    }
}
