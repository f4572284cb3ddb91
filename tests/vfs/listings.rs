//! Long directories: every name once and in order, several requests at once, few too many.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use s3pod::vfs::{DirEntry, Error, Ino};
use s3pod_testkit::Op;

use crate::bench::Bench;

/// What a LIST takes: long enough for others to be asked meanwhile.
const LATENCY: Duration = Duration::from_millis(50);

/// Names as they came, without the dots.
async fn list(bench: &Bench, directory: Ino) -> Vec<String> {
    let listing = bench.vfs.opendir(directory).await.unwrap();
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let before = cookie;
        let mut take = |entry: &DirEntry| {
            names.push(entry.name.as_str().to_owned());
            cookie = entry.cookie;
            true
        };
        bench.vfs.readdir(listing, before, false, &mut take).await.unwrap();
        if cookie == before {
            break;
        }
    }
    bench.vfs.releasedir(listing).await.unwrap();
    names.split_off(2)
}

/// Lists a directory of these names; a name with a slash is an object in a directory below. The
/// LISTs it took, and how many were under way at once.
async fn exercise(names: impl Iterator<Item = String>) -> (usize, usize) {
    let bench = Bench::far(LATENCY).await;
    let mut wanted = BTreeSet::new();
    for name in names {
        // Too large to be asked whether it is a link.
        bench.bucket().put_synthetic(&name, 100_000, 1);
        wanted.insert(name.split('/').next().unwrap_or_default().to_owned());
    }
    let log = bench.server.log();
    log.clear();
    let mut got = list(&bench, Ino::ROOT).await;
    got.sort();
    assert_eq!(got.len(), wanted.len());
    assert!(got.iter().eq(wanted.iter()), "each once");
    (log.count(Op::List), log.peak(Op::List))
}

#[tokio::test(flavor = "multi_thread")]
async fn numbered_files_are_listed_by_several_requests_at_once() {
    let (lists, peak) = exercise((0..100_000).map(|number| format!("img-{number:08}.jpg"))).await;
    assert!(peak >= 4, "{peak} at once");
    assert!(lists <= 100 + 8, "{lists} LISTs");
}

#[tokio::test(flavor = "multi_thread")]
async fn hashed_files_are_listed_by_several_requests_at_once() {
    let mut random = fastrand::Rng::with_seed(3);
    let (lists, peak) = exercise((0..100_000).map(|_| format!("{:032x}", random.u128(..)))).await;
    assert!(peak >= 4, "{peak} at once");
    assert!(lists <= 100 + 12, "{lists} LISTs");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pages_are_twenty_requests() {
    let (lists, _) = exercise((0..19_999).map(|number| format!("img-{number:08}.jpg"))).await;
    assert_eq!(lists, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_guess_costs_requests_and_no_name() {
    // Dense, then far apart, then dense again; with directories between the files.
    let dense = (0..24_000).map(|number| format!("a{number:06}"));
    let apart =
        (0..6_000).map(|number| format!("{}{:05}", ["b", "k", "x"][number % 3], number * 7));
    let directories = (0..3_000).map(|number| format!("c{number:05}/below"));
    let beside = (0..3_000).map(|number| format!("c{number:05}-beside"));
    let tail = (0..9_000).map(|number| format!("zz-{number:06}-\u{e4}"));
    let (lists, _) =
        exercise(dense.chain(apart).chain(directories).chain(beside).chain(tail)).await;
    assert!(lists <= 45 + 15, "{lists} LISTs");
}

#[tokio::test]
async fn what_a_listing_said_of_a_known_directory_answers_once() {
    let bench = Bench::new(Duration::from_secs(60)).await;
    for key in ["d/e/a", "d/f"] {
        bench.bucket().put(key, "x");
    }
    let d = bench.vfs.lookup(Ino::ROOT, OsStr::new("d")).await.unwrap().attr.ino;
    let look = || bench.vfs.lookup(d, OsStr::new("e"));
    look().await.unwrap();
    assert_eq!(list(&bench, d).await, ["e", "f"]);
    look().await.unwrap();
    bench.bucket().delete("d/e/a");
    assert!(matches!(look().await, Err(Error::NotFound)));
}
