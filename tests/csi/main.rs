//! The CSI driver and the server of a node's volumes, on real mounts.
//!
//! Needs root, /dev/fuse and CAP_SYS_ADMIN.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod server;
mod stand;
