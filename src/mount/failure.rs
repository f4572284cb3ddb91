//! Why a mount did not come about, or did not end well: one line for a person, one exit code.
//!
//! Owns [`Failure`]. Must not know how it is printed.

use std::fmt;

/// A sentence for standard error, and the exit code that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    code: u8,
}

/// `EX_CONFIG` of sysexits.h: what was asked for cannot work as it is set up.
const CONFIGURATION: u8 = 78;

/// What another try may not meet.
const PASSING: u8 = 1;

/// What the store refused at the first contact: each has an exit code of its own, for programs
/// that start mounts for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has no such bucket.
    NoBucket,
    /// It does not know who asks.
    Unknown,
    /// It knows, and he may not.
    Denied,
}

impl Refused {
    const ALL: [Self; 3] = [Self::NoBucket, Self::Unknown, Self::Denied];

    /// `EX_NOINPUT`, `EX_NOUSER` and `EX_NOPERM` of sysexits.h.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::NoBucket => 66,
            Self::Unknown => 67,
            Self::Denied => 77,
        }
    }

    /// What an exit code says; none where it says something else.
    pub fn of(exit_code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|one| i32::from(one.exit_code()) == exit_code)
    }
}

impl Failure {
    /// Somebody must change the configuration before it can work.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: CONFIGURATION }
    }

    /// The store refused, and will until somebody changes something.
    pub fn refused(what: Refused, message: impl Into<String>) -> Self {
        Self { message: message.into(), code: what.exit_code() }
    }

    /// It failed this time, or on this machine.
    pub fn passing(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: PASSING }
    }

    /// True where the same may work the next time, though nobody changes anything.
    pub const fn may_pass(&self) -> bool {
        self.code == PASSING
    }

    /// The process's exit code.
    pub const fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
