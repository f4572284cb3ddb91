//! The pages of a directory's listing in key order, asked for before the reader needs them.
//!
//! Owns what runs ahead of him: the page after the one he reads, and in a long directory stretches
//! further on, several at once, whose beginnings are guessed from the names that came. Promises:
//! each line once and in order, whatever was guessed; up to [`LONG`] pages one request for each;
//! behind the first only for a reader who goes on. Must not know what a line means.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::clock::Clock;
use crate::naming::{Prefix, Spread};
use crate::store::{self, ErrorKind, ListLine, ListPage, ListRequest, ObjectStore, Operation};
use crate::tasks::Tasks;

/// Pages after which a directory is long enough for guesses: each may cost a request too many.
const LONG: u64 = 20;

/// Pages that a stretch should have.
const STRETCH_PAGES: u64 = 6;

/// Names that it should have: less than its pages hold, so that the last of them still goes past
/// its end where the guess was a little too far. A page more would be asked for to find nothing.
const STRETCH_NAMES: u64 = STRETCH_PAGES * PAGE_KEYS - PAGE_KEYS / 4;

/// Stretches ahead of their readers, of all walks of a mount together: 36 pages of 1 000 names, at
/// some 250 bytes each, are 9 MB.
const STRETCHES_MAX: usize = 6;

/// Pages of a stretch that wait for their reader: what it was lent, and the one he waits for.
const WAITING_MAX: usize = 8;

/// Keys that a store puts on a page.
const PAGE_KEYS: u64 = 1000;

/// Sorts behind everything that a key can go on with.
const BEHIND_ALL: char = '\u{10FFFF}';

/// What all walks of a mount share.
#[derive(Debug, Clone)]
pub(super) struct Source {
    store: Arc<dyn ObjectStore>,
    clock: Clock,
    /// Room for stretches ahead of their readers.
    room: Arc<Semaphore>,
}

/// A listing as far as one reader has come.
#[derive(Debug)]
pub(super) struct Pages {
    source: Source,
    prefix: Prefix,
    /// In key order, each beginning where the one before ends. The reader is in the first.
    stretches: VecDeque<Stretch>,
    /// Pages given.
    given: u64,
    /// The last key given.
    last: Option<String>,
    tasks: Tasks,
}

/// Some lines of a listing.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) lines: Vec<ListLine>,
    /// When the store was asked.
    pub(super) asked: Instant,
    /// Nothing follows.
    pub(super) is_last: bool,
}

/// A part of the keys, listed by a task of its own.
#[derive(Debug)]
struct Stretch {
    bounds: Arc<Mutex<Bounds>>,
    /// A permit for each page that may be asked for.
    credit: Arc<Semaphore>,
    lent: u64,
    coming: mpsc::Receiver<store::Result<Arrived>>,
    /// Pages given to the reader.
    given: u64,
    /// How to ask for what follows the last of them.
    next: Option<String>,
    /// Held as long as the reader has not come here.
    room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Arrived {
    lines: Vec<ListLine>,
    asked: Instant,
    next: Option<String>,
    /// The stretch ends with it.
    is_end: bool,
}

/// Where a stretch lies.
#[derive(Debug, Clone, Default)]
struct Bounds {
    /// The key that it begins behind.
    after: Option<String>,
    /// The last key that is still its own; none where it goes on to the end.
    until: Option<String>,
    /// The last key that has come.
    last: Option<String>,
    is_over: bool,
}

impl Source {
    pub(super) fn new(store: Arc<dyn ObjectStore>, clock: Clock) -> Self {
        let room = Arc::new(Semaphore::new(STRETCHES_MAX));
        Self { store, clock, room }
    }

