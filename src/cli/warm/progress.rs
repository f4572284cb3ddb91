//! How far it is, for whoever watches.
//!
//! Owns the counts, the bar on a terminal, the plain lines elsewhere, and the last line. Promises:
//! every failure is named once, and none is forgotten. Must not know what is read.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::say;
use crate::clock::Clock;

/// Without a terminal, a line so often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);

const TEMPLATE: &str = "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec}, {eta} left{msg}";

/// The progress of all files together.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    clock: Clock,
    begin: Instant,
    said: Mutex<Instant>,
    files: AtomicU64,
    found: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target =
            if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        if is_terminal {
            bar.enable_steady_tick(TICK);
        }
        let clock = Clock::system();
        let begin = clock.now();
        Self {
            bar,
            is_terminal,
            clock,
            begin,
            said: Mutex::new(begin),
            files: AtomicU64::new(0),
            found: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// One more file of so many bytes.
    pub(super) fn found(&self, bytes: u64) {
        self.found.fetch_add(1, Ordering::Relaxed);
        self.bar.inc_length(bytes);
    }

    /// So many more bytes were read.
    pub(super) fn read(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.is_terminal {
            return;
        }
        let now = self.clock.now();
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if now.duration_since(*said) < LINE_EVERY {
                return;
            }
            *said = now;
        }
        let (read, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        say(format_args!(
            "{} of {} files, {} of {}, {}/s, {} left",
            self.files.load(Ordering::Relaxed),
            self.found.load(Ordering::Relaxed),
            HumanBytes(read),
            HumanBytes(all),
            HumanBytes(self.rate(now)),
            HumanDuration(self.bar.eta()),
        ));
    }

    /// A file is cached.
    pub(super) fn done(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// A file or directory is not, and why.
    pub(super) fn failed(&self, path: &Path, reason: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.bar.suspend(|| say(format_args!("{}: {reason}", path.display())));
    }

    /// Says what it came to. True where nothing failed.
    pub(super) fn finish(&self) -> bool {
        self.bar.finish_and_clear();
        let now = self.clock.now();
        let failed = self.failed.load(Ordering::Relaxed);
        let (files, bytes) = (self.files.load(Ordering::Relaxed), self.bar.position());
        let not = if failed > 0 { format!("; {failed} failed") } else { String::new() };
        say(format_args!(
            "{files} files are cached: {} read in {}, {}/s{not}",
            HumanBytes(bytes),
            HumanDuration(now.duration_since(self.begin)),
            HumanBytes(self.rate(now)),
        ));
        failed == 0
    }

    /// Bytes in a second, since the beginning.
    fn rate(&self, now: Instant) -> u64 {
        let milliseconds = now.duration_since(self.begin).as_millis().max(1);
        let rate = u128::from(self.bar.position()) * 1000 / milliseconds;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}
