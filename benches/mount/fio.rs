//! fio(1): what it is asked, and what it says.
//!
//! Owns the reading of its report. The jobs themselves are files in `benches/fio/`. Must not know
//! what is compared.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// What one run of fio came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) bytes_per_second: f64,
    pub(crate) reads_per_second: f64,
}

/// Runs a job of `benches/fio/` with these variables.
pub(crate) fn run(job: &str, variables: &[(&str, &str)]) -> anyhow::Result<Report> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/fio").join(job);
    let mut command = Command::new("fio");
    command.args(["--readonly", "--output-format=json"]).arg(&file).envs(variables.iter().copied());
    let output = command.output().context("fio is missing: install the package `fio`")?;
    if !output.status.success() {
        bail!("{job}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Warnings may come before the report.
    let start = output.stdout.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let report: Value = serde_json::from_slice(&output.stdout[start..])?;
    let read = &report["jobs"][0]["read"];
    let number = |name: &str| read[name].as_f64().with_context(|| format!("{job}: no {name}"));
    Ok(Report { bytes_per_second: number("bw_bytes")?, reads_per_second: number("iops")? })
}
