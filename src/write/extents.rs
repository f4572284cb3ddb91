//! A set of bytes of a file, as ranges.
//!
//! Owns [`Extents`]: which bytes are dirty, punched or zero. Promises: the ranges are in order,
//! not empty, and never touch each other. Pure. Must not know what the set means.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::ByteRange;

/// An ordered set of disjoint byte ranges; ranges that touch are one.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<ByteRange>", into = "Vec<ByteRange>")]
pub struct Extents {
    /// Start to end. No range is empty and between two there is at least one byte.
    ranges: BTreeMap<u64, u64>,
    /// The sum of the lengths.
    total: u64,
}

impl From<Vec<ByteRange>> for Extents {
    fn from(ranges: Vec<ByteRange>) -> Self {
        let mut extents = Self::new();
        ranges.into_iter().for_each(|range| extents.insert(range));
        extents
    }
}

impl From<Extents> for Vec<ByteRange> {
    fn from(extents: Extents) -> Self {
        extents.iter().collect()
    }
}

impl Extents {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new(), total: 0 }
    }

    /// Adds every byte of `range`.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Backwards from the last range that begins at or before our end: all that touch us.
        while let Some((&old_start, &old_end)) = self.ranges.range(..=end).next_back() {
            if old_end < start {
                break;
            }
            self.ranges.remove(&old_start);
            self.total -= old_end - old_start;
            start = start.min(old_start);
            end = end.max(old_end);
        }
        self.ranges.insert(start, end);
        self.total += end - start;
    }

    /// Takes every byte of `range` out.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        while let Some((&old_start, &old_end)) = self.ranges.range(..range.end).next_back() {
            if old_end <= range.start {
                break;
            }
            self.ranges.remove(&old_start);
            self.total -= old_end - old_start;
            self.keep(ByteRange::new(range.end, old_end));
            self.keep(ByteRange::new(old_start, range.start));
        }
    }

    /// Puts back what is left of a range; it touches no other.
    fn keep(&mut self, rest: ByteRange) {
        if !rest.is_empty() {
            self.ranges.insert(rest.start, rest.end);
            self.total += rest.len();
        }
    }

    /// Takes every byte at or behind `len` out.
    pub fn truncate(&mut self, len: u64) {
        self.remove(ByteRange::new(len, u64::MAX));
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.total = 0;
    }

    /// True where every byte of `range` is in the set; so for an empty one.
    pub fn contains(&self, range: ByteRange) -> bool {
        range.is_empty()
            || self
                .ranges
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, &end)| range.end <= end)
    }

    /// True where some byte of `range` is in the set.
    pub fn intersects(&self, range: ByteRange) -> bool {
        self.within(range).next().is_some()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ranges.iter().map(|(&start, &end)| ByteRange::new(start, end))
    }

    /// How many bytes are in the set.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many ranges the set has.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// True where no byte is in the set.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// One past the last byte of the set; 0 for the empty set.
    pub fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, &end)| end)
    }

    /// What of the set lies in `within`, in order.
    pub fn within(&self, within: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let first = self
            .ranges
            .range(..=within.start)
            .next_back()
            .map_or(within.start, |(&start, _)| start);
        self.ranges
            .range(first..within.end.max(first))
            .map(move |(&start, &end)| ByteRange::new(start, end).intersect(within))
            .filter(|range| !range.is_empty())
    }

    /// What of `within` is not in the set, in order.
    pub fn gaps(&self, within: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        // Each covered range, and last of all the end, closes the gap that began before it.
        let end = ByteRange::at(within.end, 0);
        let mut from = within.start;
        self.within(within).chain(std::iter::once(end)).filter_map(move |covered| {
            let gap = ByteRange::new(from, covered.start);
            from = covered.end;
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// `range` cut into pieces in order, each wholly in the set (true) or wholly outside.
    pub fn slices(&self, range: ByteRange) -> Vec<(ByteRange, bool)> {
        let mut slices = Vec::new();
        let mut from = range.start;
        for covered in self.within(range) {
            if from < covered.start {
                slices.push((ByteRange::new(from, covered.start), false));
            }
            slices.push((covered, true));
            from = covered.end;
        }
        if from < range.end {
            slices.push((ByteRange::new(from, range.end), false));
        }
        slices
    }

    /// The first run of bytes in the set at or behind `from`, cut to begin there.
    pub fn next_covered(&self, from: u64) -> Option<ByteRange> {
        self.within(ByteRange::new(from, u64::MAX)).next()
    }
}

impl fmt::Debug for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromIterator<ByteRange> for Extents {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut extents = Self::new();
        for range in ranges {
            extents.insert(range);
        }
        extents
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes in the model's file: small, so that ranges meet often.
    const LEN: usize = 96;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(ByteRange),
        Remove(ByteRange),
        Truncate(u64),
    }

    fn range() -> impl Strategy<Value = ByteRange> {
        (0..LEN as u64, 0..LEN as u64).prop_map(|(a, b)| ByteRange::new(a.min(b), a.max(b)))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => range().prop_map(Step::Insert),
            3 => range().prop_map(Step::Remove),
            1 => (0..LEN as u64).prop_map(Step::Truncate),
        ]
    }

    fn apply(extents: &mut Extents, bitmap: &mut [bool; LEN], step: &Step) {
        let mut fill = |range: &ByteRange, bit| {
            bitmap[range.start as usize..range.end as usize].fill(bit);
        };
        match step {
            Step::Insert(range) => {
                extents.insert(*range);
                fill(range, true);
            }
            Step::Remove(range) => {
                extents.remove(*range);
                fill(range, false);
            }
            Step::Truncate(len) => {
                extents.truncate(*len);
                fill(&ByteRange::new(*len, LEN as u64), false);
            }
        }
    }

    /// The runs of equal bits in `range` of the bitmap.
    fn runs(bitmap: &[bool; LEN], range: ByteRange) -> Vec<(ByteRange, bool)> {
        let mut runs: Vec<(ByteRange, bool)> = Vec::new();
        for at in range.start..range.end {
            let bit = bitmap[at as usize];
            match runs.last_mut() {
                Some((run, last)) if *last == bit => run.end = at + 1,
                _ => runs.push((ByteRange::at(at, 1), bit)),
            }
        }
        runs
    }

    fn only(runs: &[(ByteRange, bool)], bit: bool) -> Vec<ByteRange> {
        runs.iter().filter(|run| run.1 == bit).map(|run| run.0).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_bitmap(steps in vec(step(), 0..40), asked in range()) {
            let (mut extents, mut bitmap) = (Extents::new(), [false; LEN]);
            for step in &steps {
                apply(&mut extents, &mut bitmap, step);
                let all = runs(&bitmap, ByteRange::new(0, LEN as u64));
                prop_assert_eq!(extents.iter().collect::<Vec<_>>(), only(&all, true));
                let count = bitmap.iter().filter(|bit| **bit).count();
                prop_assert_eq!(extents.total(), count as u64);
                prop_assert_eq!(extents.is_empty(), count == 0);
            }
            let part = runs(&bitmap, asked);
            prop_assert_eq!(extents.slices(asked), part.clone());
            prop_assert_eq!(extents.within(asked).collect::<Vec<_>>(), only(&part, true));
            prop_assert_eq!(extents.gaps(asked).collect::<Vec<_>>(), only(&part, false));
            prop_assert_eq!(extents.contains(asked), part.iter().all(|run| run.1));
            prop_assert_eq!(extents.intersects(asked), part.iter().any(|run| run.1));
            let tail = runs(&bitmap, ByteRange::new(asked.start, LEN as u64));
            prop_assert_eq!(
                extents.next_covered(asked.start),
                only(&tail, true).first().copied()
            );
            let end = bitmap.iter().rposition(|bit| *bit).map_or(0, |at| at as u64 + 1);
            prop_assert_eq!(extents.end(), end);
        }
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut extents: Extents =
            [ByteRange::new(0, 4), ByteRange::new(8, 12)].into_iter().collect();
        assert_eq!(extents.count(), 2);
        extents.insert(ByteRange::new(4, 8));
        assert_eq!(extents.iter().collect::<Vec<_>>(), [ByteRange::new(0, 12)]);
    }

    #[test]
    fn the_end_of_the_number_line_is_no_trap() {
        let mut extents = Extents::new();
        extents.insert(ByteRange::new(u64::MAX - 2, u64::MAX));
        assert_eq!(extents.total(), 2);
        assert_eq!(extents.next_covered(0), Some(ByteRange::new(u64::MAX - 2, u64::MAX)));
        extents.truncate(u64::MAX - 1);
        assert_eq!(extents.total(), 1);
        extents.clear();
        assert_eq!(extents, Extents::new());
    }
}
