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

/// How often and how many times a connection is looked at before it is cut: for two seconds.
const DELIVERY_POLL: Duration = Duration::from_millis(10);
const DELIVERY_LOOKS: u32 = 200;

/// Bytes sent but not acknowledged, from the kernel's table of IPv4 connections.
fn send_queue(table: &str, ours: u16, theirs: u16) -> Option<u64> {
    let (ours, theirs) = (format!(":{ours:04X}"), format!(":{theirs:04X}"));
    let mut rows = table.lines().map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>());
    let row =
        rows.find(|row| row.len() > 3 && row[0].ends_with(&ours) && row[1].ends_with(&theirs))?;
    u64::from_str_radix(row[3].split(':').next()?, 16).ok()
}

/// What the request handlers of a connection share with its socket.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    id: u64,
    reset: AtomicBool,
    /// Our port and the client's.
    ports: Option<(u16, u16)>,
}

impl Connection {
    pub(crate) fn of(stream: &TcpStream) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let ports = stream.local_addr().ok().zip(stream.peer_addr().ok());
        Arc::new(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            reset: AtomicBool::new(false),
            ports: ports.map(|(local, peer)| (local.port(), peer.port())),
        })
    }

    /// For bodies that never reset anything.
    pub(crate) fn detached() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until the client's kernel has acknowledged all that was sent: a reset throws away
    /// what is still queued here. Gives up on a client that does not read.
    pub(crate) async fn delivered(self: Arc<Self>) {
        let mut empty_in_a_row = 0;
        for _ in 0..DELIVERY_LOOKS {
            tokio::time::sleep(DELIVERY_POLL).await;
            let queued = self.ports.and_then(|(ours, theirs)| {
                let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
                send_queue(&table, ours, theirs)
            });
            empty_in_a_row =
                if queued.is_none_or(|bytes| bytes == 0) { empty_in_a_row + 1 } else { 0 };
            // Once may be the moment between two of hyper's writes.
            if empty_in_a_row == 2 {
                return;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_send_queue_is_read_from_the_right_row() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
   1: 0100007F:1F90 0100007F:C001 01 000001A0:00000007 00:00000000 00000000     0\n";
        assert_eq!(send_queue(table, 8080, 0xC001), Some(0x1A0));
        assert_eq!(send_queue(table, 0xC001, 8080), None);
    }
}
