//! Cached files that the kernel reads by itself, though their server may not tell it to.
//!
//! The mounting side here is the library's own ([`s3pod::mount::broker`]), as the driver has it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3pod::fuse::registrar;
use s3pod::mount::broker::{Kernel, Server, attend};
use s3pod::mount::handoff::{Offer, VERSION, attach, offer};
use serde_json::json;

use crate::kubelet::{Kubelet, MEMORY};
use crate::stand::{Stand, USER, until};

const SIZE: usize = (3 << 20) + 5;

/// A connection, and what was done on it.
struct Connection {
    device: OwnedFd,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    registered: AtomicU32,
    taken_back: AtomicU32,
}

impl Kernel for Connection {
    fn register(&mut self, file: &File) -> io::Result<u32> {
        let number = registrar::register(&self.device, file)?;
        self.counts.registered.fetch_add(1, Ordering::SeqCst);
        Ok(number)
    }

    fn unregister(&mut self, number: u32) {
        registrar::unregister(&self.device, number).unwrap();
        self.counts.taken_back.fetch_add(1, Ordering::SeqCst);
    }
}

/// Fulfils a server's wishes until the line is shut.
struct Broker {
    line: UnixStream,
    thread: JoinHandle<()>,
    counts: Arc<Counts>,
}

impl Broker {
    fn start(line: UnixStream, device: OwnedFd) -> Self {
        let (own, counts) = (line.try_clone().unwrap(), Arc::<Counts>::default());
        let mut kernel = Connection { device, counts: Arc::clone(&counts) };
        let thread = std::thread::spawn(move || {
            attend(&line, Server { uid: USER, device: None }, &mut kernel);
        });
        Self { line: own, thread, counts }
    }

    fn registered(&self) -> u32 {
        self.counts.registered.load(Ordering::SeqCst)
    }

    fn taken_back(&self) -> u32 {
        self.counts.taken_back.load(Ordering::SeqCst)
    }

    fn end(self) {
        self.line.shutdown(std::net::Shutdown::Both).unwrap();
        self.thread.join().unwrap();
    }
}

/// A handle through which the kernel reads by itself.
fn open_passed(stand: &Stand, path: &Path) -> File {
    let count = || stand.log().matches("the kernel reads the file by itself").count();
    for _ in 0..600 {
        let before = count();
        let file = File::open(path).unwrap();
        // The line is on its way while the open has been answered.
        std::thread::sleep(std::time::Duration::from_millis(20));
        if count() > before {
            return file;
        }
    }
    panic!("the file was never handed to the kernel:\n{}", stand.log());
}

/// Reads a file while its server is stopped: not one READ has to be answered, nor a GETATTR.
fn read_alone(pid: u32, file: &File) -> Vec<u8> {
    let pid = Pid::from_raw(pid.cast_signed());
    let mut bytes = vec![0; SIZE];
    kill(pid, Signal::SIGSTOP).unwrap();
    let read = file.read_exact_at(&mut bytes, 0);
    kill(pid, Signal::SIGCONT).unwrap();
    read.unwrap();
    bytes
}

fn warm(path: &Path) {
    let mut warm = Command::new(env!("CARGO_BIN_EXE_s3pod"));
    let warmed = warm.arg("warm").arg(path).output().unwrap();
    assert!(warmed.status.success(), "{}", String::from_utf8_lossy(&warmed.stderr));
}

/// A volume with one cached file, published by a driver that was told of this folder of caches.
fn published(caches: &str) -> (Kubelet, PathBuf, Vec<u8>) {
    let kubelet = Kubelet::with(MEMORY, &["--cache-dir", caches]);
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    kubelet.stand.bucket().put("f", bytes.clone());
    let mut call = kubelet.call("v", "pod-1");
    call.volume_context.insert("logLevel".into(), "debug".into());
    kubelet.publish(&call).unwrap();
    let path = kubelet.target("pod-1").join("f");
    warm(&path);
    (kubelet, path, bytes)
}

#[test]
fn the_driver_registers_files_of_the_servers_cache_for_its_volumes() {
    // Found where the stand has it, since both are on the disk of temporary files.
    let folder = tempfile::tempdir().unwrap();
    let (mut kubelet, path, bytes) = published(folder.path().to_str().unwrap());
    let pid = kubelet.stand.pid_of(&kubelet.stand.keys()[0]);
    let file = open_passed(&kubelet.stand, &path);
    assert!(read_alone(pid, &file) == bytes);
    drop(file);
    // Also one that was started anew.
    kubelet.restart(Signal::SIGKILL, |_| {});
    let file = open_passed(&kubelet.stand, &path);
    assert!(read_alone(pid, &file) == bytes);
}

#[test]
fn a_file_that_is_elsewhere_than_the_caches_is_read_by_its_server() {
    let (kubelet, path, bytes) = published("/proc");
    for _ in 0..3 {
        assert!(fs::read(&path).unwrap() == bytes);
    }
    until("it is refused", || {
        let read = fs::read(&path);
        assert!(read.unwrap() == bytes);
        kubelet.stand.log().contains("not on the file system of the cache")
    });
    assert!(!kubelet.stand.log().contains("the kernel reads the file by itself"));
}

#[test]
fn a_cached_file_is_read_without_its_server_also_by_a_driver_that_came_back() {
    let stand = Stand::new("112MiB");
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    for name in ["f", "g"] {
        stand.bucket().put(name, bytes.clone());
    }
    let mut order = stand.order("one");
    let more = ["--log-level", "debug", "--cache-min-free", "0"].map(|word| json!(word));
    order["arguments"].as_array_mut().unwrap().extend(more);
    let (socket, point, device) = stand.mount(&order);
    let path = |name: &str| -> PathBuf { point.join(name) };
    let line = UnixStream::connect(&socket).unwrap();
    let volume = "one".to_owned();
    let first = Offer { version: VERSION, volume, lease: 1, brokers: true, attaches: false };
    let reply = offer(&line, &first, &device).unwrap();
    assert_eq!(reply.refused, None);
    let broker = Broker::start(line, device);
    let pid = stand.pid_of("one");

    warm(&path("f"));
    let file = open_passed(&stand, &path("f"));
    let second = open_passed(&stand, &path("f"));
    assert!(read_alone(pid, &file) == bytes, "the same bytes, from the cache's own file");
    assert_eq!(broker.registered(), 1, "one registration for an inode, however often it is open");
    drop((file, second));
    until("the last release takes it back", || broker.taken_back() == 1);

    // The driver goes: files are read by the server again, and nothing is interrupted.
    broker.end();
    until("the server knows", || stand.log().contains("whoever mounted has gone"));
    warm(&path("g"));
    assert_eq!(fs::read(path("g")).unwrap(), bytes);
    // It comes back, and gets the connection's descriptor.
    let line = UnixStream::connect(&socket).unwrap();
    let (again, device) = attach(&line, "one").unwrap();
    assert_eq!((again.refused, again.init), (None, reply.init));
    let broker = Broker::start(line, device.expect("the server's own descriptor"));
    let file = open_passed(&stand, &path("g"));
    assert!(read_alone(pid, &file) == bytes);
    drop(file);
    until("it is taken back", || broker.taken_back() == broker.registered());
    broker.end();
}
