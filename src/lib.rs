//! s3pod: S3 buckets as files.
//!
//! This file is the map of the house. The modules stand in floor order, roof first, and the
//! order is the law: **a file imports its own folder and the modules listed below its own,
//! never one listed above.** One addition: `read` and `write` are siblings, and neither
//! imports the other. `tests/tidy.rs` fails when a file breaks it.
//!
//! ```text
//!   read(2)   fuse/adapter > vfs > read  > cache  > store decorators > store/s3/get
//!   write(2)  fuse/adapter > vfs > write > stream | stage > commit   > store/s3/put
//! ```

pub mod cli;
pub mod mount;

pub mod config;

pub mod fuse;
pub mod vfs;

pub mod read;
pub mod write;

pub mod journal;
pub mod cache;
pub mod store;

pub mod naming;
pub mod posix_metadata;

pub mod telemetry;
pub mod budget;
pub mod bound;
pub mod clock;
pub mod tasks;
pub mod units;
