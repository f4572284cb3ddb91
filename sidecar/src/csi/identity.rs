//! Who the driver is, and whether it can be called.
//!
//! Owns the Identity service and the word "ready". Promises: it answers at once, whatever the
//! store or any mount does: liveness hangs on it. Must not know what the other services do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::{Request, Response, Status};

use super::proto::{self, identity_server, plugin_capability};

/// Whether the driver has taken up what an earlier one left; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Not ready yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Ready from here on.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True once it is.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The Identity service.
#[derive(Debug)]
pub(super) struct Identity {
    name: String,
    readiness: Readiness,
}

impl Identity {
    pub(super) const fn new(name: String, readiness: Readiness) -> Self {
        Self { name, readiness }
    }
}

#[tonic::async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        Ok(Response::new(proto::GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }))
    }

    /// The same from every instance of a version, whatever its mode: so the specification.
    async fn get_plugin_capabilities(
        &self,
        _: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        let service = plugin_capability::Service {
            r#type: plugin_capability::service::Type::ControllerService.into(),
        };
        let expansion = plugin_capability::VolumeExpansion {
            r#type: plugin_capability::volume_expansion::Type::Online.into(),
        };
        let capabilities = [
            plugin_capability::Type::Service(service),
            plugin_capability::Type::VolumeExpansion(expansion),
        ];
        let capability = |kind| proto::PluginCapability { r#type: Some(kind) };
        Ok(Response::new(proto::GetPluginCapabilitiesResponse {
            capabilities: capabilities.map(capability).to_vec(),
        }))
    }

    async fn probe(
        &self,
        _: Request<proto::ProbeRequest>,
    ) -> Result<Response<proto::ProbeResponse>, Status> {
        let ready = Some(self.readiness.is_set());
        Ok(Response::new(proto::ProbeResponse { ready }))
    }
}
