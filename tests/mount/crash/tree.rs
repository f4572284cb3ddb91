//! The tree that a writer works on until its mount is killed: what was acknowledged of it, and what
//! the one call that was cut off may have left.
//!
//! Must not know how a mount is made, killed or found again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use super::LARGE;
use crate::bench::{close, pattern};

const NAMES: u64 = 8;
/// One of them is free for a directory to be renamed to.
const FOLDERS: [&str; 3] = ["d0", "d1", "d2"];

/// A file, or a directory, which has no bytes; the name of one ends in a slash.
#[derive(Clone, PartialEq)]
struct Entry {
    bytes: Vec<u8>,
    mode: u32,
}

impl fmt::Debug for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.bytes[..self.bytes.len().min(8)];
        write!(out, "{} bytes {head:?} {:o}", self.bytes.len(), self.mode)
    }
}

type Entries = BTreeMap<String, Entry>;
/// Names that change together, and what they then are.
type Change = Vec<(String, Option<Entry>)>;

/// One call or a few.
pub(super) enum Step {
    /// The whole file, through a truncating open.
    Replace(String, Vec<u8>),
    Append(String, Vec<u8>),
    /// Four bytes at the beginning, where there are so many.
    Edit(String),
    /// Half of the file, by ftruncate(2).
    Cut(String),
    /// The whole file, with an fsync behind its first half.
    Checkpoint(String, Vec<u8>),
    Chmod(String, u32),
    Unlink(String),
    Rename(String, String),
    RenameFolder(&'static str, &'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replace(name, bytes) => write!(out, "replace {name} by {} bytes", bytes.len()),
            Self::Append(name, bytes) => write!(out, "append {} bytes to {name}", bytes.len()),
            Self::Edit(name) => write!(out, "edit {name}"),
            Self::Cut(name) => write!(out, "cut {name}"),
            Self::Checkpoint(name, bytes) => {
                write!(out, "write {name} of {} bytes twice", bytes.len())
            }
            Self::Chmod(name, mode) => write!(out, "chmod {mode:o} {name}"),
            Self::Unlink(name) => write!(out, "unlink {name}"),
            Self::Rename(from, to) => write!(out, "rename {from} to {to}"),
            Self::RenameFolder(from, to) => write!(out, "rename {from}/ to {to}/"),
        }
    }
}

impl Step {
    pub(super) fn carry_out(&self, root: &Path) -> io::Result<()> {
        let closed = |file| close(file).map_err(io::Error::from);
        match self {
            Self::Replace(name, bytes) => {
                let mut file = fs::File::create(root.join(name))?;
                file.write_all(bytes)?;
                closed(file)
            }
            Self::Checkpoint(name, bytes) => {
                let mut file = fs::File::create(root.join(name))?;
                let (first, second) = bytes.split_at(bytes.len() / 2);
                file.write_all(first)?;
                file.sync_all()?;
                file.write_all(second)?;
                closed(file)
            }
            Self::Cut(name) => {
                let file = OpenOptions::new().write(true).open(root.join(name))?;
                file.set_len(file.metadata()?.len() / 2)?;
                closed(file)
            }
            Self::Append(name, bytes) => {
                let mut file = OpenOptions::new().append(true).open(root.join(name))?;
                file.write_all(bytes)?;
                closed(file)
            }
            Self::Edit(name) => {
                let file = OpenOptions::new().read(true).write(true).open(root.join(name))?;
                let mut head = [0; 4];
                let len = file.read_at(&mut head, 0)?;
                edit(&mut head);
                file.write_all_at(&head[..len], 0)?;
                closed(file)
            }
            Self::Chmod(name, mode) => {
                fs::set_permissions(root.join(name), Permissions::from_mode(*mode))
            }
            Self::Unlink(name) => fs::remove_file(root.join(name)),
            Self::Rename(from, to) => fs::rename(root.join(from), root.join(to)),
            Self::RenameFolder(from, to) => fs::rename(root.join(from), root.join(to)),
        }
    }
}

fn edit(bytes: &mut [u8]) {
    bytes.iter_mut().take(4).for_each(|byte| *byte ^= 0x55);
}

pub(super) struct Tree {
    /// What was acknowledged.
    is: Entries,
    /// What the call that was cut off may have made of it, in place of nothing.
    doubt: Vec<Change>,
    random: fastrand::Rng,
    /// Those since the tree was last as it may be.
    steps: Vec<String>,
    /// What is appended may be there in part where nothing has acknowledged it: with
    /// `--write-back` an earlier close of the file may be sent while it is written to again.
    shows_parts: bool,
}

