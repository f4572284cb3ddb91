//! `s3pod mount BUCKET DIR`.
//!
//! Owns the way from what was typed to a running mount: parse, resolve, log, run. Promises:
//! nothing is mounted where the configuration is wrong. Must not know what mounting is.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{fail, resolve, start_log};
use crate::config::mount_command;
use crate::mount::daemon::{self, Starter};

/// The subcommand's name.
pub(super) const NAME: &str = "mount";

const DETACHED: &str = "detached";

const EXAMPLES: &str = "\
Examples:
  s3pod mount photos /mnt/photos
  s3pod mount s3://photos/2024 /mnt/photos --read-only
  s3pod mount photos /mnt/photos --endpoint-url http://127.0.0.1:9000
  fusermount3 -u /mnt/photos           (or, as root, umount)

In /etc/fstab, with s3pod linked as /sbin/mount.s3pod:
  s3://photos/2024 /mnt/photos s3pod _netdev,allow_other,uid=1000 0 0

Every option is also read from the environment: --metadata-ttl is S3POD_METADATA_TTL. A flag
wins over the environment. Sizes are written 64MiB or 5GB, times 500ms, 30s, 5m or 2h.

Exit code: 0 mounted (or, with --foreground, unmounted in order); 2 the command line is wrong;
78 the configuration is wrong; 66 the store has no such bucket, 67 it does not know the credentials,
77 it knows them and they may not; 1 anything else.";

/// The subcommand.
pub(super) fn command() -> Command {
    let command = Command::new(NAME)
        .about("Show a bucket's objects as files in a directory")
        .override_usage("s3pod mount [OPTIONS] BUCKET DIR")
        .after_help("`s3pod mount --help` says more of each option and gives examples.")
        .after_long_help(EXAMPLES);
    mount_command(command).arg(detached())
}

/// Set by the half of the program that waits in the foreground, for the half that it starts.
fn detached() -> Arg {
    Arg::new(DETACHED).long(DETACHED).action(ArgAction::SetTrue).hide(true)
}

/// Mounts what `matches` say.
pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let config = match resolve(matches) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let is_detached = matches.get_flag(DETACHED);
    if !config.foreground && !is_detached {
        return match daemon::launch(detached_arguments(std::env::args_os())) {
            Ok(code) => ExitCode::from(code),
            Err(failure) => fail(&failure),
        };
    }
    let log = match start_log(&config) {
        Ok(log) => log,
        Err(code) => return code,
    };
    let starter = if is_detached { Starter::Waiting } else { Starter::Foreground };
    match crate::mount::run(&config, &starter, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// The same call, for the half in the background.
fn detached_arguments(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = from_mount_8(arguments);
    // Behind the subcommand: at the end it could follow a `--`.
    let behind = arguments.iter().position(|argument| argument == NAME).map_or(1, |at| at + 1);
    arguments.insert(behind.min(arguments.len()), OsString::from(format!("--{DETACHED}")));
    arguments
}

/// Reads a call by mount(8), which runs `mount.s3pod BUCKET DIR [-nsv] -o OPTIONS`, as ours.
pub(super) fn from_mount_8(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let is_mount_8 = Path::new(&program).file_name().is_some_and(|name| name == "mount.s3pod");
    if !is_mount_8 {
        return std::iter::once(program).chain(arguments).collect();
    }
    // No mtab, tolerate unknown options, verbose: none of them is for us.
    let is_ours = |argument: &OsString| !["-n", "-s", "-v"].iter().any(|flag| argument == flag);
    [program, OsString::from(NAME)].into_iter().chain(arguments.filter(is_ours)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(arguments: &[&str]) -> Vec<String> {
        let given = arguments.iter().map(OsString::from);
        from_mount_8(given).into_iter().map(|text| text.into_string().unwrap()).collect()
    }

    #[test]
    fn a_call_by_mount_8_is_a_mount() {
        assert_eq!(
            translated(&["/sbin/mount.s3pod", "photos", "/mnt", "-n", "-o", "rw,uid=1"]),
            ["/sbin/mount.s3pod", "mount", "photos", "/mnt", "-o", "rw,uid=1"]
        );
        assert_eq!(translated(&["s3pod", "help"]), ["s3pod", "help"]);
    }

    #[test]
    fn the_half_in_the_background_gets_the_same_arguments() {
        let given = ["/bin/s3pod", "mount", "--read-only", "--", "photos", "/mnt"];
        let arguments = detached_arguments(given.map(OsString::from));
        let want = ["/bin/s3pod", "mount", "--detached", "--read-only", "--", "photos", "/mnt"];
        assert_eq!(arguments, want.map(OsString::from));
        let by_mount_8 = ["/sbin/mount.s3pod", "photos", "/mnt", "-o", "ro"].map(OsString::from);
        assert!(detached_arguments(by_mount_8).contains(&OsString::from("--detached")));
        assert!(!command().render_long_help().to_string().contains("--detached"));
    }

    #[test]
    fn help_groups_the_options() {
        let help = command().render_help().to_string();
        for heading in ["Bucket:", "Access:", "Files and attributes:", "Logging:"] {
            assert!(help.contains(heading), "{heading}\n{help}");
        }
    }
}
