//! What an earlier driver left: its state, its mounts, and servers that still serve.
//!
//! Owns the comparison of what was written down with what is mounted. Promises: what lives is left
//! alone; a mount that nobody uses goes; a dead one that somebody uses stays until it is mounted
//! over; a server that does not answer keeps nobody waiting but its own volumes. Must not know why
//! the earlier driver ended.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;

use s3pod::mount::mountinfo::{self, MountInfo};
use tokio::task::JoinSet;

use super::mounts;
use super::served::ASK_AGAIN;
use super::traces;
use super::volumes::Volumes;
use crate::csi::servers::{Running, is_silent};

/// Compares, and takes up what is left.
pub(super) async fn take_up(volumes: &Arc<Volumes>) -> io::Result<()> {
    let table = mountinfo::read()?;
    if volumes.state().is_lost() {
        let found = traces::read(&table, &volumes.places);
        tracing::info!(volumes = found.len(), "nothing is written down; this is what is mounted");
        volumes.note(|mounts| *mounts = found);
    }
    forget_what_is_not_mounted(volumes, &table);
    clear_what_nobody_knows(volumes)?;
    let keys: BTreeSet<String> = volumes.state().mounts().keys().cloned().collect();
    match volumes.servers.list().await {
        Ok(running) => {
            name(volumes, &running);
            attach(volumes, keys, &running).await;
            stop_what_nobody_knows(volumes, running).await;
        }
        Err(error) if is_silent(&error) => {
            tracing::warn!("the node's server is there and does not answer; it is asked again");
            let (sidecars, others): (_, BTreeSet<String>) =
                keys.into_iter().partition(|key| is_sidecars(volumes, key));
            volumes.unknown().extend(others.clone());
            tokio::spawn(attach_later(Arc::clone(volumes), others));
            attach(volumes, sidecars, &[]).await;
        }
        // Nothing is served where there is no server.
        Err(error) => {
            tracing::warn!(%error, "the node's server is not there");
            attach(volumes, keys, &[]).await;
        }
    }
    Ok(())
}

fn is_sidecars(volumes: &Volumes, key: &str) -> bool {
    volumes.state().mounts().get(key).is_some_and(|mount| mount.sidecar.is_some())
}

/// Takes up volumes once their server answers; until then nobody touches them.
async fn attach_later(volumes: Arc<Volumes>, keys: BTreeSet<String>) {
    let running = loop {
        match volumes.servers.list().await {
            Ok(running) => break running,
            Err(error) if is_silent(&error) => tokio::time::sleep(ASK_AGAIN).await,
            Err(_) => break Vec::new(),
        }
    };
    name(&volumes, &running);
    for key in keys {
        tokio::spawn(Arc::clone(&volumes).ask_until_it_answers(key, running.clone()));
    }
    stop_what_nobody_knows(&volumes, running).await;
}

/// The server knows what the table of mounts does not say. Whom nobody names is named by kubelet.
fn name(volumes: &Volumes, running: &[Running]) {
    volumes.note(|mounts| {
        for one in running {
            if let Some(mount) = mounts.get_mut(&one.key).filter(|mount| mount.volume.is_empty()) {
                mount.volume.clone_from(&one.volume);
            }
        }
    });
}

async fn attach(volumes: &Arc<Volumes>, keys: BTreeSet<String>, running: &[Running]) {
    let mut all = JoinSet::new();
    for key in keys {
        let (volumes, running) = (Arc::clone(volumes), running.to_owned());
        all.spawn(async move { volumes.take_up(&key, &running).await });
    }
    all.join_all().await;
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

/// A target that shows nothing of its volume's is published anew by kubelet, or was unpublished; a
/// mount without targets is nobody's.
fn forget_what_is_not_mounted(volumes: &Volumes, table: &[MountInfo]) {
    volumes.note(|mounts| {
        for (key, mount) in mounts.iter_mut() {
            let devices = devices_of(volumes, table, key, &mount.device);
            mount.targets.retain(|target, _| {
                mounts::device_at(table, target).is_some_and(|device| devices.contains(&device))
            });
        }
        mounts.retain(|_, mount| !mount.targets.is_empty());
    });
}

/// The devices of a key's file systems: the one that was written down, and what stands on its own
/// mounts, since a driver may have died between a mount and its note.
fn devices_of(
    volumes: &Volumes,
    table: &[MountInfo],
    key: &str,
    written: &str,
) -> BTreeSet<String> {
    let own = volumes.places.all_own(key).unwrap_or_default();
    let own = own.iter().filter_map(|own| mounts::device_at(table, own));
    own.chain([written.to_owned()]).collect()
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
