//! How an edited file becomes an object: one PUT, or parts that are sent and parts that are copied.
//!
//! Owns [`Plan`] and the arithmetic of S3's multipart limits. Promises: the parts tile the file in
//! order, no limit is broken, no changed byte is copied, and few bytes travel that did not change.
//! Pure. Must not know requests, staging files or the cache.
//!
//! A part must have 5 MiB unless it is the last, so a lone changed byte drags unchanged bytes
//! along (its *fill*), and a clean run below 5 MiB between two changes cannot be copied at all. The
//! rule for a clean run: copy it where that saves more than the fill it forces on its neighbours.

use std::sync::Arc;

use crate::store::Version;
use crate::units::{ByteRange, GIB, MIB};

use super::copied::Copied;
use super::extents::Extents;

/// What the store takes, and what we like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The smallest part that is not the last.
    pub min_part: u64,
    /// The largest part.
    pub max_part: u64,
    /// The most parts of one upload.
    pub max_parts: u32,
    /// The largest object.
    pub max_object: u64,
    /// A file of at most so many bytes goes in one PUT if copying does not save a part's worth.
    pub single_put_max: u64,
    /// Size of the parts that are sent, while `max_parts` allows.
    pub upload_part: u64,
    /// Size of the parts that are copied, while there are at most `copy_parts` of them.
    pub copy_part: u64,
    /// More copies than this become larger ones.
    pub copy_parts: u32,
}

impl Limits {
    /// Amazon S3: parts of 5 MiB to 5 GiB, 10 000 of them, which is 48.8 TiB in all
    /// (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html). A 256 MiB copy takes S3 a
    /// few seconds, and copies run in parallel: time first, then requests.
    pub const S3: Self = Self {
        min_part: 5 * MIB,
        max_part: 5 * GIB,
        max_parts: 10_000,
        max_object: 10_000 * 5 * GIB,
        single_put_max: 8 * MIB,
        upload_part: 8 * MIB,
        copy_part: 256 * MIB,
        copy_parts: 100,
    };

    /// The largest file these limits let through.
    pub fn max_size(&self) -> u64 {
        self.max_object.min(self.max_part.saturating_mul(u64::from(self.max_parts)))
    }
}

/// A file as it shall be, over the version it was opened on.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// Size of the object beneath; none for a new file.
    pub base_size: Option<u64>,
    /// Bytes that are staged.
    pub dirty: &'a Extents,
    /// Bytes that are zero whatever the base says; where they meet `dirty` or `copied`, those win.
    pub holes: &'a Extents,
    /// Bytes that other objects have; none of them is staged.
    pub copied: &'a Copied,
    /// Size of the file. What lies behind the base and is not dirty is zero.
    pub size: u64,
}

/// Where a byte of an edited file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The staging file.
    Dirty,
    /// The object beneath, at the same offset.
    Base,
    /// Another object.
    Copied,
    /// Nowhere: it is zero.
    Hole,
}

