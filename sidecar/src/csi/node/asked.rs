//! What a call to publish asks for.
//!
//! Owns the reading of NodePublishVolume: which fields must be there, and what they say together.
//! Promises: what is refused here has changed nothing. Must not know what is mounted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::places::Places;
use super::state::Mount;
use crate::csi::proto::volume_capability::AccessType;
use crate::csi::proto::{NodePublishVolumeRequest, VolumeCapability};
use crate::csi::servers::Sidecar;
use crate::volume::refusal::Refusal;
use crate::volume::{Asked, Published, Server};

/// The folder of kubelet that has one for each pod.
const PODS: &str = "pods";

/// A volume that shall appear somewhere.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) volume: String,
    pub(super) target: PathBuf,
    /// The number of the access mode.
    pub(super) access_mode: i32,
    /// As the call says it, beside the access mode and the options.
    pub(super) read_only: bool,
    /// Who serves it, where that is not the node's server.
    pub(super) sidecar: Option<Sidecar>,
    pub(super) published: Published,
}

impl Wanted {
    /// Reads a call.
    pub(super) fn read(call: &NodePublishVolumeRequest, places: &Places) -> Result<Self, Refusal> {
        volume_id(&call.volume_id)?;
        let target = places.target("target_path", &call.target_path)?;
        let capability = call.volume_capability.as_ref();
        let capability =
            capability.ok_or_else(|| Refusal::field("volume_capability", "is missing"))?;
        let access_mode = access_mode(capability)?;
        let (flags, group) = match &capability.access_type {
            Some(AccessType::Mount(mount)) => {
                (mount.mount_flags.as_slice(), mount.volume_mount_group.as_str())
            }
            Some(AccessType::Block(_)) => {
                let reason = "block is asked for, and a bucket is no disk; the volume needs \
                              volumeMode: Filesystem";
                return Err(Refusal::field("volume_capability.access_type", reason));
            }
            None => {
                return Err(Refusal::field("volume_capability.access_type", "is missing"));
            }
        };
        let published = Published::read(&Asked {
            volume_id: &call.volume_id,
            context: &call.volume_context,
            secrets: &call.secrets,
            mount_flags: flags,
            mount_group: group,
            access_mode,
            read_only: call.readonly,
        })?;
        let sidecar = sidecar(&published, &target)?;
        let (volume, read_only) = (call.volume_id.clone(), call.readonly);
        Ok(Self { volume, target, access_mode, read_only, sidecar, published })
    }
}

/// The pod's sidecar that shall serve it, by the pod's folder, which the target is in.
fn sidecar(published: &Published, target: &Path) -> Result<Option<Sidecar>, Refusal> {
    let Server::Sidecar(handoff) = &published.server else { return Ok(None) };
    let pod = published.pod.uid()?;
    let is_pods = |folder: &&Path| {
        let above = folder.parent().and_then(Path::file_name);
        folder.file_name() == Some(OsStr::new(pod)) && above == Some(OsStr::new(PODS))
    };
    let folder = target.ancestors().find(is_pods).ok_or_else(|| {
        let reason = format!(
            "{} is not in the folder of the pod {pod}, where its sidecar would be found",
            target.display()
        );
        Refusal::field("target_path", reason)
    })?;
    Ok(Some(Sidecar { pod: pod.to_owned(), folder: folder.to_owned(), handoff: handoff.clone() }))
}

/// Refuses a volume whose sidecar would be told from another's by nothing: it could be handed the
/// mount of one and serve the bucket of the other.
pub(super) fn alone_at_socket(
    mounts: &BTreeMap<String, Mount>,
    sidecar: Option<&Sidecar>,
) -> Result<(), Refusal> {
    let Some(sidecar) = sidecar else { return Ok(()) };
    let is_there = |mount: &&Mount| mount.sidecar.as_ref() == Some(sidecar);
    let Some(other) = mounts.values().find(is_there) else { return Ok(()) };
    let reason = format!(
        "in the emptyDir `{}` the pod's volume {} is handed over already; each volume needs a \
         sidecar and an emptyDir of its own, which this attribute names",
        sidecar.handoff, other.volume
    );
    Err(Refusal::field("volumeAttributes.handoff", reason))
}

/// Refuses a call that names no volume.
pub(super) fn volume_id(id: &str) -> Result<(), Refusal> {
    if id.is_empty() {
        return Err(Refusal::field("volume_id", "is missing"));
    }
    Ok(())
}

fn access_mode(capability: &VolumeCapability) -> Result<i32, Refusal> {
    let mode = capability.access_mode.as_ref();
    let missing = || Refusal::field("volume_capability.access_mode", "is missing");
    mode.map(|mode| mode.mode).ok_or_else(missing)
}
