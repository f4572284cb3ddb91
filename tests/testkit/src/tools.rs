//! Programs that the suites run and no distribution has: `.ci/setup suites` builds them.
//!
//! Owns where they are. Must not know what they do.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Names the folder of the programs where it is not the default.
const FOLDER_VARIABLE: &str = "S3POD_TOOLS";

/// The path of a program that `make setup` has installed.
#[expect(clippy::disallowed_methods, reason = "tests have no config::resolve")]
pub fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os(FOLDER_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            PathBuf::from(home).join(".cache/s3pod/tools")
        }
    };
    let path = folder.join("bin").join(name);
    if !path.is_file() {
        bail!("{name} is not installed: {} is missing. Run `make setup`.", path.display());
    }
    Ok(path)
}
