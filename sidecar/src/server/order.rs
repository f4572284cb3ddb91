//! The words between whoever mounts and the server of a node's mounts.
//!
//! Owns the lines and their limits: each connection carries one request and one answer, a line of
//! JSON each, over a unix socket. Promises: a secret in an order is never part of what is shown of
//! it. Must not know who acts on it.
//!
//! | request | answer |
//! |---|---|
//! | `start` | `started` with the socket to hand the mount over at, unless the store says no soon |
//! | `stop` | `done` once the volume's process has ended; also where there is none |
//! | `files` | `done` once the volume's files are the new ones |
//! | `ending` | `ending`: how the volume's last process ended; waits while it runs |
//! | `list` | `volumes`: what runs |
//!
//! Anything that cannot be done is `refused`. Lines carry a version as those of the handoff do
//! (`s3pod::mount::handoff`): a higher one is refused with one's own, unknown fields are ignored.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What this program speaks.
pub(crate) const VERSION: u32 = 1;

/// The longest line: a volume's files have 256 KiB at most, a third more as base64.
pub(crate) const LINE_MAX: usize = 512 << 10;

/// All files of a volume together: keys and tokens are small, a bundle of authorities is not.
pub(crate) const FILES_MAX: usize = 256 << 10;

/// A name becomes that of a folder, with some letters behind it.
const NAME_MAX: usize = 128;

/// Stands for the folder of a volume's files in its arguments and environment.
pub(crate) const FILES: &str = "{files}";

/// The socket's name in the folder of sockets.
pub(crate) const SOCKET: &str = "server.sock";

/// The folder of the volumes' own sockets in it.
pub(crate) const VOLUMES: &str = "volumes";

/// One line to the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Start(Order),
    Stop { key: String },
    Files { key: String, files: Files },
    Ending { key: String },
    List {},
}

/// A volume that shall be served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Names the volume, and its folders: letters, digits, `-`, `_` and `.`.
    pub(crate) key: String,
    /// What people call it, for the log.
    #[serde(default)]
    pub(crate) volume: String,
    /// What stands behind `s3pod serve`: the bucket and flags, without SOCKET, `--cache-dir` and
    /// `--memory-limit`. `{files}` stands for the folder of [`Order::files`].
    pub(crate) arguments: Vec<String>,
    /// More of the environment, nothing secret; `{files}` as above.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// Credentials and the like, readable by the server alone; `{files}` as above.
    #[serde(default)]
    pub(crate) files: Files,
    /// The volume's `--memory-limit`, in bytes; absent for the server's own choice.
    #[serde(default)]
    pub(crate) memory: Option<u64>,
    /// Whether it may use the identity that the server itself has, by its environment or machine.
    #[serde(default)]
    pub(crate) server_identity: bool,
}

/// Files by their names. Shown without their bytes.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Bytes>);

/// The bytes of a file, base64 in a line.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

/// One line from the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) said: Said,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// The volume's process listens at this path below the folder of sockets.
    Started {
        socket: PathBuf,
    },
    Done {},
    /// How a process ended, as a sentence; absent where none is known.
    Ending {
        how: Option<String>,
    },
    Volumes(Vec<Running>),
    Refused(Refusal),
}

/// A volume whose process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) key: String,
    /// What people call it; empty where nobody has said.
    #[serde(default)]
    pub(crate) volume: String,
    /// Where it listens, below the folder of sockets; absent while it is starting.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) pid: u32,
    /// What it may take: its limit and what a process needs beside it.
    pub(crate) memory: u64,
}

/// Why something is not done, in a sentence for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "why", rename_all = "snake_case")]
pub(crate) enum Refusal {
    /// There is no memory left for it.
    Full(String),
    /// It cannot work as it is asked for.
    Invalid(String),
    /// The store has no such bucket.
    NoBucket(String),
    /// The store does not know who asks.
    Unknown(String),
    /// The store knows, and he may not.
    Denied(String),
    /// It did not work this time.
    Unavailable(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Full(why)
        | Self::Invalid(why)
        | Self::NoBucket(why)
        | Self::Unknown(why)
        | Self::Denied(why)
        | Self::Unavailable(why)) = self;
        f.write_str(why)
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The decoder's own words would show a letter of the secret.
        let bytes = STANDARD.decode(text);
        bytes.map(Self).map_err(|_| serde::de::Error::custom("a file is not base64"))
    }
}

