//! How a mount begins and every way it ends: the whole program against a server in-process.
//!
//! Needs root, /dev/fuse and CAP_SYS_ADMIN, like the mounts themselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test waits for processes by the real clock")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod_testkit::{Fault, Op, S3Endpoint, ServerOptions, TestServer, TokenService};
use tokio::net::TcpSocket;

const BUCKET: &str = "photos";
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, a directory to mount on, and everything the program is told.
struct Bench {
    server: TestServer,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(ServerOptions::with_bucket(BUCKET))
    }

    fn with(options: ServerOptions) -> Self {
        let bench = Self { server: TestServer::spawn(options), folder: tempdir() };
        fs::create_dir(bench.dir()).unwrap();
        bench
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn endpoint(&self) -> S3Endpoint {
        self.server.s3_endpoint(BUCKET)
    }

    /// `s3pod mount` with this bench's server, unless `arguments` name another.
    fn command(&self, bucket: &str, dir: &Path, arguments: &[&str]) -> Command {
        let endpoint = self.endpoint();
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod"));
        command.env_clear().envs(endpoint.environment()).arg("mount").arg(bucket).arg(dir);
        command.arg("--cache-dir").arg(self.folder.path().join("cache"));
        if !arguments.contains(&"--endpoint-url") {
            command.args(["--endpoint-url", &endpoint.endpoint]);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn foreground(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(BUCKET, &self.dir(), arguments);
        let child = command.arg("--foreground").spawn().unwrap();
        let running = Running(child);
        wait_until("it is mounted", || is_mounted(&self.dir()) && self.dir().read_dir().is_ok());
        running
    }

    fn background(&self, arguments: &[&str]) -> Output {
        self.command(BUCKET, &self.dir(), arguments).output().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        while umount2(&self.dir(), MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// A program in the foreground; killed with the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    /// Its exit code, and what it wrote to standard error.
    fn end(mut self) -> (Option<i32>, String) {
        wait_until("it ends", || self.0.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "in vain: until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = format!(" {} ", dir.display());
    table.lines().any(|line| line.contains(&point) && line.contains("fuse.s3pod"))
}

/// Processes with `dir` among their arguments.
fn processes_of(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let has_dir = |path: &PathBuf| {
        let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == dir.as_bytes())
    };
    processes.filter(has_dir).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn in_the_background_the_caller_returns_when_the_mount_answers() {
    let bench = Bench::new();
    bench.endpoint();
    bench.server.bucket(BUCKET).put("a", "hello");
    let held_path = bench.folder.path().join("held");
    let held = File::create(&held_path).unwrap();
    fcntl(&held, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();

    let output = bench.background(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read(bench.dir().join("a")).unwrap(), b"hello");

    let processes = processes_of(&bench.dir());
    assert_eq!(processes.len(), 1, "{processes:?}");
    let daemon = &processes[0];
    assert_eq!(fs::read_link(daemon.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read_to_string(daemon.join("comm")).unwrap().trim(), "s3pod");
    for standard in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(fs::read_link(daemon.join(standard)).unwrap(), Path::new("/dev/null"));
    }
    let descriptors = fs::read_dir(daemon.join("fd")).unwrap();
    let has_held = |path: PathBuf| fs::read_link(path).is_ok_and(|file| file == held_path);
    assert!(
        !descriptors.into_iter().any(|entry| has_held(entry.unwrap().path())),
        "a descriptor of the caller's is kept open"
    );

    umount2(&bench.dir(), MntFlags::empty()).unwrap();
    wait_until("the process has ended", || processes_of(&bench.dir()).is_empty());
}

#[test]
fn what_is_wrong_is_one_sentence_and_an_exit_code_and_nothing_stays() {
    let bench = Bench::with(ServerOptions {
        region: "eu-central-1".to_owned(),
        enforce_region: true,
        ..ServerOptions::with_bucket(BUCKET)
    });
    let not_s3 = serve_web_page();
    let port = bench.server.address().port();
    let tls = format!("https://127.0.0.1:{port}");
    let folder = bench.folder.path();
    fs::write(folder.join("file"), "x").unwrap();
    let missing = folder.join("missing");
    let file = folder.join("file");
    let full = folder.join("full");
    fs::create_dir_all(full.join("below")).unwrap();
    let dir = bench.dir();
    let cases: [(&str, &Path, &[&str], i32, &str); 10] = [
        (BUCKET, &missing, &[], 78, "mkdir -p"),
        (BUCKET, &file, &[], 78, "not a directory"),
        (BUCKET, &full, &[], 78, "--nonempty"),
        (BUCKET, folder, &[], 2, "on the mount itself"),
        ("no-such-bucket", &dir, &[], 66, "no-such-bucket"),
        (BUCKET, &dir, &["--region", "us-west-2"], 78, "eu-central-1"),
        (BUCKET, &dir, &["--endpoint-url", "http://127.0.0.1:1"], 1, "refused"),
        (BUCKET, &dir, &["--endpoint-url", &tls], 78, "TLS"),
        (BUCKET, &dir, &["--endpoint-url", &not_s3], 78, "S3"),
        (BUCKET, &dir, &["--no-such-flag"], 2, "--no-such-flag"),
    ];
    for (bucket, dir, arguments, code, word) in cases {
        for more in [&[][..], &["--foreground"]] {
            let output = bench.command(bucket, dir, arguments).args(more).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{bucket} {arguments:?}: {said}");
            assert!(said.contains(word), "{bucket} {arguments:?}: {said}");
        }
        assert!(!is_mounted(dir), "{bucket} {arguments:?}");
    }
    let mut wrong_key = bench.command(BUCKET, &dir, &[]);
    let output = wrong_key.env("AWS_SECRET_ACCESS_KEY", "wrong").output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(67), "{said}");
    assert!(said.contains("SignatureDoesNotMatch") && !said.contains("wrong"), "{said}");
    assert!(processes_of(&dir).is_empty());
}

/// Something that speaks HTTP and not S3; its URL. It ends with the test's process.
fn serve_web_page() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = [0; 8192];
            let _ = connection.read(&mut request);
            let page = "<html><body>It works!</body></html>";
            let _ = write!(
                connection,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{page}",
                page.len()
            );
        }
    });
    url
}

#[test]
fn a_signal_sends_what_is_dirty_and_ends_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let bench = Bench::new();
        let running = bench.foreground(&[]);
        let mut open = File::create(bench.dir().join("dirty")).unwrap();
        open.write_all(b"not closed").unwrap();
        running.signal(signal);
        wait_until("the name is gone", || !is_mounted(&bench.dir()));
        let bucket = bench.server.bucket(BUCKET);
        assert_eq!(bucket.get("dirty").unwrap(), "not closed", "{signal}");
        // Served on while it is open, and sent again when it is closed.
        open.write_all(b", now closed").unwrap();
        nix::unistd::close(open).unwrap();
        let (code, said) = running.end();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(bucket.get("dirty").unwrap(), "not closed, now closed", "{signal}");
    }
}

