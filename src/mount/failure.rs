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

impl Failure {
    /// Somebody must change the configuration before it can work.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: CONFIGURATION }
    }

    /// It failed this time, or on this machine.
    pub fn passing(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
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
