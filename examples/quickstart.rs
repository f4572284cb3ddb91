//! A bucket mounted as files, from nothing: an S3 server in this process, a real mount of it by
//! the real `s3pod`, files going in and coming out, and what S3 has of them.
//!
//! `make demo` builds and runs it; `KEEP=1 make demo` stays mounted until Ctrl-C.
#![expect(clippy::disallowed_methods, reason = "a demonstration shows times, and reads KEEP")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use s3pod_testkit::{Bucket, Mount, Op, S3Endpoint, ServerOptions, TestServer};

const BUCKET: &str = "demo";

/// Its bytes are made up as they are read, so it takes no memory.
const LARGE: &str = "large/1TiB.bin";
const LARGE_SIZE: u64 = 1 << 40;
const MIDDLE: u64 = LARGE_SIZE / 2;
const READ_SIZE: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody left to tell where stderr is closed.
            let _ = writeln!(io::stderr(), "quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let server = TestServer::try_spawn(ServerOptions::with_bucket(BUCKET))?;
    let bucket = server.bucket(BUCKET);
    bucket.put_synthetic(LARGE, LARGE_SIZE, 1);
    let endpoint = server.s3_endpoint(BUCKET);
    say("")?;
    say(format!("  server   {:<36}an S3 server in this process", server.endpoint()))?;

    let begin = Instant::now();
    let mount =
        waiting("mounting", || Mount::start(program()?, &endpoint, &[]).map_err(Into::into))?;
    let path = mount.path().to_owned();
    say(format!("  mount    {:<36}its bucket `{BUCKET}`, in {}", show(&path), took(begin)))?;

    copy_in(&server, &path)?;
    append(&server, &path)?;
    list(&bucket, &path)?;
    read_large(&server, &path)?;
    if std::env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0") {
        keep(&endpoint, &path)?;
    }
    unmount(mount)
}

/// The `s3pod` that was built beside this example.
fn program() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let beside = here.ancestors().nth(2).map(|folder| folder.join("s3pod"));
    beside
        .filter(|program| program.is_file())
        .context("there is no s3pod beside this example; `make demo` builds both")
}

fn copy_in(server: &TestServer, mount: &Path) -> anyhow::Result<()> {
    let sources = ["src/naming", "README.md", "LICENSE"];
    server.log().clear();
    say(format!("\n  $ cp -r {} mnt/", sources.join(" ")))?;
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cp = Command::new("cp");
    let status = cp.arg("-r").args(sources.map(|name| project.join(name))).arg(mount).status()?;
    ensure!(status.success(), "cp ended with {status}");
    say(format!("    {}", requests(server)))
}

fn append(server: &TestServer, mount: &Path) -> anyhow::Result<()> {
    server.log().clear();
    say("\n  $ echo 'and one more line' >> mnt/README.md")?;
    let mut file = File::options().append(true).open(mount.join("README.md"))?;
    file.write_all(b"and one more line\n")?;
    // What close() would say: a File that is dropped keeps it to itself.
    file.sync_all()?;
    say(format!("    {}", requests(server)))
}

