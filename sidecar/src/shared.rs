//! The directory that sidecar and application share: an emptyDir, mounted in both.
//!
//! Owns the checks that the mount can reach the application at all and that nothing else is kept
//! there, and the state of the directory beneath the mount. Promises: a message says which line of
//! the pod's spec is missing; a mount, dead or alive, is never unmounted here and never looked
//! into. Must not know what is mounted.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use s3pod::mount::Failure;
use s3pod::mount::mountinfo::{self, MountInfo};

use crate::ending;

/// Beneath the mount nobody may do anything: where the mount is missing, the application's writes
/// would land on the node's disk, unseen.
const BENEATH: u32 = 0o000;

/// The shared directory itself: kubelet makes an emptyDir 0777, and an application that may rename
/// or replace the mount's directory could send a privileged mount elsewhere.
const SHARED: u32 = 0o755;

/// Checks that what is mounted on `directory` will be seen by the pod's other containers and that
/// `folders`, by their flags, are elsewhere; makes the directory where it is missing. Gives the
/// mount point of the volume.
pub(super) fn prepare(directory: &Path, folders: &[(&str, &Path)]) -> Result<PathBuf, Failure> {
    let directory = plain(directory)?;
    let mounts = mountinfo::read().map_err(|error| crate::no_table(&error))?;
    let volume = check(&mounts, &directory)?;
    ending::begin(&volume)?;
    // On the mount itself, by its name: the server says that.
    for (flag, folder) in folders.iter().filter(|(_, folder)| !folder.starts_with(&directory)) {
        apart(&mounts, &volume, flag, folder)?;
    }
    // A failure is not fatal: another user may own it, and then the kubelet's mode stays.
    match fs::set_permissions(&volume, Permissions::from_mode(SHARED)) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            return Err(read_only(&volume));
        }
        Err(error) => {
            crate::say(format_args!("{}: its mode stays as it is: {error}", volume.display()));
        }
        Ok(()) => {}
    }
    if mountinfo::topmost(&mounts, &directory).is_some() {
        // Dead or alive: whoever mounts finds out.
        return Ok(volume);
    }
    make(&directory).map_err(|error| {
        Failure::passing(format!("{} cannot be made: {error}", directory.display()))
    })?;
    Ok(volume)
}

fn read_only(volume: &Path) -> Failure {
    Failure::configuration(format!(
        "{0} is mounted read-only in this container, so nothing can be mounted below it; remove \
         readOnly: true from the volumeMount with mountPath: {0} (it would not keep anybody from \
         writing to the bucket: --read-only does)",
        volume.display()
    ))
}

/// The path as it stands in the table of mounts.
fn plain(directory: &Path) -> Result<PathBuf, Failure> {
    let shown = directory.display();
    let absolute = std::path::absolute(directory)
        .map_err(|error| Failure::configuration(format!("{shown}: {error}")))?;
    if absolute.components().any(|part| part.as_os_str() == "..") {
        return Err(Failure::configuration(format!("{shown}: write the path without `..`")));
    }
    Ok(absolute.components().collect())
}

/// The mount point of the volume that `directory` is below.
fn check(mounts: &[MountInfo], directory: &Path) -> Result<PathBuf, Failure> {
    let shown = directory.display();
    let parent = directory.parent().unwrap_or(Path::new("/"));
    let is_volume = mountinfo::topmost(mounts, directory)
        .is_some_and(|mount| !mount.is_fuse() && mount.point == directory);
    if is_volume {
        return Err(Failure::configuration(format!(
            "{shown} is the volume itself; mount below it, like {shown}/data: only there a new \
             mount after a crash reaches the running application"
        )));
    }
    let volume = mountinfo::around(mounts, parent);
    let Some(volume) = volume.filter(|volume| volume.point != Path::new("/")) else {
        let parent = parent.display();
        return Err(Failure::configuration(format!(
            "{parent} is no volume, so no other container will see the bucket; add to this \
             container's volumeMounts: {{name: s3, mountPath: {parent}, mountPropagation: \
             Bidirectional}}, and to the pod's volumes: {{name: s3, emptyDir: {{sizeLimit: 1Mi}}}}"
        )));
    };
    let point = volume.point.display();
    if volume.is_fuse() {
        return Err(Failure::configuration(format!(
            "{shown} is below another FUSE mount ({point}); choose another directory"
        )));
    }
    if !volume.is_shared {
        return Err(Failure::configuration(format!(
            "{point} is not shared, so no other container will see the bucket; add to the \
             volumeMount with mountPath: {point} the line mountPropagation: Bidirectional (and to \
             this container securityContext: {{privileged: true}}, which it needs)"
        )));
    }
    Ok(volume.point.clone())
}

