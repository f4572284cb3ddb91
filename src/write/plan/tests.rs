//! The examples of the contract, S3's limits at full size, and the best plan by trying all.

use std::time::SystemTime;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::copied::CopiedRun;
use super::*;
use crate::units::{KIB, TIB};

fn set(ranges: &[ByteRange]) -> Extents {
    ranges.iter().copied().collect()
}

const NO_COPIES: &Copied = &Copied::new();

/// Another object.
fn version(name: u8, size: u64) -> Arc<Version> {
    Arc::new(Version {
        key: format!("v{name}").as_str().into(),
        etag: Some("\"e\"".into()),
        version_id: None,
        size,
        last_modified: SystemTime::UNIX_EPOCH,
    })
}

fn copied(runs: &[(ByteRange, &Arc<Version>, u64)]) -> Copied {
    let mut copied = Copied::new();
    for &(range, version, from) in runs {
        copied.insert(CopiedRun { range, version: Arc::clone(version), from });
    }
    copied
}

/// The plan of a file that is nothing but copies and what is staged between.
fn planned_copies(runs: &[(ByteRange, &Arc<Version>, u64)], dirty: &[ByteRange]) -> Plan {
    let (copied, dirty) = (copied(runs), set(dirty));
    let size = copied.end().max(dirty.end());
    let holes: Extents = [ByteRange::new(0, size)].into_iter().collect();
    let edit = Edit { base_size: None, dirty: &dirty, holes: &holes, copied: &copied, size };
    let plan = plan(&edit, &Limits::S3).unwrap();
    check(&edit, &Limits::S3, &plan);
    plan
}

fn planned(base: Option<u64>, dirty: &[ByteRange], size: u64) -> Plan {
    let (dirty, holes) = (set(dirty), Extents::new());
    let edit = Edit { base_size: base, dirty: &dirty, holes: &holes, copied: NO_COPIES, size };
    let plan = plan(&edit, &Limits::S3).unwrap();
    check(&edit, &Limits::S3, &plan);
    plan
}

/// Everything that must hold of any plan.
fn check(edit: &Edit<'_>, limits: &Limits, plan: &Plan) {
    let (parts, sent): (&[PlannedPart], Extents) = match plan {
        Plan::Put { size, .. } => {
            assert_eq!(*size, edit.size);
            assert!(*size <= limits.single_put_max);
            (&[], set(&[ByteRange::new(0, *size)]))
        }
        Plan::Copy(version) => {
            assert_eq!(edit.copied.whole(edit.size), Some(version));
            assert!(edit.size <= limits.max_part);
            (&[], Extents::new())
        }
        Plan::Multipart { parts, .. } => {
            let sent = parts.iter().filter(|part| part.source == PartSource::Upload);
            check_parts(edit, limits, parts);
            (parts, sent.map(|part| part.range).collect())
        }
    };
    // Exactly the objects' bytes within what is sent are fetched.
    let wanted: Extents =
        edit.clean(0).into_iter().flat_map(|run| sent.within(run).collect::<Vec<_>>()).collect();
    assert_eq!(plan.fetches().iter().copied().collect::<Extents>(), wanted);
    assert_eq!(plan.bytes_down(), wanted.total());
    assert_eq!(plan.bytes_up(), sent.total());
    let requests = if let Plan::Multipart { .. } = plan { parts.len() as u64 + 2 } else { 1 };
    assert_eq!(plan.requests(), requests);
}

