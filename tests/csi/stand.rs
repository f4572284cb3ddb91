//! A server of volumes, and whoever mounts for it.
//!
//! Owns `s3pod-sidecar server` as an unprivileged process, in a mount namespace of its own, and the
//! mounting side of a test. It shares no code with the driver: the lines of both protocols are
//! written out. Promises: whatever is started or mounted here ends with the test.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::Pid;
use s3pod_testkit::{Bucket, ServerOptions, TestServer};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const BUCKET: &str = "photos";
/// Anybody but root.
pub(crate) const USER: u32 = 65534;
const POLL: Duration = Duration::from_millis(10);
const LOOKS: u32 = 3000;

/// A store, a server of volumes, and a folder for mounts.
pub(crate) struct Stand {
    pub(crate) store: TestServer,
    pub(crate) folder: TempDir,
    server: Option<Child>,
    /// The server's own keys, which no volume gets unless that is asked for.
    pub(crate) identity: (String, String),
}

impl Stand {
    /// A server with as much memory as `memory` says, as the option takes it.
    pub(crate) fn new(memory: &str) -> Self {
        own_mounts();
        let folder = TempDir::with_prefix("s3pod-server-").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["sockets", "cache", "secrets"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(USER), Some(USER)).unwrap();
        }
        bring_programs(folder.path());
        let store = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
        let nobodys = || "the-servers".to_owned();
        let mut stand = Self { store, folder, server: None, identity: (nobodys(), nobodys()) };
        stand.start(memory);
        stand
    }

    /// Starts the server, and waits until it listens.
    pub(crate) fn start(&mut self, memory: &str) {
        let path = |name: &str| self.folder.path().join(name);
        let log = File::options().create(true).append(true).open(path("log")).unwrap();
        let mut command = Command::new(path("s3pod-sidecar"));
        command.arg("server").arg("--socket-dir").arg(path("sockets"));
        command.arg("--cache-dir").arg(path("cache")).arg("--secret-dir").arg(path("secrets"));
        command.args(["--memory-limit", memory]);
        // The disk of temporary files may be full.
        command.env("S3POD_CACHE_MIN_FREE", "0");
        let (key, secret) = &self.identity;
        command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
        command.uid(USER).gid(USER).current_dir("/").stdin(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().unwrap());
        let socket = self.sockets().join("server.sock");
        until("the server listens", || UnixStream::connect(&socket).is_ok());
    }

    pub(crate) fn bucket(&self) -> Bucket {
        self.store.bucket(BUCKET)
    }

    pub(crate) fn sockets(&self) -> PathBuf {
        self.folder.path().join("sockets")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// An order for a volume of the bucket, with its credentials as a file.
    pub(crate) fn order(&self, key: &str) -> Value {
        let endpoint = self.store.s3_endpoint(BUCKET);
        json!({
            "key": key,
            "arguments": [BUCKET, "--endpoint-url", endpoint.endpoint, "--region",
                endpoint.region, "--allow-other"],
            "environment": {
                "AWS_SHARED_CREDENTIALS_FILE": "{files}/credentials",
                "AWS_CONFIG_FILE": "/dev/null",
            },
            "files": {"credentials": base64(&self.credentials())},
        })
    }

    /// What stands in that file.
    pub(crate) fn credentials(&self) -> String {
        let endpoint = self.store.s3_endpoint(BUCKET);
        format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            endpoint.access_key, endpoint.secret_key
        )
    }

    /// The files of credentials that volumes are served with.
    pub(crate) fn credentials_of_volumes(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.folder.path().join("secrets/secrets")).unwrap();
        folders.map(|folder| folder.unwrap().path().join("credentials")).collect()
    }

    /// Sends the server a request; its answer.
    pub(crate) fn ask(&self, request: &Value) -> Value {
        let mut request = request.clone();
        request["version"] = json!(1);
        self.say(format!("{request}\n").as_bytes()).unwrap()
    }

    /// Sends the server bytes; its answer.
    pub(crate) fn say(&self, bytes: &[u8]) -> io::Result<Value> {
        let mut stream = UnixStream::connect(self.sockets().join("server.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(bytes)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// What keys the server says that it serves.
    pub(crate) fn keys(&self) -> Vec<String> {
        let listed = self.ask(&json!({"list": {}}));
        let volumes = listed["volumes"].as_array().unwrap();
        let mut keys: Vec<String> =
            volumes.iter().map(|volume| volume["key"].as_str().unwrap().to_owned()).collect();
        keys.sort();
        keys
    }

    /// Starts a volume, mounts it and hands the mount over.
    pub(crate) fn serve(&self, order: &Value) -> Volume {
        let (socket, point, device) = self.mount(order);
        let (line, answer) = hand_over(&socket, &device);
        let pid = self.pid_of(order["key"].as_str().unwrap());
        let admin = socket.with_file_name("s3pod.sock.admin");
        Volume { point, device: Some(device), line, admin, answer, pid }
    }

    /// Starts a volume and mounts it: the socket to hand it over at, the mount, its descriptor.
    pub(crate) fn mount(&self, order: &Value) -> (PathBuf, PathBuf, OwnedFd) {
        let answer = self.ask(&json!({"start": order}));
        let socket = answer["started"]["socket"].as_str();
        let socket = socket.unwrap_or_else(|| panic!("{answer}\n{}", self.log()));
        let mounts = self.folder.path().join("mounts");
        let point = mounts.join(order["key"].as_str().unwrap());
        fs::create_dir_all(&mounts).unwrap();
        // There already where it is mounted over; a look at it would ask whoever served it.
        let _ = fs::create_dir(&point);
        let device = mounted(&point);
        (self.sockets().join(socket), point, device)
    }

    /// The process of a volume.
    pub(crate) fn pid_of(&self, key: &str) -> u32 {
        let listed = self.ask(&json!({"list": {}}));
        let volumes = listed["volumes"].as_array().unwrap();
        let found = volumes.iter().find(|volume| volume["key"] == key);
        u32::try_from(found.unwrap()["pid"].as_u64().unwrap()).unwrap()
    }

    /// Sends the server itself a signal that does not end it.
    pub(crate) fn signal(&self, signal: Signal) {
        let server = self.server.as_ref().unwrap().id();
        kill(Pid::from_raw(server.cast_signed()), signal).unwrap();
    }

    /// Sends the server itself a signal, and waits for its end; its exit code.
    pub(crate) fn end(&mut self, signal: Signal) -> Option<i32> {
        let mut server = self.server.take().unwrap();
        kill(Pid::from_raw(server.id().cast_signed()), signal).unwrap();
        server.wait().unwrap().code()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.end(Signal::SIGKILL);
        }
        // The namespace goes with this process, and every mount in it; but the folder goes first.
        let mounts = self.folder.path().join("mounts");
        for entry in fs::read_dir(mounts).into_iter().flatten().flatten() {
            while umount2(&entry.path(), MntFlags::MNT_DETACH).is_ok() {}
        }
        for program in ["s3pod", "s3pod-sidecar"] {
            let _ = umount2(&self.folder.path().join(program), MntFlags::MNT_DETACH);
        }
    }
}

/// A volume that is mounted and served.
pub(crate) struct Volume {
    pub(crate) point: PathBuf,
    device: Option<OwnedFd>,
    line: UnixStream,
    admin: PathBuf,
    /// What the server said when it took the mount.
    pub(crate) answer: Value,
    pub(crate) pid: u32,
}

impl Volume {
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.point.join(name))
    }

    /// Waits until the server's end of the line is closed; then the connection ends, with the last
    /// descriptor of it.
    pub(crate) fn await_end(&mut self) {
        self.line.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(self.line.read(&mut [0]).unwrap(), 0, "the line is closed, and nothing is said");
        self.device = None;
    }

    /// What its process answers about itself.
    pub(crate) fn ask(&self, path: &str) -> Value {
        let mut stream = UnixStream::connect(&self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// Unmounts.
    pub(crate) fn unmount(&mut self) {
        self.device = None;
        umount2(&self.point, MntFlags::empty()).unwrap();
    }

    pub(crate) fn kill(&self) {
        kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL).unwrap();
    }
}

