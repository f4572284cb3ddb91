//! What is measured, each beside what it could be.
//!
//! Owns the list. A measure sets its server up once and is then run several times; each time the
//! mount and what it is compared with come one right after the other, so that the machine is the
//! same for both. Must not know how results are shown.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ceiling::{Get, now};
use crate::fio;
use crate::lab::{Mounted, Served, Server};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// GETs of the sequential ceiling: as large, and as many at once, as the mount's.
const REQUEST: u64 = 8 * MIB;
const REQUESTS: usize = 8;

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) mount: f64,
    pub(crate) other: f64,
    /// The mount's CPU time by what `cpu_unit` says, where that is measured.
    pub(crate) cpu: Option<f64>,
    /// The most memory it had, in MiB.
    pub(crate) peak: f64,
}

/// One line of the table.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// What the other figure is.
    pub(crate) beside: &'static str,
    /// The least ratio of the two that is good enough; none where the figure itself counts.
    pub(crate) target: &'static str,
    pub(crate) run: Box<dyn FnMut(usize) -> anyhow::Result<Sample>>,
}

type Maker = fn() -> anyhow::Result<Measure>;

/// Every measure; `wanted` is a part of its name.
pub(crate) fn all(wanted: &str) -> anyhow::Result<Vec<Measure>> {
    let makers: [(&str, Maker); 12] = [
        ("sequential remote", sequential_remote),
        ("sequential seaweedfs", sequential_seaweed),
        ("random remote", random_remote),
        ("files remote", files_remote),
        ("files near", files_near),
        ("first byte", first_byte),
        ("readers", readers),
        ("reread sequential", reread_sequential),
        ("reread unprivileged", reread_unprivileged),
        ("reread pages", reread_pages),
        ("reread random", reread_random),
        ("walk", walk),
    ];
    let chosen = makers.iter().filter(|(name, _)| name.contains(wanted));
    chosen.map(|(_, make)| make()).collect()
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", path.display()))
}

fn sample(mount: f64, other: f64, cpu: Option<f64>, mounted: Mounted) -> anyhow::Result<Sample> {
    let peak = mounted.peak()? as f64 / MIB as f64;
    mounted.end()?;
    Ok(Sample { mount, other, cpu, peak })
}

fn sequential_gets(key: &str, size: u64) -> Vec<Get> {
    let starts = (0..size).step_by(usize::try_from(REQUEST).unwrap_or(usize::MAX));
    starts.map(|start| (key.to_owned(), Some((start, (start + REQUEST).min(size))))).collect()
}

fn sequential(server: &Server, size: u64, arguments: &[&str]) -> anyhow::Result<Sample> {
    let ceiling = server.ceiling(sequential_gets("large", size), REQUESTS)?;
    let mounted = server.mount(arguments)?;
    let file = mounted.path().join("large");
    let report = fio::run("sequential.fio", &[("FILE", text(&file)?)])?;
    let cpu = mounted.cpu_seconds()? / (size as f64 / GIB as f64);
    let rate = |bytes_per_second: f64| bytes_per_second / MIB as f64;
    let (mount, other) = (rate(report.bytes_per_second), ceiling.bytes as f64 / ceiling.seconds);
    sample(mount, rate(other), Some(cpu), mounted)
}

fn sequential_remote() -> anyhow::Result<Measure> {
    let server = Server::ours(&Served::remote().with("large", 2 * GIB))?;
    // Of nine requests one is left for those who wait: eight run ahead, as many as the ceiling's.
    let run = move |_| sequential(&server, 2 * GIB, &["--max-requests", "9"]);
    Ok(Measure {
        name: "cold sequential read of 2 GiB, remote",
        unit: "MiB/s",
        beside: "SDK alone, 8 GETs of 8 MiB at once",
        target: "≥ 0.9",
        run: Box::new(run),
    })
}

fn sequential_seaweed() -> anyhow::Result<Measure> {
    let server = Server::seaweed()?;
    let mounted = server.mount(&[])?;
    fill(&mounted.path().join("large"), 2 * GIB)?;
    mounted.end()?;
    let run = move |_| sequential(&server, 2 * GIB, &[]);
    Ok(Measure {
        name: "cold sequential read of 2 GiB, SeaweedFS on this machine",
        unit: "MiB/s",
        beside: "SDK alone, 8 GETs of 8 MiB at once",
        target: "≥ 0.7",
        run: Box::new(run),
    })
}

fn fill(path: &Path, size: u64) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let mut random = fastrand::Rng::with_seed(1);
    let mut block = vec![0; 1 << 20];
    for _ in 0..size / MIB {
        random.fill(&mut block);
        file.write_all(&block)?;
    }
    // Closed by hand, so that a commit that fails is told.
    file.sync_all()?;
    Ok(())
}