fn check_parts(edit: &Edit<'_>, limits: &Limits, parts: &[PlannedPart]) {
    let clean = edit.clean(limits.min_part);
    assert!(!parts.is_empty() && parts.len() <= limits.max_parts as usize);
    let mut at = 0;
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        assert_eq!(part.number as usize, index + 1);
        assert_eq!(part.range.start, at, "a gap before part {}", part.number);
        at = part.range.end;
        let least = if last { 1 } else { limits.min_part };
        assert!((least..=limits.max_part).contains(&part.range.len()), "{part:?}");
        let is_clean = clean.iter().any(|run| run.contains(part.range));
        assert!(
            is_clean || part.source == PartSource::Upload,
            "{part:?} copies a changed byte, or of two objects"
        );
        match &part.source {
            PartSource::Base(source) => {
                let base_size = edit.base_size.unwrap_or(0);
                assert_eq!(*source, part.range);
                assert!(source.end <= base_size && base_size > limits.min_part);
                assert_eq!(edit.copied.within(part.range).count(), 0);
            }
            PartSource::Other(version, source) => {
                let run = edit.copied.within(part.range).next().unwrap();
                assert_eq!((&run.version, run.source()), (version, *source));
                assert!(source.end <= version.size && version.size > limits.min_part);
            }
            PartSource::Upload => {}
        }
    }
    assert_eq!(at, edit.size);
}

#[test]
fn appending_a_little_to_a_large_object_sends_the_little() {
    let end = 10 * GIB + KIB;
    let plan = planned(Some(10 * GIB), &[ByteRange::new(10 * GIB, end)], end);
    assert_eq!((plan.bytes_up(), plan.bytes_down()), (KIB, 0));
    // 40 copies of 256 MiB, the part that is sent, Create and Complete.
    assert_eq!(plan.requests(), 43);
}

#[test]
fn a_page_in_the_middle_of_a_gibibyte_drags_one_part_along() {
    let page = ByteRange::at(512 * MIB, 4 * KIB);
    let plan = planned(Some(GIB), &[page], GIB);
    assert_eq!(plan.bytes_up(), 5 * MIB);
    assert_eq!(plan.bytes_down(), 5 * MIB - 4 * KIB);
    assert_eq!(plan.requests(), 2 + 2 + 1 + 2);
}

#[test]
fn the_first_and_the_last_page() {
    let plan = planned(Some(GIB), &[ByteRange::at(0, 4 * KIB)], GIB);
    assert_eq!(plan.bytes_up(), 5 * MIB);
    let plan = planned(Some(GIB), &[ByteRange::new(GIB - 4 * KIB, GIB)], GIB);
    assert_eq!((plan.bytes_up(), plan.bytes_down()), (4 * KIB, 0));
}

#[test]
fn small_files_go_in_one_put() {
    let put = |size, fetches| Plan::Put { size, fetches };
    assert_eq!(planned(None, &[], 0), put(0, vec![]));
    assert_eq!(planned(None, &[ByteRange::new(0, 17)], 17), put(17, vec![]));
    let end = 3 * MIB + KIB;
    let appended = planned(Some(3 * MIB), &[ByteRange::new(3 * MIB, end)], end);
    assert_eq!(appended, put(end, vec![ByteRange::new(0, 3 * MIB)]));
    // Cut to 3 MiB: a copy would save less than a part.
    assert_eq!(planned(Some(GIB), &[], 3 * MIB), put(3 * MIB, vec![ByteRange::new(0, 3 * MIB)]));
    // 6 MiB beneath and a little behind: the copy saves them.
    let end = 6 * MIB + KIB;
    assert_eq!(planned(Some(6 * MIB), &[ByteRange::new(6 * MIB, end)], end).bytes_up(), KIB);
}

#[test]
fn no_range_is_copied_of_an_object_of_5_mib() {
    let appended = |base: u64| {
        let end = base + KIB;
        planned(Some(base), &[ByteRange::new(base, end)], end)
    };
    let fetches = vec![ByteRange::new(0, 5 * MIB)];
    assert_eq!(appended(5 * MIB), Plan::Put { size: 5 * MIB + KIB, fetches });
    assert_eq!(appended(5 * MIB + 1).bytes_up(), KIB);
    // Nor where the file is too large for one PUT.
    let end = 25 * MIB;
    let plan = planned(Some(5 * MIB), &[ByteRange::new(5 * MIB, end)], end);
    assert_eq!((plan.bytes_up(), plan.bytes_down()), (end, 5 * MIB));
}