impl Request {
    /// Reads a line.
    pub(crate) fn parse(line: &[u8]) -> Result<What, Refusal> {
        /// Of a later version nothing else may be as it is here.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let invalid = |error: &serde_json::Error| {
            // Category and place alone: the words may repeat what stands there.
            let (line, column) = (error.line(), error.column());
            let kind = error.classify();
            Refusal::Invalid(format!("not a request: {kind:?} at {line}:{column}"))
        };
        let head: Head = serde_json::from_slice(line).map_err(|error| invalid(&error))?;
        if head.version > VERSION {
            let version = head.version;
            return Err(Refusal::Invalid(format!(
                "version {version} is not spoken here, {VERSION} is"
            )));
        }
        let request: Self = serde_json::from_slice(line).map_err(|error| invalid(&error))?;
        Ok(request.what)
    }
}

impl Order {
    /// Refuses what would not stay in its folders.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        is_name(&self.key).then_some(()).ok_or_else(|| bad_name("key", &self.key))?;
        self.files.check()
    }
}

impl Files {
    /// Refuses names that are paths, and more than a server keeps.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if let Some(name) = self.0.keys().find(|name| !is_name(name)) {
            return Err(bad_name("file", name));
        }
        let size: usize = self.0.values().map(|bytes| bytes.0.len()).sum();
        if size > FILES_MAX {
            return Err(Refusal::Invalid(format!(
                "the volume's files have {size} bytes, of {FILES_MAX} at most"
            )));
        }
        Ok(())
    }
}

fn bad_name(what: &str, name: &str) -> Refusal {
    Refusal::Invalid(format!(
        "the {what} {name:?} is no name: letters, digits, `-`, `_` and `.`, {NAME_MAX} at most, \
         no dot in front"
    ))
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        let secret = Bytes(b"hunter2".to_vec());
        Order {
            key: "v1".to_owned(),
            arguments: vec!["photos".to_owned()],
            files: Files(BTreeMap::from([("credentials".to_owned(), secret)])),
            ..Order::default()
        }
    }

    #[test]
    fn an_order_survives_the_line_and_is_shown_without_its_secrets() {
        let request = Request { version: VERSION, what: What::Start(order()) };
        let line = serde_json::to_vec(&request).unwrap();
        let What::Start(read) = Request::parse(&line).unwrap() else { panic!("another request") };
        assert_eq!(read, order());
        let shown = format!("{request:?}");
        assert!(shown.contains("credentials") && !shown.contains("hunter2"), "{shown}");
        assert!(!shown.contains(&STANDARD.encode("hunter2")), "{shown}");
    }

    #[test]
    fn what_is_not_understood_is_refused_without_repeating_it() {
        for (line, words) in [
            (r#"{"version":2,"start":"anything"}"#, "1 is"),
            (r#"{"version":1,"dance":{}}"#, "not a request"),
            (r#"{"version":1,"files":{"key":"v","files":{"a":"hunter2!"}}}"#, "not a request"),
            ("nonsense", "not a request"),
            ("", "not a request"),
        ] {
            let said = Request::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(words) && !said.contains("hunter2"), "{line}: {said}");
        }
        let newer = r#"{"version":1,"list":{},"more":1}"#;
        assert!(matches!(Request::parse(newer.as_bytes()), Ok(What::List {})));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        assert_eq!(order().check(), Ok(()));
        for name in ["", "..", ".hidden", "a/b", "a b", "ä", &"x".repeat(129)] {
            let key = Order { key: name.to_owned(), ..order() };
            assert!(matches!(key.check(), Err(Refusal::Invalid(_))), "{name}");
            let files = Files(BTreeMap::from([(name.to_owned(), Bytes::default())]));
            assert!(matches!(files.check(), Err(Refusal::Invalid(_))), "{name}");
        }
        let large = Files(BTreeMap::from([("a".to_owned(), Bytes(vec![0; FILES_MAX + 1]))]));
        assert!(large.check().is_err());
    }
}
