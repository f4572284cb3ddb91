//! The tie between the server and a volume's process.
//!
//! Owns the step between the two: this program starts itself anew, asks the kernel for SIGTERM at
//! its parent's end, and becomes `s3pod serve`. Promises: a volume's process never goes on without
//! the one that accounts for it (docs/decisions/0008-servers-end-together.md). Must not know what
//! is served.

use std::ffi::OsString;
use std::process;

use clap::{Arg, ArgMatches, Command};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use s3pod::mount::Failure;

/// The subcommand's name; nobody types it.
pub(crate) const NAME: &str = "volume";

const PARENT: &str = "PARENT";
const ARGUMENTS: &str = "ARGUMENTS";

/// The subcommand.
pub(crate) fn subcommand() -> Command {
    Command::new(NAME)
        .about("Become `s3pod serve`, and end with the parent")
        .hide(true)
        .disable_help_flag(true)
        .arg(Arg::new(PARENT).required(true).value_parser(clap::value_parser!(i32)))
        .arg(
            Arg::new(ARGUMENTS)
                .num_args(..)
                .allow_hyphen_values(true)
                .trailing_var_arg(true)
                .value_parser(clap::value_parser!(OsString)),
        )
}

/// A command for a process that ends with this thread, which is to live as long as the process.
pub(crate) fn command() -> process::Command {
    let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = process::Command::new(own);
    command.arg(NAME).arg(process::id().to_string());
    command
}

/// Ties this process to its parent, and becomes the server.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    tie(matches.get_one::<i32>(PARENT).copied().unwrap_or_default())?;
    let typed: Vec<OsString> =
        matches.get_many::<OsString>(ARGUMENTS).into_iter().flatten().cloned().collect();
    crate::run::serve(&typed)
}

/// From now on this process gets SIGTERM when its parent ends.
pub(crate) fn tie(parent: i32) -> Result<(), Failure> {
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|errno| Failure::passing(format!("PR_SET_PDEATHSIG: {}", errno.desc())))?;
    // It may have ended before the tie was made.
    if getppid() != Pid::from_raw(parent) {
        return Err(Failure::passing("whoever started this has ended"));
    }
    Ok(())
}
