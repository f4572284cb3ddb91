//! What the program says of itself.
//!
//! Owns the log's start, the numbers that are counted, lines that are said once, and [`Secret`],
//! the wrapper that keeps credentials out of all of it. Promises: nothing here can fail a file
//! operation. Must not know what is being reported.

mod log;
pub mod metrics;
mod once;
mod secret;

pub use log::{Log, LogFormat, LogLevel, LogSettings};
pub use metrics::Metrics;
pub use once::Once;
pub use secret::Secret;
