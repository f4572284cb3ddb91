//! The log: lines of text or JSON, to stderr or a file.
//!
//! Owns [`LogSettings`] and [`Log`], the handle by which the level is changed while the program
//! runs. Promises: only this program's own lines are let through below `warn`: the SDK's debug
//! lines show whole requests with their signatures; and a library's line is kept out where this
//! program says the same better. Must not know who logs.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

/// The targets that are this program's own: its library, its binaries.
const OWN_TARGETS: [&str; 2] = ["s3pod", "s3pod_sidecar"];

/// Libraries that say more than a person wants to read, and what they may still say.
const QUIETER: [(&str, LevelFilter); 4] = [
    // One line per provider of credentials that has none, with the whole answer in it; what is
    // wrong with all of them comes back as an error, which is ours to say.
    ("aws_config", LevelFilter::ERROR),
    // That it does not know an error of the connection, which comes back all the same.
    ("aws_smithy_http_client", LevelFilter::ERROR),
    // Operations that it does not implement, as if nobody had decided that.
    ("fuser", LevelFilter::ERROR),
    // An answer that comes after a lazy or forced unmount, whose caller has gone.
    ("fuser::reply", LevelFilter::OFF),
];

/// How the log looks and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// Lines of this importance and above.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// The file it is appended to; none is stderr.
    pub file: Option<PathBuf>,
}

/// Importance of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something may be wrong.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
    /// Every step.
    Trace,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(format!("`{text}` is not one of error, warn, info, debug, trace")),
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not one of text, json")),
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// The running log.
#[derive(Clone)]
pub struct Log(reload::Handle<Targets, Registry>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// Where the file cannot be opened for appending, or the process has a log already.
    pub fn start(settings: &LogSettings) -> io::Result<Self> {
        let (filter, handle) = reload::Layer::new(targets(settings.level));
        let writer = writer(settings)?;
        let is_terminal = settings.file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
        let layer = lines(settings.format, writer, is_terminal).with_filter(filter);
        Registry::default().with(layer).try_init().map_err(io::Error::other)?;
        Ok(Self(handle))
    }

    /// Changes the level from here on.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only where the log itself is gone, and then there is nothing to filter.
        let _ = self.0.reload(targets(level));
    }
}

fn targets(level: LogLevel) -> Targets {
    let own = LevelFilter::from(level);
    let beneath = own.min(LevelFilter::WARN);
    Targets::new()
        .with_default(beneath)
        .with_targets(QUIETER.map(|(target, most)| (target, most.min(beneath))))
        .with_targets(OWN_TARGETS.map(|target| (target, own)))
}

fn writer(settings: &LogSettings) -> io::Result<BoxMakeWriter> {
    let Some(path) = &settings.file else { return Ok(BoxMakeWriter::new(io::stderr)) };
    let file: Arc<File> = Arc::new(OpenOptions::new().append(true).create(true).open(path)?);
    Ok(BoxMakeWriter::new(file))
}

fn lines<S>(
    format: LogFormat,
    writer: BoxMakeWriter,
    is_terminal: bool,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(is_terminal);
    match format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn libraries_beneath_never_log_below_warn() {
        let all = targets(LogLevel::Trace);
        assert!(all.would_enable("s3pod::vfs", &Level::TRACE));
        assert!(all.would_enable("aws_smithy_runtime", &Level::WARN));
        assert!(!all.would_enable("aws_smithy_runtime", &Level::INFO));
        assert!(!all.would_enable("aws_sigv4::sign", &Level::DEBUG));
        assert!(!all.would_enable("aws_config::meta::credentials::chain", &Level::WARN));
        assert!(all.would_enable("fuser::passthrough", &Level::ERROR));
        assert!(!all.would_enable("fuser::reply", &Level::ERROR));
        let few = targets(LogLevel::Error);
        assert!(!few.would_enable("hyper", &Level::WARN));
    }

    fn written(format: LogFormat, level: LogLevel) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let settings = LogSettings { level, format, file: Some(path.clone()) };
        let layer = lines(format, writer(&settings).unwrap(), false).with_filter(targets(level));
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::warn!(target: "s3pod::test", key = "a/b", "said");
            tracing::debug!(target: "s3pod::test", "unsaid");
        });
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_line_is_text_or_json_and_goes_to_the_file() {
        let text = written(LogFormat::Text, LogLevel::Info);
        assert!(text.contains("WARN") && text.contains("said key=\"a/b\""), "{text}");
        assert!(!text.contains("unsaid") && !text.contains('\u{1b}'), "{text}");
        let json = written(LogFormat::Json, LogLevel::Info);
        let line: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
        assert_eq!((&line["message"], &line["key"]), (&"said".into(), &"a/b".into()));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let file = Some(PathBuf::from("/nonexistent/log"));
        assert!(writer(&LogSettings { file, ..LogSettings::default() }).is_err());
    }
}
