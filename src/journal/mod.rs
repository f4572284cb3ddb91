//! The local folder in which a mount keeps what is not in S3 yet.
//!
//! Owns `<cache-dir>/journal/<volume>/<slot>`: every live mount of a volume holds the lock on one
//! slot, so that several mounts can share a cache folder and a mount that died leaves a slot that
//! nobody holds. Promises: two live mounts never share a slot. Must not know extents, uploads or
//! inodes.

mod slot;

pub use slot::{Leftover, Slot};
