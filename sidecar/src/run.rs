//! `s3pod-sidecar run BUCKET DIR`: the life of the container that serves a bucket to its pod.
//!
//! Owns what has to be right before the mount, and then becomes `s3pod mount` by exec. It does not
//! stay as a parent: the kernel kills a container's whole cgroup for memory (memory.oom.group), so
//! a supervisor in it could outlive nothing; kubelet restarts the container; and the process that
//! serves, as process 1, gets the signals itself. Where it ends alone its mount stays, dead, for
//! the next one, as after a crash: the janitor takes it away at last. Must not know how files are
//! served.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::iter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process;

use clap::{Arg, ArgMatches, Command};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use s3pod::config::{CacheDir, Host, MountArguments, Options, mount_command, serve_command};
use s3pod::mount::Failure;
use s3pod::mount::mountinfo::{self, MountInfo};

use crate::{ending, kept, shared};

/// The subcommand's name.
pub(super) const NAME: &str = "run";

/// The other form of it, without privileges: `s3pod-sidecar serve BUCKET SOCKET`.
pub(super) const SERVE: &str = "serve";

/// The name of the program that serves files.
pub(super) const SERVER: &str = "s3pod";

/// What names a file with credentials that somebody may rotate.
const ROTATED: [&str; 2] = ["AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"];

/// The bit of CAP_SYS_ADMIN, capabilities(7).
const SYS_ADMIN: u32 = 21;

/// The subcommand: takes whatever `s3pod mount` takes.
pub(super) fn command() -> Command {
    let about = "Serve a bucket below a directory that the pod's containers share";
    mount_command(Command::new(NAME))
        .about(about)
        .override_usage("s3pod-sidecar run [OPTIONS] BUCKET DIR")
        .after_help("Takes every option of `s3pod mount`, and S3POD_* of the environment.")
}

/// The subcommand without privileges: everything behind it is for `s3pod serve`.
pub(super) fn command_of_serve() -> Command {
    Command::new(SERVE)
        .about("Serve a mount that the node makes and hands over: `s3pod serve`")
        .disable_help_flag(true)
        .arg(
            Arg::new("ARGUMENTS")
                .num_args(..)
                .allow_hyphen_values(true)
                .trailing_var_arg(true)
                .value_parser(clap::value_parser!(OsString)),
        )
}

/// Checks, prepares, and becomes `s3pod mount`; `typed` is what stood behind the subcommand.
pub(super) fn run(matches: &ArgMatches, typed: &[OsString]) -> Result<(), Failure> {
    hold_signals()?;
    let arguments = MountArguments::from_matches(matches)
        .map_err(|error| Failure::configuration(error.to_string()))?;
    may_mount()?;
    let asked = asked(&arguments);
    let volume = shared::prepare(&arguments.directory, &folders(&asked))?;
    say_what_stays(&asked);
    kept::say(&asked);
    let mut flags: Vec<OsString> = words([flags(&arguments), for_everybody(&asked)].concat());
    if asked.local.leave_mount.is_none() {
        flags.extend(["--leave-mount".into(), ending::janitor_of(&volume).into()]);
    }
    become_server("mount", &flags, typed)
}

/// Process 1 has no default actions: a signal that comes before the server listens would be lost,
/// and the pod would wait for its whole grace. Held back, it is there when the server listens,
/// since exec keeps the mask (std's too, since 1.66).
fn hold_signals() -> Result<(), Failure> {
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    ends.thread_block().map_err(|errno| Failure::passing(errno.to_string()))
}

/// Everything that the server will be told. What cannot be read it refuses itself, in better
/// words.
fn asked(arguments: &MountArguments) -> Options {
    arguments.with_surroundings(&Host::read()).unwrap_or_else(|_| arguments.options.clone())
}

/// The folders that it will write to, with their flags.
fn folders(asked: &Options) -> Vec<(&'static str, &Path)> {
    let cache = match &asked.local.cache_dir {
        Some(CacheDir::At(folder)) => Some(("--cache-dir", folder.as_path())),
        _ => None,
    };
    let journal = asked.local.journal_dir.as_deref().map(|folder| ("--journal-dir", folder));
    cache.into_iter().chain(journal).collect()
}

