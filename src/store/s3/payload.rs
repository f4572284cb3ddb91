//! What is uploaded: as a request body, and as a checksum of it.
//!
//! Owns [`Body`], which hands a payload to the connection in small frames, so that progress can be
//! seen and a file costs two frames of memory, and [`Progress`], the watchdog over it. Must not
//! know operations.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use crate::store::Payload;
use crate::units::ByteRange;

/// Bytes per frame. The connection's own write buffer is about 400 KiB; more in one frame would
/// only hide progress.
const FRAME: u64 = 256 * 1024;

/// A local file could not be read while it was sent.
#[derive(Debug, thiserror::Error)]
#[error("reading what is to be uploaded: {0}")]
pub(super) struct LocalRead(#[from] io::Error);

/// How many bytes of a body the connection has taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Awaits `request` as long as bytes move: none when nothing moved for `patience`.
    pub(super) async fn watch<F: Future>(
        &self,
        patience: Duration,
        request: F,
    ) -> Option<F::Output> {
        let mut request = std::pin::pin!(request);
        let mut seen = 0;
        loop {
            if let Ok(output) = tokio::time::timeout(patience, &mut request).await {
                return Some(output);
            }
            let taken = self.0.load(Ordering::Relaxed);
            if taken == seen {
                return None;
            }
            seen = taken;
        }
    }
}

/// A payload on its way.
pub(super) struct Body {
    source: Source,
    left: u64,
    progress: Progress,
}

enum Source {
    Memory(Bytes),
    File {
        file: Arc<File>,
        next: u64,
        end: u64,
        ahead: Option<JoinHandle<Result<Bytes, LocalRead>>>,
    },
}

impl Body {
    /// The body of one attempt, and the watch over it.
    pub(super) fn new(payload: &Payload) -> (Self, Progress) {
        let source = match payload {
            Payload::Bytes(bytes) => Source::Memory(bytes.clone()),
            Payload::File(file, range) => Source::File {
                file: Arc::clone(file),
                next: range.start,
                end: range.end,
                ahead: None,
            },
        };
        let progress = Progress::default();
        (Self { source, left: payload.len(), progress: progress.clone() }, progress)
    }

    pub(super) fn into_stream(self) -> ByteStream {
        ByteStream::new(SdkBody::from_body_1_x(self))
    }
}

fn read_ahead(
    file: &Arc<File>,
    next: &mut u64,
    end: u64,
) -> Option<JoinHandle<Result<Bytes, LocalRead>>> {
    let range = ByteRange::at(*next, FRAME).intersect(ByteRange::new(*next, end));
    if range.is_empty() {
        return None;
    }
    *next = range.end;
    let file = Arc::clone(file);
    Some(tokio::task::spawn_blocking(move || read_frame(&file, range)))
}

fn read_frame(file: &File, range: ByteRange) -> Result<Bytes, LocalRead> {
    let length = usize::try_from(range.len()).expect("a frame fits into memory");
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, LocalRead>>> {
        match self {
            Self::Memory(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Memory(bytes) => {
                let length = bytes.len().min(FRAME as usize);
                Poll::Ready(Some(Ok(bytes.split_to(length))))
            }
            Self::File { file, next, end, ahead } => {
                if ahead.is_none() {
                    *ahead = read_ahead(file, next, *end);
                }
                let Some(reading) = ahead else { return Poll::Ready(None) };
                let read = match Pin::new(reading).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(read)) => read,
                    Poll::Ready(Err(lost)) => Err(LocalRead(io::Error::other(lost))),
                };
                *ahead = read_ahead(file, next, *end);
                Poll::Ready(Some(read))
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = LocalRead;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LocalRead>>> {
        let this = self.get_mut();
        let polled = this.source.poll_frame(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            this.left -= bytes.len() as u64;
            this.progress.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        polled.map(|read| read.map(|read| read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The CRC-32 of a payload as S3 writes it: big-endian, base64.
pub(super) async fn crc32(payload: &Payload) -> Result<String, LocalRead> {
    let sum = match payload {
        Payload::Bytes(bytes) => {
            let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
            digest.update(bytes);
            digest.finalize()
        }
        Payload::File(file, range) => {
            let (file, range) = (Arc::clone(file), *range);
            tokio::task::spawn_blocking(move || crc32_of_file(&file, range))
                .await
                .map_err(|lost| LocalRead(io::Error::other(lost)))??
        }
    };
    let sum = u32::try_from(sum).expect("a CRC-32 has 32 bits");
    Ok(aws_smithy_types::base64::encode(sum.to_be_bytes()))
}

fn crc32_of_file(file: &File, range: ByteRange) -> Result<u64, LocalRead> {
    let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
    let mut left = range;
    while !left.is_empty() {
        let frame = ByteRange::at(left.start, FRAME).intersect(left);
        digest.update(&read_frame(file, frame)?);
        left = ByteRange::new(frame.end, left.end);
    }
    Ok(digest.finalize())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_file_and_memory_give_the_same_body_and_checksum() {
        let bytes: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
        let from_file = Payload::File(file_of(&bytes), ByteRange::new(1_000, 650_000));
        let from_memory = Payload::Bytes(Bytes::copy_from_slice(&bytes[1_000..650_000]));
        assert_eq!(crc32(&from_file).await.unwrap(), crc32(&from_memory).await.unwrap());
        for payload in [from_file, from_memory] {
            let (body, progress) = Body::new(&payload);
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(649_000));
            let sent = body.collect().await.unwrap().to_bytes();
            assert_eq!(sent, bytes[1_000..650_000]);
            assert_eq!(progress.0.load(Ordering::Relaxed), 649_000);
        }
    }

    #[tokio::test]
    async fn the_checksum_is_spelled_as_s3_does() {
        let check = Payload::Bytes(Bytes::from_static(b"123456789"));
        assert_eq!(crc32(&check).await.unwrap(), "y/Q5Jg==");
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_is_an_error() {
        let payload = Payload::File(file_of(b"short"), ByteRange::new(0, 100));
        assert!(crc32(&payload).await.is_err());
        let (body, _) = Body::new(&payload);
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_request_is_given_up_only_when_nothing_moves() {
        let progress = Progress::default();
        let patience = Duration::from_millis(200);
        assert_eq!(progress.watch(patience, std::future::pending::<()>()).await, None);
        let moving = progress.clone();
        let request = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                moving.0.fetch_add(1, Ordering::Relaxed);
            }
            7
        };
        assert_eq!(progress.watch(patience, request).await, Some(7));
    }
}
