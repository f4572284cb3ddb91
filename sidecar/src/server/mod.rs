//! `s3pod-sidecar server`: serves the volumes of a node, each by a process of its own.
//!
//! Owns the life of the supervisor: options, its socket, who is heard, and the end. It mounts
//! nothing and never holds the descriptor of a mount: it starts the process that one is then
//! handed to (`s3pod serve`), so that a volume's end is its own. Promises: it needs no
//! privileges, whatever user it runs as, and a root file system that is read-only; only root and
//! its own user are heard; a signal drains every volume before it ends. Must not know who mounts.
//!
//! ```text
//!   order     the lines between driver and server
//!   volumes   what runs, and what a request does to it
//!   process   one volume's s3pod: arguments, environment, log, end
//!   shares    memory: who has how much
//!   files     credentials
//!   unused    caches of volumes that nobody serves any more
//!   unsent    what is in their journals
//! ```

mod files;
pub(crate) mod order;
mod process;
mod shares;
pub(crate) mod tied;
mod unsent;
mod unused;
mod volumes;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use nix::fcntl::{Flock, FlockArg};
use s3pod::clock::Clock;
use s3pod::config::Host;
use s3pod::mount::Failure;
use s3pod::units::ByteSize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;

use order::{Answer, LINE_MAX, Refusal, Request, Said, VERSION, What};
use process::Places;
use shares::{BESIDE, LEAST, Shares};
use volumes::Volumes;

/// The subcommand's name.
pub(super) const NAME: &str = "server";

const SOCKET_DIR: &str = "socket-dir";
const CACHE_DIR: &str = "cache-dir";
const JOURNAL_DIR: &str = "journal-dir";
const SECRET_DIR: &str = "secret-dir";
const MEMORY_LIMIT: &str = "memory-limit";
const VOLUME_MEMORY: &str = "volume-memory";
const TIED: &str = "tied";

/// The folder below `--secret-dir`.
const SECRETS: &str = "secrets";

/// Requests at once; one for each volume that is being started, and some that wait for an end.
const CONNECTIONS_MAX: usize = 256;

/// Each side is on the same machine, and has its line ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// After an accept that failed: mostly there are no descriptors left, and some will be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A driver has volumes served again within seconds after this server has begun.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);

/// What is taken for the memory of a machine without a limit and without a number.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// The subcommand.
pub(super) fn command() -> Command {
    let path = |name: &'static str| {
        Arg::new(name).long(name).value_name("DIR").value_parser(clap::value_parser!(PathBuf))
    };
    let size = |name: &'static str| {
        Arg::new(name).long(name).value_name("SIZE").value_parser(clap::value_parser!(ByteSize))
    };
    Command::new(NAME)
        .about("Serve a node's volumes, each by a process of its own, without any privilege")
        .arg(path(SOCKET_DIR).required(true).help("Where the driver finds this server's sockets"))
        .arg(path(CACHE_DIR).required(true).help("A folder for what the volumes have read"))
        .arg(path(JOURNAL_DIR).help(
            "A folder for what the volumes have not sent, and their journals; it has to outlive a \
             reboot [default: --cache-dir]",
        ))
        .arg(path(SECRET_DIR).help(
            "Where volumes' credentials are while they are served, best in memory \
             [default: --socket-dir]",
        ))
        .arg(size(MEMORY_LIMIT).help(
            "Memory that the volumes share [default: 80 % of the cgroup's limit, or of the \
             machine's memory]",
        ))
        .arg(
            Arg::new(TIED)
                .long(TIED)
                .value_name("PID")
                .hide(true)
                .value_parser(clap::value_parser!(i32))
                .help("End with this process, which has started it"),
        )
        .arg(size(VOLUME_MEMORY).help(
            "Memory of a volume that names none; each takes 48MiB beside it [default: 64MiB]",
        ))
}

/// What was typed.
#[derive(Debug)]
struct Options {
    places: Places,
    budget: u64,
    volume_memory: u64,
}

