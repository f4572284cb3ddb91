//! Options in a file, and what of them may change while a mount runs.
//!
//! Owns the file's grammar and [`Reload`], which knows what was said elsewhere and so what the file
//! may say. Promises: a file that cannot be read changes nothing. Must not know who applies what
//! changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::telemetry::LogLevel;

use super::asked::Options;
use super::definition::{Definition, Kind};
use super::options::{self, OPTIONS};
use super::{Error, Sizes};

/// The largest file: a ConfigMap has 1 MiB at most, and the table would fit a hundred times.
const FILE_MAX: u64 = 1 << 20;

/// What changes without a new mount; each is in [`Tunables`].
const HOT: [&str; 7] = [
    "cache-size",
    "disk-limit",
    "log-level",
    "max-requests",
    "memory-limit",
    "metadata-ttl",
    "staging-size",
];

/// A file of options that a running mount looks at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    path: PathBuf,
    /// What flags and environment said: they win.
    nearer: Options,
    /// What holds, the file included.
    now: Options,
    /// What could not be read last, so that it is said once.
    broken: Option<String>,
}

/// What a changed file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What holds from now on.
    pub tunables: Tunables,
    /// Flags that changed and hold only from the next start on.
    pub at_next_start: Vec<&'static str>,
}

/// What changes without a new mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// The log's level.
    pub log_level: LogLevel,
    /// How long names and attributes are believed.
    pub metadata_ttl: Duration,
    /// How much the mount may take.
    pub sizes: Sizes,
}

