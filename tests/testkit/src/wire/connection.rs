//! One TCP connection: its pace, and whether it ends in a reset.
//!
//! Owns the token clock that keeps each direction under the bandwidth, and SO_LINGER=0 at the
//! end of a connection that a fault condemned. Must not know HTTP.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// The largest piece a paced connection moves at once: 64 KiB at 90 MB/s is 0.7 ms.
const PIECE: usize = 64 * 1024;
/// How far behind its pace a direction may catch up at once: timers tick in milliseconds.
const CATCH_UP: Duration = Duration::from_millis(5);

/// What the request handlers of a connection share with its socket.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    id: u64,
    reset: AtomicBool,
}

impl Connection {
    pub(crate) fn next() -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { id: IDS.fetch_add(1, Ordering::Relaxed), reset: AtomicBool::new(false) })
    }

    /// For bodies that never reset anything.
    pub(crate) fn detached() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }
}

/// Moves `rate` bytes a second on average, in pieces.
#[derive(Debug)]
struct Pace {
    rate: u64,
    next: Instant,
    wait: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(rate: u64) -> Self {
        let next = Instant::now();
        Self { rate: rate.max(1), next, wait: Box::pin(tokio::time::sleep_until(next)) }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.next {
            return Poll::Ready(());
        }
        self.wait.as_mut().reset(self.next);
        self.wait.as_mut().poll(cx)
    }

    fn moved(&mut self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let floor = Instant::now().checked_sub(CATCH_UP).unwrap_or(self.next);
        self.next = self.next.max(floor) + cost;
    }
}

/// The socket as hyper sees it.
#[derive(Debug)]
pub(crate) struct PacedIo {
    stream: TcpStream,
    connection: Arc<Connection>,
    reading: Option<Pace>,
    writing: Option<Pace>,
    /// Where a paced read lands first, so that it is never longer than a piece.
    scratch: Vec<u8>,
}

impl PacedIo {
    pub(crate) fn new(stream: TcpStream, connection: Arc<Connection>, rate: Option<u64>) -> Self {
        Self {
            stream,
            connection,
            reading: rate.map(Pace::new),
            writing: rate.map(Pace::new),
            scratch: rate.map_or(Vec::new(), |_| vec![0; PIECE]),
        }
    }
}

impl Drop for PacedIo {
    fn drop(&mut self) {
        if self.connection.is_reset() {
            // Failing to set it means an orderly close: the fault is milder, the test still runs.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for PacedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(pace) = &mut this.reading else {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        };
        std::task::ready!(pace.poll_ready(cx));
        let room = buf.remaining().min(this.scratch.len());
        let mut piece = ReadBuf::new(&mut this.scratch[..room]);
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, &mut piece))?;
        pace.moved(piece.filled().len());
        buf.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PacedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(pace) = &mut this.writing else {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        };
        std::task::ready!(pace.poll_ready(cx));
        let piece = &bytes[..bytes.len().min(PIECE)];
        let written = std::task::ready!(Pin::new(&mut this.stream).poll_write(cx, piece))?;
        pace.moved(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.writing.is_none() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[][..], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.is_reset() {
            // A FIN now would be an orderly end; the drop sends the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
