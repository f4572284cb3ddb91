//! Volumes in the store: made, grown and removed.
//!
//! Owns what each call of the Controller does, in words that know no wire. Promises: a call that
//! is repeated has the same answer; two volumes never share a key; nothing is deleted that this
//! driver did not make. Must not know kubelet, mounts or servers.
//!
//! ```text
//!   class     what a StorageClass asks for
//!   pattern   where in a bucket
//!   stores    which store, as whom
//!   marker    what is known of a volume: .s3pod/volumes/HASH
//!   removal   delete and archive, behind the caller's back
//! ```

mod class;
mod marker;
mod pattern;
mod removal;
mod stores;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use s3pod::naming::is_reserved;
use s3pod::store::ListRequest;

use crate::volume::access::{self, AccessMode};
use crate::volume::attributes::CA_CERTIFICATES;
use crate::volume::id::{Hash, VolumeId, is_bucket_name};
use crate::volume::refusal::{Code, Refusal};
use crate::volume::secret::StoreSecret;
use class::{Class, OnDelete};
use marker::{Found, Marker, Markers, State};
use removal::{Removals, remove_bucket};
use stores::{Bucket, Place, refusal};

pub(crate) use stores::Stores;

/// What the Secret of these calls is called by people.
const SECRETS: &str = "provisioner-secret";

/// What a bucket's name begins with where the volume's own name cannot be one.
const OWN_BUCKET: &str = "s3pod-";

/// The specification's limit for a name.
const NAME_MAX: usize = 128;

/// How much a volume shall hold, as it was asked for; 0 says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) required: i64,
    pub(crate) limit: i64,
}

impl Range {
    fn check(self) -> Result<(), Refusal> {
        let field = "capacity_range";
        if self.required < 0 || self.limit < 0 {
            return Err(Refusal::field(field, "a size below zero; ask for bytes"));
        }
        if self.limit != 0 && self.limit < self.required {
            return Err(Refusal::field(field, "the limit is below what is required"));
        }
        Ok(())
    }

    const fn holds(self, capacity: u64) -> bool {
        capacity >= self.required.unsigned_abs()
            && (self.limit == 0 || capacity <= self.limit.unsigned_abs())
    }

    /// What a volume gets: what is required, else what is allowed.
    const fn chosen(self) -> u64 {
        if self.required > 0 { self.required.unsigned_abs() } else { self.limit.unsigned_abs() }
    }
}

/// One way in which a volume is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    pub(crate) is_block: bool,
    /// True where either form of access is named.
    pub(crate) has_type: bool,
    pub(crate) mode: i32,
    pub(crate) mount_flags: Vec<String>,
}

/// CreateVolume.
#[derive(Clone, Copy)]
pub(crate) struct Create<'a> {
    pub(crate) name: &'a str,
    pub(crate) range: Range,
    pub(crate) capabilities: &'a [Capability],
    pub(crate) parameters: &'a HashMap<String, String>,
    pub(crate) secrets: &'a HashMap<String, String>,
    pub(crate) has_source: bool,
}

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) capacity: u64,
    pub(crate) context: HashMap<String, String>,
}

