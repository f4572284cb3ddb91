//! What the table of mounts says of volumes, where nothing else does.
//!
//! Owns the reading of own mounts and targets out of the table. Promises: pure; whatever of a
//! key's file systems shows at a whole is a target. Must not know what was written down, nor the
//! names of volumes, which stand in no table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use s3pod::mount::mountinfo::{FS_TYPE, MountInfo};

use super::places::Places;
use super::state::{Mount, Target};

/// The mounts of this driver, by their keys.
pub(super) fn read(table: &[MountInfo], places: &Places) -> BTreeMap<String, Mount> {
    let mut found: BTreeMap<String, Mount> = BTreeMap::new();
    let mut devices: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for mount in table.iter().filter(|mount| mount.kind == FS_TYPE) {
        let Some((key, generation)) = places.read_own(&mount.point) else { continue };
        let device = mount.device.to_string();
        devices.entry(key.to_owned()).or_default().insert(device.clone());
        let known = found.entry(key.to_owned()).or_default();
        if generation >= known.generation {
            known.generation = generation;
            known.device = device;
            known.bucket.clone_from(&mount.source);
        }
    }
    for (key, mount) in &mut found {
        let shown = table.iter().filter(|one| devices[key].contains(&one.device.to_string()));
        let targets = shown.filter(|one| is_target(one, places));
        mount.targets = targets.map(|one| (one.point.clone(), Target::UNKNOWN)).collect();
    }
    found
}

/// A bind of a folder in a volume is kubelet's own.
fn is_target(mount: &MountInfo, places: &Places) -> bool {
    let is_kubelets = places.kubelet().is_none_or(|folder| mount.point.starts_with(folder));
    is_kubelets && mount.root == Path::new("/") && !mount.point.starts_with(places.state())
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3pod::mount::mountinfo;
    use std::path::PathBuf;

    #[test]
    fn the_last_own_mount_of_each_key_is_found_with_every_place_that_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let kubelet = root.join("k");
        std::fs::create_dir(&kubelet).unwrap();
        let places = Places::new(&kubelet.join("s"), Some(kubelet.as_path())).unwrap();
        let table = "\
30 22 0:51 / R/k/s/mounts/one.9 rw - fuse.s3pod old rw\n\
31 22 0:52 / R/k/s/mounts/one.10 rw - fuse.s3pod bucket rw\n\
32 22 0:51 / R/k/pods/1/mount rw - fuse.s3pod old rw\n\
33 22 0:52 / R/k/pods/2/mount rw - fuse.s3pod bucket rw\n\
34 22 0:52 /sub R/k/pods/2/volume-subpaths/v/c/0 rw - fuse.s3pod bucket rw\n\
35 22 0:52 / R/elsewhere rw - fuse.s3pod bucket rw\n\
36 22 0:60 / R/k/s/mounts/two.1 rw - ext4 /dev/vda rw\n\
37 22 0:61 / R/k/s/mounts/noise rw - fuse.s3pod bucket rw\n"
            .replace('R', root.to_str().unwrap());
        let found = read(&mountinfo::read_table(table.as_bytes()), &places);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["one"]);
        let one = &found["one"];
        let known = (one.generation, one.device.as_str(), one.bucket.as_str());
        assert_eq!(known, (10, "0:52", "bucket"));
        let shown: Vec<PathBuf> = one.targets.keys().cloned().collect();
        assert_eq!(shown, ["pods/1/mount", "pods/2/mount"].map(|path| kubelet.join(path)));
        assert!(one.is_of("any") && one.volume.is_empty());
    }
}