impl Edit<'_> {
    /// `range`, cut to the file, in pieces in order by where their bytes come from.
    pub fn pieces(&self, range: ByteRange) -> Vec<(ByteRange, Origin)> {
        let mut pieces: Vec<(ByteRange, Origin)> = Vec::new();
        let mut push = |piece: ByteRange, origin| match pieces.last_mut() {
            _ if piece.is_empty() => {}
            Some((last, same)) if *same == origin => last.end = piece.end,
            _ => pieces.push((piece, origin)),
        };
        for (slice, dirty) in self.dirty.slices(range.intersect(ByteRange::new(0, self.size))) {
            if dirty {
                push(slice, Origin::Dirty);
                continue;
            }
            let mut from = slice.start;
            for run in self.copied.within(slice) {
                self.beneath(ByteRange::new(from, run.range.start), &mut push);
                push(run.range, Origin::Copied);
                from = run.range.end;
            }
            self.beneath(ByteRange::new(from, slice.end), &mut push);
        }
        pieces
    }

    /// `range`, in which nothing is staged or copied: the base and holes.
    fn beneath(&self, range: ByteRange, mut push: impl FnMut(ByteRange, Origin)) {
        let base = ByteRange::new(0, self.base_size.unwrap_or(0));
        for (part, hole) in self.holes.slices(range) {
            let of_base = if hole { ByteRange::at(part.start, 0) } else { part.intersect(base) };
            // An empty intersection may begin anywhere; the hole then begins with the part.
            let split = if of_base.is_empty() { part.start } else { of_base.end };
            push(of_base, Origin::Base);
            push(ByteRange::new(split, part.end), Origin::Hole);
        }
    }

    /// The runs that objects have and the store may copy, in order: the base's, and those of other
    /// objects. S3 copies a range only of an object of more than 5 MiB
    /// (docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html).
    fn clean(&self, min_part: u64) -> Vec<ByteRange> {
        let base = self.base_size.filter(|&size| size > min_part).unwrap_or(0);
        let kept = ByteRange::new(0, base.min(self.size));
        let mut others: Extents = self.dirty.clone();
        self.holes.iter().for_each(|hole| others.insert(hole));
        self.copied.iter().for_each(|run| others.insert(run.range));
        let whole = ByteRange::new(0, self.size);
        let large = self.copied.within(whole).filter(|run| run.version.size > min_part);
        let mut clean: Vec<ByteRange> =
            others.gaps(kept).chain(large.map(|run| run.range)).collect();
        clean.sort_unstable();
        clean
    }

    /// Where the bytes of a part that is copied, and so lies within one run, stand.
    fn source_of(&self, range: ByteRange) -> PartSource {
        match self.copied.within(range).next() {
            Some(run) => PartSource::Other(Arc::clone(&run.version), run.source()),
            None => PartSource::Base(range),
        }
    }

    /// What of `range` must come from an object.
    fn fetches_within(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> {
        let fetched =
            |(piece, origin)| matches!(origin, Origin::Base | Origin::Copied).then_some(piece);
        self.pieces(range).into_iter().filter_map(fetched)
    }
}

/// How a file becomes an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The whole file in one PUT.
    Put {
        /// Size of the file.
        size: u64,
        /// Where in the file bytes of objects must be fetched first, in order.
        fetches: Vec<ByteRange>,
    },
    /// The file is this object, byte for byte: one server-side copy of it.
    Copy(Arc<Version>),
    /// A multipart upload.
    Multipart {
        /// In order of number, tiling the file.
        parts: Vec<PlannedPart>,
        /// Where in the parts that are sent bytes of objects must be fetched first, in order.
        fetches: Vec<ByteRange>,
    },
}

/// One part of a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPart {
    /// 1 to 10 000.
    pub number: u32,
    /// Where it stands in the file.
    pub range: ByteRange,
    /// Where its bytes come from.
    pub source: PartSource,
}

/// Where the bytes of a part come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartSource {
    /// From this range of the base, server-side.
    Base(ByteRange),
    /// From this range of another object, server-side.
    Other(Arc<Version>, ByteRange),
    /// From us: [`Edit::pieces`] says from where.
    Upload,
}

/// The file is larger than the store takes (EFBIG).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a file of {size} bytes is more than the {max} bytes the store takes")]
pub struct TooLarge {
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the largest possible object.
    pub max: u64,
}

impl Plan {
    /// What of the file the client must read from objects before it can send, in order.
    pub fn fetches(&self) -> &[ByteRange] {
        match self {
            Self::Put { fetches, .. } | Self::Multipart { fetches, .. } => fetches,
            Self::Copy(_) => &[],
        }
    }

    /// Bytes that the client reads from objects.
    pub fn bytes_down(&self) -> u64 {
        self.fetches().iter().map(ByteRange::len).sum()
    }

    /// Bytes that the client sends.
    pub fn bytes_up(&self) -> u64 {
        match self {
            Self::Put { size, .. } => *size,
            Self::Copy(_) => 0,
            Self::Multipart { parts, .. } => {
                let sent = parts.iter().filter(|part| part.source == PartSource::Upload);
                sent.map(|part| part.range.len()).sum()
            }
        }
    }

