//! `s3pod health --mounted DIR`, for probes.
//!
//! Owns the question whether a mount is alive, and its exit code. Promises: it never touches the
//! mount's path, which could hang; it starts no runtime and links in no request to the store; it
//! ends within a second. Must not know how the mount works.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::mount::admin::{self, Place, ask};
use crate::mount::mountinfo::{self, MountInfo};

use super::say;

/// The subcommand's name.
pub(super) const NAME: &str = "health";

const MOUNTED: &str = "mounted";
const SERVED: &str = "served";
const BACKEND: &str = "backend";

/// A mount that lives answers within a millisecond; a probe of a kubelet waits a second.
const PATIENCE: Duration = Duration::from_secs(1);

/// With the store: it gets 3 s, and a moment to say so.
const BACKEND_PATIENCE: Duration = Duration::from_secs(4);

const NOTES: &str = "\
As a probe of a container:
  startupProbe:
    exec: {command: [/s3pod, health, --mounted, /s3/data]}

It looks at the table of mounts and asks the server of the mount, never the mount itself, so that
it cannot hang. The store plays no part unless --backend is given: an outage of S3 would otherwise
take every replica out of its Service at once.

Exit code: 0 healthy; 1 not, and why on standard error.";

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Ask whether a mount is alive, without touching it")
        .after_help(NOTES)
        .arg(
            Arg::new(MOUNTED)
                .long(MOUNTED)
                .value_name("DIR")
                .required_unless_present(SERVED)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Where the bucket is mounted"),
        )
        .arg(
            Arg::new(SERVED)
                .long(SERVED)
                .value_name("SOCKET")
                .conflicts_with(MOUNTED)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The socket of `s3pod serve`, for a mount that cannot be seen from here"),
        )
        .arg(
            Arg::new(BACKEND)
                .long(BACKEND)
                .action(ArgAction::SetTrue)
                .help("Ask the store too: with it, the probe needs timeoutSeconds: 5"),
        )
}

/// Does what `matches` say.
pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let path = |name| matches.get_one::<PathBuf>(name).cloned();
    let (shown, place) = match (path(MOUNTED), path(SERVED)) {
        (None, Some(socket)) => {
            let beside = admin::path_beside(&socket);
            (socket, Ok(Place::Socket(beside)))
        }
        (directory, _) => {
            let directory = directory.unwrap_or_default();
            let place = place_of(&directory);
            (directory, place)
        }
    };
    match place.and_then(|place| look(&place, matches.get_flag(BACKEND))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format_args!("{}: {why}", shown.display()));
            ExitCode::FAILURE
        }
    }
}

fn place_of(directory: &Path) -> Result<Place, String> {
    let mounts = mountinfo::read().map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    find(&mounts, directory)
        .map(|mount| Place::Mount(mount.device))
        .ok_or_else(|| "no bucket of s3pod is mounted there".to_owned())
}

fn look(place: &Place, with_backend: bool) -> Result<(), String> {
    let (path, patience) =
        if with_backend { ("/readyz?backend", BACKEND_PATIENCE) } else { ("/readyz", PATIENCE) };
    match ask(place, "GET", path, patience) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.text),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err("the mount is dead: its server has gone (or is in another network namespace)"
                .to_owned())
        }
        Err(error) => Err(format!("its server does not answer: {error}")),
    }
}

/// The bucket mounted on `directory`. The directory is never looked at; its parent is, where the
/// name as typed is not in the table.
fn find<'a>(mounts: &'a [MountInfo], directory: &Path) -> Option<&'a MountInfo> {
    let typed = std::path::absolute(directory).ok()?;
    let ours = |path: &Path| {
        mountinfo::topmost(mounts, path).filter(|mount| mount.kind == mountinfo::FS_TYPE)
    };
    // Components alone: no trailing slash, no `.`.
    let plain: PathBuf = typed.components().collect();
    ours(&plain).or_else(|| {
        let parent = plain.parent()?.canonicalize().ok()?;
        ours(&parent.join(plain.file_name()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_of_ours_is_mounted_it_says_so() {
        for directory in ["/", "/proc", "/nonexistent/below"] {
            let said = place_of(Path::new(directory)).unwrap_err();
            assert!(said.contains("no bucket"), "{said}");
        }
    }
}
