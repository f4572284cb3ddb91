//! Which errno an application sees, and what a person should do about it.
//!
//! Owns one exhaustive match over every error of the floors below: a new variant does not compile
//! until somebody has decided here. Must not know requests or replies.
#![deny(clippy::wildcard_enum_match_arm)]

use std::io;

use fuser::Errno;

use crate::naming::NameError;
use crate::store::{self, ErrorKind};
use crate::{vfs, write};

/// What an error means outside: the errno, and advice where a person can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What the system call returns.
    pub(super) errno: Errno,
    /// What to do; empty where the errno says all.
    pub(super) advice: &'static str,
}

const fn plain(errno: Errno) -> Verdict {
    Verdict { errno, advice: "" }
}

const fn advised(errno: Errno, advice: &'static str) -> Verdict {
    Verdict { errno, advice }
}

/// Decides what a failed verb returns.
///
/// Where POSIX leaves a choice: metadata that does not fit an object is ENOSPC, as a full
/// attribute block is on ext4; a verb without progress and a mount that shuts down are EIO, since
/// few programs know what ETIMEDOUT or ENOTCONN mean of a file.
pub(super) fn judge(error: &vfs::Error) -> Verdict {
    match error {
        vfs::Error::NotFound => plain(Errno::ENOENT),
        vfs::Error::Exists => plain(Errno::EEXIST),
        vfs::Error::NotDirectory => plain(Errno::ENOTDIR),
        vfs::Error::IsDirectory => plain(Errno::EISDIR),
        vfs::Error::NotEmpty => plain(Errno::ENOTEMPTY),
        vfs::Error::Invalid => plain(Errno::EINVAL),
        vfs::Error::Name(error) => judge_name(*error),
        vfs::Error::BadHandle => plain(Errno::EBADF),
        vfs::Error::Executed => plain(Errno::ETXTBSY),
        vfs::Error::ReadOnly => plain(Errno::EROFS),
        vfs::Error::NotSupported(_) => plain(Errno::EOPNOTSUPP),
        vfs::Error::NotPermitted(_) => plain(Errno::EPERM),
        vfs::Error::Stale => advised(Errno::ESTALE, "open the file again"),
        vfs::Error::TooBig => plain(Errno::EFBIG),
        vfs::Error::NoData => plain(Errno::ENODATA),
        vfs::Error::BufferTooSmall => plain(Errno::ERANGE),
        vfs::Error::AttributesTooBig => advised(
            Errno::ENOSPC,
            "S3 keeps 2 KiB of metadata with an object: remove extended attributes",
        ),
        vfs::Error::TimedOut => advised(
            Errno::EIO,
            "check that the endpoint answers, or raise --op-timeout if it is only slow",
        ),
        vfs::Error::Full => {
            advised(Errno::ENOSPC, "delete something, or let the volume have a larger capacity")
        }
        vfs::Error::ShuttingDown => advised(Errno::EIO, "the mount was told to end"),
        vfs::Error::Store(error) => judge_store(error),
        vfs::Error::Write(error) => judge_write(error),
    }
}

const fn judge_name(error: NameError) -> Verdict {
    match error {
        NameError::TooLong | NameError::KeyTooLong => plain(Errno::ENAMETOOLONG),
        NameError::NotUtf8 => plain(Errno::EILSEQ),
        NameError::Invalid => plain(Errno::EINVAL),
    }
}

fn judge_store(error: &store::Error) -> Verdict {
    match error.kind() {
        ErrorKind::NotFound => plain(Errno::ENOENT),
        // Not ENOENT: that would tell programs that single files are gone.
        ErrorKind::NoSuchBucket => advised(Errno::EIO, "the bucket was deleted; end the mount"),
        ErrorKind::Denied => {
            advised(Errno::EACCES, "allow it in the identity's or the bucket's policy")
        }
        ErrorKind::Unauthenticated(_) => advised(Errno::EACCES, "renew the credentials"),
        // A range behind the end means that the object became shorter.
        ErrorKind::Changed | ErrorKind::InvalidRange => {
            advised(Errno::ESTALE, "another writer replaced the object; open the file again")
        }
        ErrorKind::TooLarge => plain(Errno::EFBIG),
        ErrorKind::Unsupported => advised(Errno::EOPNOTSUPP, "this store cannot do it"),
        ErrorKind::Archived => advised(Errno::EACCES, "restore the object from its archive first"),
        ErrorKind::WrongRegion(_) => advised(Errno::EIO, "mount with the bucket's --region"),
        ErrorKind::Throttled => {
            advised(Errno::EIO, "the store limits requests; spread the load or ask for more")
        }
        ErrorKind::Conflict
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Connection(_) => {
            advised(Errno::EIO, "retries did not help; check the endpoint and the network")
        }
        ErrorKind::Tls(_) => advised(Errno::EIO, "check --ca-bundle and the endpoint's name"),
        ErrorKind::Damaged(_) => advised(Errno::EIO, "look for a proxy that changes bytes"),
        ErrorKind::NotAsStored => {
            advised(Errno::EIO, "open it again; if it stays so, look for what changes bytes")
        }
        ErrorKind::NotS3(_) => advised(Errno::EIO, "check --endpoint-url and the proxy"),
        ErrorKind::Local(_) => advised(Errno::EIO, "check the disk below --journal-dir"),
        ErrorKind::NotModified | ErrorKind::NoSuchUpload | ErrorKind::Other(_) => plain(Errno::EIO),
    }
}

