//! What the driver is told at its start.
//!
//! Owns the flags of `s3pod-sidecar csi`, their places in the environment, and their checks.
//! Promises: what cannot work is refused before anything is served. Must not know what is done
//! with them.

use std::path::{Component, Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use s3pod::config::{Host, Way};
use s3pod::mount::Failure;
use s3pod::telemetry::{LogFormat, LogLevel, LogSettings};

use super::endpoint;
use crate::provision::Stores;

const MODE: &str = "mode";
const ENDPOINT: &str = "endpoint";
const NODE_ID: &str = "node-id";
const STATE_DIR: &str = "state-dir";
const KUBELET_DIR: &str = "kubelet-dir";
const SOCKET_DIR: &str = "socket-dir";
const CACHE_DIR: &str = "cache-dir";
const DRIVER_NAME: &str = "driver-name";
const STORES: &str = "stores";
const LOG_LEVEL: &str = "log-level";
const LOG_FORMAT: &str = "log-format";

/// The limits of the specification, in bytes.
const NODE_ID_MAX: usize = 256;
const DRIVER_NAME_MAX: usize = 63;

/// Which services are on the socket, beside Identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Node: on every machine.
    Node,
    /// Controller: once in a cluster.
    Controller,
    /// Both, and the servers of the mounts are its own children.
    All,
}

impl Mode {
    /// True where it makes volumes.
    pub(super) const fn has_controller(self) -> bool {
        matches!(self, Self::Controller | Self::All)
    }

    /// True where it mounts.
    pub(super) const fn has_node(self) -> bool {
        matches!(self, Self::Node | Self::All)
    }
}

/// The flags, checked.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) mode: Mode,
    /// The socket's path.
    pub(super) endpoint: PathBuf,
    /// This machine's name in the cluster.
    pub(super) node_id: String,
    /// Where own mounts and the state stand.
    pub(super) state_dir: PathBuf,
    /// Targets outside of it are refused, where it is given.
    pub(super) kubelet_dir: Option<PathBuf>,
    /// Where the node's server has its sockets.
    pub(super) socket_dir: PathBuf,
    /// Where it has its caches, where that is known.
    pub(super) cache_dir: Option<PathBuf>,
    pub(super) driver_name: String,
    /// The table of stores, where there is one.
    stores: Option<PathBuf>,
    pub(super) log: LogSettings,
}

/// The flags for clap.
pub(super) fn arguments(command: Command) -> Command {
    let path = || clap::value_parser!(PathBuf);
    command
        .arg(
            Arg::new(MODE)
                .long(MODE)
                .required(true)
                .value_parser(PossibleValuesParser::new(["node", "controller", "all"]))
                .help("Which services to serve; `all` needs no other process"),
        )
        .arg(
            Arg::new(ENDPOINT)
                .long(ENDPOINT)
                .env("CSI_ENDPOINT")
                .required(true)
                .help("The socket to listen at: unix:///PATH"),
        )
        .arg(
            Arg::new(NODE_ID)
                .long(NODE_ID)
                .env("NODE_ID")
                .required_if_eq_any([(MODE, "node"), (MODE, "all")])
                .help("This node's name: spec.nodeName, by the downward API"),
        )
        .arg(
            Arg::new(STATE_DIR)
                .long(STATE_DIR)
                .value_parser(path())
                .required_if_eq_any([(MODE, "node"), (MODE, "all")])
                .help("A folder of its own for mounts and state, in a volume with Bidirectional"),
        )
        .arg(
            Arg::new(KUBELET_DIR)
                .long(KUBELET_DIR)
                .value_parser(path())
                .help("Kubelet's folder (/var/lib/kubelet): paths outside of it are refused"),
        )
        .arg(
            Arg::new(SOCKET_DIR)
                .long(SOCKET_DIR)
                .value_parser(path())
                .default_value("/run/s3pod")
                .help("Where the node's server has its sockets: its own --socket-dir"),
        )
        .arg(Arg::new(CACHE_DIR).long(CACHE_DIR).value_parser(path()).help(
            "The server's own --cache-dir: files of another disk than its are not read \
                       past the server",
        ))
        .arg(
            Arg::new(DRIVER_NAME)
                .long(DRIVER_NAME)
                .default_value("csi.s3pod")
                .help("What StorageClasses and volumes call this driver"),
        )
        .arg(
            Arg::new(STORES)
                .long(STORES)
                .value_parser(path())
                .help("A JSON file of stores that StorageClasses can name: {NAME: {endpointUrl}}"),
        )
        .arg(log(LOG_LEVEL, "error, warn, info, debug or trace", "info"))
        .arg(log(LOG_FORMAT, "text or json", "text"))
}

fn log(name: &'static str, help: &'static str, default: &'static str) -> Arg {
    Arg::new(name).long(name).default_value(default).help(help)
}