#[test]
fn a_shorter_file_is_a_copy_of_the_start() {
    let plan = planned(Some(10 * GIB), &[], GIB + 1);
    assert_eq!((plan.bytes_up(), plan.bytes_down(), plan.requests()), (0, 0, 5 + 2));
}

#[test]
fn a_new_large_file_goes_in_parts_of_8_mib_and_a_rest() {
    let plan = planned(None, &[ByteRange::new(0, GIB + 1)], GIB + 1);
    assert_eq!(plan.requests(), 128 + 1 + 2);
    let plan = planned(None, &[ByteRange::new(0, TIB)], TIB);
    // 8 MiB would be 131 072 parts, so 128 MiB.
    assert_eq!(plan.requests(), 8_192 + 2);
}

#[test]
fn many_copies_become_larger_ones() {
    let end = 100 * GIB + 1;
    let plan = planned(Some(100 * GIB), &[ByteRange::new(100 * GIB, end)], end);
    // 256 MiB: 400 copies; 512 MiB: 200; 1 GiB: 100.
    assert_eq!(plan.requests(), 100 + 1 + 2);
    let end = 40 * TIB + 1;
    let plan = planned(Some(40 * TIB), &[ByteRange::new(40 * TIB, end)], end);
    assert_eq!((plan.requests(), plan.bytes_up()), (40 * 1024 / 5 + 1 + 2, 1));
}

#[test]
fn two_pages_close_together_share_their_fill() {
    // 9 MiB between them: sent whole it is less than two fills of 5 MiB.
    let pages = [ByteRange::at(100 * MIB, KIB), ByteRange::at(109 * MIB, KIB)];
    assert_eq!(planned(Some(GIB), &pages, GIB).bytes_up(), 9 * MIB + KIB);
    let pages = [ByteRange::at(100 * MIB, KIB), ByteRange::at(111 * MIB, KIB)];
    assert_eq!(planned(Some(GIB), &pages, GIB).bytes_up(), 10 * MIB);
}

#[test]
fn more_changes_than_parts_send_the_smallest_copies() {
    // A page every 20 MiB of 200 GiB: 10 240 changes, so 20 480 regions.
    let pages: Vec<ByteRange> = (0..10_240).map(|n| ByteRange::at(n * 20 * MIB, KIB)).collect();
    let plan = planned(Some(200 * GIB), &pages, 200 * GIB);
    assert!(plan.requests() <= 10_002);
    assert!(plan.bytes_up() < 160 * GIB);
}

#[test]
fn too_large_a_file_is_refused_and_the_largest_is_not() {
    let (dirty, holes) = (Extents::new(), Extents::new());
    let max = Limits::S3.max_size();
    let edit = Edit { base_size: None, dirty: &dirty, holes: &holes, copied: NO_COPIES, size: max };
    let Plan::Multipart { parts, .. } = plan(&edit, &Limits::S3).unwrap() else { panic!() };
    assert_eq!(parts.len(), 10_000);
    let edit = Edit { size: max + 1, ..edit };
    assert_eq!(plan(&edit, &Limits::S3), Err(TooLarge { size: max + 1, max }));
}

#[test]
fn a_copy_of_a_whole_object_is_one_request() {
    for size in [1, 4 * KIB, 5 * MIB, GIB, 5 * GIB] {
        let (source, whole) = (version(1, size), ByteRange::new(0, size));
        assert_eq!(planned_copies(&[(whole, &source, 0)], &[]), Plan::Copy(Arc::clone(&source)));
    }
    let (source, whole) = (version(1, 10 * GIB), ByteRange::new(0, 10 * GIB));
    let plan = planned_copies(&[(whole, &source, 0)], &[]);
    assert_eq!((plan.bytes_up(), plan.bytes_down(), plan.requests()), (0, 0, 42));
}

