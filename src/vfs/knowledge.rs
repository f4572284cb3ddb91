//! What is known of the names in a directory without asking.
//!
//! Owns three kinds of knowledge, each with its age: names that a lookup did not find, names that
//! a listing brought, and that a directory made by this mount holds nothing unknown. Must not
//! know how a question is asked when the answer is not here.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::naming::Name;
use crate::store::Version;

/// What a readdir brought stays valid while the walk goes on, and at most so long.
const WALK_MAX: Duration = Duration::from_secs(60);

/// Absent names remembered per directory: a build asks for a few hundred include files that are
/// not there, and each costs about 100 bytes.
const ABSENT_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

/// Listed names remembered per directory; a walk looks each up soon after it was listed.
const LISTED_MAX: usize = 20_000;

/// What a listing said of a name.
#[derive(Debug, Clone)]
pub(super) enum Listed {
    File(Arc<Version>),
    Directory,
}

/// What is known of one directory's names.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    absent: Option<LruCache<Name, Instant>>,
    listed: HashMap<Name, (Listed, Instant)>,
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
        self.listed.remove(name);
        self.absent.get_or_insert_with(|| LruCache::new(ABSENT_MAX)).put(name.clone(), now);
    }

    /// True where the name was taken away later than `then`: what was asked by then is outdated.
    pub(super) fn is_gone_since(&self, name: &Name, then: Instant) -> bool {
        let gone = self.absent.as_ref().and_then(|absent| absent.peek(name));
        gone.is_some_and(|&gone| gone > then)
    }

    /// Nothing is known of the name any more.
    pub(super) fn forget(&mut self, name: &Name) {
        self.listed.remove(name);
        if let Some(absent) = &mut self.absent {
            absent.pop(name);
        }
    }

    /// A listing brought the name.
    pub(super) fn listed(&mut self, name: &Name, listed: Listed, now: Instant) {
        if self.listed.len() >= LISTED_MAX {
            self.listed.retain(|_, (_, at)| now.duration_since(*at) < WALK_MAX / 4);
        }
        if self.listed.len() < LISTED_MAX {
            self.listed.insert(name.clone(), (listed, now));
        }
        if let Some(absent) = &mut self.absent {
            absent.pop(name);
        }
    }

    /// The walk is long over.
    pub(super) fn forget_listing(&mut self) {
        self.listed = HashMap::new();
    }

    /// What a listing said of the name, while its walk goes on.
    pub(super) fn take_listed(&mut self, name: &Name, now: Instant) -> Option<Listed> {
        let (listed, at) = self.listed.remove(name)?;
        (now.duration_since(at) < WALK_MAX).then_some(listed)
    }

    /// True where the name is known not to be there.
    pub(super) fn is_absent(&mut self, name: &Name, ttl: Duration, now: Instant) -> bool {
        if let Some((made, last_create)) = self.made {
            let is_young = now.duration_since(last_create) < ttl;
            if is_young && now.duration_since(made) < WALK_MAX && !self.listed.contains_key(name) {
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
