//! Reading blocks back for those who wait for them.
//!
//! Owns the way from a run of wanted blocks to their landing: look which are there, wait for
//! memory, read adjacent ones together, check, land. Promises: what cannot be landed is given
//! back, so that it is fetched; nobody's wait ends in an error of the disk's. Must not know how
//! blocks are fetched.

use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::super::fetch::{Fetcher, is_small};
use super::super::flight::Landing;
use super::super::pool::{Pool, Promise};
use super::super::proof::{Arriving, Condemned};
use super::super::{BLOCK_SIZE, Block};
use super::Disk;
use super::format::{Identity, Record};
use super::opened::{self, Opened};
use crate::budget::Grant;
use crate::store::Version;
use crate::units::MIB;

/// Blocks that are read with one call, and land together: a reader who wants the first need not
/// wait for more than this.
const STEP_MAX: usize = (MIB / BLOCK_SIZE) as usize;

/// Wanted blocks of one version that are on disk.
pub(in crate::cache) struct Held {
    disk: Disk,
    opened: Arc<Opened>,
    steps: Vec<Step>,
}

/// What blocks are read back into.
pub(in crate::cache) struct Means<'m> {
    pub(in crate::cache) fetcher: &'m Fetcher,
    pub(in crate::cache) version: &'m Arc<Version>,
    /// Memory that was found for them, ahead of this reader; none where somebody waits.
    pub(in crate::cache) ahead: Option<(Grant, Weak<()>)>,
}

impl Means<'_> {
    /// Memory for the next blocks, and whom they run ahead of.
    async fn next(&mut self, bytes: u64) -> (Grant, Weak<()>) {
        if let Some((grant, reader)) = &mut self.ahead
            && let Some(part) = grant.split(bytes)
        {
            return (part, Weak::clone(reader));
        }
        (self.fetcher.budget.take(bytes).await, Weak::new())
    }
}

/// Adjacent blocks and their checksums.
#[derive(Default)]
struct Step {
    landings: Vec<Landing>,
    checksums: Vec<u32>,
}

/// What became of a step.
#[derive(Default)]
struct Back {
    lost: Vec<Landing>,
    /// The block that completed the object, which is not what was stored.
    wrong: Option<(Landing, Condemned)>,
}

/// Blocks that have to be fetched, each run with one GET.
type Runs = Vec<Vec<Landing>>;

impl Disk {
    /// Which blocks of a run are on disk, and runs of those that are not.
    pub(in crate::cache) async fn look(
        &self,
        version: &Version,
        run: Vec<Landing>,
    ) -> (Runs, Option<Held>) {
        let Some(identity) = Identity::new(&self.0.place, version) else {
            return (vec![run], None);
        };
        let Some(first) = run.first().map(|landing| landing.key().index) else {
            return (Vec::new(), None);
        };
        let (disk, identity, count) = (self.clone(), Arc::new(identity), run.len());
        let looked = self.0.turns.take(move || disk.records(&identity, first, count));
        match looked.await.flatten() {
            Some((opened, records)) => self.split(opened, run, &records),
            None => {
                self.0.counters.misses.add(run.len() as u64);
                (vec![run], None)
            }
        }
    }

    /// What is known of the blocks, from the files as they are now.
    fn records(
        &self,
        identity: &Arc<Identity>,
        first: u64,
        count: usize,
    ) -> Option<(Arc<Opened>, Vec<Record>)> {
        let mut opened = self.opened(identity)?;
        let mut records = opened.look(first, count);
        let is_present = |record: &Record| matches!(record, Record::Present { .. });
        let is_complete = matches!(&records, Ok(records) if records.iter().all(is_present));
        if !is_complete && opened.is_removed() {
            // Evicted since it was opened, and perhaps cached anew.
            self.0.opened.close(identity.id);
            opened = self.opened(identity)?;
            records = opened.look(first, count);
        }
        match records {
            Ok(records) => Some((opened, records)),
            Err(error) => {
                self.failed(identity, &error);
                None
            }
        }
    }

    fn split(
        &self,
        opened: Arc<Opened>,
        run: Vec<Landing>,
        records: &[Record],
    ) -> (Runs, Option<Held>) {
        let (mut missing, mut steps) = (Vec::new(), Vec::<Step>::new());
        for (landing, record) in run.into_iter().zip(records) {
            match record {
                Record::Present { checksum } => {
                    let is_next = |step: &Step| {
                        step.landings.len() < STEP_MAX && follows(&step.landings, &landing)
                    };
                    if !steps.last().is_some_and(is_next) {
                        steps.push(Step::default());
                    }
                    if let Some(step) = steps.last_mut() {
                        step.landings.push(landing);
                        step.checksums.push(*checksum);
                    }
                }
                Record::Absent => missing.push(landing),
                Record::Damaged => {
                    self.is_damaged(&opened.identity, landing.key().index);
                    missing.push(landing);
                }
            }
        }
        self.0.counters.misses.add(missing.len() as u64);
        let held = Held { disk: self.clone(), opened, steps };
        (runs(missing), Some(held).filter(|held| !held.steps.is_empty()))
    }

