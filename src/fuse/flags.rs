//! The flags of an OPEN.
//!
//! Owns what the bits of open(2) mean to the file system. Pure. Must not know requests.

use nix::libc;

use crate::vfs::OpenFlags;

/// In the flags of an OPEN by execve(2): the kernel's own `__FMODE_EXEC` (include/linux/fs.h),
/// which it does not take out.
const FMODE_EXEC: i32 = 0x20;

/// How a file is opened.
pub(super) const fn open_flags(flags: i32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access != libc::O_WRONLY,
        write: access == libc::O_WRONLY || access == libc::O_RDWR,
        truncate: flags & libc::O_TRUNC != 0,
        append: flags & libc::O_APPEND != 0,
        exclusive: flags & libc::O_EXCL != 0,
        execute: flags & FMODE_EXEC != 0,
        direct: flags & libc::O_DIRECT != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_are_read_as_the_kernel_means_them() {
        let read = OpenFlags { read: true, ..OpenFlags::default() };
        assert_eq!(open_flags(libc::O_RDONLY | libc::O_CLOEXEC), read);
        let appends = open_flags(libc::O_WRONLY | libc::O_APPEND);
        assert_eq!(appends, OpenFlags { write: true, append: true, ..OpenFlags::default() });
        let creates = open_flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC);
        let both = OpenFlags { read: true, write: true, ..OpenFlags::default() };
        assert_eq!(creates, OpenFlags { truncate: true, exclusive: true, ..both });
        let executes = open_flags(libc::O_RDONLY | FMODE_EXEC);
        assert_eq!(executes, OpenFlags { read: true, execute: true, ..OpenFlags::default() });
    }
}
