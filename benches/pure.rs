//! What the pure parts cost: a judgement per read, an order per window, a set of extents, a plan.
//!
//! Owns no truth but time: that they are right is their tests' business. A read(2) of 4 KiB from
//! the page cache takes about a microsecond, so that is what a judgement is compared with. The
//! loop is our own: criterion would make the whole SDK be built with other features.

#![expect(clippy::print_stdout, reason = "a benchmark tells what it measured")]

use std::hint::black_box;
use std::time::Instant;

use s3pod::read::{Pattern, Window};
use s3pod::units::{ByteRange, GIB, KIB, MIB};
use s3pod::write::{Copied, Edit, Extents, Limits, plan};

/// Batches that are timed; the fastest is the one that nothing disturbed.
const BATCHES: u32 = 100;

/// Runs in a batch: of what takes nanoseconds, and of what takes a millisecond.
const MANY: u32 = 1_000;
const FEW: u32 = 10;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's own time")]
fn time<T>(name: &str, runs: u32, mut run: impl FnMut() -> T) {
    let batch = |_| {
        let started = Instant::now();
        for _ in 0..runs {
            black_box(run());
        }
        started.elapsed() / runs
    };
    let mut batches: Vec<_> = (0..BATCHES).map(batch).collect();
    batches.sort_unstable();
    let (fastest, median) = (batches[0], batches[batches.len() / 2]);
    println!("{name:40} {median:>10.1?} (fastest batch {fastest:.1?})");
}

fn patterns() {
    let (mut pattern, mut at) = (Pattern::default(), 0);
    time("pattern, sequential", MANY, || {
        at += 128 * KIB;
        pattern.observe(ByteRange::at(at, 128 * KIB))
    });
    let (mut pattern, mut random) = (Pattern::default(), fastrand::Rng::with_seed(1));
    time("pattern, random", MANY, || {
        pattern.observe(ByteRange::at(random.u64(..GIB) * 4096, 4096))
    });
    let (mut pattern, mut read) = (Pattern::default(), 0_u64);
    time("pattern, eight streams", MANY, || {
        let range = ByteRange::at((read % 8) * 7 * GIB + read / 8 * 4096, 4096);
        read += 1;
        pattern.observe(range)
    });
}

fn windows() {
    let (mut window, mut frontier) = (Window::default(), 0);
    time("window, forward", MANY, || {
        frontier += 128 * KIB;
        window.forward(frontier, u64::MAX, 64 * MIB)
    });
}

/// Every other 4 KiB of 64 MiB is dirty.
fn scattered() -> Extents {
    let mut extents = Extents::new();
    for number in 0..8192 {
        extents.insert(ByteRange::at(number * 8 * KIB, 4 * KIB));
    }
    extents
}

fn extents() {
    let (mut extents, mut at) = (Extents::new(), 0);
    time("extents, insert at the end", MANY, || {
        extents.insert(ByteRange::at(at, 4096));
        at += 4096;
    });
    let (mut extents, mut random) = (scattered(), fastrand::Rng::with_seed(1));
    time("extents, remove and insert among 8192", MANY, || {
        let at = random.u64(..8192) * 8 * KIB;
        extents.remove(ByteRange::at(at, 4096));
        extents.insert(ByteRange::at(at, 4096));
    });
    let extents = scattered();
    time("extents, slices of 1 MiB among 8192", MANY, || {
        extents.slices(ByteRange::at(32 * MIB, MIB))
    });
}

fn plans() {
    let (none, copied) = (Extents::new(), Copied::default());
    let mut one = Extents::new();
    one.insert(ByteRange::at(5 * GIB, 4096));
    let edit = |dirty, size| {
        let (holes, copied, base_size) = (&none, &copied, Some(size));
        Edit { base_size, dirty, holes, copied, size }
    };
    time("plan, one page of 10 GiB", MANY, || plan(&edit(&one, 10 * GIB), &Limits::S3));
    let scattered = scattered();
    time("plan, 8192 pages of 1 GiB", FEW, || plan(&edit(&scattered, GIB), &Limits::S3));
}

fn main() {
    patterns();
    windows();
    extents();
    plans();
}
