//! Any sequence of operations, against a disk in memory.
//!
//! Owns the properties: on a disk of one's own everything is as POSIX says, whatever goes wrong in
//! passing on the way to the store; and what another client does meanwhile is seen when a name is
//! looked up, and never mixes, loses or resurrects anything. After each operation the mount's
//! answer is compared; at the end every name, byte and attribute, in this mount, in the bucket and
//! in a new mount.

mod disk;
mod operation;
mod subject;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use s3pod_testkit::{ServerOptions, TestServer};
use tokio::runtime::Runtime;

use operation::Operation;
use s3pod::vfs::DeleteMode;
use subject::{Mounted, Subject, World};

/// Who owns what says nothing else, and who asks.
const OWNER: u32 = 7;

/// Operations of a case: enough for two files, a directory and both being moved and opened again.
const STEPS: usize = 40;

/// How often a name and its attributes are believed: never, as long as by default, for ever.
fn ttl() -> impl Strategy<Value = Duration> {
    prop::sample::select(vec![Duration::ZERO, Duration::from_secs(1), Duration::MAX])
}

/// A server for all cases of one property, each with a bucket of its own.
static OWN: LazyLock<TestServer> = LazyLock::new(server);
static SHARED: LazyLock<TestServer> = LazyLock::new(server);

fn server() -> TestServer {
    TestServer::spawn(ServerOptions { min_part: operation::PART, ..ServerOptions::default() })
}

fn run(
    server: &'static TestServer,
    steps: &[Operation],
    how: Mounted,
) -> Result<(), TestCaseError> {
    let runtime = Runtime::new().unwrap();
    let done = runtime.block_on(async {
        let world = Arc::new(World::new(server));
        let mut subject = Subject::new(&world, how).await;
        subject.run(steps).await
    });
    // Some 1 KiB a request, which a soak would not let go of.
    server.log().clear();
    server.faults().clear();
    done.map_err(TestCaseError::fail)
}

/// A failure is shown shrunk; what it finds becomes a case with a name of its own.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    // A case is some 100 requests, so 20 000 of them, as a soak asks of every property, would take
    // an hour; a quarter still scales with what is asked.
    let cases = (default.cases / 4).max(256);
    ProptestConfig { cases, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_bucket_of_ones_own_is_a_disk(
        prelude in operation::prelude(),
        steps in prop::collection::vec(operation::with_mishaps(), 1..STEPS),
        ttl in ttl(),
        attr_delay in prop::sample::select(vec![Duration::ZERO, Duration::from_millis(20)]),
        delete in prop::sample::select(vec![DeleteMode::Sync, DeleteMode::Queue]),
    ) {
        let steps = [prelude, steps].concat();
        run(&OWN, &steps, Mounted { ttl, attr_delay, delete })?;
    }

    #[test]
    fn another_client_is_seen_and_never_mixed_in(
        prelude in operation::prelude(),
        steps in prop::collection::vec(operation::with_others(), 1..STEPS),
    ) {
        let steps = [prelude, steps].concat();
        run(&SHARED, &steps, Mounted::STRICT)?;
    }
}
