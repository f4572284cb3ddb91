//! Everything a person can get wrong: one clear line, the right exit code, and no mount.
//!
//! Each line must name the thing, the cause and the remedy. Needs root, /dev/fuse and
//! CAP_SYS_ADMIN, like the mounts themselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use nix::mount::{MntFlags, umount2};
use rustls::{ServerConnection, StreamOwned};
use s3pod_testkit::{Fault, Mount, ServerOptions, TestServer, is_fuse_mount, tls};

const BUCKET: &str = "photos";
const USAGE: i32 = 2;
const CONFIGURATION: i32 = 78;
const NO_BUCKET: i32 = 66;
const UNKNOWN: i32 = 67;
const DENIED: i32 = 77;
const FAILURE: i32 = 1;

/// A server, and a directory to mount on.
struct Bench {
    server: TestServer,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(ServerOptions::with_bucket(BUCKET))
    }

    fn with(options: ServerOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Self { server: TestServer::spawn(options), folder }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// `s3pod mount` of this bench's bucket on its directory.
    fn command(&self) -> Command {
        self.command_for(BUCKET, &self.dir(), &self.server.endpoint())
    }

    fn command_for(&self, bucket: &str, dir: &Path, endpoint: &str) -> Command {
        let mut command = Command::new("timeout");
        // A hang is a failure with an exit code of its own.
        command.args(["60", env!("CARGO_BIN_EXE_s3pod"), "mount", bucket]).arg(dir);
        command.args(["--endpoint-url", endpoint]);
        command.arg("--cache-dir").arg(self.folder.path().join("cache"));
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command.envs(self.server.s3_endpoint(BUCKET).environment());
        command.stdin(Stdio::null());
        command
    }

    /// The command fails with `code` and one line that has all `words`, and mounts nothing on the
    /// bench's directory; in the background and in the foreground alike.
    #[track_caller]
    fn refuses(&self, command: impl Fn() -> Command, code: i32, words: &[&str]) {
        for foreground in [&[][..], &["--foreground"]] {
            let output = command().args(foreground).output().unwrap();
            let line = only_line(&output);
            assert_eq!(output.status.code(), Some(code), "{line}");
            assert!(line.starts_with("s3pod: "), "{line}");
            for word in words {
                assert!(line.contains(word), "`{word}` is missing: {line}");
            }
            assert!(!is_fuse_mount(&self.dir()), "mounted all the same: {line}");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        while umount2(&self.dir(), MntFlags::MNT_DETACH).is_ok() {}
    }
}

#[track_caller]
fn only_line(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.trim_end().lines().count(), 1, "not one line, {}:\n{said}", output.status);
    assert!(output.stdout.is_empty());
    said
}

// The bucket.

#[test]
fn a_bucket_that_is_missing() {
    let bench = Bench::new();
    let endpoint = bench.server.endpoint();
    let command = || bench.command_for("no-such-bucket", &bench.dir(), &endpoint);
    let words = [&*endpoint, "no bucket `no-such-bucket`", "check the name"];
    bench.refuses(command, NO_BUCKET, &words);
}

#[test]
fn a_bucket_that_is_forbidden() {
    let bench = Bench::new();
    let denied = || Fault::status(403, "AccessDenied").on_any().always();
    bench.server.faults().add(denied());
    let words = ["bucket `photos`", "access denied", "request ", "s3:ListBucket", "s3:PutObject"];
    bench.refuses(|| bench.command(), DENIED, &words);
}

#[test]
fn a_region_that_is_wrong() {
    let bench = Bench::with(ServerOptions {
        region: "eu-central-1".to_owned(),
        enforce_region: true,
        ..ServerOptions::with_bucket(BUCKET)
    });
    let command = || {
        let mut command = bench.command();
        command.args(["--region", "us-west-2"]);
        command
    };
    bench.refuses(command, CONFIGURATION, &["bucket `photos`", "--region eu-central-1"]);
    // As AWS answers a request to the wrong region's endpoint.
    let moved = "HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: ap-south-1\r\n\
                 Connection: close\r\nContent-Length: 0\r\n\r\n";
    let elsewhere = format!("http://{}", answer_always(moved));
    let command = || bench.command_for(BUCKET, &bench.dir(), &elsewhere);
    bench.refuses(command, CONFIGURATION, &["bucket `photos`", "--region ap-south-1"]);
}