#[test]
fn a_second_signal_ends_without_waiting_for_the_store() {
    let bench = Bench::new();
    let running = bench.foreground(&[]);
    let mut open = File::create(bench.dir().join("dirty")).unwrap();
    open.write_all(b"never sent").unwrap();
    let hold = bench.server.faults().hold(Op::Put, "dirty");
    running.signal(Signal::SIGTERM);
    assert!(hold.wait_for_blocking(1, PATIENCE));
    running.signal(Signal::SIGTERM);
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in a hurry"), "{said}");
    assert!(!is_mounted(&bench.dir()));
    hold.release();
}

#[test]
fn what_cannot_be_sent_at_the_end_is_said() {
    let bench = Bench::new();
    let running = bench.foreground(&["--op-timeout", "1s"]);
    let mut open = File::create(bench.dir().join("dirty")).unwrap();
    open.write_all(b"refused").unwrap();
    let refusal = s3pod_testkit::Fault::status(403, "AccessDenied").on(Op::Put).always();
    bench.server.faults().add(refusal);
    running.signal(Signal::SIGTERM);
    wait_until("the name is gone", || !is_mounted(&bench.dir()));
    drop(open);
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("dirty") && said.contains("access denied"), "{said}");
    let last = bench.server.log().requests_of(Op::Put).pop().unwrap();
    let id = format!("{:016X}", last.order);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(&id)).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("dirty") && lines[0].contains("access denied"), "{}", lines[0]);
}

