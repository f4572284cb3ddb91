//! What one option is.
//!
//! Owns [`Definition`] and the words that classify it. Promises: the environment's name of an
//! option follows from its flag. Must not know which options there are: that is `options`.

use std::fmt;

use super::asked::Options;

/// One option: everything that the command line, the environment, `-o`, `--help` and
/// `docs/configuration.md` know of it.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// Whether it takes a value.
    pub kind: Kind,
    /// What holds where nobody says anything; empty where that is nothing at all.
    pub default: &'static str,
    /// One line for `-h`.
    pub help: &'static str,
    /// What one has to know to choose a value; empty where the line says it all.
    pub details: &'static str,
    /// Heading in `--help` and in the documentation.
    pub category: Category,
    /// Who may set it.
    pub authority: Authority,
    /// A value it takes, for the documentation and for the tests of the table.
    pub example: &'static str,
    /// Reads a value into the typed options.
    pub(super) set: fn(&mut Options, &str) -> Result<(), String>,
}

/// Whether an option takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On or off; the bare flag means on.
    Switch,
    /// Takes a value, shown under this name.
    Value(&'static str),
}

/// Headings, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Where the objects are.
    Bucket,
    /// Who asks for them, and through what.
    Access,
    /// What applications see.
    Files,
    /// How objects are written.
    Writing,
    /// Memory, disk and requests.
    Resources,
    /// The mount and its process.
    Process,
    /// What is logged.
    Logging,
}

impl Category {
    /// Every heading in order.
    pub const ALL: [Self; 7] = [
        Self::Bucket,
        Self::Access,
        Self::Files,
        Self::Writing,
        Self::Resources,
        Self::Process,
        Self::Logging,
    ];

    /// The heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Bucket => "Bucket",
            Self::Access => "Access",
            Self::Files => "Files and attributes",
            Self::Writing => "Writing",
            Self::Resources => "Memory, disk and requests",
            Self::Process => "Mount and process",
            Self::Logging => "Logging",
        }
    }
}

/// Who may set an option, the least trusted first: each may set what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// Whoever writes a pod: nothing here reaches other people's objects or the node.
    Tuning,
    /// Whoever owns the volume: which objects, as whom, at whose cost, with how much memory and
    /// disk.
    Operator,
    /// Whoever runs the process: paths of the machine, and what its processes share.
    Local,
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tuning => "tuning",
            Self::Operator => "operator",
            Self::Local => "local",
        })
    }
}

impl Definition {
    /// The environment variable: `S3POD_` and the flag, upper-case, dashes as underscores.
    pub fn env(&self) -> String {
        format!("S3POD_{}", self.flag.to_ascii_uppercase().replace('-', "_"))
    }

    /// The flag as it is typed, with the name of its value.
    pub fn usage(&self) -> String {
        match self.kind {
            Kind::Switch => format!("--{}", self.flag),
            Kind::Value(name) => format!("--{} {name}", self.flag),
        }
    }

    /// What holds where nobody says anything, in words.
    pub const fn default_text(&self) -> &'static str {
        match (self.kind, self.default.is_empty()) {
            (Kind::Switch, true) => "off",
            (Kind::Value(_), true) => "none",
            (_, false) => self.default,
        }
    }

    /// True where the option takes `value`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn check(&self, value: &str) -> Result<(), String> {
        (self.set)(&mut Options::default(), value)
    }
}