/// The environment of a running container never changes, and neither does a file of a volume that
/// is mounted by subPath, or is immutable.
fn say_what_stays(asked: &Options) {
    #[expect(clippy::disallowed_methods, reason = "nothing is configured by it here")]
    let set = |name: &str| std::env::var_os(name);
    let named = ROTATED.into_iter().filter_map(set).map(PathBuf::from);
    let files: Vec<PathBuf> = named.chain(asked.local.credentials_file.clone()).collect();
    // Without the table nothing is known, and nothing said.
    let bound = mountinfo::read().map(|mounts| bound_alone(&mounts, &files)).unwrap_or_default();
    for file in &files {
        let shown = file.display();
        if bound.contains(&file.as_path()) {
            crate::say(format_args!(
                "{shown} is mounted by subPath: one that is rotated needs a new pod; mount its \
                 whole volume instead, and it is read anew"
            ));
        } else {
            crate::say(format_args!(
                "{shown} is read anew when it is rotated; in an immutable Secret it never is"
            ));
        }
    }
    if set("AWS_SECRET_ACCESS_KEY").is_some() {
        crate::say(
            "the credentials come from the environment: a Secret that is rotated needs a new pod; \
             as a file (AWS_SHARED_CREDENTIALS_FILE) it is read anew",
        );
    }
}

/// Of these files, those that are mount points of their own.
fn bound_alone<'a>(mounts: &[MountInfo], files: &'a [PathBuf]) -> Vec<&'a Path> {
    let is_bound = |file: &&Path| mountinfo::topmost(mounts, file).is_some();
    files.iter().map(PathBuf::as_path).filter(is_bound).collect()
}

/// Becomes `s3pod serve`, which needs nothing that a pod could lack.
pub(super) fn serve(typed: &[OsString]) -> Result<(), Failure> {
    hold_signals()?;
    let asked = told(typed).map_or_else(Options::default, |arguments| asked(&arguments));
    say_what_stays(&asked);
    kept::say(&asked);
    become_server("serve", &words(for_everybody(&asked)), typed)
}

/// What stands behind `serve`; none where the server will refuse it.
fn told(typed: &[OsString]) -> Option<MountArguments> {
    let command = serve_command(Command::new(SERVE)).arg(Arg::new("volume").long("volume"));
    let words = iter::once(OsString::from(SERVE)).chain(typed.iter().cloned());
    MountArguments::from_matches(&command.try_get_matches_from(words).ok()?).ok()
}

fn words(flags: Vec<&'static str>) -> Vec<OsString> {
    flags.into_iter().map(OsString::from).collect()
}

fn become_server(verb: &str, flags: &[OsString], typed: &[OsString]) -> Result<(), Failure> {
    let program = server();
    let failed = |reason: String| {
        let shown = program.display();
        Failure::passing(format!(
            "{shown} cannot be run: {reason}; it belongs beside s3pod-sidecar"
        ))
    };
    // Only comes back where it failed.
    let error = process::Command::new(&program).arg(verb).args(flags).args(typed).exec();
    Err(failed(error.to_string()))
}

/// What a sidecar adds to what was typed.
fn flags(arguments: &MountArguments) -> Vec<&'static str> {
    let local = &arguments.options.local;
    [
        ("--foreground", local.foreground),
        // The application is another user, mostly.
        ("--allow-other", local.allow_other),
        // What a crash left is mounted over, never unmounted: in between, the application would
        // write to the node's disk.
        ("--replace-stale", local.replace_stale),
        // Files beneath were written while nothing was mounted, and a crash loop helps nobody.
        ("--nonempty", local.nonempty),
        // One that ends for a store that is away a moment is restarted only after minutes.
        ("--wait-for-store", local.wait_for_store),
    ]
    .into_iter()
    .filter_map(|(flag, typed)| typed.is_none().then_some(flag))
    .collect()
}