/// Makes and removes volumes.
#[derive(Debug, Default)]
pub(crate) struct Provisioner {
    stores: Stores,
    removals: Removals,
    /// Volumes that some call is about, by name and by id.
    busy: Mutex<HashSet<String>>,
    /// In one bucket, places are given out one after the other.
    buckets: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Keeps other calls about the same volume away.
struct Turn<'p> {
    busy: &'p Mutex<HashSet<String>>,
    name: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Provisioner {
    /// A provisioner for the stores of a table and those of Secrets.
    pub(crate) fn new(stores: Stores) -> Self {
        Self { stores, ..Self::default() }
    }

    /// Makes a volume, or finds the one that a call with the same name made.
    pub(crate) async fn create(&self, asked: &Create<'_>) -> Result<Volume, Refusal> {
        check_name(asked.name)?;
        check_capabilities(asked.capabilities)?;
        asked.range.check()?;
        if asked.has_source {
            let reason = "volumes cannot be made from snapshots or other volumes; leave dataSource \
                          out";
            return Err(Refusal::field("volume_content_source", reason));
        }
        let flags = asked.capabilities.iter().flat_map(|one| &one.mount_flags);
        let flags: Vec<&str> = flags.map(String::as_str).collect();
        let class = Class::read(asked.name, asked.parameters, &flags)?;
        let secret = StoreSecret::read(SECRETS, asked.secrets)?;
        let place = self.stores.of_class(&class, &secret)?;
        let _turn = self.turn(asked.name)?;
        let wanted = Wanted::new(asked, &class, &place);
        let bucket = self.stores.open(&place, &wanted.id.bucket, &secret).await?;
        let is_own = match wanted.marker.is_whole_bucket {
            true => {
                let made = bucket.bare.create_bucket().await.map_err(|error| refusal(&error))?;
                made || is_own_name(&wanted.id.bucket)
            }
            false => true,
        };
        let lock = self.lock_of(&wanted.id.bucket);
        let _order = lock.lock().await;
        let found = wanted.settle(&bucket, asked.range, is_own).await;
        let found = found.map_err(|refusal| name_the_bucket(refusal, &wanted, &class))?;
        Ok(wanted.volume(found.marker.capacity, &class, &place))
    }

    /// Removes a volume in the way of its class.
    pub(crate) async fn delete(
        &self,
        volume_id: &str,
        secrets: &HashMap<String, String>,
    ) -> Result<(), Refusal> {
        check_id(volume_id)?;
        // What this driver never wrote is nothing that it could remove.
        let Some(id) = VolumeId::read(volume_id) else { return Ok(()) };
        let _turn = self.turn(volume_id)?;
        let bucket = self.bucket_of(&id, secrets).await?;
        let markers = Markers::of(Arc::clone(&bucket.store));
        let found = match markers.read(id.hash).await.map_err(Refusal::from) {
            Err(refusal) if refusal.code == Code::NotFound => return Ok(()),
            found => found?,
        };
        let Some(found) = found else { return remove_leftover(&id, &bucket).await };
        if is_foreign(&id, &found.marker) {
            let reason = format!("the marker of {volume_id} is that of another volume");
            return Err(Refusal::new(Code::FailedPrecondition, reason));
        }
        match (&found.marker.state, found.marker.on_delete) {
            (State::Retained, _) => Ok(()),
            (State::Ready | State::Creating, OnDelete::Retain) => {
                let marker = Marker { state: State::Retained, ..found.marker.clone() };
                markers.replace(&found, &marker).await?;
                Ok(())
            }
            _ => self.removals.run(&id, bucket, found).await,
        }
    }

    /// Confirms that a volume can be used so, or says why not.
    pub(crate) async fn validate(
        &self,
        volume_id: &str,
        capabilities: &[Capability],
        secrets: &HashMap<String, String>,
    ) -> Result<Result<(), String>, Refusal> {
        check_id(volume_id)?;
        if capabilities.is_empty() {
            return Err(no_capabilities());
        }
        self.find(volume_id, secrets).await?;
        Ok(check_capabilities(capabilities).map_err(|refusal| refusal.message))
    }

    /// Lets a volume hold more, and says how much that is.
    pub(crate) async fn expand(
        &self,
        volume_id: &str,
        range: Option<Range>,
        secrets: &HashMap<String, String>,
    ) -> Result<u64, Refusal> {
        check_id(volume_id)?;
        let range = range.ok_or_else(|| Refusal::field("capacity_range", "is missing"))?;
        range.check()?;
        let _turn = self.turn(volume_id)?;
        let (bucket, found) = self.find(volume_id, secrets).await?;
        let capacity = found.marker.capacity;
        if !matches!(found.marker.state, State::Ready) {
            let reason = format!("{volume_id} is being made or removed");
            return Err(Refusal::new(Code::FailedPrecondition, reason));
        }
        if capacity == 0 {
            // Without a bound it holds whatever was asked for.
            return Ok(range.chosen());
        }
        if range.limit != 0 && capacity > range.limit.unsigned_abs() {
            let reason = format!("capacity_range: it has {capacity} bytes, and none shrinks");
            return Err(Refusal::new(Code::OutOfRange, reason));
        }
        if capacity >= range.chosen() {
            return Ok(capacity);
        }
        let marker = Marker { capacity: range.chosen(), ..found.marker.clone() };
        Markers::of(Arc::clone(&bucket.store)).replace(&found, &marker).await?;
        Ok(marker.capacity)
    }

    async fn find(
        &self,
        volume_id: &str,
        secrets: &HashMap<String, String>,
    ) -> Result<(Arc<Bucket>, Found), Refusal> {
        let unknown = || {
            let reason = format!("no volume {volume_id} was made by this driver");
            Refusal::new(Code::NotFound, reason)
        };
        let id = VolumeId::read(volume_id).ok_or_else(unknown)?;
        let bucket = self.bucket_of(&id, secrets).await?;
        let found = Markers::of(Arc::clone(&bucket.store)).read(id.hash).await?;
        Ok((bucket, found.ok_or_else(unknown)?))
    }

    async fn bucket_of(
        &self,
        id: &VolumeId,
        secrets: &HashMap<String, String>,
    ) -> Result<Arc<Bucket>, Refusal> {
        let secret = StoreSecret::read(SECRETS, secrets)?;
        let place = self.stores.of_id(id.store.as_deref(), &secret)?;
        self.stores.open(&place, &id.bucket, &secret).await
    }

    fn turn(&self, name: &str) -> Result<Turn<'_>, Refusal> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(name.to_owned()) {
            let reason = format!("another call about {name} is under way; ask again");
            return Err(Refusal::new(Code::Aborted, reason));
        }
        Ok(Turn { busy: &self.busy, name: name.to_owned() })
    }

    fn lock_of(&self, bucket: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody holds what stands here alone.
        buckets.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(buckets.entry(bucket.to_owned()).or_default())
    }
}

