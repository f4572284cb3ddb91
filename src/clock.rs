//! The only place that asks what time it is.
//!
//! Owns the two clocks of the program: a monotonic one for ages and deadlines, and the wall clock
//! for timestamps that people see. A test may hold a manual clock and move it by hand. Must not
//! know what the time is used for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A source of time, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Moved>>>);

/// A clock that a test moves.
#[derive(Debug)]
enum Moved {
    /// It stands still between the moves.
    Still(Instant, SystemTime),
    /// It goes on between them, so far ahead of the machine's.
    Ahead(Duration),
}

impl Clock {
    /// The machine's clocks.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    #[expect(clippy::disallowed_methods, reason = "this module is where time is read")]
    pub fn manual() -> Self {
        let still = Moved::Still(Instant::now(), SystemTime::now());
        Self(Some(Arc::new(Mutex::new(still))))
    }

    /// The machine's clocks, which [`Clock::advance`] can make leap: no two questions are asked at
    /// the same time.
    pub fn leaping() -> Self {
        Self(Some(Arc::new(Mutex::new(Moved::Ahead(Duration::ZERO)))))
    }

    /// Moves a manual or leaping clock forward; the system's clocks go on as they do.
    pub fn advance(&self, by: Duration) {
        let Some(moved) = &self.0 else { return };
        match &mut *moved.lock().unwrap_or_else(PoisonError::into_inner) {
            Moved::Still(instant, wall) => {
                *instant += by;
                *wall += by;
            }
            Moved::Ahead(ahead) => *ahead += by,
        }
    }

    fn moved<T>(&self, read: impl FnOnce(&Moved) -> T) -> Option<T> {
        let moved = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(read(&moved))
    }

    /// Monotonic time.
    #[expect(clippy::disallowed_methods, reason = "this module is where time is read")]
    pub fn now(&self) -> Instant {
        let moved = self.moved(|moved| match moved {
            Moved::Still(instant, _) => *instant,
            Moved::Ahead(ahead) => Instant::now() + *ahead,
        });
        moved.unwrap_or_else(Instant::now)
    }

    /// Time of day.
    #[expect(clippy::disallowed_methods, reason = "this module is where time is read")]
    pub fn wall(&self) -> SystemTime {
        let moved = self.moved(|moved| match moved {
            Moved::Still(_, wall) => *wall,
            Moved::Ahead(ahead) => SystemTime::now() + *ahead,
        });
        moved.unwrap_or_else(SystemTime::now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual();
        let (instant, wall) = (clock.now(), clock.wall());
        assert_eq!(clock.now(), instant);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now() - instant, Duration::from_secs(5));
        assert_eq!(clock.wall().duration_since(wall).ok(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_leaping_clock_goes_on_between_its_leaps() {
        let clock = Clock::leaping();
        let instant = clock.now();
        assert!(clock.now() >= instant);
        clock.advance(Duration::from_secs(5));
        assert!(clock.now() - instant >= Duration::from_secs(5));
    }
}