    /// The pages of a directory; nothing is asked before the first is wanted.
    pub(super) fn pages(&self, prefix: Prefix) -> Pages {
        Pages {
            source: self.clone(),
            prefix,
            stretches: VecDeque::new(),
            given: 0,
            last: None,
            tasks: Tasks::new(),
        }
    }
}

impl Pages {
    /// The next page; none after the last. A call that is given up loses nothing, and after an
    /// error the same page can be asked for again.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn next(&mut self) -> store::Result<Option<Page>> {
        if self.given == 0 && self.stretches.is_empty() {
            let first = self.begin(Bounds::default(), None, None);
            self.stretches.push_back(first);
        }
        let reads_on = self.given > 0;
        let Some(front) = self.stretches.front_mut() else { return Ok(None) };
        front.room = None;
        // Who reads on after the first page reads them all.
        front.lend(front.given + 1 + u64::from(reads_on));
        let arrived = match front.coming.recv().await {
            Some(Ok(arrived)) => arrived,
            failed => {
                self.begin_front_again();
                let broken = || ErrorKind::Other("the listing broke off".to_owned());
                let error = failed.and_then(Result::err);
                return Err(error.unwrap_or_else(|| store::Error::new(Operation::List, broken())));
            }
        };
        front.given += 1;
        front.next.clone_from(&arrived.next);
        if arrived.is_end {
            self.stretches.pop_front();
        }
        self.given += 1;
        if let Some(line) = arrived.lines.last() {
            self.last = Some(line.key().to_owned());
        }
        self.look_further(&arrived.lines);
        let Arrived { lines, asked, .. } = arrived;
        Ok(Some(Page { lines, asked, is_last: self.stretches.is_empty() }))
    }

    /// The directory has another name now; what follows is listed there.
    pub(super) fn follow(&mut self, prefix: Prefix) {
        if self.prefix.as_str() == prefix.as_str() {
            return;
        }
        let last = self.last.as_deref().and_then(|last| self.prefix.strip(last));
        let after = last.map(|name| match name.strip_suffix('/') {
            Some(_) => format!("{prefix}{name}{BEHIND_ALL}"),
            None => format!("{prefix}{name}"),
        });
        let has_begun = !self.stretches.is_empty();
        self.stretches.clear();
        self.tasks = Tasks::new();
        self.prefix = prefix;
        if has_begun {
            let front = self.begin(Bounds { after, ..Bounds::default() }, None, None);
            self.stretches.push_back(front);
        }
    }

