//! The life of a pod on somebody else's store: what must not only hold on the server of the tests.

use crate::bench::{Bench, IDLE, up, wait_until};

#[test]
fn a_jobs_pod_sees_the_bucket_from_the_first_instruction_on_and_ends() {
    let bench = Bench::on_seaweedfs();
    bench.objects().put("in/a", b"hello");
    let line = "cat /s3/data/in/a && mkdir /s3/data/out && cp /s3/data/in/a /s3/data/out/b && \
                dd if=/dev/zero of=/s3/data/out/large bs=1M count=24 2> /dev/null";
    let pod = bench.start(&bench.manifest(line));
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.log("app"), "hello");
    bench.assert_gone();
    let objects = bench.objects();
    assert_eq!(objects.get("out/b").unwrap(), b"hello");
    assert_eq!(objects.get("out/large").unwrap(), vec![0; 24 << 20]);
    assert_eq!(objects.get("in/a").unwrap(), b"hello", "the delete met no mount");
}

#[test]
fn a_file_that_is_open_when_the_pod_ends_is_there() {
    let bench = Bench::on_seaweedfs();
    let pod = bench.start(&bench.manifest(
        "exec 3> /s3/data/log; echo first >&3; \
         trap 'echo last >&3; exit 0' TERM; echo up; while true; do sleep 0.1; done",
    ));
    up(&pod);
    pod.delete(None);
    bench.assert_gone();
    assert_eq!(bench.objects().get("log").unwrap(), b"first\nlast\n", "{}", pod.log("s3"));
}

#[test]
fn what_was_closed_before_a_crash_is_there_and_so_is_the_bucket_after_it() {
    let bench = Bench::on_seaweedfs();
    bench.objects().put("a", b"hello");
    let pod = bench.start(&bench.manifest(IDLE));
    up(&pod);
    for crash in 1..=3 {
        pod.shell("app", &format!("echo {crash} > /s3/data/closed-{crash}"));
        pod.crash("s3");
        wait_until("the new mount answers", || {
            pod.restarts("s3") == crash
                && pod.exec("app", &["/bin/cat", "/s3/data/a"]).status.success()
        });
    }
    pod.delete(None);
    bench.assert_gone();
    for crash in 1..=3 {
        let closed = bench.objects().get(&format!("closed-{crash}")).unwrap();
        assert_eq!(closed, format!("{crash}\n").as_bytes());
    }
    assert_eq!(bench.objects().get("a").unwrap(), b"hello");
}

#[test]
fn the_teardown_after_a_grace_of_a_second_and_of_none_deletes_nothing() {
    let bench = Bench::on_seaweedfs();
    for number in 0..25 {
        bench.objects().put(&format!("kept/{number}"), b"x");
    }
    let stubborn = "trap '' TERM; echo up; \
                    i=0; while true; do i=$((i+1)); echo x > /s3/data/w-$i; done";
    for grace in [1, 0] {
        let pod = bench.start(&bench.manifest(stubborn));
        up(&pod);
        pod.delete(Some(grace));
        bench.assert_gone();
        assert_eq!(bench.objects().keys("kept/").len(), 25);
        std::fs::remove_dir_all(bench.node.path().join("logs")).unwrap();
    }
}

#[test]
fn a_server_without_capabilities_reads_and_writes() {
    let bench = Bench::on_seaweedfs();
    bench.objects().put("in/a", b"hello");
    let pod = bench.start(&bench.unprivileged(
        "set -e; cd /data; cat in/a; mkdir out; echo one > out/b; echo two >> out/b; \
         mv out/b out/c; cp in/a out/gone; rm out/gone; ls out",
    ));
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.log("app"), "helloc\n");
    bench.assert_gone();
    assert_eq!(bench.objects().get("out/c").unwrap(), b"one\ntwo\n");
    assert_eq!(bench.objects().get("out/gone"), None);
}