    /// Requests that the commit sends: the PUT, or the parts with Create and Complete. Fetches
    /// are not among them, since the cache may have them.
    pub fn requests(&self) -> u64 {
        match self {
            Self::Put { .. } | Self::Copy(_) => 1,
            Self::Multipart { parts, .. } => parts.len() as u64 + 2,
        }
    }
}

/// Decides how `edit` becomes an object.
///
/// # Errors
/// [`TooLarge`] where no upload could hold the file.
pub fn plan(edit: &Edit<'_>, limits: &Limits) -> Result<Plan, TooLarge> {
    let (size, max) = (edit.size, limits.max_size());
    if size > max {
        return Err(TooLarge { size, max });
    }
    if let Some(version) = edit.copied.whole(size)
        && (1..=limits.max_part).contains(&size)
    {
        return Ok(Plan::Copy(Arc::clone(version)));
    }
    let regions = fit(regions(&copies(edit, limits), size), limits);
    let copied: u64 = regions.iter().filter(|r| r.copied).map(|r| r.range.len()).sum();
    // Copying costs three requests more than a PUT: Create, another part, Complete.
    if size <= limits.single_put_max && copied < limits.min_part {
        let fetches = edit.fetches_within(ByteRange::new(0, size)).collect();
        return Ok(Plan::Put { size, fetches });
    }
    let sent = regions.iter().filter(|region| !region.copied);
    let fetches = sent.flat_map(|region| edit.fetches_within(region.range)).collect();
    Ok(Plan::Multipart { parts: parts(edit, &regions, limits), fetches })
}

/// A run of parts of one kind.
#[derive(Clone, Copy, Debug)]
struct Region {
    range: ByteRange,
    copied: bool,
    /// It ends the file, so that its last part may be small.
    last: bool,
}

/// Which runs to copy. What is between them, before and behind has room for parts.
fn copies(edit: &Edit<'_>, limits: &Limits) -> Vec<ByteRange> {
    let (min, size) = (limits.min_part, edit.size);
    let mut runs = edit.clean(min);
    runs.retain(|run| run.len() >= min || run.end == size);
    let mut copies: Vec<ByteRange> = Vec::new();
    for (index, &run) in runs.iter().enumerate() {
        let sent_from = copies.last().map_or(0, |copy| copy.end);
        let fill = fill_of(ByteRange::new(sent_from, run.start), min);
        let fill_behind = match runs.get(index + 1) {
            Some(next) => fill_of(ByteRange::new(run.end, next.start), min),
            None => 0,
        };
        // The fill comes off the end of the copy before, as far as that stays a part, then off
        // the start of this one.
        let spare = copies.last().map_or(0, |copy| copy.len() - min);
        let from_run = fill.saturating_sub(spare);
        let least = if run.end == size { 1 } else { min };
        if fill + fill_behind >= run.len() || from_run + least > run.len() {
            continue;
        }
        if let Some(before) = copies.last_mut() {
            before.end -= fill - from_run;
        }
        copies.push(ByteRange::new(run.start + from_run, run.end));
    }
    copies
}

/// How many unchanged bytes must be sent along with `sent` so that it is a part.
const fn fill_of(sent: ByteRange, min: u64) -> u64 {
    if sent.is_empty() { 0 } else { min.saturating_sub(sent.len()) }
}

/// The whole file as regions: the copies and what lies between.
fn regions(copies: &[ByteRange], size: u64) -> Vec<Region> {
    let mut regions = Vec::with_capacity(2 * copies.len() + 1);
    let mut push = |range: ByteRange, copied| {
        if !range.is_empty() {
            regions.push(Region { range, copied, last: range.end == size });
        }
    };
    let mut from = 0;
    for &copy in copies {
        push(ByteRange::new(from, copy.start), false);
        push(copy, true);
        from = copy.end;
    }
    push(ByteRange::new(from, size), false);
    regions
}