/// Who may write: where nobody said anything of owners or modes, everybody who has the volume at
/// all, as with the driver. The server's own user means nothing to the application.
fn for_everybody(asked: &Options) -> Vec<&'static str> {
    let own = &asked.tuning;
    let is_said =
        own.uid.is_some() || own.gid.is_some() || own.dir_mode.is_some() || own.file_mode.is_some();
    if is_said { Vec::new() } else { vec!["--dir-mode", "0777", "--file-mode", "0666"] }
}

/// The program that serves: in the image its name stands beside this one's.
fn server() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(SERVER)));
    beside.filter(|path| path.exists()).unwrap_or_else(|| Path::new("/").join(SERVER))
}

/// Says early and in Kubernetes' words what mount(2) would say late as EPERM.
fn may_mount() -> Result<(), Failure> {
    let remedy = "this container needs securityContext: {privileged: true}; a pod that may not \
                  have that uses the CSI driver, which mounts on the node and hands the descriptor \
                  to a container without privileges (docs/kubernetes.md)";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !has_capability(&status, SYS_ADMIN) {
        return Err(Failure::configuration(format!("mounting is not allowed here: {remedy}")));
    }
    let device = Path::new("/dev/fuse");
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(device);
    match opened {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err(Failure::configuration(format!("/dev/fuse may not be opened: {remedy}")))
        }
        Err(error) => Err(Failure::passing(format!(
            "/dev/fuse cannot be opened: {error}; where the container is privileged, the node's \
             kernel has no FUSE loaded (`modprobe fuse`); else {remedy}"
        ))),
    }
}

/// Whether `/proc/self/status` names the capability among the effective ones.
fn has_capability(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << bit) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(typed: &[&str]) -> MountArguments {
        let all = ["run", "photos", "/s3/data"].iter().chain(typed);
        MountArguments::from_matches(&command().get_matches_from(all)).unwrap()
    }

    #[test]
    fn what_was_typed_is_not_said_twice() {
        let all =
            ["--foreground", "--allow-other", "--replace-stale", "--nonempty", "--wait-for-store"];
        assert_eq!(flags(&arguments(&[])), all);
        let typed = ["--foreground", "-o", "nonempty=false", "--wait-for-store"];
        assert_eq!(flags(&arguments(&typed)), all[1..3]);
    }

    #[test]
    fn everybody_may_write_unless_somebody_said_who_may() {
        let said = |typed: &[&str]| for_everybody(&arguments(typed).options);
        assert_eq!(said(&["--read-only"]), ["--dir-mode", "0777", "--file-mode", "0666"]);
        for flag in ["--uid", "--gid", "--dir-mode", "--file-mode"] {
            assert!(said(&[flag, "0700"]).is_empty(), "{flag}");
        }
        let surroundings = Host::with_environment([("S3POD_UID", "1000")]);
        let asked = arguments(&[]).with_surroundings(&surroundings).unwrap();
        assert!(for_everybody(&asked).is_empty());
    }

    #[test]
    fn what_the_other_form_is_told_is_understood_unless_it_is_wrong() {
        let typed = |words: &[&str]| told(&words.iter().map(OsString::from).collect::<Vec<_>>());
        let found = typed(&["--volume", "v", "--credentials-file=/keys", "photos", "/h/s.sock"]);
        let found = found.unwrap().options.local.credentials_file;
        assert_eq!(found.as_deref(), Some(Path::new("/keys")));
        assert!(typed(&["--dance", "photos", "/h/s.sock"]).is_none());
        assert!(typed(&["--help"]).is_none());
    }

    #[test]
    fn a_file_by_sub_path_is_known_by_its_mount() {
        let mounts = mountinfo::read_table(
            b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
              30 22 0:50 / /secrets ro - tmpfs tmpfs rw\n\
              31 22 0:51 /..data/keys /keys ro - tmpfs tmpfs rw\n",
        );
        let files = ["/keys", "/secrets/keys", "/keys-not"].map(PathBuf::from);
        assert_eq!(bound_alone(&mounts, &files), [Path::new("/keys")]);
    }

    #[test]
    fn a_capability_is_a_bit_of_the_effective_mask() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n";
        assert!(!has_capability(status, SYS_ADMIN));
        assert!(has_capability("CapEff:\t000001ffffffffff\n", SYS_ADMIN));
        assert!(!has_capability("", SYS_ADMIN));
    }
}
