//! A pod's volumes on the node: made, bound into containers, and removed.
//!
//! Owns the folders that kubelet makes below a pod's own: emptyDirs, ConfigMaps as files, places
//! of the node's plugin, `/etc/hosts`, and the binds of subPaths. Promises to do no better than
//! kubelet does: the delete at the end crosses mounts. Must not know what runs in the containers.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use crate::node::Bind;
use crate::plugin::Published;
use crate::spec::{self, Container, PodSpec, Volume, VolumeMount};

/// The volumes of one pod.
pub(crate) struct Volumes {
    folder: PathBuf,
    volumes: Vec<Volume>,
    /// Roots of other file systems that were looked at in them.
    roots: AtomicU32,
}

impl Volumes {
    /// Makes every volume that needs no plugin.
    pub(crate) fn make(folder: PathBuf, spec: &PodSpec) -> Self {
        let own = Self { folder, volumes: spec.volumes.clone(), roots: AtomicU32::new(0) };
        fs::create_dir_all(&own.folder).unwrap();
        let mut hosts = "127.0.0.1\tpod\n".to_owned();
        for alias in &spec.host_aliases {
            writeln!(hosts, "{}\t{}", alias.ip, alias.hostnames.join(" ")).unwrap();
        }
        fs::write(own.hosts(), hosts).unwrap();
        own.volumes.iter().for_each(|volume| own.make_one(volume));
        own
    }

