//! The Controller service: volumes in the store, made and removed.
//!
//! Owns the way between messages of CSI and [`Provisioner`]. Promises: what changes anything is
//! finished, whoever waits for it ([`super::answer`]). Must not know stores.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::answer::Call;
use super::proto::controller_server::Controller;
use super::proto::controller_service_capability::rpc::Type;
use super::proto::controller_service_capability::{self, Rpc};
use super::proto::validate_volume_capabilities_response::Confirmed;
use super::proto::volume_capability::AccessType;
use super::proto::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
    ControllerServiceCapability, CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest,
    DeleteVolumeResponse, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    Volume, VolumeCapability,
};
use crate::provision::{Capability, Create, Provisioner, Range};

/// What the provisioner may ask for.
const CAPABILITIES: [Type; 3] =
    [Type::CreateDeleteVolume, Type::ExpandVolume, Type::SingleNodeMultiWriter];

/// Answers the provisioner and the resizer.
#[derive(Debug)]
pub(super) struct Volumes {
    provisioner: Arc<Provisioner>,
}

impl Volumes {
    pub(super) fn new(provisioner: Provisioner) -> Self {
        Self { provisioner: Arc::new(provisioner) }
    }
}

#[tonic::async_trait]
impl Controller for Volumes {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let (provisioner, asked) = (Arc::clone(&self.provisioner), request.into_inner());
        let call = Call::new("CreateVolume", &asked.name);
        call.finish(async move {
            let wanted = Create {
                name: &asked.name,
                range: range(asked.capacity_range.as_ref()).unwrap_or_default(),
                capabilities: &capabilities(&asked.volume_capabilities),
                parameters: &asked.parameters,
                secrets: &asked.secrets,
                has_source: asked.volume_content_source.is_some(),
            };
            let made = provisioner.create(&wanted).await?;
            let volume = Volume {
                capacity_bytes: signed(made.capacity),
                volume_id: made.id,
                volume_context: made.context,
                ..Volume::default()
            };
            Ok(CreateVolumeResponse { volume: Some(volume) })
        })
        .await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let (provisioner, asked) = (Arc::clone(&self.provisioner), request.into_inner());
        let call = Call::new("DeleteVolume", &asked.volume_id);
        call.finish(async move {
            provisioner.delete(&asked.volume_id, &asked.secrets).await?;
            Ok(DeleteVolumeResponse {})
        })
        .await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let (provisioner, asked) = (Arc::clone(&self.provisioner), request.into_inner());
        let call = Call::new("ValidateVolumeCapabilities", &asked.volume_id);
        call.finish(async move {
            let wanted = capabilities(&asked.volume_capabilities);
            let found = provisioner.validate(&asked.volume_id, &wanted, &asked.secrets).await?;
            Ok(match found {
                Ok(()) => ValidateVolumeCapabilitiesResponse {
                    confirmed: Some(Confirmed {
                        volume_context: asked.volume_context,
                        volume_capabilities: asked.volume_capabilities,
                        parameters: asked.parameters,
                        mutable_parameters: asked.mutable_parameters,
                    }),
                    message: String::new(),
                },
                Err(message) => ValidateVolumeCapabilitiesResponse { confirmed: None, message },
            })
        })
        .await
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let one = |kind: Type| ControllerServiceCapability {
            r#type: Some(controller_service_capability::Type::Rpc(Rpc { r#type: kind.into() })),
        };
        let capabilities = CAPABILITIES.map(one).to_vec();
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        let (provisioner, asked) = (Arc::clone(&self.provisioner), request.into_inner());
        let call = Call::new("ControllerExpandVolume", &asked.volume_id);
        call.finish(async move {
            let range = range(asked.capacity_range.as_ref());
            let capacity = provisioner.expand(&asked.volume_id, range, &asked.secrets).await?;
            // Servers read the marker; nobody on the node has anything to do.
            Ok(ControllerExpandVolumeResponse {
                capacity_bytes: signed(capacity),
                node_expansion_required: false,
            })
        })
        .await
    }
}

fn range(asked: Option<&CapacityRange>) -> Option<Range> {
    asked.map(|range| Range { required: range.required_bytes, limit: range.limit_bytes })
}

fn capabilities(asked: &[VolumeCapability]) -> Vec<Capability> {
    let one = |capability: &VolumeCapability| Capability {
        is_block: matches!(capability.access_type, Some(AccessType::Block(_))),
        has_type: capability.access_type.is_some(),
        mode: capability.access_mode.as_ref().map_or(0, |mode| mode.mode),
        mount_flags: match &capability.access_type {
            Some(AccessType::Mount(mount)) => mount.mount_flags.clone(),
            _ => Vec::new(),
        },
    };
    asked.iter().map(one).collect()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
