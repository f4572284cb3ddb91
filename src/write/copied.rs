//! Which bytes of a file are those of other objects.
//!
//! Owns [`Copied`], what copy_file_range(2) leaves in a file before its commit: ranges, and where
//! in which version their bytes stand. Promises: the runs are in order, not empty, and disjoint;
//! neighbours that go on in the same version are one. Pure. Must not know why they were copied.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::store::Version;
use crate::units::ByteRange;

/// Bytes of a file that stand in another object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedRun {
    /// Where in the file.
    pub range: ByteRange,
    /// In which version.
    pub version: Arc<Version>,
    /// Where in that version the first byte stands.
    pub from: u64,
}

impl CopiedRun {
    /// Where in the version the bytes stand.
    pub const fn source(&self) -> ByteRange {
        ByteRange::at(self.from, self.range.len())
    }

    /// What of the run lies in `within`; the intersection must not be empty.
    fn cut(&self, within: ByteRange) -> Self {
        let range = self.range.intersect(within);
        let from = self.from + (range.start - self.range.start);
        Self { range, version: Arc::clone(&self.version), from }
    }
}

/// The runs of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// By their first byte.
    runs: BTreeMap<u64, CopiedRun>,
}

impl Copied {
    /// No runs.
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new() }
    }

    /// The bytes of `run.range` are the run's, whatever they were.
    pub fn insert(&mut self, mut run: CopiedRun) {
        if run.range.is_empty() {
            return;
        }
        self.remove(run.range);
        if let Some((_, before)) = self.runs.range(..run.range.start).next_back()
            && goes_on(before, &run)
        {
            let (start, from) = (before.range.start, before.from);
            self.runs.remove(&start);
            run = CopiedRun { range: ByteRange::new(start, run.range.end), from, ..run };
        }
        if let Some(behind) = self.runs.get(&run.range.end)
            && goes_on(&run, behind)
        {
            let (start, end) = (behind.range.start, behind.range.end);
            self.runs.remove(&start);
            run.range.end = end;
        }
        self.runs.insert(run.range.start, run);
    }

    /// No byte of `range` is another object's.
    pub fn remove(&mut self, range: ByteRange) {
        let touched: Vec<CopiedRun> = self.touching(range).cloned().collect();
        for run in touched {
            self.runs.remove(&run.range.start);
            let rests = [ByteRange::new(0, range.start), ByteRange::new(range.end, u64::MAX)];
            for rest in rests {
                if !run.range.intersect(rest).is_empty() {
                    let rest = run.cut(rest);
                    self.runs.insert(rest.range.start, rest);
                }
            }
        }
    }

    /// Nothing at or behind `len` is another object's.
    pub fn truncate(&mut self, len: u64) {
        self.remove(ByteRange::new(len, u64::MAX));
    }

    /// True where there are no runs.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs in order.
    pub fn iter(&self) -> impl Iterator<Item = &CopiedRun> {
        self.runs.values()
    }

    /// What of the runs lies in `within`, in order.
    pub fn within(&self, within: ByteRange) -> impl Iterator<Item = CopiedRun> {
        self.touching(within).map(move |run| run.cut(within))
    }

    /// One past the last byte of the last run; 0 where there is none.
    pub fn end(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(_, run)| run.range.end)
    }

    /// The version that a file of `size` bytes is a copy of, from its first byte to its last.
    pub fn whole(&self, size: u64) -> Option<&Arc<Version>> {
        let run = self.runs.get(&0)?;
        let is_whole = run.range.end == size && run.from == 0 && run.version.size == size;
        is_whole.then_some(&run.version)
    }

    /// The same bytes as those of `old` stand in `new`.
    pub fn rebase(&mut self, old: &Version, new: &Arc<Version>) {
        for run in self.runs.values_mut().filter(|run| run.version.is_same(old)) {
            run.version = Arc::clone(new);
        }
    }

    /// What was of the same object stands in `new`, in its own place.
    pub fn settle_in(&mut self, new: &Arc<Version>) {
        for run in self.runs.values_mut().filter(|run| run.version.key == new.key) {
            (run.version, run.from) = (Arc::clone(new), run.range.start);
        }
    }

    fn touching(&self, range: ByteRange) -> impl Iterator<Item = &CopiedRun> {
        let first = self.runs.range(..=range.start).next_back().map_or(range.start, |(&at, _)| at);
        let touching = self.runs.range(first..range.end.max(first)).map(|(_, run)| run);
        touching.filter(move |run| !run.range.intersect(range).is_empty())
    }
}