fn random_remote() -> anyhow::Result<Measure> {
    const JOBS: usize = 16;
    const READS: usize = JOBS * 400;
    let server = Server::ours(&Served::remote().with("large", 16 * GIB))?;
    let run = move |round: usize| {
        let mut random = fastrand::Rng::with_seed(round as u64);
        let gets = (0..READS).map(|_| {
            let start = random.u64(..16 * GIB / 4096) * 4096;
            ("large".to_owned(), Some((start, start + 4096)))
        });
        let ceiling = server.ceiling(gets.collect(), JOBS)?;
        let mounted = server.mount(&[])?;
        let (file, seed) = (mounted.path().join("large"), (round + 1).to_string());
        let report = fio::run("random.fio", &[("FILE", text(&file)?), ("SEED", &seed)])?;
        sample(report.reads_per_second, READS as f64 / ceiling.seconds, None, mounted)
    };
    Ok(Measure {
        name: "cold random reads of 4 KiB in 16 GiB by 16 readers, remote",
        unit: "reads/s",
        beside: "SDK alone, 16 GETs of 4 KiB at once",
        target: "≥ 0.85",
        run: Box::new(run),
    })
}

const FILES: usize = 10_000;
const FILE: u64 = 16 << 10;
const FILE_READERS: usize = 16;

fn key(number: usize) -> String {
    format!("d/{number:05}")
}

fn with_files(served: Served) -> Served {
    (0..FILES).fold(served, |served, number| served.with(key(number), FILE))
}

fn read_files(root: &Path) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let read = || -> anyhow::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= FILES {
                return Ok(());
            }
            anyhow::ensure!(std::fs::read(root.join(key(number)))?.len() as u64 == FILE);
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..FILE_READERS).map(|_| scope.spawn(read)).collect();
        let joined = |reader: std::thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
            reader.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a reader panicked")))
        };
        readers.into_iter().try_for_each(joined)
    })
}

fn files(server: &Server) -> anyhow::Result<Sample> {
    let gets = (0..FILES).map(|number| (key(number), None)).collect();
    let ceiling = server.ceiling(gets, FILE_READERS)?;
    let mounted = server.mount(&["--metadata", "list"])?;
    let started = now();
    // As a loader does: the names first.
    anyhow::ensure!(std::fs::read_dir(mounted.path().join("d"))?.count() == FILES);
    read_files(mounted.path())?;
    let seconds = started.elapsed().as_secs_f64();
    sample(FILES as f64 / seconds, FILES as f64 / ceiling.seconds, None, mounted)
}

fn files_remote() -> anyhow::Result<Measure> {
    let server = Server::ours(&with_files(Served::remote()))?;
    Ok(Measure {
        name: "10 000 files of 16 KiB by 16 readers, listed first, remote",
        unit: "files/s",
        beside: "SDK alone, 16 GETs of them at once, and no LIST",
        target: "≥ 0.9",
        run: Box::new(move |_| files(&server)),
    })
}

fn files_near() -> anyhow::Result<Measure> {
    let server = Server::ours(&with_files(Served::near()))?;
    Ok(Measure {
        name: "the same from a server on this machine",
        unit: "files/s",
        beside: "SDK alone, 16 GETs of them at once, and no LIST",
        target: "reported",
        run: Box::new(move |_| files(&server)),
    })
}

fn first_byte() -> anyhow::Result<Measure> {
    use std::io::Read;
    let served = (0..100).fold(Served::remote(), |served, n| served.with(key(n), 100 * MIB));
    let server = Server::ours(&served)?;
    let run = move |_| {
        let gets = (0..100).map(|n| (key(n), Some((0, 1)))).collect();
        let ceiling = server.ceiling(gets, 1)?;
        let mounted = server.mount(&["--metadata", "list"])?;
        let names: Vec<_> =
            std::fs::read_dir(mounted.path().join("d"))?.collect::<Result<_, _>>()?;
        let started = now();
        for name in &names {
            std::fs::File::open(name.path())?.read_exact(&mut [0])?;
        }
        let mount = started.elapsed().as_secs_f64() * 10.0;
        sample(mount, ceiling.seconds * 10.0, None, mounted)
    };
    Ok(Measure {
        name: "time to the first byte of a large file in a fresh listing, remote",
        unit: "ms",
        beside: "SDK alone, GET of one byte",
        target: "one round trip of 25 ms",
        run: Box::new(run),
    })
}

