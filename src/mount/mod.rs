//! The life of a mount.
//!
//! Owns the order of things from a resolved [`Config`] to an exit code, and everything that
//! touches the kernel's mount table. Promises: nothing stays mounted where a mount could not
//! start, and nothing dirty stays behind unsaid where it ends. Must not know how files are served.

pub mod admin;
pub mod broker;
pub mod daemon;
mod allotment;
pub mod ephemeral;
mod failure;
pub mod handoff;
pub mod kernel;
mod limits;
pub mod mountinfo;
mod point;
mod probe;
mod capacity;
mod reload;
mod served;
mod session;
mod shutdown;
mod stack;
mod traces;
mod transfer;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::config::Config;
use crate::fuse::{self, Adapter, Dropper};
use crate::tasks::Tasks;
use crate::telemetry::{Log, Metrics};

use admin::Admin;
use broker::{Asking, Broker};
use daemon::Starter;
pub use failure::{Failure, Refused};
use handoff::{Handed, Listener};
use kernel::MountOptions;
use point::Allowed;
use probe::Contact;
pub use served::is_served;
use session::{Session, Waiting};
use shutdown::Signals;
use stack::Stack;
pub use transfer::Transfer;

/// How long a new mount gets to answer a stat of its root, which needs no request.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// Threads that read staging files for uploads, mostly out of the page cache. tokio's default of
/// 512 is reached by eight writers, each thread with a stack and an arena of malloc's.
const BLOCKING_THREADS: usize = 32;

/// How long the disk of the cache may take to write what was read last.
const LAST_BLOCKS: Duration = Duration::from_secs(5);

/// How long tasks that nobody waits for any more may go on after the unmount.
const LAST_TASKS: Duration = Duration::from_secs(1);

/// Mounts, serves, and ends in order: on a signal, or when somebody unmounts.
///
/// # Errors
/// The sentence for standard error and the exit code; nothing is mounted then.
pub fn run(config: &Config, starter: &Starter, log: Log) -> Result<(), Failure> {
    starter.begin();
    to_the_end(live(config, starter, log))
}

/// Serves a mount that somebody else makes and hands over at the socket `config.directory`, and
/// ends in order: on a signal, or when it is unmounted. Of several volumes, only `volume` is
/// taken, where it is given.
///
/// # Errors
/// The sentence for standard error and the exit code.
pub fn serve_handed(config: &Config, volume: Option<String>, log: Log) -> Result<(), Failure> {
    to_the_end(live_handed(config, volume, log))
}

/// Runs the life of a mount on a runtime of its own.
fn to_the_end(life: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    limits::raise_descriptors();
    let runtime = runtime()?;
    runtime.spawn(Metrics::start().keep_small());
    let ended = runtime.block_on(life);
    runtime.shutdown_timeout(LAST_TASKS);
    ended
}

async fn live_handed(config: &Config, volume: Option<String>, log: Log) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(|error| Failure::passing(error.to_string()))?;
    ephemeral::check(config)?;
    // Before the offer: once it is taken, everybody on the mount waits for this process.
    let base = tokio::select! {
        base = stack::connect(config) => base?,
        name = signals.next() => return Err(Failure::passing(format!("{name} before the mount"))),
    };
    let (stack, left) = stack::build(config, Arc::clone(&base))?;
    let listener = Arc::new(Listener::bind(&config.directory, volume)?);
    // Beside whoever connects already: a store that is away must not keep a mount away.
    let contact = tokio::select! {
        contact = probe::begin(&base, config) => contact?,
        name = signals.next() => return Err(Failure::passing(format!("{name} before the mount"))),
    };
    let admin = admin(config, &stack, contact.clone());
    admin.serve_port(config.admin_address).await?;
    admin.serve_path(&admin::path_beside(&config.directory))?;
    let asking = Tasks::new();
    asking.spawn(probe::go_on(contact, base, config.clone()));
    let (waiting, taken) = tokio::select! {
        taken = take_over(config, &stack, &listener) => taken?,
        name = signals.next() => {
            tracing::info!(name, "ending; no mount was handed over");
            return Ok(());
        }
    };
    // Ends with the process.
    std::thread::spawn(move || {
        listener.attend(taken.init, &taken.device, |line| {
            tracing::info!("whoever mounted is there again");
            taken.broker.connect(line.into_stream());
        });
    });
    // Whoever is on the mount waits meanwhile, and whoever mounted does not.
    tokio::select! {
        () = stack.take_up(left) => {}
        name = signals.next() => {
            tracing::info!(name, "ending; what an earlier mount left stays for the next one");
            return Ok(());
        }
    }
    let session = waiting.serve()?;
    let _watching = watch(config, &stack, log);
    attend(&stack, &admin, session, &mut signals, None).await
}

