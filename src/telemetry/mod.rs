//! What the program says of itself.
//!
//! Owns the log's start, lines that are said once, and [`Secret`], the wrapper that keeps
//! credentials out of all of it. Promises: nothing here can fail a file operation. Must not know
//! what is being reported.

mod log;
mod once;
mod secret;

pub use log::{Log, LogFormat, LogLevel, LogSettings};
pub use once::Once;
pub use secret::Secret;
