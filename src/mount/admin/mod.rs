//! What a running mount answers about itself: is it alive, is it ready, and "send what you have".
//!
//! Owns the routes and their listeners: a unix socket in the abstract namespace that is named
//! after the mount's device, so that whoever can read the table of mounts finds it without
//! configuration or files; and a TCP port where one was asked for. Promises: `/healthz` never
//! depends on the store; nobody but root and the mount's own user is heard on the unix socket;
//! connections are few and short. Must not know what asks.
//!
//! ```text
//!   GET  /healthz            200 while the process runs
//!   GET  /readyz             200 while the mount answers and is not ending
//!   GET  /readyz?backend     and only if the store answered a LIST of one key
//!   GET  /metrics            Prometheus' text
//!   GET  /statfs             {"total_bytes": N, "free_bytes": N}
//!   GET  /credentials        {"refused": WHY, "contact": {"why": WHY, "may_pass": BOOL}}, or null
//!   POST /drain              202; sends what is dirty, without ending (unix socket alone)
//! ```

mod ask;
mod listen;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Mutex;

use super::failure::Failure;
use super::mountinfo;
use super::probe::Contact;
use crate::clock::Clock;
use crate::naming::Prefix;
use crate::store::{Counters, ListRequest, ObjectStore};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::vfs::Vfs;

pub use ask::{Answer, Place, ask};

/// The store gets this long to answer a probe: a kubelet's probes wait 1 s by default, and who
/// asks for the store sets more.
const BACKEND_PATIENCE: Duration = Duration::from_secs(3);

/// So long an answer of the store stands for the next probes too: ten replicas' probes must not
/// become a load.
const BACKEND_KEPT: Duration = Duration::from_secs(5);

/// The admin interface of one mount. Dropping it closes every listener.
#[derive(Debug)]
pub(super) struct Admin {
    state: Arc<State>,
    tasks: Tasks,
}

#[derive(Debug)]
struct State {
    vfs: Vfs,
    store: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
    contact: Contact,
    prefix: Prefix,
    clock: Clock,
    is_ready: AtomicBool,
    is_sending: Arc<Mutex<()>>,
    backend: Mutex<Option<(Instant, bool)>>,
    metrics: Metrics,
}

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// Root or this user, on this machine.
    Owner,
    /// Anybody who reaches the port.
    Anybody,
}

impl Admin {
    pub(super) fn new(
        vfs: Vfs,
        store: Arc<dyn ObjectStore>,
        counters: Arc<Counters>,
        contact: Contact,
        prefix: &Prefix,
        clock: Clock,
    ) -> Self {
        let state = State {
            vfs,
            store,
            counters,
            contact,
            prefix: prefix.clone(),
            clock,
            is_ready: AtomicBool::new(false),
            is_sending: Arc::default(),
            backend: Mutex::default(),
            metrics: Metrics::start(),
        };
        Self { state: Arc::new(state), tasks: Tasks::new() }
    }

    /// Listens on `address`, where there is one.
    pub(super) async fn serve_port(&self, address: Option<SocketAddr>) -> Result<(), Failure> {
        let Some(address) = address else { return Ok(()) };
        let listener = listen::port(address).await.map_err(|error| {
            Failure::configuration(format!(
                "--admin-address: cannot listen on {address}: {error}; choose another port"
            ))
        })?;
        self.tasks.spawn(listen::serve_port(listener, Arc::clone(&self.state)));
        Ok(())
    }

    /// Listens on the unix socket of the mount at `point`. Without it the mount works, but
    /// `s3pod health` calls it dead, so that is said.
    pub(super) fn serve_mount(&self, point: &Path) {
        let device = mountinfo::read()
            .map(|mounts| mountinfo::topmost(&mounts, point).map(|mount| mount.device));
        let bound = match device {
            Ok(Some(device)) => listen::unix(device),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match bound {
            Ok(listener) => {
                self.tasks.spawn(listen::serve_unix(listener, Arc::clone(&self.state)));
            }
            Err(error) => tracing::warn!(%error, "`s3pod health` will not see this mount"),
        }
    }

    /// Listens on a unix socket at `path`, where the mount cannot be seen.
    pub(super) fn serve_path(&self, path: &Path) -> Result<(), Failure> {
        let listener = listen::unix_at(path).map_err(|error| {
            Failure::configuration(format!("{} cannot be listened at: {error}", path.display()))
        })?;
        self.tasks.spawn(listen::serve_unix(listener, Arc::clone(&self.state)));
        Ok(())
    }

    /// Says whether the mount is there to be used.
    pub(super) fn set_ready(&self, is_ready: bool) {
        self.state.is_ready.store(is_ready, Ordering::Relaxed);
    }
}

/// The admin socket of a server whose handoff socket is at `path`.
pub fn path_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".admin");
    PathBuf::from(name)
}