/// The mount's files on the left, the bucket's objects on the right.
fn list(bucket: &Bucket, mount: &Path) -> anyhow::Result<()> {
    say(format!("\n  {:<43}{}", "$ find mnt -type f", "the same through S3"))?;
    let mut files = Vec::new();
    walk(mount, &mut files)?;
    files.sort();
    let keys: Vec<_> = bucket.keys().into_iter().filter(|key| !key.ends_with('/')).collect();
    ensure!(files.len() == keys.len(), "{} files, {} objects", files.len(), keys.len());
    for (file, key) in files.iter().zip(&keys) {
        let size = fs::metadata(file)?.len();
        let name = format!("mnt/{}", file.strip_prefix(mount)?.display());
        let object = bucket.object(key).context("an object that was listed is gone")?;
        let (size, stored) = (HumanBytes(size).to_string(), HumanBytes(object.size).to_string());
        say(format!("    {name:<27}{size:>10}    {key:<24}{stored:>10}"))?;
    }
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn read_large(server: &TestServer, mount: &Path) -> anyhow::Result<()> {
    say(format!("\n  $ dd if=mnt/{LARGE} bs=1M skip=512K count=1K"))?;
    server.log().clear();
    let file = File::open(mount.join(LARGE))?;
    let bar = ProgressBar::new(READ_SIZE).with_style(ProgressStyle::with_template(
        "    {bar:30} {decimal_bytes_per_sec} {bytes} of {total_bytes}",
    )?);
    let mut block = vec![0; MIB as usize];
    let begin = Instant::now();
    for at in (MIDDLE..MIDDLE + READ_SIZE).step_by(block.len()) {
        file.read_exact_at(&mut block, at)?;
        bar.inc(MIB);
    }
    let seconds = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let rate = READ_SIZE as f64 / MIB as f64 / seconds;
    let stored =
        server.bucket(BUCKET).get_range(LARGE, MIDDLE + READ_SIZE - MIB..MIDDLE + READ_SIZE);
    ensure!(stored.is_some_and(|stored| stored == block), "what was read is not what S3 has");
    say(format!(
        "    1 GiB from the middle of 1 TiB in {seconds:.2} s: {rate:.0} MiB/s, {}",
        requests(server)
    ))
}

/// Stays mounted until somebody says otherwise.
fn keep(endpoint: &S3Endpoint, mount: &Path) -> anyhow::Result<()> {
    let S3Endpoint { endpoint, access_key, secret_key, region, bucket } = endpoint;
    say(format!(
        "\n  Mounted until Ctrl-C. Look at both sides from another terminal:\n\n    \
         cd {}\n\n    \
         export AWS_ENDPOINT_URL={endpoint} AWS_REGION={region}\n    \
         export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}\n    \
         aws s3 ls --recursive s3://{bucket}/",
        mount.display()
    ))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => pressed,
            _ = terminate.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        }
    })?;
    // Past the terminal's own "^C".
    say("")
}

fn unmount(mount: Mount) -> anyhow::Result<()> {
    say("\n  $ umount mnt")?;
    let begin = Instant::now();
    let status = waiting("unmounting", || mount.unmount())?;
    ensure!(status.success(), "s3pod ended with {status}");
    say(format!("    in {}; everything is in S3\n", took(begin)))
}

/// What the server was asked since its log was cleared: `3 PutObject, 24 kB`.
fn requests(server: &TestServer) -> String {
    let (sent, received) = (server.log().bytes_in(), server.log().bytes_out());
    let counts = server.log().counts();
    let counts: Vec<_> =
        counts.iter().map(|(op, count)| format!("{count} {}", name(*op))).collect();
    let moved = if sent > received { sent } else { received };
    format!("{} ({})", counts.join(", "), HumanBytes(moved))
}

const fn name(op: Op) -> &'static str {
    match op {
        Op::Head => "HEAD",
        Op::Get => "GET",
        Op::List => "LIST",
        Op::Put => "PUT",
        Op::CreateUpload => "CreateUpload",
        Op::UploadPart => "UploadPart",
        Op::CopyPart => "CopyPart",
        Op::CompleteUpload => "Complete",
        Op::AbortUpload => "Abort",
        Op::Copy => "COPY",
        Op::Delete | Op::DeleteMany => "DELETE",
        Op::Probe | Op::Other => "other",
    }
}

/// Turns a wheel beside `what` once it takes longer than a moment.
fn waiting<T>(what: &'static str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let wheel = ProgressBar::new_spinner().with_message(what);
    wheel.enable_steady_tick(Duration::from_millis(100));
    let done = work();
    wheel.finish_and_clear();
    done
}

fn took(begin: Instant) -> String {
    match begin.elapsed() {
        short if short < Duration::from_secs(1) => format!("{} ms", short.as_millis()),
        long => HumanDuration(long).to_string(),
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn say(line: impl AsRef<str>) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{}", line.as_ref()).context("stdout")
}
