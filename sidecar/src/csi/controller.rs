//! The Controller service: volumes in the store, made and removed.
//!
//! Owns the way between messages of CSI and [`Provisioner`]. Promises: a call that its caller
//! gave up goes on to its end, so that the next one finds it done. Must not know stores.

use std::future::Future;
use std::sync::Arc;

use tonic::{Request, Response, Status};

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
use crate::volume::refusal::Refusal;

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
        let made = to_the_end("CreateVolume", async move {
            provisioner
                .create(&Create {
                    name: &asked.name,
                    range: range(asked.capacity_range.as_ref()).unwrap_or_default(),
                    capabilities: &capabilities(&asked.volume_capabilities),
                    parameters: &asked.parameters,
                    secrets: &asked.secrets,
                    has_source: asked.volume_content_source.is_some(),
                })
                .await
        });
        let made = made.await?;
        let volume = Volume {
            capacity_bytes: signed(made.capacity),
            volume_id: made.id,
            volume_context: made.context,
            ..Volume::default()
        };
        Ok(Response::new(CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let (provisioner, asked) = (Arc::clone(&self.provisioner), request.into_inner());
        let gone = to_the_end("DeleteVolume", async move {
            provisioner.delete(&asked.volume_id, &asked.secrets).await
        });
        gone.await?;
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let asked = request.into_inner();
        let wanted = capabilities(&asked.volume_capabilities);
        let found = self.provisioner.validate(&asked.volume_id, &wanted, &asked.secrets).await;
        let answer =
            match found.map_err(|refusal| status("ValidateVolumeCapabilities", &refusal))? {
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
            };
        Ok(Response::new(answer))
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
        let capacity = to_the_end("ControllerExpandVolume", async move {
            let range = range(asked.capacity_range.as_ref());
            provisioner.expand(&asked.volume_id, range, &asked.secrets).await
        });
        // Servers read the marker; nobody on the node has anything to do.
        Ok(Response::new(ControllerExpandVolumeResponse {
            capacity_bytes: signed(capacity.await?),
            node_expansion_required: false,
        }))
    }
}

/// Does the work in a task of its own: where the caller hangs up, its future is dropped.
async fn to_the_end<T: Send + 'static>(
    call: &'static str,
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(|refusal| status(call, &refusal)),
        Err(error) => Err(Status::internal(format!("{call}: {error}"))),
    }
}

/// The refusal on the wire, and in the log: a provisioner shows only the last one as an event.
fn status(call: &'static str, refusal: &Refusal) -> Status {
    tracing::info!(call, code = ?refusal.code, %refusal, "refused");
    Status::new(tonic::Code::from_i32(refusal.code as i32), refusal.message.clone())
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
