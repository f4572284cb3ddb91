//! The end of a mount: signal, drain, unmount, last drain.
//!
//! Owns the order of it, and whether the mount is unmounted at all. Promises: what is dirty is in
//! S3, and what was deleted is gone, before the directory is empty again; who is in a hurry can say
//! so with a second signal, and is told what stays behind. Must not know how anything is committed.

use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use super::kernel::Unmounted;
use super::session::Session;
use crate::vfs::{Drained, Vfs};

/// How long open files are served after a lazy unmount: enough for a `cp` to end in order, and
/// well within the 30 s a container gets.
const LAST_FILES: Duration = Duration::from_secs(5);

/// The signals that end a mount.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on a signal ends nothing by itself. One that whoever started this process has
    /// had wait, so that it is not lost, comes now.
    pub(super) fn listen() -> io::Result<Self> {
        let own = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        };
        // On this thread alone, which is enough: the kernel gives it to whichever takes it. A
        // credential process that another one starts inherits that these wait, and ends by itself.
        SigSet::from_iter([SIGTERM, SIGINT]).thread_unblock()?;
        Ok(own)
    }

    /// The next one's name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// Everything was tried.
    Done(Drained),
    /// A second signal came first.
    GivenUp,
}

/// How a mount's life is over.
#[derive(Clone, Copy, Debug)]
enum Over {
    Unmounted,
    /// With this process its server is gone, and nobody can write beneath it.
    Left,
}

impl Over {
    const fn words(self) -> &'static str {
        match self {
            Self::Unmounted => "unmounted",
            Self::Left => "ended, and the mount is left to whoever mounts over it",
        }
    }
}

/// Ends a mount in order; `session` may have ended already, where somebody else unmounted. While
/// somebody holds a lock on the file `attended`, the mount is left to them.
pub(super) async fn end(
    vfs: &Vfs,
    mut session: Session,
    signals: &mut Signals,
    attended: Option<&Path>,
) -> Result<(), Failure> {
    let before = drain(vfs, signals).await;
    // What is closed from here on is acknowledged only where it is safe, as ever.
    if session.can_be_left() && attended.is_some_and(is_locked) {
        return report(before, Over::Left);
    }
    let was_served = !session.has_ended();
    let unmounted = session.unmount();
    match unmounted {
        Unmounted::Clean | Unmounted::Elsewhere => {}
        Unmounted::NotOurs if !was_served => {}
        Unmounted::NotOurs => tracing::warn!(
            "something else is mounted above this mount; beneath it a dead mount stays"
        ),
        Unmounted::Detached => tracing::warn!(
            patience = ?LAST_FILES,
            "the mount is busy: its name is gone, and its open files are served a little longer"
        ),
    }
    if before == Drain::GivenUp {
        return report(before, Over::Unmounted);
    }
    let patience = match unmounted {
        Unmounted::NotOurs | Unmounted::Elsewhere => Duration::ZERO,
        Unmounted::Clean | Unmounted::Detached => LAST_FILES,
    };
    tokio::select! {
        () = session.ended() => {}
        () = tokio::time::sleep(patience) => {}
        name = signals.next() => tracing::warn!(name, "not waiting for open files"),
    }
    // What was written between the drain and the unmount.
    let after = drain(vfs, signals).await;
    report(both(before, after), Over::Unmounted)
}

/// Whether somebody holds a lock on the file; one that is not there nobody holds.
fn is_locked(file: &Path) -> bool {
    // Neither astray by a link nor held up by a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(file);
    opened.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

async fn drain(vfs: &Vfs, signals: &mut Signals) -> Drain {
    tokio::select! {
        biased;
        drained = vfs.drain() => Drain::Done(drained),
        name = signals.next() => {
            tracing::warn!(name, "a second signal: what is not in S3 yet stays behind");
            Drain::GivenUp
        }
    }
}

/// Two drains as one. What failed the first time was tried again in the second.
const fn both(first: Drain, second: Drain) -> Drain {
    match (first, second) {
        (Drain::Done(first), Drain::Done(second)) => Drain::Done(Drained {
            committed: first.committed + second.committed,
            failed: second.failed,
        }),
        _ => Drain::GivenUp,
    }
}

fn report(drain: Drain, over: Over) -> Result<(), Failure> {
    let over = over.words();
    match drain {
        Drain::Done(Drained { committed, failed: 0 }) => {
            tracing::info!(committed, "{over}; everything is in S3");
            Ok(())
        }
        Drain::Done(Drained { failed, .. }) => Err(Failure::passing(format!(
            "{over}, but {failed} files could not be sent to S3; the log names each. No close() or \
             fsync() of theirs has returned 0, but with --write-back, where the journal has them \
             for the next mount with the same --cache-dir"
        ))),
        Drain::GivenUp => Err(Failure::passing(format!(
            "{over}, in a hurry: what was not in S3 by then is not there. No close() or fsync() of \
             it has returned 0, but with --write-back, where the journal has it for the next mount \
             with the same --cache-dir"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_was_held_back_until_somebody_listens_is_heard() {
        for (held, name) in [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT")] {
            SigSet::from(held).thread_block().unwrap();
            // To this thread: the test's others hold nothing back.
            nix::sys::signal::raise(held).unwrap();
            let mut signals = Signals::listen().unwrap();
            assert_eq!(signals.next().await, name);
        }
    }

    const fn done(committed: u64, failed: u64) -> Drain {
        Drain::Done(Drained { committed, failed })
    }

    #[test]
    fn a_file_that_failed_first_and_went_later_is_no_failure() {
        assert_eq!(both(done(3, 1), done(1, 0)), done(4, 0));
        assert_eq!(both(done(3, 0), done(0, 2)), done(3, 2));
        assert_eq!(both(done(3, 0), Drain::GivenUp), Drain::GivenUp);
    }

    #[test]
    fn only_an_end_without_loss_is_a_success() {
        assert_eq!(report(done(5, 0), Over::Unmounted), Ok(()));
        for bad in [done(5, 1), Drain::GivenUp] {
            for over in [Over::Unmounted, Over::Left] {
                assert_eq!(report(bad, over).unwrap_err().exit_code(), 1, "{bad:?} {over:?}");
            }
        }
    }

    #[test]
    fn a_lock_is_seen_as_long_as_somebody_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_locked(&path), "it is not there");
        let file = std::fs::File::create(&path).unwrap();
        assert!(!is_locked(&path));
        file.lock().unwrap();
        assert!(is_locked(&path));
        drop(file);
        assert!(!is_locked(&path));
    }
}
