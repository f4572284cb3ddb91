//! `s3pod-sidecar drain-hint DIR`: a preStop hook that never makes anybody wait.
//!
//! Kubelet runs the preStop hooks of all containers when it begins to end a pod, and the sidecar
//! gets SIGTERM only after the application has ended. So this hook lets the uploads of open files
//! begin while the application is still shutting down. Owns nothing but the call. Promises: it
//! ends within a second, and successfully: a failed hook would be an alarming event about nothing
//! lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use s3pod::mount::Failure;
use s3pod::mount::admin::{self, Place, ask};
use s3pod::mount::mountinfo;

/// The subcommand's name.
pub(super) const NAME: &str = "drain-hint";

const DIRECTORY: &str = "DIR";

/// The grace period runs on while a hook does.
const PATIENCE: Duration = Duration::from_secs(1);

/// The subcommand.
pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("As a preStop hook: begin to upload what is open, while the application ends")
        .arg(
            Arg::new(DIRECTORY)
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Where the bucket is mounted, as in `run`, or the socket of `serve`"),
        )
}

/// Tells the server of the mount, and leaves.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let directory = matches.get_one::<PathBuf>(DIRECTORY).cloned().unwrap_or_default();
    if let Err(why) = hint(&directory) {
        crate::say(format_args!("{}: {why}", directory.display()));
    }
    Ok(())
}

fn hint(directory: &Path) -> Result<(), String> {
    let mounts = mountinfo::read().map_err(|error| error.to_string())?;
    let directory: PathBuf = directory.components().collect();
    let mount =
        mountinfo::topmost(&mounts, &directory).filter(|mount| mount.kind == mountinfo::FS_TYPE);
    let socket = admin::path_beside(&directory);
    let place = match mount {
        Some(mount) => Place::Mount(mount.device),
        None if socket.exists() => Place::Socket(socket),
        None => return Err("no bucket is mounted there".to_owned()),
    };
    match ask(&place, "POST", "/drain", PATIENCE) {
        Ok(answer) if answer.status == 202 => Ok(()),
        Ok(answer) => Err(answer.text),
        Err(error) => Err(error.to_string()),
    }
}
