//! `s3pod serve BUCKET SOCKET`: serve a mount that somebody else makes.
//!
//! Owns the way from what was typed to a server that waits for its mount. Promises: it needs no
//! privileges, whatever user it runs as. Must not know who hands mounts over.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::{fail, resolve, start_log};
use crate::config::serve_command;

/// The subcommand's name.
pub(super) const NAME: &str = "serve";

const VOLUME: &str = "volume";

/// The subcommand.
pub(super) fn command() -> Command {
    serve_command(Command::new(NAME))
        .about("Serve a mount whose descriptor comes over a unix socket")
        .override_usage("s3pod serve [OPTIONS] BUCKET SOCKET")
        .arg(
            Arg::new(VOLUME)
                .long(VOLUME)
                .value_name("KEY")
                .help("Take this volume's mount and no other"),
        )
}

/// Serves what is handed over.
pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let config = match resolve(matches) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let log = match start_log(&config) {
        Ok(log) => log,
        Err(code) => return code,
    };
    match crate::mount::serve_handed(&config, matches.get_one::<String>(VOLUME).cloned(), log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}
