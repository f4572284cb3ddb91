//! The Node service: what is mounted on this machine.
//!
//! Owns the calls and their answers. Promises: no secret of a call is logged; no call waits on a
//! mounted path. Must not know how anything is mounted.
//!
//! ```text
//!   asked      what a call says
//!   places     paths: own, and kubelet's
//!   volumes    the order of things, over:
//!     busy       one operation per volume
//!     state      what is mounted, on disk
//!     mounts     the kernel's table
//!     served     a mount's servers, the first to the last
//!     told       what servers say, as codes
//!   reconcile  what an earlier driver left
//!   traces     what the table alone says of it
//! ```

mod asked;
mod busy;
mod mounts;
mod places;
mod reconcile;
mod served;
mod state;
mod stats;
mod told;
mod traces;
mod volumes;

use std::sync::Arc;

use s3pod::mount::Failure;
use tonic::{Request, Response, Status};

use super::answer::Call;
use super::identity::Readiness;
use super::options::Options;
use super::proto::{self, node_server, node_service_capability};
use super::servers::Servers;
use crate::volume::refusal::Refusal;

use asked::Wanted;
use places::Places;
use state::State;
use volumes::Volumes;

/// The Node service.
#[derive(Clone, Debug)]
pub(super) struct Node {
    id: String,
    volumes: Arc<Volumes>,
    readiness: Readiness,
}

impl Node {
    /// Over what an earlier driver left, which is not looked at yet.
    pub(super) fn new(
        options: &Options,
        servers: Servers,
        readiness: Readiness,
    ) -> Result<Self, Failure> {
        let places = Places::new(&options.state_dir, options.kubelet_dir.as_deref())?;
        let state = State::load(places.state())?;
        let volumes = Volumes::new(places, servers, state);
        Ok(Self { id: options.node_id.clone(), volumes, readiness })
    }

    /// Takes up what an earlier driver left; calls are answered from then on.
    pub(super) async fn take_up(&self) {
        if let Err(error) = reconcile::take_up(&self.volumes).await {
            tracing::error!(%error, "what an earlier driver mounted is not known");
        }
        self.readiness.set();
    }

    /// Finishes a call's work, once the driver knows what an earlier one left.
    async fn finish<T: Send + 'static>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        if !self.readiness.is_set() {
            return Err(Status::unavailable("the driver is starting; the next try will do"));
        }
        call.finish(work).await
    }
}

#[tonic::async_trait]
impl node_server::Node for Node {
    async fn node_publish_volume(
        &self,
        call: Request<proto::NodePublishVolumeRequest>,
    ) -> Result<Response<proto::NodePublishVolumeResponse>, Status> {
        let (volumes, call) = (Arc::clone(&self.volumes), call.into_inner());
        self.finish(Call::new("NodePublishVolume", &call.volume_id), async move {
            match Wanted::read(&call, &volumes.places) {
                Ok(wanted) => volumes.publish(wanted).await?,
                Err(refusal) => volumes.refuse(&call.volume_id, &call.target_path, refusal)?,
            }
            Ok(proto::NodePublishVolumeResponse {})
        })
        .await
    }

    async fn node_unpublish_volume(
        &self,
        call: Request<proto::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<proto::NodeUnpublishVolumeResponse>, Status> {
        let (volumes, call) = (Arc::clone(&self.volumes), call.into_inner());
        self.finish(Call::new("NodeUnpublishVolume", &call.volume_id), async move {
            asked::volume_id(&call.volume_id)?;
            let target = volumes.places.target("target_path", &call.target_path)?;
            volumes.unpublish(&call.volume_id, &target).await?;
            Ok(proto::NodeUnpublishVolumeResponse {})
        })
        .await
    }

    async fn node_get_volume_stats(
        &self,
        call: Request<proto::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<proto::NodeGetVolumeStatsResponse>, Status> {
        let (volumes, call) = (Arc::clone(&self.volumes), call.into_inner());
        self.finish(Call::new("NodeGetVolumeStats", &call.volume_id), async move {
            let usage = stats::usage(&volumes, &call.volume_id, &call.volume_path).await?;
            Ok(proto::NodeGetVolumeStatsResponse { usage })
        })
        .await
    }

    /// No staging: it knows neither pod nor token nor fsGroup.
    async fn node_get_capabilities(
        &self,
        _: Request<proto::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<proto::NodeGetCapabilitiesResponse>, Status> {
        use node_service_capability::{Rpc, Type, rpc};
        let capabilities = [
            rpc::Type::GetVolumeStats,
            rpc::Type::VolumeMountGroup,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capability = |kind: rpc::Type| proto::NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        };
        Ok(Response::new(proto::NodeGetCapabilitiesResponse {
            capabilities: capabilities.map(capability).to_vec(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<proto::NodeGetInfoRequest>,
    ) -> Result<Response<proto::NodeGetInfoResponse>, Status> {
        let node_id = self.id.clone();
        Ok(Response::new(proto::NodeGetInfoResponse { node_id, ..Default::default() }))
    }
}
