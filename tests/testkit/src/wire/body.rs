//! Bodies on their way in and out: counted, and bent where a fault says so.
//!
//! Must not know which fault rule asked, nor what the bytes mean.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use s3s::StdError;

use super::Broken;
use super::connection::Connection;
use crate::log::{Flight, Live};

/// A drip is this many pieces a second.
const DRIPS_PER_SECOND: u64 = 20;

/// A request's body as the backend reads it.
#[derive(Debug)]
pub(super) struct RequestBody {
    inner: Incoming,
    live: Arc<Live>,
    connection: Arc<Connection>,
    reset_after: Option<u64>,
    taken: u64,
}

impl RequestBody {
    pub(super) fn new(
        inner: Incoming,
        live: Arc<Live>,
        connection: Arc<Connection>,
        reset_after: Option<u64>,
    ) -> Self {
        Self { inner, live, connection, reset_after, taken: 0 }
    }

    pub(super) fn into_s3s(self) -> s3s::Body {
        s3s::Body::http_body_unsync(self)
    }

    fn is_cut(&self) -> bool {
        self.reset_after.is_some_and(|after| self.taken >= after)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if self.is_cut() {
            self.connection.reset();
            return Poll::Ready(Some(Err("the request is reset mid-body".into())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx)?);
        if let Some(bytes) = frame.as_ref().and_then(Frame::data_ref) {
            self.live.received(bytes.len());
            self.taken += bytes.len() as u64;
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.reset_after.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How a response's body leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Plain,
    Reset { after: u64 },
    Close { after: u64 },
    Stall { after: u64 },
    Flip { at: u64 },
    Drip { bytes_per_second: u64 },
}

impl Shape {
    fn cut_after(self) -> Option<u64> {
        match self {
            Self::Reset { after } | Self::Close { after } | Self::Stall { after } => Some(after),
            Self::Plain | Self::Flip { .. } | Self::Drip { .. } => None,
        }
    }
}

/// A response's body as hyper sends it. Its end, or its drop, ends the request's log entry.
pub(crate) struct ResponseBody {
    inner: s3s::Body,
    /// What a drip or a cut left of the last frame.
    rest: Bytes,
    sent: u64,
    shape: Shape,
    wait: Option<BoxFuture<'static, ()>>,
    flight: Flight,
    connection: Arc<Connection>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: s3s::Body,
        flight: Flight,
        connection: Arc<Connection>,
        shape: Shape,
    ) -> Self {
        Self { inner, rest: Bytes::new(), sent: 0, shape, wait: None, flight, connection }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if matches!(self.shape, Shape::Stall { .. }) {
            // Until the client gives up or the server stops.
            return Poll::Pending;
        }
        let connection = &self.connection;
        let wait = self.wait.get_or_insert_with(|| Box::pin(Arc::clone(connection).delivered()));
        ready!(wait.as_mut().poll(cx));
        if matches!(self.shape, Shape::Reset { .. }) {
            self.connection.reset();
        }
        Poll::Ready(Some(Err(Broken("the response is cut by a fault rule".into()))))
    }

    /// The part of `bytes` that may leave now; the remainder waits in `rest`.
    fn shaped(&mut self, mut bytes: Bytes) -> Bytes {
        match self.shape {
            Shape::Plain => {}
            Shape::Flip { at } => {
                let offset = at.checked_sub(self.sent).and_then(|at| usize::try_from(at).ok());
                if let Some(offset) = offset.filter(|offset| *offset < bytes.len()) {
                    let mut bent = BytesMut::from(&bytes[..]);
                    bent[offset] ^= 0xFF;
                    bytes = bent.freeze();
                }
            }
            Shape::Drip { bytes_per_second } => {
                let piece = (bytes_per_second / DRIPS_PER_SECOND).max(1);
                let piece = usize::try_from(piece).unwrap_or(usize::MAX);
                self.rest = bytes.split_off(piece.min(bytes.len()));
                let pause = Duration::from_millis(1000 / DRIPS_PER_SECOND);
                self.wait = Some(Box::pin(tokio::time::sleep(pause)));
            }
            Shape::Reset { after } | Shape::Close { after } | Shape::Stall { after } => {
                let left = usize::try_from(after - self.sent).unwrap_or(usize::MAX);
                bytes.truncate(left);
            }
        }
        bytes
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if this.shape.cut_after().is_some_and(|after| this.sent >= after) {
            return this.poll_cut(cx);
        }
        if let Some(wait) = &mut this.wait {
            ready!(wait.as_mut().poll(cx));
            this.wait = None;
        }
        let bytes = if this.rest.is_empty() {
            let Some(frame) =
                ready!(Pin::new(&mut this.inner).poll_frame(cx)).transpose().map_err(Broken)?
            else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(bytes) => bytes,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        } else {
            std::mem::take(&mut this.rest)
        };
        let bytes = this.shaped(bytes);
        this.sent += bytes.len() as u64;
        this.flight.sent(bytes.len());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.shape.cut_after().is_none() && self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
