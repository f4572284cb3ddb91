//! What a request of the kernel counts as.
//!
//! Owns the counters and histograms by verb. A cached answer takes microseconds, so each thread
//! keeps those it has used, and finds them without building a name. Must not know what a verb
//! does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use metrics::{Counter, Histogram};

struct Meter {
    requests: Counter,
    seconds: Histogram,
}

thread_local! {
    static METERS: RefCell<HashMap<(&'static str, &'static str), Meter>> = RefCell::default();
}

/// Counts one request that was answered with `errno`, `OK` included.
pub(super) fn count(op: &'static str, errno: &'static str, took: Duration) {
    METERS.with_borrow_mut(|meters| {
        let meter = meters.entry((op, errno)).or_insert_with(|| Meter {
            requests: metrics::counter!("s3pod_fuse_requests_total", "op" => op, "errno" => errno),
            seconds: metrics::histogram!("s3pod_fuse_request_seconds", "op" => op),
        });
        meter.requests.increment(1);
        meter.seconds.record(took);
    });
}
