//! `s3pod-sidecar csi`: the driver that kubelet and the provisioner call.
//!
//! Owns the life of the process: options, the socket, which services a mode has, and the end.
//! Promises: mounts outlive it, whatever ends it; nothing secret is ever logged. Must not know
//! what a call does.
//!
//! ```text
//!   identity     who the driver is, whether it is ready
//!   node         publish, unpublish, stats: mounts and their targets on this machine
//!   controller   create, delete, expand: prefixes and buckets in the store
//!   answer       work that is finished, refusals on the wire and in the log
//!   servers      this driver's end of the processes that serve mounts
//!   own_server   the one that it starts itself, where there is no other
//! ```

mod answer;
mod controller;
mod endpoint;
mod identity;
mod node;
mod options;
mod own_server;
mod proto;
mod servers;

use clap::{ArgMatches, Command};
use s3pod::mount::Failure;
use s3pod::telemetry::Log;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::provision::{Provisioner, Stores};
use controller::Volumes;
use identity::{Identity, Readiness};
use node::Node;
use options::{Mode, Options};
use own_server::OwnServer;
use proto::controller_server::ControllerServer;
use proto::identity_server::IdentityServer;
use proto::node_server::NodeServer;
use servers::Servers;

/// The subcommand's name.
pub(super) const NAME: &str = "csi";

/// The subcommand.
pub(super) fn command() -> Command {
    options::arguments(Command::new(NAME))
        .about("The CSI driver: buckets as volumes of pods that need no privileges")
}

/// Serves until a signal ends it.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let options = Options::from_matches(matches)?;
    Log::start(&options.log).map_err(|error| Failure::passing(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("csi")
        .enable_all()
        .build()
        .map_err(|error| Failure::passing(format!("the runtime does not start: {error}")))?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), Failure> {
    let end = signalled()?;
    let stores = options.stores()?;
    let is_alone = options.mode == Mode::All;
    let readiness = Readiness::new();
    // Before the socket, which another driver at the same folder may listen at.
    let node = if options.mode.has_node() {
        let servers = match is_alone {
            true => own_server::servers(&options.state_dir),
            false => Servers::new(options.socket_dir.clone(), options.cache_dir.clone()),
        };
        Some(Node::new(&options, servers, readiness.clone())?)
    } else {
        None
    };
    let listener = endpoint::bind(&options.endpoint)?;
    let own_server = match is_alone {
        true => Some(OwnServer::start(&options.state_dir).await),
        false => None,
    };
    let driver_name = options.driver_name.clone();
    let identity = Identity::new(driver_name, readiness.clone());
    let server = tokio::spawn(answer(listener, identity, node.clone(), stores, end));
    match node {
        Some(node) => node.take_up().await,
        None => readiness.set(),
    }
    tracing::info!(
        driver = options.driver_name,
        mode = ?options.mode,
        endpoint = %options.endpoint.display(),
        state = %options.state_dir.display(),
        kubelet = ?options.kubelet_dir,
        "serving"
    );
    let ended = server.await.map_err(|error| Failure::passing(error.to_string()))?;
    endpoint::remove(&options.endpoint);
    if let Some(own_server) = own_server {
        own_server.end().await;
    }
    ended
}

/// Answers calls until `end`; those under way are finished.
async fn answer(
    listener: UnixListener,
    identity: Identity,
    node: Option<Node>,
    stores: Option<Stores>,
    end: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let volumes = stores.map(|stores| Volumes::new(Provisioner::new(stores)));
    Server::builder()
        .add_service(IdentityServer::new(identity))
        .add_optional_service(node.map(NodeServer::new))
        .add_optional_service(volumes.map(ControllerServer::new))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), end)
        .await
        .map_err(|error| Failure::passing(format!("the socket: {error}")))
}

/// The first signal that shall end the process.
fn signalled() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::passing(error.to_string()));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(name, "ending; what is mounted stays");
    })
}
