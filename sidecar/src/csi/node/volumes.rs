//! The volumes of this node: mounted once per key, published at any number of places.
//!
//! Owns the order of things when a volume comes or goes. Promises: whatever fails on the way leaves
//! nothing that was not there before; a volume that lives is not disturbed by a call that repeats
//! or fails, and kubelet hears of each trouble once. Must not know the wire, nor who serves
//! ([`super::served`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use s3pod::mount::mountinfo;

use super::asked::Wanted;
use super::busy::Busy;
use super::mounts;
use super::places::Places;
use super::served::Live;
use super::state::{Mount, State, Target};
use crate::csi::servers::{Servers, Serving};
use crate::volume::access::AccessMode;
use crate::volume::refusal::{Code, Refusal};

/// The volumes.
#[derive(Debug)]
pub(super) struct Volumes {
    pub(super) places: Places,
    pub(super) servers: Servers,
    pub(super) busy: Busy,
    state: Mutex<State>,
    live: Mutex<HashMap<String, Live>>,
    /// What kubelet was last told to be wrong with a key.
    complaints: Mutex<HashMap<String, String>>,
    /// Keys that may be served: an earlier driver's, whose server has not answered this one yet.
    unknown: Mutex<BTreeSet<String>>,
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
            complaints: Mutex::default(),
            unknown: Mutex::default(),
        })
    }

    /// Has a volume appear at its target.
    pub(super) async fn publish(self: &Arc<Self>, mut wanted: Wanted) -> Result<(), Refusal> {
        let _alone = self.busy.enter(&wanted.volume)?;
        let before = self.compare(&wanted)?;
        let is_there = before.is_some();
        let Before { key, access_mode, contradiction } =
            before.unwrap_or_else(|| Before::nothing(&wanted));
        wanted.access_mode = access_mode;
        if key != wanted.published.key {
            tracing::warn!(
                volume = wanted.volume,
                target = %wanted.target.display(),
                "published with other attributes or options; they are for the next pod"
            );
        }
        if is_there {
            self.learn(&key, &wanted).await;
        }
        let done = match self.provide(&key, &wanted, is_there).await {
            Ok(()) => self.appear(&key, &wanted),
            failed => failed,
        };
        match done {
            Ok(()) => self.no_more_complaints(&key),
            // It stays as it is: a call that fails would take nothing away, but would be repeated
            // at once, over and over.
            Err(refusal) if is_there => return self.complain_once(&key, refusal),
            Err(refusal) => {
                if self.is_unused(&key) {
                    self.end(&key).await;
                }
                return Err(refusal);
            }
        }
        if let Some(refusal) = contradiction {
            return self.complain_once(&at(&wanted.target), refusal);
        }
        self.no_more_complaints(&at(&wanted.target));
        Ok(())
    }

    /// What a call is answered that cannot be understood. Where its volume is there, somebody has
    /// changed what belongs to it meanwhile, and it lives on.
    pub(super) fn refuse(
        &self,
        volume: &str,
        target: &str,
        refusal: Refusal,
    ) -> Result<(), Refusal> {
        let is_there = |target: &PathBuf| {
            let state = self.state();
            state.key_of(target).is_some_and(|key| state.mounts()[key].is_of(volume))
        };
        match self.places.target("target_path", target).ok().filter(is_there) {
            Some(target) => self.complain_once(&at(&target), refusal),
            None => Err(refusal),
        }
    }

    /// Sees to it that the key is mounted and served; `is_there` where it is at the target already.
    async fn provide(
        self: &Arc<Self>,
        key: &str,
        wanted: &Wanted,
        is_there: bool,
    ) -> Result<(), Refusal> {
        let published = &wanted.published;
        if !self.state().mounts().contains_key(key) {
            let mount = Mount {
                volume: wanted.volume.clone(),
                bucket: published.bucket.clone(),
                read_only: published.read_only,
                sidecar: wanted.sidecar.clone(),
                ..Mount::default()
            };
            return self.begin(key, mount, published).await;
        }
        if self.unknown().contains(key) {
            let why = match wanted.sidecar {
                None => {
                    "the node's server does not say whether it serves the volume; if it stays so, \
                     delete its pod, s3pod-server"
                }
                Some(_) => {
                    "the pod's sidecar does not say whether it serves the volume; if it stays so, \
                     restart it"
                }
            };
            return Err(Refusal::new(Code::Unavailable, why));
        }
        if self.serving(key).is_none() {
            return self.revive(key, Some(published)).await;
        }
        match self.refresh(key, published).await {
            // A pod that comes new to it is not kept waiting for a store that is away.
            Some(trouble) if is_there || !trouble.may_pass => {
                Err(Refusal::new(Code::Unavailable, trouble.why))
            }
            _ => Ok(()),
        }
    }

    /// Takes from a call what the table of mounts did not say of a volume that is there.
    async fn learn(self: &Arc<Self>, key: &str, wanted: &Wanted) {
        let before = self.state().mounts().get(key).cloned().unwrap_or_default();
        if before.targets.get(&wanted.target) != Some(&Target::UNKNOWN) {
            return;
        }
        self.note(|mounts| {
            if let Some(mount) = mounts.get_mut(key) {
                mount.volume.clone_from(&wanted.volume);
                mount.read_only = wanted.published.read_only;
                mount.sidecar.clone_from(&wanted.sidecar);
            }
        });
        if wanted.sidecar.is_some() && before.sidecar.is_none() {
            self.take_up(key, &[]).await;
        }
    }

    /// What is wrong with a volume that is there, unless kubelet has heard just that; `of` is its
    /// key, or the target whose calls it is about.
    fn complain_once(&self, of: &str, refusal: Refusal) -> Result<(), Refusal> {
        let cause = without_requests(&refusal.message);
        let before = self.complaints().insert(of.to_owned(), cause.clone());
        if before == Some(cause) {
            return Ok(());
        }
        Err(Refusal::new(Code::Unavailable, refusal.message))
    }

    pub(super) fn no_more_complaints(&self, of: &str) {
        self.complaints().remove(of);
    }

    /// What the target shows already; refuses what never was its, and a second place for who wants
    /// to be alone.
    fn compare(&self, wanted: &Wanted) -> Result<Option<Before>, Refusal> {
        let state = self.state();
        let shown = wanted.target.display();
        if let Some(key) = state.key_of(&wanted.target) {
            let mount = &state.mounts()[key];
            let known = &mount.targets[&wanted.target];
            if !mount.is_of(&wanted.volume) {
                let why = format!("target_path: {shown} shows the volume {}", mount.volume);
                return Err(Refusal::new(Code::AlreadyExists, why));
            }
            if *known != Target::UNKNOWN && known.read_only != wanted.read_only {
                let why = format!(
                    "the volume {} is published at {shown} with another readonly",
                    wanted.volume
                );
                return Err(Refusal::new(Code::AlreadyExists, why));
            }
            return Ok(Some(Before::read(key, known, wanted)));
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

    /// Has the mount appear at the target.
    fn appear(&self, key: &str, wanted: &Wanted) -> Result<(), Refusal> {
        self.show(key, wanted).map_err(|error| {
            let why = format!("{} cannot be mounted on: {error}", wanted.target.display());
            Refusal::new(Code::Internal, why)
        })
    }

    /// Binds the mount to the target, and writes that down first.
    fn show(&self, key: &str, wanted: &Wanted) -> io::Result<()> {
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
        let place = Target { access_mode: wanted.access_mode, read_only: wanted.read_only };
        let written = self.state().change(|mounts| {
            let mount = mounts.get_mut(key)?;
            mount.targets.insert(target.clone(), place)
        });
        written.map_err(|error| unwritable(self.places.state(), &error))?;
        let made = if above.is_none() { mounts::make(target) } else { Ok(()) };
        let bound = match made {
            Ok(()) if !is_there => mounts::bind(&own, Path::new("/"), target),
            made => made,
        };
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
        let foreign = {
            let state = self.state();
            let mount = key.as_ref().and_then(|key| state.mounts().get(key));
            mount.filter(|mount| !mount.is_of(volume)).map(|mount| mount.volume.clone())
        };
        if let Some(other) = foreign {
            let shown = target.display();
            let why = format!("target_path: {shown} shows the volume {other}, and not {volume}");
            return Err(Refusal::new(Code::NotFound, why));
        }
        mounts::clear(target)
            .and_then(|_| mounts::remove(target))
            .map_err(|error| stays(target, &error))?;
        self.forget(target);
        self.no_more_complaints(&at(target));
        if let Some(key) = key.filter(|key| self.is_unused(key)) {
            self.end(&key).await;
        }
        Ok(())
    }

    /// The server of a key, while it lives.
    pub(super) fn serving(&self, key: &str) -> Option<Serving> {
        let live = self.live();
        live.get(key).map(|live| live.serving.clone()).filter(Serving::is_alive)
    }

    /// The id of a key's volume.
    pub(super) fn volume_of(&self, key: &str) -> String {
        self.state().mounts().get(key).map(|mount| mount.volume.clone()).unwrap_or_default()
    }

    /// Where the mount of a key is that is served, or was last.
    pub(super) fn own(&self, key: &str) -> PathBuf {
        let generation = self.state().mounts().get(key).map_or(0, |mount| mount.generation);
        self.places.own(key, generation)
    }

    fn is_unused(&self, key: &str) -> bool {
        self.state().mounts().get(key).is_some_and(|mount| mount.targets.is_empty())
    }

    fn forget(&self, target: &Path) {
        self.note(|mounts| {
            for mount in mounts.values_mut() {
                mount.targets.remove(target);
            }
        });
    }

    /// Notes what has happened already; the state on disk may be behind for a while.
    pub(super) fn note(&self, by: impl FnOnce(&mut BTreeMap<String, Mount>)) {
        if let Err(error) = self.state().note(by) {
            let error = unwritable(self.places.state(), &error);
            tracing::warn!(%error, "the state on disk is behind");
        }
    }

    /// Changes the state; a call fails where it cannot be written.
    pub(super) fn change<T>(
        &self,
        by: impl FnOnce(&mut BTreeMap<String, Mount>) -> T,
    ) -> Result<T, Refusal> {
        self.state().change(by).map_err(|error| {
            let why = unwritable(self.places.state(), &error).to_string();
            Refusal::new(Code::Internal, why)
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unknown(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complaints(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a target shows before a call.
struct Before {
    key: String,
    access_mode: i32,
    /// Why it does not become what the call asks for, though it lives on.
    contradiction: Option<Refusal>,
}

impl Before {
    fn nothing(wanted: &Wanted) -> Self {
        let (key, access_mode) = (wanted.published.key.clone(), wanted.access_mode);
        Self { key, access_mode, contradiction: None }
    }

    /// A volume's access modes may be edited while pods have it. Most mean the same here, and are
    /// taken; what is for one pod alone, or for readers, becomes that with the next pod.
    fn read(key: &str, known: &Target, wanted: &Wanted) -> Self {
        let key = key.to_owned();
        let means_the_same = known.access_mode == wanted.access_mode
            || *known == Target::UNKNOWN
            || AccessMode::read("", known.access_mode)
                .is_ok_and(|before| before.is_like(wanted.published.access_mode));
        if means_the_same {
            return Self { key, access_mode: wanted.access_mode, contradiction: None };
        }
        let why = format!(
            "the volume {} has another access mode since it was published at {}; the pod keeps \
             what it has until it is made anew",
            wanted.volume,
            wanted.target.display()
        );
        let contradiction = Some(Refusal::new(Code::Unavailable, why));
        Self { key, access_mode: known.access_mode, contradiction }
    }
}

pub(super) fn internal(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(Code::Internal, format!("{}: {error}", path.display()))
}

fn unwritable(folder: &Path, error: &io::Error) -> io::Error {
    let why = format!("{} cannot be written to: {error}", folder.display());
    io::Error::new(error.kind(), why)
}

/// What complaints about calls for a target stand under; no key has a slash.
fn at(target: &Path) -> String {
    target.display().to_string()
}

/// A sentence without the store's numbers of requests, which are others each time.
fn without_requests(why: &str) -> String {
    let mut parts = why.split(" (request ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or("", |(_, rest)| rest))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sentences_of_one_cause_are_the_same_without_their_requests() {
        for (why, cause) in [
            ("the keys are old (request A1); renew", "the keys are old; renew"),
            ("a (request 1) b (request 2)", "a b"),
            ("no bucket", "no bucket"),
        ] {
            assert_eq!(without_requests(why), cause);
        }
    }
}