fn mounted(point: &Path) -> OwnedFd {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let terms = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("volume"), point, Some("fuse.s3pod"), flags, Some(terms.as_str())).unwrap();
    OwnedFd::from(device)
}

fn hand_over(socket: &Path, device: &OwnedFd) -> (UnixStream, Value) {
    let stream = UnixStream::connect(socket).unwrap();
    let line = format!("{}\n", json!({"version": 1, "volume": "v", "lease": 1}));
    let descriptors = [device.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let none: Option<&UnixAddr> = None;
    let data = [IoSlice::new(line.as_bytes())];
    sendmsg(stream.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, none).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).unwrap();
    (stream, serde_json::from_str(&answer).unwrap())
}

/// Polls until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if holds() {
            return;
        }
        std::thread::sleep(POLL);
    }
    panic!("not so in time: {what}");
}

/// As `base64 -w0` writes it.
pub(crate) fn base64(text: &str) -> String {
    let mut encode = Command::new("base64");
    let mut child = encode.arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// The programs where any user may run them: bound, since they are large. Both are built whenever
/// this suite is, since both packages have one of its name.
fn bring_programs(folder: &Path) {
    let server = PathBuf::from(env!("CARGO_BIN_EXE_s3pod"));
    let none: Option<&str> = None;
    for name in ["s3pod", "s3pod-sidecar"] {
        let program = server.with_file_name(name);
        assert!(program.exists(), "{} is missing; build the workspace", program.display());
        let place = folder.join(name);
        File::create(&place).unwrap();
        mount(Some(&program), &place, none, MsFlags::MS_BIND, none).unwrap();
    }
}

/// Gives this thread, and whatever it starts, mounts of its own: they go with it.
pub(crate) fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("own mounts");
    drop_copies();
}

/// A new namespace has copies of every mount, and a copy keeps the FUSE mount of another test
/// alive when that one unmounts it.
fn drop_copies() {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    for line in table.lines().filter(|line| line.contains(" - fuse.")) {
        if let Some(point) = line.split(' ').nth(4) {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}
