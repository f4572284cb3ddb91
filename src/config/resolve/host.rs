//! The machine, as far as the settings depend on it.
//!
//! Owns [`Host`]: environment, user and cgroup, read once, and the questions asked of the
//! disk. Promises: nothing else in the library reads the environment. Must not know which
//! setting asks.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// What settings depend on.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Only what settings come from: the environment holds credentials too.
    pub(super) environment: BTreeMap<String, String>,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Bytes the cgroup allows; none where it sets no limit.
    pub memory_limit: Option<u64>,
}

/// The variables that settings come from beside `S3POD_*`.
const VARIABLES: [&str; 9] = [
    "AWS_CA_BUNDLE",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "XDG_CACHE_HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

fn is_read(name: &str) -> bool {
    name.starts_with("S3POD_") || VARIABLES.contains(&name)
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names alone: a proxy's URL may have a password in it.
        f.debug_struct("Host")
            .field("environment", &self.environment.keys())
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("memory_limit", &self.memory_limit)
            .finish()
    }
}

impl Host {
    /// This machine, this process.
    pub fn read() -> Self {
        // A variable that is not UTF-8 is no variable of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| is_read(name))
            .collect();
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            environment,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            memory_limit: memory_limit(Path::new("/sys/fs/cgroup"), &cgroups),
        }
    }

    /// A machine with nothing but these variables.
    pub fn with_environment<'v>(variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self { environment: variables.into_iter().map(owned).collect(), ..Self::default() }
    }

    /// A variable; one that is empty counts as unset, as shells and Kubernetes write it.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The smallest limit between this process's cgroup and the root, from `/proc/self/cgroup`.
///
/// Version 2 has one line, `0::/path`; version 1 one per controller, `4:memory:/path`; a machine
/// may have both. In a container the path may be one of the host's, of which only the root can
/// be seen, so every ancestor is asked.
fn memory_limit(mounted_at: &Path, cgroups: &str) -> Option<u64> {
    cgroups.lines().filter_map(|line| limit_of(mounted_at, line)).min()
}

fn limit_of(mounted_at: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (root, file) = match controllers {
        "" => (mounted_at.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            (mounted_at.join("memory"), "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let path = root.join(path.trim_start_matches('/'));
    path.ancestors()
        .take_while(|folder| folder.starts_with(&root))
        .filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok())
        // Version 1 says "no limit" as the largest multiple of a page; version 2 as a word.
        .filter(|limit: &u64| *limit < 1 << 60)
        .min()
}

/// Makes `folder` for this user alone where it is missing, and proves that a file can be written
/// to it.
pub(super) fn make_writable(folder: &Path) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    tempfile::tempfile_in(folder)?;
    folder.canonicalize()
}

/// Bytes that this user may still write to the file system of `folder`.
pub(super) fn free_space(folder: &Path) -> io::Result<u64> {
    let space = nix::sys::statvfs::statvfs(folder)?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

/// True where the files of `folder` are memory.
pub(super) fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Bytes of the file system of `folder`, free or not.
pub(super) fn total_space(folder: &Path) -> io::Result<u64> {
    let space = nix::sys::statvfs::statvfs(folder)?;
    Ok(space.blocks().saturating_mul(space.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let two = machine(&[("pod/memory.max", "268435456\n"), ("pod/app/memory.max", "max\n")]);
        assert_eq!(memory_limit(two.path(), "0::/pod/app\n"), Some(256 * MIB));
        let one = machine(&[
            ("memory/pod/memory.limit_in_bytes", "134217728\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let cgroups = "9:name=systemd:/\n4:cpu,memory:/pod\n0::/\n";
        assert_eq!(memory_limit(one.path(), cgroups), Some(128 * MIB));
    }

    #[test]
    fn a_container_that_sees_only_its_root_has_that_limit() {
        let seen = machine(&[("memory/memory.limit_in_bytes", "134217728\n")]);
        let cgroups = "4:memory:/kubepods/pod1234/abcd\n";
        assert_eq!(memory_limit(seen.path(), cgroups), Some(128 * MIB));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let none = machine(&[("memory.max", "max\n")]);
        assert_eq!(memory_limit(none.path(), "0::/\n"), None);
        assert_eq!(memory_limit(none.path(), ""), None);
        assert_eq!(memory_limit(none.path(), "nonsense\n:::\n"), None);
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let host = Host::with_environment([("A", ""), ("B", "b")]);
        assert_eq!((host.variable("A"), host.variable("B")), (None, Some("b")));
    }

    #[test]
    fn a_folder_is_made_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let made = make_writable(&root.path().join("a/b")).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&made).unwrap().count(), 0);
        assert!(free_space(&made).unwrap() > 0);
        fs::write(root.path().join("file"), "").unwrap();
        assert!(make_writable(&root.path().join("file/b")).is_err());
    }
}