fn judge_write(error: &write::Error) -> Verdict {
    match error {
        write::Error::StagingFull { .. } => advised(Errno::ENOSPC, "raise --staging-size"),
        write::Error::Staging { source, .. } | write::Error::Journal(source) => judge_disk(source),
        write::Error::Conflict { .. } => {
            advised(Errno::ESTALE, "`s3pod recover` has the bytes that were not written")
        }
        write::Error::Exists { .. } => plain(Errno::EEXIST),
        write::Error::InUpload { .. } => plain(Errno::EIO),
        write::Error::Lost { .. } => {
            advised(Errno::EIO, "`s3pod recover` has what is left; raise --staging-size")
        }
        write::Error::TooBig { .. } => plain(Errno::EFBIG),
        write::Error::Store(error) => judge_store(error),
    }
}

/// The local disk's own errno where a writer knows what it means, EIO for everything else.
fn judge_disk(error: &io::Error) -> Verdict {
    let advice = "check the disk below --journal-dir";
    let known = [Errno::ENOSPC, Errno::EDQUOT, Errno::EROFS];
    let errno = known.into_iter().find(|errno| error.raw_os_error() == Some(errno.code()));
    advised(errno.unwrap_or(Errno::EIO), advice)
}

/// The errno's name, as a metric's label; a fixed set, so that no series explode.
pub(super) fn name(errno: Errno) -> &'static str {
    const NAMES: [(Errno, &str); 26] = [
        (Errno::ENOENT, "ENOENT"),
        (Errno::ENODATA, "ENODATA"),
        (Errno::EEXIST, "EEXIST"),
        (Errno::ENOTEMPTY, "ENOTEMPTY"),
        (Errno::EIO, "EIO"),
        (Errno::EACCES, "EACCES"),
        (Errno::EPERM, "EPERM"),
        (Errno::ESTALE, "ESTALE"),
        (Errno::ENOSPC, "ENOSPC"),
        (Errno::EDQUOT, "EDQUOT"),
        (Errno::EROFS, "EROFS"),
        (Errno::EINVAL, "EINVAL"),
        (Errno::EBADF, "EBADF"),
        (Errno::ENOTDIR, "ENOTDIR"),
        (Errno::EISDIR, "EISDIR"),
        (Errno::ENAMETOOLONG, "ENAMETOOLONG"),
        (Errno::EILSEQ, "EILSEQ"),
        (Errno::EFBIG, "EFBIG"),
        (Errno::ERANGE, "ERANGE"),
        (Errno::ENXIO, "ENXIO"),
        (Errno::EOPNOTSUPP, "EOPNOTSUPP"),
        (Errno::ENOTTY, "ENOTTY"),
        (Errno::ENOSYS, "ENOSYS"),
        (Errno::ETIMEDOUT, "ETIMEDOUT"),
        (Errno::ENOTCONN, "ENOTCONN"),
        (Errno::EAGAIN, "EAGAIN"),
    ];
    NAMES.iter().find(|(known, _)| *known == errno).map_or("other", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naming::Key;
    use crate::store::Operation;

    fn store(kind: ErrorKind) -> vfs::Error {
        store::Error::new(Operation::Get, kind).into()
    }

    fn disk(errno: Errno) -> vfs::Error {
        let source = io::Error::from_raw_os_error(errno.code());
        write::Error::Staging { key: Key::from("a"), source }.into()
    }

    fn lost(key: Key) -> write::Error {
        let source = store::Error::new(Operation::CompleteUpload, ErrorKind::NoSuchUpload);
        let missing = write::Extents::default();
        write::Error::Lost { key, missing, source: Box::new(source.into()) }
    }

    fn said() -> String {
        "so".to_owned()
    }

    #[test]
    fn the_words_of_posix_keep_their_errno() {
        let table = [
            (vfs::Error::NotFound, Errno::ENOENT),
            (vfs::Error::Exists, Errno::EEXIST),
            (vfs::Error::NotDirectory, Errno::ENOTDIR),
            (vfs::Error::IsDirectory, Errno::EISDIR),
            (vfs::Error::NotEmpty, Errno::ENOTEMPTY),
            (vfs::Error::Invalid, Errno::EINVAL),
            (NameError::TooLong.into(), Errno::ENAMETOOLONG),
            (NameError::KeyTooLong.into(), Errno::ENAMETOOLONG),
            (NameError::NotUtf8.into(), Errno::EILSEQ),
            (NameError::Invalid.into(), Errno::EINVAL),
            (vfs::Error::BadHandle, Errno::EBADF),
            (vfs::Error::ReadOnly, Errno::EROFS),
            (vfs::Error::NotSupported("x"), Errno::EOPNOTSUPP),
            (vfs::Error::NotPermitted("x"), Errno::EPERM),
            (vfs::Error::Stale, Errno::ESTALE),
            (vfs::Error::TooBig, Errno::EFBIG),
            (vfs::Error::NoData, Errno::ENODATA),
            (vfs::Error::BufferTooSmall, Errno::ERANGE),
            (vfs::Error::AttributesTooBig, Errno::ENOSPC),
            (vfs::Error::TimedOut, Errno::EIO),
            (vfs::Error::ShuttingDown, Errno::EIO),
        ];
        for (error, want) in table {
            assert_eq!(judge(&error).errno, want, "{error:?}");
            assert_ne!(name(want), "other", "{want:?} has no name");
        }
    }

    #[test]
    fn the_stores_failures_are_what_the_design_says() {
        let table = [
            (ErrorKind::NotFound, Errno::ENOENT),
            (ErrorKind::NoSuchBucket, Errno::EIO),
            (ErrorKind::Denied, Errno::EACCES),
            (ErrorKind::Unauthenticated(said()), Errno::EACCES),
            (ErrorKind::Changed, Errno::ESTALE),
            (ErrorKind::NotModified, Errno::EIO),
            (ErrorKind::Conflict, Errno::EIO),
            (ErrorKind::NoSuchUpload, Errno::EIO),
            (ErrorKind::InvalidRange, Errno::ESTALE),
            (ErrorKind::TooLarge, Errno::EFBIG),
            (ErrorKind::WrongRegion(None), Errno::EIO),
            (ErrorKind::Unsupported, Errno::EOPNOTSUPP),
            (ErrorKind::Archived, Errno::EACCES),
            (ErrorKind::Throttled, Errno::EIO),
            (ErrorKind::Unavailable, Errno::EIO),
            (ErrorKind::Timeout, Errno::EIO),
            (ErrorKind::Connection(said()), Errno::EIO),
            (ErrorKind::Tls(said()), Errno::EIO),
            (ErrorKind::Damaged(said()), Errno::EIO),
            (ErrorKind::NotAsStored, Errno::EIO),
            (ErrorKind::NotS3(said()), Errno::EIO),
            (ErrorKind::Local(said()), Errno::EIO),
            (ErrorKind::Other(said()), Errno::EIO),
        ];
        for (kind, want) in table {
            assert_eq!(judge(&store(kind.clone())).errno, want, "{kind:?}");
            let wrapped = write::Error::from(store::Error::new(Operation::Put, kind.clone()));
            assert_eq!(judge(&wrapped.into()).errno, want, "{kind:?} in a commit");
        }
    }

    #[test]
    fn the_write_engines_failures_keep_what_a_writer_knows() {
        let key = || Key::from("a");
        let table = [
            (write::Error::StagingFull { quota: 1 }.into(), Errno::ENOSPC),
            (write::Error::Conflict { key: key() }.into(), Errno::ESTALE),
            (write::Error::Exists { key: key() }.into(), Errno::EEXIST),
            (write::Error::TooBig { key: key() }.into(), Errno::EFBIG),
            (write::Error::InUpload { key: key() }.into(), Errno::EIO),
            (lost(key()).into(), Errno::EIO),
            (disk(Errno::ENOSPC), Errno::ENOSPC),
            (disk(Errno::EDQUOT), Errno::EDQUOT),
            (disk(Errno::EROFS), Errno::EROFS),
            (disk(Errno::EACCES), Errno::EIO),
            (write::Error::Journal(io::Error::other("x")).into(), Errno::EIO),
        ];
        for (error, want) in table {
            assert_eq!(judge(&error).errno, want, "{error:?}");
        }
    }
}
