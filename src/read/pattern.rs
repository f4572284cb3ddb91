//! Which way a handle reads.
//!
//! Pure: owns the judgement how a read goes on from the ones before it. One handle may be read by
//! several threads, each in its own place, and the kernel's read-ahead sends a reader's requests
//! in any order; so a handle is a small number of streams, and each read goes on from the stream
//! it fits best. Must not know bytes or requests.

use std::collections::VecDeque;

use crate::units::{ByteRange, MIB};

/// Streams followed in one handle. Mergers and loaders read a file in four to eight places.
pub const STREAMS_MAX: usize = 8;

/// How far from a stream's end a read may be and still go on from it: the kernel's read-ahead
/// sends several requests at once (up to 4 MiB at the raised `read_ahead_kb`), and they arrive in
/// any order.
const SLACK: u64 = 4 * MIB;

/// A stream that goes on keeps its place for so many reads of others, however random those are.
const KEPT_READS: u64 = 64;

/// Ends of reads that are remembered: several readers at equal distances look like steps at first,
/// until one of them goes on where it was.
const ENDS: usize = 2 * STREAMS_MAX;

/// The span over which a stream's density is judged; older reads count half.
const SPAN: u64 = 32 * MIB;

/// The streams of one handle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pattern {
    streams: Vec<Stream>,
    reads: u64,
    last_start: u64,
    /// Where the last reads ended, whatever was made of them.
    ends: VecDeque<u64>,
}

/// What became of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The stream's place, below [`STREAMS_MAX`].
    pub slot: usize,
    /// Another stream may have had the place before.
    pub is_new: bool,
    /// Reads that went on, in a row.
    pub streak: u32,
    /// Where the stream goes.
    pub access: Access,
}

/// Where a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody knows.
    Random,
    /// On from the furthest byte read.
    Forward {
        /// That byte's end.
        frontier: u64,
    },
    /// Towards the beginning.
    Backward {
        /// The lowest byte read.
        frontier: u64,
    },
    /// By equal steps, with gaps between the reads.
    Strided {
        /// The read before the next step.
        last: ByteRange,
        /// From one read's start to the next one's.
        step: i64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    last: ByteRange,
    step: i64,
    /// Reads in a row that came by `step`.
    steps: u32,
    /// Reads in a row that ended where the one before began.
    backward: u32,
    streak: u32,
    /// The run of reads: its ends, and how many bytes of it were read.
    low: u64,
    high: u64,
    read: u64,
    /// The number of its last read in the handle.
    used: u64,
}

impl Stream {
    fn new(range: ByteRange, step: i64) -> Self {
        Self {
            last: range,
            step,
            steps: 1,
            backward: 0,
            streak: 0,
            low: range.start,
            high: range.end,
            read: range.len(),
            used: 0,
        }
    }

    /// How badly a read goes on from this stream; none where it does not. `is_after` where it
    /// begins at the end of some other read.
    fn misfit(&self, range: ByteRange, is_after: bool) -> Option<u64> {
        if range.start == self.high || range.start == self.last.end {
            return Some(0);
        }
        let is_step = self.step != 0 && step(self.last.start, range.start) == self.step;
        if range.end == self.last.start || (is_step && !is_after) {
            return Some(1);
        }
        // Only a stream that has gone on already draws reads that do not quite fit.
        let is_near = range.start <= self.high.saturating_add(SLACK)
            && range.end.saturating_add(SLACK) >= self.high;
        (self.streak > 0 && is_near).then(|| 2 + range.start.abs_diff(self.high))
    }

    fn go_on(&mut self, range: ByteRange) {
        let by = step(self.last.start, range.start);
        self.steps = if by == self.step { self.steps.saturating_add(1) } else { 1 };
        self.step = by;
        let is_backward = range.end == self.last.start;
        self.backward = if is_backward { self.backward.saturating_add(1) } else { 0 };
        self.streak = self.streak.saturating_add(1);
        if range.start == self.last.end && !self.is_dense() {
            // A run begins behind reads that lay apart.
            (self.low, self.read, self.streak) = (self.last.start, self.last.len(), 1);
            self.high = self.last.end;
        }
        self.last = range;
        self.low = self.low.min(range.start);
        self.high = self.high.max(range.end);
        let span = self.high - self.low;
        self.read = (self.read + range.len()).min(span);
        if span > SPAN && self.backward == 0 {
            self.low += span / 2;
            self.read /= 2;
        }
    }

    const fn is_dense(&self) -> bool {
        self.read * 2 >= self.high - self.low
    }

    /// Two reads of equal steps with gaps could be chance, or read-ahead out of order.
    fn access(&self) -> Access {
        const CERTAIN: u32 = 2;
        if self.backward >= CERTAIN {
            Access::Backward { frontier: self.last.start }
        } else if self.is_dense() && self.streak > 0 {
            Access::Forward { frontier: self.high }
        } else if self.steps >= CERTAIN && self.step.unsigned_abs() > self.last.len() {
            Access::Strided { last: self.last, step: self.step }
        } else {
            Access::Random
        }
    }
}

/// From one offset to another, which both are below 2^63.
const fn step(from: u64, to: u64) -> i64 {
    to.wrapping_sub(from).cast_signed()
}

impl Pattern {
    /// Takes note of a read and judges it.
    pub fn observe(&mut self, range: ByteRange) -> Seen {
        self.reads += 1;
        let by = step(self.last_start, range.start);
        self.last_start = range.start;
        let is_after = self.ends.contains(&range.start);
        let (slot, is_new) = match self.best(range, is_after) {
            Some(slot) => {
                self.streams[slot].go_on(range);
                (slot, false)
            }
            None => (self.begin(range, by, is_after), true),
        };
        if self.ends.len() == ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back(range.end);
        let stream = &mut self.streams[slot];
        stream.used = self.reads;
        Seen { slot, is_new, streak: stream.streak, access: stream.access() }
    }

