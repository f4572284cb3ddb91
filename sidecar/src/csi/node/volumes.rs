//! The volumes of this node: mounted once per key, published at any number of places.
//!
//! Owns the order of things when a volume comes, goes, or loses its server. Promises: whatever
//! fails on the way leaves nothing that was not there before; a volume that lives is not disturbed
//! by a call that repeats or fails; a dead mount is mounted over, never unmounted first. Must not
//! know the wire, nor who serves.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use s3pod::mount::mountinfo;

use super::asked::Wanted;
use super::busy::Busy;
use super::mounts;
use super::places::Places;
use super::state::{Mount, State, Target};
use super::told::refused;
use crate::csi::servers::{Bytes, FILES, Files, Order, Servers, Serving};
use crate::volume::access::AccessMode;
use crate::volume::refusal::{Code, Refusal};
use crate::volume::{Published, Server};

/// Between tries to serve a dead mount again: at once, then twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The folders inside of mounts that are bound again must be found by their new server.
const RENEW_PATIENCE: Duration = Duration::from_secs(30);

/// The volumes.
#[derive(Debug)]
pub(super) struct Volumes {
    pub(super) places: Places,
    pub(super) servers: Servers,
    pub(super) busy: Busy,
    state: Mutex<State>,
    live: Mutex<HashMap<String, Live>>,
}

/// A mount that is served.
#[derive(Clone, Debug)]
struct Live {
    serving: Arc<Serving>,
    /// As it was asked for last; none for one that an earlier driver published.
    published: Option<Published>,
    /// What was last said to be wrong with it.
    complaint: Option<String>,
}

impl Volumes {
    /// The volumes that `state` knows of; none of them is looked at yet.
    pub(super) fn new(places: Places, servers: Servers, state: State) -> Arc<Self> {
        Arc::new(Self {
            places,
            servers,
            busy: Busy::default(),
            state: Mutex::new(state),
            live: Mutex::default(),
        })
    }

    /// Has a volume appear at its target.
    pub(super) async fn publish(self: &Arc<Self>, wanted: Wanted) -> Result<(), Refusal> {
        if wanted.published.server == Server::Sidecar {
            let why = "sidecar is not served by this release; leave it out, or write node";
            return Err(Refusal::field("volumeAttributes.server", why));
        }
        let _alone = self.busy.enter(&wanted.volume)?;
        let before = self.compare(&wanted)?;
        let key = before.clone().unwrap_or_else(|| wanted.published.key.clone());
        if key != wanted.published.key {
            tracing::warn!(
                volume = wanted.volume,
                target = %wanted.target.display(),
                "published with other attributes or options; they are for the next pod"
            );
        }
        let is_new = !self.state().mounts().contains_key(&key);
        if is_new {
            self.begin(&key, &wanted.volume, &wanted.published).await?;
        } else if self.serving(&key).is_none() {
            self.revive(&key, &wanted.published).await?;
        } else if key == wanted.published.key {
            self.refresh(&key, &wanted.published).await?;
        }
        if let Err(error) = self.appear(&key, &wanted) {
            let why = format!("{} cannot be mounted on: {error}", wanted.target.display());
            if self.is_unused(&key) {
                self.end(&key).await;
            }
            return Err(Refusal::new(Code::Internal, why));
        }
        Ok(())
    }

