//! The kernel's table of mounts.
//!
//! Owns the reading of `/proc/self/mountinfo` (proc(5)). Must not know what is mounted or why.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What `/proc/mounts`, `df -T` and `findmnt -t` call our mounts.
pub const FS_TYPE: &str = "fuse.s3pod";

/// The number of a file system's device, as `stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    pub(super) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique among the mounts of this moment.
    pub id: u64,
    /// The mount this one stands on.
    pub parent: u64,
    /// The file system's device.
    pub device: Device,
    /// Which folder of the file system is its root.
    pub root: PathBuf,
    /// Where it stands, below the process's root.
    pub point: PathBuf,
    /// The type, like `ext4` or `fuse.s3pod`.
    pub kind: String,
    /// What was mounted.
    pub source: String,
    /// True where mounts made below it appear in its peers too: in the other containers of a pod.
    pub is_shared: bool,
}

impl MountInfo {
    /// True where a server in user space answers.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.") || self.kind == "fuseblk"
    }
}

/// Every mount this process can see.
pub fn read() -> io::Result<Vec<MountInfo>> {
    // Bytes, not text: a mount point may have any name.
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(read_table(&table))
}

/// Every mount of such a table, in the kernel's order: what was mounted later comes later.
pub fn read_table(table: &[u8]) -> Vec<MountInfo> {
    table.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// The mount that a look at `point` meets, if one stands exactly there: of several, the one that
/// none of the others stands on.
pub fn topmost<'a>(mounts: &'a [MountInfo], point: &Path) -> Option<&'a MountInfo> {
    let there = || mounts.iter().filter(|mount| mount.point == point);
    there().find(|mount| !there().any(|other| other.parent == mount.id && other.id != mount.id))
}

/// The mount that a path is on: the topmost of those that stand at its deepest mounted ancestor,
/// the path itself included.
pub fn around<'a>(mounts: &'a [MountInfo], path: &Path) -> Option<&'a MountInfo> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let deepest = above.map(|mount| &mount.point).max_by_key(|point| point.components().count())?;
    topmost(mounts, deepest)
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL...] - TYPE SOURCE SUPER-OPTIONS`
fn parse(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = device(fields.next()?)?;
    let mut path = || Some(PathBuf::from(OsString::from_vec(unescape(fields.next()?))));
    let (root, point) = (path()?, path()?);
    let mut is_shared = false;
    // The mount's own options stand first; a tag of propagation is never among them.
    for field in fields.by_ref().take_while(|field| *field != b"-") {
        is_shared |= field.starts_with(b"shared:");
    }
    let mut rest = fields;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let kind = text(rest.next()?);
    let source = text(rest.next()?);
    Some(MountInfo { id, parent, device, root, point, kind, source, is_shared })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<Device> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Undoes the kernel's octal escapes: `\040` is a space, `\011` a tab, `\012` a line feed, `\134`
/// a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = match (first, behind) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &behind[3..] } else { behind };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 22 0:39 / /mnt/my\\040data rw,nosuid,nodev shared:9 master:2 - fuse.s3pod bucket rw,user_id=0
37 36 0:40 / /mnt/my\\040data rw - tmpfs none rw
40 22 0:41 / /mnt/a\\134040b rw - fuse host:/x\\011y rw
";

    fn table() -> Vec<MountInfo> {
        TABLE.lines().map(|line| parse(line.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn a_line_is_read_with_any_number_of_optional_fields() {
        let mounts = table();
        assert_eq!(mounts[1].point, Path::new("/mnt/my data"));
        assert_eq!((mounts[1].id, mounts[1].parent), (36, 22));
        assert_eq!(mounts[1].device.to_string(), "0:39");
        assert_eq!((mounts[1].kind.as_str(), mounts[1].source.as_str()), ("fuse.s3pod", "bucket"));
        assert_eq!(mounts[2].kind, "tmpfs");
        let shared: Vec<bool> = mounts.iter().map(|mount| mount.is_shared).collect();
        assert_eq!(shared, [true, true, false, false]);
    }

    #[test]
    fn escapes_are_undone_once() {
        let mounts = table();
        assert_eq!(mounts[3].point, Path::new("/mnt/a\\040b"));
        assert_eq!(mounts[3].source, "host:/x\ty");
        assert_eq!(unescape(b"\\9\\04"), b"\\9\\04");
    }

    #[test]
    fn the_topmost_mount_is_the_one_nothing_stands_on() {
        let mounts = table();
        let top = |point: &str| topmost(&mounts, Path::new(point)).map(|mount| mount.id);
        assert_eq!(top("/mnt/my data"), Some(37));
        assert_eq!(top("/"), Some(22));
        assert_eq!(top("/mnt"), None);
    }

    #[test]
    fn a_path_is_on_the_mount_of_its_deepest_mounted_ancestor() {
        let mounts = table();
        let on = |path: &str| around(&mounts, Path::new(path)).map(|mount| mount.id);
        assert_eq!(on("/mnt/my data/a/b"), Some(37));
        assert_eq!(on("/mnt/my data"), Some(37));
        assert_eq!(on("/mnt/my databank"), Some(22));
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        for line in ["", "22", "x 1 254:0 / / rw - ext4 a rw", "22 1 254 / / rw - ext4 a rw"] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn this_machines_own_table_can_be_read() {
        let mounts = read().unwrap();
        assert!(topmost(&mounts, Path::new("/")).is_some());
        assert!(!mounts.iter().any(|mount| mount.point == Path::new("/") && mount.is_fuse()));
    }
}
