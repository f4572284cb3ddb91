//! A file of options that changes while a mount runs.
//!
//! Owns the looking and the applying. It polls: the number of inotify instances is a limit of the
//! whole node, and a file is read in microseconds. Promises: a file that cannot be read is one
//! line in the log and changes nothing. Must not know the file's grammar.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::allotment::Allotment;
use super::mountinfo;
use crate::config::{Change, Config, Host, Reload, Tunables};
use crate::telemetry::Log;

/// A kubelet brings a changed ConfigMap within a minute or so; this adds little to it.
const EVERY: Duration = Duration::from_secs(10);

/// Looks at the file again and again; only returns where there is none.
pub(super) async fn watch(
    config: Config,
    allotment: Allotment,
    log: Log,
    failures: Arc<AtomicU64>,
) {
    let Some(mut reload) = config.reload.clone() else { return };
    let config = Arc::new(config);
    warn_of_sub_path(&reload);
    loop {
        tokio::time::sleep(EVERY).await;
        let of_look = Arc::clone(&config);
        let looked = tokio::task::spawn_blocking(move || {
            let found = reload.look(|options| of_look.tunables(options, &Host::read()));
            (reload, found)
        });
        let Ok((same, found)) = looked.await else { return };
        reload = same;
        match found {
            Ok(None) => {}
            Ok(Some(change)) => apply(&change, &allotment, &log).await,
            Err(error) => {
                failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "the options stay as they were");
            }
        }
    }
}

async fn apply(change: &Change, allotment: &Allotment, log: &Log) {
    let Tunables { log_level, metadata_ttl, sizes } = change.tunables;
    log.set_level(log_level);
    allotment.vfs.set_metadata_ttl(metadata_ttl);
    tracing::info!(?metadata_ttl, ?sizes, "the options have changed");
    if !change.at_next_start.is_empty() {
        let flags = change.at_next_start.join(", ");
        tracing::warn!(flags, "these options hold from the next start of the mount on");
    }
    allotment.resize(sizes).await;
    tracing::info!(budget = allotment.budget.limit(), "what is taken fits into the sizes");
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