    fn make_one(&self, volume: &Volume) {
        if let Some(files) = volume.config_map.as_ref().or(volume.secret.as_ref()) {
            fs::create_dir_all(self.folder_of(&volume.name)).unwrap();
            for (file, text) in &files.data {
                self.set_config(&volume.name, file, text);
            }
        }
        let Some(empty_dir) = &volume.empty_dir else { return };
        let folder = self.folder_of(&volume.name);
        fs::create_dir_all(&folder).unwrap();
        if empty_dir.medium.as_deref() == Some("Memory") {
            let limit = empty_dir.size_limit.as_deref().map(spec::bytes);
            let size = limit.map(|limit| format!("size={limit}"));
            let kind = Some("tmpfs");
            mount(kind, &folder, kind, MsFlags::empty(), size.as_deref()).expect("a tmpfs");
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    }

    /// Changes a file of a ConfigMap's or a Secret's volume as kubelet does: a new folder, and
    /// `..data` swapped.
    pub(crate) fn set_config(&self, volume: &str, file: &str, text: &str) {
        let folder = self.folder_of(volume);
        let count = fs::read_dir(&folder).unwrap().count();
        let version = format!("..version-{count}");
        fs::create_dir(folder.join(&version)).unwrap();
        fs::write(folder.join(&version).join(file), text).unwrap();
        let new = folder.join("..data_tmp");
        symlink(&version, &new).unwrap();
        fs::rename(&new, folder.join("..data")).unwrap();
        // There already after the first time.
        let _ = symlink(Path::new("..data").join(file), folder.join(file));
    }

    /// What the node's plugin mounts for this pod.
    pub(crate) fn publish(&self, pod: &str) -> Vec<Published> {
        let served = self.volumes.iter().filter_map(|volume| Some((volume, volume.csi.as_ref()?)));
        let publish = |(volume, csi): (&Volume, &spec::Csi)| {
            let target = self.target(&volume.name);
            fs::create_dir_all(&target).unwrap();
            let handoff = self.folder_of(&csi.volume_attributes.handoff);
            Published::new(&target, &handoff, &format!("{}-{pod}-", std::process::id()))
        };
        served.map(publish).collect()
    }

    /// The folder of an emptyDir or a ConfigMap.
    pub(crate) fn folder_of(&self, volume: &str) -> PathBuf {
        self.folder.join("volumes/kubernetes.io~empty-dir").join(volume)
    }

    /// Where the plugin mounts a volume.
    fn target(&self, volume: &str) -> PathBuf {
        self.folder.join("volumes/kubernetes.io~csi").join(volume).join("mount")
    }

    fn hosts(&self) -> PathBuf {
        self.folder.join("etc-hosts")
    }

    /// The binds of a container that is about to start.
    ///
    /// # Errors
    /// Where a subPath cannot be bound: the container does not start then.
    pub(crate) fn binds(&self, container: &Container) -> io::Result<Vec<Bind>> {
        let mut binds = vec![Bind {
            source: self.hosts(),
            target: "/etc/hosts".to_owned(),
            propagation: None,
            read_only: false,
        }];
        for (index, mount) in container.volume_mounts.iter().enumerate() {
            let source = match &mount.sub_path {
                Some(sub_path) => self.bind_sub_path(container, index, mount, sub_path)?,
                None => self.source(&mount.name),
            };
            binds.push(Bind {
                source,
                target: mount.mount_path.clone(),
                propagation: mount.mount_propagation.clone(),
                read_only: mount.read_only,
            });
        }
        Ok(binds)
    }

    fn source(&self, volume: &str) -> PathBuf {
        // Not a question to the file system: nobody may serve it yet.
        let is_published = self.volumes.iter().any(|one| one.name == volume && one.csi.is_some());
        if is_published { self.target(volume) } else { self.folder_of(volume) }
    }

    /// Binds what is below a volume to a place of its own. What is bound is what was opened,
    /// by its descriptor: a path could have been swapped for a link meanwhile.
    fn bind_sub_path(
        &self,
        container: &Container,
        index: usize,
        mount_of: &VolumeMount,
        sub_path: &str,
    ) -> io::Result<PathBuf> {
        let opened = open_sub_path(&self.source(&mount_of.name), sub_path)?;
        let place = self.sub_paths().join(format!("{}-{}-{index}", mount_of.name, container.name));
        // An earlier start of this container has bound what was there then.
        let _ = umount2(&place, MntFlags::MNT_DETACH);
        if opened.metadata()?.is_dir() {
            fs::create_dir_all(&place)?;
        } else {
            fs::create_dir_all(self.sub_paths())?;
            File::create(&place)?;
        }
        let none: Option<&str> = None;
        // Of the process: that of a thread is another's, and `self` is the first one's.
        let source = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
        mount(Some(source.as_str()), &place, none, MsFlags::MS_BIND, none)?;
        Ok(place)
    }

    fn sub_paths(&self) -> PathBuf {
        self.folder.join("volume-subpaths")
    }

    /// One try of kubelet's to remove it all: a recursive delete that crosses mounts.
    pub(crate) fn remove(&self, published: &[Published]) -> io::Result<()> {
        for place in fs::read_dir(self.sub_paths()).into_iter().flatten().flatten() {
            // Gone already where an earlier try came so far.
            let _ = umount2(&place.path(), MntFlags::MNT_DETACH);
        }
        published.iter().for_each(Published::unpublish);
        for volume in &self.volumes {
            let is_memory = |empty_dir: &spec::EmptyDir| empty_dir.medium.is_some();
            if volume.empty_dir.as_ref().is_some_and(is_memory) {
                // As above.
                let _ = umount2(&self.folder_of(&volume.name), MntFlags::empty());
            }
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// The usage walk: looks at every entry of every emptyDir and stops where another file system
    /// begins, but it looks at that one's root.
    pub(crate) fn walk(&self) {
        let roots: u32 =
            self.volumes.iter().map(|volume| walk(&self.folder_of(&volume.name))).sum();
        self.roots.fetch_add(roots, Ordering::SeqCst);
    }

    /// How many of those roots it has met so far.
    pub(crate) fn roots_seen(&self) -> u32 {
        self.roots.load(Ordering::SeqCst)
    }
}

/// Opens what is below a volume, and makes a directory where nothing is. Links of the volume's own
/// are followed first; while it is opened none is.
fn open_sub_path(volume: &Path, sub_path: &str) -> io::Result<File> {
    let volume = volume.canonicalize()?;
    let real = volume.join(sub_path).canonicalize().unwrap_or_else(|_| volume.join(sub_path));
    let below = real.strip_prefix(&volume).map_err(io::Error::other)?;
    let folder = File::open(&volume)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let mut opened = openat2(&folder, below, how);
    if matches!(opened, Err(Errno::ENOENT)) {
        mkdirat(&folder, below, Mode::from_bits_truncate(0o755))?;
        opened = openat2(&folder, below, how);
    }
    Ok(File::from(opened?))
}

fn walk(folder: &Path) -> u32 {
    let Ok(own) = fs::symlink_metadata(folder) else { return 0 };
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let mut roots = 0;
    for entry in entries.flatten() {
        let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
        if found.dev() != own.dev() {
            roots += 1;
        } else if found.is_dir() {
            roots += walk(&entry.path());
        }
    }
    roots
}
