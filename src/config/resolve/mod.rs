//! From options to settings.
//!
//! Owns [`Config::resolve`]: which default follows from what, and which options exclude each
//! other. It is the only reader of environment, user, cgroup and free space. Promises: what it
//! returns holds together; what it refuses is refused before anything is mounted. Must not know
//! how a setting is used.

mod disk;
mod host;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::naming::{Key, Prefix};
use crate::telemetry::LogSettings;
use crate::units::{ByteSize, MIB};

use super::asked::Options;
use super::definition::Definition;
use super::options::{MEMORY_LIMIT_MIN, OPTIONS};
use super::reload::{Reload, Tunables};
use super::values::{CacheDir, Checksums, DeleteMode, ExclusiveCreate, MetadataMode, ProxyUrl};
use super::{Config, Error, MountArguments, Proxies, S3Config, Sizes, UploadConfig, Way, find};

use disk::{Folders, Room};
pub use host::Host;

/// What the process needs beside its budget: code, stacks, allocator, TLS.
const FIXED_MEMORY: u64 = 48 * MIB;

/// Addresses of instance and pod metadata: AWS's IMDS (v4 and v6), ECS's credentials, EKS Pod
/// Identity (v4 and v6). A proxy could not reach them, and must not see what they answer.
const METADATA_ADDRESSES: &str =
    "169.254.169.254,fd00:ec2::254,169.254.170.2,169.254.170.23,fd00:ec2::23";

impl Config {
    /// Settings for what was typed, on this `host`. Makes the cache folder.
    ///
    /// # Errors
    /// Where a value of the environment cannot be read, options exclude each other, or the
    /// machine does not have what they ask for.
    pub fn resolve(arguments: MountArguments, host: &Host) -> Result<Self, Error> {
        let MountArguments { bucket, directory, options: mut asked } = arguments;
        refuse_password(&asked)?;
        let typed = asked.clone();
        add_environment(&mut asked, host)?;
        let reload = Reload::begin(&mut asked)?;
        refuse_contradictions(&asked)?;
        refuse_folders_in_mount(&asked, &directory)?;
        let memory_limit = memory_limit(&asked, host)?;
        let cache_dir = cache_dir(&asked, host)?;
        let journal_dir = journal_dir(&asked, cache_dir.as_deref())?;
        let in_memory = journal_dir.is_none();
        let folders = Folders { cache: cache_dir.as_deref(), journal: journal_dir.as_deref() };
        let room = Room { memory_limit, beside: beside(memory_limit, host), staged: None };
        let (cache_size, staging_size) = disk::sizes(&asked, folders, room)?;
        let tuning = &asked.tuning;
        let read_only = tuning.read_only.unwrap_or(false);
        Ok(Self {
            bucket,
            prefix: asked.operator.prefix.clone().unwrap_or_else(Prefix::root),
            directory,
            s3: s3(&asked, &typed, host)?,
            upload: upload(&asked),
            read_only,
            metadata: metadata(&asked),
            metadata_ttl: tuning.metadata_ttl.unwrap_or_else(|| default_metadata_ttl(read_only)),
            attr_delay: tuning.attr_delay.unwrap_or(Duration::from_secs(if in_memory {
                0
            } else {
                1
            })),
            delete: tuning.delete.unwrap_or(if in_memory {
                DeleteMode::Sync
            } else {
                DeleteMode::Queue
            }),
            exclusive_create: tuning.exclusive_create.unwrap_or(ExclusiveCreate::Commit),
            write_back: asked.operator.write_back.unwrap_or(false),
            write_back_ephemeral: asked.operator.write_back_ephemeral.unwrap_or(false),
            passthrough: !tuning.no_passthrough.unwrap_or(false),
            uid: tuning.uid.unwrap_or(host.uid),
            gid: tuning.gid.unwrap_or(host.gid),
            dir_mode: tuning.dir_mode.unwrap_or(0o755),
            file_mode: tuning.file_mode.unwrap_or(0o644),
            capacity: asked.operator.capacity.map(|ByteSize(bytes)| bytes),
            capacity_key: asked.local.capacity_key.as_deref().map(Key::from),
            memory_limit,
            cache_size,
            cache_min_free: disk::cache_min_free(&asked, cache_dir.as_deref())?,
            staging_size,
            cache_dir,
            journal_dir,
            op_timeout: tuning.op_timeout.unwrap_or(Duration::from_secs(60)),
            admin_address: asked.local.admin_address,
            foreground: asked.local.foreground.unwrap_or(false),
            allow_other: asked.local.allow_other.unwrap_or(false),
            nonempty: asked.local.nonempty.unwrap_or(false),
            replace_stale: asked.local.replace_stale.unwrap_or(false),
            leave_mount: leave_mount(&asked),
            wait_for_store: asked.local.wait_for_store.unwrap_or(false),
            log: log(&asked),
            reload,
            notices: notices(&asked),
        })
    }
}