impl Options {
    /// Reads what was typed or stood in the environment.
    pub(super) fn from_matches(matches: &ArgMatches) -> Result<Self, Failure> {
        let text = |name| matches.get_one::<String>(name).cloned().unwrap_or_default();
        let mode = match text(MODE).as_str() {
            "node" => Mode::Node,
            "controller" => Mode::Controller,
            _ => Mode::All,
        };
        let refused = |flag: &str, why: String| Failure::configuration(format!("--{flag}: {why}"));
        let level: LogLevel = text(LOG_LEVEL).parse().map_err(|why| refused(LOG_LEVEL, why))?;
        let format: LogFormat = text(LOG_FORMAT).parse().map_err(|why| refused(LOG_FORMAT, why))?;
        let folder = |name| {
            let typed: Option<&PathBuf> = matches.get_one(name);
            typed.map(|path| plain(path).map_err(|why| refused(name, why))).transpose()
        };
        let options = Self {
            mode,
            endpoint: endpoint::path(&text(ENDPOINT)).map_err(|why| refused(ENDPOINT, why))?,
            node_id: text(NODE_ID),
            state_dir: folder(STATE_DIR)?.unwrap_or_default(),
            kubelet_dir: folder(KUBELET_DIR)?,
            socket_dir: folder(SOCKET_DIR)?.unwrap_or_default(),
            cache_dir: folder(CACHE_DIR)?,
            driver_name: text(DRIVER_NAME),
            stores: matches.get_one(STORES).cloned(),
            log: LogSettings { level, format, file: None },
        };
        options.check().map_err(|(flag, why)| refused(flag, why))?;
        Ok(options)
    }

    /// The stores that volumes are made in; none where none are made.
    pub(super) fn stores(&self) -> Result<Option<Stores>, Failure> {
        let read = |path: &PathBuf| {
            Stores::read(path).map_err(|why| {
                Failure::configuration(format!("--{STORES}: {}: {why}", path.display()))
            })
        };
        if !self.mode.has_controller() {
            return Ok(None);
        }
        let table = self.stores.as_ref().map(read).transpose()?.unwrap_or_default();
        let way = Way::of(&Host::read());
        let table = table.by(way.map_err(|error| Failure::configuration(error.to_string()))?);
        if self.mode != Mode::All {
            return Ok(Some(table));
        }
        // Volumes and mounts are this one process's, so what it is told once it can know again.
        let file = self.state_dir.join("stores.json");
        let kept = table.keeping(file.clone()).map_err(|why| {
            Failure::configuration(format!("--{STATE_DIR}: {}: {why}", file.display()))
        });
        kept.map(Some)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if !is_driver_name(&self.driver_name) {
            let why = format!(
                "`{}` is no name of a driver: letters, digits, `-` and `.`, a letter first and \
                 last, at most {DRIVER_NAME_MAX}",
                self.driver_name
            );
            return Err((DRIVER_NAME, why));
        }
        if self.mode.has_node() && self.node_id.is_empty() {
            return Err((NODE_ID, "it is empty; it is spec.nodeName".to_owned()));
        }
        if self.node_id.len() > NODE_ID_MAX {
            return Err((NODE_ID, format!("it is longer than {NODE_ID_MAX} bytes")));
        }
        Ok(())
    }
}

fn is_driver_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphabetic);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let bytes = name.as_bytes();
    bytes.len() <= DRIVER_NAME_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| inner(*byte))
}

/// An absolute path without `.` and `..`, as it stands in the table of mounts.
fn plain(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{} is no absolute path without `..`", path.display()));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &[&str]) -> Result<Options, String> {
        let all = ["csi", "--mode", "node", "--endpoint", "unix:///run/csi.sock"];
        let all = all.into_iter().chain(typed.iter().copied());
        let matches = arguments(Command::new("csi"))
            .try_get_matches_from(all)
            .map_err(|error| error.to_string())?;
        Options::from_matches(&matches).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_node_needs_its_name_and_a_folder() {
        let options = read(&["--node-id", "n", "--state-dir", "/var/lib/s3pod/"]).unwrap();
        assert_eq!(options.state_dir, Path::new("/var/lib/s3pod"));
        assert_eq!(options.driver_name, "csi.s3pod");
        for (typed, word) in [
            (&["--node-id", "n"][..], "--state-dir"),
            (&["--state-dir", "/s"], "--node-id"),
            (&["--state-dir", "/s", "--node-id", ""], "spec.nodeName"),
            (&["--state-dir", "s", "--node-id", "n"], "--state-dir"),
            (&["--state-dir", "/s/../t", "--node-id", "n"], "`..`"),
            (&["--state-dir", "/s", "--node-id", "n", "--driver-name=-x"], "--driver-name"),
            (&["--state-dir", "/s", "--node-id", "n", "--log-level", "loud"], "--log-level"),
        ] {
            let said = read(typed).unwrap_err();
            assert!(said.contains(word), "{typed:?}: {said}");
        }
    }

    #[test]
    fn a_drivers_name_begins_and_ends_with_a_letter() {
        for name in ["csi.s3pod", "a-b.c", "ab"] {
            assert!(is_driver_name(name), "{name}");
        }
        let long = "a".repeat(64);
        for name in ["", "1a", "a1", "a_b", "a b", long.as_str()] {
            assert!(!is_driver_name(name), "{name}");
        }
    }
}
