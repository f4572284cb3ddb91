//! The form without privileges: the node mounts, a container without any capability serves.

use serde_json::json;

use crate::bench::{Bench, IDLE, up, wait_until};

#[test]
fn a_server_without_capabilities_reads_and_writes() {
    let bench = Bench::new();
    bench.bucket().put("in/a", "hello");
    bench.bucket().put_synthetic("in/large", 24 << 20, 3);
    let pod = bench.start(&bench.unprivileged(
        "set -e; cd /data; cat in/a; mkdir out; cp in/large out/copy; echo one > out/b; \
         echo two >> out/b; mv out/b out/c; cp in/a out/gone; rm out/gone; \
         dd if=/dev/zero of=out/c bs=1 count=1 seek=1 conv=notrunc 2> /dev/null; ls out",
    ));
    let status = pod.shell("s3", "cat /proc/1/status");
    let has = |field: &str, value: &str| {
        status.lines().any(|line| {
            line.strip_prefix(field)
                .is_some_and(|rest| rest.split_whitespace().eq(value.split(' ')))
        })
    };
    assert!(has("CapEff:", "0000000000000000") && has("CapBnd:", "0000000000000000"), "{status}");
    assert!(has("Uid:", "65534 65534 65534 65534") && has("NoNewPrivs:", "1"), "{status}");
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.log("app"), "helloc\ncopy\n");
    bench.assert_gone();
    let bucket = bench.bucket();
    assert_eq!(bucket.get("out/c").unwrap(), "o\0e\ntwo\n");
    assert_eq!(bucket.get("out/copy"), bucket.get("in/large"));
    assert!(!bucket.contains("out/gone") && bucket.contains("in/a"));
}

#[test]
fn the_server_says_what_it_answered_to_init_and_adopts_nothing() {
    let bench = Bench::new();
    let pod = bench.start(&bench.unprivileged(IDLE));
    up(&pod);
    let answers = pod.published().answers();
    let init = &answers[0]["init"];
    assert_eq!((init["major"].as_u64(), init["max_write"].as_u64()), (Some(7), Some(1 << 20)));
    assert_ne!(init["flags"].as_u64(), Some(0));
    for offer in [
        json!({"version": 1, "volume": "v", "lease": 2}),
        json!({"version": 1, "volume": "v", "lease": 1}),
    ] {
        let said = pod.published().offer(&offer)["refused"].to_string();
        assert!(said.contains("cannot adopt"), "{said}");
    }
    pod.delete(None);
    bench.assert_gone();
}

#[test]
fn after_a_crash_of_the_server_the_running_application_sees_the_bucket_again() {
    let bench = Bench::new();
    bench.bucket().put("a", "hello");
    let pod = bench.start(&bench.unprivileged(IDLE));
    up(&pod);
    for crash in 1..=2 {
        pod.shell("app", &format!("echo {crash} > /data/closed-{crash}"));
        pod.crash("s3");
        wait_until("the new mount answers", || {
            pod.published().handed() > crash
                && pod.exec("app", &["/bin/cat", "/data/a"]).status.success()
        });
    }
    pod.delete(None);
    bench.assert_gone();
    assert_eq!(bench.bucket().get("closed-1").unwrap(), "1\n");
    assert_eq!(bench.bucket().get("closed-2").unwrap(), "2\n");
    assert_eq!(bench.bucket().get("a").unwrap(), "hello");
}

#[test]
fn nobody_else_reaches_the_handoff_socket() {
    let bench = Bench::new();
    let pod = bench.start(&bench.unprivileged(IDLE));
    up(&pod);
    let socket = pod.volume("handoff").join("s3pod.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "nobody but its user and root may connect");
    pod.delete(None);
    bench.assert_gone();
}