/// Answers one request.
async fn answer<B>(
    state: Arc<State>,
    caller: Caller,
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, uri) = (request.method(), request.uri());
    let (status, text) = match (method, uri.path()) {
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => state.readiness(uri.query() == Some("backend")).await,
        (&Method::GET, "/metrics") => (StatusCode::OK, state.metrics()),
        (&Method::GET, "/statfs") => (StatusCode::OK, state.room()),
        (&Method::GET, "/credentials") => (StatusCode::OK, state.credentials()),
        (&Method::POST, "/drain") if caller == Caller::Owner => state.send_ahead(),
        (&Method::POST, "/drain") => (StatusCode::FORBIDDEN, "not from a port\n".to_owned()),
        _ => {
            let known = "there is /healthz, /readyz, /metrics, /statfs and /credentials\n";
            (StatusCode::NOT_FOUND, known.to_owned())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

impl State {
    async fn readiness(&self, with_backend: bool) -> (StatusCode, String) {
        if !self.is_ready.load(Ordering::Relaxed) {
            return (StatusCode::SERVICE_UNAVAILABLE, "starting or ending\n".to_owned());
        }
        if with_backend && !self.backend_answers().await {
            return (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n".to_owned());
        }
        (StatusCode::OK, "ready\n".to_owned())
    }

    /// One LIST of one key, whose outcome stands for a while; probes that come meanwhile wait for
    /// it. The lock is held across the request for that.
    async fn backend_answers(&self) -> bool {
        let mut known = self.backend.lock().await;
        let now = self.clock.now();
        if let Some((at, answers)) = *known
            && now < at + BACKEND_KEPT
        {
            return answers;
        }
        let request = ListRequest {
            prefix: self.prefix.as_str().to_owned(),
            delimited: true,
            max_keys: Some(1),
            ..ListRequest::default()
        };
        let asked = tokio::time::timeout(BACKEND_PATIENCE, self.store.list(&request)).await;
        let answers = matches!(asked, Ok(Ok(_)));
        *known = Some((self.clock.now(), answers));
        answers
    }

    /// What statfs(2) would say, for whoever must not touch the mount.
    fn room(&self) -> String {
        let stat = self.vfs.statfs();
        let (total, free) = (stat.total_bytes, stat.free_bytes);
        format!("{{\"total_bytes\": {total}, \"free_bytes\": {free}}}\n")
    }

    /// Whether the store still knows who asks, as far as its last answers say: none is asked for.
    /// And why it has not been reached yet, where it has not.
    fn credentials(&self) -> String {
        let refused = self.counters.refused_credentials();
        let trouble = self.contact.trouble();
        let contact = trouble.map(|trouble| {
            serde_json::json!({ "why": trouble.to_string(), "may_pass": trouble.may_pass() })
        });
        format!("{}\n", serde_json::json!({ "refused": refused, "contact": contact }))
    }

    /// What is counted where it happens, and what is only known when somebody asks.
    fn metrics(&self) -> String {
        let unsent = self.vfs.unsent();
        metrics::gauge!("s3pod_ready").set(u8::from(self.is_ready.load(Ordering::Relaxed)));
        metrics::gauge!("s3pod_staged_bytes").set(unsent.bytes as f64);
        metrics::gauge!("s3pod_unsent_files").set(unsent.closed_files as f64);
        self.metrics.render()
    }

    /// Starts to send what is dirty; at once, one round at a time.
    fn send_ahead(&self) -> (StatusCode, String) {
        if let Ok(round) = Arc::clone(&self.is_sending).try_lock_owned() {
            let vfs = self.vfs.clone();
            // Its end is the mount's: `drain` waits for the same commits.
            tokio::spawn(async move {
                let sent = vfs.send_ahead().await;
                drop(round);
                tracing::info!(sent, "sent open files ahead of the end");
            });
        }
        (StatusCode::ACCEPTED, "sending\n".to_owned())
    }
}
