//! What somebody asked for, option by option.
//!
//! Owns the typed [`Options`], by who may say so, and how each was spelled. Plain data. Must not
//! know flags, help or defaults: that is the table's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::naming::Prefix;
use crate::telemetry::{LogFormat, LogLevel, Secret};
use crate::units::ByteSize;

use super::definition::Definition;
use super::options::OPTIONS;
use super::values::{
    CacheDir, Checksums, DeleteMode, EndpointUrl, ExclusiveCreate, MetadataMode, ProxyUrl, Sse,
};

/// What somebody asked for; none where they said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Who runs the process said so.
    pub local: LocalOptions,
    /// Who owns the volume said so.
    pub operator: OperatorOptions,
    /// Anybody may say so.
    pub tuning: TuningOptions,
    // A proxy's URL may have a password in it, and this struct is logged.
    pub(super) given: BTreeMap<&'static str, Secret>,
}

/// Options of [`Authority::Local`]; each field is the flag of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table documents the flag of the same name")]
pub struct LocalOptions {
    pub admin_address: Option<SocketAddr>,
    pub allow_other: Option<bool>,
    pub ca_bundle: Option<PathBuf>,
    pub capacity_key: Option<String>,
    pub cache_dir: Option<CacheDir>,
    /// `--journal-dir`
    pub journal_dir: Option<PathBuf>,
    pub cache_min_free: Option<u64>,
    pub config: Option<PathBuf>,
    pub credentials_file: Option<PathBuf>,
    pub foreground: Option<bool>,
    pub leave_mount: Option<PathBuf>,
    pub log_file: Option<PathBuf>,
    pub log_format: Option<LogFormat>,
    pub nonempty: Option<bool>,
    pub profile: Option<String>,
    pub replace_stale: Option<bool>,
    pub wait_for_store: Option<bool>,
}

/// Options of [`Authority::Operator`]; each field is the flag of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table documents the flag of the same name")]
pub struct OperatorOptions {
    pub cache_size: Option<u64>,
    pub capacity: Option<ByteSize>,
    pub checksums: Option<Checksums>,
    pub disk_limit: Option<u64>,
    pub endpoint_url: Option<EndpointUrl>,
    pub force_path_style: Option<bool>,
    pub log_level: Option<LogLevel>,
    pub max_requests: Option<u32>,
    pub memory_limit: Option<u64>,
    pub no_proxy: Option<String>,
    pub no_sign_request: Option<bool>,
    pub prefix: Option<Prefix>,
    pub proxy: Option<ProxyUrl>,
    pub region: Option<String>,
    pub requester_pays: Option<bool>,
    pub sse: Option<Sse>,
    pub sse_kms_key_id: Option<String>,
    pub staging_size: Option<u64>,
    pub storage_class: Option<String>,
    pub write_back: Option<bool>,
    pub write_back_ephemeral: Option<bool>,
}

/// Options of [`Authority::Tuning`]; each field is the flag of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table documents the flag of the same name")]
pub struct TuningOptions {
    pub attr_delay: Option<Duration>,
    pub delete: Option<DeleteMode>,
    pub dir_mode: Option<u16>,
    pub exclusive_create: Option<ExclusiveCreate>,
    pub file_mode: Option<u16>,
    pub gid: Option<u32>,
    pub metadata: Option<MetadataMode>,
    pub metadata_ttl: Option<Duration>,
    pub no_passthrough: Option<bool>,
    pub op_timeout: Option<Duration>,
    pub part_size: Option<u64>,
    pub read_only: Option<bool>,
    pub uid: Option<u32>,
}

impl Options {
    /// Sets one option to the value that `text` spells.
    ///
    /// # Errors
    /// A sentence that says what the option takes.
    pub fn set(&mut self, option: &'static Definition, text: &str) -> Result<(), String> {
        (option.set)(self, text)?;
        self.given.insert(option.flag, Secret::new(text.to_owned()));
        Ok(())
    }

    /// Every option that was set, as it was spelled.
    pub fn given(&self) -> impl Iterator<Item = (&'static Definition, &str)> {
        let spelled = |option: &'static Definition| Some((option, self.text_of(option)?));
        OPTIONS.iter().filter_map(spelled)
    }

    /// True where both mean the same, however it was spelled.
    pub fn agrees(&self, other: &Self) -> bool {
        self.local == other.local && self.operator == other.operator && self.tuning == other.tuning
    }

    /// How `option` was spelled, where it was set.
    pub fn text_of(&self, option: &Definition) -> Option<&str> {
        self.given.get(option.flag).map(Secret::expose)
    }
}
