//! Programs that people run, on a mount: what they must not notice is that it is S3.
//!
//! Needs root, /dev/fuse, and what `.ci/setup programs` installs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod costs;
mod databases;
mod editors;
mod interop;
mod sources;
mod stage;
