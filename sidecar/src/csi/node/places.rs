//! Where things are: own mounts below the state's folder, targets below kubelet's.
//!
//! Owns the checks of paths that a call names. Promises: what is outside of kubelet's folder is
//! refused, links included, where that folder was given; no path is looked at that something may
//! be mounted on, only the folder above it. Must not know what is mounted.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use s3pod::mount::Failure;

use crate::volume::refusal::{Code, Refusal};

/// The folder of own mounts.
const MOUNTS: &str = "mounts";

/// PATH_MAX of the kernel, without the NUL.
const LENGTH_MAX: usize = 4095;

/// The folders.
#[derive(Clone, Debug)]
pub(super) struct Places {
    state: PathBuf,
    kubelet: Option<PathBuf>,
}

impl Places {
    /// Makes what is missing of them.
    pub(super) fn new(state: &Path, kubelet: Option<&Path>) -> Result<Self, Failure> {
        let failed = |path: &Path, error: io::Error| {
            Failure::configuration(format!("{} cannot be used: {error}", path.display()))
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state.join(MOUNTS))
            .map_err(|error| failed(state, error))?;
        let real = |path: &Path| path.canonicalize().map_err(|error| failed(path, error));
        Ok(Self { state: real(state)?, kubelet: kubelet.map(real).transpose()? })
    }

    /// The state's folder.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Kubelet's folder, where it was given.
    pub(super) fn kubelet(&self) -> Option<&Path> {
        self.kubelet.as_deref()
    }

    /// Where own mounts are.
    pub(super) fn mounts(&self) -> PathBuf {
        self.state.join(MOUNTS)
    }

    /// Where a mount of a key is.
    pub(super) fn own(&self, key: &str, generation: u64) -> PathBuf {
        self.mounts().join(format!("{key}.{generation}"))
    }

    /// The key, and which of its mounts stands at `point`.
    pub(super) fn read_own<'a>(&self, point: &'a Path) -> Option<(&'a str, u64)> {
        let name = point.strip_prefix(self.mounts()).ok()?.to_str()?;
        let (key, generation) = name.rsplit_once('.')?;
        Some((key, generation.parse().ok()?))
    }

    /// Where all mounts of a key are, the dead ones too.
    pub(super) fn all_own(&self, key: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.mounts())? {
            let name = entry?.file_name();
            if name.to_str().and_then(|name| name.rsplit_once('.')).is_some_and(|(of, _)| of == key)
            {
                found.push(self.mounts().join(name));
            }
        }
        Ok(found)
    }

    /// A path of a call, as it stands in the table of mounts: its folder without links.
    pub(super) fn target(&self, field: &str, path: &str) -> Result<PathBuf, Refusal> {
        if path.is_empty() {
            return Err(Refusal::field(field, "is missing"));
        }
        let typed = Path::new(path);
        if !typed.is_absolute() || typed.components().any(|part| part == Component::ParentDir) {
            return Err(Refusal::field(field, format!("{path} is no absolute path without `..`")));
        }
        if path.len() > LENGTH_MAX {
            return Err(Refusal::field(field, format!("is longer than {LENGTH_MAX} bytes")));
        }
        let plain: PathBuf = typed.components().collect();
        let (Some(folder), Some(name)) = (plain.parent(), plain.file_name()) else {
            return Err(Refusal::field(field, "is the root; a volume is not mounted there"));
        };
        let target = match folder.canonicalize() {
            Ok(folder) => folder.join(name),
            // Nothing can be mounted below what is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => plain.clone(),
            Err(error) => {
                let why = format!("{field}: {} cannot be looked at: {error}", folder.display());
                return Err(Refusal::new(Code::Internal, why));
            }
        };
        self.check(field, target)
    }

    fn check(&self, field: &str, target: PathBuf) -> Result<PathBuf, Refusal> {
        let shown = target.display();
        if let Some(kubelet) = self.kubelet.as_ref().filter(|folder| !target.starts_with(folder)) {
            let why = format!(
                "{shown} is outside of kubelet's folder, {}; where kubelet has another \
                 --root-dir, give it as --kubelet-dir",
                kubelet.display()
            );
            return Err(Refusal::field(field, why));
        }
        if target.starts_with(&self.state) {
            return Err(Refusal::field(field, format!("{shown} is in the driver's own folder")));
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_below_kubelets_folder_whatever_links_say() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("kubelet/pods")).unwrap();
        std::os::unix::fs::symlink(&root, root.join("kubelet/out")).unwrap();
        std::os::unix::fs::symlink("pods", root.join("kubelet/link")).unwrap();
        let kubelet = root.join("kubelet");
        let places = Places::new(&kubelet.join("plugins/s"), Some(kubelet.as_path())).unwrap();
        let asked = |path: &Path| places.target("target_path", path.to_str().unwrap());
        assert_eq!(asked(&kubelet.join("pods/m/")), Ok(kubelet.join("pods/m")));
        assert_eq!(asked(&kubelet.join("link/m")), Ok(kubelet.join("pods/m")));
        assert_eq!(asked(&kubelet.join("gone/m")), Ok(kubelet.join("gone/m")));
        for path in [
            PathBuf::from(""),
            PathBuf::from("/"),
            PathBuf::from("some/path"),
            root.join("m"),
            kubelet.join("out/m"),
            kubelet.join("pods/../../m"),
            kubelet.join("plugins/s/mounts/m"),
            kubelet.join("x".repeat(LENGTH_MAX)),
        ] {
            let refusal = asked(&path).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidArgument, "{}", path.display());
            assert!(refusal.message.starts_with("target_path: "), "{refusal}");
        }
    }

    #[test]
    fn without_kubelets_folder_any_path_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(&folder.path().join("s"), None).unwrap();
        assert_eq!(places.target("t", "/tmp/csi-mount"), Ok(PathBuf::from("/tmp/csi-mount")));
    }
}