impl Tree {
    pub(super) fn new(seed: u64, shows_parts: bool) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { is: Entries::new(), doubt: Vec::new(), random, steps: Vec::new(), shows_parts }
    }

    /// Its directories, on a mount that nobody kills.
    pub(super) fn plant(&mut self, root: &Path) {
        for folder in &FOLDERS[..2] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        self.is = look(root);
        assert_eq!(self.is.len(), 2);
    }

    pub(super) fn random(&mut self, range: Range<u64>) -> u64 {
        self.random.u64(range)
    }

    /// A name in a directory that is there.
    fn name(&mut self) -> String {
        let is_there = |folder: &&&str| self.is.contains_key(&format!("{folder}/"));
        let folders: Vec<&&str> = FOLDERS.iter().filter(is_there).collect();
        format!("{}/f{}", folders[self.random.usize(..folders.len())], self.random.u64(..NAMES))
    }

    pub(super) fn step(&mut self) -> Step {
        let (one, other) = (self.name(), self.name());
        let is_there = self.is.contains_key(&one);
        let len = match self.random.u8(..20) {
            0 => LARGE + self.random.usize(..1000),
            1..8 => self.random.usize(..200_000),
            _ => self.random.usize(1..2000),
        };
        let mut bytes = pattern(len);
        bytes[..len.min(8)].fill(self.random.u8(..));
        match self.random.u8(..24) {
            0..4 if is_there => Step::Append(one, bytes),
            4..8 if is_there => Step::Edit(one),
            8..10 if is_there => Step::Unlink(one),
            10..13 if is_there && one != other => Step::Rename(one, other),
            13..15 if is_there => Step::Cut(one),
            15..18 if is_there => Step::Chmod(one, [0o600, 0o640, 0o755][self.random.usize(..3)]),
            18..20 => Step::Checkpoint(one, bytes),
            20 => self.rename_folder(),
            _ => Step::Replace(one, bytes),
        }
    }

    fn rename_folder(&mut self) -> Step {
        let is_there = |folder: &&str| self.is.contains_key(&format!("{folder}/"));
        let (there, free): (Vec<&str>, Vec<&str>) = FOLDERS.into_iter().partition(is_there);
        Step::RenameFolder(there[self.random.usize(..there.len())], free[0])
    }

    /// What a step may leave where it is cut off; the last is what it leaves when done.
    fn after(&self, step: &Step) -> Vec<Change> {
        let holds = |name: &String, bytes: &[u8]| {
            let mode = self.is.get(name).map_or(0o644, |was| was.mode);
            vec![(name.clone(), Some(Entry { bytes: bytes.to_vec(), mode }))]
        };
        let was = |name: &String| self.is[name].clone();
        match step {
            // An open that truncates empties the file by itself.
            Step::Replace(name, bytes) => vec![holds(name, &[]), holds(name, bytes)],
            Step::Append(name, bytes) => {
                vec![holds(name, &[was(name).bytes, bytes.clone()].concat())]
            }
            Step::Edit(name) => {
                let mut edited = was(name).bytes;
                edit(&mut edited);
                vec![holds(name, &edited)]
            }
            Step::Cut(name) => {
                let whole = was(name).bytes;
                vec![holds(name, &whole[..whole.len() / 2])]
            }
            Step::Checkpoint(name, bytes) => {
                let half = &bytes[..bytes.len() / 2];
                vec![holds(name, &[]), holds(name, half), holds(name, bytes)]
            }
            Step::Chmod(name, mode) => {
                vec![vec![(name.clone(), Some(Entry { mode: *mode, ..was(name) }))]]
            }
            Step::Unlink(name) => vec![vec![(name.clone(), None)]],
            Step::Rename(from, to) => {
                vec![vec![(from.clone(), None), (to.clone(), Some(was(from)))]]
            }
            Step::RenameFolder(from, to) => vec![self.moved(from, to)],
        }
    }

    /// A directory with all that it holds.
    fn moved(&self, from: &str, to: &str) -> Change {
        let from = format!("{from}/");
        let below = self.is.iter().filter(|(name, _)| name.starts_with(&from));
        let moved = below.flat_map(|(name, entry)| {
            let goal = format!("{to}/{}", &name[from.len()..]);
            [(name.clone(), None), (goal, Some(entry.clone()))]
        });
        moved.collect()
    }

    fn with(&self, change: &Change) -> Entries {
        let mut entries = self.is.clone();
        for (name, entry) in change {
            match entry {
                Some(entry) => drop(entries.insert(name.clone(), entry.clone())),
                None => drop(entries.remove(name)),
            }
        }
        entries
    }

    /// The step was acknowledged, or it is in doubt.
    pub(super) fn note(&mut self, step: &Step, is_done: bool) {
        self.steps.push(step.to_string());
        let mut outcomes = self.after(step);
        if is_done {
            self.is = self.with(&outcomes.pop().unwrap());
        } else {
            self.doubt = outcomes;
        }
    }

    /// What is there is what may be there; from here on it is what is. Where it is not, `tells`
    /// says what became of the names that differ.
    pub(super) fn settle(&mut self, when: &str, root: &Path, tells: impl Fn(&[String]) -> String) {
        let found = look(root);
        let doubt = std::mem::take(&mut self.doubt);
        let may: Vec<Entries> = doubt.iter().map(|change| self.with(change)).collect();
        let is_known = self.is == found
            || may.contains(&found)
            || self.shows_parts && may.iter().any(|may| self.is_between(&found, may));
        let differs = |may: &Entries| differences(&found, may);
        assert!(
            is_known,
            "{when}: found, and to be there: {:#?}; or with the call cut off: {:#?}\n\
             after {:#?}\n{}",
            differs(&self.is),
            may.iter().map(differs).collect::<Vec<_>>(),
            self.steps,
            tells(&differing(&found, &self.is)),
        );
        self.is = found;
        self.steps.clear();
    }

    /// True for an append that was cut off: some of its bytes are there.
    fn is_between(&self, found: &Entries, after: &Entries) -> bool {
        found.len() == after.len()
            && found.iter().all(|(name, entry)| {
                let (Some(was), Some(after)) = (self.is.get(name), after.get(name)) else {
                    return self.is.get(name) == Some(entry);
                };
                let (was, after, has) = (&was.bytes, &after.bytes, &entry.bytes);
                let is_part = after.starts_with(was) && has.starts_with(was);
                entry.mode == self.is[name].mode && is_part && after.starts_with(has)
            })
    }

    /// What close() acknowledged of bytes is in the bucket although nobody came after; names that
    /// were taken away may still be there, since their deletes were only written down.
    pub(super) fn is_in_the_bucket(&self, round: usize, read: impl Fn(&str) -> Option<Vec<u8>>) {
        let bytes = |entry: Option<&Entry>| entry.map(|entry| entry.bytes.clone());
        for (name, entry) in self.is.iter().filter(|(name, _)| !name.ends_with('/')) {
            let found = read(name);
            let may_hold = |change| bytes(self.with(change).get(name)) == found;
            let is_known = bytes(Some(entry)) == found || self.doubt.iter().any(may_hold);
            assert!(is_known, "round {round}: {name} is not what close() acknowledged");
        }
    }
}

/// All that is below the root.
fn look(root: &Path) -> Entries {
    let mut entries = Entries::new();
    for folder in fs::read_dir(root).unwrap().map(Result::unwrap) {
        let name = folder.file_name().into_string().unwrap();
        let mode = folder.metadata().unwrap().permissions().mode() & 0o7777;
        entries.insert(format!("{name}/"), Entry { bytes: Vec::new(), mode });
        for file in fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            let mode = file.metadata().unwrap().permissions().mode() & 0o7777;
            let bytes = fs::read(file.path()).unwrap();
            let file = file.file_name().into_string().unwrap();
            entries.insert(format!("{name}/{file}"), Entry { bytes, mode });
        }
    }
    entries
}

fn differing(found: &Entries, may: &Entries) -> Vec<String> {
    let names = found.keys().chain(may.keys().filter(|name| !found.contains_key(*name)));
    names.filter(|name| found.get(*name) != may.get(*name)).cloned().collect()
}

/// What each name holds that is not the same in both.
fn differences(found: &Entries, may: &Entries) -> Vec<String> {
    let differ = differing(found, may);
    let tell = |name: &String| format!("{name}: {:?}, not {:?}", found.get(name), may.get(name));
    differ.iter().map(tell).collect()
}