    /// The key under which the target is published already; refuses what contradicts that, and a
    /// second place for who wants to be alone.
    fn compare(&self, wanted: &Wanted) -> Result<Option<String>, Refusal> {
        let state = self.state();
        let shown = wanted.target.display();
        if let Some(key) = state.key_of(&wanted.target) {
            let mount = &state.mounts()[key];
            let asked = Target { access_mode: wanted.access_mode, read_only: wanted.read_only };
            if mount.volume != wanted.volume {
                let why = format!("target_path: {shown} shows the volume {}", mount.volume);
                return Err(Refusal::new(Code::AlreadyExists, why));
            }
            if mount.targets[&wanted.target] != asked {
                let why = format!(
                    "the volume {} is published at {shown} with another access mode or readonly",
                    wanted.volume
                );
                return Err(Refusal::new(Code::AlreadyExists, why));
            }
            return Ok(Some(key.to_owned()));
        }
        let alone = AccessMode::SingleNodeSingleWriter as i32;
        let others = || state.of_volume(&wanted.volume).flat_map(|mount| &mount.targets);
        let is_taken = others().any(|(_, target)| target.access_mode == alone)
            || (wanted.access_mode == alone && others().next().is_some());
        if is_taken {
            let places: Vec<_> = others().map(|(at, _)| at.display().to_string()).collect();
            let why = format!(
                "the volume {} is for one pod alone (ReadWriteOncePod), and published at {}",
                wanted.volume,
                places.join(", ")
            );
            return Err(Refusal::new(Code::FailedPrecondition, why));
        }
        Ok(None)
    }

    /// The first mount of a key. What fails leaves nothing behind.
    async fn begin(
        self: &Arc<Self>,
        key: &str,
        volume: &str,
        published: &Published,
    ) -> Result<(), Refusal> {
        let mount = Mount {
            volume: volume.to_owned(),
            bucket: published.bucket.clone(),
            read_only: published.read_only,
            ..Mount::default()
        };
        // Before the mount: what is not written down would be nobody's after a crash.
        self.change(|mounts| mounts.insert(key.to_owned(), mount))?;
        let served = self.serve(key, published).await;
        if served.is_err() {
            self.end(key).await;
        }
        served
    }

    /// Mounts and hands over; where that fails, what was mounted is gone again.
    async fn serve(self: &Arc<Self>, key: &str, published: &Published) -> Result<(), Refusal> {
        let generation = self.state().mounts().get(key).map_or(0, |mount| mount.generation) + 1;
        let own = self.places.own(key, generation);
        // What a driver left there that was killed on the way.
        mounts::clear(&own)
            .and_then(|_| mounts::make(&own))
            .map_err(|error| internal(&own, &error))?;
        let fresh = mounts::mount(&own, &published.bucket, published.read_only)
            .map_err(|failure| Refusal::new(Code::Internal, failure.to_string()))?;
        let device = fresh.device;
        match self.servers.start(order(key, published), fresh.descriptor).await {
            Ok(serving) => {
                tracing::info!(key, device, init = ?serving.init, "served");
                self.change(|mounts| {
                    if let Some(mount) = mounts.get_mut(key) {
                        mount.generation = generation;
                        mount.device = device;
                    }
                })?;
                self.attend(key, Arc::new(serving), Some(published.clone()));
                Ok(())
            }
            Err(refusal) => {
                if let Err(error) = mounts::clear(&own).and_then(|_| mounts::remove(&own)) {
                    tracing::warn!(own = %own.display(), %error, "a mount stays unserved");
                }
                Err(refused(refusal))
            }
        }
    }

    /// Serves a dead mount anew, and mounts over it wherever it shows.
    async fn revive(self: &Arc<Self>, key: &str, published: &Published) -> Result<(), Refusal> {
        let later = |refusal: Refusal| Refusal::new(Code::Unavailable, refusal.message);
        self.serve(key, published).await.map_err(later)?;
        let (own, below) = (self.own(key), self.places.kubelet().map(Path::to_owned));
        let mut dead = self
            .places
            .all_own(key)
            .map_err(|error| later(internal(&self.places.mounts(), &error)))?;
        dead.retain(|point| *point != own);
        let renewing =
            tokio::task::spawn_blocking(move || mounts::renew(&own, &dead, below.as_deref()));
        match tokio::time::timeout(RENEW_PATIENCE, renewing).await {
            Ok(Ok(Ok(failed))) => {
                for (point, error) in failed {
                    let point = point.display();
                    tracing::warn!(%point, %error, "a dead mount stays: it cannot be mounted over");
                }
                tracing::info!(key, "served again");
            }
            failed => tracing::warn!(key, ?failed, "dead mounts may stay that show it"),
        }
        Ok(())
    }