fn readers() -> anyhow::Result<Measure> {
    let served = (0..64).fold(Served::remote(), |served, n| served.with(format!("f{n}"), 32 * MIB));
    let server = Server::ours(&served)?;
    let run = move |_| {
        let read = |limit: &str| -> anyhow::Result<(f64, Mounted)> {
            let mounted = server.mount(&["--memory-limit", limit])?;
            let report = fio::run("readers.fio", &[("FOLDER", text(mounted.path())?)])?;
            Ok((report.bytes_per_second / MIB as f64, mounted))
        };
        let (free, mounted) = read("4GiB")?;
        mounted.end()?;
        let (bounded, mounted) = read("64MiB")?;
        let cpu = mounted.cpu_seconds()? / 2.0;
        sample(bounded, free, Some(cpu), mounted)
    };
    Ok(Measure {
        name: "64 sequential readers with `--memory-limit 64MiB`, remote",
        unit: "MiB/s",
        beside: "the same with 4 GiB",
        target: "≥ 0.8, RSS ≤ 112 MiB",
        run: Box::new(run),
    })
}

/// How the kernel reads a file that it has read before.
#[derive(Clone, Copy)]
enum Reread {
    /// From the cached file, by itself: what a mount does that may.
    Handed,
    /// The same, where another process does for the server what it may not.
    HandedByAnother,
    /// From the pages that it has of the mount's file.
    Pages,
}

fn reread(
    way: Reread,
    job: &'static str,
    figure: fn(fio::Report) -> f64,
) -> anyhow::Result<Sample> {
    let size = 512 * MIB;
    let server = Server::ours(&Served::near().with("large", size))?;
    let arguments: &[&str] = match way {
        // The log says when a file is handed over; who reads it then is not logged.
        Reread::Handed | Reread::HandedByAnother => &["--log-level", "debug"],
        Reread::Pages => &["--no-passthrough"],
    };
    let mounted = match way {
        Reread::HandedByAnother => server.mount_unprivileged(arguments)?,
        Reread::Handed | Reread::Pages => server.mount(arguments)?,
    };
    let folder = tempfile::tempdir()?;
    let (file, local) = (mounted.path().join("large"), folder.path().join("large"));
    std::fs::copy(&file, &local)?;
    if !matches!(way, Reread::Pages) {
        mounted.hand_over(&file)?;
    }
    let run = |path: &Path| fio::run(job, &[("FILE", text(path)?)]);
    // Once for the caches, and then for the figure.
    run(&local)?;
    let other = figure(run(&local)?);
    run(&file)?;
    let mount = figure(run(&file)?);
    sample(mount, other, None, mounted)
}

/// A sequential re-read; every one is beside the local file system.
fn rereading(name: &'static str, target: &'static str, way: Reread) -> Measure {
    let rate = |report: fio::Report| report.bytes_per_second / MIB as f64;
    Measure {
        name,
        unit: "MiB/s",
        beside: "the same on the local file system",
        target,
        run: Box::new(move |_| reread(way, "reread-sequential.fio", rate)),
    }
}

fn reread_sequential() -> anyhow::Result<Measure> {
    let name = "re-read of 512 MiB from the disk cache, sequential by 1 MiB";
    Ok(rereading(name, "≥ 0.9", Reread::Handed))
}

fn reread_unprivileged() -> anyhow::Result<Measure> {
    let name = "the same by a server without any privilege";
    Ok(rereading(name, "≥ 0.9", Reread::HandedByAnother))
}

fn reread_pages() -> anyhow::Result<Measure> {
    let name = "a re-read with `--no-passthrough`, from the kernel's page cache";
    Ok(rereading(name, "reported", Reread::Pages))
}

fn reread_random() -> anyhow::Result<Measure> {
    let rate = |report: fio::Report| report.reads_per_second;
    Ok(Measure {
        name: "re-read of 512 MiB from the disk cache, 4 KiB here and there",
        unit: "reads/s",
        beside: "the same on the local file system",
        target: "≥ 0.9",
        run: Box::new(move |_| reread(Reread::Handed, "reread-random.fio", rate)),
    })
}

fn walk() -> anyhow::Result<Measure> {
    let server = Server::ours(&with_files(Served::remote()))?;
    let run = move |_| {
        let list = |arguments: &[&str]| -> anyhow::Result<(f64, Mounted)> {
            let mounted = server.mount(arguments)?;
            let started = now();
            let mut ls = std::process::Command::new("ls");
            let output = ls.arg("-l").arg(mounted.path().join("d")).output()?;
            anyhow::ensure!(output.status.success(), "ls failed");
            Ok((started.elapsed().as_secs_f64(), mounted))
        };
        let (listed, mounted) = list(&["--metadata", "list"])?;
        mounted.end()?;
        let (posix, mounted) = list(&[])?;
        sample(posix, listed, None, mounted)
    };
    Ok(Measure {
        name: "`ls -l` of 10 000 files with POSIX metadata, remote",
        unit: "s",
        beside: "the same with `--metadata list`",
        target: "≤ 8 s, ≤ 2 s",
        run: Box::new(run),
    })
}
