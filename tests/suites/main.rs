//! Test suites that others wrote for disks, on a mount.
//!
//! Needs root, /dev/fuse, CAP_SYS_ADMIN and what `.ci/setup suites` installs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fsx;
mod pjdfstest;

/// True in `make soak`, which runs the long forms.
#[expect(clippy::disallowed_methods, reason = "tests have no config::resolve")]
fn is_soak() -> bool {
    std::env::var_os("S3POD_SOAK").is_some()
}
