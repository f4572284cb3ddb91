//! Who serves a mount, from its first server to its last.
//!
//! Owns what happens when a mount needs a server, loses one, or is told something new. Promises:
//! what fails leaves nothing that was not there before; a dead mount is mounted over wherever it
//! shows, never unmounted first; a living one is not disturbed. Must not know the wire, nor what
//! a call asked for beside this.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::asked;
use super::mounts::{self, Shown};
use super::state::Mount;
use super::told::{refused, refused_start};
use super::volumes::{Volumes, internal};
use crate::csi::servers::{Bytes, FILES, Files, Order, Running, Serving, Sidecar, is_silent};
use crate::volume::Published;
use crate::volume::refusal::{Code, Refusal};

/// Between tries to serve a dead mount again: at once, then twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A server that does not answer is asked again after so long.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The folders inside of mounts that are bound again must be found by their new server.
const RENEW_PATIENCE: Duration = Duration::from_secs(30);

/// What a pod hears whose sidecar has not come back yet.
const SIDECAR_GONE: &str =
    "the pod's sidecar has ended; the volume is mounted anew, and waits for the next one to listen";

/// A mount that is served, or waits to be.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) serving: Serving,
    /// As it was asked for last; none for one that an earlier driver published.
    published: Option<Published>,
}

impl Volumes {
    /// The first mount of a key. What fails leaves nothing behind.
    pub(super) async fn begin(
        self: &Arc<Self>,
        key: &str,
        mount: Mount,
        published: &Published,
    ) -> Result<(), Refusal> {
        // Before the mount: what is not written down would be nobody's after a crash.
        let written = self.change(|mounts| {
            asked::alone_at_socket(mounts, mount.sidecar.as_ref())
                .map(|()| mounts.insert(key.to_owned(), mount))
        });
        written??;
        let served = self.serve(key, Some(published), None).await;
        if served.is_err() {
            self.end(key).await;
        }
        served.map(drop)
    }

    /// Mounts, and hands over or waits to; where that fails, what was mounted is gone again.
    async fn serve(
        self: &Arc<Self>,
        key: &str,
        published: Option<&Published>,
        trouble: Option<String>,
    ) -> Result<Serving, Refusal> {
        let mount = self.state().mounts().get(key).cloned().unwrap_or_default();
        let generation = mount.generation + 1;
        let own = self.places.own(key, generation);
        // What a driver left there that was killed on the way.
        mounts::clear(&own)
            .and_then(|_| mounts::make(&own))
            .map_err(|error| internal(&own, &error))?;
        let fresh = mounts::mount(&own, &mount.bucket, mount.read_only)
            .map_err(|failure| Refusal::new(Code::Internal, failure.to_string()))?;
        let (device, ends) = (fresh.device, fresh.ends);
        let serving = match (&mount.sidecar, published) {
            (Some(sidecar), _) => {
                sidecar.wait_for(key, ends, trouble).map_err(|error| internal(&own, &error))
            }
            (None, Some(published)) => {
                let order = order(key, &mount.volume, published);
                let started = self.servers.start(order, ends).await;
                started.map_err(|refusal| refused_start(refusal, published))
            }
            (None, None) => Err(Refusal::new(Code::Unavailable, "nobody has said how to serve it")),
        };
        if serving.is_err()
            && let Err(error) = mounts::clear(&own).and_then(|_| mounts::remove(&own))
        {
            let (volume, own) = (&mount.volume, own.display());
            tracing::warn!(volume, %own, %error, "a mount stays that nobody serves");
        }
        let serving = serving?;
        tracing::info!(volume = mount.volume, key, device, init = ?serving.init(), "mounted");
        // First, so that whoever undoes it finds it.
        self.attend(key, serving.clone(), published.cloned());
        self.note(|mounts| {
            if let Some(mount) = mounts.get_mut(key) {
                mount.generation = generation;
                mount.device = device;
            }
        });
        Ok(serving)
    }

    /// Serves a mount anew whose server has gone.
    pub(super) async fn revive(
        self: &Arc<Self>,
        key: &str,
        published: Option<&Published>,
    ) -> Result<(), Refusal> {
        self.mount_over(key, published, Some(SIDECAR_GONE.to_owned())).await
    }

    /// Mounts anew over a dead mount, wherever it shows.
    async fn mount_over(
        self: &Arc<Self>,
        key: &str,
        published: Option<&Published>,
        trouble: Option<String>,
    ) -> Result<(), Refusal> {
        let later = |refusal: Refusal| Refusal::new(Code::Unavailable, refusal.message);
        let serving = self.serve(key, published, trouble).await.map_err(later)?;
        let own = self.own(key);
        let mut dead = self
            .places
            .all_own(key)
            .map_err(|error| later(internal(&self.places.mounts(), &error)))?;
        dead.retain(|point| *point != own);
        let renewal = Renewal {
            volume: self.volume_of(key),
            own,
            dead,
            below: self.places.kubelet().map(Path::to_owned),
        };
        renewal.clone().run(Shown::Whole).await;
        let folders = async move {
            // Nobody else could say where they are.
            serving.taken().await;
            renewal.run(Shown::Folder).await;
        };
        if self.sidecar(key).is_some() {
            tokio::spawn(folders);
        } else {
            folders.await;
        }
        Ok(())
    }

