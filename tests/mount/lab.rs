//! Where requests are counted and broken: a mount of a bucket on our server, alone in its test.
//!
//! Owns the server and the mount. Counts are taken after the unmount, which waits for everything
//! that a handle's RELEASE sends in its own time. Must not know what is asserted.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use s3pod::mount::admin::{Place, ask};
use s3pod::mount::mountinfo;
use s3pod_testkit::{
    Bucket, Fault, Mount, MountOptions, Op, RequestLog, ServerOptions, TestServer,
};

pub(crate) const BUCKET: &str = "photos";
/// What must come about does so within this time on the busiest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server with one bucket, and a mount of it.
pub(crate) struct Lab {
    // Unmounted before the server goes.
    mount: Mount,
    server: TestServer,
}

impl Lab {
    /// A mount with these arguments of a bucket that `prepare` has filled. The log begins after
    /// what the mount itself has asked.
    pub(crate) fn new(arguments: &[&str], prepare: impl FnOnce(&Bucket)) -> Self {
        Self::on(ServerOptions::default(), arguments, prepare)
    }

    /// The same on a server that is made so.
    pub(crate) fn on(
        made: ServerOptions,
        arguments: &[&str],
        prepare: impl FnOnce(&Bucket),
    ) -> Self {
        let server = TestServer::spawn(made);
        prepare(&server.bucket(BUCKET));
        let mount = options(&server, arguments).start().unwrap();
        server.log().clear();
        Self { mount, server }
    }

    /// A mount of an empty bucket.
    pub(crate) fn empty(arguments: &[&str]) -> Self {
        Self::new(arguments, |_| {})
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    pub(crate) fn bucket(&self) -> Bucket {
        self.server.bucket(BUCKET)
    }

    pub(crate) fn server(&self) -> &TestServer {
        &self.server
    }

    pub(crate) fn log(&self) -> &RequestLog {
        self.server.log()
    }

    pub(crate) fn mount(&self) -> &Mount {
        &self.mount
    }

    /// What the mount's `/metrics` says of a number now: those with all of `labels`, added up.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let table = mountinfo::read().unwrap();
        let device = mountinfo::topmost(&table, self.mount.path()).unwrap().device;
        let page = ask(&Place::Mount(device), "GET", "/metrics", PATIENCE).unwrap().text;
        let lines = page.lines().filter_map(|line| line.rsplit_once(' '));
        let ours = lines.filter(|(what, _)| {
            let rest = what.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                && labels.iter().all(|label| what.contains(label))
        });
        ours.map(|(_, number)| number.parse::<u64>().unwrap()).sum()
    }

    /// The object's bytes.
    pub(crate) fn object(&self, key: &str) -> Vec<u8> {
        self.bucket().get(key).unwrap_or_else(|| panic!("no object {key}")).to_vec()
    }

    /// A second mount of the same bucket.
    pub(crate) fn another(&self, arguments: &[&str]) -> Mount {
        options(&self.server, arguments).start().unwrap()
    }

    /// A mount that takes up what this one, which has crashed, left in its cache folder.
    pub(crate) fn after_crash(&self, arguments: &[&str]) -> Mount {
        let cache = self.mount.cache_folder().unwrap();
        let options = options(&self.server, arguments).without_own_cache();
        options.arg("--cache-dir").arg(cache).start().unwrap()
    }

    /// Every request of this kind is answered with a fault until the rules are cleared.
    pub(crate) fn break_all(&self, op: Op, fault: Fault) {
        self.server.faults().add(fault.on(op).always());
    }

    /// Ends the mount, however that goes.
    pub(crate) fn end(self) -> ExitStatus {
        self.mount.unmount().unwrap()
    }

    /// Ends the mount; what was asked and sent since the beginning.
    pub(crate) fn count(self) -> RequestLog {
        let log = self.server.log().clone();
        let status = self.mount.unmount().unwrap();
        assert!(status.success(), "{status}");
        log
    }

    /// Ends the mount, and asserts what was asked since the beginning, and nothing else.
    pub(crate) fn asserts_requests(self, want: &[(Op, usize)]) {
        let log = self.count();
        let asked: Vec<String> =
            log.requests().iter().map(|one| format!("{:?} {}", one.op, one.key)).collect();
        assert_eq!(log.counts(), want, "{asked:#?}");
    }
}

fn options(server: &TestServer, arguments: &[&str]) -> MountOptions {
    let options = Mount::options(env!("CARGO_BIN_EXE_s3pod"), &server.s3_endpoint(BUCKET));
    options.args(arguments)
}