#[test]
fn a_mount_that_somebody_attends_to_is_left_dead_and_any_other_is_unmounted() {
    let bench = Bench::new();
    let file = bench.folder.path().join("attended");
    let lock = File::create(&file).unwrap();
    lock.lock().unwrap();
    let leave = ["--leave-mount", file.to_str().unwrap()];
    let running = bench.foreground(&leave);
    let mut open = File::create(bench.dir().join("dirty")).unwrap();
    open.write_all(b"not closed").unwrap();
    running.signal(Signal::SIGTERM);
    let (code, said) = running.end();
    assert!(code == Some(0) && said.contains("the mount is left"), "{said}");
    assert_eq!(bench.server.bucket(BUCKET).get("dirty").unwrap(), "not closed");
    assert!(is_mounted(&bench.dir()));
    let written = fs::write(bench.dir().join("beneath"), "x").unwrap_err();
    assert_eq!(written.raw_os_error(), Some(nix::errno::Errno::ENOTCONN as i32), "{written}");
    assert!(open.write_all(b"x").is_err() && nix::unistd::close(open).is_err());

    drop(lock);
    let running = bench.foreground(&["--replace-stale", leave[0], leave[1]]);
    running.signal(Signal::SIGTERM);
    let (code, said) = running.end();
    assert!(code == Some(0) && said.contains("unmounted; everything"), "{said}");
    // The dead one was beneath it.
    umount2(&bench.dir(), MntFlags::MNT_DETACH).unwrap();
    assert!(!is_mounted(&bench.dir()));
}

#[test]
fn somebody_elses_umount_sends_what_is_dirty_and_ends_with_0() {
    let bench = Bench::new();
    let running = bench.foreground(&[]);
    let mut open = File::create(bench.dir().join("dirty")).unwrap();
    open.write_all(b"closed late").unwrap();
    umount2(&bench.dir(), MntFlags::MNT_DETACH).unwrap();
    drop(open);
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(bench.server.bucket(BUCKET).get("dirty").unwrap(), "closed late");
}

#[test]
fn a_killed_program_leaves_a_dead_mount_that_the_next_one_can_replace() {
    let bench = Bench::new();
    bench.endpoint();
    bench.server.bucket(BUCKET).put("a", "hello");
    let running = bench.foreground(&[]);
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().0, None);
    assert!(is_mounted(&bench.dir()));

    let refused = bench.background(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--replace-stale"), "{}", text(&refused.stderr));

    let running = bench.foreground(&["--replace-stale"]);
    assert_eq!(fs::read(bench.dir().join("a")).unwrap(), b"hello");
    let taken = bench.background(&["--replace-stale", "--nonempty"]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken.stderr).contains("mounted there already"), "{}", text(&taken.stderr));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0, Some(0));
}

/// `s3pod health` of the bench's directory: its exit code, and what it said.
fn health(bench: &Bench, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod"));
    let output = command.args(["health", "--mounted"]).arg(bench.dir()).args(arguments).output();
    let output = output.unwrap();
    (output.status.code(), text(&output.stderr))
}