impl Options {
    fn from_matches(matches: &ArgMatches) -> Result<Self, Failure> {
        let path = |name| matches.get_one::<PathBuf>(name).cloned();
        let size = |name| matches.get_one::<ByteSize>(name).map(|size| size.0);
        let sockets = own_folder(SOCKET_DIR, &path(SOCKET_DIR).unwrap_or_default())?;
        let secrets = path(SECRET_DIR).unwrap_or_else(|| sockets.clone());
        let cache = own_folder(CACHE_DIR, &path(CACHE_DIR).unwrap_or_default())?;
        let journal = match path(JOURNAL_DIR) {
            Some(folder) => own_folder(JOURNAL_DIR, &folder)?,
            None => cache.clone(),
        };
        let places = Places {
            secrets: own_folder(SECRET_DIR, &secrets)?.join(SECRETS),
            cache,
            journal,
            sockets,
        };
        let budget = size(MEMORY_LIMIT).unwrap_or_else(|| Shares::budget_of(memory()));
        let volume_memory = size(VOLUME_MEMORY).unwrap_or(LEAST);
        if budget < volume_memory.saturating_add(BESIDE) {
            return Err(Failure::configuration(format!(
                "{} of memory are too few for one volume, which takes {} and {} beside it; raise \
                 the container's memory limit",
                ByteSize(budget),
                ByteSize(volume_memory),
                ByteSize(BESIDE)
            )));
        }
        Ok(Self { places, budget, volume_memory })
    }
}

/// What this process and its children may take in all.
fn memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    let limits = [Host::read().memory_limit, machine];
    limits.into_iter().flatten().min().unwrap_or(MEMORY_UNKNOWN)
}

fn total_of(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Makes a folder where it is missing; as an absolute path, since processes work in their own.
fn own_folder(flag: &str, folder: &Path) -> Result<PathBuf, Failure> {
    let proven = fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder))
        .and_then(|_| folder.canonicalize());
    proven.map_err(|error| {
        Failure::configuration(format!(
            "--{flag}: {} cannot be written to: {error}; it must belong to the user {}",
            folder.display(),
            nix::unistd::geteuid()
        ))
    })
}

/// Serves until a signal ends it.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    if let Some(parent) = matches.get_one::<i32>(TIED) {
        tied::tie(*parent)?;
    }
    let options = Options::from_matches(matches)?;
    let _alone = lock(&options.places.sockets)?;
    sweep(&options.places)?;
    // One thread: volumes' processes are tied to the one that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::passing(format!("the runtime does not start: {error}")))?;
    runtime.block_on(serve(options))
}

/// Two servers at one folder would take each other's sockets away.
fn lock(sockets: &Path) -> Result<Flock<File>, Failure> {
    let path = sockets.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let failed = |error: io::Error| Failure::passing(format!("{}: {error}", path.display()));
    let file = file.map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Failure::passing(format!(
            "another server is at work at {}; it must have ended before this one begins",
            sockets.display()
        ))
    })
}

/// Removes what a server that was killed has left, sockets that nobody listens at and credentials,
/// and makes the folders anew.
fn sweep(places: &Places) -> Result<(), Failure> {
    for folder in [&places.sockets.join(order::VOLUMES), &places.secrets] {
        let failed = |error: io::Error| {
            Failure::passing(format!("{} cannot be cleared: {error}", folder.display()))
        };
        if folder.symlink_metadata().is_ok() {
            fs::remove_dir_all(folder).map_err(failed)?;
        }
        fs::DirBuilder::new().mode(0o700).create(folder).map_err(failed)?;
    }
    Ok(())
}

async fn serve(options: Options) -> Result<(), Failure> {
    let mut end = End::listen()?;
    let Options { places, budget, volume_memory } = options;
    let (sockets, caches) = (places.sockets.clone(), places.cache.clone());
    let journals = places.journal.clone();
    let volumes = Volumes::new(places, Shares::new(budget), Some(volume_memory));
    let listener = bind(&sockets)?;
    crate::say(format_args!(
        "serving at {}, with {} for volumes",
        sockets.display(),
        ByteSize(budget)
    ));
    tokio::select! {
        () = accept(&listener, &volumes) => {}
        () = keep_clean(&caches, &volumes) => {}
        () = say_what_is_left(&journals, &volumes) => {}
        () = end.signalled() => {}
    }
    // Whoever connects from here on hears that nobody does.
    drop(listener);
    let _ = fs::remove_file(sockets.join(order::SOCKET));
    volumes.close();
    loop {
        tokio::select! {
            () = volumes.ended() => return Ok(()),
            // Once more: they are told once more, and leave in a hurry.
            () = end.signalled() => volumes.close(),
        }
    }
}

