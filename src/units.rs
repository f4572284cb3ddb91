//! Sizes, ranges and durations as people write them.
//!
//! Owns the words that several floors share and that mean nothing but a quantity. Must not know
//! what is measured.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// 1 KiB in bytes.
pub const KIB: u64 = 1024;
/// 1 MiB in bytes.
pub const MIB: u64 = 1024 * KIB;
/// 1 GiB in bytes.
pub const GIB: u64 = 1024 * MIB;
/// 1 TiB in bytes.
pub const TIB: u64 = 1024 * GIB;

/// A half-open range of bytes, `start <= end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Ends")]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// A range as it is read from a file, which may say anything.
#[derive(Deserialize)]
struct Ends {
    start: u64,
    end: u64,
}

impl From<Ends> for ByteRange {
    fn from(ends: Ends) -> Self {
        Self::new(ends.start, ends.end)
    }
}

impl ByteRange {
    /// The range `start..end`; an `end` before `start` gives the empty range at `start`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// `len` bytes from `start`, saturating at the last representable byte.
    pub const fn at(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// True where no byte is covered.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The part of `self` that lies inside `other`.
    pub fn intersect(&self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// True where every byte of `other` is in `self`.
    pub const fn contains(&self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A number of bytes as people write it: `64MiB`, `5GB`, `1048576`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let count: u64 = digits.parse().map_err(|_| {
            format!("`{text}` is not a size; write a number and a unit, like 64MiB")
        })?;
        let scale = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "ki" | "kib" => KIB,
            "m" | "mi" | "mib" => MIB,
            "g" | "gi" | "gib" => GIB,
            "t" | "ti" | "tib" => TIB,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(format!("`{unit}` is not a unit of size; use KiB, MiB, GiB or TiB")),
        };
        count.checked_mul(scale).map(Self).ok_or_else(|| format!("`{text}` is more than 16 EiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |unit: u64| self.0 != 0 && self.0.is_multiple_of(unit);
        match self.0 {
            n if exact(TIB) => write!(f, "{}TiB", n / TIB),
            n if exact(GIB) => write!(f, "{}GiB", n / GIB),
            n if exact(MIB) => write!(f, "{}MiB", n / MIB),
            n if exact(KIB) => write!(f, "{}KiB", n / KIB),
            n => write!(f, "{n}"),
        }
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a duration as people write it: `500ms`, `1s`, `5m`, `2h`; a bare number is seconds.
///
/// # Errors
/// A sentence that names what was wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let count: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write a number and a unit, like 30s"))?;
    let seconds = |scale: u64| {
        count
            .checked_mul(scale)
            .map(Duration::from_secs)
            .ok_or_else(|| format!("`{text}` is too long"))
    };
    match unit.trim() {
        "ms" => Ok(Duration::from_millis(count)),
        "" | "s" => seconds(1),
        "m" | "min" => seconds(60),
        "h" => seconds(3600),
        _ => Err(format!("`{unit}` is not a unit of time; use ms, s, m or h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("64MiB", 64 * MIB),
            ("5GB", 5_000_000_000),
            ("17", 17),
            ("1g", GIB),
            ("2 TiB", 2 * TIB),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1XB", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(ByteSize(192 * MIB).to_string(), "192MiB");
        assert_eq!(ByteSize(0).to_string(), "0");
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("60"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("5 parsecs").is_err());
    }

    #[test]
    fn ranges_intersect_without_going_negative() {
        let range = ByteRange::new(10, 20);
        assert_eq!(range.intersect(ByteRange::new(15, 30)), ByteRange::new(15, 20));
        assert!(range.intersect(ByteRange::new(30, 40)).is_empty());
        assert!(range.contains(ByteRange::at(12, 3)));
        assert!(!range.contains(ByteRange::at(18, 3)));
    }
}