#[test]
fn objects_end_to_end_are_copied_and_small_ones_sent() {
    let (one, two, small) = (version(1, GIB), version(2, 100 * MIB), version(3, 3 * MIB));
    let runs = [
        (ByteRange::at(0, GIB), &one, 0),
        (ByteRange::at(GIB, 3 * MIB), &small, 0),
        (ByteRange::at(GIB + 3 * MIB, 90 * MIB), &two, 10 * MIB),
    ];
    let plan = planned_copies(&runs, &[]);
    // The small one is no part by itself, so 2 MiB of a neighbour travel with it.
    assert_eq!((plan.bytes_up(), plan.bytes_down()), (5 * MIB, 5 * MIB));
    assert_eq!(plan.requests(), 4 + 1 + 1 + 2);
    // A little behind a large copy, and a large copy behind a little.
    let plan = planned_copies(&[(ByteRange::at(0, GIB), &one, 0)], &[ByteRange::at(GIB, KIB)]);
    assert_eq!((plan.bytes_up(), plan.bytes_down()), (KIB, 0));
    let plan = planned_copies(&[(ByteRange::at(KIB, GIB), &one, 0)], &[ByteRange::at(0, KIB)]);
    assert_eq!((plan.bytes_up(), plan.bytes_down()), (5 * MIB, 5 * MIB - KIB));
}

#[test]
fn pieces_say_where_each_byte_comes_from() {
    let (dirty, holes) = (set(&[ByteRange::new(2, 4)]), set(&[ByteRange::new(3, 6)]));
    let edit =
        Edit { base_size: Some(8), dirty: &dirty, holes: &holes, copied: NO_COPIES, size: 10 };
    let expected = [
        (ByteRange::new(1, 2), Origin::Base),
        (ByteRange::new(2, 4), Origin::Dirty),
        (ByteRange::new(4, 6), Origin::Hole),
        (ByteRange::new(6, 8), Origin::Base),
        (ByteRange::new(8, 10), Origin::Hole),
    ];
    assert_eq!(edit.pieces(ByteRange::new(1, 99)), expected);
    assert_eq!(edit.pieces(ByteRange::new(12, 99)), []);
}

#[test]
fn a_stream_starts_small_and_has_room_for_tebibytes() {
    for base in [5 * MIB, 8 * MIB, 64 * MIB, 5 * GIB] {
        let total: u64 = (1..=10_000).map(|number| stream_part_size(number, base)).sum();
        assert!(total >= 5 * TIB, "{base}: {total}");
        assert!((1..=10_000).all(|number| stream_part_size(number, base) <= 5 * GIB));
        assert!((1..10_000).all(|n| stream_part_size(n, base) <= stream_part_size(n + 1, base)));
    }
    let first: u64 = (1..=900).map(|number| stream_part_size(number, 8 * MIB)).sum();
    assert_eq!(first, 900 * 8 * MIB);
    let total: u64 = (1..=10_000).map(|number| stream_part_size(number, 8 * MIB)).sum();
    assert_eq!(total, 900 * 1_023 * 8 * MIB + 1_000 * 5 * GIB);
}

/// S3 in small, so that limits meet often and the best plan can be found by trying all.
const SMALL: Limits = Limits {
    min_part: 5,
    max_part: 60,
    max_parts: 40,
    max_object: 1_000,
    single_put_max: 8,
    upload_part: 8,
    copy_part: 16,
    copy_parts: 4,
};

fn ranges(len: u64, most: usize) -> impl Strategy<Value = Extents> {
    let range = (0..len, 1..12_u64).prop_map(|(start, len)| ByteRange::at(start, len));
    vec(range, 0..most).prop_map(|ranges| ranges.into_iter().collect())
}

