//! Whether the journal's folder outlives the pod.
//!
//! Owns the refusal of `--write-back` where the journal would go with the pod, or sooner: on an
//! emptyDir, in memory, or on what a container writes over its image; and how an emptyDir is known.
//! Must not know what the journal holds.

use std::path::Path;

use super::failure::Failure;
use super::mountinfo::{self, MountInfo};
use crate::config::Config;

/// The folder under which kubelet keeps emptyDir volumes; it shows in the root of their mounts.
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";

/// What a container writes over its image: a restart of the container begins with another one.
const OVER_AN_IMAGE: &str = "overlay";

/// Refuses a journal that could not keep what it promises, unless that was accepted by name.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    let Some(folder) = config.journal_dir.as_ref().filter(|_| config.write_back) else {
        return Ok(());
    };
    let mounts = mountinfo::read().map_err(|error| Failure::passing(error.to_string()))?;
    match why_ephemeral(&mounts, folder) {
        Some(why) if !config.write_back_ephemeral => Err(Failure::configuration(format!(
            "--write-back: {} is {why}, so what close() promised would go with the pod or its \
             container; put --journal-dir on a volume that outlives both (a PVC, a hostPath), or \
             accept the loss with --write-back-ephemeral",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// Whether a mount is, or lies in, an emptyDir on the node's disk; one in memory is a tmpfs.
pub fn is_empty_dir(mount: &MountInfo) -> bool {
    mount.root.components().any(|part| part.as_os_str() == EMPTY_DIR)
}

fn why_ephemeral(mounts: &[MountInfo], folder: &Path) -> Option<&'static str> {
    let mount = mountinfo::around(mounts, folder)?;
    if is_empty_dir(mount) {
        return Some("an emptyDir");
    }
    match mount.kind.as_str() {
        "tmpfs" | "ramfs" => Some("in memory (tmpfs)"),
        OVER_AN_IMAGE => Some("on the container's own file system"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw - ext4 /dev/vda rw\n\
30 22 254:0 /pods/u/volumes/kubernetes.io~empty-dir/c /cache rw - ext4 /dev/vda rw\n\
31 22 0:40 / /memory rw - tmpfs tmpfs rw\n\
32 31 254:1 / /memory/disk rw - ext4 /dev/vdb rw\n";

    #[test]
    fn a_folder_that_goes_with_the_pod_is_known_by_its_mount() {
        let mounts = mountinfo::read_table(TABLE);
        let why = |folder: &str| why_ephemeral(&mounts, Path::new(folder));
        assert_eq!(why("/cache/s3pod"), Some("an emptyDir"));
        assert_eq!(why("/memory/s3pod"), Some("in memory (tmpfs)"));
        assert_eq!(why("/memory/disk/s3pod"), None);
        assert_eq!(why("/cachelike"), None);
    }

    #[test]
    fn what_a_container_writes_over_its_image_goes_before_the_pod_does() {
        let mounts = mountinfo::read_table(
            b"22 1 0:60 / / rw - overlay overlay rw\n\
              30 22 254:0 /volumes/pvc /cache rw - ext4 /dev/vdb rw\n",
        );
        let why = |folder: &str| why_ephemeral(&mounts, Path::new(folder));
        assert_eq!(why("/var/cache/s3pod"), Some("on the container's own file system"));
        assert_eq!(why("/cache/s3pod"), None);
    }
}
