//! Into the background, and back to whoever waits.
//!
//! Owns the two halves of a start without `--foreground`. The waiting half runs this program
//! again (a fork would leave a process with one thread of many) and stays until the other half
//! says that the mount answers, or ends. The detached half says so on its standard output, which
//! is a pipe to the waiting one. Promises: what goes wrong before that is on the waiting
//! terminal, with its exit code. Must not know what a mount is.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::failure::Failure;

/// The running program where its file has been replaced since. Not the first choice: the kernel
/// would call the process `exe`.
const SELF: &str = "/proc/self/exe";

/// What the detached half says when the mount answers.
const READY: &str = "ready";

/// Runs this program with `arguments` (its own name first), detached, and waits for it to say
/// that it is ready.
///
/// # Errors
/// Where it cannot be started. `Ok` is the exit code of the waiting half: 0 where the mount
/// answers, else the detached half's own, which has said why.
pub fn launch(arguments: impl IntoIterator<Item = OsString>) -> Result<u8, Failure> {
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_else(|| OsString::from("s3pod"));
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(program.unwrap_or_else(|| PathBuf::from(SELF)));
    command.arg0(name).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    super::kernel::inherit_no_descriptors();
    let child = command.spawn().map_err(|error| {
        Failure::passing(format!("cannot start in the background: {error}; try --foreground"))
    })?;
    await_ready(child)
}

fn await_ready(mut child: Child) -> Result<u8, Failure> {
    let said = child.stdout.take().map(|pipe| {
        let mut line = String::new();
        // A pipe that breaks is an end like any other.
        let _ = BufReader::new(pipe).read_line(&mut line);
        line
    });
    if said.is_some_and(|line| line.trim_end() == READY) {
        return Ok(0);
    }
    let ended = child.wait().map_err(|error| Failure::passing(error.to_string()))?;
    match (ended.code(), ended.signal()) {
        // Ended in order before it was ready: whatever ended it, there is no mount.
        (Some(0), _) => Ok(1),
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(1)),
        (None, signal) => Err(Failure::passing(format!(
            "the process in the background was killed by signal {} before the mount was there",
            signal.unwrap_or_default()
        ))),
    }
}

/// Whom a mount tells that it answers.
#[derive(Debug)]
pub enum Starter {
    /// Nobody: it was started with `--foreground`.
    Foreground,
    /// The waiting half of this program.
    Waiting,
}

impl Starter {
    /// Leaves the session of the terminal, whose Ctrl-C is for the waiting half alone.
    pub(super) fn begin(&self) {
        if matches!(self, Self::Waiting) {
            // It fails for the leader of a process group alone, which is as good.
            let _ = nix::unistd::setsid();
        }
    }

    /// Says that the mount answers, and lets go of the terminal and the working directory.
    ///
    /// # Errors
    /// Where nobody waits any more.
    pub(super) fn ready(&self) -> io::Result<()> {
        if matches!(self, Self::Foreground) {
            return Ok(());
        }
        let mut out = io::stdout();
        writeln!(out, "{READY}")?;
        out.flush()?;
        std::env::set_current_dir("/")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::dup2_stderr(&null)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(script: &str) -> Result<u8, Failure> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        await_ready(command.spawn().unwrap())
    }

    #[test]
    fn the_waiting_half_returns_when_the_other_is_ready_and_still_runs() {
        // Its pipe stays open: the end of the line is what counts, not the end of the pipe.
        assert_eq!(after("echo ready; sleep 1"), Ok(0));
    }

    #[test]
    fn the_waiting_half_passes_the_exit_code_on() {
        assert_eq!(after("exit 78"), Ok(78));
        assert_eq!(after("exit 0"), Ok(1));
        assert_eq!(after("echo nonsense; exit 3"), Ok(3));
        let killed = after("kill -KILL $$").unwrap_err().to_string();
        assert!(killed.contains("signal 9"), "{killed}");
    }
}