    /// A stretch whose task waits to be lent its first page.
    fn begin(
        &self,
        bounds: Bounds,
        next: Option<String>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Stretch {
        let request = ListRequest {
            prefix: self.prefix.as_str().to_owned(),
            delimited: true,
            start_after: bounds.after.clone().filter(|_| next.is_none()),
            continuation: next.clone(),
            max_keys: None,
        };
        let (sender, coming) = mpsc::channel(WAITING_MAX);
        let (bounds, credit) = (Arc::new(Mutex::new(bounds)), Arc::new(Semaphore::new(0)));
        let source = self.source.clone();
        self.tasks.spawn(list(source, request, Arc::clone(&bounds), Arc::clone(&credit), sender));
        Stretch { bounds, credit, lent: 0, coming, given: 0, next, room }
    }

    /// The task of the first stretch has failed; another goes on where the reader is.
    fn begin_front_again(&mut self) {
        let Some(failed) = self.stretches.pop_front() else { return };
        let bounds = failed.bounds().clone();
        let again = self.begin(bounds, failed.next, None);
        self.stretches.push_front(again);
    }

    /// Divides the last stretch where the directory is long, and there is more to come behind the
    /// names that it is known to have.
    fn look_further(&mut self, lines: &[ListLine]) {
        if self.given < LONG || self.stretches.len() > STRETCHES_MAX {
            return;
        }
        let Some(tail) = self.stretches.back() else { return };
        let Ok(room) = Arc::clone(&self.source.room).try_acquire_owned() else { return };
        let after = {
            // Under one lock with the page that may come meanwhile.
            let mut bounds = tail.bounds();
            let Some(guess) = self.guess(&bounds, lines) else { return };
            bounds.until = Some(guess.clone());
            guess
        };
        let bounds = Bounds { after: Some(after), ..Bounds::default() };
        let mut stretch = self.begin(bounds, None, Some(room));
        stretch.lend(STRETCH_PAGES + 1);
        self.stretches.push_back(stretch);
    }

    /// Where a stretch that goes on to the end should end instead, by the pace of these lines.
    fn guess(&self, bounds: &Bounds, lines: &[ListLine]) -> Option<String> {
        // What nothing is known of may be nothing.
        let known = self.prefix.strip(bounds.last.as_deref()?)?;
        if bounds.is_over {
            return None;
        }
        let names = lines.iter().filter_map(|line| self.prefix.strip(line.key()));
        let names: Vec<&str> = names.map(|name| name.trim_end_matches('/')).collect();
        let spread = Spread::of(&names)?;
        let begins = bounds.after.as_deref().and_then(|after| self.prefix.strip(after));
        let known = known.trim_end_matches('/');
        let from_begin = begins.and_then(|begins| spread.ahead(begins, STRETCH_NAMES));
        let from = from_begin.filter(|guess| guess.as_str() > known);
        let guess = from
            .or_else(|| spread.ahead(known, STRETCH_NAMES))
            .filter(|guess| guess.as_str() > known)?;
        Some(format!("{}{}", self.prefix, beginning(known, &guess)))
    }
}

/// Where a stretch begins that should begin about at `guess`, when names up to `known` have come.
///
/// Some stores order names as a tree does, where a directory stands at its name, and not behind
/// `name-` and `name.jpg` as its key does. So that both orders put every directory that is still to
/// come on the same side, its name must not be this string, nor end in it before a character that
/// is less than a slash.
fn beginning(known: &str, guess: &str) -> String {
    let same = known.bytes().zip(guess.bytes()).take_while(|(one, other)| one == other).count();
    let is_low = |(index, character): &(usize, u8)| *index > same && *character <= b'/';
    let end = guess.bytes().enumerate().find(is_low).map_or(guess.len(), |(index, _)| index);
    // Greater than a slash, and than all that names are mostly made of. Guesses are ASCII.
    format!("{}~", guess.get(..end).unwrap_or(guess))
}

impl Stretch {
    fn bounds(&self) -> MutexGuard<'_, Bounds> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets its task ask for so many pages in all.
    fn lend(&mut self, pages: u64) {
        let more = pages.saturating_sub(self.lent);
        self.credit.add_permits(usize::try_from(more).unwrap_or(0));
        self.lent += more;
    }
}

impl Bounds {
    /// Takes in a page; true where the stretch ends with it.
    fn admit(&mut self, page: &mut ListPage) -> bool {
        let Some(last) = page.lines.last().map(|line| line.key().to_owned()) else {
            self.is_over = page.next.is_none();
            return self.is_over;
        };
        let is_past = self.until.as_ref().is_some_and(|until| last >= *until);
        if let Some(until) = &self.until {
            page.lines.retain(|line| line.key() <= until.as_str());
        }
        self.last = Some(last);
        self.is_over = is_past || page.next.is_none();
        self.is_over
    }
}

/// Lists a stretch to its end, a page for each permit.
async fn list(
    source: Source,
    mut request: ListRequest,
    bounds: Arc<Mutex<Bounds>>,
    credit: Arc<Semaphore>,
    sender: mpsc::Sender<store::Result<Arrived>>,
) {
    loop {
        let Ok(permit) = credit.acquire().await else { return };
        permit.forget();
        let asked = source.clock.now();
        let mut page = match source.store.list(&request).await {
            Ok(page) => page,
            Err(error) => {
                // Nobody is listening where the reader has ended.
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        let is_end = bounds.lock().unwrap_or_else(PoisonError::into_inner).admit(&mut page);
        let ListPage { lines, next } = page;
        request.continuation.clone_from(&next);
        let is_heard = sender.send(Ok(Arrived { lines, asked, next, is_end })).await.is_ok();
        if is_end || !is_heard {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_lies_between_names_in_the_order_of_keys_and_of_a_tree() {
        for (known, guess, wanted) in [
            ("img-000999.jpg", "img-005999.jpg", "img-005999~"),
            ("000999", "005999", "005999~"),
            ("a-1", "a.5", "a.5~"),
            ("2024-01-31", "2024-07-15", "2024-07~"),
        ] {
            let begins = beginning(known, guess);
            assert_eq!(begins, wanted);
            // Every name that is one of its beginnings and has not come yet.
            for end in (1..begins.len()).filter(|end| &begins[..*end] > known) {
                let (name, key) = (&begins[..end], format!("{}/", &begins[..end]));
                assert_eq!(name < begins.as_str(), key < begins, "{name}");
            }
        }
    }
}
