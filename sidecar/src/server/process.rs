//! One volume's process, from its folders to its exit code.
//!
//! Owns the `s3pod serve` that serves one volume and nothing else, what it is started with, and
//! what is left of it in words. Promises: it has the environment that it needs and no secret in
//! it; its share of memory and its folders come back when it has ended, however that came about;
//! it ends with this process. Must not know which other volumes there are.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod::mount::{Refused, admin};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::files::Folder;
use super::order::{FILES, Files, Order, Refusal, Running, VOLUMES};
use super::shares::Share;
use super::tied;

/// The socket's name in the volume's own folder, which is the process's working directory: so its
/// address is short, wherever the folder is.
const SOCKET: &str = "s3pod.sock";

/// The store has two seconds of it; a large cache's table on a slow disk may take longer.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether the process listens.
const POLL: Duration = Duration::from_millis(20);

/// A process that was told to end sends what is dirty. What it does not get rid of in this time
/// stays in its journal, for the next one.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// A longer line of a log is cut.
const LOG_LINE_MAX: u64 = 8 << 10;

/// What the last line of a process that fails begins with.
const FAILURE: &str = "s3pod: ";

/// The codes of a command line and a configuration that cannot work.
const INVALID: [i32; 2] = [2, 78];

/// What of this process's own environment a volume's process gets, beside `S3POD_*`.
const INHERITED: [&str; 15] = [
    "AWS_CA_BUNDLE",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_REGION",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "RUST_BACKTRACE",
];

/// The folders that all volumes have their own in.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) sockets: PathBuf,
    pub(crate) secrets: PathBuf,
    /// What was read; may go at any time.
    pub(crate) cache: PathBuf,
    /// What is not sent yet; may be the same folder.
    pub(crate) journal: PathBuf,
}

/// A volume's own folders on disk.
struct Kept {
    cache: PathBuf,
    journal: PathBuf,
}

/// Whose a process is.
#[derive(Clone, Debug)]
struct Owner {
    key: String,
    /// What people call the volume; empty where nobody has said.
    volume: String,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    owner: Owner,
    pid: u32,
    memory: u64,
    /// Where its sockets are.
    folder: PathBuf,
    files: Mutex<Option<Folder>>,
    is_listening: watch::Sender<bool>,
    ended: watch::Receiver<Option<Ended>>,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    status: Option<ExitStatus>,
    said: String,
}

impl Process {
    /// Starts the process of a volume; it does not listen yet.
    pub(crate) fn start(order: &Order, share: Share, places: &Places) -> io::Result<Arc<Self>> {
        let key = &order.key;
        let folder = Folder::new(&places.sockets.join(VOLUMES), key, &Files::default())?;
        let files = Folder::new(&places.secrets, key, &order.files)?;
        let kept = Kept { cache: places.cache.join(key), journal: places.journal.join(key) };
        let command = command(order, share.limit(), folder.path(), files.path(), &kept);
        let mut child = Command::from(command).spawn()?;
        let (sender, ended) = watch::channel(None);
        let process = Arc::new(Self {
            owner: Owner { key: key.clone(), volume: order.volume.clone() },
            pid: child.id().unwrap_or_default(),
            memory: share.total(),
            folder: folder.path().to_owned(),
            files: Mutex::new(Some(files)),
            is_listening: watch::Sender::new(false),
            ended,
        });
        let watched = Arc::clone(&process);
        tokio::spawn(async move {
            let ended = attend(&watched.owner, &mut child).await;
            // In this order: whoever hears of the end finds memory and folders free.
            drop((share, folder));
            watched.take_files();
            let _ = sender.send(Some(ended));
        });
        Ok(process)
    }

    /// Waits until its socket is there; the socket's path below the folder of sockets.
    pub(crate) async fn listening(&self) -> Result<PathBuf, Refusal> {
        let admin = admin::path_beside(&self.folder.join(SOCKET));
        let mut waited = Duration::ZERO;
        // Made after the other one, which therefore listens as well, and after the store has
        // answered or was waited for.
        while !admin.exists() {
            if let Some(ended) = self.ended.borrow().clone() {
                return Err(ended.refusal(&self.owner.key));
            }
            if waited >= START_PATIENCE {
                self.end().await;
                return Err(Refusal::Unavailable(format!(
                    "the server of the volume {} did not begin within {START_PATIENCE:?}; its log \
                     says more",
                    self.owner.key
                )));
            }
            tokio::time::sleep(POLL).await;
            waited += POLL;
        }
        self.is_listening.send_replace(true);
        Ok(self.socket())
    }

