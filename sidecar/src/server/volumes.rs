//! The volumes of a server.
//!
//! Owns the table of what runs, and what each request does to it. Promises: one process per
//! volume; a volume that is started again ends its old process first; the end of one touches no
//! other. Must not know how requests arrive.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use s3pod::units::MIB;
use tokio::task::JoinSet;

use super::order::{Files, Order, Refusal, Running, Said, What};
use super::process::{Places, Process};
use super::shares::{LEAST, Shares};

/// Ends that are remembered for whoever asks how it came about.
const ENDINGS_MAX: usize = 256;

/// The volumes, and what they share.
#[derive(Debug)]
pub(crate) struct Volumes {
    places: Places,
    shares: Shares,
    /// The `--memory-limit` of a volume that names none.
    memory: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    running: HashMap<String, Arc<Process>>,
    starting: HashSet<String>,
    endings: VecDeque<(String, String)>,
    is_closed: bool,
}

impl Volumes {
    /// No volumes yet.
    pub(crate) fn new(places: Places, shares: Shares, memory: Option<u64>) -> Arc<Self> {
        let memory = memory.unwrap_or(LEAST);
        Arc::new(Self { places, shares, memory, table: Mutex::default() })
    }

    /// Does what a request asks for.
    pub(crate) async fn answer(self: &Arc<Self>, what: What) -> Said {
        let done = match what {
            What::Start(order) => self.start(&order).await,
            What::Stop { key } => {
                if let Some(process) = self.find(&key) {
                    process.end().await;
                }
                Ok(Said::Done {})
            }
            What::Files { key, files } => self.replace_files(&key, &files),
            What::Ending { key } => Ok(Said::Ending { how: self.ending(&key).await }),
            What::List {} => Ok(Said::Volumes(self.list())),
        };
        done.unwrap_or_else(Said::Refused)
    }

    /// The keys of what runs or is being started.
    pub(crate) fn keys(&self) -> HashSet<String> {
        let table = self.table();
        table.running.keys().chain(&table.starting).cloned().collect()
    }

    async fn start(self: &Arc<Self>, order: &Order) -> Result<Said, Refusal> {
        order.check()?;
        let key = &order.key;
        let _alone = Starting::enter(self, key)?;
        // Its connection is over: the driver has another one.
        if let Some(before) = self.find(key) {
            before.end().await;
        }
        let share = self.shares.take(key, order.memory.unwrap_or(self.memory).max(MIB))?;
        let process = Process::start(order, share, &self.places).map_err(|error| {
            Refusal::Unavailable(format!("the volume {key}: its server did not start: {error}"))
        })?;
        self.enter(key, &process);
        Ok(Said::Started { socket: process.listening().await? })
    }

    /// Puts a process into the table for as long as it runs.
    fn enter(self: &Arc<Self>, key: &str, process: &Arc<Process>) {
        self.table().running.insert(key.to_owned(), Arc::clone(process));
        let (volumes, key, process) = (Arc::clone(self), key.to_owned(), Arc::clone(process));
        tokio::spawn(async move {
            let how = process.ended().await.how();
            let mut table = volumes.table();
            let is_this = |found: &Arc<Process>| Arc::ptr_eq(found, &process);
            if table.running.get(&key).is_some_and(is_this) {
                table.running.remove(&key);
            }
            table.endings.retain(|(other, _)| *other != key);
            table.endings.truncate(ENDINGS_MAX - 1);
            table.endings.push_front((key, how));
        });
    }

    fn replace_files(&self, key: &str, files: &Files) -> Result<Said, Refusal> {
        files.check()?;
        let process = self.find(key).ok_or_else(|| {
            Refusal::Unavailable(format!("the volume {key} has no server to give files to"))
        })?;
        process.replace_files(files).map_err(|error| {
            Refusal::Unavailable(format!("the volume {key}: its files are the old ones: {error}"))
        })?;
        Ok(Said::Done {})
    }

    async fn ending(&self, key: &str) -> Option<String> {
        if let Some(process) = self.find(key) {
            return Some(process.ended().await.how());
        }
        let table = self.table();
        table.endings.iter().find(|(other, _)| other == key).map(|(_, how)| how.clone())
    }

    fn list(&self) -> Vec<Running> {
        self.table().running.values().map(|process| process.describe()).collect()
    }

    fn find(&self, key: &str) -> Option<Arc<Process>> {
        self.table().running.get(key).cloned()
    }

    /// From now on nothing is started; what runs is told to end.
    pub(crate) fn close(&self) {
        let mut table = self.table();
        table.is_closed = true;
        for process in table.running.values() {
            process.signal(Signal::SIGTERM);
        }
    }

    /// Waits until nothing runs any more.
    pub(crate) async fn ended(&self) {
        let running: Vec<_> = self.table().running.values().cloned().collect();
        let mut all = JoinSet::new();
        for process in running {
            all.spawn(async move { process.ended().await });
        }
        all.join_all().await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A volume that is being started, and by one request alone.
struct Starting<'a> {
    volumes: &'a Volumes,
    key: &'a str,
}

impl<'a> Starting<'a> {
    fn enter(volumes: &'a Volumes, key: &'a str) -> Result<Self, Refusal> {
        let mut table = volumes.table();
        if table.is_closed {
            return Err(Refusal::Unavailable("this node's server is ending".to_owned()));
        }
        if !table.starting.insert(key.to_owned()) {
            return Err(Refusal::Unavailable(format!("the volume {key} is being started already")));
        }
        Ok(Self { volumes, key })
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.volumes.table().starting.remove(self.key);
    }
}
