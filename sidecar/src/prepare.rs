//! `s3pod-sidecar prepare DIR...`: folders of the node, for servers without privileges.
//!
//! Runs before the driver, as root, in a container that may change owners and nothing else. Owns
//! who the servers' folders belong to. Promises: each is there, belongs to the servers' user and
//! is for nobody else; what is in it stays as it is. Must not know what is kept there.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command};
use s3pod::mount::Failure;

/// The subcommand's name.
pub(super) const NAME: &str = "prepare";

const OWNER: &str = "owner";
const DIRECTORIES: &str = "DIR";

/// For its owner alone: caches and journals are bytes of people's files.
const MODE: u32 = 0o700;

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Make folders, or take those that are there, for the servers' user alone")
        .arg(
            Arg::new(OWNER)
                .long(OWNER)
                .value_name("UID")
                .default_value("65534")
                .value_parser(clap::value_parser!(u32))
                .help("The user, and the group, that the servers run as"),
        )
        .arg(
            Arg::new(DIRECTORIES)
                .required(true)
                .num_args(1..)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The folders, as hostPath volumes of this container"),
        )
}

/// Prepares every folder.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let owner = matches.get_one::<u32>(OWNER).copied().unwrap_or_default();
    for directory in matches.get_many::<PathBuf>(DIRECTORIES).into_iter().flatten() {
        prepare(directory, owner).map_err(|error| {
            Failure::configuration(format!(
                "{} cannot be given to the user {owner}: {error}; this container runs as root, \
                 with the capabilities CHOWN and FOWNER, on a file system that can be written to",
                directory.display()
            ))
        })?;
    }
    Ok(())
}

fn prepare(directory: &Path, owner: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(MODE).create(directory)?;
    let found = fs::metadata(directory)?;
    // The mode first: once it belongs to somebody else, that takes one capability more.
    if found.mode() & 0o7777 != MODE {
        fs::set_permissions(directory, Permissions::from_mode(MODE))?;
    }
    if (found.uid(), found.gid()) != (owner, owner) {
        chown(directory, Some(owner), Some(owner))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_the_servers_and_keeps_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("deep/new"), folder.path().join("old"));
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o1777)).unwrap();
        fs::write(old.join("block"), "bytes").unwrap();
        // Another owner takes root; the mode does not.
        let owner =
            if nix::unistd::geteuid().is_root() { 65534 } else { old.metadata().unwrap().uid() };
        let paths = [&new, &old].map(|path| path.to_str().unwrap());
        let typed = ["prepare", "--owner", &owner.to_string()].map(str::to_owned);
        let typed = typed.into_iter().chain(paths.map(str::to_owned));
        let matches = command().get_matches_from(typed);
        // Twice: a driver that restarts prepares them again.
        for _ in 0..2 {
            run(&matches).unwrap();
            for path in [&new, &old] {
                let found = fs::metadata(path).unwrap();
                assert_eq!((found.uid(), found.mode() & 0o7777), (owner, MODE), "{path:?}");
            }
        }
        assert_eq!(fs::read_to_string(old.join("block")).unwrap(), "bytes");
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let matches = command().get_matches_from(["prepare", path]);
        let said = run(&matches).unwrap_err().to_string();
        assert!(said.contains(path) && said.contains("CHOWN"), "{said}");
    }
}
