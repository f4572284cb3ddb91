//! One inode: what a file, directory or link is in this mount.
//!
//! Owns an inode's attributes, the version of the object that is current for it, and its staged
//! changes. `version` here is the only place that says which version is current; handles read
//! through it, and only this mount's own commits move it. Where the inode stands in the tree is
//! `table`'s business. Must not know requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::attr::{Attr, Caller, FileKind, Ino};
use super::knowledge::Knowledge;
use super::passthrough::Ways;
use super::settings::{Metadata, Settings};
use crate::journal::Record;
use crate::naming::{Key, Name, content_type};
use crate::posix_metadata::{self, MAX_USER_METADATA, PosixMetadata};
use crate::store::{Checksum, Condition, ObjectHead, Properties, Version};
use crate::units::KIB;
use crate::write::{COMMIT_ID, COMMIT_ID_BYTES, Staged, Target};

/// The longest symlink, Linux's `PATH_MAX` without its NUL: what is larger is a file for certain.
pub(super) const LINK_MAX: u64 = 4 * KIB - 1;

/// An inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) ino: Ino,
    pub(super) generation: u64,
    pub(super) kind: FileKind,
    /// Held over every request that changes this inode's object. Lock order: `vfs/mod.rs`.
    pub(super) commit: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// What changes about an inode.
#[derive(Debug)]
pub(super) struct State {
    pub(super) perm: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// As a call set it; none is the modification time.
    pub(super) atime: Option<SystemTime>,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// Those that were taken away and that the object may still have, whatever the answer to an
    /// earlier request says of it.
    pub(super) removed_xattrs: BTreeSet<String>,
    /// Where a dialect keeps a link's target in metadata, or we made the link ourselves.
    pub(super) link_target: Option<Bytes>,
    /// The object underneath; none for what is not in S3 yet and for implicit directories.
    pub(super) version: Option<Arc<Version>>,
    /// What the store keeps of all of `version`'s bytes, where it has told.
    pub(super) checksum: Option<Checksum>,
    /// What is kept with the object; none where only a listing told of it.
    pub(super) properties: Option<Properties>,
    /// Tags the object has that `properties` does not hold yet.
    pub(super) tags_unread: bool,
    /// When the store last confirmed `version`.
    pub(super) seen: Instant,
    /// When a walk made, or confirmed, the inode from what its listing had brought.
    pub(super) walked: Option<Instant>,
    /// Changes that may not be in S3.
    pub(super) staged: Option<Arc<Staged>>,
    /// Attributes that S3 does not have yet.
    pub(super) attributes_dirty: bool,
    /// Their record in the journal.
    pub(super) held: Option<Record>,
    /// Counts changes of attributes, so that a commit knows whether it carried the last one.
    pub(super) attributes_epoch: u64,
    /// The modification time was set by a call.
    pub(super) mtime_is_explicit: bool,
    /// The modification time is the object's, and only the store knows it: the answer to an upload
    /// does not tell, and S3 takes the time when the upload began.
    pub(super) mtime_is_guess: bool,
    /// Created with O_EXCL and not committed yet.
    pub(super) exclusive: bool,
    /// An object of an earlier file that stands under this key until this inode's first commit
    /// replaces it; if that never comes, it must go with this inode's name.
    pub(super) hides: Option<Key>,
    /// Its bytes as the quota has them; none where this mount never changed their number.
    pub(super) charged: Option<u64>,
    /// Handles through which the file is being executed.
    pub(super) executions: u32,
    /// How the file's handles read.
    pub(super) ways: Ways,
    /// When the bytes were last changed by this mount.
    pub(super) written: Option<Instant>,
    /// A second try of a failed commit is due.
    pub(super) retrying: bool,
    /// The name was taken away: nothing is committed any more.
    pub(super) unlinked: bool,
    /// Another writer won: every handle answers ESTALE.
    pub(super) detached: bool,
    /// Bytes of it were given out that are not what was stored: every read answers EIO.
    pub(super) damaged: bool,
    /// What is known of a directory's names.
    pub(super) knowledge: Knowledge,
}