    fn socket(&self) -> PathBuf {
        let own = self.folder.file_name().unwrap_or_default();
        Path::new(VOLUMES).join(own).join(SOCKET)
    }

    /// Replaces its files.
    pub(crate) fn replace_files(&self, files: &Files) -> io::Result<()> {
        let held = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some(folder) => folder.replace(files),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "its server has ended")),
        }
    }

    fn take_files(&self) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let known = ended.wait_for(Option::is_some).await.ok().and_then(|known| known.clone());
        known.unwrap_or(Ended { status: None, said: String::new() })
    }

    /// Tells it to end, and sees to it that it does.
    pub(crate) async fn end(&self) -> Ended {
        self.signal(Signal::SIGTERM);
        if let Ok(ended) = tokio::time::timeout(END_PATIENCE, self.ended()).await {
            return ended;
        }
        crate::say(format_args!(
            "{}: its server does not end; what is not in S3 stays in its journal",
            self.owner
        ));
        self.signal(Signal::SIGKILL);
        self.ended().await
    }

    /// Sends it a signal, unless it has ended: it is reaped by the very task that then says so.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.borrow().is_none()
            && let Ok(pid) = i32::try_from(self.pid)
            && pid > 0
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// What is told of it.
    pub(crate) fn describe(&self) -> Running {
        Running {
            key: self.owner.key.clone(),
            volume: self.owner.volume.clone(),
            socket: self.is_listening.borrow().then(|| self.socket()),
            pid: self.pid,
            memory: self.memory,
        }
    }
}

impl Ended {
    /// As a sentence.
    pub(crate) fn how(&self) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        let Some(status) = self.status else { return "nobody knows how it ended".to_owned() };
        match (status.code(), status.signal()) {
            (Some(0), _) => "ended in order".to_owned(),
            (Some(code), _) if self.said.is_empty() => format!("ended with exit code {code}"),
            (Some(code), _) => format!("ended with exit code {code}: {}", self.said),
            (None, Some(9)) => "was killed (SIGKILL): by the kernel for memory, or by somebody \
                                on the node"
                .to_owned(),
            (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
        }
    }

    /// As the answer to a start.
    fn refusal(&self, key: &str) -> Refusal {
        let code = self.status.and_then(|status| status.code());
        let said = if self.said.is_empty() { self.how() } else { self.said.clone() };
        let why = format!("the volume {key}: {said}");
        match code.map(|code| (code, Refused::of(code))) {
            Some((_, Some(Refused::NoBucket))) => Refusal::NoBucket(why),
            Some((_, Some(Refused::Unknown))) => Refusal::Unknown(why),
            Some((_, Some(Refused::Denied))) => Refusal::Denied(why),
            Some((code, None)) if INVALID.contains(&code) => Refusal::Invalid(why),
            _ => Refusal::Unavailable(why),
        }
    }
}

fn command(
    order: &Order,
    memory: u64,
    folder: &Path,
    files: &Path,
    kept: &Kept,
) -> std::process::Command {
    let place = files.to_string_lossy();
    let filled = |text: &String| text.replace(FILES, &place);
    let mut command = tied::command();
    command.args(order.arguments.iter().map(filled));
    command.arg("--memory-limit").arg(memory.to_string());
    command.arg("--cache-dir").arg(&kept.cache).arg("--journal-dir").arg(&kept.journal);
    command.arg(SOCKET).current_dir(folder).env_clear();
    command.envs(inherited(std::env::vars_os(), order.server_identity));
    let own: BTreeMap<&String, String> =
        order.environment.iter().map(|(name, value)| (name, filled(value))).collect();
    command.envs(own);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// What of an environment a volume's process may see: another volume's identity, or the server's
/// own, must not become its own by chance.
fn inherited(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    with_identity: bool,
) -> Vec<(OsString, OsString)> {
    let is_plain = |name: &OsStr| {
        name.to_str().is_some_and(|name| name.starts_with("S3POD_") || INHERITED.contains(&name))
    };
    let is_identity =
        |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with("AWS_") || name == "HOME");
    let passes = |name: &OsStr| is_plain(name) || (with_identity && is_identity(name));
    let mut passed: Vec<_> = all.into_iter().filter(|(name, _)| passes(name)).collect();
    if !with_identity {
        passed.push(("AWS_EC2_METADATA_DISABLED".into(), "true".into()));
    }
    passed
}

