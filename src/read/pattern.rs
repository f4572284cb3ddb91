//! Which way a handle reads.
//!
//! Pure: owns the judgement whether the next read goes on from the last ones. Must not know bytes
//! or requests.

use crate::units::{ByteRange, MIB};

/// How far from the expected offset a read may be and still count as going on: the kernel's
/// read-ahead sends several requests at once (up to 4 MiB at the raised `read_ahead_kb`), and they
/// arrive in any order.
const SLACK: u64 = 4 * MIB;

/// What a handle has read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// The furthest byte read in this run of reads.
    frontier: u64,
    /// Reads that went on, in a row.
    streak: u32,
}

/// The judgement on one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Goes on from the reads before, with so many in a row.
    Sequential {
        /// Reads in a row.
        streak: u32,
    },
    /// Lies elsewhere.
    Random,
}

impl Default for Pattern {
    /// A handle that has read nothing: a read at the file's beginning goes on from there.
    fn default() -> Self {
        Self { frontier: 0, streak: 0 }
    }
}

impl Pattern {
    /// Takes note of a read and judges it.
    pub fn observe(&mut self, range: ByteRange) -> Access {
        let near = range.start <= self.frontier.saturating_add(SLACK)
            && range.end.saturating_add(SLACK) >= self.frontier;
        // The first read is believed only at the beginning: a lone read at 3 MiB is a seek.
        let goes_on = if self.streak == 0 { range.start == self.frontier } else { near };
        if goes_on {
            self.frontier = self.frontier.max(range.end);
            self.streak = self.streak.saturating_add(1);
            Access::Sequential { streak: self.streak }
        } else {
            *self = Self { frontier: range.end, streak: 0 };
            Access::Random
        }
    }

    /// The furthest byte read in this run.
    pub const fn frontier(&self) -> u64 {
        self.frontier
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::KIB;

    fn judge(reads: &[(u64, u64)]) -> Vec<bool> {
        let mut pattern = Pattern::default();
        reads
            .iter()
            .map(|&(start, len)| {
                matches!(pattern.observe(ByteRange::at(start, len)), Access::Sequential { .. })
            })
            .collect()
    }

    #[test]
    fn reading_from_the_beginning_is_sequential_from_the_first_read() {
        assert_eq!(judge(&[(0, 4096), (4096, 4096), (8192, 4096)]), [true, true, true]);
    }

    #[test]
    fn read_ahead_out_of_order_is_still_sequential() {
        let k = 128 * KIB;
        assert_eq!(judge(&[(0, k), (2 * k, k), (k, k), (3 * k, k)]), [true; 4]);
    }

    #[test]
    fn a_jump_is_random_and_going_on_from_it_is_sequential() {
        let far = 100 * MIB;
        assert_eq!(judge(&[(far, 4096), (far + 4096, 4096), (0, 4096)]), [false, true, false]);
        assert_eq!(judge(&[(3 * MIB, 4096)]), [false]);
    }
}
