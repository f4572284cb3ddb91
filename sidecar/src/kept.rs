//! What a server keeps, and on which of the pod's disks.
//!
//! Owns the lines that are said at the start of what the pod's author may not have meant: nothing
//! is refused for it. Must not know what is kept.

use std::path::{Path, PathBuf};

use s3pod::config::{CacheDir, Host, Options, journal_folder};
use s3pod::mount::ephemeral::is_empty_dir;
use s3pod::mount::mountinfo::{self, MountInfo};

/// Says what a restart would cost of what the server keeps, and what would end the pod.
pub(super) fn say(asked: &Options) {
    // Without the table nothing is known, and nothing said.
    let mounts = mountinfo::read().unwrap_or_default();
    lines_of(&mounts, asked).into_iter().for_each(crate::say);
}

fn lines_of(mounts: &[MountInfo], asked: &Options) -> Vec<String> {
    let cache = cache(asked);
    let journal = asked.local.journal_dir.clone().or_else(|| cache.clone());
    let lost = journal.and_then(|folder| why_lost(mounts, &folder));
    let is_bounded = asked.operator.disk_limit.is_some() || asked.operator.cache_size.is_some();
    let cache = cache.filter(|_| !is_bounded);
    let evicted = cache.and_then(|folder| why_evicted(mounts, &folder));
    lost.into_iter().chain(evicted).collect()
}

/// The folder with what was read, and with the journal where nobody said otherwise.
fn cache(asked: &Options) -> Option<PathBuf> {
    match &asked.local.cache_dir {
        Some(CacheDir::At(folder)) => Some(folder.clone()),
        Some(CacheDir::None) => None,
        // Nobody named any, the environment included: the default.
        None if asked.local.journal_dir.is_none() => journal_folder(None, &Host::read()).ok(),
        None => None,
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

/// The file system shows the node's disk, not the volume's limit, and nothing but the pod's spec
/// knows whether there is one.
fn why_evicted(mounts: &[MountInfo], folder: &Path) -> Option<String> {
    is_empty_dir(mountinfo::around(mounts, folder)?).then(|| {
        format!(
            "{} is an emptyDir, and nothing says how much of it may be filled: kubelet evicts a \
             pod whose volume exceeds its sizeLimit; say the same to the server, as in env: \
             {{name: S3POD_DISK_LIMIT, value: 10Gi}}",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3pod::config::find;

    const TABLE: &[u8] = b"\
22 1 0:60 / / rw - overlay overlay rw\n\
30 22 254:0 /pods/u/volumes/kubernetes.io~empty-dir/c /cache rw - ext4 /dev/vda rw\n\
31 22 0:61 / /memory rw - tmpfs tmpfs rw\n";

    #[test]
    fn a_folder_that_is_on_no_volume_is_named_with_the_line_to_add() {
        let mounts = mountinfo::read_table(TABLE);
        let said = why_lost(&mounts, Path::new("/var/cache/s3pod")).unwrap();
        assert!(said.starts_with("/var/cache/s3pod is on the container's own"), "{said}");
        assert!(said.contains("mountPath: /cache"), "{said}");
        assert_eq!(why_lost(&mounts, Path::new("/cache/s3pod")), None);
    }

    /// Of what is said where these are the options: the folder, and what may befall it.
    fn lines(words: &[(&str, &str)]) -> Vec<String> {
        let mut asked = Options::default();
        for (flag, text) in words {
            asked.set(find(flag).unwrap(), text).unwrap();
        }
        let brief = |line: String| {
            let folder = line.split(' ').next().unwrap();
            format!("{folder} {}", if line.contains("evicts") { "evicted" } else { "lost" })
        };
        lines_of(&mountinfo::read_table(TABLE), &asked).into_iter().map(brief).collect()
    }

    #[test]
    fn a_cache_that_may_outgrow_its_volume_is_named_unless_somebody_bounded_it() {
        let evicted = ["/cache evicted"];
        assert_eq!(lines(&[("cache-dir", "/cache")]), evicted);
        assert_eq!(lines(&[("cache-dir", "/cache"), ("staging-size", "1GiB")]), evicted);
        for bound in [("disk-limit", "10Gi"), ("cache-size", "1GiB")] {
            assert!(lines(&[("cache-dir", "/cache"), bound]).is_empty(), "{bound:?}");
        }
        let said = why_evicted(&mountinfo::read_table(TABLE), Path::new("/cache")).unwrap();
        assert!(said.contains("S3POD_DISK_LIMIT") && said.contains("evicts"), "{said}");
        assert!(lines(&[("cache-dir", "/memory")]).is_empty(), "its size is its limit");
    }

    #[test]
    fn the_folder_is_the_journals_or_the_caches_or_the_default() {
        let both = [("journal-dir", "/journal"), ("cache-dir", "/memory")];
        assert_eq!(lines(&both), ["/journal lost"]);
        assert_eq!(lines(&[("cache-dir", "/elsewhere")]), ["/elsewhere lost"]);
        assert!(lines(&[("cache-dir", "none")]).is_empty());
        assert!(lines(&[]).iter().any(|line| line.ends_with("s3pod lost")));
    }
}
