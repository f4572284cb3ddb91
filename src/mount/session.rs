//! The FUSE session: threads that read requests from mount to unmount.
//!
//! Owns fuser's session and the mount it serves, from the first request to the last. Promises:
//! the mount never outlives its session by more than [`Session::end`], and the end is noticed
//! whoever brought it about: us, `umount`, or an aborted connection. Must not know what is served.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use fuser::{Config, Filesystem, MountOption, Notifier, SessionACL, SessionUnmounter};
use tokio::sync::oneshot;

use super::failure::Failure;
use super::kernel::{self, MountOptions, Mounted, Unmounted};

/// Threads that read requests: one per core, since they never wait for the network; at least two,
/// so that one page-cache-sized copy does not hold up everything; at most eight, as each touches
/// up to a MiB of read buffer.
const MIN_THREADS: usize = 2;
const MAX_THREADS: usize = 8;

/// A mount whose INIT is answered, and nothing more: everybody on it waits.
pub(super) struct Waiting<F: Filesystem>(fuser::Session<F>);

impl<F: Filesystem> Waiting<F> {
    /// Serves it from here on.
    pub(super) fn serve(self) -> Result<Session, Failure> {
        let (ended, notifier) = serve(self.0).map_err(|error| not_started(&error))?;
        Ok(Session { mount: Held::Elsewhere, ended, outcome: None, notifier })
    }
}

fn not_started(error: &io::Error) -> Failure {
    Failure::passing(format!("the FUSE session did not start: {error}"))
}

/// A mount that is being served.
#[derive(Debug)]
pub(super) struct Session {
    mount: Held,
    ended: oneshot::Receiver<io::Result<()>>,
    outcome: Option<Result<(), String>>,
    notifier: Notifier,
}

enum Held {
    /// Mounted by us.
    Root(Mounted),
    /// Mounted by fusermount3, and unmounted by it.
    User(SessionUnmounter),
    /// Mounted by somebody else, who will unmount it.
    Elsewhere,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root(mounted) => mounted.fmt(f),
            Self::User(_) => f.write_str("fusermount3"),
            Self::Elsewhere => f.write_str("elsewhere"),
        }
    }
}

impl Session {
    /// Mounts `file_system` on `point` and starts to serve it.
    pub(super) fn start(
        file_system: impl Filesystem,
        point: &Path,
        options: &MountOptions,
    ) -> Result<Self, Failure> {
        if nix::unistd::geteuid().is_root() {
            Self::start_as_root(file_system, point, options)
        } else {
            Self::start_as_user(file_system, point, options)
        }
    }

    fn start_as_root(
        file_system: impl Filesystem,
        point: &Path,
        options: &MountOptions,
    ) -> Result<Self, Failure> {
        let (device, mounted) = kernel::mount(point, options)?;
        let mut held = Held::Root(mounted);
        let config = config(options, true);
        let acl = config.acl;
        let raised = options.transfer.raise_max_pages();
        // The connection begins in here.
        let session = fuser::Session::from_fd(file_system, device, acl, config);
        drop(raised);
        match session.and_then(serve) {
            Ok((ended, notifier)) => {
                if let Held::Root(mounted) = &held {
                    mounted.raise_read_ahead(options.transfer);
                }
                Ok(Self { mount: held, ended, outcome: None, notifier })
            }
            Err(error) => {
                let failure = Failure::passing(format!("the FUSE session did not start: {error}"));
                held.unmount(false);
                Err(failure)
            }
        }
    }

    /// Answers INIT of a mount that somebody else made, on a descriptor where it waits to be read.
    pub(super) fn take_over<F: Filesystem>(
        file_system: F,
        device: OwnedFd,
        options: &MountOptions,
    ) -> Result<Waiting<F>, Failure> {
        let mut config = config(options, true);
        // Opening /dev/fuse again is not for whoever only received a descriptor.
        config.clone_fd = false;
        let acl = config.acl;
        let session = fuser::Session::from_fd(file_system, device, acl, config);
        session.map(Waiting).map_err(|error| not_started(&error))
    }