/// Passes its log on until it has ended.
async fn attend(owner: &Owner, child: &mut Child) -> Ended {
    let mut said = String::new();
    if let Some(log) = child.stderr.take() {
        pass_on(owner, log, &mut said).await;
    }
    let status = child.wait().await.ok();
    let ended = Ended { status, said };
    crate::say(format_args!("{owner}: its server {}", ended.how()));
    ended
}

async fn pass_on(owner: &Owner, log: impl AsyncRead + Unpin, said: &mut String) {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut log).take(LOG_LINE_MAX).read_until(b'\n', &mut line).await;
        if !read.is_ok_and(|count| count > 0) {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if let Some(failure) = text.strip_prefix(FAILURE) {
            failure.clone_into(said);
        }
        // There is nobody left to tell where stderr is closed.
        let _ = writeln!(io::stderr(), "{}", owner.line(text));
    }
}

impl Owner {
    /// A line of the volume's log, with the volume's name on it.
    fn line(&self, text: &str) -> String {
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
            // A line of JSON stays one.
            Ok(mut fields) => {
                fields.insert("volume".to_owned(), self.volume.as_str().into());
                fields.insert("key".to_owned(), self.key.as_str().into());
                serde_json::Value::Object(fields).to_string()
            }
            Err(_) => format!("{self}: {text}"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.volume.as_str() {
            "" => f.write_str(&self.key),
            volume => write!(f, "{volume} ({})", self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_passed_on_only_where_it_is_meant() {
        let all = || {
            ["AWS_SECRET_ACCESS_KEY", "AWS_REGION", "HOME", "S3POD_LOG_LEVEL", "PASSWORD"]
                .map(|name| (OsString::from(name), OsString::from("x")))
        };
        let names = |with_identity| {
            let passed = inherited(all(), with_identity).into_iter();
            passed.map(|(name, _)| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["AWS_REGION", "S3POD_LOG_LEVEL", "AWS_EC2_METADATA_DISABLED"]);
        assert_eq!(names(true), ["AWS_SECRET_ACCESS_KEY", "AWS_REGION", "HOME", "S3POD_LOG_LEVEL"]);
    }

    #[test]
    fn every_line_names_its_volume_and_json_stays_json() {
        let owner = Owner { key: "k1".to_owned(), volume: "pvc-1".to_owned() };
        assert_eq!(owner.line("WARN it is slow"), "pvc-1 (k1): WARN it is slow");
        let line = owner.line(r#"{"level":"WARN","message":"it is slow"}"#);
        let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&fields["volume"], &fields["level"]), (&"pvc-1".into(), &"WARN".into()));
        let unnamed = Owner { volume: String::new(), ..owner };
        assert_eq!(unnamed.line("{no json"), "k1: {no json");
    }

    #[test]
    fn an_end_is_told_by_its_code() {
        use std::os::unix::process::ExitStatusExt as _;
        let ended = |status: i32, said: &str| Ended {
            status: Some(ExitStatus::from_raw(status)),
            said: said.to_owned(),
        };
        assert_eq!(ended(0, "").how(), "ended in order");
        assert!(ended(9, "").how().contains("killed"));
        let said = ended(78 << 8, "no such flag").refusal("v");
        assert_eq!(said, Refusal::Invalid("the volume v: no such flag".to_owned()));
        let of = |what: Refused| ended(i32::from(what.exit_code()) << 8, "why").refusal("v");
        assert!(matches!(of(Refused::NoBucket), Refusal::NoBucket(_)));
        assert!(matches!(of(Refused::Unknown), Refusal::Unknown(_)));
        assert!(matches!(of(Refused::Denied), Refusal::Denied(_)));
        assert!(matches!(ended(1 << 8, "").refusal("v"), Refusal::Unavailable(_)));
        assert!(matches!(ended(9, "").refusal("v"), Refusal::Unavailable(_)));
    }
}