/// Removes caches that nobody uses any more, now and then.
async fn keep_clean(caches: &Path, volumes: &Arc<Volumes>) {
    loop {
        let (folder, running, now) = (caches.to_owned(), volumes.keys(), Clock::system().wall());
        let sweep = move || unused::sweep(&folder, &running, now);
        // Trees of files take their time, and volumes are served meanwhile.
        if let Ok(swept) = tokio::task::spawn_blocking(sweep).await {
            for key in swept.keys {
                crate::say(format_args!("{key}: nobody serves it, and its old cache is removed"));
            }
        }
        tokio::time::sleep(unused::EVERY).await;
    }
}

/// Says now and then what is not sent and will not be by itself.
async fn say_what_is_left(journals: &Path, volumes: &Arc<Volumes>) {
    let mut pause = RETURN_PATIENCE;
    loop {
        tokio::time::sleep(pause).await;
        let (folder, running) = (journals.to_owned(), volumes.keys());
        let left = tokio::task::spawn_blocking(move || unsent::look(&folder, &running)).await;
        left.iter().flatten().for_each(|left| crate::say(format_args!("{left}")));
        pause = unused::EVERY;
    }
}

/// Listens in the folder, by its descriptor: a socket's address must be short, a path need not.
fn bind(sockets: &Path) -> Result<UnixListener, Failure> {
    let failed = |error: io::Error| {
        Failure::configuration(format!("{} cannot be listened in: {error}", sockets.display()))
    };
    let path = sockets.join(order::SOCKET);
    if path.symlink_metadata().is_ok() {
        fs::remove_file(&path).map_err(failed)?;
    }
    let folder = File::open(sockets).map_err(failed)?;
    let near = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), order::SOCKET);
    let listener = UnixListener::bind(near).map_err(failed)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn accept(listener: &UnixListener, volumes: &Arc<Volumes>) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let volumes = Arc::clone(volumes);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &volumes).await {
                        crate::say(format_args!("a request broke off: {error}"));
                    }
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Hears one request and answers it. A stranger is turned away without a word.
async fn converse(stream: UnixStream, volumes: &Arc<Volumes>) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!("the user {peer} has nothing to ask here")));
    }
    let (from, mut to) = stream.into_split();
    let mut line = Vec::new();
    let mut from = BufReader::new(from.take(LINE_MAX as u64 + 1));
    tokio::time::timeout(PATIENCE, from.read_until(b'\n', &mut line)).await??;
    let answer = |said| {
        let mut line = serde_json::to_vec(&Answer { version: VERSION, said }).unwrap_or_default();
        line.push(b'\n');
        line
    };
    if line.len() > LINE_MAX {
        let why = format!("the request is too long; a line has {LINE_MAX} bytes at most");
        return to.write_all(&answer(Said::Refused(Refusal::Invalid(why)))).await;
    }
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let what = match Request::parse(&line) {
        Ok(what) => what,
        Err(refusal) => return to.write_all(&answer(Said::Refused(refusal))).await,
    };
    let started = match &what {
        What::Start(order) => Some(order.key.clone()),
        _ => None,
    };
    let written = to.write_all(&answer(volumes.answer(what).await)).await;
    if let (Err(_), Some(key)) = (&written, started) {
        // Nobody will hand a mount over to it.
        volumes.answer(What::Stop { key }).await;
    }
    written
}

/// The signals that end a server.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::passing(error.to_string()));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn signalled(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        crate::say(format_args!("{name}: every volume sends what it has, and ends"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_and_a_size_is_checked() {
        command().debug_assert();
        let typed = ["server", "--socket-dir", "/s", "--cache-dir", "/c", "--memory-limit", "x"];
        assert!(command().try_get_matches_from(typed).is_err());
    }

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(total_of("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert_eq!(total_of("MemTotal: much\n"), None);
        assert!(memory() > 0);
    }

    #[test]
    fn a_second_server_at_one_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = lock(folder.path()).unwrap();
        let said = lock(folder.path()).unwrap_err().to_string();
        assert!(said.contains("another server"), "{said}");
    }
}
