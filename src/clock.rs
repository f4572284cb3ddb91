//! The only place that asks what time it is.
//!
//! Owns the two clocks of the program: a monotonic one for ages and deadlines, and the wall clock
//! for timestamps that people see. A test may hold a manual clock and move it by hand. Must not
//! know what the time is used for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A source of time, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Manual>>>);

#[derive(Debug)]
struct Manual {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    /// The machine's clocks.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    #[expect(clippy::disallowed_methods, reason = "this module is where time is read")]
    pub fn manual() -> Self {
        let manual = Manual { instant: Instant::now(), wall: SystemTime::now() };
        Self(Some(Arc::new(Mutex::new(manual))))
    }

    /// Moves a manual clock forward; the system's clocks go on as they do.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            let mut manual = manual.lock().unwrap_or_else(PoisonError::into_inner);
            manual.instant += by;
            manual.wall += by;
        }
    }

    /// Monotonic time.
    #[expect(clippy::disallowed_methods, reason = "this module is where time is read")]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Some(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).instant,
            None => Instant::now(),
        }
    }

    /// Time of day.
    #[expect(clippy::disallowed_methods, reason = "this module is where time is read")]
    pub fn wall(&self) -> SystemTime {
        match &self.0 {
            Some(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).wall,
            None => SystemTime::now(),
        }
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
}
