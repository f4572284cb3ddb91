//! What the driver has mounted, as it stands on disk.
//!
//! Owns the file: which volumes are mounted under which keys, and where they are published.
//! Promises: it is replaced as a whole; there is no secret in it; a file of another boot is never
//! taken for one's own, and one of a later release stops whoever cannot read it; two drivers never
//! share it. Must not know the table of mounts, which has the last word on all of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use s3pod::mount::Failure;
use serde::{Deserialize, Serialize};

use crate::csi::servers::Sidecar;

/// The form of the file.
const SCHEMA: u32 = 1;

const FILE: &str = "state.json";

const LOCK: &str = "lock";

/// A driver that was told to end finishes the calls under way; so often, and this long apart, is
/// it looked whether it has.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Different after each boot of the machine, with which all mounts go.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    content: Content,
    is_lost: bool,
    _alone: Flock<File>,
}

/// What every release's file says.
#[derive(Deserialize)]
struct Head {
    schema: u32,
    boot: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    schema: u32,
    boot: String,
    mounts: BTreeMap<String, Mount>,
}

/// A volume that is mounted under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mount {
    /// Its id; empty where only the table of mounts is left of it.
    pub(super) volume: String,
    /// What `df` shows as its source.
    pub(super) bucket: String,
    pub(super) read_only: bool,
    /// Which of its own mounts is served; each new server gets a new one.
    #[serde(default)]
    pub(super) generation: u64,
    /// The device of its file system; empty until it is mounted.
    #[serde(default)]
    pub(super) device: String,
    /// The pod's own sidecar, where that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sidecar: Option<Sidecar>,
    /// Where it is published.
    #[serde(default)]
    pub(super) targets: BTreeMap<PathBuf, Target>,
}

/// How it is published at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    /// The number of the access mode in the specification, which is 0 where nobody knows.
    pub(super) access_mode: i32,
    /// As the call said it.
    pub(super) read_only: bool,
}

impl Mount {
    /// True where it is this volume's, as far as anybody knows.
    pub(super) fn is_of(&self, volume: &str) -> bool {
        self.volume.is_empty() || self.volume == volume
    }
}

impl Target {
    /// One that only the table of mounts shows.
    pub(super) const UNKNOWN: Self = Self { access_mode: 0, read_only: false };
}

impl State {
    /// What an earlier driver left in `folder`; nothing where the machine was started anew since.
    ///
    /// # Errors
    /// Where the file is there and cannot be read, or a later release wrote it, or another driver
    /// is at work with it.
    pub(super) fn load(folder: &Path) -> Result<Self, Failure> {
        let alone = lock(folder)?;
        let path = folder.join(FILE);
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        let empty = Content { schema: SCHEMA, boot, ..Content::default() };
        let content = match fs::read(&path) {
            Ok(bytes) => known(&bytes, &empty, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = path.display();
                let why = format!("--state-dir: {path} cannot be read: {error}");
                return Err(Failure::configuration(why));
            }
        };
        let is_lost = content.is_none();
        let content = content.unwrap_or(empty);
        Ok(Self { folder: folder.to_owned(), content, is_lost, _alone: alone })
    }

    /// True where nothing was written down of what may be mounted.
    pub(super) const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Every mount, by its key.
    pub(super) const fn mounts(&self) -> &BTreeMap<String, Mount> {
        &self.content.mounts
    }

    /// The key that a target is published under.
    pub(super) fn key_of(&self, target: &Path) -> Option<&str> {
        let mut mounts = self.content.mounts.iter();
        mounts.find(|(_, mount)| mount.targets.contains_key(target)).map(|(key, _)| key.as_str())
    }

    /// The mounts of a volume.
    pub(super) fn of_volume<'a>(&'a self, volume: &'a str) -> impl Iterator<Item = &'a Mount> {
        self.content.mounts.values().filter(move |mount| mount.volume == volume)
    }

    /// Changes what stands there, and writes it down where anything is another then.
    ///
    /// # Errors
    /// Where it cannot be written; nothing has changed then.
    pub(super) fn change<T>(
        &mut self,
        by: impl FnOnce(&mut BTreeMap<String, Mount>) -> T,
    ) -> io::Result<T> {
        let before = self.content.mounts.clone();
        let outcome = by(&mut self.content.mounts);
        if self.content.mounts != before
            && let Err(error) = self.save()
        {
            self.content.mounts = before;
            return Err(error);
        }
        Ok(outcome)
    }

    /// Notes what has happened to mounts already.
    ///
    /// # Errors
    /// Where it cannot be written; what is in memory has changed all the same, and is written with
    /// the next change.
    pub(super) fn note(&mut self, by: impl FnOnce(&mut BTreeMap<String, Mount>)) -> io::Result<()> {
        let before = self.content.mounts.clone();
        by(&mut self.content.mounts);
        if self.content.mounts == before { Ok(()) } else { self.save() }
    }

    fn save(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.content)?;
        let mut file = tempfile::Builder::new().prefix(".state-").tempfile_in(&self.folder)?;
        file.write_all(&text)?;
        file.as_file().sync_data()?;
        file.persist(self.folder.join(FILE)).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Two drivers of one folder would unmount each other's volumes.
fn lock(folder: &Path) -> Result<Flock<File>, Failure> {
    let path = folder.join(LOCK);
    let mut file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| {
            let path = path.display();
            Failure::configuration(format!("--state-dir: {path} cannot be written to: {error}"))
        })?;
    for _ in 0..TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => return Ok(alone),
            Err((same, _)) => file = same,
        }
        thread::sleep(BETWEEN_TRIES);
    }
    Err(Failure::passing(format!(
        "--state-dir: another driver is at work with {}; end it first, or give this one a folder \
         of its own",
        folder.display()
    )))
}