/// A volume that shall be.
struct Wanted {
    id: VolumeId,
    marker: Marker,
}

impl Wanted {
    fn new(asked: &Create<'_>, class: &Class, place: &Place) -> Self {
        let bucket = class.bucket.clone().unwrap_or_else(|| own_bucket(asked.name));
        let is_whole_bucket = class.bucket.is_none();
        let prefix = format!("{}{}/", class.base, class.place);
        let prefix = if is_whole_bucket { String::new() } else { prefix };
        let archive = format!("{}{}", class.base, class.owner.archive());
        let hash = if is_whole_bucket { Hash::of(&bucket) } else { hash_of(asked.name) };
        let marker = Marker {
            is_whole_bucket,
            capacity: asked.range.chosen(),
            on_delete: class.on_delete,
            ..Marker::new(asked.name, class.owner.clone(), prefix, archive)
        };
        Self { id: VolumeId { store: place.store.clone(), bucket, hash }, marker }
    }

    /// Writes the marker, or finds it written; `is_own` where the bucket may be given a first one.
    async fn settle(&self, bucket: &Bucket, range: Range, is_own: bool) -> Result<Found, Refusal> {
        let markers = Markers::of(Arc::clone(&bucket.store));
        let found = match markers.read(self.id.hash).await? {
            Some(found) => {
                self.check_same(&found.marker, range)?;
                if found.marker.state == State::Ready {
                    return Ok(found);
                }
                found
            }
            None if !is_own => return Err(self.is_somebodys()),
            None => {
                self.check_place(bucket, &markers).await?;
                markers.create(self.id.hash, &self.marker).await?
            }
        };
        // Again: another controller may have written a marker at the same time.
        let former = match self.check_place(bucket, &markers).await {
            Ok(former) => former,
            Err(refusal) => {
                // What was retained is there still, and nobody's but its claim's.
                if found.marker.state == State::Creating {
                    markers.remove(&found).await?;
                }
                return Err(refusal);
            }
        };
        let is_creating = |found: &Found| found.marker.state == State::Creating;
        let (half_made, retained): (Vec<_>, Vec<_>) = former.into_iter().partition(is_creating);
        // First: another controller may be about to make that one ready, and of the two one fails.
        for found in half_made {
            markers.remove(&found).await?;
        }
        let ready = Marker { state: State::Ready, ..found.marker.clone() };
        let ready = markers.replace(&found, &ready).await?;
        for found in retained {
            markers.remove(&found).await?;
        }
        Ok(ready)
    }

