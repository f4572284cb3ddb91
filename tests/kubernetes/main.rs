//! Pods with a sidecar, from the first instruction to the last byte.
//!
//! A small pod runner does what kubelet does ([`pod`]), with real containers by crun in a mount
//! namespace of its own ([`node`]), from the words of a pod's spec ([`spec`]). Needs root,
//! /dev/fuse, CAP_SYS_ADMIN, crun and busybox-static.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "kubelet works by the real clock")]

/// Makes a test of each case on the server of the tests, and one on somebody else's store.
macro_rules! on_both_stores {
    ($($case:ident),+ $(,)?) => {
        mod ours {
            $(#[test]
            fn $case() {
                super::$case(&crate::bench::Bench::new());
            })+
        }

        mod seaweedfs {
            $(#[test]
            fn $case() {
                super::$case(&crate::bench::Bench::on_seaweedfs());
            })+
        }
    };
}

mod bench;
mod chart;
mod clock;
mod config;
mod crash;
mod documents;
mod end;
mod life;
mod load;
mod manifests;
mod node;
mod plugin;
mod pod;
mod probes;
#[path = "../mount/raw.rs"]
mod raw;
mod refused;
mod scratch;
mod seccomp;
mod spec;
mod storage;
mod sub_path;
mod trust;
mod unprivileged;
mod volumes;
mod words;
