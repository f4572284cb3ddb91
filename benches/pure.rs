//! What the pure parts cost: a judgement per read, an order per window, a set of extents, a plan.
//!
//! Owns no truth but time: that they are right is their tests' business. A read(2) of 4 KiB from
//! the page cache takes about a microsecond, so that is what a judgement is compared with.

use std::time::Duration;

use criterion::Criterion;
use s3pod::read::{Pattern, Window};
use s3pod::units::{ByteRange, GIB, KIB, MIB};
use s3pod::write::{Copied, Edit, Extents, Limits, plan};

fn patterns(criterion: &mut Criterion) {
    let (mut pattern, mut at) = (Pattern::default(), 0);
    criterion.bench_function("pattern, sequential", |bench| {
        bench.iter(|| {
            at += 128 * KIB;
            pattern.observe(ByteRange::at(at, 128 * KIB))
        });
    });
    let (mut pattern, mut random) = (Pattern::default(), fastrand::Rng::with_seed(1));
    criterion.bench_function("pattern, random", |bench| {
        bench.iter(|| pattern.observe(ByteRange::at(random.u64(..GIB) * 4096, 4096)));
    });
    let (mut pattern, mut read) = (Pattern::default(), 0_u64);
    criterion.bench_function("pattern, eight streams", |bench| {
        bench.iter(|| {
            let range = ByteRange::at((read % 8) * 7 * GIB + read / 8 * 4096, 4096);
            read += 1;
            pattern.observe(range)
        });
    });
}

fn windows(criterion: &mut Criterion) {
    let (mut window, mut frontier) = (Window::default(), 0);
    criterion.bench_function("window, forward", |bench| {
        bench.iter(|| {
            frontier += 128 * KIB;
            window.forward(frontier, u64::MAX, 64 * MIB)
        });
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

fn extents(criterion: &mut Criterion) {
    let (mut extents, mut at) = (Extents::new(), 0);
    criterion.bench_function("extents, insert at the end", |bench| {
        bench.iter(|| {
            extents.insert(ByteRange::at(at, 4096));
            at += 4096;
        });
    });
    let (mut extents, mut random) = (scattered(), fastrand::Rng::with_seed(1));
    criterion.bench_function("extents, remove and insert among 8192", |bench| {
        bench.iter(|| {
            let at = random.u64(..8192) * 8 * KIB;
            extents.remove(ByteRange::at(at, 4096));
            extents.insert(ByteRange::at(at, 4096));
        });
    });
    let extents = scattered();
    criterion.bench_function("extents, slices of 1 MiB among 8192", |bench| {
        bench.iter(|| extents.slices(ByteRange::at(32 * MIB, MIB)));
    });
}

fn plans(criterion: &mut Criterion) {
    let (none, copied) = (Extents::new(), Copied::default());
    let mut one = Extents::new();
    one.insert(ByteRange::at(5 * GIB, 4096));
    let edit = |dirty, size| {
        let (holes, copied, base_size) = (&none, &copied, Some(size));
        Edit { base_size, dirty, holes, copied, size }
    };
    criterion.bench_function("plan, one page of 10 GiB", |bench| {
        bench.iter(|| plan(&edit(&one, 10 * GIB), &Limits::S3));
    });
    let scattered = scattered();
    criterion.bench_function("plan, 8192 pages of 1 GiB", |bench| {
        bench.iter(|| plan(&edit(&scattered, GIB), &Limits::S3));
    });
}

fn main() {
    // What takes nanoseconds is seen within a second to a hundredth.
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut criterion = criterion.configure_from_args();
    patterns(&mut criterion);
    windows(&mut criterion);
    extents(&mut criterion);
    plans(&mut criterion);
    criterion.final_summary();
}
