//! The directory that a bucket shall appear in.
//!
//! Owns the checks before anything is mounted, and the sentences that name cause and remedy.
//! Promises: a mount that hangs or is dead never hangs this. Must not mount anything.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;

use super::failure::Failure;
use super::mountinfo::{self, MountInfo};

/// How long a mounted file system gets to answer a stat: a live one needs microseconds.
const STAT_PATIENCE: Duration = Duration::from_secs(5);

/// What is allowed besides an empty directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    /// `--nonempty`: the directory's own files are hidden while the bucket is mounted.
    pub(super) nonempty: bool,
    /// `--replace-stale`: a dead FUSE mount is mounted over.
    pub(super) stale: bool,
}

/// Checks that `directory` can be mounted on; its path without symlinks.
pub(super) fn check(directory: &Path, allowed: Allowed) -> Result<PathBuf, Failure> {
    let shown = directory.display();
    let point = resolve(directory).map_err(|error| cannot_be_used(directory, &error))?;
    let mounts = mountinfo::read()
        .map_err(|error| Failure::passing(format!("/proc/self/mountinfo: {error}")))?;
    let above = mountinfo::topmost(&mounts, &point).filter(|mount| mount.is_fuse());
    match stat(&point) {
        Err(Silence::Dead) if allowed.stale => return Ok(point),
        Err(Silence::Dead) => return Err(dead(&point)),
        Err(Silence::Hangs) => {
            return Err(Failure::passing(format!(
                "{shown} does not answer: a file system that hangs is mounted there; unmount it \
                 with `umount -l {shown}`"
            )));
        }
        Err(Silence::Other(error)) => return Err(cannot_be_used(directory, &error)),
        Ok(_) if above.is_some() => return Err(taken(&point, above)),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Failure::configuration(format!(
                "{shown} is not a directory; a bucket is mounted on an empty directory"
            )));
        }
        Ok(_) => {}
    }
    if !allowed.nonempty && !is_empty(&point)? {
        return Err(Failure::configuration(format!(
            "{shown} is not empty, and its files would be hidden; choose an empty directory or \
             pass --nonempty"
        )));
    }
    Ok(point)
}

/// The path without symlinks. A dead mount answers nothing about itself, but its parent does.
fn resolve(directory: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(directory)?;
    match (absolute.canonicalize(), absolute.parent(), absolute.file_name()) {
        (Err(error), Some(parent), Some(name)) if is_disconnected(&error) => {
            Ok(parent.canonicalize()?.join(name))
        }
        (resolved, _, _) => resolved,
    }
}

/// Why a stat has no good answer.
enum Silence {
    /// The file system's server is gone.
    Dead,
    /// It does not answer.
    Hangs,
    /// Anything else.
    Other(io::Error),
}

/// A stat that cannot hang, since it runs on a thread of its own, which a hung file system keeps;
/// and that cannot be answered from the kernel's cache, since a dead mount's root is often still
/// in it: a statfs always asks the server.
fn stat(point: &Path) -> Result<Metadata, Silence> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = point.to_owned();
    std::thread::spawn(move || {
        // Nobody may be listening any more, which is fine.
        let asked = nix::sys::statvfs::statvfs(&path).map_err(io::Error::from);
        let _ = sender.send(asked.and_then(|_| std::fs::metadata(&path)));
    });
    match receiver.recv_timeout(STAT_PATIENCE) {
        Ok(Ok(metadata)) => Ok(metadata),
        Ok(Err(error)) if is_disconnected(&error) => Err(Silence::Dead),
        Ok(Err(error)) => Err(Silence::Other(error)),
        Err(_) => Err(Silence::Hangs),
    }
}

/// ENOTCONN once the server has gone, ECONNABORTED where its connection was aborted.
fn is_disconnected(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    errno == Some(Errno::ENOTCONN as i32) || errno == Some(Errno::ECONNABORTED as i32)
}

fn is_empty(point: &Path) -> Result<bool, Failure> {
    let mut entries = point.read_dir().map_err(|error| cannot_be_used(point, &error))?;
    Ok(entries.next().is_none())
}

fn dead(point: &Path) -> Failure {
    let shown = point.display();
    Failure::passing(format!(
        "{shown} is a dead FUSE mount (\"Transport endpoint is not connected\"): its server has \
         gone; unmount it with `umount -l {shown}`, or pass --replace-stale to mount over it"
    ))
}

fn taken(point: &Path, above: Option<&MountInfo>) -> Failure {
    let shown = point.display();
    let (source, kind) =
        above.map_or(("something", "fuse"), |mount| (mount.source.as_str(), mount.kind.as_str()));
    let what = if kind == mountinfo::FS_TYPE {
        format!("the bucket {source} is mounted there already")
    } else {
        format!("{source} ({kind}) is mounted there already")
    };
    Failure::passing(format!(
        "{shown}: {what}; unmount it with `umount {shown}`, or choose another directory"
    ))
}

fn cannot_be_used(directory: &Path, error: &io::Error) -> Failure {
    let shown = directory.display();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::configuration(format!(
            "{shown} does not exist; create it with `mkdir -p {shown}`"
        )),
        io::ErrorKind::NotADirectory => {
            Failure::configuration(format!("{shown}: a part of this path is not a directory"))
        }
        io::ErrorKind::PermissionDenied => Failure::configuration(format!(
            "{shown} may not be looked at by this user; choose a directory of your own"
        )),
        _ => Failure::passing(format!("{shown} cannot be used: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn said(directory: &Path, allowed: Allowed) -> (String, u8) {
        let failure = check(directory, allowed).unwrap_err();
        (failure.to_string(), failure.exit_code())
    }

    #[test]
    fn an_empty_directory_is_taken_by_its_true_path() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = folder.path().join("link");
        symlink(&real, &link).unwrap();
        assert_eq!(check(&link, Allowed::default()), Ok(real));
    }

    #[test]
    fn what_is_no_empty_directory_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let (text, code) = said(&missing, Allowed::default());
        assert!(text.contains("mkdir -p") && code == 78, "{text}");

        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let (text, code) = said(&file, Allowed::default());
        assert!(text.contains("not a directory") && code == 78, "{text}");
        let (text, _) = said(&file.join("below"), Allowed::default());
        assert!(text.contains("not a directory"), "{text}");

        let (text, code) = said(folder.path(), Allowed::default());
        assert!(text.contains("--nonempty") && code == 78, "{text}");
        let nonempty = Allowed { nonempty: true, stale: false };
        assert!(check(folder.path(), nonempty).is_ok());
    }
}