#[test]
fn health_tells_a_mount_that_lives_from_a_dead_and_a_stopped_one() {
    let bench = Bench::new();
    let (code, said) = health(&bench, &[]);
    assert!(code == Some(1) && said.contains("no bucket"), "{said}");
    let running = bench.foreground(&[]);
    // The mount may answer a moment before its server says so.
    wait_until("it is ready", || health(&bench, &[]).0 == Some(0));
    let requests = bench.server.log().total();
    assert_eq!(health(&bench, &[]), (Some(0), String::new()));
    assert_eq!(bench.server.log().total(), requests, "the store has no part in it");
    assert_eq!(health(&bench, &["--backend"]), (Some(0), String::new()));
    assert_eq!(bench.server.log().total(), requests + 1);
    running.signal(Signal::SIGSTOP);
    // Its threads stop one after the other.
    wait_until("it is stopped", || health(&bench, &[]).0 == Some(1));
    let begin = Instant::now();
    let (code, said) = health(&bench, &[]);
    assert!(code == Some(1) && said.contains("does not answer"), "{said}");
    // It waits for a second; kubelet's probes have no more patience by default.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    running.signal(Signal::SIGCONT);
    running.signal(Signal::SIGKILL);
    running.end();
    let (code, said) = health(&bench, &[]);
    assert!(code == Some(1) && said.contains("dead"), "{said}");
}