    /// It would go with the volume.
    fn is_somebodys(&self) -> Refusal {
        let bucket = &self.id.bucket;
        let reason = format!(
            "parameters.bucket: none is named, so the volume would have the bucket `{bucket}`, \
             which is there already and was not made for it; remove that bucket if nobody needs \
             it, or name a bucket"
        );
        Refusal::new(Code::FailedPrecondition, reason)
    }

    fn check_same(&self, marker: &Marker, range: Range) -> Result<(), Refusal> {
        let exists = |reason: String| {
            Err(Refusal::new(Code::AlreadyExists, format!("volume {}: {reason}", marker.name)))
        };
        match &marker.state {
            State::Deleting { .. } | State::Archiving { .. } => {
                let reason = format!("volume {} is being removed; ask again", marker.name);
                return Err(Refusal::new(Code::Aborted, reason));
            }
            _ if marker.name != self.marker.name => {
                return exists(format!("its place is taken by {}", self.marker.name));
            }
            _ => {}
        }
        if marker.prefix != self.marker.prefix {
            return exists(format!("it is there already, with the prefix {:?}", marker.prefix));
        }
        if marker.on_delete != self.marker.on_delete {
            return exists("it is there already, with another onDelete".to_owned());
        }
        if !range.holds(marker.capacity) {
            return exists(format!("it is there already, with {} bytes", marker.capacity));
        }
        Ok(())
    }

    /// Refuses a place that is somebody else's; what the same claim left there is returned.
    async fn check_place(&self, bucket: &Bucket, markers: &Markers) -> Result<Vec<Found>, Refusal> {
        let mut former = Vec::new();
        for found in markers.others(self.id.hash).await? {
            let other = &found.marker;
            let is_left = matches!(other.state, State::Retained | State::Creating)
                && other.prefix == self.marker.prefix
                && other.owner.is_same_claim(&self.marker.owner);
            if is_left {
                former.push(found);
            } else if other.overlaps(&self.marker.prefix) {
                return Err(taken(&self.marker.prefix, other));
            }
        }
        if former.iter().all(|found| found.marker.state == State::Creating) {
            self.check_empty(bucket).await?;
        }
        Ok(former)
    }

