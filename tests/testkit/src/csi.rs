//! A client of a CSI driver, as kubelet and the provisioner have one.
//!
//! Owns the messages, made from the driver's `csi.proto` by the build, and the way to its socket.
//! Must not know what a call is good for.

use std::path::Path;

use anyhow::Context;
use tonic::transport::{Channel, Endpoint};

#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    reason = "made by the build; the words are the specification's"
)]
mod generated {
    tonic::include_proto!("csi.v1");
}

pub use generated::*;
pub use tonic::{Code, Request, Status};

/// A connection to the driver at `socket`; every client of a service can be made of it. Like
/// kubelet it says `localhost` where HTTP wants a host.
pub async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    let address = socket.to_str().context("a socket's path of plain words")?;
    let endpoint = Endpoint::try_from(format!("unix://{address}"))?
        .origin("http://localhost".parse().context("an origin")?);
    Ok(endpoint.connect().await?)
}