/// Refuses a folder on the shared volume, or on what is mounted there: by whatever name, since
/// kubelet may bind a volume twice and a link may lead there.
fn apart(mounts: &[MountInfo], volume: &Path, flag: &str, folder: &Path) -> Result<(), Failure> {
    let Some(place) = true_path(folder) else { return Ok(()) };
    let shared = mountinfo::topmost(mounts, volume).map(|mount| (mount.device, &mount.root));
    let Some(mount) = mountinfo::around(mounts, &place) else { return Ok(()) };
    let below = place.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    let is_on_volume = shared.is_some_and(|(device, root)| {
        device == mount.device && mount.root.join(below).starts_with(root)
    });
    let stands_there = |one: &&MountInfo| one.is_fuse() && one.point.starts_with(volume);
    let is_on_mount = mounts.iter().filter(stands_there).any(|one| one.device == mount.device);
    if !is_on_volume && !is_on_mount {
        return Ok(());
    }
    Err(Failure::configuration(format!(
        "{flag}: {} is on the volume that the mount is on ({}): that is only a mount point, of \
         sizeLimit: 1Mi, and what lies beneath the mount is hidden; add to this container's \
         volumeMounts: {{name: cache, mountPath: /cache}}, to the pod's volumes: {{name: cache, \
         emptyDir: {{sizeLimit: 10Gi}}}}, and let {flag} be /cache",
        folder.display(),
        volume.display()
    )))
}

/// Where a path leads, as far as it exists. A mount at its end is not asked anything.
fn true_path(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|above| {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(above, flags, Mode::empty()).ok()?;
        let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let rest = path.strip_prefix(above).ok()?;
        Some(fs::read_link(link).ok()?.join(rest))
    })
}

fn make(directory: &Path) -> io::Result<()> {
    let made = fs::DirBuilder::new().mode(BENEATH).create(directory);
    match made {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        let words = "there is something else in its place; remove it";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, words));
    }
    fs::set_permissions(directory, Permissions::from_mode(BENEATH))?;
    if fs::read_dir(directory)?.next().is_some() {
        crate::say(format_args!(
            "{}: files were written there while the bucket was not mounted; they are not in the \
             bucket, and hidden from here on",
            directory.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw - overlay overlay rw\n\
30 22 254:0 /pods/u/volumes/kubernetes.io~empty-dir/s3 /s3 rw shared:5 - ext4 /dev/vda rw\n\
31 22 254:0 /pods/u/volumes/kubernetes.io~empty-dir/t /private rw - ext4 /dev/vda rw\n\
32 22 0:50 / /other rw shared:7 - fuse.s3pod bucket rw\n\
33 30 0:51 / /s3/data rw shared:8 - fuse.s3pod bucket rw\n";

    fn said(directory: &str) -> String {
        check(&mountinfo::read_table(TABLE), Path::new(directory)).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_below_a_shared_volume_will_do_also_over_a_mount() {
        let mounts = mountinfo::read_table(TABLE);
        for directory in ["/s3/more", "/s3/data"] {
            assert_eq!(check(&mounts, Path::new(directory)), Ok(PathBuf::from("/s3")));
        }
    }

    #[test]
    fn what_would_not_be_seen_is_refused_with_the_line_to_add() {
        let text = said("/data/bucket");
        assert!(text.contains("mountPath: /data, mountPropagation: Bidirectional"), "{text}");
        let text = said("/private/data");
        assert!(text.contains("/private the line mountPropagation: Bidirectional"), "{text}");
        assert!(said("/s3").contains("/s3/data"), "{}", said("/s3"));
        assert!(said("/other/data").contains("another FUSE mount"), "{}", said("/other/data"));
        assert!(plain(Path::new("/s3/../etc")).unwrap_err().to_string().contains("`..`"));
    }

    #[test]
    fn what_is_kept_is_kept_elsewhere_by_whatever_name() {
        let mounts = mountinfo::read_table(
            b"\
22 1 254:0 / / rw - overlay overlay rw\n\
30 22 254:1 /pods/u/s3 /s3 rw shared:5 - ext4 /dev/vda rw\n\
31 22 254:1 /pods/u/s3 /again rw - ext4 /dev/vda rw\n\
32 22 254:1 /pods/u/cache /cache rw - ext4 /dev/vda rw\n\
33 30 0:51 / /s3/data rw shared:8 - fuse.s3pod bucket rw\n\
34 31 0:51 / /again/data rw - fuse.s3pod bucket rw\n",
        );
        let said = |folder: &str| {
            apart(&mounts, Path::new("/s3"), "--cache-dir", Path::new(folder))
                .map_err(|failure| failure.to_string())
        };
        for folder in ["/s3", "/s3/cache", "/s3/data/x", "/again/cache", "/again/data"] {
            let text = said(folder).unwrap_err();
            assert!(text.starts_with("--cache-dir: ") && text.contains("emptyDir"), "{text}");
        }
        for folder in ["/cache", "/cache/deep", "/elsewhere", "/s3x"] {
            assert_eq!(said(folder), Ok(()), "{folder}");
        }
    }

    #[test]
    fn a_path_is_known_by_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(true_path(&real.join("link/new/one")), Some(real.join("new/one")));
    }

    #[test]
    fn beneath_the_mount_nobody_may_do_anything() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("data");
        let mode = || fs::symlink_metadata(&directory).unwrap().permissions().mode() & 0o7777;
        make(&directory).unwrap();
        assert_eq!(mode(), 0);
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        make(&directory).unwrap();
        assert_eq!(mode(), 0);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(make(&link).is_err(), "a link would lead a privileged mount astray");
    }
}