    /// What nobody made a volume of could be deleted with the volume.
    async fn check_empty(&self, bucket: &Bucket) -> Result<(), Refusal> {
        let prefix = &self.marker.prefix;
        let mut request = ListRequest { prefix: prefix.clone(), ..ListRequest::default() };
        // What the driver keeps sorts early; a page holds more than that, or says so.
        loop {
            let page = bucket.store.list(&request).await.map_err(|error| refusal(&error))?;
            if let Some(line) = page.lines.iter().find(|line| !is_reserved(line.key())) {
                let reason = format!(
                    "{} is in the bucket {} already, and no volume was made of it; choose another \
                     pathPattern, or make a PersistentVolume for it by hand",
                    line.key(),
                    self.id.bucket
                );
                return Err(Refusal::new(Code::FailedPrecondition, reason));
            }
            match page.next {
                Some(next) => request.continuation = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn volume(&self, capacity: u64, class: &Class, place: &Place) -> Volume {
        let mut context = class.context.clone();
        context.insert("bucket".to_owned(), self.id.bucket.clone());
        context.remove("prefix");
        if !self.marker.is_whole_bucket {
            let prefix = self.marker.prefix.trim_end_matches('/').to_owned();
            context.insert("prefix".to_owned(), prefix);
        }
        for (name, value) in [
            ("endpointUrl", &place.endpoint_url),
            ("region", &place.region),
            (CA_CERTIFICATES, &place.ca),
        ] {
            if let Some(value) = value {
                context.entry(name.to_owned()).or_insert_with(|| value.clone());
            }
        }
        Volume { id: self.id.to_string(), capacity, context }
    }
}

fn taken(prefix: &str, other: &Marker) -> Refusal {
    let relation = match (other.prefix == *prefix, other.prefix.starts_with(prefix)) {
        (true, _) => "is the place",
        (false, true) => "holds the place",
        (false, false) => "is inside the place",
    };
    let reason = format!(
        "{prefix:?} {relation} of the {}; choose a pathPattern that gives each its own",
        other.owner
    );
    Refusal::new(Code::FailedPrecondition, format!("parameters.pathPattern: {reason}"))
}

/// A bucket that does not exist is the class's mistake.
fn name_the_bucket(refusal: Refusal, wanted: &Wanted, class: &Class) -> Refusal {
    if refusal.code == Code::NotFound && class.bucket.is_some() {
        let reason = format!(
            "there is no bucket `{}` at that store; make it, or leave `bucket` out to have one \
             made for each volume",
            wanted.id.bucket
        );
        return Refusal::field("parameters.bucket", reason);
    }
    refusal
}

/// The bucket of a volume that has one of its own: its name, where a bucket can have that.
fn own_bucket(name: &str) -> String {
    if is_bucket_name(name) { name.to_owned() } else { format!("{OWN_BUCKET}{}", Hash::of(name)) }
}

/// True for a bucket's name that nobody else would give: the driver's own, or one with a UUID, as
/// the provisioner calls volumes (`pvc-` and the claim's).
///
/// Such a bucket without a marker is what a call left that was cut off between the two, and the
/// next one may go on with it. No trace of the intent could be left beforehand that all stores
/// would keep: an object needs the bucket, tags come after it, and the controller has no disk.
fn is_own_name(bucket: &str) -> bool {
    const UUID: [usize; 5] = [8, 4, 4, 4, 12];
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hash = bucket.strip_prefix(OWN_BUCKET).is_some_and(|hash| hash.parse::<Hash>().is_ok());
    let parts: Vec<&str> = bucket.split('-').collect();
    let is_uuid = |parts: &[&str]| {
        parts.iter().zip(UUID).all(|(part, length)| part.len() == length && is_hex(part))
    };
    hash || parts.windows(UUID.len()).any(is_uuid)
}

/// Apart from the hashes of buckets.
fn hash_of(name: &str) -> Hash {
    Hash::of(&format!("prefix\n{name}"))
}

fn is_foreign(id: &VolumeId, marker: &Marker) -> bool {
    let hash = match marker.is_whole_bucket {
        true => Hash::of(&id.bucket),
        false => hash_of(&marker.name),
    };
    hash != id.hash || (marker.prefix.is_empty() != marker.is_whole_bucket)
}

/// A bucket that was made for a volume, and emptied, and then nobody had the time to remove it.
async fn remove_leftover(id: &VolumeId, bucket: &Bucket) -> Result<(), Refusal> {
    if Hash::of(&id.bucket) != id.hash || !is_own_name(&id.bucket) {
        return Ok(());
    }
    match remove_bucket(bucket).await {
        // It is somebody's who had that bucket before, or holds what was moved aside.
        Err(refusal) if refusal.code == Code::FailedPrecondition => Ok(()),
        result => result,
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::field("name", "is missing"));
    }
    if name.len() > NAME_MAX || name.chars().any(char::is_control) {
        let reason = format!("is longer than {NAME_MAX} bytes, or has a control character in it");
        return Err(Refusal::field("name", reason));
    }
    Ok(())
}

fn check_id(volume_id: &str) -> Result<(), Refusal> {
    if volume_id.is_empty() {
        return Err(Refusal::field("volume_id", "is missing"));
    }
    Ok(())
}

fn no_capabilities() -> Refusal {
    Refusal::field("volume_capabilities", "are missing; say how the volume is to be used")
}

fn check_capabilities(capabilities: &[Capability]) -> Result<(), Refusal> {
    let field = "volume_capabilities";
    if capabilities.is_empty() {
        return Err(no_capabilities());
    }
    let mut modes = Vec::new();
    for one in capabilities {
        if one.is_block {
            let reason = "a bucket is no block device; write volumeMode: Filesystem";
            return Err(Refusal::field(field, reason));
        }
        if !one.has_type {
            return Err(Refusal::field(field, "neither `mount` nor `block` is named"));
        }
        modes.push(AccessMode::read(field, one.mode)?);
    }
    access::check(field, &modes)
}

#[cfg(test)]
mod tests;
