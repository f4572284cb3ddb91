//! Scripted faults: what goes wrong, for which requests, how often.
//!
//! Owns the list of rules. The first rule that matches a request and still has a turn is used
//! up by it; no request meets two. How a fault is acted out is [`crate::wire`]'s business.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::wire::{Call, Op};

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 503 SlowDown, without doing the work.
    SlowDown,
    /// 500 InternalError, without doing the work.
    InternalError,
    /// Any status and S3 error code, without doing the work.
    Status {
        /// The HTTP status.
        status: u16,
        /// The `<Code>` of the error document.
        code: String,
    },
    /// 200 with an `<Error>` document, without doing the work: what Copy, UploadPartCopy and
    /// Complete answer when S3 fails after it began to answer.
    ErrorIn200,
    /// The work is done, then the connection closes without an answer.
    LoseResponse,
    /// A TCP reset after this many bytes of the response's body.
    ResetResponse {
        /// Body bytes that still arrive.
        after: u64,
    },
    /// A TCP reset after about this many bytes of the request's body (whole frames).
    ResetRequest {
        /// Body bytes that are still read.
        after: u64,
    },
    /// The response's body ends early by an orderly close; its Content-Length promised more.
    Truncate {
        /// Body bytes that still arrive.
        after: u64,
    },
    /// The response's body stops and the connection stays open.
    Stall {
        /// Body bytes that still arrive.
        after: u64,
    },
    /// One byte of the response's body is inverted.
    FlipByte {
        /// Which, counted from the body's start.
        at: u64,
    },
    /// The response's body arrives in a drip.
    Drip {
        /// Its rate.
        bytes_per_second: u64,
    },
    /// The request is answered late.
    Delay(Duration),
    /// The request waits before any work is done. Made by [`Faults::hold`].
    Hold(Gate),
    /// The request is worked on, and its answer waits. Made by [`Faults::hold_answer`].
    HoldAnswer(Gate),
}

impl Fault {
    /// Any status with any S3 error code.
    #[must_use]
    pub fn status(status: u16, code: &str) -> Self {
        Self::Status { status, code: code.to_owned() }
    }

    /// A rule for the next request of `op`.
    #[must_use]
    pub fn on(self, op: Op) -> Rule {
        Rule { op: Some(op), key: None, skip: 0, times: 1, fault: self }
    }

    /// A rule for the next request of any operation but [`Op::Probe`].
    #[must_use]
    pub fn on_any(self) -> Rule {
        Rule { op: None, key: None, skip: 0, times: 1, fault: self }
    }
}

/// Which requests meet a fault.
#[derive(Clone, Debug)]
pub struct Rule {
    op: Option<Op>,
    key: Option<String>,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// Only requests whose key (or listing prefix) contains `part`.
    #[must_use]
    pub fn key(self, part: &str) -> Self {
        Self { key: Some(part.to_owned()), ..self }
    }

    /// The next `times` matching requests instead of one.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Every matching request until the rule is removed.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Lets the first `skip` matching requests pass.
    #[must_use]
    pub fn skip(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    fn matches(&self, call: &Call) -> bool {
        self.op.map_or(call.op != Op::Probe, |op| op == call.op)
            && self.key.as_ref().is_none_or(|part| call.key.contains(part.as_str()))
    }
}

#[derive(Debug)]
struct Active {
    rule: Rule,
    hits: Arc<AtomicUsize>,
}

/// The fault rules of one server. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    rules: Arc<Mutex<Vec<Active>>>,
}

impl Faults {
    fn rules(&self) -> MutexGuard<'_, Vec<Active>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule after those already there.
    pub fn add(&self, rule: Rule) -> Injected {
        let hits = Arc::new(AtomicUsize::new(0));
        self.rules().push(Active { rule, hits: Arc::clone(&hits) });
        Injected { rules: Arc::clone(&self.rules), hits }
    }

    /// Holds matching requests before any work is done, until the hold is released or dropped.
    /// `key` is a part of the key; "" matches all.
    #[must_use = "a dropped hold lets everything pass"]
    pub fn hold(&self, op: Op, key: &str) -> Hold {
        self.hold_with(Fault::Hold, op, key, 0)
    }

    /// Holds such requests behind the first `skip` of them.
    #[must_use = "a dropped hold lets everything pass"]
    pub fn hold_after(&self, op: Op, key: &str, skip: usize) -> Hold {
        self.hold_with(Fault::Hold, op, key, skip)
    }

