//! What a listing brought of a directory's names, and in which order they are asked about.
//!
//! Owns the names between the readdir that brought them and the lookups that follow, the answers
//! that were asked for ahead of those, and the judgement whether somebody walks through them in
//! order. Promises: a name is asked about at most once while its walk goes on. Must not know how
//! anything is asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::naming::Name;
use crate::store::{self, ObjectHead, Version};

/// What a readdir brought stays valid while the walk goes on, and at most so long.
pub(super) const WALK_MAX: Duration = Duration::from_secs(60);

/// Names remembered per directory: `fts`, and with it `find`, `du` and `rm`, reads 10 000 before it
/// looks at the first, and a page brings 1 000. At about 1 KiB each with its answer: 12 MB.
const NAMES_MAX: usize = 12_000;

/// A full table is searched for names whose walk is over at most so often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How many names that nobody asked about may lie between two that are asked about in order.
const GAP_MAX: usize = 2;

/// How far apart those two may be in all.
const STRIDE_MAX: u64 = 1000;

/// The first names asked about ahead of a walk; each further one doubles them.
const AHEAD_START: u64 = 4;

/// Bodies fetched in a row that nobody opened. Then it is somebody who only looks, in an order that
/// is no walk: `fts` sorts directories of over 10 000 names by inode number.
const BODIES_MAX: u32 = 4;

/// What a listing said of a name.
#[derive(Debug, Clone)]
pub(super) enum Listed {
    File(Arc<Version>),
    Directory,
}

/// What a question came to.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// None where there is no such object.
    pub(super) found: store::Result<Option<Arc<ObjectHead>>>,
    pub(super) asked: Instant,
}

/// What is remembered of a name.
#[derive(Debug, Clone)]
pub(super) struct Hint {
    pub(super) listed: Listed,
    /// Somebody asked for more.
    pub(super) answer: Option<Coming>,
    /// He asked ahead of a walk.
    pub(super) is_ahead: bool,
}

/// An answer that is there or on its way.
#[derive(Debug, Clone)]
pub(super) struct Coming(watch::Receiver<Option<Answer>>);

/// The duty to ask; dropping it unanswered sends everyone who waits to ask for himself.
#[derive(Debug)]
pub(super) struct Asking(watch::Sender<Option<Answer>>);

/// A name that is to be asked about, with what is known of it.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) listed: Listed,
    pub(super) asking: Asking,
}

/// What somebody who needs a name's attributes has to do.
#[derive(Debug)]
pub(super) struct Demand {
    /// Wait for this, where it is asked about already.
    pub(super) coming: Option<Coming>,
    /// Tell this what he was answered, where it was not.
    pub(super) asking: Option<Asking>,
    /// He goes through the directory in order.
    pub(super) is_walk: bool,
    /// Ask about these, too.
    pub(super) ahead: Vec<Question>,
}

/// The names that listings brought.
#[derive(Debug, Default)]
pub(super) struct Listing {
    names: HashMap<Name, Entry>,
    files: Order,
    directories: Order,
    /// Bodies fetched since the last one was opened.
    bodies: u32,
    /// When names whose walk is over were last looked for.
    swept: Option<Instant>,
    /// When it last took a name or told of one.
    used: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    hint: Hint,
    at: Instant,
    position: u64,
}

/// Names of one kind as they were listed, and how far somebody has come through them.
#[derive(Debug, Default)]
struct Order {
    names: VecDeque<Name>,
    /// The position of the first name kept.
    first: u64,
    /// Where the last demand was.
    last: Option<u64>,
    /// How far ahead is asked; 0 outside a walk.
    window: u64,
    /// Everything before this position has been asked about.
    asked: u64,
}

impl Coming {
    /// The answer; none where it was given up.
    pub(super) async fn arrives(mut self) -> Option<Answer> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }

    /// True where nobody has to wait: the answer is there, or was given up.
    pub(super) fn has_arrived(&self) -> bool {
        self.0.borrow().is_some() || self.0.has_changed().is_err()
    }
}

impl Asking {
    pub(super) fn new() -> (Self, Coming) {
        let (asking, coming) = watch::channel(None);
        (Self(asking), Coming(coming))
    }

    pub(super) fn answer(self, answer: Answer) {
        self.0.send_replace(Some(answer));
    }

    /// Waits until nobody wants to know any more.
    pub(super) async fn is_pointless(&self) {
        self.0.closed().await;
    }
}

