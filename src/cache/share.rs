//! Whose turn it is to have bytes ahead.
//!
//! Pure: owns how many streams are being read, and with it how much of the memory for reading
//! ahead each may fill. A stream that is not read any more has no share. Times are given. Must not
//! know what is read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A stream counts for so long after its last read: a reader that works on what it has read for
/// longer finds its window in memory all the same, if nobody else needed the room.
const ACTIVE: Duration = Duration::from_secs(2);

/// The count is taken anew so often.
const RECOUNTED: Duration = Duration::from_millis(100);

/// Streams counted at most; by then a share is a few KiB.
const STREAMS_MAX: usize = 4096;

/// The streams that are read, and what they share.
#[derive(Debug)]
pub(super) struct Shares {
    total: u64,
    active: HashMap<u64, Instant>,
    counted: Option<Instant>,
}

impl Shares {
    /// `total` bytes to share.
    pub(super) fn new(total: u64) -> Self {
        Self { total, active: HashMap::new(), counted: None }
    }

    /// A stream is read: the bytes it may have ahead.
    pub(super) fn touch(&mut self, stream: u64, now: Instant) -> u64 {
        let is_due = self.counted.is_none_or(|at| now.saturating_duration_since(at) >= RECOUNTED);
        if is_due {
            self.active.retain(|_, read| now.saturating_duration_since(*read) < ACTIVE);
            self.counted = Some(now);
        }
        if self.active.len() < STREAMS_MAX || self.active.contains_key(&stream) {
            self.active.insert(stream, now);
        }
        self.total / self.active.len().max(1) as u64
    }

    /// Another number of bytes to share, from the next read on.
    pub(super) fn set_total(&mut self, total: u64) {
        self.total = total;
    }

    /// A stream has ended.
    pub(super) fn leave(&mut self, stream: u64) {
        self.active.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn those_who_read_share_and_those_who_stopped_do_not() {
        let begin = Clock::system().now();
        let mut shares = Shares::new(960);
        assert_eq!(shares.touch(1, begin), 960);
        assert_eq!(shares.touch(1, begin), 960);
        assert_eq!(shares.touch(2, begin), 480);
        let later = begin + ACTIVE;
        assert_eq!(shares.touch(2, later), 960, "the first has stopped");
        for stream in 3..=6 {
            shares.touch(stream, later);
        }
        assert_eq!(shares.touch(2, later), 192);
        shares.leave(3);
        assert_eq!(shares.touch(2, later), 240);
        shares.set_total(400);
        assert_eq!(shares.touch(2, later), 100);
    }

    #[test]
    fn no_more_are_counted_than_the_maximum() {
        let now = Clock::system().now();
        let mut shares = Shares::new(1 << 30);
        let least = (0..2 * STREAMS_MAX as u64).map(|stream| shares.touch(stream, now)).min();
        assert_eq!(least, Some((1 << 30) / STREAMS_MAX as u64));
    }
}