    /// Bytes of the version that are there.
    pub(in crate::cache) async fn present(&self, version: &Version) -> u64 {
        let Some(identity) = Identity::new(&self.0.place, version).map(Arc::new) else { return 0 };
        let disk = self.clone();
        let counted = self.0.turns.take(move || {
            let (opened, _) = disk.records(&identity, 0, 1)?;
            opened.present().ok()
        });
        counted.await.flatten().unwrap_or(0)
    }

    /// One block's bytes, if they are there, for whoever wants no more than that.
    pub(in crate::cache) async fn block(
        &self,
        version: &Version,
        index: u64,
        pool: &Arc<Pool>,
    ) -> Option<Bytes> {
        let identity = Arc::new(Identity::new(&self.0.place, version)?);
        let (disk, mut promise) = (self.clone(), pool.promise(1));
        let read = self.0.turns.take(move || {
            let (opened, records) = disk.records(&identity, index, 1)?;
            let Some(Record::Present { checksum }) = records.first() else { return None };
            match opened.read(index, &[*checksum], &mut promise) {
                Ok(mut read) => match read.pop() {
                    Some(opened::Block::Sound(bytes)) => Some(bytes),
                    _ => None,
                },
                Err(_) => None,
            }
        });
        read.await.flatten()
    }
}

impl Held {
    /// Reads and lands the blocks; gives back runs of those that could not be.
    pub(in crate::cache) async fn land(self, mut means: Means<'_>) -> Runs {
        let Self { disk, opened, steps } = self;
        disk.0.room.used(opened.identity.id);
        let mut lost = Vec::new();
        for Step { landings, checksums } in steps {
            // Before the grant: what is evicted for it is what these blocks will lie in.
            let promise = means.fetcher.pool.promise(landings.len());
            let bytes = landings.iter().map(|landing| landing.range().len()).sum();
            let (grant, reader) = means.next(bytes).await;
            let (first, start) = landings.first().map_or((0, 0), place);
            let arriving = means.fetcher.arriving(means.version, start);
            let file = Arc::clone(&opened);
            let read = move || Read::new(&file, (first, &checksums), (grant, promise), arriving);
            let Some(read) = disk.0.turns.take(read).await else {
                lost.extend(landings);
                continue;
            };
            let back = disk.read_back(&opened, landings, read, &reader);
            lost.extend(back.lost);
            if let Some((_landing, condemned)) = back.wrong {
                means.fetcher.remove(condemned).await;
                // Who waits asks anew, and is told.
                return Runs::new();
            }
        }
        runs(lost)
    }
}

/// Which block a landing is for, and where in the object.
fn place(landing: &Landing) -> (u64, u64) {
    (landing.key().index, landing.range().start)
}

/// Blocks that were read, what their memory is counted under, and what is to be compared of them.
struct Read {
    blocks: io::Result<Vec<opened::Block>>,
    grant: Grant,
    arriving: Option<Arriving>,
}

impl Read {
    /// Blocks, on the disk.
    fn new(
        opened: &Opened,
        (first, checksums): (u64, &[u32]),
        (grant, mut promise): (Grant, Promise),
        mut arriving: Option<Arriving>,
    ) -> Self {
        let blocks = opened.read(first, checksums, &mut promise);
        for block in blocks.iter().flatten() {
            match block {
                opened::Block::Sound(bytes) => {
                    if let Some(arriving) = &mut arriving {
                        arriving.update(bytes);
                    }
                }
                // What comes behind a gap is not counted with what came before it.
                opened::Block::Damaged => arriving = None,
            }
        }
        Self { blocks, grant, arriving }
    }
}

impl Disk {
    /// Lands what was read.
    fn read_back(
        &self,
        opened: &Opened,
        landings: Vec<Landing>,
        Read { blocks, mut grant, mut arriving }: Read,
        reader: &Weak<()>,
    ) -> Back {
        let blocks = match blocks {
            Ok(blocks) => blocks,
            Err(error) => {
                self.failed(&opened.identity, &error);
                return Back { lost: landings, wrong: None };
            }
        };
        let mut back = Back::default();
        let last = landings.last().map(|landing| landing.key().index);
        for (landing, block) in landings.into_iter().zip(blocks) {
            let opened::Block::Sound(bytes) = block else {
                self.is_damaged(&opened.identity, landing.key().index);
                back.lost.push(landing);
                continue;
            };
            self.0.counters.hits.add(1);
            let arrived = arriving.take_if(|_| last == Some(landing.key().index));
            if let Some(condemned) = arrived.and_then(Arriving::settle) {
                back.wrong = Some((landing, condemned));
                break;
            }
            let range = landing.range();
            let block = Block::new(range.start, bytes, grant.split(range.len()));
            landing.land(Arc::new(block.ahead_of(Weak::clone(reader))));
        }
        back
    }
}

fn follows(before: &[Landing], landing: &Landing) -> bool {
    before.last().is_some_and(|last| last.key().index + 1 == landing.key().index)
}

/// Landings in order, split where blocks are not adjacent. A small object comes whole, so what is
/// missing of it is one run.
fn runs(landings: Vec<Landing>) -> Runs {
    let mut runs: Runs = Vec::new();
    let belongs =
        |run: &[Landing], next: &Landing| is_small(&next.key().version) || follows(run, next);
    for landing in landings {
        match runs.last_mut() {
            Some(run) if belongs(run, &landing) => run.push(landing),
            _ => runs.push(vec![landing]),
        }
    }
    runs
}