/// The fewest bytes any plan could send, by trying every boundary.
fn fewest_sent(edit: &Edit<'_>, min: u64) -> u64 {
    let clean = edit.clean(min);
    let mut best = vec![u64::MAX; edit.size as usize + 1];
    best[0] = 0;
    for end in 1..=edit.size {
        for start in 0..end {
            let (before, range) = (best[start as usize], ByteRange::new(start, end));
            if before == u64::MAX || (range.len() < min && end != edit.size) {
                continue;
            }
            let is_clean = clean.iter().any(|run| run.contains(range));
            let sent = if is_clean { 0 } else { range.len() };
            best[end as usize] = best[end as usize].min(before + sent);
        }
    }
    best[edit.size as usize]
}

proptest! {
    #[test]
    fn every_plan_holds_in_small(
        base in proptest::option::of(0..300_u64),
        size in 0..300_u64,
        mut dirty in ranges(300, 12),
        mut holes in ranges(300, 4),
    ) {
        dirty.truncate(size);
        holes.truncate(size);
        let edit = Edit { base_size: base, dirty: &dirty, holes: &holes, copied: NO_COPIES, size };
        let plan = plan(&edit, &SMALL).unwrap();
        check(&edit, &SMALL, &plan);
        if let Plan::Multipart { .. } = plan {
            let fewest = fewest_sent(&edit, SMALL.min_part);
            prop_assert!(plan.bytes_up() <= fewest + fewest / 2, "{} > {fewest}", plan.bytes_up());
        }
    }

    #[test]
    fn every_plan_of_copies_holds_in_small(
        base in proptest::option::of(0..300_u64),
        size in 1..300_u64,
        mut dirty in ranges(300, 8),
        mut holes in ranges(300, 3),
        runs in vec((0..300_u64, 1..80_u64, 0..3_u8, 0..20_u64), 0..6),
    ) {
        // One of the objects is so small that nothing can be copied of it but the whole.
        let objects = [version(0, 4), version(1, 100), version(2, 300)];
        let mut copied = Copied::new();
        for (start, len, object, from) in runs {
            let object = &objects[usize::from(object)];
            let from = from.min(object.size - 1);
            let range = ByteRange::at(start, len.min(object.size - from));
            dirty.remove(range);
            holes.remove(range);
            copied.insert(CopiedRun { range, version: Arc::clone(object), from });
        }
        dirty.truncate(size);
        holes.truncate(size);
        copied.truncate(size);
        let edit = Edit { base_size: base, dirty: &dirty, holes: &holes, copied: &copied, size };
        let plan = plan(&edit, &SMALL).unwrap();
        check(&edit, &SMALL, &plan);
        if let Plan::Multipart { .. } = plan {
            let fewest = fewest_sent(&edit, SMALL.min_part);
            prop_assert!(plan.bytes_up() <= fewest + fewest / 2, "{} > {fewest}", plan.bytes_up());
        }
    }

    #[test]
    fn every_plan_holds_with_few_parts(
        base in 0..2_000_u64,
        size in 0..1_200_u64,
        mut dirty in ranges(1_200, 80),
    ) {
        let limits = Limits { max_parts: 20, max_object: 1_200, ..SMALL };
        dirty.truncate(size);
        let holes = Extents::new();
        let base_size = Some(base);
        let edit = Edit { base_size, dirty: &dirty, holes: &holes, copied: NO_COPIES, size };
        check(&edit, &limits, &plan(&edit, &limits).unwrap());
    }

    #[test]
    fn every_plan_holds_at_full_size(
        base in 0..20 * GIB,
        size in 0..20 * GIB,
        dirty in vec((0..20 * GIB, 1..100 * MIB), 0..20),
        holes in vec((0..20 * GIB, 1..100 * MIB), 0..4),
    ) {
        let set = |ranges: &[(u64, u64)]| {
            let mut set: Extents =
                ranges.iter().map(|&(start, len)| ByteRange::at(start, len)).collect();
            set.truncate(size);
            set
        };
        let (dirty, holes) = (set(&dirty), set(&holes));
        let base_size = Some(base);
        let edit = Edit { base_size, dirty: &dirty, holes: &holes, copied: NO_COPIES, size };
        check(&edit, &Limits::S3, &plan(&edit, &Limits::S3).unwrap());
    }
}