/// From the moment a mount answers to its end, which may leave it to whoever holds a lock on the
/// file `attended`.
async fn attend(
    stack: &Stack,
    admin: &Admin,
    mut session: Session,
    signals: &mut Signals,
    attended: Option<&Path>,
) -> Result<(), Failure> {
    admin.set_ready(true);
    let dropper = Dropper::start(&stack.vfs, session.notifier());
    tokio::select! {
        name = signals.next() => tracing::info!(name, "ending; once more to end in a hurry"),
        () = session.ended() => tracing::info!("unmounted by somebody else; ending"),
    }
    admin.set_ready(false);
    // The kernel may hold what it would wait for while it unmounts.
    drop(dropper);
    let ended = shutdown::end(&stack.vfs, session, signals, attended).await;
    stack.settle(LAST_BLOCKS).await;
    ended
}

/// A mount that was handed over.
struct Taken {
    /// A duplicate, for whoever attaches later.
    device: OwnedFd,
    init: Option<handoff::Init>,
    /// Keeps the line to the sender open.
    broker: Arc<Broker>,
}

/// Waits for a descriptor and answers its INIT; the line to its sender stays open from then on.
async fn take_over(
    config: &Config,
    stack: &Stack,
    listener: &Arc<Listener>,
) -> Result<(Waiting<Adapter>, Taken), Failure> {
    let accepting = Arc::clone(listener);
    let Handed { offer, device, line } = tokio::task::spawn_blocking(move || accepting.next())
        .await
        .map_err(|error| Failure::passing(error.to_string()))?
        .map_err(|error| Failure::passing(format!("the handoff socket: {error}")))?;
    let adapter = adapter(config, stack);
    let broker = Broker::new(stack.clock.clone());
    if offer.brokers {
        adapter.use_registrar(Arc::new(Asking(Arc::clone(&broker))));
    }
    let negotiated = adapter.negotiated();
    let own = device.try_clone().map_err(|error| Failure::passing(error.to_string()));
    let waiting = own.and_then(|own| {
        let waiting = Session::take_over(adapter, device, &mount_options(config))?;
        Ok((waiting, own))
    });
    let (waiting, device) = match waiting {
        Ok(waiting) => waiting,
        Err(failure) => {
            line.refuse(&failure.to_string());
            return Err(failure);
        }
    };
    let init = negotiated.get().copied().map(Into::into);
    line.accept(init).map_err(|error| {
        Failure::passing(format!("who handed the mount over has gone: {error}"))
    })?;
    broker.connect(line.into_stream());
    tracing::info!(bucket = config.bucket, volume = offer.volume, "serving a mount");
    Ok((waiting, Taken { device, init, broker }))
}

