//! The numbers that `/metrics` shows: names, labels, meanings, and the one recorder.
//!
//! Owns [`METRICS`], the table that `docs/metrics.md` is made from, and [`Metrics`], the page.
//! Promises: a number that anything counts is in the table (a test reads the sources); counting
//! never fails and never waits. Must not know who counts.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Upper bounds in seconds: from an answer out of memory to a store that is waited for.
const BUCKETS: [f64; 10] = [0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// What was timed is kept one by one (16 bytes each) until it is folded into the buckets.
const FOLD_EVERY: Duration = Duration::from_secs(1);

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How long something took, in seconds.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram, seconds",
        }
    }
}

/// One number.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels, separated by commas.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Gauge, labels, help }
}

const fn seconds(name: &'static str, labels: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Histogram, labels, help }
}

/// Every number.
pub const METRICS: [Definition; 17] = [
    gauge("s3pod_info", "version", "Always 1; the label says which version runs"),
    gauge("s3pod_ready", "", "1 while the mount answers and is not ending"),
    gauge("s3pod_staged_bytes", "", "Bytes written and not in S3 yet, those in memory included"),
    gauge(
        "s3pod_unsent_files",
        "",
        "Files that were closed with --write-back and are not in S3 yet",
    ),
    counter(
        "s3pod_kept_for_recovery_total",
        "",
        "Files whose bytes S3 will not take and `s3pod recover` has",
    ),
    counter("s3pod_fuse_requests_total", "op, errno", "Requests of the kernel that were answered"),
    seconds("s3pod_fuse_request_seconds", "op", "From a request of the kernel to its answer"),
    counter(
        "s3pod_store_requests_total",
        "operation, outcome",
        "Requests to S3, each attempt counted; the outcome is `ok` or a kind of error",
    ),
    seconds(
        "s3pod_store_request_seconds",
        "operation",
        "From a request to S3 to its answer; of a GET, to its headers",
    ),
    counter("s3pod_store_received_bytes_total", "", "Bytes of objects that came from S3"),
    counter("s3pod_store_sent_bytes_total", "", "Bytes of objects that S3 has taken"),
    counter("s3pod_store_broken_bodies_total", "kind", "Answers to GETs that broke off"),
    counter("s3pod_store_hedged_total", "", "GETs that were slow and sent a second time"),
    counter(
        "s3pod_cache_damaged_bodies_total",
        "",
        "Objects that did not arrive as they were stored, by their checksums",
    ),
    counter("s3pod_hidden_keys_total", "reason", "Keys seen in listings that no path can name"),
    counter(
        "s3pod_unreadable_metadata_total",
        "",
        "Attributes in an object's metadata that make no sense; the file has defaults",
    ),
    counter("s3pod_config_reload_failures_total", "", "Files of --config that could not be used"),
];

/// The numbers of this process.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Begins to keep them; what was counted before the first call is lost.
    pub fn start() -> Self {
        static STARTED: OnceLock<PrometheusHandle> = OnceLock::new();
        Self(STARTED.get_or_init(install).clone())
    }

    /// The page, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Keeps what was timed small, for as long as it is polled.
    pub async fn keep_small(self) {
        loop {
            tokio::time::sleep(FOLD_EVERY).await;
            self.0.run_upkeep();
        }
    }
}

fn install() -> PrometheusHandle {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS);
    // It is refused only where there is no bucket.
    let recorder = builder.unwrap_or_default().build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another recorder has the numbers; /metrics shows none");
    }
    for Definition { name, kind, labels, help } in METRICS {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::Histogram => metrics::describe_histogram!(name, Unit::Seconds, help),
        }
        // What has not happened yet is 0, so that a rate sees the first time.
        if kind == Kind::Counter && labels.is_empty() {
            metrics::counter!(name).absolute(0);
        }
    }
    metrics::gauge!("s3pod_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    handle
}

const HEAD: &str = "\
# Metrics

<!-- Made from src/telemetry/metrics.rs by `make docs`. Edit the table, not this page. -->

A running mount answers `GET /metrics` in Prometheus' text format where `--admin-address` says, and
on its own admin socket. A number with labels appears when it is counted for the first time; one
without is there from the start.

| name | kind | labels | what |
|---|---|---|---|
";

/// `docs/metrics.md`.
pub fn docs() -> String {
    let mut page = HEAD.to_owned();
    for Definition { name, kind, labels, help } in METRICS {
        let kind = kind.as_str();
        // Writing into a String cannot fail.
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "`make docs` asks a test to write the page")]
    fn the_committed_page_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, docs()).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == docs(), "docs/metrics.md is not current: run `make docs`");
    }

    /// Names of metrics in quotes, in every source but this one.
    fn counted(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                counted(&path, names);
            } else if !path.ends_with("telemetry/metrics.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let quoted = text.split('"').filter(|word| word.starts_with("s3pod_"));
                let is_name =
                    |word: &&str| !word.contains(|c: char| c != '_' && !c.is_ascii_alphanumeric());
                names.extend(quoted.filter(is_name).map(str::to_owned));
            }
        }
    }

    #[test]
    fn the_table_has_what_is_counted_and_nothing_else() {
        let mut names = BTreeSet::from(["s3pod_info".to_owned()]);
        counted(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
        names.retain(|name| name != "s3pod_sidecar");
        let table: BTreeSet<String> = METRICS.iter().map(|one| one.name.to_owned()).collect();
        assert_eq!(names, table);
    }

    #[test]
    fn a_second_mount_of_the_process_shows_the_same_page() {
        let metrics = Metrics::start();
        metrics::counter!("s3pod_hidden_keys_total", "reason" => "test").increment(2);
        let line = "s3pod_hidden_keys_total{reason=\"test\"} 2";
        for page in [metrics.render(), Metrics::start().render()] {
            assert!(page.lines().any(|one| one == line), "{page}");
            assert!(page.contains("# HELP s3pod_hidden_keys_total Keys seen"), "{page}");
            assert!(page.lines().any(|one| one == "s3pod_store_hedged_total 0"), "{page}");
        }
    }
}
