//! The CSI driver and the server of a node's volumes, on real mounts.
//!
//! Needs root, /dev/fuse and CAP_SYS_ADMIN.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "kubelet works by the real clock")]

mod alone;
mod authority;
mod containers;
mod controller;
mod crash;
mod driver;
mod identity;
mod identity_of_pod;
mod kubelet;
#[expect(dead_code, reason = "pods use more of it than containers do")]
#[path = "../kubernetes/node.rs"]
mod node;
mod passthrough;
mod pods;
mod provision;
mod publish;
mod refuse;
mod republish;
mod restart;
mod sanity;
mod server;
mod sidecar;
mod silent;
#[path = "../kubernetes/seccomp.rs"]
mod seccomp;
#[expect(dead_code, reason = "pods use more of it than containers do")]
#[path = "../kubernetes/spec.rs"]
mod spec;
mod stand;