async fn live(config: &Config, starter: &Starter, log: Log) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(|error| Failure::passing(error.to_string()))?;
    let allowed = Allowed { nonempty: config.nonempty, stale: config.replace_stale };
    let point = point::check(&config.directory, allowed)?;
    ephemeral::check(config)?;
    let stack = tokio::select! {
        stack = contacted(config) => stack?,
        name = signals.next() => return Err(Failure::passing(format!("{name} before the mount"))),
    };
    let admin = admin(config, &stack, Contact::default());
    // Before the mount: a port that is taken must not leave a mount behind.
    admin.serve_port(config.admin_address).await?;
    let mut session = serve(config, &stack, &point)?;
    admin.serve_mount(&point);
    if let Err(failure) = announce(&point, starter).await {
        session.unmount();
        return Err(failure);
    }
    let _watching = watch(config, &stack, log);
    tracing::info!(bucket = config.bucket, directory = %point.display(), "mounted");
    attend(&stack, &admin, session, &mut signals, config.leave_mount.as_deref()).await
}

/// A stack over a store that has answered.
async fn contacted(config: &Config) -> Result<Stack, Failure> {
    let base = stack::connect(config).await?;
    if config.wait_for_store {
        probe::wait(&base, config).await?;
    } else {
        probe::probe(&base, config).await?;
    }
    let (stack, left) = stack::build(config, base)?;
    stack.take_up(left).await;
    Ok(stack)
}

fn serve(config: &Config, stack: &Stack, point: &Path) -> Result<Session, Failure> {
    Session::start(adapter(config, stack), point, &mount_options(config))
}

fn adapter(config: &Config, stack: &Stack) -> Adapter {
    let request_max = Transfer::within(config.memory_limit).request_max;
    let settings = fuse::Settings { op_timeout: config.op_timeout, request_max };
    Adapter::new(stack.vfs.clone(), Handle::current(), stack.clock.clone(), settings)
}

fn mount_options(config: &Config) -> MountOptions {
    MountOptions {
        source: source(config),
        read_only: config.read_only,
        allow_other: config.allow_other,
        transfer: Transfer::within(config.memory_limit),
    }
}

/// Looks at the file of options for as long as the result is kept.
fn watch(config: &Config, stack: &Stack, log: Log) -> Tasks {
    let tasks = Tasks::new();
    tasks.spawn(reload::watch(config.clone(), stack.allotment.clone(), log));
    let (store, vfs) = (Arc::clone(&stack.store), stack.vfs.clone());
    vfs.set_capacity(config.capacity);
    tasks.spawn(capacity::count(config.clone(), Arc::clone(&store), vfs.clone()));
    tasks.spawn(capacity::watch(config.clone(), store, vfs));
    tasks
}

fn admin(config: &Config, stack: &Stack, contact: Contact) -> Admin {
    let (store, counters) = (Arc::clone(&stack.store), Arc::clone(&stack.counters));
    Admin::new(stack.vfs.clone(), store, counters, contact, &config.prefix, stack.clock.clone())
}

/// What `df` shows as the file system: the bucket, and the prefix where there is one.
fn source(config: &Config) -> String {
    match config.prefix.as_str().trim_end_matches('/') {
        "" => config.bucket.clone(),
        prefix => format!("{}/{prefix}", config.bucket),
    }
}

/// Looks at the mount as an application would, then tells whoever waits for it.
async fn announce(point: &Path, starter: &Starter) -> Result<(), Failure> {
    let path = point.to_owned();
    let look = tokio::task::spawn_blocking(move || std::fs::metadata(path));
    match tokio::time::timeout(FIRST_ANSWER, look).await {
        Ok(Ok(Ok(_))) => {}
        Ok(Ok(Err(error))) => {
            return Err(Failure::passing(format!("the new mount does not answer: {error}")));
        }
        Ok(Err(_)) | Err(_) => {
            return Err(Failure::passing("the new mount does not answer"));
        }
    }
    starter
        .ready()
        .map_err(|error| Failure::passing(format!("nobody waits for the mount any more: {error}")))
}

fn runtime() -> Result<Runtime, Failure> {
    // One worker per core is the default; the network is all they wait for.
    Builder::new_multi_thread()
        .thread_name("s3pod-runtime")
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::passing(format!("the runtime does not start: {error}")))
}