impl MountArguments {
    /// What was typed, and what environment and file say beside it.
    ///
    /// # Errors
    /// Where a variable or the file cannot be read.
    pub fn with_surroundings(&self, host: &Host) -> Result<Options, Error> {
        let mut asked = self.options.clone();
        add_environment(&mut asked, host)?;
        Reload::begin(&mut asked)?;
        Ok(asked)
    }
}

impl Config {
    /// What of `options`, where a file has changed them, holds for a mount that runs by these
    /// settings.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn tunables(&self, options: &Options, host: &Host) -> Result<Tunables, Error> {
        refuse_contradictions(options)?;
        let memory_limit = memory_limit(options, host)?;
        let folders =
            Folders { cache: self.cache_dir.as_deref(), journal: self.journal_dir.as_deref() };
        let room = Room {
            memory_limit,
            beside: beside(memory_limit, host),
            staged: Some(self.staging_size),
        };
        let (cache_size, staging_size) = disk::sizes(options, folders, room)?;
        let max_requests = max_requests(options);
        let sizes = Sizes { memory_limit, cache_size, staging_size, max_requests };
        let ttl = options.tuning.metadata_ttl;
        Ok(Tunables {
            log_level: options.operator.log_level.unwrap_or_default(),
            metadata_ttl: ttl.unwrap_or_else(|| default_metadata_ttl(self.read_only)),
            sizes,
        })
    }
}

fn max_requests(asked: &Options) -> u32 {
    asked.operator.max_requests.unwrap_or(64)
}

const fn default_metadata_ttl(read_only: bool) -> Duration {
    Duration::from_secs(if read_only { 60 } else { 1 })
}

/// Fills what nobody typed from `S3POD_<FLAG>`.
fn add_environment(asked: &mut Options, host: &Host) -> Result<(), Error> {
    OPTIONS.iter().try_for_each(|option| add_variable(asked, option, host))
}

fn add_variable(
    asked: &mut Options,
    option: &'static Definition,
    host: &Host,
) -> Result<(), Error> {
    let name = option.env();
    match host.variable(&name) {
        Some(value) if asked.text_of(option).is_none() => {
            asked.set(option, value).map_err(|reason| Error::Environment { name, reason })
        }
        _ => Ok(()),
    }
}

impl Way {
    /// What this `host` says, for whoever asks stores without mounting any.
    ///
    /// # Errors
    /// Where a variable cannot be read, or the bundle that it names.
    pub fn of(host: &Host) -> Result<Self, Error> {
        let mut asked = Options::default();
        for option in ["ca-bundle", "proxy", "no-proxy"].into_iter().filter_map(find) {
            add_variable(&mut asked, option, host)?;
        }
        let ca_bundle = ca_bundle(&asked, &Options::default(), host)?;
        Ok(Self { ca_bundle, proxies: proxies(&asked, host)? })
    }
}

