//! What is known of the names in a directory without asking.
//!
//! Owns three kinds of knowledge, each with its age: names that a lookup did not find, names that
//! a listing brought (`listed`), and that a directory made by this mount holds nothing unknown.
//! Must not know how a question is asked when the answer is not here.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::listed::{Listing, WALK_MAX};
use crate::naming::Name;

/// Absent names remembered per directory: a build asks for a few hundred include files that are
/// not there, and each costs about 100 bytes.
const ABSENT_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

/// What is known of one directory's names.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    absent: Option<LruCache<Name, Instant>>,
    /// The names that listings brought.
    pub(super) listing: Listing,
    /// When this mount made the directory, and when it last made a name in it.
    made: Option<(Instant, Instant)>,
    /// The directory's marker object exists.
    pub(super) has_marker: bool,
    /// The store has carried out a delete in this directory, so that the next may be expected to
    /// succeed.
    pub(super) may_delete: bool,
}

impl Knowledge {
    /// This mount has just made the directory: it is empty.
    pub(super) fn made(&mut self, now: Instant) {
        self.made = Some((now, now));
        self.has_marker = true;
    }

    /// A name that is there is known no more, so that what is not known may be there.
    pub(super) fn incomplete(&mut self) {
        self.made = None;
    }

    /// A name that was taken away is there again: its delete failed.
    pub(super) fn is_back(&mut self, name: &Name) {
        self.forget(name);
        self.incomplete();
        self.may_delete = false;
    }

    /// A name was made here, by this mount.
    pub(super) fn created(&mut self, name: &Name, now: Instant) {
        self.forget(name);
        if let Some((_, last_create)) = &mut self.made {
            *last_create = now;
        }
    }

    /// A name was taken away here, by this mount, or was not found.
    pub(super) fn gone(&mut self, name: &Name, now: Instant) {
        self.listing.remove(name);
        self.absent.get_or_insert_with(|| LruCache::new(ABSENT_MAX)).put(name.clone(), now);
    }

    /// True where the name was taken away later than `then`: what was asked by then is outdated.
    pub(super) fn is_gone_since(&self, name: &Name, then: Instant) -> bool {
        let gone = self.absent.as_ref().and_then(|absent| absent.peek(name));
        gone.is_some_and(|&gone| gone > then)
    }

    /// Nothing is known of the name any more.
    pub(super) fn forget(&mut self, name: &Name) {
        self.listing.remove(name);
        self.is_there(name);
    }

    /// The name is there: whoever did not find it was too early.
    pub(super) fn is_there(&mut self, name: &Name) {
        if let Some(absent) = &mut self.absent {
            absent.pop(name);
        }
    }

    /// True where the name is known not to be there.
    pub(super) fn is_absent(&mut self, name: &Name, ttl: Duration, now: Instant) -> bool {
        if let Some((made, last_create)) = self.made {
            let is_young = now.duration_since(last_create) < ttl;
            if is_young && now.duration_since(made) < WALK_MAX && !self.listing.has(name) {
                return true;
            }
        }
        let seen = self.absent.as_mut().and_then(|absent| absent.get(name).copied());
        seen.is_some_and(|at| now.duration_since(at) < ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const TTL: Duration = Duration::from_secs(1);

    fn name(text: &str) -> Name {
        Name::new(text.as_ref()).unwrap()
    }

    #[test]
    fn a_directory_made_here_is_fully_known_while_it_is_being_filled() {
        let clock = Clock::manual();
        let mut knowledge = Knowledge::default();
        assert!(!knowledge.is_absent(&name("a"), TTL, clock.now()));
        knowledge.made(clock.now());
        assert!(knowledge.is_absent(&name("a"), TTL, clock.now()));
        for _ in 0..100 {
            clock.advance(TTL / 2);
            knowledge.created(&name("b"), clock.now());
        }
        assert!(knowledge.is_absent(&name("a"), TTL, clock.now()), "50 s old");
        clock.advance(TTL * 2);
        assert!(!knowledge.is_absent(&name("a"), TTL, clock.now()), "nothing made for 2 s");
    }

    #[test]
    fn an_absent_name_is_believed_for_the_ttl() {
        let clock = Clock::manual();
        let mut knowledge = Knowledge::default();
        knowledge.gone(&name("a"), clock.now());
        assert!(knowledge.is_absent(&name("a"), TTL, clock.now()));
        clock.advance(TTL);
        assert!(!knowledge.is_absent(&name("a"), TTL, clock.now()));
    }
}
