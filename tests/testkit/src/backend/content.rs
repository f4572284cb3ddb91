//! What an object holds: memory, a stretch of the spill file, or a formula.
//!
//! Owns the segment list of a body, its slicing and its streaming in frames of 256 KiB.
//! Promises that slicing and copying move no bytes, so that a synthetic object of terabytes
//! stays a few words however often it is copied in parts. Must not know keys, buckets or HTTP.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use s3s::stream::{ByteStream, RemainingLength};

use super::spill::SpilledExtent;

/// The largest frame a body is streamed in: big enough that per-frame costs vanish, small
/// enough that a connection holds little memory.
pub(crate) const FRAME: u64 = 256 * 1024;

#[derive(Clone, Debug)]
enum Source {
    Memory(Bytes),
    Spilled(Arc<SpilledExtent>),
    Synthetic { seed: u64 },
}

#[derive(Clone, Debug)]
struct Segment {
    source: Source,
    offset: u64,
    len: u64,
}

impl Segment {
    fn read(&self, skip: u64, len: u64) -> io::Result<Bytes> {
        let start = self.offset + skip;
        match &self.source {
            Source::Memory(bytes) => Ok(bytes.slice(index(start)..index(start + len))),
            Source::Spilled(extent) => {
                let mut buffer = BytesMut::zeroed(index(len));
                extent.file().read_exact_at(&mut buffer, extent.position() + start)?;
                Ok(buffer.freeze())
            }
            Source::Synthetic { seed } => Ok(synthetic_bytes(*seed, start..start + len).into()),
        }
    }
}

/// An immutable body, cheap to slice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    segments: Vec<Segment>,
    len: u64,
}

impl Content {
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        let len = bytes.len() as u64;
        Self::single(Source::Memory(bytes), len)
    }

    pub(crate) fn spilled(extent: Arc<SpilledExtent>, len: u64) -> Self {
        Self::single(Source::Spilled(extent), len)
    }

    pub(crate) fn synthetic(seed: u64, len: u64) -> Self {
        Self::single(Source::Synthetic { seed }, len)
    }

    fn single(source: Source, len: u64) -> Self {
        let segments = if len == 0 { Vec::new() } else { vec![Segment { source, offset: 0, len }] };
        Self { segments, len }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.segments.extend(other.segments.iter().cloned());
        self.len += other.len;
    }

    pub(crate) fn slice(&self, range: Range<u64>) -> Self {
        let mut segments = Vec::new();
        let mut position = 0;
        for segment in &self.segments {
            let from = range.start.max(position);
            let to = range.end.min(position + segment.len);
            if from < to {
                let offset = segment.offset + (from - position);
                segments.push(Segment { source: segment.source.clone(), offset, len: to - from });
            }
            position += segment.len;
            if position >= range.end {
                break;
            }
        }
        let len = segments.iter().map(|segment| segment.len).sum();
        Self { segments, len }
    }

    /// True when any byte of it is made by formula, so that nobody should try to hash it whole.
    pub(crate) fn is_synthetic(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment.source, Source::Synthetic { .. }))
    }

    pub(crate) fn frames(self) -> Frames {
        Frames { remaining: self.len, segments: self.segments.into(), skip: 0 }
    }

    /// The whole body in one piece; only for bodies known to be small.
    pub(crate) fn to_bytes(&self) -> io::Result<Bytes> {
        if let [Segment { source: Source::Memory(bytes), offset, len }] = self.segments.as_slice() {
            return Ok(bytes.slice(index(*offset)..index(offset + len)));
        }
        let mut all = BytesMut::with_capacity(index(self.len));
        for frame in self.clone().frames() {
            all.extend_from_slice(&frame?);
        }
        Ok(all.freeze())
    }
}

/// The frames of a body, in order, each made only when asked for.
#[derive(Debug)]
pub(crate) struct Frames {
    segments: VecDeque<Segment>,
    skip: u64,
    remaining: u64,
}

impl Iterator for Frames {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let segment = self.segments.front()?;
        let len = (segment.len - self.skip).min(FRAME);
        let frame = segment.read(self.skip, len);
        self.skip += len;
        self.remaining -= len;
        if self.skip == segment.len {
            self.segments.pop_front();
            self.skip = 0;
        }
        Some(frame)
    }
}

impl Stream for Frames {
    type Item = Result<Bytes, s3s::StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next().map(|frame| frame.map_err(Into::into)))
    }
}

impl ByteStream for Frames {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(index(self.remaining))
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("testkit runs on 64-bit machines")
}

/// The bytes of a synthetic object in `range`, for comparing with what a client read.
///
/// Word `i` (8 little-endian bytes) is the `i`-th output of splitmix64 started at `seed`, so any
/// range can be computed alone and two offsets practically never look alike.
#[must_use]
pub fn synthetic_bytes(seed: u64, range: Range<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(index(range.end - range.start) + 16);
    let first_word = range.start / 8;
    let end_word = range.end.div_ceil(8);
    for word in first_word..end_word {
        out.extend_from_slice(&splitmix64(seed, word).to_le_bytes());
    }
    out.drain(..index(range.start % 8).min(out.len()));
    out.truncate(index(range.end - range.start));
    out
}

/// Output number `at` of Steele, Lea and Flood's SplitMix64 started at `seed`.
fn splitmix64(seed: u64, at: u64) -> u64 {
    let mut z = seed.wrapping_add(at.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_ranges_are_windows_of_one_sequence() {
        let whole = synthetic_bytes(7, 0..100);
        for (start, end) in [(0, 100), (3, 50), (8, 16), (13, 14), (99, 100), (40, 40)] {
            assert_eq!(synthetic_bytes(7, start..end), whole[index(start)..index(end)]);
        }
        assert_ne!(synthetic_bytes(8, 0..100), whole);
    }

    #[test]
    fn slicing_and_appending_move_no_bytes_but_keep_their_order() {
        let mut content = Content::from_bytes(Bytes::from_static(b"hello "));
        content.append(&Content::synthetic(1, 1 << 40).slice(1 << 30..(1 << 30) + 10));
        content.append(&Content::from_bytes(Bytes::from_static(b"world")));
        assert_eq!(content.len(), 21);
        let mut expected = b"lo ".to_vec();
        expected.extend(synthetic_bytes(1, 1 << 30..(1 << 30) + 10));
        expected.extend(b"wo");
        assert_eq!(content.slice(3..18).to_bytes().unwrap(), expected);
        assert!(content.slice(0..6).to_bytes().unwrap() == "hello " && content.is_synthetic());
    }

    #[test]
    fn frames_are_bounded_and_complete() {
        let frames = Content::synthetic(3, FRAME * 2 + 5).frames();
        let sizes: Vec<_> = frames.map(|frame| frame.unwrap().len() as u64).collect();
        assert_eq!(sizes, [FRAME, FRAME, 5]);
    }
}
