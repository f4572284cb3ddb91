//! s3pod in a pod: parse, run, exit code.
//!
//! Owns which commands there are. Everything that only makes sense in Kubernetes is in this
//! package; the process that serves files knows nothing of it. Called by the name of `s3pod` this
//! is that program: the image has both in one file, since what both link is most of either. Must
//! not know how a mount works.

mod csi;
mod drain_hint;
mod ending;
mod in_use;
mod janitor;
mod kept;
mod prepare;
mod provision;
mod run;
mod server;
mod shared;
mod volume;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use s3pod::mount::Failure;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if is_server(&arguments) {
        return s3pod::cli::run(arguments);
    }
    let matches = match command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        // Help and version are "errors" with code 0 that go to stdout.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match matches.subcommand() {
        // Behind the subcommand's name stands what `s3pod mount` takes.
        Some((run::NAME, matches)) => run::run(matches, &arguments[2..]),
        Some((run::SERVE, _)) => run::serve(&arguments[2..]),
        Some((janitor::NAME, matches)) => janitor::run(matches),
        Some((drain_hint::NAME, matches)) => drain_hint::run(matches),
        Some((csi::NAME, matches)) => csi::run(matches),
        Some((server::NAME, matches)) => server::run(matches),
        Some((server::tied::NAME, matches)) => server::tied::run(matches),
        Some((prepare::NAME, matches)) => prepare::run(matches),
        Some((in_use::NAME, matches)) => in_use::run(matches),
        _ => return ExitCode::from(2),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Whether this was started by the name of the program that serves files.
fn is_server(arguments: &[OsString]) -> bool {
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| name == run::SERVER)
}

/// Every command.
fn command() -> Command {
    Command::new("s3pod-sidecar")
        .version(env!("CARGO_PKG_VERSION"))
        .about("S3 buckets as files in a pod")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(100)
        .subcommand(run::command())
        .subcommand(run::command_of_serve())
        .subcommand(janitor::command())
        .subcommand(drain_hint::command())
        .subcommand(csi::command())
        .subcommand(server::command())
        .subcommand(server::tied::subcommand())
        .subcommand(prepare::command())
        .subcommand(in_use::command())
}

/// Writes one line to the container's log.
fn say(line: impl std::fmt::Display) {
    // There is nobody left to tell where stderr is closed.
    let _ = writeln!(std::io::stderr(), "s3pod-sidecar: {line}");
}

/// The failure of a look at the table of mounts.
fn no_table(error: &std::io::Error) -> Failure {
    Failure::passing(format!("/proc/self/mountinfo cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn clap_finds_no_fault_with_the_commands() {
        super::command().debug_assert();
    }
}
