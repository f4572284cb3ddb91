//! The command line: one file per subcommand.
//!
//! Owns which commands there are and the exit codes: 2 where what was typed is wrong, 78 where
//! the configuration is, 1 for every other failure. Promises: a failure is one clear line on
//! stderr. Must not know how a command does its work.

mod health;
mod mount;
mod recover;
mod serve;
mod warm;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::config::{Config, Host, MountArguments};
use crate::mount::Failure;
use crate::telemetry::Log;

/// Runs the command that `arguments` spell, the program's own name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = mount::from_mount_8(arguments);
    match command_for(&arguments).try_get_matches_from(arguments) {
        Ok(matches) => match matches.subcommand() {
            Some((health::NAME, matches)) => health::run(matches),
            Some((mount::NAME, matches)) => mount::run(matches),
            Some((serve::NAME, matches)) => serve::run(matches),
            Some((recover::NAME, matches)) => recover::run(matches),
            Some((warm::NAME, matches)) => warm::run(matches),
            _ => ExitCode::from(2),
        },
        // Help and version are "errors" with code 0 that go to stdout.
        Err(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// The command that is asked for, or all where that is not plain. A probe runs every few seconds
/// in somebody's memory limit: it shall not build the options of every other command first.
fn command_for(arguments: &[OsString]) -> Command {
    match arguments.get(1).and_then(|name| name.to_str()) {
        Some(health::NAME) => program().subcommand(health::command()),
        _ => command(),
    }
}

fn program() -> Command {
    Command::new("s3pod")
        .version(env!("CARGO_PKG_VERSION"))
        .about("S3 buckets as files")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(100)
}

/// Every command.
fn command() -> Command {
    program()
        .subcommand(health::command())
        .subcommand(mount::command())
        .subcommand(recover::command())
        .subcommand(serve::command())
        .subcommand(warm::command())
}

/// What a command that serves was told; otherwise what is wrong with it was said.
fn resolve(matches: &ArgMatches) -> Result<Config, ExitCode> {
    let resolved = MountArguments::from_matches(matches)
        .and_then(|arguments| Config::resolve(arguments, &Host::read()));
    resolved.map_err(|error| {
        say(&error);
        ExitCode::from(error.exit_code())
    })
}

/// Says what may surprise, and begins the log of a command that serves.
fn start_log(config: &Config) -> Result<Log, ExitCode> {
    for notice in &config.notices {
        say(notice);
    }
    Log::start(&config.log).map_err(|error| {
        let path = config.log.file.clone().unwrap_or_default();
        say(format_args!("--log-file: cannot append to {}: {error}", path.display()));
        ExitCode::from(78)
    })
}

fn fail(failure: &Failure) -> ExitCode {
    say(failure);
    ExitCode::from(failure.exit_code())
}

/// Prints one line for the person at the terminal.
fn say(line: impl std::fmt::Display) {
    // There is nobody left to tell where stderr is closed.
    let _ = writeln!(std::io::stderr(), "s3pod: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_code(arguments: &[&str]) -> String {
        let all = std::iter::once("s3pod").chain(arguments.iter().copied()).map(OsString::from);
        format!("{:?}", run(all))
    }

    #[test]
    fn clap_finds_no_fault_with_the_commands() {
        command().debug_assert();
    }

    #[test]
    fn what_is_typed_wrong_is_exit_code_2() {
        let usage = format!("{:?}", ExitCode::from(2));
        for arguments in [
            &["mount"][..],
            &["unmount"],
            &["mount", "bucket", "/mnt", "--no-such-flag"],
            &["mount", "bucket", "/mnt", "--metadata-ttl", "soon"],
            &["mount", "bucket", "/mnt", "-o", "endpont-url=x"],
            &["mount", "bucket/prefix", "/mnt"],
            &["mount", "s3://bucket/a", "/mnt", "--prefix", "b"],
            &["recover", "save", "1"],
            &["recover", "discard"],
            &["recover", "discard", "1", "--all"],
            &["recover", "list", "--cache-dir", "none"],
            &["warm"],
            &["warm", "/", "--jobs", "0"],
        ] {
            assert_eq!(exit_code(arguments), usage, "{arguments:?}");
        }
    }

    #[test]
    fn what_cannot_be_configured_is_exit_code_78() {
        let configuration = format!("{:?}", ExitCode::from(78));
        let arguments = ["mount", "bucket", "/mnt", "--cache-dir", "/dev/null/cache"];
        assert_eq!(exit_code(&arguments), configuration);
    }

    #[test]
    fn help_and_version_are_exit_code_0() {
        let success = format!("{:?}", ExitCode::SUCCESS);
        for arguments in [&["--version"][..], &["--help"], &["help"], &["mount", "--help"]] {
            assert_eq!(exit_code(arguments), success, "{arguments:?}");
        }
    }
}
