//! What the system allows this process.
//!
//! Owns the raising of soft limits. Must not know what needs them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are enough: some systems set the hard limit to a billion, which makes child
/// processes that close every number slow.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Raises the soft limit of open descriptors to the hard one: each connection, staging file and
/// FUSE thread takes one, and the usual soft limit is 1 024.
pub(super) fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS_MAX).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    });
    if let Err(errno) = raised {
        tracing::debug!(%errno, "the limit of open files stays as it is");
    }
}
