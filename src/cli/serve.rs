//! `s3pod serve BUCKET SOCKET`: serve a mount that somebody else makes.
//!
//! Owns the way from what was typed to a server that waits for its mount. Promises: it needs no
//! privileges, whatever user it runs as. Must not know who hands mounts over.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use crate::config::{Config, Host, MountArguments, serve_command};
use crate::telemetry::Log;

use super::say;

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
    let resolved = MountArguments::from_matches(matches)
        .and_then(|arguments| Config::resolve(arguments, &Host::read()));
    let config = match resolved {
        Ok(config) => config,
        Err(error) => {
            say(&error);
            return ExitCode::from(error.exit_code());
        }
    };
    for notice in &config.notices {
        say(notice);
    }
    let log = match Log::start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            let path = config.log.file.unwrap_or_default();
            say(format_args!("--log-file: cannot append to {}: {error}", path.display()));
            return ExitCode::from(78);
        }
    };
    match crate::mount::serve_handed(&config, matches.get_one::<String>(VOLUME).cloned(), log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
