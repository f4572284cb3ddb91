//! Programs that people run, on a mount: what they must not notice is that it is S3.
//!
//! Needs root, /dev/fuse, and what `.ci/setup programs` installs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod databases;
mod editors;
mod sources;
mod stage;
