//! One slot's log on disk.
//!
//! Owns the file `log`: a header with a version and a salt, then lines. A log in which nothing is
//! pending is begun anew under another salt, so that lines of the old one that a power cut brings
//! back are no lines of the new one; a log that mostly holds what is over is written anew. Both are
//! done beside it, and then it is replaced. Promises: a line is whole or not there. Must not know
//! what intents mean.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::line::{Kind, Line};
use crate::units::{KIB, MIB};

/// The first word of a log, with the version of its format.
const MAGIC: &str = "s3pod-journal-1";

/// A log with nothing pending is begun anew beyond this size: some 30 commits.
const RESTART_AT: u64 = 64 * KIB;

/// A log with something pending is written anew beyond this size, and beyond four times what is
/// pending, so that each line is copied a bounded number of times.
const REWRITE_AT: u64 = 4 * MIB;

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    salt: String,
    len: u64,
    next_id: u64,
    /// Lines written since it was opened.
    appended: u64,
    /// The lines of each pending intent, as they stand in the file.
    live: BTreeMap<u64, Vec<u8>>,
    live_bytes: u64,
    /// A line in its middle cannot be read.
    is_damaged: bool,
}

/// An intent that was begun and not ended.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) files: Vec<String>,
    pub(super) intent: Value,
    pub(super) steps: Vec<Value>,
    /// A line behind its first cannot be read, and may have been a step of it, or its end.
    pub(super) is_unsure: bool,
}

