//! The test server, seen through the AWS SDK and raw HTTP: one file per group of behaviours.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

mod checksums;
mod conditions;
mod copying;
mod faults;
mod listing;
mod log;
mod multipart;
mod objects;
mod seaweedfs;
mod versions;