impl Listing {
    /// A listing brought the name.
    pub(super) fn put(
        &mut self,
        name: &Name,
        listed: Listed,
        answer: Option<Coming>,
        now: Instant,
    ) {
        self.used = Some(now);
        if self.names.len() >= NAMES_MAX && !self.sweep(now) {
            return;
        }
        let order = match &listed {
            Listed::File(_) => &mut self.files,
            Listed::Directory => &mut self.directories,
        };
        let position = order.push(name.clone());
        let hint = Hint { listed, answer, is_ahead: false };
        self.names.insert(name.clone(), Entry { hint, at: now, position });
    }

    /// Forgets names whose walk is over; true where that made room.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_some_and(|at| now.duration_since(at) < SWEEP_EVERY) {
            return false;
        }
        self.swept = Some(now);
        self.names.retain(|_, entry| now.duration_since(entry.at) < WALK_MAX);
        self.names.len() < NAMES_MAX
    }

    /// What a listing said of the name, while its walk goes on.
    pub(super) fn get(&mut self, name: &Name, now: Instant) -> Option<Hint> {
        let entry = self.names.get(name)?;
        self.used = Some(now);
        (now.duration_since(entry.at) < WALK_MAX).then(|| entry.hint.clone())
    }

    /// True where the body of a small file may be fetched with its attributes, as one more.
    pub(super) fn may_take_body(&mut self) -> bool {
        let may = self.bodies < BODIES_MAX;
        self.bodies += u32::from(may);
        may
    }

    /// Somebody opens a file here, so that bodies are worth fetching.
    pub(super) fn is_opened(&mut self) {
        self.bodies = 0;
    }

    /// When somebody last went on with the walk.
    pub(super) const fn used(&self) -> Option<Instant> {
        self.used
    }

    pub(super) fn has(&self, name: &Name) -> bool {
        self.names.contains_key(name)
    }

    pub(super) fn remove(&mut self, name: &Name) {
        self.names.remove(name);
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Somebody needs the attributes of `name`. With `is_read` somebody has the directory open, so
    /// that the first name is the beginning of a walk; `ahead_max` bounds the questions ahead.
    pub(super) fn demand(
        &mut self,
        name: &Name,
        is_read: bool,
        ahead_max: u64,
        now: Instant,
    ) -> Demand {
        let mut demand = Demand { coming: None, asking: None, is_walk: false, ahead: Vec::new() };
        let Some(entry) = self.names.get_mut(name) else { return demand };
        demand.coming.clone_from(&entry.hint.answer);
        if demand.coming.is_none() {
            let (asking, coming) = Asking::new();
            entry.hint.answer = Some(coming);
            demand.asking = Some(asking);
        }
        let position = entry.position;
        let order = match &entry.hint.listed {
            Listed::File(_) => &mut self.files,
            Listed::Directory => &mut self.directories,
        };
        let goes_on = order.goes_on(position, is_read, &self.names);
        let ahead = order.advance(position, goes_on, ahead_max);
        demand.is_walk = order.window > 0;
        let names: Vec<Name> = ahead.filter_map(|at| order.name_at(at).cloned()).collect();
        for name in names {
            let Some(entry) = self.names.get_mut(&name) else { continue };
            if entry.hint.answer.is_some() || now.duration_since(entry.at) >= WALK_MAX {
                continue;
            }
            let (asking, coming) = Asking::new();
            (entry.hint.answer, entry.hint.is_ahead) = (Some(coming), true);
            demand.ahead.push(Question { name, listed: entry.hint.listed.clone(), asking });
        }
        demand
    }
}

impl Order {
    fn push(&mut self, name: Name) -> u64 {
        if self.names.len() >= NAMES_MAX {
            self.names.pop_front();
            self.first += 1;
        }
        self.names.push_back(name);
        self.first + self.names.len() as u64 - 1
    }

    fn name_at(&self, position: u64) -> Option<&Name> {
        let index = position.checked_sub(self.first)?;
        self.names.get(usize::try_from(index).ok()?)
    }

    /// True where a demand at `position` goes on from the last one, but for names that nobody has
    /// to ask about.
    fn goes_on(&self, position: u64, is_read: bool, names: &HashMap<Name, Entry>) -> bool {
        let from = match self.last {
            Some(last) => last + 1,
            None if is_read => 0,
            None => return false,
        };
        if position < from || position - from > STRIDE_MAX {
            return false;
        }
        let is_open =
            |name: &Name| names.get(name).is_some_and(|entry| entry.hint.answer.is_none());
        let skipped = (from..position).filter(|&at| self.name_at(at).is_some_and(is_open));
        skipped.take(GAP_MAX + 1).count() <= GAP_MAX
    }

