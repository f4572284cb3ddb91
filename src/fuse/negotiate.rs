//! What is agreed with the kernel when a connection begins.
//!
//! Owns the choice of capabilities and limits. Must not know verbs.

use fuser::{InitFlags, KernelConfig};

/// Readaheads and asynchronous requests the kernel keeps in flight. The default of 16 starves
/// parallel readers: at 128 KiB each it is 2 MiB per mount, less than one connection's window.
const MAX_BACKGROUND: u16 = 64;

/// A cache folder lies on a plain file system; with one level more, overlayfs could not use our
/// mount as a layer (FILESYSTEM_MAX_STACK_DEPTH is 2).
const STACK_DEPTH: u32 = 1;

/// The capabilities to ask for, of those the kernel offers.
///
/// * `ATOMIC_O_TRUNC`: an open that truncates is one request, hence `echo x > f` is one PUT.
/// * `PARALLEL_DIROPS`: lookups in one directory need not wait for each other's network.
/// * `ASYNC_DIO`: a large direct read is split and its pieces travel together.
/// * `CACHE_SYMLINKS`: an inode is one version, so its target never changes.
/// * `PASSTHROUGH`: the kernel reads whole files of the cache by itself.
/// * `READDIRPLUS`, `READDIRPLUS_AUTO`: only where listings are all that is known of a file;
///   otherwise an entry without attributes would go out with d_ino 0.
///
/// Not asked for, each for a reason: `AUTO_INVAL_DATA` would drop an inode's pages when our own
/// commit changes its mtime, while a remote replacement is a new inode anyway;
/// `EXPLICIT_INVAL_DATA` would keep a half page of zeros where a size grew, and costs nothing to
/// leave out; `WRITEBACK_CACHE` excludes passthrough; `POSIX_LOCKS` and `FLOCK_LOCKS` so that
/// locks stay in the kernel; `DONT_MASK` so that the kernel applies the umask;
/// `HANDLE_KILLPRIV` so that the kernel clears setuid bits. `OVER_IO_URING`, `ALLOW_IDMAP`,
/// `SETXATTR_EXT`, `REQUEST_TIMEOUT`, `SECURITY_CTX`, `CREATE_SUPP_GROUP`, `HANDLE_KILLPRIV_V2`
/// and `HAS_RESEND` are accepted by fuser 0.18 and then misbehave.
fn wanted(offered: InitFlags, lists_attributes: bool) -> InitFlags {
    let always = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_PASSTHROUGH;
    let plus = InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
    offered & if lists_attributes { always | plus } else { always }
}

/// What a connection begins with. Whoever takes it over later needs the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The kernel's version of the protocol: major and minor.
    pub abi: (u32, u32),
    /// The capabilities agreed on, beside those that fuser always asks for; the kernel's bits.
    pub flags: u64,
    /// The largest WRITE.
    pub max_write: u32,
    /// Asynchronous requests in flight.
    pub max_background: u16,
    /// How deep the file systems of handed over files may be stacked; 0 where none may be.
    pub max_stack_depth: u32,
}

/// Asks the kernel for what the adapter is written for. A kernel that offers less gets less: no
/// capability is needed for being right.
pub(super) fn negotiate(
    config: &mut KernelConfig,
    lists_attributes: bool,
    request_max: u32,
) -> Negotiated {
    let wanted = wanted(config.capabilities(), lists_attributes);
    if let Err(refused) = config.add_capabilities(wanted) {
        tracing::debug!(?refused, "the kernel offered these capabilities and refused them");
    }
    // fuser sizes `max_pages`, which bounds a READ, by it too.
    if let Err(nearest) = config.set_max_write(request_max) {
        tracing::debug!(nearest, "max_write was refused");
    }
    if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
        tracing::debug!(nearest, "max_background was refused");
    }
    let passes = wanted.contains(InitFlags::FUSE_PASSTHROUGH)
        && config.set_max_stack_depth(STACK_DEPTH).is_ok();
    tracing::debug!(
        capabilities = ?wanted,
        offered = ?config.capabilities(),
        abi = ?config.kernel_abi(),
        "FUSE connection negotiated"
    );
    let abi = config.kernel_abi();
    Negotiated {
        abi: (abi.0, abi.1),
        flags: wanted.bits(),
        max_write: request_max,
        max_background: MAX_BACKGROUND,
        max_stack_depth: if passes { STACK_DEPTH } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_capabilities_are_never_asked_for() {
        let never = InitFlags::FUSE_OVER_IO_URING
            | InitFlags::FUSE_ALLOW_IDMAP
            | InitFlags::FUSE_SETXATTR_EXT
            | InitFlags::FUSE_REQUEST_TIMEOUT
            | InitFlags::FUSE_SECURITY_CTX
            | InitFlags::FUSE_CREATE_SUPP_GROUP
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_HAS_RESEND
            | InitFlags::FUSE_WRITEBACK_CACHE
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_DONT_MASK;
        for lists in [false, true] {
            assert!(!wanted(InitFlags::all(), lists).intersects(never));
        }
    }

    #[test]
    fn readdirplus_is_for_listed_attributes_alone() {
        let plus = InitFlags::FUSE_DO_READDIRPLUS;
        assert!(wanted(InitFlags::all(), true).contains(plus));
        assert!(!wanted(InitFlags::all(), false).contains(plus));
        let old = InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_BIG_WRITES;
        assert_eq!(wanted(old, true), old);
    }
}
