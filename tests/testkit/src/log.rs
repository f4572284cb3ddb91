//! The request log: what arrived, in which order, how much moved, how much at once.
//!
//! Owns the counters that tests assert on. A request is counted when its head has arrived, its
//! bytes as they move. Must not know what a request does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use tokio::time::Instant;

use crate::faults::Fault;
use crate::wire::{Call, Op};

/// Records kept; beyond that the oldest go, while counters go on. At about 1 KiB each: 200 MB.
const MAX_RECORDS: usize = 200_000;

/// What the log knows about one request.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Position in the order of arrival, counted from the server's start.
    pub order: u64,
    /// The connection it came on.
    pub connection: u64,
    /// What it asks for.
    pub op: Op,
    /// Its HTTP method.
    pub method: Method,
    /// The bucket.
    pub bucket: String,
    /// The key, decoded; the prefix of a listing.
    pub key: String,
    /// The query string as sent.
    pub query: String,
    /// The Range header.
    pub range: Option<String>,
    /// All headers as sent, but the Authorization.
    pub headers: HeaderMap,
    /// Payload bytes received: what the body decodes to, where it is aws-chunked.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
    /// The status answered; none while it is worked on, or if the answer was lost.
    pub status: Option<u16>,
    /// The fault it met.
    pub fault: Option<String>,
    /// When its head had arrived, since the server's start.
    pub started: Duration,
    /// When its answer had left, or its connection ended; none while it is under way.
    pub finished: Option<Duration>,
}

impl RequestRecord {
    /// A header's value as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A request under way or done.
#[derive(Debug)]
pub(crate) struct Live {
    head: RequestRecord,
    /// What an aws-chunked body decodes to, as its client announced it.
    decoded: Option<u64>,
    received: AtomicU64,
    sent: AtomicU64,
    status: AtomicU16,
    fault: OnceLock<String>,
    finished: OnceLock<Duration>,
    totals: Arc<Totals>,
}

impl Live {
    pub(crate) fn received(&self, bytes: usize) {
        let bytes = bytes as u64;
        let before = self.received.fetch_add(bytes, SeqCst);
        let limit = self.decoded.unwrap_or(u64::MAX);
        let counted = (before + bytes).min(limit) - before.min(limit);
        if self.is_counted() {
            self.totals.bytes_in.fetch_add(counted, SeqCst);
        }
    }

    /// Finding out what a store can do is no part of what something costs.
    fn is_counted(&self) -> bool {
        self.head.op != Op::Probe
    }

    fn snapshot(&self) -> RequestRecord {
        let status = self.status.load(SeqCst);
        RequestRecord {
            bytes_in: self.received.load(SeqCst).min(self.decoded.unwrap_or(u64::MAX)),
            bytes_out: self.sent.load(SeqCst),
            status: (status != 0).then_some(status),
            fault: self.fault.get().cloned(),
            finished: self.finished.get().copied(),
            ..self.head.clone()
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    started: AtomicUsize,
    under_way: AtomicUsize,
    peak: AtomicUsize,
}

impl Tally {
    fn enter(&self) {
        self.started.fetch_add(1, SeqCst);
        let now = self.under_way.fetch_add(1, SeqCst) + 1;
        self.peak.fetch_max(now, SeqCst);
    }

    fn clear(&self) {
        self.started.store(0, SeqCst);
        self.peak.store(self.under_way.load(SeqCst), SeqCst);
    }
}

#[derive(Debug)]
struct Totals {
    per_op: [Tally; Op::ALL.len()],
    all: Tally,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    next_order: AtomicU64,
    began: Instant,
}

impl Totals {
    fn of(&self, op: Op) -> &Tally {
        &self.per_op[op as usize]
    }
}

/// A copy that shares no memory with the connection's read buffer, of which each value is a slice:
/// a record would keep tens of KiB alive.
fn own(headers: &HeaderMap) -> HeaderMap {
    let copied = headers.iter().filter_map(|(name, value)| {
        Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?))
    });
    copied.collect()
}

/// The log of one server. Clones share it.
#[derive(Clone, Debug)]
pub struct RequestLog {
    totals: Arc<Totals>,
    records: Arc<Mutex<VecDeque<Arc<Live>>>>,
}

impl RequestLog {
    pub(crate) fn new() -> Self {
        let totals = Totals {
            per_op: Default::default(),
            all: Tally::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            next_order: AtomicU64::new(0),
            began: Instant::now(),
        };
        Self { totals: Arc::new(totals), records: Arc::default() }
    }

