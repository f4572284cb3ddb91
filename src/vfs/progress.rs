//! How far the commits are that an earlier mount left.
//!
//! Owns the lines in the log for whoever waits for them: one with the first, one every few seconds
//! and one when nothing is left. Must not know what is sent, nor in which order.

use std::time::{Duration, Instant};

/// Whoever waits longer is told again.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The commits, counted.
#[derive(Debug, Default)]
pub(super) struct Progress {
    files: u64,
    done: u64,
    told: Option<Instant>,
}

impl Progress {
    /// So many are to be sent.
    pub(super) fn expect(&mut self, files: usize) {
        self.files += files as u64;
    }

    /// One of them is in S3, or goes nowhere.
    pub(super) fn landed(&mut self, now: Instant) {
        self.done += 1;
        let (done, files) = (self.done, self.files);
        if done == files {
            tracing::info!(files, "all that an earlier mount had left is sent");
        } else if self.told.is_none_or(|told| now.duration_since(told) >= PROGRESS_EVERY) {
            self.told = Some(now);
            tracing::info!(done, files, "sending what an earlier mount had left");
        }
    }
}