    /// Takes note of a demand, and says which positions are to be asked about now.
    fn advance(&mut self, position: u64, goes_on: bool, ahead_max: u64) -> std::ops::Range<u64> {
        if self.last == Some(position) {
            // The same name again, as by an open after a stat: nothing new.
            return 0..0;
        }
        self.last = Some(position);
        if !goes_on {
            self.window = 0;
            return 0..0;
        }
        self.window = (self.window * 2).max(AHEAD_START).min(ahead_max);
        let end = self.first + self.names.len() as u64;
        let from = self.asked.max(position + 1);
        let to = (position + 1 + self.window).min(end);
        self.asked = self.asked.max(to);
        from..to.max(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const AHEAD_MAX: u64 = 8;

    fn name(number: usize) -> Name {
        Name::new(format!("{number:04}").as_ref()).unwrap()
    }

    fn listing(count: usize, now: Instant) -> Listing {
        let mut listing = Listing::default();
        for number in 0..count {
            listing.put(&name(number), Listed::Directory, None, now);
        }
        listing
    }

    fn ahead(demand: &Demand) -> Vec<String> {
        demand.ahead.iter().map(|question| question.name.as_str().to_owned()).collect()
    }

    #[test]
    fn a_walk_asks_about_each_name_once_and_never_too_far_ahead() {
        let now = Clock::manual().now();
        let mut listing = listing(100, now);
        let mut asked = Vec::new();
        for number in 0..100 {
            let demand = listing.demand(&name(number), true, AHEAD_MAX, now);
            assert!(demand.is_walk, "{number}");
            asked.extend(demand.asking.is_some().then(|| name(number).as_str().to_owned()));
            asked.extend(ahead(&demand));
            assert!(asked.len() <= number + 1 + AHEAD_MAX as usize, "{number}: {}", asked.len());
        }
        let wanted: Vec<String> = (0..100).map(|number| format!("{number:04}")).collect();
        assert_eq!(asked, wanted);
    }

    #[test]
    fn one_name_in_the_middle_is_no_walk_and_the_next_one_is() {
        let now = Clock::manual().now();
        let mut listing = listing(100, now);
        let first = listing.demand(&name(50), true, AHEAD_MAX, now);
        assert!(!first.is_walk && first.ahead.is_empty() && first.asking.is_some());
        let again = listing.demand(&name(50), true, AHEAD_MAX, now);
        assert!(!again.is_walk && again.ahead.is_empty() && again.coming.is_some());
        let next = listing.demand(&name(51), true, AHEAD_MAX, now);
        assert_eq!(
            (next.is_walk, ahead(&next)),
            (
                true,
                vec!["0052".to_owned(), "0053".to_owned(), "0054".to_owned(), "0055".to_owned(),]
            )
        );
        let back = listing.demand(&name(10), true, AHEAD_MAX, now);
        assert!(!back.is_walk && back.ahead.is_empty());
    }

    #[test]
    fn the_first_name_begins_a_walk_only_while_the_directory_is_read() {
        let now = Clock::manual().now();
        assert!(listing(9, now).demand(&name(0), true, AHEAD_MAX, now).is_walk);
        assert!(!listing(9, now).demand(&name(0), false, AHEAD_MAX, now).is_walk);
    }

    #[test]
    fn names_are_forgotten_when_the_walk_is_long_over() {
        let clock = Clock::manual();
        let mut listing = listing(3, clock.now());
        assert!(listing.get(&name(1), clock.now()).is_some());
        clock.advance(WALK_MAX);
        assert!(listing.get(&name(1), clock.now()).is_none());
    }

    #[test]
    fn bodies_are_fetched_while_somebody_opens_them() {
        let mut listing = Listing::default();
        for _ in 0..2 {
            let taken = (0..10).filter(|_| listing.may_take_body()).count();
            assert_eq!(taken, BODIES_MAX as usize);
            listing.is_opened();
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Clock::manual().now();
        let listing = listing(NAMES_MAX + 100, now);
        assert_eq!(listing.len(), NAMES_MAX);
    }
}