/// Sends the smallest copies instead, until the largest parts are few enough.
fn fit(mut regions: Vec<Region>, limits: &Limits) -> Vec<Region> {
    loop {
        let count: u64 =
            regions.iter().map(|region| part_count(region, limits.max_part, limits)).sum();
        let excess = count.saturating_sub(u64::from(limits.max_parts));
        let mut by_size: Vec<ByteRange> =
            regions.iter().filter(|region| region.copied).map(|region| region.range).collect();
        if excess == 0 || by_size.is_empty() {
            return regions;
        }
        // A copy between two sent regions is two regions less.
        by_size.sort_unstable_by_key(ByteRange::len);
        by_size.drain(..by_size.len().min(excess.div_ceil(2) as usize));
        by_size.sort_unstable();
        let size = regions.last().map_or(0, |region| region.range.end);
        regions = self::regions(&by_size, size);
    }
}

/// In how many parts of about `part` bytes the region goes.
fn part_count(region: &Region, part: u64, limits: &Limits) -> u64 {
    let wanted = region.range.len().div_ceil(part);
    if region.last { wanted } else { wanted.min(region.range.len() / limits.min_part).max(1) }
}

/// The smallest of `from`, twice `from` and so on up to the largest part with which `regions` are
/// at most `most` parts.
fn part_size(regions: &[Region], from: u64, most: u64, limits: &Limits) -> u64 {
    let mut part = from.min(limits.max_part);
    while part < limits.max_part
        && regions.iter().map(|region| part_count(region, part, limits)).sum::<u64>() > most
    {
        part = part.saturating_mul(2).min(limits.max_part);
    }
    part
}

fn parts(edit: &Edit<'_>, regions: &[Region], limits: &Limits) -> Vec<PlannedPart> {
    let (copied, sent): (Vec<Region>, Vec<Region>) = regions.iter().partition(|r| r.copied);
    // What is sent needs its fewest parts in any case; `fit` has left room for them.
    let least: u64 = sent.iter().map(|region| part_count(region, limits.max_part, limits)).sum();
    let room = u64::from(limits.max_parts).saturating_sub(least);
    let most = room.min(u64::from(limits.copy_parts));
    let copy_part = part_size(&copied, limits.copy_part, most, limits);
    let taken: u64 = copied.iter().map(|region| part_count(region, copy_part, limits)).sum();
    let left = u64::from(limits.max_parts).saturating_sub(taken);
    let upload_part = part_size(&sent, limits.upload_part, left, limits);
    let mut parts = Vec::new();
    for region in regions {
        let part = if region.copied { copy_part } else { upload_part };
        for range in split(region, part, limits) {
            let source = if region.copied { edit.source_of(range) } else { PartSource::Upload };
            parts.push(PlannedPart { number: parts.len() as u32 + 1, range, source });
        }
    }
    parts
}

/// Cuts a region into parts. The last of the file: full parts and a rest. Elsewhere: even parts,
/// so that none is below the minimum; a region of 8 to 10 MiB is one part, since its halves would
/// be.
fn split(region: &Region, part: u64, limits: &Limits) -> Vec<ByteRange> {
    let (range, count) = (region.range, part_count(region, part, limits));
    if region.last {
        let part_at = |index| ByteRange::at(range.start + index * part, part).intersect(range);
        return (0..count).map(part_at).collect();
    }
    // The first `longer` parts take one byte more.
    let (even, longer) = (range.len() / count, range.len() % count);
    let start_of = |index: u64| range.start + index * even + index.min(longer);
    (0..count).map(|index| ByteRange::new(start_of(index), start_of(index + 1))).collect()
}

/// Every so many parts of a stream the parts double.
const PARTS_PER_DOUBLING: u32 = 900;

/// The size of part `number` (from 1) of a stream whose length nobody knows yet. It starts at
/// `base_part`, doubles every 900 parts and ends at S3's 5 GiB: from 8 MiB the first 7 GiB go in
/// parts of 8 MiB, and 10 000 parts hold 900 × 8 MiB × (2¹⁰ − 1) + 1 000 × 5 GiB = 11.9 TiB.
pub(super) fn stream_part_size(number: u32, base_part: u64) -> u64 {
    let doublings = number.saturating_sub(1) / PARTS_PER_DOUBLING;
    base_part.saturating_mul(1 << doublings.min(20)).min(Limits::S3.max_part)
}

#[cfg(test)]
mod tests;