// The credentials.

#[test]
fn credentials_that_are_missing() {
    let bench = Bench::new();
    let command = || {
        let mut command = bench.command();
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command
    };
    let words = ["credentials: none found", "AWS_ACCESS_KEY_ID", "--profile", "--no-sign-request"];
    bench.refuses(command, UNKNOWN, &words);
}

#[test]
fn credentials_that_have_expired() {
    let bench = Bench::new();
    bench.server.faults().add(Fault::status(400, "ExpiredToken").on_any().always());
    bench.refuses(|| bench.command(), UNKNOWN, &["ExpiredToken", "AWS_SESSION_TOKEN"]);
}

#[test]
fn credentials_that_are_wrong() {
    let bench = Bench::new();
    let with = |name: &'static str, value: &'static str| {
        let mut command = bench.command();
        command.env(name, value);
        command
    };
    let secret = "wr0ng-and-never-shown";
    let words = ["SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"];
    bench.refuses(|| with("AWS_SECRET_ACCESS_KEY", secret), UNKNOWN, &words);
    let output = with("AWS_SECRET_ACCESS_KEY", secret).output().unwrap();
    assert!(!only_line(&output).contains(secret));
    bench.refuses(|| with("AWS_ACCESS_KEY_ID", "nobody"), UNKNOWN, &["InvalidAccessKeyId"]);
    let profile = || {
        let mut command = bench.command();
        command.args(["--profile", "nobody"]);
        command
    };
    bench.refuses(profile, UNKNOWN, &["nobody", "--profile"]);
}

// The endpoint.

#[test]
fn an_endpoint_that_refuses_or_is_unknown() {
    let bench = Bench::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("http://{free}");
    let command = || bench.command_for(BUCKET, &bench.dir(), &refused);
    bench.refuses(command, FAILURE, &[&refused, "refused the connection", "--endpoint-url"]);
    let command = || bench.command_for(BUCKET, &bench.dir(), "http://s3.invalid:9000");
    bench.refuses(command, FAILURE, &["s3.invalid:9000", "cannot be resolved"]);
    let command = || bench.command_for(BUCKET, &bench.dir(), "minio:9000");
    bench.refuses(command, USAGE, &["--endpoint-url", "minio:9000", "http"]);
}

#[test]
fn an_endpoint_that_is_not_s3() {
    let bench = Bench::new();
    let page = "<html><body>It works!</body></html>";
    for status in ["200 OK", "404 Not Found", "400 Bad Request"] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{page}",
            page.len()
        );
        let web = format!("http://{}", answer_always(answer));
        let command = || bench.command_for(BUCKET, &bench.dir(), &web);
        bench.refuses(command, CONFIGURATION, &[&web, "S3", "It works!", "--endpoint-url"]);
    }
    let ssh = format!("http://{}", answer_always("SSH-2.0-OpenSSH_9.6\r\n"));
    let command = || bench.command_for(BUCKET, &bench.dir(), &ssh);
    bench.refuses(command, CONFIGURATION, &[&ssh, "S3", "--endpoint-url"]);
}

#[test]
fn an_endpoint_whose_tls_fails() {
    let bench = Bench::new();
    let plain = format!("https://{}", bench.server.address());
    let command = || bench.command_for(BUCKET, &bench.dir(), &plain);
    bench.refuses(command, CONFIGURATION, &[&plain, "TLS", "plain http://"]);
    let own = format!("https://{}", serve_tls());
    let command = || bench.command_for(BUCKET, &bench.dir(), &own);
    bench.refuses(command, CONFIGURATION, &[&own, "unknown authority", "--ca-bundle"]);
}

/// A server that gives every connection the same answer; it ends with the test's process.
fn answer_always(answer: impl Into<String>) -> std::net::SocketAddr {
    let answer = answer.into();
    serve(move |mut connection| {
        let mut request = [0; 8192];
        let _ = connection.read(&mut request);
        let _ = connection.write_all(answer.as_bytes());
    })
}

