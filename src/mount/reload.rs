//! A file of options that changes while a mount runs.
//!
//! Owns the looking and the applying. It polls: the number of inotify instances is a limit of the
//! whole node, and a file is read in microseconds. Promises: a file that cannot be read is one
//! line in the log and changes nothing. Must not know the file's grammar.

use std::time::Duration;

use super::mountinfo;
use crate::config::{Change, Config, Reload};
use crate::telemetry::Log;
use crate::vfs::Vfs;

/// A kubelet brings a changed ConfigMap within a minute or so; this adds little to it.
const EVERY: Duration = Duration::from_secs(10);

/// Files that could not be read.
const FAILURES: &str = "s3pod_config_reload_failures_total";

/// Looks at the file again and again; only returns where there is none.
pub(super) async fn watch(config: Config, vfs: Vfs, log: Log) {
    let Some(mut reload) = config.reload.clone() else { return };
    warn_of_sub_path(&reload);
    loop {
        tokio::time::sleep(EVERY).await;
        let looked = tokio::task::spawn_blocking(move || {
            let found = reload.look();
            (reload, found)
        });
        let Ok((same, found)) = looked.await else { return };
        reload = same;
        match found {
            Ok(None) => {}
            Ok(Some(change)) => apply(&change, &config, &vfs, &log),
            Err(error) => {
                metrics::counter!(FAILURES).increment(1);
                tracing::error!(%error, "the options stay as they were");
            }
        }
    }
}

fn apply(change: &Change, config: &Config, vfs: &Vfs, log: &Log) {
    log.set_level(change.tunables.log_level.unwrap_or_default());
    let ttl = change.tunables.metadata_ttl.unwrap_or_else(|| config.default_metadata_ttl());
    vfs.set_metadata_ttl(ttl);
    tracing::info!(metadata_ttl = ?ttl, "the options have changed");
    if !change.at_next_start.is_empty() {
        let flags = change.at_next_start.join(", ");
        tracing::warn!(flags, "these options hold from the next start of the mount on");
    }
}

/// A file that is a mount point of its own is bound once and for all.
fn warn_of_sub_path(reload: &Reload) {
    let mounts = mountinfo::read().unwrap_or_default();
    if mountinfo::topmost(&mounts, reload.path()).is_some() {
        let path = reload.path().display();
        tracing::warn!(
            %path,
            "this file is mounted by subPath, so that changes never arrive; mount the whole volume"
        );
    }
}