    /// Holds the answers of matching requests: the work is done, the client does not know.
    #[must_use = "a dropped hold lets everything pass"]
    pub fn hold_answer(&self, op: Op, key: &str) -> Hold {
        self.hold_with(Fault::HoldAnswer, op, key, 0)
    }

    fn hold_with(&self, fault: fn(Gate) -> Fault, op: Op, key: &str, skip: usize) -> Hold {
        let gate = Gate { state: Arc::new(watch::Sender::new(GateState::default())) };
        let rule = fault(gate.clone()).on(op).key(key).skip(skip).always();
        Hold { gate, injected: self.add(rule) }
    }

    /// Removes all rules. Requests already held stay held until their hold is released.
    pub fn clear(&self) {
        self.rules().clear();
    }

    pub(crate) fn take(&self, call: &Call) -> Option<Fault> {
        let mut rules = self.rules();
        for active in rules.iter_mut().filter(|active| active.rule.matches(call)) {
            if active.rule.skip > 0 {
                active.rule.skip -= 1;
                continue;
            }
            if active.rule.times == 0 {
                continue;
            }
            if active.rule.times != usize::MAX {
                active.rule.times -= 1;
            }
            active.hits.fetch_add(1, Ordering::SeqCst);
            return Some(active.rule.fault.clone());
        }
        None
    }
}

/// A rule that was added.
#[derive(Clone, Debug)]
pub struct Injected {
    rules: Arc<Mutex<Vec<Active>>>,
    hits: Arc<AtomicUsize>,
}

impl Injected {
    /// How many requests met it so far.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// Takes the rule away.
    pub fn remove(&self) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.retain(|active| !Arc::ptr_eq(&active.hits, &self.hits));
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct GateState {
    arrived: usize,
    open: bool,
}

/// Where held requests wait.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<GateState>>,
}

impl Gate {
    pub(crate) async fn pass(&self) {
        let mut watcher = self.state.subscribe();
        self.state.send_modify(|state| state.arrived += 1);
        // An error would mean that the sender is gone, but this gate keeps it.
        let _ = watcher.wait_for(|state| state.open).await;
    }
}

/// A hold on requests; dropping it releases them.
#[derive(Debug)]
pub struct Hold {
    gate: Gate,
    injected: Injected,
}

impl Hold {
    /// How many requests have arrived at it.
    #[must_use]
    pub fn arrived(&self) -> usize {
        self.gate.state.borrow().arrived
    }

    /// Waits until `count` requests have arrived.
    pub async fn wait_for(&self, count: usize) {
        let mut watcher = self.gate.state.subscribe();
        let _ = watcher.wait_for(|state| state.arrived >= count).await;
    }

    /// The same for tests without a runtime; false if they did not arrive within `limit`.
    #[must_use]
    pub fn wait_for_blocking(&self, count: usize, limit: Duration) -> bool {
        const POLL: Duration = Duration::from_millis(2);
        let mut waited = Duration::ZERO;
        while self.arrived() < count && waited < limit {
            std::thread::sleep(POLL);
            waited += POLL;
        }
        self.arrived() >= count
    }

    /// Lets everything held pass, and everything that comes later.
    pub fn release(&self) {
        self.injected.remove();
        self.gate.state.send_modify(|state| state.open = true);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(op: Op, key: &str) -> Call {
        Call { op, bucket: "b".to_owned(), key: key.to_owned() }
    }

    #[test]
    fn a_rule_is_used_up_by_the_requests_it_names() {
        let faults = Faults::default();
        let injected = faults.add(Fault::SlowDown.on(Op::Put).key("x").skip(1).times(2));
        let put = |key| faults.take(&call(Op::Put, key)).is_some();
        assert!(!put("y") && faults.take(&call(Op::Get, "x")).is_none());
        assert_eq!([put("x1"), put("x2"), put("x3"), put("x4")], [false, true, true, false]);
        assert_eq!(injected.hits(), 2);
    }

    #[test]
    fn a_removed_rule_matches_nothing() {
        let faults = Faults::default();
        let injected = faults.add(Fault::InternalError.on_any().always());
        assert!(faults.take(&call(Op::List, "")).is_some());
        injected.remove();
        assert!(faults.take(&call(Op::List, "")).is_none());
    }
}
