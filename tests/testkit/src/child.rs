//! A child process that cannot outlive the test process.
//!
//! Owns the link between the two: the kernel signals the child when the thread that started it
//! ends (PR_SET_PDEATHSIG, set by `setpriv`, since a hook between fork and exec would be unsafe
//! code). So each child is started by a keeper thread that lives exactly as long as its handle:
//! a test's own thread may end earlier. Signals go to a pid only while it is not yet reaped.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a wait looks.
const POLL: Duration = Duration::from_millis(10);
/// Part of util-linux, which is essential on Debian.
pub(crate) const SETPRIV: &str = "/usr/bin/setpriv";

/// A running child.
#[derive(Debug)]
pub(crate) struct Tied {
    child: Mutex<Child>,
    pid: u32,
    /// Its drop ends the keeper thread, and with it the child.
    _keeper: mpsc::Sender<()>,
}

/// A command for `program` that gets `signal` (a name without SIG) when its handle is gone.
pub(crate) fn tied_command(program: &Path, signal: &str) -> Command {
    if !Path::new(SETPRIV).exists() {
        return Command::new(program);
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--pdeathsig", signal, "--"].map(OsStr::new)).arg(program);
    command
}

impl Tied {
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt;
        // A Ctrl-C at the terminal is for the test process; the child follows by its death.
        command.process_group(0);
        let (sender, receiver) = mpsc::sync_channel(1);
        let (keeper, released) = mpsc::channel::<()>();
        let name = format!("{}", command.get_program().display());
        let keep = move || {
            let started = command.spawn();
            if sender.send(started).is_ok() {
                // Ends with an error when the handle is dropped: the only thing it waits for.
                let _ = released.recv();
            }
        };
        std::thread::Builder::new().name("child-keeper".to_owned()).spawn(keep)?;
        let child = receiver.recv()?.with_context(|| format!("cannot start {name}"))?;
        let pid = child.id();
        Ok(Self { child: Mutex::new(child), pid, _keeper: keeper })
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The status, once it has exited.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Signals it, unless it has exited.
    pub(crate) fn signal(&self, signal: Signal) {
        let mut child = self.child();
        if let Ok(None) = child.try_wait()
            && let Ok(pid) = i32::try_from(child.id())
        {
            // Not yet reaped, so the pid is still this child's.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for its exit.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let mut waited = Duration::ZERO;
        loop {
            let status = self.status();
            if status.is_some() || waited >= limit {
                return status;
            }
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls for at most five seconds.
    fn until(mut holds: impl FnMut() -> bool) -> bool {
        (0..500).any(|_| {
            std::thread::sleep(POLL);
            holds()
        })
    }

    #[test]
    fn a_child_is_gone_once_its_handle_is() {
        let mut command = tied_command(Path::new("/bin/sleep"), "KILL");
        command.arg("600");
        let child = Tied::spawn(command).unwrap();
        let process = format!("/proc/{}/stat", child.pid());
        let stat = || std::fs::read_to_string(&process).unwrap_or_default();
        // setpriv becomes sleep once the link is made.
        assert!(until(|| stat().contains("(sleep)")) && child.status().is_none());
        drop(child);
        // Nobody reaps it, so it stays as a zombie: that is dead enough.
        assert!(until(|| stat().is_empty() || stat().contains(") Z")), "{}", stat());
    }
}
