//! How fast bytes come, and how much must be on its way so that they do.
//!
//! Pure: owns what finished GETs tell of the network: the shortest wait for a first byte, the
//! best rate of one connection, and the best of all together. Times are given, not asked for.
//! Must not know who reads.

use std::time::{Duration, Instant};

use crate::units::MIB;

/// Bytes that arrive within one of these are counted together: long enough for several GETs of
/// 8 MiB at 1 Gbit/s.
const COUNTED: Duration = Duration::from_millis(250);

/// What was best is forgotten after one to two of these: networks change, and a cloud's bursts
/// end.
const REMEMBERED: Duration = Duration::from_secs(15);

/// Smaller bodies tell more of the latency than of the connection.
const TELLING: u64 = MIB;

/// GETs of this size are most of a whole one; so many must have finished, and so many times must
/// have been counted, before anything is said: while a window still grows, its rate says little.
const LARGE: u64 = 4 * MIB;
const LARGE_MIN: u32 = 8;
const COUNTS_MIN: u32 = 4;

/// Twice the product of bandwidth and latency: what is read of the first half is asked for anew
/// while the second is on its way, and a rate that was held down by a small window still grows.
const GAIN: f64 = 2.0;

/// A finished GET.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finished {
    pub(super) bytes: u64,
    /// From the request to the answer's head.
    pub(super) first_byte: Duration,
    /// From there to the last byte.
    pub(super) body: Duration,
}

/// The estimate.
#[derive(Debug)]
pub(super) struct Rate {
    best: Best,
    before: Best,
    since: Instant,
    counted_from: Instant,
    counted: u64,
    counts: u32,
    large: u32,
}

/// Bytes per second and seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Best {
    first_byte: Option<f64>,
    connection: f64,
    total: f64,
}

impl Best {
    fn joined(self, other: Self) -> Self {
        let first_byte = match (self.first_byte, other.first_byte) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
        Self {
            first_byte,
            connection: self.connection.max(other.connection),
            total: self.total.max(other.total),
        }
    }
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        let (best, before) = (Best::default(), Best::default());
        Self { best, before, since: now, counted_from: now, counted: 0, counts: 0, large: 0 }
    }

    /// Takes note of a GET that finished `now`.
    pub(super) fn finished(&mut self, now: Instant, get: Finished) {
        let age = now.saturating_duration_since(self.since);
        if age > REMEMBERED {
            self.before = if age > 2 * REMEMBERED { Best::default() } else { self.best };
            (self.best, self.since) = (Best::default(), now);
        }
        let first_byte = get.first_byte.as_secs_f64();
        self.large = self.large.saturating_add(u32::from(get.bytes >= LARGE));
        self.best.first_byte =
            Some(self.best.first_byte.map_or(first_byte, |best| best.min(first_byte)));
        if get.bytes >= TELLING {
            let seconds = get.body.as_secs_f64().max(1e-6);
            self.best.connection = self.best.connection.max(get.bytes as f64 / seconds);
        }
        self.counted += get.bytes;
        let counted = now.saturating_duration_since(self.counted_from);
        if counted >= COUNTED {
            let rate = self.counted as f64 / counted.as_secs_f64();
            self.best.total = self.best.total.max(rate);
            (self.counted, self.counted_from) = (0, now);
            self.counts = self.counts.saturating_add(1);
        }
    }

    /// Bytes to have on their way in requests of `request` bytes; none while too little is known.
    pub(super) fn window(&self, request: u64) -> Option<u64> {
        let best = self.best.joined(self.before);
        let is_known = self.large >= LARGE_MIN && self.counts >= COUNTS_MIN;
        if !is_known || best.connection == 0.0 {
            return None;
        }
        // How long such a request takes where nothing is in its way.
        let seconds = best.first_byte? + request as f64 / best.connection;
        Some((GAIN * best.total * seconds) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: u64 = 8 * MIB;

    /// Connections that each bring an 8 MiB GET after another, all ending at once.
    fn after(
        connections: u64,
        seconds: u64,
        latency: Duration,
        per_connection: f64,
    ) -> Option<u64> {
        let begin = Clock::system().now();
        let mut rate = Rate::new(begin);
        let body = Duration::from_secs_f64(REQUEST as f64 / per_connection);
        let round = latency + body;
        let mut now = begin;
        while now < begin + Duration::from_secs(seconds) {
            now += round;
            for _ in 0..connections {
                rate.finished(now, Finished { bytes: REQUEST, first_byte: latency, body });
            }
        }
        rate.window(REQUEST)
    }

    use crate::clock::Clock;

    #[test]
    fn nothing_is_known_at_first() {
        assert_eq!(Rate::new(Clock::system().now()).window(REQUEST), None);
    }

    #[test]
    fn the_window_is_twice_what_was_on_its_way() {
        for connections in [1, 4, 8, 32] {
            let window = after(connections, 10, Duration::from_millis(25), 90e6).unwrap();
            let ratio = window as f64 / (2 * connections * REQUEST) as f64;
            assert!((0.8..1.5).contains(&ratio), "{connections} connections: {ratio}");
        }
    }

    #[test]
    fn a_slow_network_needs_little() {
        let window = after(1, 100, Duration::from_millis(50), 1e6).unwrap();
        assert!(window <= 3 * REQUEST, "{window}");
    }

    #[test]
    fn a_fast_time_is_forgotten() {
        let begin = Clock::system().now();
        let mut rate = Rate::new(begin);
        let get = |bytes, millis| Finished {
            bytes,
            first_byte: Duration::from_millis(25),
            body: Duration::from_millis(millis),
        };
        let mut now = begin;
        for _ in 0..1_000 {
            now += Duration::from_millis(10);
            rate.finished(now, get(REQUEST, 80));
        }
        let fast = rate.window(REQUEST).unwrap();
        for _ in 0..100 {
            now += Duration::from_millis(800);
            rate.finished(now, get(REQUEST, 775));
        }
        let slow = rate.window(REQUEST).unwrap();
        assert!(slow * 4 < fast, "{slow} after {fast}");
    }
}