    /// Tells a living server what is new. It complains once of each thing that goes wrong.
    async fn refresh(&self, key: &str, published: &Published) -> Result<(), Refusal> {
        let Some(live) = self.live().get(key).cloned() else { return Ok(()) };
        if live.published.as_ref() == Some(published) {
            return Ok(());
        }
        let complaint = match live.serving.rewrite_files(files(published)).await {
            Ok(()) => None,
            Err(refusal) => Some(refused(refusal).message),
        };
        let is_news = complaint.is_some() && complaint != live.complaint;
        if let Some(live) = self.live().get_mut(key) {
            if complaint.is_none() {
                live.published = Some(published.clone());
            }
            live.complaint.clone_from(&complaint);
        }
        match complaint {
            Some(why) if is_news => Err(Refusal::new(Code::Unavailable, why)),
            _ => Ok(()),
        }
    }

    /// Binds the mount to the target, and writes that down first.
    fn appear(&self, key: &str, wanted: &Wanted) -> io::Result<()> {
        let own = self.own(key);
        let target = &wanted.target;
        let table = mountinfo::read()?;
        let above = mountinfo::topmost(&table, target);
        let device = mounts::device_at(&table, &own);
        let shows = above.map(|mount| mount.device.to_string());
        let is_there = shows.is_some() && shows == device;
        if above.is_some_and(|mount| !mount.is_fuse()) {
            return Err(io::Error::other("something else is mounted there; unmount it"));
        }
        if above.is_none() {
            mounts::make(target)?;
        }
        let place = Target { access_mode: wanted.access_mode, read_only: wanted.read_only };
        self.state().change(|mounts| {
            let mount = mounts.get_mut(key)?;
            mount.targets.insert(target.clone(), place)
        })?;
        let bound = if is_there { Ok(()) } else { mounts::bind(&own, Path::new("/"), target) };
        if bound.is_err() {
            self.forget(target);
            // The directory that was made for it; one with something in it stays.
            let _ = mounts::remove(target);
        }
        bound
    }

    /// Takes a volume away from a target; the last one ends its mount and its server.
    pub(super) async fn unpublish(
        self: &Arc<Self>,
        volume: &str,
        target: &Path,
    ) -> Result<(), Refusal> {
        let _alone = self.busy.enter(volume)?;
        let key = self.state().key_of(target).map(str::to_owned);
        mounts::clear(target)
            .and_then(|_| mounts::remove(target))
            .map_err(|error| stays(target, &error))?;
        self.forget(target);
        if let Some(key) = key.filter(|key| self.is_unused(key)) {
            self.end(&key).await;
        }
        Ok(())
    }

    /// Unmounts a key's own mount, and ends its server once that has sent what it has.
    async fn end(&self, key: &str) {
        // First, so that its server's end is nobody's loss.
        let live = self.live().remove(key);
        for own in self.places.all_own(key).unwrap_or_default() {
            if let Err(error) = mounts::clear(&own).and_then(|_| mounts::remove(&own)) {
                tracing::warn!(own = %own.display(), %error, "an own mount stays");
            }
        }
        if let Err(why) = self.servers.stop(key).await {
            tracing::warn!(key, %why, "its server was not told to end");
        }
        drop(live);
        if let Err(refusal) = self.change(|mounts| mounts.remove(key)) {
            tracing::warn!(key, %refusal, "the state on disk is behind");
        }
    }

    /// Watches a server to its end.
    pub(super) fn attend(
        self: &Arc<Self>,
        key: &str,
        serving: Arc<Serving>,
        published: Option<Published>,
    ) {
        let live = Live { serving: Arc::clone(&serving), published, complaint: None };
        self.live().insert(key.to_owned(), live);
        let (volumes, key) = (Arc::clone(self), key.to_owned());
        tokio::spawn(async move {
            serving.ended().await;
            volumes.lost(&key, &serving).await;
        });
    }

