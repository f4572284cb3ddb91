//! `s3pod warm PATH...`: files and trees into the cache of the mount that they are in.
//!
//! Owns the walk, the readers, the progress and the exit code. Files are read through the mount,
//! whose server caches what it fetches; what is cached already it reads from disk, so a run that
//! was interrupted goes on where it stopped. Promises: a file counts as done only when the mount
//! says that all of it is on its disk. Must not know how the mount caches.

mod progress;
mod read;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::{Arg, ArgMatches, Command};

use crate::mount::is_served;

use super::say;
use progress::Progress;

/// The subcommand's name.
pub(super) const NAME: &str = "warm";

const PATH: &str = "PATH";
const JOBS: &str = "jobs";

/// Files that were found and not begun yet.
const WAITING_MAX: usize = 1024;

const NOTES: &str = "\
What is cached already costs no request, so a run that was interrupted is simply started again. A
file is done when all of it is on the disk of the mount's --cache-dir. Where it cannot be, because
--cache-size or the disk is too small, it is named and the exit code is 1.

Symbolic links are not followed, and other file systems below a PATH are left out.

Exit code: 0 everything is cached; 1 something is not, and was named; 2 the command line is wrong.";

/// A file to be read.
#[derive(Debug)]
struct Wanted {
    path: PathBuf,
    size: u64,
}

/// The subcommand.
pub(super) fn command() -> Command {
    let path = Arg::new(PATH)
        .required(true)
        .num_args(1..)
        .value_parser(clap::value_parser!(PathBuf))
        .help("A file or directory in a mount of s3pod");
    // 64: as many as the mount has requests at once.
    let jobs = Arg::new(JOBS)
        .long(JOBS)
        .short('j')
        .value_name("COUNT")
        .value_parser(clap::value_parser!(u16).range(1..=64))
        .default_value("8")
        .help("Files that are read at once");
    Command::new(NAME)
        .about("Bring files into the cache of their mount")
        .after_help(NOTES)
        .arg(path)
        .arg(jobs)
}

/// Warms what `matches` say.
pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let paths: Vec<PathBuf> = matches.get_many(PATH).into_iter().flatten().cloned().collect();
    for path in &paths {
        if let Err(sentence) = check(path) {
            say(sentence);
            return ExitCode::FAILURE;
        }
    }
    let jobs = matches.get_one::<u16>(JOBS).copied().unwrap_or(1);
    let progress = Progress::new();
    let (found, wanted) = sync_channel(WAITING_MAX);
    let wanted = Mutex::new(wanted);
    thread::scope(|scope| {
        let (found, progress, wanted) = (found, &progress, &wanted);
        for _ in 0..jobs {
            scope.spawn(move || work(wanted, progress));
        }
        for path in &paths {
            walk(path, &found, progress);
        }
        // Its drop tells the readers that nothing more comes.
        drop(found);
    });
    if progress.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(path: &Path) -> Result<(), String> {
    match is_served(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{} is in no mount of s3pod; mount it first", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Reads files until none comes any more.
fn work(wanted: &Mutex<Receiver<Wanted>>, progress: &Progress) {
    let mut buffer = vec![0; read::SIZE];
    loop {
        let next = wanted.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(file) = next else { return };
        match read::warm(&file.path, file.size, &mut buffer, progress) {
            Ok(()) => progress.done(),
            Err(reason) => progress.failed(&file.path, &reason),
        }
    }
}

/// Finds the regular files below `top`, on its own file system.
fn walk(top: &Path, found: &SyncSender<Wanted>, progress: &Progress) {
    let mut device = None;
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        let looked = std::fs::symlink_metadata(&path).and_then(|metadata| {
            if *device.get_or_insert(metadata.dev()) != metadata.dev() {
                return Ok(());
            }
            if metadata.is_dir() {
                let mut entries: Vec<PathBuf> = std::fs::read_dir(&path)?
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<io::Result<_>>()?;
                // The last one is taken first.
                entries.sort_unstable_by(|one, other| other.cmp(one));
                open.extend(entries);
            } else if metadata.is_file() {
                progress.found(metadata.len());
                // The readers end only when this is dropped.
                let _ = found.send(Wanted { path: path.clone(), size: metadata.len() });
            }
            Ok(())
        });
        if let Err(error) = looked {
            progress.failed(&path, &error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_command() {
        command().debug_assert();
    }

    #[test]
    fn what_is_in_no_mount_of_ours_is_refused() {
        let said = check(Path::new("/proc/self/stat")).unwrap_err();
        assert!(said.contains("in no mount of s3pod"), "{said}");
        assert!(check(Path::new("/nonexistent")).unwrap_err().contains("No such file"));
    }
}