/// The content of a file; none where it cannot be understood.
fn known(bytes: &[u8], now: &Content, path: &Path) -> Result<Option<Content>, Failure> {
    // Of a later release nothing else may be as it is here.
    match serde_json::from_slice::<Head>(bytes) {
        Ok(head) if head.boot != now.boot => {
            tracing::info!("the machine was started anew: nothing is mounted");
            let boot = now.boot.clone();
            return Ok(Some(Content { schema: SCHEMA, boot, ..Content::default() }));
        }
        Ok(head) if head.schema > SCHEMA => return Err(later(head.schema, path)),
        _ => {}
    }
    let found = serde_json::from_slice(bytes).inspect_err(|error| {
        tracing::error!(path = %path.display(), %error, "the state cannot be understood; the table \
            of mounts and the node's server say what lives");
    });
    Ok(found.ok())
}

/// What it has mounted would be nobody's, and would be ended.
fn later(schema: u32, path: &Path) -> Failure {
    Failure::configuration(format!(
        "--state-dir: {} was written by a driver of a later release (its form is {schema}, and \
         this one knows {SCHEMA}); start that release again, which leaves its volumes alone; to go \
         back for good, drain the node under that release and remove this file then",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn mount(target: &str) -> Mount {
        let target = (PathBuf::from(target), Target { access_mode: 5, read_only: false });
        Mount {
            volume: "v".to_owned(),
            bucket: "photos".to_owned(),
            device: "0:51".to_owned(),
            targets: BTreeMap::from([target]),
            ..Mount::default()
        }
    }

    fn stored(folder: &Path) -> State {
        let mut state = State::load(folder).unwrap();
        state.change(|mounts| mounts.insert("k".to_owned(), mount("/t"))).unwrap();
        state
    }

    #[test]
    fn what_was_written_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        stored(folder.path());
        let state = State::load(folder.path()).unwrap();
        assert_eq!(state.mounts().get("k"), Some(&mount("/t")));
        assert_eq!(state.key_of(Path::new("/t")), Some("k"));
        assert_eq!((state.of_volume("v").count(), state.of_volume("w").count()), (1, 0));
        let names: BTreeSet<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE.into(), LOCK.into()].into(), "nothing else is left");
    }

    #[test]
    fn a_second_driver_waits_for_the_first_and_then_says_which_folder_it_wants() {
        let folder = tempfile::tempdir().unwrap();
        let first = State::load(folder.path()).unwrap();
        let said = State::load(folder.path()).unwrap_err().to_string();
        assert!(said.contains("--state-dir: another driver"), "{said}");
        assert!(said.contains(folder.path().to_str().unwrap()), "{said}");
        let ending = thread::spawn(move || {
            thread::sleep(BETWEEN_TRIES);
            drop(first);
        });
        State::load(folder.path()).unwrap();
        ending.join().unwrap();
    }

    #[test]
    fn what_cannot_be_written_has_not_changed_unless_it_has_happened_already() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = stored(folder.path());
        let inode = || {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(folder.path().join(FILE)).unwrap().ino()
        };
        let written = inode();
        state.change(|mounts| mounts.insert("k".to_owned(), mount("/t"))).unwrap();
        assert_eq!(inode(), written, "it is the same, and not written again");
        fs::remove_dir_all(folder.path()).unwrap();
        state.change(|mounts| mounts.insert("l".to_owned(), mount("/u"))).unwrap_err();
        assert_eq!(state.mounts().keys().collect::<Vec<_>>(), ["k"]);
        state.note(|mounts| mounts.clear()).unwrap_err();
        assert!(state.mounts().is_empty(), "what is unmounted stays so");
    }

    #[test]
    fn another_boot_is_nothing_nonsense_is_lost_and_a_later_release_stops_this_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(State::load(folder.path()).unwrap().is_lost(), "there is no file");
        stored(folder.path());
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let boot = fs::read_to_string(BOOT_ID).unwrap();
        let before = text.replace(boot.trim(), "another");
        let later = |text: &str| text.replace("\"schema\": 1", "\"schema\": 2");
        // A list, where this release has a map.
        let other_form = later(&text).replace("\"mounts\": {", "\"mounts\": [], \"others\": {");
        for (other, is_lost) in [
            (before.clone(), false),
            (later(&before), false),
            (text.replace('{', "["), true),
            (String::new(), true),
        ] {
            assert_ne!(other, text);
            fs::write(&path, other).unwrap();
            let state = State::load(folder.path()).unwrap();
            assert!(state.mounts().is_empty());
            assert_eq!(state.is_lost(), is_lost);
        }
        for other in [later(&text), other_form] {
            assert_ne!(other, text);
            fs::write(&path, &other).unwrap();
            let failure = State::load(folder.path()).unwrap_err();
            let said = failure.to_string();
            assert_eq!(failure.exit_code(), 78, "{said}");
            assert!(said.contains(path.to_str().unwrap()) && said.contains("drain"), "{said}");
            assert_eq!(fs::read_to_string(&path).unwrap(), other, "it is as it was");
        }
    }
}