    /// As a user, fusermount3 (setuid root, from the package `fuse3`) does the mounting.
    fn start_as_user(
        file_system: impl Filesystem,
        point: &Path,
        options: &MountOptions,
    ) -> Result<Self, Failure> {
        let refused = |error: io::Error| {
            let said = error.to_string();
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "; install the package `fuse3`, or mount as root",
                io::ErrorKind::PermissionDenied if said.contains("user_allow_other") => {
                    "; add that line to /etc/fuse.conf, or leave --allow-other out"
                }
                io::ErrorKind::PermissionDenied => {
                    "; this user may not open /dev/fuse (`chmod 666 /dev/fuse` is the usual mode), \
                     or may not mount on the directory"
                }
                _ => "",
            };
            Failure::passing(format!("fusermount3 did not mount: {}{remedy}", said.trim()))
        };
        let config = config(options, false);
        let mut session = fuser::Session::new(file_system, point, &config).map_err(refused)?;
        let held = Held::User(session.unmount_callable());
        let (ended, notifier) = serve(session).map_err(refused)?;
        Ok(Self { mount: held, ended, outcome: None, notifier })
    }

    /// The way to tell the kernel something that it has not asked for.
    pub(super) fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits until nothing is served any more. May be called again, and dropped in between.
    pub(super) async fn ended(&mut self) {
        if self.outcome.is_none() {
            let outcome = match (&mut self.ended).await {
                Ok(outcome) => outcome.map_err(|error| error.to_string()),
                Err(_) => Err("its thread panicked".to_owned()),
            };
            if let Err(error) = &outcome {
                tracing::warn!(error, "the FUSE session ended badly");
            }
            self.outcome = Some(outcome);
        }
    }

    /// True once [`Session::ended`] has come to an end.
    pub(super) const fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// True where it would be dead, and still be there, if this process just ended: a mount made
    /// here, with nothing above it.
    pub(super) fn can_be_left(&self) -> bool {
        matches!(&self.mount, Held::Root(mounted) if mounted.stands())
    }

    /// Unmounts, lazily where it is busy, and only what is still ours. An aborted connection
    /// leaves a dead mount behind, so this is also for a session that has ended.
    pub(super) fn unmount(&mut self) -> Unmounted {
        self.mount.unmount(self.outcome.is_some())
    }
}

impl Held {
    fn unmount(&mut self, has_ended: bool) -> Unmounted {
        let unmounted = match self {
            Self::Root(mounted) => mounted.unmount(),
            // fuser's own check for "gone already" is the wrong way round in 0.18, so it is only
            // asked while the session is alive.
            Self::User(_) if has_ended => Ok(Unmounted::NotOurs),
            Self::User(unmounter) => unmounter.unmount().map(|()| Unmounted::Clean),
            Self::Elsewhere => Ok(Unmounted::Elsewhere),
        };
        match unmounted {
            Ok(unmounted) => unmounted,
            Err(error) => {
                tracing::warn!(%error, "the mount cannot be unmounted");
                Unmounted::NotOurs
            }
        }
    }
}

/// Runs the session's loop to its end on a thread of its own; how it ended, and the way to tell
/// the kernel something meanwhile.
fn serve(
    session: fuser::Session<impl Filesystem>,
) -> io::Result<(oneshot::Receiver<io::Result<()>>, Notifier)> {
    let (sender, ended) = oneshot::channel();
    let notifier = session.notifier();
    thread::Builder::new().name("fuse-session".to_owned()).spawn(move || {
        // Nobody is listening where the process ends first.
        let _ = sender.send(session.run());
    })?;
    Ok((ended, notifier))
}

fn config(options: &MountOptions, is_root: bool) -> Config {
    let cores = thread::available_parallelism().map_or(MIN_THREADS, NonZeroUsize::get);
    let mut config = Config::default();
    config.n_threads = Some(cores.clamp(MIN_THREADS, MAX_THREADS));
    // A descriptor per thread; opening /dev/fuse again is something only root surely can.
    config.clone_fd = is_root;
    // Who may enter is the kernel's business (`allow_other`, `default_permissions`); for
    // fusermount3 fuser derives `allow_other` from this.
    let everybody = is_root || options.allow_other;
    config.acl = if everybody { SessionACL::All } else { SessionACL::Owner };
    config.mount_options = vec![
        // fusermount3 splits options at commas.
        MountOption::FSName(options.source.replace(',', "_")),
        MountOption::Subtype("s3pod".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        if options.read_only { MountOption::RO } else { MountOption::RW },
    ];
    config
}

#[cfg(test)]
mod tests;