    /// A server has gone: its mount is served again, as long as anybody has it.
    async fn lost(self: &Arc<Self>, key: &str, serving: &Arc<Serving>) {
        let mut pause = PAUSE_FIRST;
        loop {
            let Some(volume) = self.state().mounts().get(key).map(|mount| mount.volume.clone())
            else {
                return;
            };
            let alone = self.busy.wait(&volume).await;
            let Some(published) = self.take_lost(key, serving) else { return };
            tracing::warn!(key, volume, "its server has gone");
            match self.revive(key, &published).await {
                Ok(()) => return,
                Err(refusal) => tracing::warn!(key, %refusal, "it is not served again yet"),
            }
            self.keep_lost(key, serving, published);
            drop(alone);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// What a lost mount was asked to be, if this server was its last and anybody knows.
    fn take_lost(&self, key: &str, serving: &Arc<Serving>) -> Option<Published> {
        let mut live = self.live();
        let is_last = live.get(key).is_some_and(|live| Arc::ptr_eq(&live.serving, serving));
        if !is_last {
            return None;
        }
        // Without it, the next call of kubelet brings it.
        live.remove(key).and_then(|live| live.published)
    }

    fn keep_lost(&self, key: &str, serving: &Arc<Serving>, published: Published) {
        let live =
            Live { serving: Arc::clone(serving), published: Some(published), complaint: None };
        self.live().insert(key.to_owned(), live);
    }

    /// The server of a key, while it lives.
    pub(super) fn serving(&self, key: &str) -> Option<Arc<Serving>> {
        let live = self.live();
        live.get(key).map(|live| Arc::clone(&live.serving)).filter(|serving| serving.is_alive())
    }

    /// Where the mount of a key is that is served, or was last.
    fn own(&self, key: &str) -> PathBuf {
        let generation = self.state().mounts().get(key).map_or(0, |mount| mount.generation);
        self.places.own(key, generation)
    }

    fn is_unused(&self, key: &str) -> bool {
        self.state().mounts().get(key).is_some_and(|mount| mount.targets.is_empty())
    }

    fn forget(&self, target: &Path) {
        let forgotten = self.change(|mounts| {
            for mount in mounts.values_mut() {
                mount.targets.remove(target);
            }
        });
        if let Err(refusal) = forgotten {
            tracing::warn!(%refusal, "the state on disk is behind");
        }
    }

    /// Changes the state; a call fails where it cannot be written.
    pub(super) fn change<T>(
        &self,
        by: impl FnOnce(&mut BTreeMap<String, Mount>) -> T,
    ) -> Result<T, Refusal> {
        self.state().change(by).map_err(|error| {
            let folder = self.places.state().display();
            Refusal::new(Code::Internal, format!("{folder} cannot be written to: {error}"))
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server is told of a volume.
fn order(key: &str, published: &Published) -> Order {
    let folder = Path::new(FILES);
    let flags = published.arguments(folder).into_iter();
    let arguments = std::iter::once(published.bucket.clone())
        .chain(flags.map(|flag| flag.to_string_lossy().into_owned()))
        .collect();
    Order {
        key: key.to_owned(),
        arguments,
        files: files(published),
        memory: published.memory,
        server_identity: published.is_read_as_the_driver(),
        ..Order::default()
    }
}

fn files(published: &Published) -> Files {
    let files = published.files(Path::new(FILES)).into_iter();
    let bytes = |text: &str| Bytes(text.as_bytes().to_vec());
    Files(files.map(|file| (file.name.to_owned(), bytes(file.content.expose()))).collect())
}

fn internal(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(Code::Internal, format!("{}: {error}", path.display()))
}

fn stays(target: &Path, error: &io::Error) -> Refusal {
    let shown = target.display();
    let why = match error.kind() {
        io::ErrorKind::DirectoryNotEmpty => format!(
            "target_path: {shown} has files in it that were written while nothing was mounted; \
             they are not in the bucket: move them away"
        ),
        _ => format!("target_path: {shown} cannot be removed: {error}"),
    };
    Refusal::new(Code::Internal, why)
}
