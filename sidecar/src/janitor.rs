//! `s3pod-sidecar janitor DIR`: no mount outlives the pod.
//!
//! A second, tiny sidecar, listed first and so ended last. Kubelet removes an emptyDir with a
//! recursive delete: through a mount that is alive it would delete the bucket's objects, and at a
//! dead one it fails for ever, with the pod in Terminating. Owns the end of every FUSE mount below
//! the shared directory. Promises: it needs no answer from any server; none of those mounts is
//! left when it ends, short of being killed, and none is made after that. Must not know what is
//! mounted there.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SigSet, Signal};
use s3pod::clock::Clock;
use s3pod::mount::Failure;
use s3pod::mount::admin::{Place, ask};
use s3pod::mount::mountinfo::{self, MountInfo};

use crate::ending;

/// The subcommand's name.
pub(super) const NAME: &str = "janitor";

const DIRECTORY: &str = "DIR";

/// How often it looks.
const POLL: Duration = Duration::from_millis(100);

/// From then on a mount goes even if its server lives. Where the grace period is over, kubelet
/// gives every sidecar 2 s at once and then SIGKILL; half a second is for the unmounts.
const SERVERS_PATIENCE: Duration = Duration::from_millis(1500);

/// A server that lives answers at once; one that is stopped must not hold up the look at others.
const ANSWER_PATIENCE: Duration = Duration::from_millis(50);

/// Looks after [`SERVERS_PATIENCE`] without an end: a mount that cannot be unmounted will not be.
const FORCED_LOOKS_MAX: u32 = 50;

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Wait for SIGTERM, then see to it that no mount is left in the shared directory")
        .arg(
            Arg::new(DIRECTORY)
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Where the shared volume is mounted, with mountPropagation: Bidirectional"),
        )
}

/// Waits for the signal, then cleans up.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let directory = matches.get_one::<PathBuf>(DIRECTORY).cloned().unwrap_or_default();
    let directory: PathBuf = directory.components().collect();
    // Before the first look, so that no signal is lost; process 1 has no default actions.
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    ends.thread_block().map_err(|errno| Failure::passing(errno.to_string()))?;
    check(&directory)?;
    say_if_failed(&directory, ending::reopen(&directory));
    let attending = say_if_failed(&directory, ending::attend(&directory));
    ends.wait().map_err(|errno| Failure::passing(errno.to_string()))?;
    // From here on nobody is started anew: a server that is told to end now unmounts by itself.
    drop(attending);
    clean_up(&directory)
}

/// Refuses a directory whose mounts it could not take from the other containers.
fn check(directory: &Path) -> Result<(), Failure> {
    let mounts = mountinfo::read().map_err(|error| crate::no_table(&error))?;
    match mountinfo::topmost(&mounts, directory) {
        Some(mount) if mount.is_shared => Ok(()),
        _ => Err(Failure::configuration(format!(
            "{0} is no shared volume; this container needs it in its volumeMounts: {{name: s3, \
             mountPath: {0}, mountPropagation: Bidirectional}}, and securityContext: \
             {{privileged: true}}",
            directory.display()
        ))),
    }
}

fn clean_up(directory: &Path) -> Result<(), Failure> {
    let clock = Clock::system();
    let begin = clock.now();
    let (mut forced, mut is_closed) = (0, false);
    loop {
        // First: what a server that lives may still mount would not be in the table yet.
        is_closed = is_closed || say_if_failed(directory, ending::close(directory)).unwrap_or(true);
        let mounts = mountinfo::read().map_err(|error| crate::no_table(&error))?;
        let left = below(&mounts, directory);
        let is_clean = left.is_empty();
        if is_clean && is_closed {
            return Ok(());
        }
        // By the clock: the questions take time too.
        let is_late = clock.now() >= begin + SERVERS_PATIENCE;
        for mount in left {
            if is_late {
                force(mount);
            } else if is_dead(mount) {
                detach(mount, "its server has gone; unmounted");
            }
        }
        forced += u32::from(is_late);
        if forced > FORCED_LOOKS_MAX {
            let shown = directory.display();
            let left = || Failure::passing(format!("mounts are left below {shown}"));
            return if is_clean { Ok(()) } else { Err(left()) };
        }
        std::thread::sleep(POLL);
    }
}

/// Without the lock it is as if no server lived.
fn say_if_failed<T>(directory: &Path, done: io::Result<T>) -> Option<T> {
    done.inspect_err(|error| crate::say(format_args!("{}: {error}", directory.display()))).ok()
}

/// The FUSE mounts at or below the directory, what was mounted last first: of several at one
/// place, only the topmost can be unmounted.
fn below<'a>(mounts: &'a [MountInfo], directory: &Path) -> Vec<&'a MountInfo> {
    let is_ours = |mount: &&MountInfo| mount.is_fuse() && mount.point.starts_with(directory);
    mounts.iter().filter(is_ours).rev().collect()
}

/// True where nobody serves it any more, which is known without touching it: its server listens
/// on a socket that goes with it. Of other FUSE mounts nothing is known.
fn is_dead(mount: &MountInfo) -> bool {
    let asked = || ask(&Place::Mount(mount.device), "GET", "/healthz", ANSWER_PATIENCE);
    mount.kind == mountinfo::FS_TYPE
        && asked().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Aborts the connection, which wakes everybody who waits in it, and takes the mount away. The
/// server reads ENODEV and goes on with its uploads until it is killed.
fn force(mount: &MountInfo) {
    let done = "unmounted by force";
    match umount2(&mount.point, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => crate::say(format_args!("{}: {done}", mount.point.display())),
        // Busy: aborted all the same.
        Err(_) => detach(mount, done),
    }
}

fn detach(mount: &MountInfo, done: &str) {
    let shown = mount.point.display();
    match umount2(&mount.point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => crate::say(format_args!("{shown}: {done}")),
        // Gone meanwhile.
        Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => crate::say(format_args!("{shown} cannot be unmounted: {}", errno.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fuse_mounts_in_the_shared_directory_are_its_business_topmost_first() {
        let mounts = mountinfo::read_table(
            b"\
22 1 254:0 / / rw - ext4 /dev/vda rw\n\
30 22 254:0 /v /s3 rw shared:5 - ext4 /dev/vda rw\n\
33 30 0:51 / /s3/data rw shared:8 - fuse.s3pod bucket rw\n\
34 33 0:52 / /s3/data rw shared:9 - fuse.s3pod bucket rw\n\
35 30 0:53 / /s3/tmp rw shared:9 - tmpfs none rw\n\
36 22 0:54 / /s3x rw shared:9 - fuse.s3pod bucket rw\n",
        );
        let ids: Vec<u64> = below(&mounts, Path::new("/s3")).iter().map(|mount| mount.id).collect();
        assert_eq!(ids, [34, 33]);
    }

    #[test]
    fn a_directory_that_is_no_shared_volume_is_refused_with_the_line_to_add() {
        let folder = tempfile::tempdir().unwrap();
        let said = check(folder.path()).unwrap_err().to_string();
        assert!(said.contains("mountPropagation: Bidirectional"), "{said}");
    }
}