/// A password that was typed stands in every process list.
fn refuse_password(typed: &Options) -> Result<(), Error> {
    match &typed.operator.proxy {
        Some(proxy) if proxy.has_password() => Err(Error::Argument {
            argument: "--proxy".to_owned(),
            reason: "every process can read a password in a command line; put the URL into the \
                     environment as S3POD_PROXY"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

fn refuse_contradictions(asked: &Options) -> Result<(), Error> {
    let Options { local, operator, tuning, .. } = asked;
    let no_cache = local.cache_dir == Some(CacheDir::None);
    let in_memory = no_cache && local.journal_dir.is_none();
    let is_kms = operator.sse.is_some_and(|sse| sse.as_str().starts_with("aws:kms"));
    let is_anonymous = operator.no_sign_request == Some(true);
    let rules = [
        (
            is_anonymous && local.profile.is_some(),
            ("--no-sign-request", "--profile", "an anonymous request has no profile"),
        ),
        (
            is_anonymous && local.credentials_file.is_some(),
            ("--no-sign-request", "--credentials-file", "an anonymous request has no credentials"),
        ),
        (
            is_anonymous && operator.requester_pays == Some(true),
            ("--no-sign-request", "--requester-pays", "nobody would be there to pay"),
        ),
        (
            operator.sse_kms_key_id.is_some() && operator.sse.is_some() && !is_kms,
            ("--sse-kms-key-id", "--sse AES256", "write --sse aws:kms"),
        ),
        (
            operator.sse_kms_key_id.is_some() && operator.sse.is_none(),
            ("--sse-kms-key-id", "no --sse", "write --sse aws:kms"),
        ),
        (
            in_memory && tuning.attr_delay.is_some_and(|delay| !delay.is_zero()),
            ("--cache-dir none", "--attr-delay", "changes that wait need a folder"),
        ),
        (
            in_memory && tuning.delete == Some(DeleteMode::Queue),
            ("--cache-dir none", "--delete queue", "deletes that wait need a folder"),
        ),
        (
            in_memory && operator.write_back == Some(true),
            ("--cache-dir none", "--write-back", "what close() promises needs a folder"),
        ),
        (
            no_cache && operator.cache_size.is_some_and(|size| size > 0),
            ("--cache-dir none", "--cache-size", "a cache on disk needs a folder"),
        ),
        (
            no_cache && operator.disk_limit.is_some(),
            ("--cache-dir none", "--disk-limit", "there is no disk to limit"),
        ),
        (
            operator.write_back_ephemeral == Some(true) && operator.write_back != Some(true),
            ("--write-back-ephemeral", "no --write-back", "write --write-back too"),
        ),
    ];
    match rules.into_iter().find(|(is_broken, _)| *is_broken) {
        None => Ok(()),
        Some((_, (one, other, fix))) => Err(Error::Contradiction {
            one: one.to_owned(),
            other: other.to_owned(),
            fix: fix.to_owned(),
        }),
    }
}

/// A cache on the mount that it serves would wait for itself. Judged by names alone: a look at the
/// directory could already hang.
fn refuse_folders_in_mount(asked: &Options, directory: &Path) -> Result<(), Error> {
    if let Some(CacheDir::At(folder)) = &asked.local.cache_dir {
        refuse_in_mount("--cache-dir", folder, directory)?;
    }
    match &asked.local.journal_dir {
        Some(folder) => refuse_in_mount("--journal-dir", folder, directory),
        None => Ok(()),
    }
}

fn refuse_in_mount(argument: &str, folder: &Path, directory: &Path) -> Result<(), Error> {
    let (folder, directory) = (std::path::absolute(folder), std::path::absolute(directory));
    match (folder, directory) {
        (Ok(folder), Ok(directory)) if folder.starts_with(&directory) => Err(Error::Argument {
            argument: argument.to_owned(),
            reason: format!(
                "{} is on the mount itself ({}); name a folder outside of it (in a pod: an \
                 emptyDir volume of its own)",
                folder.display(),
                directory.display()
            ),
        }),
        _ => Ok(()),
    }
}

fn s3(asked: &Options, typed: &Options, host: &Host) -> Result<S3Config, Error> {
    let operator = &asked.operator;
    let is_elsewhere = operator.endpoint_url.as_ref().is_some_and(|url| !url.is_aws());
    Ok(S3Config {
        endpoint_url: operator.endpoint_url.clone(),
        region: operator.region.clone(),
        profile: asked.local.profile.clone(),
        credentials_file: credentials_file(asked)?,
        no_sign_request: operator.no_sign_request.unwrap_or(false),
        force_path_style: operator.force_path_style.unwrap_or(is_elsewhere),
        requester_pays: operator.requester_pays.unwrap_or(false),
        ca_bundle: ca_bundle(asked, typed, host)?,
        proxies: proxies(asked, host)?,
        max_requests: max_requests(asked),
    })
}

fn upload(asked: &Options) -> UploadConfig {
    let operator = &asked.operator;
    UploadConfig {
        storage_class: operator.storage_class.clone(),
        sse: operator.sse,
        sse_kms_key_id: operator.sse_kms_key_id.clone(),
        checksums: operator.checksums.unwrap_or(Checksums::Auto),
        part_size: asked.tuning.part_size.unwrap_or(8 * MIB),
    }
}

/// The bundle, opened once so that a wrong path is an error now and not a handshake's later.
fn ca_bundle(asked: &Options, typed: &Options, host: &Host) -> Result<Option<PathBuf>, Error> {
    let (path, origin) = match (&asked.local.ca_bundle, host.variable("AWS_CA_BUNDLE")) {
        (Some(path), _) if typed.local.ca_bundle.is_some() => (path.clone(), "--ca-bundle"),
        (Some(path), _) => (path.clone(), "S3POD_CA_BUNDLE"),
        (None, Some(path)) => (PathBuf::from(path), "AWS_CA_BUNDLE"),
        (None, None) => return Ok(None),
    };
    match std::fs::read(&path) {
        Ok(_) => Ok(Some(path)),
        Err(source) => Err(Error::CaBundle { origin, path, source }),
    }
}

/// The file of credentials, opened once for the same reason.
fn credentials_file(asked: &Options) -> Result<Option<PathBuf>, Error> {
    let Some(path) = &asked.local.credentials_file else { return Ok(None) };
    match std::fs::File::open(path) {
        Ok(_) => Ok(Some(path.clone())),
        Err(source) => Err(Error::CredentialsFile { path: path.clone(), source }),
    }
}

fn proxies(asked: &Options, host: &Host) -> Result<Proxies, Error> {
    // The lower-case spelling wins, as with curl.
    let from_environment = |lower: &str, upper: &str| -> Result<Option<ProxyUrl>, Error> {
        let Some((name, value)) =
            [lower, upper].into_iter().find_map(|name| Some((name, host.variable(name)?)))
        else {
            return Ok(None);
        };
        let environment = |reason| Error::Environment { name: name.to_owned(), reason };
        value.parse().map(Some).map_err(environment)
    };
    let (https, http) = match &asked.operator.proxy {
        Some(proxy) => (Some(proxy.clone()), Some(proxy.clone())),
        None => (
            from_environment("https_proxy", "HTTPS_PROXY")?,
            from_environment("http_proxy", "HTTP_PROXY")?,
        ),
    };
    let hosts = (asked.operator.no_proxy.as_deref())
        .or_else(|| host.variable("no_proxy"))
        .or_else(|| host.variable("NO_PROXY"));
    let bypass = match hosts {
        Some(hosts) => format!("{hosts},{METADATA_ADDRESSES}"),
        None => METADATA_ADDRESSES.to_owned(),
    };
    Ok(Proxies { https, http, bypass })
}

fn metadata(asked: &Options) -> MetadataMode {
    let read_only = asked.tuning.read_only.unwrap_or(false);
    let default = if read_only { MetadataMode::List } else { MetadataMode::Posix };
    asked.tuning.metadata.unwrap_or(default)
}

/// A quarter of the cgroup's limit: the rest is for the application's page cache beside us, and
/// 64 MiB are what one reader and one writer need to be quick. Never more than the kernel lets it
/// have: it would be killed again and again.
fn memory_limit(asked: &Options, host: &Host) -> Result<u64, Error> {
    let asked = asked.operator.memory_limit;
    let Some(cgroup) = host.memory_limit else { return Ok(asked.unwrap_or(192 * MIB)) };
    let most = cgroup.saturating_sub(FIXED_MEMORY);
    match asked {
        Some(limit) if limit > most => {
            Err(Error::MemoryLimit { asked: ByteSize(limit), cgroup: ByteSize(cgroup) })
        }
        Some(limit) => Ok(limit),
        None if most < MEMORY_LIMIT_MIN => Err(Error::Cgroup {
            cgroup: ByteSize(cgroup),
            least: ByteSize(MEMORY_LIMIT_MIN + FIXED_MEMORY),
        }),
        None => Ok((cgroup / 4).max(64 * MIB).min(most)),
    }
}

/// What the cgroup has beside the process itself: files in memory are counted against it too.
fn beside(memory_limit: u64, host: &Host) -> Option<u64> {
    let own = memory_limit.saturating_add(FIXED_MEMORY);
    host.memory_limit.map(|cgroup| cgroup.saturating_sub(own))
}

fn cache_dir(asked: &Options, host: &Host) -> Result<Option<PathBuf>, Error> {
    let path = match &asked.local.cache_dir {
        Some(CacheDir::None) => return Ok(None),
        Some(CacheDir::At(path)) => path.clone(),
        None => default_cache_dir(host)?,
    };
    writable("--cache-dir", path).map(Some)
}

/// Where it is not said, everything is in one folder.
fn journal_dir(asked: &Options, cache_dir: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    match &asked.local.journal_dir {
        Some(path) => writable("--journal-dir", path.clone()).map(Some),
        None => Ok(cache_dir.map(Path::to_owned)),
    }
}

fn writable(flag: &'static str, path: PathBuf) -> Result<PathBuf, Error> {
    host::make_writable(&path).map_err(|source| Error::Folder { flag, path, source })
}

/// The folder that a mount would keep its journal in, for commands that look into it: it is neither
/// made nor tried. What is typed may be the mount's `--journal-dir` or its `--cache-dir`.
///
/// # Errors
/// Where the folder is `none`, or no default can be derived.
pub fn journal_folder(typed: Option<&str>, host: &Host) -> Result<PathBuf, Error> {
    if let (None, Some(text)) = (typed, host.variable("S3POD_JOURNAL_DIR")) {
        return Ok(PathBuf::from(text));
    }
    let (text, argument) = match (typed, host.variable("S3POD_CACHE_DIR")) {
        (Some(text), _) => (text, "--cache-dir"),
        (None, Some(text)) => (text, "S3POD_CACHE_DIR"),
        (None, None) => return default_cache_dir(host),
    };
    let wrong = |reason| Error::Argument { argument: argument.to_owned(), reason };
    match text.parse().map_err(wrong)? {
        CacheDir::At(path) => Ok(path),
        CacheDir::None => Err(wrong("`none` is no folder; name that of a mount".to_owned())),
    }
}

fn default_cache_dir(host: &Host) -> Result<PathBuf, Error> {
    if host.uid == 0 {
        return Ok(PathBuf::from("/var/cache/s3pod"));
    }
    // The XDG specification has relative paths ignored.
    let absolute = |name| host.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("s3pod"))
        .ok_or(Error::NoCacheDir)
}

/// As it stands now: a mount in the background leaves this directory.
fn leave_mount(asked: &Options) -> Option<PathBuf> {
    std::path::absolute(asked.local.leave_mount.as_ref()?).ok()
}

fn log(asked: &Options) -> LogSettings {
    LogSettings {
        level: asked.operator.log_level.unwrap_or_default(),
        format: asked.local.log_format.unwrap_or_default(),
        file: asked.local.log_file.clone(),
    }
}

fn notices(asked: &Options) -> Vec<String> {
    let is_read_only = asked.tuning.read_only == Some(true);
    let mut lines = Vec::new();
    if is_read_only && asked.tuning.metadata.is_none() {
        lines.push(
            "--read-only takes attributes from listings (--metadata list); --metadata posix shows \
             each object's own mode, owner, mtime and symlinks, for a HEAD per file"
                .to_owned(),
        );
    }
    lines
}

#[cfg(test)]
mod tests;
