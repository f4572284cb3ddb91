//! What a case is made of: operations on a handful of names, small enough to read when one fails.
//!
//! Owns the operations and how they are drawn. Names and handles are numbers into short lists, so
//! that whatever is drawn can be done, and the few names meet each other often. Must not know what
//! an operation does.

use std::fmt;

use proptest::prelude::*;

/// Every path of a case. Directories and files share names, so that they get into each other's way.
pub(super) const PATHS: [&str; 9] = ["a", "b", "d", "e", "d/a", "d/b", "d/e", "d/e/a", "e/a"];

/// Handles open at once.
pub(super) const HANDLES: usize = 4;

/// The part size of a case: a few writes fill several.
pub(super) const PART: u64 = 48;

/// A path of [`PATHS`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Path(pub(super) usize);

impl Path {
    pub(super) const fn text(self) -> &'static str {
        PATHS[self.0]
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Which of the open handles; more than there are wraps around.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(pub(super) usize);

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    pub(super) write: bool,
    pub(super) create: bool,
    pub(super) exclusive: bool,
    pub(super) truncate: bool,
}

/// What goes wrong on the way to the store, in passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// The store is busy for the next requests.
    Busy,
    /// The work is done and the answer lost.
    LostPut,
    LostCopy,
    LostComplete,
    LostDelete,
    LostDeletes,
}

/// One step of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Open(Path, How),
    Close(Slot),
    Write(Slot, u64, u64),
    Append(Slot, u64),
    Read(Slot, u64, u64),
    Resize(Slot, u64),
    Flush(Slot),
    /// A flush whose requests the store refuses for good.
    FlushRefused(Slot),
    Fsync(Slot),
    /// From one open file to another, or within one: from, to, how much.
    Copy(Slot, Slot, u64, u64, u64),
    /// Where data and holes begin, at or after this.
    Seek(Slot, u64),
    Stat(Path),
    List(Path),
    Truncate(Path, u64),
    Unlink(Path),
    Mkdir(Path),
    Rmdir(Path),
    Symlink(Path),
    Rename(Path, Path, bool),
    Chmod(Path, u16),
    Chown(Path, u32),
    Touch(Path, u32),
    SetXattr(Path, u8),
    RemoveXattr(Path),
    /// Another client stores an object of so many bytes.
    RemotePut(Path, u64),
    RemoteDelete(Path),
    /// Another client replaces the metadata alone: owner and mode.
    RemoteChmod(Path, u16),
    /// Time passes, in milliseconds of the mount's clock.
    Wait(u32),
    /// The kernel forgets what it need not know.
    Forget,
    Mishap(Mishap),
}

fn path() -> impl Strategy<Value = Path> {
    (0..PATHS.len()).prop_map(Path)
}

fn slot() -> impl Strategy<Value = Slot> {
    (0..HANDLES).prop_map(Slot)
}

fn how() -> impl Strategy<Value = How> {
    let flags = (prop::bool::weighted(0.8), prop::bool::weighted(0.7));
    (flags, prop::bool::weighted(0.3), prop::bool::weighted(0.3)).prop_map(
        |((write, create), exclusive, truncate)| How {
            write,
            create,
            exclusive: create && exclusive,
            truncate: write && truncate,
        },
    )
}

fn mishap() -> impl Strategy<Value = Mishap> {
    use Mishap::{Busy, LostComplete, LostCopy, LostDelete, LostDeletes, LostPut};
    prop::sample::select(vec![Busy, LostPut, LostCopy, LostComplete, LostDelete, LostDeletes])
}

/// Sizes and offsets around the size of a part.
fn length() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1..20_u64, 2 => 20..4 * PART, 1 => Just(PART), 1 => Just(2 * PART)]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 2 => 0..5 * PART]
}

fn mode() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![0o600, 0o644, 0o4755])
}

/// Operations on open files.
fn on_handle() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => slot().prop_map(Operation::Close),
        5 => (slot(), offset(), length())
            .prop_map(|(slot, at, len)| Operation::Write(slot, at, len)),
        4 => (slot(), length()).prop_map(|(slot, len)| Operation::Append(slot, len)),
        3 => (slot(), offset(), length())
            .prop_map(|(slot, at, len)| Operation::Read(slot, at, len)),
        2 => (slot(), offset()).prop_map(|(slot, size)| Operation::Resize(slot, size)),
        2 => slot().prop_map(Operation::Flush),
        1 => slot().prop_map(Operation::FlushRefused),
        2 => slot().prop_map(Operation::Fsync),
        1 => (slot(), offset()).prop_map(|(slot, at)| Operation::Seek(slot, at)),
    ]
}

/// Operations on names.
fn on_path() -> impl Strategy<Value = Operation> {
    prop_oneof![
        1 => path().prop_map(Operation::Stat),
        1 => path().prop_map(Operation::List),
        1 => (path(), offset()).prop_map(|(path, size)| Operation::Truncate(path, size)),
        3 => path().prop_map(Operation::Unlink),
        3 => path().prop_map(Operation::Mkdir),
        2 => path().prop_map(Operation::Rmdir),
        1 => path().prop_map(Operation::Symlink),
        4 => (path(), path(), prop::bool::weighted(0.2))
            .prop_map(|(from, to, keeps)| Operation::Rename(from, to, keeps)),
        1 => (path(), mode()).prop_map(|(path, mode)| Operation::Chmod(path, mode)),
        1 => (path(), 0..3_u32).prop_map(|(path, owner)| Operation::Chown(path, owner)),
        1 => (path(), 1..1000_u32).prop_map(|(path, at)| Operation::Touch(path, at)),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Operation::SetXattr(path, value)),
        1 => path().prop_map(Operation::RemoveXattr),
    ]
}

/// What this mount alone does.
pub(super) fn local() -> impl Strategy<Value = Operation> {
    prop_oneof![
        5 => (path(), how()).prop_map(|(path, how)| Operation::Open(path, how)),
        10 => on_handle(),
        8 => on_path(),
        1 => prop::sample::select(vec![10_u32, 700, 5_000, 90_000]).prop_map(Operation::Wait),
        1 => Just(Operation::Forget),
    ]
}

/// Copies, half of them of a whole file to the beginning of another.
fn copies() -> impl Strategy<Value = Operation> {
    let range = prop_oneof![
        Just((0, 0, u64::MAX)),
        (offset(), offset(), length()).prop_map(|(from, to, len)| (from, to, len)),
    ];
    (slot(), slot(), range)
        .prop_map(|(from, to, (at, into, len))| Operation::Copy(from, to, at, into, len))
}

/// What goes wrong meanwhile and must not be seen. Copies are here and not with others: what one
/// of them makes of a source that others replace is not foretold.
pub(super) fn with_mishaps() -> impl Strategy<Value = Operation> {
    prop_oneof![12 => local(), 1 => copies(), 2 => mishap().prop_map(Operation::Mishap)]
}

/// Perhaps two directories to begin with: most paths lead through one.
pub(super) fn prelude() -> impl Strategy<Value = Vec<Operation>> {
    let directories = || vec![Operation::Mkdir(Path(2)), Operation::Mkdir(Path(3))];
    prop::bool::weighted(0.6).prop_map(move |has| if has { directories() } else { Vec::new() })
}

/// What another client does to the same objects.
pub(super) fn with_others() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => local(),
        2 => (path(), length()).prop_map(|(path, len)| Operation::RemotePut(path, len)),
        1 => path().prop_map(Operation::RemoteDelete),
        1 => (path(), mode()).prop_map(|(path, mode)| Operation::RemoteChmod(path, mode)),
    ]
}
