//! Random work on files that share a staging area none of them fits into, in a store whose limits
//! are those of S3 in small: streams, checkpoints, cuts and copies meet in every order.
//!
//! A vector says what each file must be, after every step through `read`, and at the end in the
//! bucket. A seed says which steps, so a failure can be run again.

use std::ffi::OsStr;
use std::time::Duration;

use bytes::Bytes;
use s3pod::units::{ByteRange, KIB, MIB};
use s3pod::vfs::{Error, Fh, Ino, Result, SetAttr};
use s3pod::write::{self, Limits};
use s3pod_testkit::{Fault, Injected, Op};

use crate::bench::Bench;

/// S3 in small. A part of the store is what the tests' server makes of `min_part`.
const SMALL: Limits = Limits {
    min_part: 16 * KIB,
    max_part: 4 * MIB,
    max_parts: 200,
    max_object: 16 * MIB,
    single_put_max: 32 * KIB,
    upload_part: 32 * KIB,
    copy_part: 128 * KIB,
    copy_parts: 10,
};

const QUOTA: u64 = 256 * KIB;
const FILES: usize = 3;
const STEPS: u32 = 60;

/// One file and what it must be.
struct File {
    name: String,
    fh: Fh,
    bytes: Vec<u8>,
}

struct Work {
    bench: Bench,
    random: fastrand::Rng,
    files: Vec<File>,
    /// What was to go wrong, and how much of it a failed call has told of.
    injected: Vec<Injected>,
    told: usize,
    /// What is told where something differs.
    done: Vec<String>,
}

impl Work {
    async fn new(seed: u64) -> Self {
        let patience = Duration::from_secs(20);
        let bench = Bench::within(patience, Duration::from_secs(60), SMALL, QUOTA).await;
        let mut files = Vec::new();
        for number in 0..FILES {
            let name = format!("f{number}");
            let fh = bench.create(&name, false).await.unwrap();
            files.push(File { name, fh, bytes: Vec::new() });
        }
        let done = vec![format!("seed {seed}")];
        let (random, injected) = (fastrand::Rng::with_seed(seed), Vec::new());
        Self { bench, random, files, injected, told: 0, done }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.usize(..=end)
    }

    fn range_in(&mut self, len: usize, most: usize) -> (usize, usize) {
        let start = self.below(len);
        let size = self.below(most.min(len - start));
        (start, size)
    }

    async fn write(&mut self, number: usize, at: usize, len: usize) {
        self.done.push(format!("write {number} {at} {len}"));
        let bytes: Vec<u8> = std::iter::repeat_with(|| self.random.u8(..)).take(len).collect();
        let file = &mut self.files[number];
        match self.bench.vfs.write(file.fh, at as u64, Bytes::from(bytes.clone())).await {
            Ok(written) => {
                assert_eq!(written as usize, len, "{:?}", self.done);
                file.bytes.resize(file.bytes.len().max(at + len), 0);
                file.bytes[at..at + len].copy_from_slice(&bytes);
            }
            // Nothing of it is in the file.
            Err(Error::Write(write::Error::StagingFull { .. })) => self.done.push("full".into()),
            Err(error) => self.tolerate(&error),
        }
    }

    /// Where the store fails, a call may: one that has met a fault since the last that said so. A
    /// file that does not fit may be told at any time.
    fn tolerate(&mut self, error: &Error) {
        let is_full = matches!(error, Error::Write(write::Error::StagingFull { .. }));
        let is_faulty = matches!(error, Error::Write(write::Error::Store(_)) | Error::Store(_));
        let met = self.injected.iter().map(Injected::hits).sum();
        assert!(is_full || is_faulty && met > self.told, "{error:?} after {:#?}", self.done);
        if is_faulty {
            self.told = met;
        }
        self.done.push(format!("failed: {error}"));
    }

    async fn cut(&mut self, number: usize) {
        let len = self.files[number].bytes.len();
        let size = if self.random.bool() { self.below(len) } else { len + self.below(40_000) };
        self.done.push(format!("cut {number} to {size}"));
        let file = &self.files[number];
        let entry = self.bench.vfs.lookup(Ino::ROOT, OsStr::new(&file.name)).await.unwrap();
        let change = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        match self.bench.vfs.setattr(entry.attr.ino, Some(file.fh), change).await {
            Ok(_) => self.files[number].bytes.resize(size, 0),
            Err(error) => self.tolerate(&error),
        }
    }

