//! A mount that a pod's own sidecar serves.
//!
//! Owns the wait for it: kubelet has every volume mounted before it starts a container, so the
//! connection's descriptor is held until the sidecar listens. Promises: it is offered to a process
//! of that pod and to no other, at a socket in the pod's own folder; why nobody has taken it is
//! known to whoever asks. Must not know how pods are found.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use s3pod::mount::broker;
use serde::{Deserialize, Serialize};

use super::reach::{self, stranger};
use super::serving::{Ends, Serving};

/// Where kubelet has a pod's emptyDirs, below the pod's folder.
const EMPTY_DIRS: &str = "volumes/kubernetes.io~empty-dir";

/// The socket's name in the emptyDir of the sidecar.
const SOCKET: &str = "s3pod.sock";

/// How often it is looked for: inotify instances are few on a node, and a look is one openat2(2).
const POLL: Duration = Duration::from_millis(200);

/// The sidecar that serves a volume: where it listens, and whose it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::csi) struct Sidecar {
    /// The pod's uid, as the API writes it.
    pub(in crate::csi) pod: String,
    /// Kubelet's folder of the pod.
    pub(in crate::csi) folder: PathBuf,
    /// The emptyDir with the socket.
    pub(in crate::csi) handoff: String,
}

impl Sidecar {
    /// Holds a mount, and hands it over as soon as the sidecar listens; returns at once.
    /// `trouble` is what its pod should hear until then.
    pub(in crate::csi) fn wait_for(
        &self,
        key: &str,
        ends: Ends,
        trouble: Option<String>,
    ) -> io::Result<Serving> {
        let serving = Serving::new(key, &self.folder, &self.socket(), Some(ends));
        serving.set_trouble(trouble.clone());
        let (sidecar, waiting) = (self.clone(), serving.clone());
        let wait = move || sidecar.offer_until_taken(&waiting, trouble.as_deref());
        thread::Builder::new().name("volume-offer".to_owned()).spawn(wait)?;
        Ok(serving)
    }

    /// Takes up the line to the sidecar where it serves the mount already. Blocks.
    pub(in crate::csi) fn attach(&self, key: &str, mount: OwnedFd) -> io::Result<Serving> {
        let serving = Serving::new(key, &self.folder, &self.socket(), None);
        let (line, server) = self.connect()?;
        serving.attach(line, &self.handoff, server, mount)?;
        Ok(serving)
    }

    fn offer_until_taken(&self, serving: &Serving, trouble: Option<&str>) {
        while serving.is_held() {
            let taken = self
                .connect()
                .and_then(|(line, server)| serving.offer(line, &self.handoff, server));
            match taken {
                Ok(()) => return,
                Err(error) => serving.set_trouble(self.explain(&error, trouble)),
            }
            thread::sleep(POLL);
        }
        serving.set_over();
    }

    /// What is wrong, for the pod's events; nothing where the sidecar just has not begun.
    fn explain(&self, error: &io::Error, trouble: Option<&str>) -> Option<String> {
        let handoff = &self.handoff;
        let folder = self.folder.join(EMPTY_DIRS).join(handoff);
        let is_silent = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        if error.kind() == ErrorKind::NotFound && folder.symlink_metadata().is_err() {
            return Some(format!(
                "the pod has no emptyDir `{handoff}`, in which its sidecar is to listen; name the \
                 right one in volumeAttributes.handoff"
            ));
        }
        if is_silent {
            return trouble.map(str::to_owned);
        }
        Some(format!("the pod's sidecar does not take the volume, at {handoff}/{SOCKET}: {error}"))
    }

    fn socket(&self) -> PathBuf {
        Path::new(EMPTY_DIRS).join(&self.handoff).join(SOCKET)
    }

    /// Connects, and makes sure that it is to the pod.
    fn connect(&self) -> io::Result<(UnixStream, broker::Server)> {
        let (line, peer) = reach::connect(&self.folder, &self.socket())?;
        if peer.pid() <= 0 {
            let why = "its process cannot be seen from here: the driver needs hostPID: true";
            return Err(stranger(why.to_owned()));
        }
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", peer.pid()))?;
        if !is_of_pod(&groups, &self.pod) {
            let pod = &self.pod;
            return Err(stranger(format!("who listens there is no process of the pod {pod}")));
        }
        // Where its cache is, the pod says to nobody.
        Ok((line, broker::Server { uid: peer.uid(), device: None }))
    }
}

/// Whether a process's cgroups are a pod's: kubelet's group is `podUID`, or with systemd a slice
/// whose name ends so, with `_` for every `-` of the uid.
fn is_of_pod(groups: &str, uid: &str) -> bool {
    let plain = format!("pod{uid}");
    let slice = format!("-pod{}.slice", uid.replace('-', "_"));
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut names = paths.flat_map(|path| path.split('/'));
    !uid.is_empty() && names.any(|name| name == plain || name.ends_with(&slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_of_the_pod_whose_group_it_is_in() {
        let uid = "1b2c-3d";
        for own in [
            "0::/kubepods/burstable/pod1b2c-3d/abc\n",
            "12:cpu:/\n4:memory:/kubepods/pod1b2c-3d/abc\n0::/\n",
            "0::/kubepods.slice/kubepods-burstable-pod1b2c_3d.slice/cri-abc.scope\n",
            "0::/../../kubepods-pod1b2c_3d.slice/cri-abc.scope\n",
        ] {
            assert!(is_of_pod(own, uid), "{own}");
        }
        for other in [
            "0::/kubepods/burstable/pod9b2c-3d/abc\n",
            "0::/kubepods/pod1b2c-3d4/abc\n",
            "0::/kubepods/xpod1b2c-3d/abc\n",
            "0::/kubepods.slice/kubepods-pod1b2c_3d4.slice/cri-abc.scope\n",
            "0::/\n",
            "",
        ] {
            assert!(!is_of_pod(other, uid), "{other}");
        }
        assert!(!is_of_pod("0::/kubepods/pod/abc\n", ""));
    }

    #[test]
    fn a_wrong_emptydir_is_named_and_a_sidecar_that_has_not_begun_is_no_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let sidecar = Sidecar {
            pod: "u-1".to_owned(),
            folder: folder.path().to_owned(),
            handoff: "handoff".to_owned(),
        };
        let said = |trouble| sidecar.explain(&sidecar.connect().unwrap_err(), trouble);
        assert!(said(None).unwrap().contains("no emptyDir `handoff`"));
        fs::create_dir_all(folder.path().join(EMPTY_DIRS).join("handoff")).unwrap();
        assert_eq!(said(None), None);
        assert_eq!(said(Some("it has gone")).as_deref(), Some("it has gone"));
        let path = folder.path().join(sidecar.socket());
        let _listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        assert!(said(None).unwrap().contains("no process of the pod u-1"));
    }
}