/// A server whose certificate no system trusts.
fn serve_tls() -> std::net::SocketAddr {
    let config = tls::server_config().unwrap();
    serve(move |connection| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        // The client hangs up in the handshake.
        let _ = StreamOwned::new(session, connection).read(&mut [0; 1]);
    })
}

fn serve(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    address
}

// The mount point.

#[test]
fn a_mount_point_that_is_missing_or_a_file() {
    let bench = Bench::new();
    let endpoint = bench.server.endpoint();
    let missing = bench.folder.path().join("missing");
    let shown = missing.to_str().unwrap();
    let words = [shown, "does not exist", "mkdir -p"];
    bench.refuses(|| bench.command_for(BUCKET, &missing, &endpoint), CONFIGURATION, &words);
    assert!(!missing.exists());
    fs::write(&missing, "x").unwrap();
    let words = [shown, "is not a directory", "empty directory"];
    bench.refuses(|| bench.command_for(BUCKET, &missing, &endpoint), CONFIGURATION, &words);
}

#[test]
fn a_mount_point_that_is_not_empty() {
    let bench = Bench::new();
    bench.server.bucket(BUCKET).put("in-the-bucket", "x");
    fs::write(bench.dir().join("in-the-way"), "x").unwrap();
    let dir = bench.dir();
    let words = [dir.to_str().unwrap(), "not empty", "--nonempty"];
    bench.refuses(|| bench.command(), CONFIGURATION, &words);

    let endpoint = bench.server.s3_endpoint(BUCKET);
    let binary = env!("CARGO_BIN_EXE_s3pod");
    let mount = Mount::options(binary, &endpoint).at(&dir).arg("--nonempty").start().unwrap();
    assert!(dir.join("in-the-bucket").exists() && !dir.join("in-the-way").exists());
    assert!(mount.unmount().unwrap().success());
    assert!(dir.join("in-the-way").exists());
}

#[test]
fn a_mount_point_that_is_mounted_already_or_dead() {
    let bench = Bench::new();
    bench.server.bucket(BUCKET).put("a", "hello");
    let endpoint = bench.server.s3_endpoint(BUCKET);
    let options = || Mount::options(env!("CARGO_BIN_EXE_s3pod"), &endpoint).at(bench.dir());
    let mount = options().start().unwrap();
    for more in [&[][..], &["--nonempty"], &["--replace-stale"]] {
        let output = bench.command().args(more).output().unwrap();
        let line = only_line(&output);
        assert_eq!(output.status.code(), Some(FAILURE), "{line}");
        assert!(line.contains("the bucket photos is mounted there already"), "{line}");
        assert!(line.contains("umount"), "{line}");
    }
    assert_eq!(fs::read(bench.dir().join("a")).unwrap(), b"hello");

    mount.crash();
    let output = bench.command().output().unwrap();
    let line = only_line(&output);
    assert_eq!(output.status.code(), Some(FAILURE), "{line}");
    assert!(line.contains("dead FUSE mount") && line.contains("--replace-stale"), "{line}");
    let above = options().arg("--replace-stale").start().unwrap();
    assert_eq!(fs::read(bench.dir().join("a")).unwrap(), b"hello");
    assert!(above.unmount().is_err(), "the dead mount is beneath it, as before");
}

// The machine.

#[test]
fn a_machine_without_dev_fuse() {
    let bench = Bench::new();
    // In a mount namespace of its own, /dev has nothing but null.
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$@\"";
    let command = || {
        let inner = bench.command();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null());
        command
    };
    bench.refuses(command, FAILURE, &["/dev/fuse", "modprobe fuse", "--device /dev/fuse"]);
}

#[test]
fn a_cache_folder_that_cannot_be_written() {
    let bench = Bench::new();
    let dir = bench.dir();
    let words = ["--cache-dir", "/dev/null/cache", "`none`"];
    let command = || {
        let endpoint = bench.server.s3_endpoint(BUCKET);
        let mut command = Command::new(env!("CARGO_BIN_EXE_s3pod"));
        command.args(["mount", BUCKET]).arg(&dir).args(["--cache-dir", "/dev/null/cache"]);
        command.args(["--endpoint-url", &endpoint.endpoint]).envs(endpoint.environment());
        command
    };
    bench.refuses(command, CONFIGURATION, &words);
}