    /// Tells a living server what is new; what is wrong with the volume.
    pub(super) async fn refresh(&self, key: &str, published: &Published) -> Option<Trouble> {
        let live = self.live().get(key).cloned()?;
        let final_one = |why| Trouble { why, may_pass: false };
        if self.sidecar(key).is_some() {
            return live.serving.trouble().map(final_one);
        }
        if is_news(key, live.published.as_ref(), published) {
            if let Err(refusal) = self.servers.rewrite_files(key, files(published)).await {
                return Some(final_one(refused(refusal).message));
            }
            if let Some(live) = self.live().get_mut(key) {
                live.published = Some(published.clone());
            }
        }
        let asking = tokio::task::spawn_blocking(move || trouble_with_store(&live.serving));
        asking.await.ok().flatten()
    }

    /// Unmounts a key's own mount, and ends its server once that has sent what it has.
    pub(super) async fn end(&self, key: &str) {
        let volume = self.volume_of(key);
        // First, so that its server's end is nobody's loss.
        let live = self.live().remove(key);
        self.unknown().remove(key);
        if let Some(live) = &live {
            live.serving.let_go();
        }
        for own in self.places.all_own(key).unwrap_or_default() {
            if let Err(error) = mounts::clear(&own).and_then(|_| mounts::remove(&own)) {
                tracing::warn!(volume, own = %own.display(), %error, "an own mount stays");
            }
        }
        if self.sidecar(key).is_none()
            && let Err(why) = self.servers.stop(key).await
        {
            tracing::warn!(volume, key, %why, "its server was not told to end");
        }
        drop(live);
        self.note(|mounts| drop(mounts.remove(key)));
        self.no_more_complaints(key);
    }

    /// Watches a server to its end.
    fn attend(self: &Arc<Self>, key: &str, serving: Serving, published: Option<Published>) {
        self.live().insert(key.to_owned(), Live { serving: serving.clone(), published });
        let (volumes, key) = (Arc::clone(self), key.to_owned());
        tokio::spawn(async move {
            serving.ended().await;
            volumes.lost(&key, &serving).await;
        });
    }