    async fn copy(&mut self, from: usize, to: usize) {
        let (start, len) = self.range_in(self.files[from].bytes.len(), 200_000);
        let at = self.below(self.files[to].bytes.len());
        let (read, written) = (range(start, len), range(at, len));
        if from == to && !read.intersect(written).is_empty() {
            return;
        }
        self.done.push(format!("copy {from} {start} to {to} {at}, {len}"));
        let (source, target) = (self.files[from].fh, self.files[to].fh);
        let vfs = &self.bench.vfs;
        let copied = vfs.copy_file_range(source, start as u64, target, at as u64, len as u64).await;
        match copied {
            Ok(copied) => {
                let copied = copied as usize;
                let bytes = self.files[from].bytes[start..start + copied].to_vec();
                let target = &mut self.files[to].bytes;
                target.resize(target.len().max(at + copied), 0);
                target[at..at + copied].copy_from_slice(&bytes);
            }
            Err(error) => self.tolerate(&error),
        }
    }

    async fn check(&mut self, number: usize) {
        let (start, len) = self.range_in(self.files[number].bytes.len(), 150_000);
        self.done.push(format!("read {number} {start} {len}"));
        let file = &self.files[number];
        match self.bench.vfs.read(file.fh, start as u64, len as u32).await {
            Ok(bytes) => {
                let same = bytes == file.bytes[start..start + len];
                assert!(same, "{number} differs in {start}..+{len} after {:#?}", self.done);
            }
            Err(error) => self.tolerate(&error),
        }
    }

    async fn sync(&mut self, number: usize) {
        self.done.push(format!("sync {number}"));
        let file = &mut self.files[number];
        let synced: Result<()> = self.bench.vfs.fsync(file.fh).await;
        match synced {
            Ok(()) => {
                let object = self.bench.bucket().get(&file.name).unwrap_or_default();
                assert!(object == file.bytes, "{number} differs after {:#?}", self.done);
            }
            Err(error) => self.tolerate(&error),
        }
    }

    async fn rename(&mut self, number: usize) {
        let (old, new) = (self.files[number].name.clone(), format!("{}x", self.files[number].name));
        self.done.push(format!("rename {number}"));
        match self.bench.rename(&old, &new).await {
            Ok(()) => self.files[number].name = new,
            Err(error) => self.tolerate(&error),
        }
    }

    fn fault(&mut self) {
        let faults = self.bench.server.faults();
        let rules = [
            Fault::status(403, "AccessDenied").on(Op::UploadPart).times(3),
            Fault::status(403, "AccessDenied").on(Op::CompleteUpload),
            Fault::InternalError.on(Op::CompleteUpload),
            Fault::LoseResponse.on(Op::CompleteUpload),
            Fault::LoseResponse.on(Op::Put),
            Fault::status(403, "AccessDenied").on(Op::CopyPart),
            Fault::status(409, "ConditionalRequestConflict").on(Op::CompleteUpload),
        ];
        let which = self.random.usize(..rules.len());
        self.done.push(format!("fault {:?}", rules[which]));
        faults.clear();
        self.injected.push(faults.add(rules[which].clone()));
    }

    async fn step(&mut self) {
        let number = self.random.usize(..FILES);
        let len = self.files[number].bytes.len();
        match self.random.u32(..20) {
            // In order, in runs, so that files become streams.
            0..=7 => {
                for _ in 0..4 {
                    let (at, size) = (self.files[number].bytes.len(), 1 + self.below(60_000));
                    self.write(number, at, size).await;
                }
            }
            8..=9 => {
                let (at, size) = (self.below(len), 1 + self.below(20_000));
                self.write(number, at, size).await;
            }
            10 => self.cut(number).await,
            11..=12 => self.sync(number).await,
            13..=14 => {
                let to = self.random.usize(..FILES);
                self.copy(number, to).await;
            }
            15 => self.rename(number).await,
            16 => self.fault(),
            _ => self.check(number).await,
        }
        self.check(number).await;
    }

    /// What every file is, once nothing fails any more.
    async fn end(&mut self) {
        self.bench.server.faults().clear();
        for number in 0..FILES {
            self.done.push(format!("close {number}"));
            let closed = self.bench.close(self.files[number].fh).await;
            assert!(closed.is_ok(), "{closed:?} after {:#?}", self.done);
        }
        let drained = self.bench.vfs.drain().await;
        assert_eq!(drained.failed, 0, "after {:#?}", self.done);
        for file in &self.files {
            let object = self.bench.bucket().get(&file.name).unwrap_or_default();
            let same = object.len() == file.bytes.len() && object == file.bytes;
            assert!(same, "{} differs after {:#?}", file.name, self.done);
        }
        assert_eq!(self.bench.bucket().keys().len(), FILES, "after {:#?}", self.done);
    }
}

fn range(start: usize, len: usize) -> ByteRange {
    ByteRange::at(start as u64, len as u64)
}

async fn work(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut work = Work::new(seed).await;
        for _ in 0..STEPS {
            work.step().await;
        }
        work.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_work_on_little_staging_loses_nothing_one() {
    work(0..20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_work_on_little_staging_loses_nothing_two() {
    work(1000..1020).await;
}
