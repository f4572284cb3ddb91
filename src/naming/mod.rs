//! The rules between POSIX names and S3 keys, as pure functions.
//!
//! Owns what a key is, what a file name is, and which keys become which files
//! (`docs/semantics.md`, "Objects and names"). Promises: no I/O, no state, the same answer for
//! the same input. Must not know stores, inodes or FUSE.

mod content_type;
mod key;
mod name;
mod resolve;
mod spread;

pub use content_type::{DIRECTORY_CONTENT_TYPE, content_type};
pub use key::{Key, MAX_KEY_BYTES, Prefix, is_reserved};
pub use name::{MAX_NAME_BYTES, Name, NameError};
pub use resolve::{Child, HiddenReason, Listed, Merge, classify};
pub use spread::Spread;
