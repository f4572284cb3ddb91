//! Why a call is refused, in the words of gRPC.
//!
//! Owns [`Refusal`]: a status code and a sentence that names the field, the cause and the fix.
//! Promises: no secret stands in a message. Must not know the wire.

use std::fmt;

/// Status codes of gRPC, by their numbers; only those that this driver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What kind of refusal, for the caller's program.
    pub(crate) code: Code,
    /// What to do about it, for a person who reads events.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal in one sentence.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A field of the call says something that cannot be.
    pub(crate) fn field(field: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::new(Code::InvalidArgument, format!("{field}: {reason}"))
    }

    /// Who said so may not say so.
    pub(crate) fn denied(field: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::new(Code::PermissionDenied, format!("{field}: {reason}"))
    }

    /// Nobody can be asked as whom this volume is to be read.
    pub(crate) fn nobody(field: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::new(Code::Unauthenticated, format!("{field}: {reason}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