impl Reload {
    /// Fills what nobody said nearer from the file that `asked` names; none where it names none.
    pub(super) fn begin(asked: &mut Options) -> Result<Option<Self>, Error> {
        let Some(path) = asked.local.config.clone() else { return Ok(None) };
        let nearer = asked.clone();
        *asked = read(&path, &nearer)?;
        Ok(Some(Self { path, nearer, now: asked.clone(), broken: None }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the file again; `resolve` knows what options mean for the mount.
    ///
    /// # Errors
    /// Where the file cannot be read or asks for what cannot be had; once for each reason. What
    /// held goes on holding.
    pub fn look(
        &mut self,
        resolve: impl FnOnce(&Options) -> Result<Tunables, Error>,
    ) -> Result<Option<Change>, Error> {
        let read = read(&self.path, &self.nearer);
        let found = read.and_then(|new| resolve(&new).map(|tunables| (new, tunables)));
        let (new, tunables) = match found {
            Ok(found) => found,
            Err(error) => {
                let words = error.to_string();
                let is_known = self.broken.replace(words.clone()) == Some(words);
                return if is_known { Ok(None) } else { Err(error) };
            }
        };
        self.broken = None;
        let changed = |option: &&Definition| self.now.text_of(option) != new.text_of(option);
        let changed: Vec<&str> = OPTIONS.iter().filter(changed).map(|option| option.flag).collect();
        self.now = new;
        if changed.is_empty() {
            return Ok(None);
        }
        let at_next_start = changed.into_iter().filter(|flag| !HOT.contains(flag)).collect();
        Ok(Some(Change { tunables, at_next_start }))
    }
}

fn read(path: &Path, nearer: &Options) -> Result<Options, Error> {
    let wrong = |reason: String| Error::File { path: path.to_owned(), reason };
    let size = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > FILE_MAX {
        return Err(wrong(format!("{size} bytes are no list of options")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    parse(&text, nearer).map_err(wrong)
}

/// `flag = value`, one a line; a switch alone is on; `#` begins a comment.
fn parse(text: &str, nearer: &Options) -> Result<Options, String> {
    let mut asked = nearer.clone();
    let mut seen: Vec<&str> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
        if line.is_empty() {
            continue;
        }
        let at = |reason: &str| format!("line {}: {reason}", number + 1);
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (line, None),
        };
        let flag = name.replace('_', "-");
        let option = options::find(&flag)
            .filter(|option| option.flag != "config")
            .ok_or_else(|| at(&format!("`{name}` is no option that a file can set")))?;
        let value = match (value, option.kind) {
            (Some(value), _) => value,
            (None, Kind::Switch) => "true",
            (None, Kind::Value(_)) => return Err(at(&format!("{flag} needs a value"))),
        };
        if seen.contains(&option.flag) {
            return Err(at(&format!("{flag} stands there twice")));
        }
        seen.push(option.flag);
        option.check(value).map_err(|reason| at(&format!("{flag}: {reason}")))?;
        if nearer.text_of(option).is_none() {
            asked.set(option, value).map_err(|reason| at(&format!("{flag}: {reason}")))?;
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;

    fn typed(list: &str) -> Options {
        let mut options = Options::default();
        for (option, value) in crate::config::parse_mount_options([list]).unwrap() {
            options.set(option, &value).unwrap();
        }
        options
    }

    #[test]
    fn a_line_is_an_option_unless_somebody_said_it_nearer() {
        let text = "# a comment\nmetadata_ttl = 5m # why\n\nread-only\nuid=7\n";
        let asked = parse(text, &typed("uid=1")).unwrap();
        assert!(asked.agrees(&typed("metadata-ttl=5m,read-only,uid=1")), "{asked:?}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, words) in [
            ("\nmetdata-ttl=1s", "line 2: `metdata-ttl`"),
            ("metadata-ttl=soon", "line 1: metadata-ttl: `soon`"),
            ("metadata-ttl", "needs a value"),
            ("uid=1\nuid=1", "line 2: uid stands there twice"),
            ("config=/x", "no option that a file can set"),
        ] {
            let said = parse(text, &Options::default()).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }

    /// What these options mean for a mount of no great size.
    fn resolve(options: &Options) -> Result<Tunables, Error> {
        let memory_limit = options.operator.memory_limit.unwrap_or(192);
        if memory_limit > 1 << 30 {
            let (asked, cgroup) = (ByteSize(memory_limit), ByteSize(1 << 30));
            return Err(Error::MemoryLimit { asked, cgroup });
        }
        let sizes = Sizes { memory_limit, cache_size: 1, staging_size: 2, max_requests: 3 };
        Ok(Tunables {
            log_level: options.operator.log_level.unwrap_or_default(),
            metadata_ttl: options.tuning.metadata_ttl.unwrap_or(Duration::from_secs(1)),
            sizes,
        })
    }

    #[test]
    fn a_change_is_told_once_and_a_broken_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("options");
        fs::write(&path, "metadata-ttl=5s\n").unwrap();
        let mut asked = typed(&format!("config={},uid=1", path.display()));
        let mut reload = Reload::begin(&mut asked).unwrap().unwrap();
        assert_eq!(asked.tuning.metadata_ttl, Some(Duration::from_secs(5)));
        let mut look = || reload.look(resolve);
        assert_eq!(look().unwrap(), None);

        let text = "metadata-ttl=6s\ngid=2\nuid=9\nlog-level=debug\nmemory-limit=64MiB\n";
        fs::write(&path, text).unwrap();
        let change = look().unwrap().unwrap();
        assert_eq!(change.tunables.metadata_ttl, Duration::from_secs(6));
        assert_eq!(change.tunables.log_level, LogLevel::Debug);
        assert_eq!(change.tunables.sizes.memory_limit, 64 << 20);
        assert_eq!(change.at_next_start, ["gid"], "the flag wins over the file's uid");
        assert_eq!(look().unwrap(), None);

        for (broken, words) in [("metadata-ttl=", "metadata-ttl"), ("memory-limit=2GiB", "2GiB")] {
            fs::write(&path, broken).unwrap();
            let said = look().unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
            assert_eq!(look().unwrap(), None, "it is said once");
        }
        fs::write(&path, "gid=2\n").unwrap();
        let change = look().unwrap().unwrap();
        let nothing = resolve(&Options::default()).unwrap();
        assert_eq!(change.tunables, nothing, "what the file no longer says");
    }
}
