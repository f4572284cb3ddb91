//! Kubelet's clock, which runs a hundred times faster here than on a node.
//!
//! Owns the factor of what kubelet only waits for: back-off, the periods of probes, the pause
//! between two tries to tear down. The long form of the suites (`make soak`) has true times. Grace
//! periods and timeouts are always true: what runs in the containers measures them by its own
//! clock.

use std::time::Duration;

/// 10 s become 100 ms.
const SCALE: f64 = 0.01;

/// What takes longer than this hangs...
const PATIENCE: Duration = Duration::from_secs(60);
/// ...and where kubelet waits true times, it waits for 300 s more.
const PATIENCE_OF_SOAK: Duration = Duration::from_secs(420);

fn is_soak() -> bool {
    std::env::var_os("S3POD_SOAK").is_some()
}

/// How long `time` of kubelet's is here.
pub(crate) fn scaled(time: Duration) -> Duration {
    if is_soak() { time } else { time.mul_f64(SCALE) }
}

/// Longer than anything healthy takes.
pub(crate) fn patience() -> Duration {
    if is_soak() { PATIENCE_OF_SOAK } else { PATIENCE }
}