impl Inode {
    pub(super) fn new(ino: Ino, generation: u64, kind: FileKind, state: State) -> Arc<Self> {
        let commit = tokio::sync::Mutex::new(());
        Arc::new(Self { ino, generation, kind, commit, state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `stat` shows.
    pub(super) fn attr(&self) -> Attr {
        let state = self.state();
        Attr {
            ino: self.ino,
            kind: self.kind,
            size: state.size(),
            perm: state.perm,
            uid: state.uid,
            gid: state.gid,
            nlink: u32::from(!state.unlinked),
            atime: state.atime.unwrap_or(state.mtime),
            mtime: state.mtime,
            ctime: state.ctime,
        }
    }

    /// The staged changes, where there are some.
    pub(super) fn staged(&self) -> Option<Arc<Staged>> {
        self.state().staged.clone()
    }

    /// True where S3 lacks bytes of this file.
    pub(super) fn is_dirty(&self) -> bool {
        let state = self.state();
        !state.unlinked && !state.detached && state.staged.as_ref().is_some_and(|s| s.is_dirty())
    }

    /// Where bytes go that were closed before the present ones were begun: under the `key` that
    /// the inode has now, over what is current.
    pub(super) fn over_current(&self, target: &Target, key: Key) -> Target {
        let state = self.state();
        let is_as_promised = state.version.is_none() && key == target.key;
        let condition = if is_as_promised { target.later.clone() } else { state.later() };
        Target { key, condition, ..target.clone() }
    }

    /// Where a commit of this inode under `key` goes. A background commit replaces only the
    /// version that the file was opened over; one that a caller waits for may replace anything.
    pub(super) fn target(&self, key: &Key, settings: &Settings, is_background: bool) -> Target {
        let state = self.state();
        let keeps_base = state.staged.as_ref().is_some_and(|staged| staged.keeps_base());
        let later = state.later();
        let is_free = !is_background && !keeps_base && !state.exclusive;
        let condition = if is_free { Condition::None } else { later.clone() };
        let with_time = |mtime| {
            let mut properties = state.properties_for(self.kind, key, settings, mtime);
            posix_metadata::forget_checksums(&mut properties.user_metadata);
            properties
        };
        Target {
            key: key.clone(),
            properties: with_time(Some(state.mtime)),
            streamed: with_time(None),
            mtime_is_explicit: state.mtime_is_explicit,
            condition,
            later,
        }
    }
}

impl State {
    /// What must hold at the destination of a commit that nobody waits for.
    pub(super) fn later(&self) -> Condition {
        match &self.version {
            Some(version) => Condition::Unchanged(Version::clone(version)),
            // What it hides is replaced, whatever it has become.
            None if self.hides.is_some() => Condition::None,
            None => Condition::Absent,
        }
    }

    /// What an object that a HEAD or GET showed is.
    pub(super) fn of_head(head: &ObjectHead, settings: &Settings, seen: Instant) -> Self {
        let version = Arc::new(head.version.clone());
        let mut state = Self::of_version(version, settings, seen);
        if settings.metadata == Metadata::Posix {
            let metadata = posix_metadata::read(&head.properties.user_metadata);
            let unreadable = u64::from(metadata.unreadable);
            metrics::counter!("s3pod_unreadable_metadata_total").increment(unreadable);
            state.apply(&metadata);
        }
        state.properties = Some(head.properties.clone());
        state.tags_unread = head.tag_count > 0;
        state.checksum = head.checksum;
        state
    }

    /// What an object that a listing showed is.
    pub(super) fn of_version(version: Arc<Version>, settings: &Settings, seen: Instant) -> Self {
        let mut state = Self::blank(settings, seen, version.last_modified);
        state.perm = if version.key.is_marker() { settings.dir_mode } else { settings.file_mode };
        state.version = Some(version);
        state
    }

    /// A directory that only its children's keys tell of.
    pub(super) fn implicit_directory(settings: &Settings, seen: Instant) -> Self {
        let mut state = Self::blank(settings, seen, settings.started);
        state.perm = settings.dir_mode;
        state
    }

    /// Something this mount makes now.
    pub(super) fn created(
        settings: &Settings,
        perm: u16,
        caller: Caller,
        seen: Instant,
        now: SystemTime,
    ) -> Self {
        let mut state = Self::blank(settings, seen, now);
        // What no object can keep is not shown either.
        if settings.metadata == Metadata::Posix {
            (state.perm, state.uid, state.gid) = (perm, caller.uid, caller.gid);
        }
        state
    }

    fn blank(settings: &Settings, seen: Instant, time: SystemTime) -> Self {
        Self {
            perm: settings.file_mode,
            uid: settings.uid,
            gid: settings.gid,
            atime: None,
            mtime: time,
            ctime: time,
            xattrs: BTreeMap::new(),
            removed_xattrs: BTreeSet::new(),
            link_target: None,
            version: None,
            checksum: None,
            properties: None,
            tags_unread: false,
            seen,
            walked: None,
            staged: None,
            attributes_dirty: false,
            held: None,
            attributes_epoch: 0,
            mtime_is_explicit: false,
            mtime_is_guess: false,
            exclusive: false,
            hides: None,
            charged: None,
            executions: 0,
            ways: Ways::default(),
            written: None,
            retrying: false,
            unlinked: false,
            detached: false,
            damaged: false,
            knowledge: Knowledge::default(),
        }
    }

    /// A file whose commit an earlier mount began.
    pub(super) fn taken_up(
        staged: Arc<Staged>,
        target: Target,
        settings: &Settings,
        seen: Instant,
    ) -> Self {
        let mut state = Self::blank(settings, seen, settings.started);
        if settings.metadata == Metadata::Posix {
            state.apply(&posix_metadata::read(&target.properties.user_metadata));
        }
        state.mtime_is_explicit = target.mtime_is_explicit;
        match (staged.base(), target.later) {
            // What the bytes lie over is what they replace, whatever was known when they were
            // promised.
            (Some(base), _) => state.version = Some(base),
            (None, Condition::Unchanged(version)) => state.version = Some(Arc::new(version)),
            (None, Condition::Absent) => {}
            (None, Condition::None) => state.hides = Some(target.key),
        }
        state.properties = Some(target.properties);
        state.staged = Some(staged);
        state
    }

    /// The attributes of a directory are those of its marker, which another client has written.
    pub(super) fn renew_directory(&mut self, marker: &ObjectHead, settings: &Settings) {
        let fresh = Self::of_head(marker, settings, self.seen);
        (self.perm, self.uid, self.gid) = (fresh.perm, fresh.uid, fresh.gid);
        (self.mtime, self.mtime_is_explicit) = (fresh.mtime, fresh.mtime_is_explicit);
        (self.xattrs, self.version) = (fresh.xattrs, fresh.version);
        (self.properties, self.tags_unread) = (fresh.properties, fresh.tags_unread);
        self.knowledge.has_marker = true;
    }

    fn apply(&mut self, metadata: &PosixMetadata) {
        self.perm = metadata.perm.unwrap_or(self.perm);
        self.uid = metadata.uid.unwrap_or(self.uid);
        self.gid = metadata.gid.unwrap_or(self.gid);
        self.mtime = metadata.mtime.unwrap_or(self.mtime);
        self.mtime_is_explicit = metadata.mtime.is_some();
        self.link_target = metadata.symlink_target.clone().map(Bytes::from);
        self.xattrs.clone_from(&metadata.xattrs);
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> u64 {
        match (&self.staged, &self.version, &self.link_target) {
            (Some(staged), _, _) => staged.size(),
            (None, _, Some(target)) => target.len() as u64,
            (None, Some(version), None) => version.size,
            (None, None, None) => 0,
        }
    }

    /// The properties of the object as this mount would write it: the foreign ones as they were,
    /// ours as the inode has them. `mtime` is left out of what a streamed upload starts with.
    pub(super) fn properties_for(
        &self,
        kind: FileKind,
        key: &Key,
        settings: &Settings,
        mtime: Option<SystemTime>,
    ) -> Properties {
        let mut properties = self.properties.clone().unwrap_or_default();
        properties.content_type.get_or_insert_with(|| content_type(key).to_owned());
        properties.user_metadata.remove(COMMIT_ID);
        if settings.metadata == Metadata::Posix {
            // A link that geesefs made has its target nowhere else: its body is empty.
            let said = (kind == FileKind::Symlink)
                .then(|| posix_metadata::read(&properties.user_metadata));
            let mut metadata = PosixMetadata {
                perm: Some(self.perm),
                type_bits: Some(kind.type_bits()),
                uid: Some(self.uid),
                gid: Some(self.gid),
                mtime,
                symlink_target: said.and_then(|said| said.symlink_target),
                xattrs: self.xattrs.clone(),
                unreadable: 0,
            };
            posix_metadata::write(&metadata, &mut properties.user_metadata);
            for name in self.removed_xattrs.iter().filter(|name| !self.xattrs.contains_key(*name)) {
                posix_metadata::remove_xattr(name, &mut metadata, &mut properties.user_metadata);
            }
        }
        properties
    }

    /// This mount made a name in the directory.
    pub(super) fn name_made(&mut self, name: &Name, now: Instant, wall: SystemTime) {
        self.knowledge.created(name, now);
        self.names_changed(wall);
    }

    /// This mount took a name of the directory away.
    pub(super) fn name_gone(&mut self, name: &Name, now: Instant, wall: SystemTime) {
        self.knowledge.gone(name, now);
        self.names_changed(wall);
    }

    /// In memory only: a PUT of the marker with every name would double what a file costs.
    fn names_changed(&mut self, wall: SystemTime) {
        (self.mtime, self.ctime) = (wall, wall);
    }

    /// True where an object can carry the attributes, with the id that every commit adds.
    pub(super) fn attributes_fit(&self, kind: FileKind, settings: &Settings) -> bool {
        let size = posix_metadata::size_of(&self.carried(kind, settings));
        size + COMMIT_ID_BYTES <= MAX_USER_METADATA
    }

    /// True where some store would take the attributes and the id of a commit.
    pub(super) fn attributes_may_fit(&self, kind: FileKind, settings: &Settings) -> bool {
        let size = posix_metadata::least_size_of(&self.carried(kind, settings));
        size + COMMIT_ID_BYTES - "x-amz-meta-".len() <= MAX_USER_METADATA
    }

    /// The metadata of the next commit, but for its id.
    fn carried(&self, kind: FileKind, settings: &Settings) -> BTreeMap<String, String> {
        let key = Key::from("");
        self.properties_for(kind, &key, settings, Some(self.mtime)).user_metadata
    }

    /// The store has told when the object was made.
    pub(super) fn time_told(&mut self, version: &Version) {
        if std::mem::take(&mut self.mtime_is_guess) {
            self.mtime = version.last_modified;
        }
    }

    /// S3 has `version` with `properties` now.
    pub(super) fn committed(
        &mut self,
        version: Arc<Version>,
        properties: Properties,
        now: Instant,
    ) {
        self.version = Some(version);
        self.checksum = None;
        self.properties = Some(properties);
        self.tags_unread = false;
        self.exclusive = false;
        self.hides = None;
        self.seen = now;
    }
}

/// The kind of file that an object is: what its metadata says, else a plain file.
pub(super) fn kind_of(head: &ObjectHead, settings: &Settings) -> FileKind {
    if head.version.key.is_marker() {
        return FileKind::Directory;
    }
    if settings.metadata == Metadata::List {
        return FileKind::File;
    }
    let metadata = posix_metadata::read(&head.properties.user_metadata);
    if metadata.symlink_target.is_some() {
        return FileKind::Symlink;
    }
    match metadata.type_bits.and_then(FileKind::from_mode) {
        // Its bytes are the target, and all of them would be read for it.
        Some(FileKind::Symlink) if head.version.size > LINK_MAX => FileKind::File,
        Some(kind @ (FileKind::Symlink | FileKind::Fifo | FileKind::Socket)) => kind,
        _ => FileKind::File,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use metrics::{Counter, Gauge, Histogram, KeyName, Metadata as Meta, SharedString, Unit};

    use super::*;
    use crate::naming::Prefix;
    use crate::vfs::settings::{DeleteMode, ExclusiveCreate};

    /// Adds up one counter, whatever its labels.
    #[derive(Debug)]
    struct Count(&'static str, Arc<AtomicU64>);

    impl metrics::Recorder for Count {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &metrics::Key, _: &Meta<'_>) -> Counter {
            let is_it = key.name() == self.0;
            if is_it { Counter::from_arc(Arc::clone(&self.1)) } else { Counter::noop() }
        }

        fn register_gauge(&self, _: &metrics::Key, _: &Meta<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &metrics::Key, _: &Meta<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    fn settings() -> Settings {
        Settings {
            prefix: Prefix::root(),
            read_only: false,
            metadata: Metadata::Posix,
            metadata_ttl: Duration::ZERO,
            attr_delay: Duration::ZERO,
            empty_delay: Duration::ZERO,
            retry_delay: Duration::ZERO,
            exclusive_create: ExclusiveCreate::Commit,
            delete: DeleteMode::Sync,
            write_back: false,
            passthrough: false,
            uid: 7,
            gid: 8,
            file_mode: 0o640,
            dir_mode: 0o750,
            window_max: 0,
            ahead_max: 0,
            inodes_max: usize::MAX,
            started: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn metadata_that_cannot_be_read_is_counted_and_gives_defaults() {
        let version = Version {
            key: Key::from("f"),
            etag: None,
            version_id: None,
            size: 5,
            last_modified: SystemTime::UNIX_EPOCH + Duration::from_secs(9),
        };
        let pairs = [("mode", "rw"), ("uid", "me"), ("mtime", "now"), ("gid", "9"), ("x", "y")];
        let user_metadata = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let properties =
            Properties { user_metadata: user_metadata.into(), ..Properties::default() };
        let head = ObjectHead { version, properties, tag_count: 0, checksum: None };
        let count = Count("s3pod_unreadable_metadata_total", Arc::default());
        let seen = crate::clock::Clock::manual().now();
        let state =
            metrics::with_local_recorder(&count, || State::of_head(&head, &settings(), seen));
        assert_eq!(count.1.load(Ordering::Relaxed), 3);
        assert_eq!((state.perm, state.uid, state.gid), (0o640, 7, 9));
        assert_eq!(state.mtime, head.version.last_modified);
    }
}