/// One request to a port of this machine; the whole answer.
fn get(port: u16, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_port_answers_probes_and_lets_nobody_drain() {
    let bench = Bench::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let running = bench.foreground(&["--admin-address", &port.to_string()]);
    wait_until("it is ready", || get(port, "GET /readyz").contains(" 200 "));
    assert!(get(port, "GET /healthz").ends_with("ok\n"));
    assert!(get(port, "GET /metrics").contains("\ns3pod_ready 1\n"));
    assert!(get(port, "POST /drain").contains(" 403 "));
    assert!(get(port, "GET /else").contains(" 404 "));
    let fault = Fault::status(403, "AccessDenied").on(Op::List).always();
    let _refused = bench.server.faults().add(fault);
    assert!(get(port, "GET /readyz?backend").contains(" 503 "));
    assert!(get(port, "GET /readyz").contains(" 200 "));
    let taken = bench.background(&["--admin-address", &port.to_string()]);
    assert!(!taken.status.success());
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn credentials_in_a_file_are_read_anew_when_they_are_rotated() {
    let bench = Bench::new();
    let file = bench.folder.path().join("credentials");
    let endpoint = bench.endpoint();
    let write = |secret: &str| {
        let new = bench.folder.path().join("new");
        let key = &endpoint.access_key;
        let lines = ["[default]", &format!("aws_access_key_id={key}"), ""];
        let secret = format!("aws_secret_access_key={secret}\n");
        fs::write(&new, lines.join("\n") + &secret).unwrap();
        // As kubelet does: all at once.
        fs::rename(new, &file).unwrap();
    };
    write(&endpoint.secret_key);
    let mut command = bench.command(BUCKET, &bench.dir(), &["--foreground"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let running = Running(command.env("AWS_SHARED_CREDENTIALS_FILE", &file).spawn().unwrap());
    wait_until("it is mounted", || is_mounted(&bench.dir()) && bench.dir().read_dir().is_ok());
    let mut number = 0;
    let mut is_let_in = || {
        number += 1;
        let looked = fs::metadata(bench.dir().join(format!("none-{number}")));
        looked.unwrap_err().kind() == std::io::ErrorKind::NotFound
    };
    assert!(is_let_in());
    write("rotated");
    wait_until("the new secret, which is wrong, is in use", || !is_let_in());
    write(&endpoint.secret_key);
    wait_until("the right one is in use again", is_let_in);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_pods_token_is_exchanged_and_a_rotated_one_is_exchanged_again() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let keys = (endpoint.access_key.as_str(), endpoint.secret_key.as_str());
    // The SDK asks again some seconds before the end.
    let service = TokenService::spawn(keys, "first", Duration::from_secs(12)).unwrap();
    let folder = bench.folder.path();
    let rotate = |token: &str| {
        fs::write(folder.join("new"), token).unwrap();
        fs::rename(folder.join("new"), folder.join("token")).unwrap();
        service.expect(token);
    };
    rotate("first");
    let role = "arn:aws:iam::123456789012:role/web";
    let lines = [
        "[default]".to_owned(),
        format!("role_arn = {role}"),
        "role_session_name = team-a-web-0".to_owned(),
        format!("web_identity_token_file = {}", folder.join("token").display()),
        format!("endpoint_url = {}", service.endpoint()),
    ];
    let file = folder.join("credentials");
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let file = file.to_str().unwrap();
    let arguments = ["--foreground", "--credentials-file", file];
    let mut command = bench.command(BUCKET, &bench.dir(), &arguments);
    // Keys of the environment are not those of the file, and must not be asked.
    command.env("AWS_ACCESS_KEY_ID", "nobody").env("AWS_SECRET_ACCESS_KEY", "nothing");
    command.env_remove("AWS_ENDPOINT_URL");
    let running = Running(command.spawn().unwrap());
    wait_until("it is mounted", || is_mounted(&bench.dir()) && bench.dir().read_dir().is_ok());
    let first = &service.asked()[0];
    assert_eq!((first.role.as_str(), first.session.as_str()), (role, "team-a-web-0"));
    assert_eq!(first.token, "first");
    rotate("second");
    let mut number = 0;
    wait_until("the second token is exchanged", || {
        number += 1;
        // A question to the store, for which somebody must be asked.
        let _ = fs::metadata(bench.dir().join(format!("none-{number}")));
        service.asked().last().is_some_and(|asked| asked.token == "second")
    });
    let written = fs::write(bench.dir().join("file"), "by the second");
    assert!(written.is_ok(), "{written:?}");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn who_waits_for_a_store_mounts_once_it_answers_and_ends_by_what_waiting_does_not_mend() {
    let bench = Bench::new();
    let (refusing, address) = refusing_port();
    let (endpoint, log) = (format!("http://{address}"), bench.folder.path().join("log"));
    let (endpoint, log) = (endpoint.as_str(), log.to_str().unwrap());
    let arguments = ["--wait-for-store", "--endpoint-url", endpoint, "--log-file", log];
    let start = |bucket: &str| {
        let _ = fs::remove_file(log);
        let mut command = bench.command(bucket, &bench.dir(), &arguments);
        Running(command.arg("--foreground").spawn().unwrap())
    };
    let said = || {
        let log = fs::read_to_string(log).unwrap_or_default();
        log.matches("nothing is mounted before the store answers").count()
    };
    let running = start(BUCKET);
    wait_until("it has asked", || said() == 1);
    running.signal(Signal::SIGTERM);
    let (code, words) = running.end();
    assert!(code == Some(1) && words.contains("SIGTERM before the mount"), "{words}");

    let mut running = start(BUCKET);
    wait_until("it has asked", || said() == 1);
    // It asks again meanwhile, for the same reason.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(said(), 1);
    let (code, words) = health(&bench, &[]);
    assert!(code == Some(1) && words.contains("no bucket"), "{words}");
    assert_eq!(running.0.try_wait().unwrap(), None);
    drop(refusing);
    let options = ServerOptions { listen: address, ..ServerOptions::with_bucket(BUCKET) };
    let store = TestServer::spawn(options);
    store.bucket(BUCKET).put("a", "hello");
    wait_until("it is mounted", || is_mounted(&bench.dir()) && bench.dir().read_dir().is_ok());
    assert_eq!(fs::read(bench.dir().join("a")).unwrap(), b"hello");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0, Some(0));

    let (code, words) = start("no-such-bucket").end();
    assert!(code == Some(66) && words.contains("no-such-bucket"), "{words}");
}

/// A port of this machine that nobody else gets and where nobody listens, as long as the first is
/// kept.
fn refusing_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}