/// `behind` takes up where `before` ends, in the file and in the version.
fn goes_on(before: &CopiedRun, behind: &CopiedRun) -> bool {
    before.range.end == behind.range.start
        && before.source().end == behind.from
        && before.version == behind.version
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 64;

    fn version(name: u8, size: u64) -> Arc<Version> {
        Arc::new(Version {
            key: format!("v{name}").as_str().into(),
            etag: Some("\"e\"".into()),
            version_id: None,
            size,
            last_modified: SystemTime::UNIX_EPOCH,
        })
    }

    fn run(start: u64, end: u64, name: u8, from: u64) -> CopiedRun {
        CopiedRun { range: ByteRange::new(start, end), version: version(name, 1000), from }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(CopiedRun),
        Remove(ByteRange),
        Truncate(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0..LEN as u64, 0..LEN as u64).prop_map(|(a, b)| (a.min(b), a.max(b)));
        prop_oneof![
            // Two versions and few offsets, so that runs go on in each other often.
            4 => (range.clone(), 0..2_u8, 0..3_u64).prop_map(|((start, end), name, shift)| {
                Step::Insert(run(start, end, name, start + shift))
            }),
            2 => range.prop_map(|(start, end)| Step::Remove(ByteRange::new(start, end))),
            1 => (0..LEN as u64).prop_map(Step::Truncate),
        ]
    }

    /// What each byte of the file is: which byte of which version.
    type Model = [Option<(String, u64)>; LEN];

    fn modelled(copied: &Copied) -> Model {
        let mut model: Model = std::array::from_fn(|_| None);
        for run in copied.iter() {
            for at in run.range.start..run.range.end {
                let byte = (run.version.key.as_str().to_owned(), run.from + at - run.range.start);
                assert!(model[at as usize].replace(byte).is_none(), "two runs on one byte");
            }
        }
        model
    }

    proptest! {
        #[test]
        fn runs_are_what_was_inserted_last(steps in vec(step(), 0..30), asked in 0..LEN as u64) {
            let (mut copied, mut model) = (Copied::new(), modelled(&Copied::new()));
            for step in steps {
                match step {
                    Step::Insert(run) => {
                        for at in run.range.start..run.range.end {
                            let from = run.from + at - run.range.start;
                            let byte = (run.version.key.as_str().to_owned(), from);
                            model[at as usize] = Some(byte);
                        }
                        copied.insert(run);
                    }
                    Step::Remove(range) => {
                        model[range.start as usize..range.end as usize].fill(None);
                        copied.remove(range);
                    }
                    Step::Truncate(len) => {
                        model[len as usize..].fill(None);
                        copied.truncate(len);
                    }
                }
                prop_assert_eq!(&modelled(&copied), &model);
                let runs: Vec<_> = copied.iter().collect();
                prop_assert!(runs.windows(2).all(|pair| !goes_on(pair[0], pair[1])));
                prop_assert_eq!(copied.is_empty(), model.iter().all(Option::is_none));
                let end = model.iter().rposition(Option::is_some).map_or(0, |at| at as u64 + 1);
                prop_assert_eq!(copied.end(), end);
            }
            let within = ByteRange::new(asked, asked + 9);
            let mut cut = Copied::new();
            copied.within(within).for_each(|run| cut.insert(run));
            let mut rest = copied.clone();
            rest.truncate(within.end);
            rest.remove(ByteRange::new(0, within.start));
            prop_assert_eq!(cut, rest);
        }
    }

    #[test]
    fn a_whole_copy_is_told_from_a_part() {
        let whole = |range: ByteRange, from| {
            let mut copied = Copied::new();
            copied.insert(CopiedRun { range, version: version(1, 10), from });
            copied.whole(10).is_some()
        };
        assert!(whole(ByteRange::new(0, 10), 0));
        assert!(!whole(ByteRange::new(0, 9), 0));
        assert!(!whole(ByteRange::new(0, 10), 1));
        let mut halves = Copied::new();
        for (start, end) in [(5, 10), (0, 5)] {
            let range = ByteRange::new(start, end);
            halves.insert(CopiedRun { range, version: version(1, 10), from: start });
        }
        assert_eq!(halves.whole(10), Some(&version(1, 10)));
        assert_eq!(halves.whole(11), None);
        assert_eq!(Copied::new().whole(0), None);
    }
}
