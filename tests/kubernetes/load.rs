//! Load by fio in a pod whose server has little memory.

use s3pod_testkit::synthetic_bytes;
use serde_json::json;

use crate::bench::{Bench, wait_within};
use crate::clock::patience;

/// What every job has in common: threads of one process, real data.
const COMMON: &str = "--directory=/s3/data --ioengine=psync --thread --fallocate=none \
    --invalidate=0 --verify_state_save=0";

/// What is written carries checksums, and is read back and compared.
const VERIFIED: &str = "--verify=crc32c --verify_fatal=1";

/// In order and at random, reading, writing and both, several of each at once.
const JOBS: [&str; 6] = [
    "--name=seq-read --rw=read --bs=1M --filename=in --size=192M --numjobs=3",
    "--name=random-read --rw=randread --bs=4k --filename=in --size=192M --io_size=4M --numjobs=4",
    "--name=seq-write --rw=write --bs=1M --size=48M --numjobs=3",
    "--name=random-write --rw=randwrite --bs=16k --size=24M --numjobs=2",
    "--name=mix --rw=randrw --rwmixread=60 --bs=64k --size=24M --numjobs=2",
    "--name=small --rw=write --bs=4k --filesize=16k --nrfiles=50 --size=800k --openfiles=1",
];

fn fio() -> String {
    let job = |job: &&str| {
        let verified = if job.contains("filename=in") { "" } else { VERIFIED };
        format!("{job} {verified}")
    };
    let jobs: Vec<String> = JOBS.iter().map(job).collect();
    format!("fio {COMMON} {}", jobs.join(" "))
}

on_both_stores! {
    a_full_mix_of_fio_fits_into_128_mib,
}

fn a_full_mix_of_fio_fits_into_128_mib(bench: &Bench) {
    bench.node.bring_fio();
    bench.objects().put("in", &synthetic_bytes(1, 0..192 << 20));
    let mut manifest = bench.manifest(&format!("echo up; {}", fio()));
    manifest["spec"]["initContainers"][1]["resources"] = json!({"limits": {"memory": "128Mi"}});
    let pod = bench.start(&manifest);
    assert_eq!(pod.memory_limit("s3"), 128 << 20);
    let mut kills = 0;
    // Half a minute on two idle cores.
    wait_within(4 * patience(), "fio has ended", || {
        kills = kills.max(pod.oom_kills("s3"));
        pod.has_ended("app")
    });
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!((kills, pod.restarts("s3")), (0, 0), "{}", pod.log("s3"));
    bench.assert_gone();
    assert_eq!(bench.size_of("seq-write.2.0"), Some(48 << 20), "{:?}", bench.objects().keys(""));
    assert_eq!(bench.size_of("random-write.1.0"), Some(24 << 20));
    assert_eq!(bench.objects().keys("small.").len(), 50);
}
