//! What an earlier driver left: its state, its mounts, and servers that still serve.
//!
//! Owns the comparison of what was written down with what is mounted. Promises: what lives is left
//! alone; a mount that nobody uses goes; a dead one that somebody uses stays until it is mounted
//! over. Must not know why the earlier driver ended.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use s3pod::mount::mountinfo::{self, FS_TYPE, MountInfo};
use tokio::task::JoinSet;

use super::mounts;
use super::volumes::Volumes;
use crate::csi::servers::Running;

/// Compares, and takes up what is left.
pub(super) async fn take_up(volumes: &Arc<Volumes>) -> io::Result<()> {
    let table = mountinfo::read()?;
    forget_what_is_not_mounted(volumes, &table)?;
    clear_what_nobody_knows(volumes)?;
    let keys: BTreeSet<String> = volumes.state().mounts().keys().cloned().collect();
    let running = volumes.servers.list().await.unwrap_or_else(|why| {
        tracing::warn!(%why, "which volumes are served is not known");
        Vec::new()
    });
    let mut all = JoinSet::new();
    for key in keys {
        let (volumes, running) = (Arc::clone(volumes), running.clone());
        all.spawn(async move { volumes.take_up(&key, &running).await });
    }
    all.join_all().await;
    stop_what_nobody_knows(volumes, running).await;
    Ok(())
}

/// A driver that died between starting a server and mounting left a process that nobody owns.
async fn stop_what_nobody_knows(volumes: &Arc<Volumes>, running: Vec<Running>) {
    let known: BTreeSet<String> = volumes.state().mounts().keys().cloned().collect();
    let mut all = JoinSet::new();
    let unknown = running.into_iter().filter(|one| !known.contains(&one.key));
    for Running { key, volume, .. } in unknown {
        let servers = volumes.servers.clone();
        all.spawn(async move {
            tracing::warn!(volume, key, "an earlier driver left a server of nobody's: it is ended");
            if let Err(why) = servers.stop(&key).await {
                tracing::warn!(volume, key, %why, "a server of nobody's goes on");
            }
        });
    }
    all.join_all().await;
}

/// A target that shows nothing of ours is published anew by kubelet, or was unpublished; a mount
/// without targets is nobody's.
fn forget_what_is_not_mounted(volumes: &Volumes, table: &[MountInfo]) -> io::Result<()> {
    let is_ours = |target: &PathBuf| {
        mountinfo::topmost(table, target).is_some_and(|mount| mount.kind == FS_TYPE)
    };
    volumes.state().change(|mounts| {
        for mount in mounts.values_mut() {
            mount.targets.retain(|target, _| is_ours(target));
        }
        mounts.retain(|_, mount| !mount.targets.is_empty());
    })
}

fn clear_what_nobody_knows(volumes: &Volumes) -> io::Result<()> {
    let known: BTreeSet<String> = volumes.state().mounts().keys().cloned().collect();
    for entry in fs::read_dir(volumes.places.mounts())? {
        let name = entry?.file_name();
        let key = name.to_str().and_then(|name| name.rsplit_once('.')).map(|(key, _)| key);
        if key.is_some_and(|key| known.contains(key)) {
            continue;
        }
        let own = volumes.places.mounts().join(name);
        // One that does not go is tried again by the next driver.
        if let Err(error) = mounts::clear(&own).and_then(|_| mounts::remove(&own)) {
            tracing::warn!(own = %own.display(), %error, "an own mount of nobody's stays");
        }
    }
    Ok(())
}