    /// A server has gone: its mount is served again, as long as anybody has it.
    async fn lost(self: &Arc<Self>, key: &str, serving: &Serving) {
        let mut pause = PAUSE_FIRST;
        loop {
            let Some(volume) = self.state().mounts().get(key).map(|mount| mount.volume.clone())
            else {
                return;
            };
            let alone = self.busy.wait(&volume).await;
            let Some(live) = self.take_lost(key, serving) else { return };
            tracing::warn!(volume, key, "its server has gone");
            match self.revive(key, live.published.as_ref()).await {
                Ok(()) => return,
                Err(refusal) => tracing::warn!(volume, key, %refusal, "it is not served again yet"),
            }
            self.live().insert(key.to_owned(), live);
            drop(alone);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A mount whose last server this was, if anybody knows how to serve it again. Else the next
    /// call of kubelet brings it.
    fn take_lost(&self, key: &str, serving: &Serving) -> Option<Live> {
        let is_sidecar = self.sidecar(key).is_some();
        let mut live = self.live();
        if !live.get(key)?.serving.is(serving) {
            return None;
        }
        live.remove(key).filter(|live| is_sidecar || live.published.is_some())
    }

    /// Takes up what an earlier driver had mounted: the line to its server where that lives. One
    /// that listens and says nothing may serve it, and is asked again.
    pub(super) async fn take_up(self: &Arc<Self>, key: &str, running: &[Running]) {
        match self.attach(key, running).await {
            Err(error) if is_silent(&error) => {
                let volume = self.volume_of(key);
                tracing::warn!(volume, key, "its server does not answer; it is asked again");
                self.unknown().insert(key.to_owned());
                let (volumes, key) = (Arc::clone(self), key.to_owned());
                tokio::spawn(volumes.ask_until_it_answers(key, running.to_owned()));
            }
            attached => self.settle(key, attached).await,
        }
    }

    /// Asks for a mount that may be served, until it is known; nobody touches it before that.
    pub(super) async fn ask_until_it_answers(self: Arc<Self>, key: String, known: Vec<Running>) {
        let mut running = known;
        loop {
            let attached = self.attach(&key, &running).await;
            if !attached.as_ref().is_err_and(is_silent) {
                let _alone = self.busy.wait(&self.volume_of(&key)).await;
                let is_asked_for = self.unknown().remove(&key);
                match attached {
                    attached if is_asked_for => self.settle(&key, attached).await,
                    // It was unpublished meanwhile.
                    Ok(serving) => serving.let_go(),
                    Err(_) => {}
                }
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
            match self.servers.list().await {
                Ok(listed) => running = listed,
                Err(error) if is_silent(&error) => {}
                Err(_) => running.clear(),
            }
        }
    }

    async fn attach(&self, key: &str, running: &[Running]) -> io::Result<Serving> {
        match self.sidecar(key) {
            Some(sidecar) => self.attach_to_sidecar(key, sidecar).await,
            None => self.attach_to_server(key, running).await,
        }
    }

    /// Goes on with the line to a mount's server, or without one that is gone.
    async fn settle(self: &Arc<Self>, key: &str, attached: io::Result<Serving>) {
        let volume = self.volume_of(key);
        match attached {
            Ok(serving) => self.attend(key, serving, None),
            Err(error) if self.sidecar(key).is_some() => {
                // It may just not have begun.
                tracing::info!(volume, key, %error, "its sidecar does not serve it");
                if let Err(refusal) = self.mount_over(key, None, None).await {
                    tracing::warn!(volume, key, %refusal, "kubelet's next call mends it");
                }
            }
            Err(error) => {
                tracing::warn!(volume, key, %error, "it is dead; kubelet's next call mends it");
            }
        }
    }

    async fn attach_to_sidecar(&self, key: &str, sidecar: Sidecar) -> io::Result<Serving> {
        let (key, own) = (key.to_owned(), self.own(key));
        let attaching = move || sidecar.attach(&key, mounts::hold(&own)?);
        tokio::task::spawn_blocking(attaching).await.map_err(io::Error::other)?
    }

    async fn attach_to_server(&self, key: &str, running: &[Running]) -> io::Result<Serving> {
        let found = running.iter().find(|running| running.key == key);
        let found = found.ok_or_else(|| io::Error::other("its server has gone"))?;
        self.servers.attach(found, mounts::hold(&self.own(key))?).await
    }

    fn sidecar(&self, key: &str) -> Option<Sidecar> {
        self.state().mounts().get(key).and_then(|mount| mount.sidecar.clone())
    }
}

/// True where a server of `key` has other files than it should. Its options are for its next mount;
/// who changes those has not said that its keys shall never be renewed again.
fn is_news(key: &str, before: Option<&Published>, now: &Published) -> bool {
    match before {
        // Pods that share a mount differ in their names, and in nothing that a server is told.
        Some(before) => before.is_as(now) && files(before) != files(now),
        // An earlier driver's: no call takes its files away that may be of another kind.
        None => key == now.key || !files(now).0.is_empty(),
    }
}

/// What is wrong with a volume that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) why: String,
    /// True where nobody has to do anything about it.
    pub(super) may_pass: bool,
}

/// Why the store of a volume does not do what is asked: it has not been reached yet, or does not
/// take the credentials. A server that does not answer is no news of it.
fn trouble_with_store(serving: &Serving) -> Option<Trouble> {
    #[derive(Deserialize)]
    struct Said {
        refused: Option<String>,
        /// An earlier release does not say it.
        #[serde(default)]
        contact: Option<Contact>,
    }
    #[derive(Deserialize)]
    struct Contact {
        why: String,
        may_pass: bool,
    }
    let said: Said = serde_json::from_str(&serving.ask("/credentials").ok()?).ok()?;
    if let Some(Contact { why, may_pass }) = said.contact {
        return Some(Trouble {
            why: format!("the volume is there, without its store: {why}"),
            may_pass,
        });
    }
    let why = said.refused?;
    let why = format!("the store does not take the volume's credentials: {why}");
    Some(Trouble { why, may_pass: false })
}

/// Mounting over the places of dead file systems.
#[derive(Clone)]
struct Renewal {
    volume: String,
    own: PathBuf,
    dead: Vec<PathBuf>,
    below: Option<PathBuf>,
}

impl Renewal {
    async fn run(self, which: Shown) {
        let Self { volume, own, dead, below } = self;
        let renewing = tokio::task::spawn_blocking(move || {
            mounts::renew(&own, &dead, below.as_deref(), which)
        });
        match tokio::time::timeout(RENEW_PATIENCE, renewing).await {
            Ok(Ok(Ok(failed))) => {
                for (point, error) in failed {
                    let point = point.display();
                    tracing::warn!(volume, %point, %error, "a dead mount cannot be mounted over");
                }
            }
            failed => tracing::warn!(volume, ?failed, "dead mounts may stay that show it"),
        }
    }
}

/// What the server is told of a volume.
fn order(key: &str, volume: &str, published: &Published) -> Order {
    let folder = Path::new(FILES);
    let flags = published.arguments(folder).into_iter();
    let arguments = std::iter::once(published.bucket.clone())
        .chain(flags.map(|flag| flag.to_string_lossy().into_owned()))
        .collect();
    Order {
        key: key.to_owned(),
        volume: volume.to_owned(),
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
