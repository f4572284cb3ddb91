//! What can be wrong with what somebody asked for.
//!
//! Owns [`Error`] and the exit code of each. Promises: a message names the option, the cause and
//! what to write instead, and shows no password. Must not know what the setting is for.

use std::io;
use std::path::PathBuf;

/// Why options or their surroundings cannot become a mount.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that somebody typed cannot be read.
    #[error("{argument}: {reason}")]
    Argument {
        /// The flag or argument.
        argument: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two arguments exclude each other.
    #[error("{one} and {other} contradict each other; {fix}")]
    Contradiction {
        /// One of them.
        one: String,
        /// The other.
        other: String,
        /// What to do.
        fix: String,
    },
    /// A word behind `-o` that means nothing here.
    #[error("-o: unknown option `{name}`; `s3pod mount --help` lists every one")]
    UnknownMountOption {
        /// The word.
        name: String,
    },
    /// A word behind `-o` with a value that cannot be read.
    #[error("-o: `{name}`: {reason}")]
    MountOption {
        /// The word.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A variable of the environment cannot be read.
    #[error("environment variable {name}: {reason}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// The file of options cannot be read.
    #[error("--config: {path}: {reason}; a line is `flag = value`, as in docs/configuration.md")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The bundle of certificate authorities cannot be read.
    #[error("{origin}: cannot read {path}: {source}; name a PEM file that this user may read")]
    CaBundle {
        /// The flag or variable that names it.
        origin: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of credentials cannot be read.
    #[error(
        "--credentials-file: cannot read {path}: {source}; name a file of profiles that this user \
         may read"
    )]
    CredentialsFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No folder for the cache can be derived.
    #[error(
        "--cache-dir: neither XDG_CACHE_HOME nor HOME is set, so there is no default; name a \
         folder, or `none` to stage in memory"
    )]
    NoCacheDir,
    /// A folder for what is kept on local disk cannot be used.
    #[error(
        "{flag}: cannot write to {path}: {source}; name a folder that this user may write to (in a \
         pod: an emptyDir or another volume mounted there), or leave --journal-dir out and let \
         --cache-dir be `none` to stage in memory"
    )]
    Folder {
        /// The flag that names it.
        flag: &'static str,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The limit of memory leaves the process no room within its cgroup.
    #[error(
        "--memory-limit {asked} and the 48MiB beside it do not fit into the cgroup's {cgroup}; \
         ask for less or raise the container's limit"
    )]
    MemoryLimit {
        /// What was asked for.
        asked: crate::units::ByteSize,
        /// What there is.
        cgroup: crate::units::ByteSize,
    },
    /// The cgroup has less than any mount needs.
    #[error(
        "the cgroup allows {cgroup} of memory, and a mount needs {least}: 32MiB at least for what \
         it holds, and 48MiB beside; raise the container's limit (resources.limits.memory)"
    )]
    Cgroup {
        /// What there is.
        cgroup: crate::units::ByteSize,
        /// What there must be.
        least: crate::units::ByteSize,
    },
    /// What is kept on disk is kept in memory, and there is not so much.
    #[error(
        "{path} is in memory (tmpfs; an emptyDir with medium: Memory), where files count against \
         the cgroup's limit: beside --memory-limit and 48MiB it has {room}, and --cache-size \
         {cache} with --staging-size {staging} (at least 16MiB) need more; ask for less, raise the \
         container's limit, or take a disk (an emptyDir without medium)"
    )]
    MemoryDisk {
        /// The folder.
        path: PathBuf,
        /// What there is.
        room: crate::units::ByteSize,
        /// For what was read.
        cache: crate::units::ByteSize,
        /// For what is not in S3 yet.
        staging: crate::units::ByteSize,
    },
}

impl Error {
    /// The exit code: 2 for what was typed wrong, 78 (`EX_CONFIG` of sysexits.h) for what the
    /// surroundings do not allow.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Argument { .. }
            | Self::Contradiction { .. }
            | Self::UnknownMountOption { .. }
            | Self::MountOption { .. } => 2,
            Self::Environment { .. }
            | Self::File { .. }
            | Self::CaBundle { .. }
            | Self::CredentialsFile { .. }
            | Self::NoCacheDir
            | Self::Folder { .. }
            | Self::MemoryLimit { .. }
            | Self::Cgroup { .. }
            | Self::MemoryDisk { .. } => 78,
        }
    }
}