impl Log {
    /// Opens the log in `folder`, or begins one, and returns what is pending in it. What follows
    /// the last whole line is cut off; a damaged one before it hides nothing but itself.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<Found>)> {
        let path = folder.join("log");
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        let text = fs::read(&path)?;
        let mut log = Self::over(path, file);
        let found = log.read(&text)?;
        if log.salt.is_empty() {
            log.restart()?;
        } else {
            if log.is_damaged {
                let path = log.path.display();
                tracing::error!(%path, "a line of the journal is damaged; all others are taken up");
                // Where that fails it is read once more like this.
                let _stays_damaged = log.rewrite_unsure(&found);
            }
            log.file.set_len(log.len)?;
            log.file.seek(SeekFrom::Start(log.len))?;
        }
        Ok((log, found))
    }

    /// What is pending in the log in `folder`, which may be another mount's and stays as it is.
    pub(super) fn look(folder: &Path) -> io::Result<Vec<Found>> {
        let path = folder.join("log");
        let (file, text) = (File::open(&path)?, fs::read(&path)?);
        Self::over(path, file).read(&text)
    }

    /// Nothing of the file is read yet.
    const fn over(path: PathBuf, file: File) -> Self {
        Self {
            path,
            file,
            salt: String::new(),
            len: 0,
            next_id: 1,
            appended: 0,
            live: BTreeMap::new(),
            live_bytes: 0,
            is_damaged: false,
        }
    }

    fn read(&mut self, text: &[u8]) -> io::Result<Vec<Found>> {
        let mut found: BTreeMap<u64, Found> = BTreeMap::new();
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let Some(header) = lines.next().and_then(whole) else { return Ok(Vec::new()) };
        self.salt = salt_of(header)?;
        self.len = header.len() as u64 + 1;
        let (mut behind, mut is_odd) = (0, false);
        for text in lines {
            let Some(line) = whole(text).and_then(|line| Line::decode(line, &self.salt)) else {
                behind += text.len() as u64;
                is_odd |= is_damage(text);
                continue;
            };
            if behind > 0 {
                self.damage(&mut found);
                is_odd = false;
            }
            self.len += std::mem::take(&mut behind) + text.len() as u64;
            self.account(&line, text);
            match line {
                Line::Begin { id, kind, files, intent } => {
                    let (steps, is_unsure) = (Vec::new(), false);
                    found.insert(id, Found { id, kind, files, intent, steps, is_unsure });
                }
                Line::Step { id, step } => {
                    if let Some(found) = found.get_mut(&id) {
                        found.steps.push(step);
                    }
                }
                Line::Unsure { id } => {
                    if let Some(found) = found.get_mut(&id) {
                        found.is_unsure = true;
                    }
                }
                Line::End { id } => drop(found.remove(&id)),
            }
        }
        if is_odd {
            self.damage(&mut found);
        }
        Ok(found.into_values().collect())
    }

    /// A line cannot be read that may have been a step of anything begun before, or its end.
    fn damage(&mut self, found: &mut BTreeMap<u64, Found>) {
        self.is_damaged = true;
        found.values_mut().for_each(|found| found.is_unsure = true);
    }

    /// The number of the next intent.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// True where a line could not be read when it was opened.
    pub(super) const fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Lines written since it was opened.
    pub(super) const fn appended(&self) -> u64 {
        self.appended
    }

    /// The file, to be synced.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Appends a line, whole or not at all.
    pub(super) fn append(&mut self, line: Line) -> io::Result<()> {
        let text = line.encode(&self.salt)?;
        if let Err(error) = self.file.write_all(&text) {
            // The next line must not stand behind half a one.
            self.file.seek(SeekFrom::Start(self.len))?;
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += text.len() as u64;
        self.appended += 1;
        self.account(&line, &text);
        self.shrink();
        Ok(())
    }

    fn account(&mut self, line: &Line, text: &[u8]) {
        match line {
            Line::Begin { id, .. } => {
                self.next_id = self.next_id.max(id + 1);
                self.live_bytes += text.len() as u64;
                self.live.insert(*id, text.to_vec());
            }
            Line::Step { id, .. } | Line::Unsure { id } => {
                if let Some(lines) = self.live.get_mut(id) {
                    lines.extend_from_slice(text);
                    self.live_bytes += text.len() as u64;
                }
            }
            Line::End { id } => {
                let ended = self.live.remove(id).map_or(0, |lines| lines.len() as u64);
                self.live_bytes -= ended;
            }
        }
    }

    /// Lets go of what is over. A failure costs space and nothing else.
    fn shrink(&mut self) {
        let shrunk = if self.live.is_empty() && self.len > RESTART_AT {
            self.restart()
        } else if self.len > REWRITE_AT && self.len > 4 * self.live_bytes {
            self.rewrite()
        } else {
            return;
        };
        if let Err(error) = shrunk {
            tracing::warn!(%error, path = %self.path.display(), "the journal does not shrink");
        }
    }

    /// Begins anew, with nothing pending.
    fn restart(&mut self) -> io::Result<()> {
        let (salt, header) = header();
        // What follows in it is synced together with its header.
        self.replace(&header, |_| Ok(()))?;
        self.salt = salt;
        Ok(())
    }

    /// Writes what is pending into a new log, and takes that one instead.
    fn rewrite(&mut self) -> io::Result<()> {
        // The same salt, since the lines go over as they are.
        let mut text = format!("{MAGIC} {}\n", self.salt).into_bytes();
        for lines in self.live.values() {
            text.extend_from_slice(lines);
        }
        self.replace(&text, File::sync_data)
    }

    /// Leaves a damaged line out, and says of whom it may have been: a later mount sees no damage.
    fn rewrite_unsure(&mut self, found: &[Found]) -> io::Result<()> {
        for found in found.iter().filter(|found| found.is_unsure) {
            let line = Line::Unsure { id: found.id };
            let text = line.encode(&self.salt)?;
            self.account(&line, &text);
        }
        self.rewrite()
    }

    /// Writes everything into a new log, on disk, since what the old one has there is not known.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.rewrite()?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }

    /// Takes a new log that says `text`. Where it cannot be made whole the one there is stays as it
    /// is, since lines behind half a header would be lost.
    fn replace(
        &mut self,
        text: &[u8],
        before_it_counts: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let made = make(&beside, text).and_then(|file| {
            before_it_counts(&file)?;
            fs::rename(&beside, &self.path)?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                (self.file, self.len) = (file, text.len() as u64);
                Ok(())
            }
            Err(error) => {
                // Half of it would only take room on a disk that has none.
                let _nothing_to_remove = fs::remove_file(&beside);
                Err(error)
            }
        }
    }
}

/// A file of this text, open behind its end.
fn make(path: &Path, text: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).read(true).write(true).open(path)?;
    file.write_all(text)?;
    Ok(file)
}

/// The line without its line feed; none for half a line.
fn whole(text: &[u8]) -> Option<&[u8]> {
    text.strip_suffix(b"\n")
}

/// True for a line that was once whole: a power cut leaves half of one, or zeros.
fn is_damage(text: &[u8]) -> bool {
    whole(text).is_some_and(|line| !line.contains(&0))
}

fn header() -> (String, Vec<u8>) {
    let salt = format!("{:016x}", fastrand::u64(..));
    let header = format!("{MAGIC} {salt}\n").into_bytes();
    (salt, header)
}

fn salt_of(header: &[u8]) -> io::Result<String> {
    let text = String::from_utf8_lossy(header);
    let salt = text.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' '));
    salt.map(str::to_owned).ok_or_else(|| {
        let said = format!("the journal begins with {text:?}, which this release does not know");
        io::Error::new(io::ErrorKind::InvalidData, said)
    })
}
