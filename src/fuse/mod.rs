//! The kernel's door: FUSE requests in, verbs of `vfs` called, replies out.
//!
//! Owns everything that knows fuser's types except the session itself (`mount/session.rs`).
//! Promises: no thread that reads requests ever waits for the network; every request is answered
//! once, whatever fails; every failure is counted, and logged once. Must not know S3, keys or
//! caches.

mod adapter;
mod dropper;
mod errno;
mod flags;
mod meter;
mod negotiate;
mod passthrough;
pub mod registrar;
mod reply;
mod request;

pub use adapter::Adapter;
pub use dropper::Dropper;
pub use negotiate::Negotiated;
pub use registrar::Registrar;
pub use request::Settings;