    fn best(&self, range: ByteRange, is_after: bool) -> Option<usize> {
        let fits = self.streams.iter().enumerate();
        let fits = fits.filter_map(|(slot, stream)| Some((stream.misfit(range, is_after)?, slot)));
        fits.min().map(|(_, slot)| slot)
    }

    fn begin(&mut self, range: ByteRange, by: i64, is_after: bool) -> usize {
        let mut stream = Stream::new(range, by);
        if is_after {
            (stream.step, stream.streak) = (0, 1);
        } else if self.reads == 1 {
            // The first read of all is believed at the beginning: elsewhere it is a seek.
            (stream.step, stream.streak) = (0, u32::from(range.start == 0));
        }
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
            return self.streams.len() - 1;
        }
        let slot = self.least_promising();
        self.streams[slot] = stream;
        slot
    }

    fn least_promising(&self) -> usize {
        let kept = |stream: &Stream| stream.streak > 0 && stream.used + KEPT_READS > self.reads;
        let ranked = self.streams.iter().enumerate();
        let ranked = ranked.map(|(slot, stream)| (kept(stream), stream.used, slot));
        ranked.min().map_or(0, |(_, _, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, KIB};

    fn letter(access: Access) -> char {
        match access {
            Access::Random => 'r',
            Access::Forward { .. } => 'f',
            Access::Backward { .. } => 'b',
            Access::Strided { .. } => 's',
        }
    }

    fn judge(reads: impl IntoIterator<Item = (u64, u64)>) -> String {
        let mut pattern = Pattern::default();
        let ranges = reads.into_iter().map(|(start, len)| ByteRange::at(start, len));
        ranges.map(|range| letter(pattern.observe(range).access)).collect()
    }

    const K: u64 = 128 * KIB;
    const FAR: u64 = 100 * MIB;

    #[test]
    fn one_reader() {
        type Case = (&'static str, &'static [(u64, u64)], &'static str);
        let cases: [Case; 10] = [
            ("from the beginning", &[(0, 4096), (4096, 4096), (8192, 4096)], "fff"),
            ("read-ahead out of order", &[(0, K), (2 * K, K), (K, K), (3 * K, K)], "ffff"),
            ("a jump, and on from it", &[(FAR, 4096), (FAR + 4096, 4096), (0, 4096)], "rfr"),
            ("a lone read near the beginning", &[(3 * MIB, 4096)], "r"),
            ("backward", &[(FAR, K), (FAR - K, K), (FAR - 2 * K, K), (FAR - 3 * K, K)], "rfbb"),
            ("far steps", &[(0, K), (FAR, K), (2 * FAR, K), (3 * FAR, K)], "frss"),
            ("far steps back", &[(4 * FAR, K), (3 * FAR, K), (2 * FAR, K), (FAR, K)], "rrss"),
            ("near steps", &[(0, K), (MIB, K), (2 * MIB, K), (3 * MIB, K)], "frss"),
            ("the same again", &[(FAR, K), (FAR, K), (FAR, K)], "rrr"),
            ("here and there", &[(5 * FAR, K), (FAR, K), (9 * FAR, K), (2 * FAR, K)], "rrrr"),
        ];
        for (what, reads, want) in cases {
            assert_eq!(judge(reads.iter().copied()), want, "{what}");
        }
    }

    #[test]
    fn several_readers_of_one_handle_are_several_streams() {
        let reads = (0..10).flat_map(|at| (0..4).map(move |who| (who * GIB + at * K, K)));
        let judged = judge(reads);
        // Equal distances look like steps, until each has gone on.
        assert_eq!(judged[8..], "f".repeat(32), "{judged}");
    }

    #[test]
    fn near_readers_do_not_mix() {
        let mut pattern = Pattern::default();
        let slots: Vec<usize> = (0..20)
            .flat_map(|at| [at * K, 2 * MIB + at * 4 * KIB].map(|start| (start, K)))
            .map(|(start, len)| pattern.observe(ByteRange::at(start, len.min(K))).slot)
            .collect();
        assert!(slots.iter().all(|slot| *slot < 2), "{slots:?}");
    }

    #[test]
    fn a_stream_outlives_random_reads_between() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut pattern = Pattern::default();
        for at in 0..50 {
            let seen = pattern.observe(ByteRange::at(at * K, K));
            assert_eq!(seen.access, Access::Forward { frontier: (at + 1) * K }, "read {at}");
            for _ in 0..20 {
                pattern.observe(ByteRange::at(GIB + random.u64(..GIB) * 7, 4096));
            }
        }
        assert!(pattern.streams.len() <= STREAMS_MAX);
    }

    #[test]
    fn a_stream_turns_sparse_and_dense_again() {
        let mut pattern = Pattern::default();
        let dense = (0..100).map(|at| at * MIB);
        let sparse = (1..100).map(|at| 99 * MIB + at * 2 * MIB);
        for start in dense.chain(sparse) {
            pattern.observe(ByteRange::at(start, if start <= 99 * MIB { MIB } else { K }));
        }
        let seen = pattern.observe(ByteRange::at(299 * MIB, K));
        assert!(
            matches!(seen.access, Access::Strided { step, .. } if step == 2 * MIB.cast_signed())
        );
    }
}
