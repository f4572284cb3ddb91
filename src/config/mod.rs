//! What the mount shall be: options as people write them, settings as the program takes them.
//!
//! Owns the table of options ([`OPTIONS`]), its projections (command line, `-o`, environment,
//! documentation) and [`Config`], the resolved settings. Promises: `Options` touch nothing;
//! [`Config::resolve`] looks at environment, cgroup and disk once, and nobody else does. Must not
//! know how a mount works.

mod asked;
mod command;
mod definition;
mod docs;

mod error;
mod mount_options;
mod options;
mod reload;
mod resolve;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::naming::{Key, Prefix};
use crate::telemetry::LogSettings;

pub use asked::{LocalOptions, OperatorOptions, Options, TuningOptions};
pub use command::{MountArguments, mount_command, serve_command};
pub use definition::{Authority, Category, Definition, Kind};
pub use docs::render as render_docs;
pub use error::Error;
pub use mount_options::{
    parse as parse_mount_options, quoted as quote_mount_option, render as render_mount_options,
};
pub use options::{OPTIONS, find};
pub use reload::{Change, Reload, Tunables};
pub use resolve::{Host, journal_folder};
pub use values::{
    CacheDir, Checksums, DeleteMode, EndpointUrl, ExclusiveCreate, INDEFINITE, MetadataMode,
    ProxyUrl, Sse,
};

/// Everything a mount has to be told, resolved and checked. Plain values: it can be cloned,
/// compared and logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The bucket's name, or an access point's ARN.
    pub bucket: String,
    /// What of the bucket is the mount's root.
    pub prefix: Prefix,
    /// The directory to mount on, as it was typed; nobody looked at it yet.
    pub directory: PathBuf,
    /// How the store is reached.
    pub s3: S3Config,
    /// How objects are written.
    pub upload: UploadConfig,

    /// Refuse every change.
    pub read_only: bool,
    /// Where attributes come from.
    pub metadata: MetadataMode,
    /// How long names and attributes are believed; [`INDEFINITE`] is a value like any other.
    pub metadata_ttl: Duration,
    /// How long changed attributes wait for a commit to ride on; zero sends them at once.
    pub attr_delay: Duration,
    /// When O_EXCL is decided.
    pub exclusive_create: ExclusiveCreate,
    /// When the object of an unlinked file goes.
    pub delete: DeleteMode,
    /// A close answers when bytes and intent are on local disk.
    pub write_back: bool,
    /// Even where that disk goes with the pod.
    pub write_back_ephemeral: bool,
    /// Whole files of the cache are offered to the kernel.
    pub passthrough: bool,
    /// Owner of files that name none.
    pub uid: u32,
    /// Group of files that name none.
    pub gid: u32,
    /// Permission bits of directories that have none, `0o7777` at most.
    pub dir_mode: u16,
    /// Permission bits of files that have none, `0o7777` at most.
    pub file_mode: u16,

    /// Bytes that the mount may hold; none is no bound.
    pub capacity: Option<u64>,
    /// The object that says it, from time to time.
    pub capacity_key: Option<Key>,

    /// Bytes of memory that everything together may hold.
    pub memory_limit: u64,
    /// The folder for what was read, made and found writable; none caches in memory alone.
    pub cache_dir: Option<PathBuf>,
    /// The folder for staging files and the journal, made and found writable; none stages in
    /// memory, and nothing outlives the process.
    pub journal_dir: Option<PathBuf>,
    /// Bytes of that folder for what was read; 0 caches in memory alone.
    pub cache_size: u64,
    /// Bytes of its file system that the cache leaves free.
    pub cache_min_free: u64,
    /// Bytes that may be staged: on disk, or in memory where there is no folder.
    pub staging_size: u64,
    /// A call that made no progress for so long fails.
    pub op_timeout: Duration,

    /// Where health and metrics are answered over HTTP; none is nowhere.
    pub admin_address: Option<SocketAddr>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// Mount over a directory with files in it.
    pub nonempty: bool,
    /// Mount over a dead FUSE mount.
    pub replace_stale: bool,
    /// The mount is left at the end while somebody holds a lock on this file.
    pub leave_mount: Option<PathBuf>,
    /// Wait for a store that cannot be reached yet.
    pub wait_for_store: bool,
    /// How the log looks and where it goes.
    pub log: LogSettings,

    /// The file of options that is looked at again.
    pub reload: Option<Reload>,

    /// Lines to print when the mount starts: what follows from what was asked for and may
    /// surprise.
    pub notices: Vec<String>,
}

/// How much a mount may take; all of it can change while the mount runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of memory that everything together may hold.
    pub memory_limit: u64,
    /// Bytes on disk for what was read.
    pub cache_size: u64,
    /// Bytes that may be staged.
    pub staging_size: u64,
    /// Requests that may be on their way at once.
    pub max_requests: u32,
}

impl Config {
    /// How much it may take at first.
    pub const fn sizes(&self) -> Sizes {
        Sizes {
            memory_limit: self.memory_limit,
            cache_size: self.cache_size,
            staging_size: self.staging_size,
            max_requests: self.s3.max_requests,
        }
    }
}

/// How the store is reached. What is none is left to the SDK's own rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    /// Another endpoint than the region's.
    pub endpoint_url: Option<EndpointUrl>,
    /// The bucket's region.
    pub region: Option<String>,
    /// A profile of `~/.aws`.
    pub profile: Option<String>,
    /// The only file to take credentials from; it was readable.
    pub credentials_file: Option<PathBuf>,
    /// Send no credentials.
    pub no_sign_request: bool,
    /// The bucket stands in the path of the URL.
    pub force_path_style: bool,
    /// Pay for requests to a Requester Pays bucket.
    pub requester_pays: bool,
    /// A PEM file with authorities to trust besides the system's; it was readable.
    pub ca_bundle: Option<PathBuf>,
    /// Proxies by the scheme of the endpoint, and who is reached without one.
    pub proxies: Proxies,
    /// Requests that may be on their way at once.
    pub max_requests: u32,
}

/// How objects are written. What is none is the bucket's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadConfig {
    /// Storage class of new objects.
    pub storage_class: Option<String>,
    /// Server-side encryption of new objects.
    pub sse: Option<Sse>,
    /// The KMS key of that encryption.
    pub sse_kms_key_id: Option<String>,
    /// Which uploads carry a checksum.
    pub checksums: Checksums,
    /// Bytes in a part of an upload.
    pub part_size: u64,
}

/// Which proxy for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For https endpoints.
    pub https: Option<ProxyUrl>,
    /// For http endpoints.
    pub http: Option<ProxyUrl>,
    /// Hosts, domains, addresses and networks to reach directly, separated by commas. The
    /// addresses of instance metadata are always among them.
    pub bypass: String,
}

impl Proxies {
    /// The one that leads to an endpoint; none named is AWS's own.
    pub fn towards(&self, endpoint: Option<&str>) -> Option<&ProxyUrl> {
        let is_plain = endpoint.is_some_and(|url| url.starts_with("http:"));
        if is_plain { self.http.as_ref() } else { self.https.as_ref() }
    }
}

/// The way to any store, as far as the host alone says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// As [`S3Config::ca_bundle`].
    pub ca_bundle: Option<PathBuf>,
    /// As [`S3Config::proxies`].
    pub proxies: Proxies,
}

impl EndpointUrl {
    /// True where the host is an address, so that no bucket's name can stand before it.
    pub fn is_address(&self) -> bool {
        self.host().trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    }
}