// What was typed.

#[test]
fn flags_that_are_unknown_wrong_or_contradict_each_other() {
    let bench = Bench::new();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--metadata-ttl", "soon"], &["--metadata-ttl", "soon"]),
        (&["-o", "endpont-url=x"], &["-o", "endpont-url", "--help"]),
        (&["--no-sign-request", "--profile", "a"], &["--no-sign-request", "--profile"]),
        (&["--no-sign-request", "--requester-pays"], &["--requester-pays", "contradict"]),
        (&["--sse", "AES256", "--sse-kms-key-id", "k"], &["--sse-kms-key-id", "--sse aws:kms"]),
        (&["--region", "a-b-1", "-o", "region=c-d-2"], &["--region", "-o region", "leave one"]),
        (&["--memory-limit", "1MiB"], &["--memory-limit", "32MiB"]),
    ];
    for (arguments, words) in cases {
        let command = || {
            let mut command = bench.command();
            command.args(arguments);
            command
        };
        bench.refuses(command, USAGE, words);
    }
    let endpoint = bench.server.endpoint();
    let named = |bucket: &'static str| bench.command_for(bucket, &bench.dir(), &endpoint);
    let words = ["BUCKET", "photos/2024", "s3://BUCKET/PREFIX"];
    bench.refuses(|| named("photos/2024"), USAGE, &words);
    bench.refuses(|| named(""), USAGE, &["BUCKET"]);
    // Old buckets have such names, so it is the store that refuses.
    bench.refuses(|| named("Photos"), NO_BUCKET, &["no bucket `Photos`", "check the name"]);
}

/// These are clap's own, which show the usage below the sentence.
#[test]
fn flags_that_are_unknown_get_a_proposal() {
    let bench = Bench::new();
    for (flag, words) in [
        ("--read-onyl", &["--read-onyl", "--read-only"][..]),
        ("--no-such-flag", &["--no-such-flag", "--help"]),
    ] {
        let output = bench.command().arg(flag).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(!is_fuse_mount(&bench.dir()));
    }
    let output =
        Command::new(env!("CARGO_BIN_EXE_s3pod")).args(["mount", BUCKET]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(USAGE), "{said}");
    assert!(said.contains("<DIR>") || said.contains("DIR"), "{said}");
}

// The keys.

#[test]
fn keys_that_cannot_be_file_names_are_hidden_and_said_once() {
    let bench = Bench::new();
    let bucket = bench.server.bucket(BUCKET);
    let long = format!("d/{}", "x".repeat(256));
    let hidden = ["d//double", "d/./dot", "d/../dots", "/leading", &long];
    for key in hidden.iter().copied().chain(["d/good", "good"]) {
        bucket.put(key, "x");
    }
    let endpoint = bench.server.s3_endpoint(BUCKET);
    let arguments = ["--metadata-ttl", "0s"];
    let mount = Mount::start(env!("CARGO_BIN_EXE_s3pod"), &endpoint, &arguments).unwrap();
    let names = |path: PathBuf| {
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    for _ in 0..3 {
        assert_eq!(names(mount.path().to_owned()), ["d", "good"]);
        assert_eq!(names(mount.path().join("d")), ["good"]);
        assert!(fs::metadata(mount.path().join("d").join("x".repeat(256))).is_err());
        assert_eq!(fs::read(mount.path().join("d/good")).unwrap(), b"x");
    }
    let said = mount.stderr();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("not shown")).collect();
    assert!((1..=hidden.len()).contains(&lines.len()), "{said}");
    let mut once = lines.clone();
    once.sort_unstable_by_key(|line| line.split("key=").nth(1).map(str::to_owned));
    once.dedup_by_key(|line| line.split("key=").nth(1).map(str::to_owned));
    assert_eq!(once.len(), lines.len(), "a key is said twice: {said}");
    assert!(mount.unmount().unwrap().success());
    for key in hidden {
        assert!(bucket.contains(key), "{key}");
    }
}