    fn records(&self) -> MutexGuard<'_, VecDeque<Arc<Live>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests of `op` since the start or the last [`clear`](Self::clear).
    #[must_use]
    pub fn count(&self, op: Op) -> usize {
        self.totals.of(op).started.load(SeqCst)
    }

    /// Requests of any kind but [`Op::Probe`].
    #[must_use]
    pub fn total(&self) -> usize {
        self.totals.all.started.load(SeqCst)
    }

    /// Requests by operation, without those that did not happen and [`Op::Probe`].
    #[must_use]
    pub fn counts(&self) -> Vec<(Op, usize)> {
        let counted = Op::ALL.iter().filter(|op| **op != Op::Probe);
        let counts = counted.map(|op| (*op, self.count(*op)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Payload bytes received.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.totals.bytes_in.load(SeqCst)
    }

    /// Body bytes sent.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.totals.bytes_out.load(SeqCst)
    }

    /// The most requests of `op` that were under way at once.
    #[must_use]
    pub fn peak(&self, op: Op) -> usize {
        self.totals.of(op).peak.load(SeqCst)
    }

    /// The most requests of all kinds that were under way at once.
    #[must_use]
    pub fn peak_total(&self) -> usize {
        self.totals.all.peak.load(SeqCst)
    }

    /// Requests under way now.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.totals.all.under_way.load(SeqCst)
    }

    /// All records in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.records().iter().map(|live| live.snapshot()).collect()
    }

    /// The records of `op` in the order of arrival.
    #[must_use]
    pub fn requests_of(&self, op: Op) -> Vec<RequestRecord> {
        let records = self.records();
        records.iter().filter(|live| live.head.op == op).map(|live| live.snapshot()).collect()
    }

    /// Forgets all records and counters; peaks start at what is under way.
    pub fn clear(&self) {
        let mut records = self.records();
        records.clear();
        self.totals.all.clear();
        self.totals.per_op.iter().for_each(Tally::clear);
        self.totals.bytes_in.store(0, SeqCst);
        self.totals.bytes_out.store(0, SeqCst);
    }

    /// Time since the server's start, as records tell it.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.totals.began.elapsed()
    }

    pub(crate) fn start<B>(&self, call: &Call, request: &Request<B>, connection: u64) -> Flight {
        let mut headers = own(request.headers());
        headers.remove(http::header::AUTHORIZATION);
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let decoded = text("x-amz-decoded-content-length").and_then(|text| text.parse().ok());
        let range = text("range").map(str::to_owned);
        let mut records = self.records();
        let head = RequestRecord {
            order: self.totals.next_order.fetch_add(1, SeqCst),
            connection,
            op: call.op,
            method: request.method().clone(),
            bucket: call.bucket.clone(),
            key: call.key.clone(),
            query: request.uri().query().unwrap_or("").to_owned(),
            range,
            headers,
            bytes_in: 0,
            bytes_out: 0,
            status: None,
            fault: None,
            started: self.elapsed(),
            finished: None,
        };
        let live = Arc::new(Live {
            head,
            decoded,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            status: AtomicU16::new(0),
            fault: OnceLock::new(),
            finished: OnceLock::new(),
            totals: Arc::clone(&self.totals),
        });
        if records.len() == MAX_RECORDS {
            records.pop_front();
        }
        records.push_back(Arc::clone(&live));
        self.totals.of(call.op).enter();
        if live.is_counted() {
            self.totals.all.enter();
        }
        Flight { live }
    }
}

/// Keeps a request under way; its drop ends the record.
#[derive(Debug)]
pub(crate) struct Flight {
    live: Arc<Live>,
}

impl Flight {
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    pub(crate) fn note_fault(&self, fault: &Fault) {
        let text = match fault {
            Fault::Hold(_) => "Hold".to_owned(),
            Fault::HoldAnswer(_) => "HoldAnswer".to_owned(),
            other => format!("{other:?}"),
        };
        let _ = self.live.fault.set(text);
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.live.status.store(status.as_u16(), SeqCst);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.live.sent.fetch_add(bytes as u64, SeqCst);
        if self.live.is_counted() {
            self.live.totals.bytes_out.fetch_add(bytes as u64, SeqCst);
        }
    }

    /// The id a client reports: the record's order in hex.
    pub(crate) fn request_id(&self) -> HeaderValue {
        let id = format!("{:016X}", self.live.head.order);
        HeaderValue::from_str(&id).expect("hex digits are a header value")
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let totals = &self.live.totals;
        let _ = self.live.finished.set(totals.began.elapsed());
        totals.of(self.live.head.op).under_way.fetch_sub(1, SeqCst);
        if self.live.is_counted() {
            totals.all.under_way.fetch_sub(1, SeqCst);
        }
    }
}
