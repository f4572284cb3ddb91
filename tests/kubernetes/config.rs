//! What changes in a running pod when its ConfigMap or its Secret does.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use s3pod_testkit::{Fault, Op};
use serde_json::{Value, json};

use crate::bench::{Bench, IDLE, up, wait_until};
use crate::clock::patience;
use crate::pod::Pod;

const MIB: u64 = 1 << 20;

/// A pod whose server reads options from a ConfigMap that says `options`.
fn manifest(bench: &Bench, options: &str) -> Value {
    let mut manifest = bench.manifest(IDLE);
    let spec = &mut manifest["spec"];
    let options = json!({"name": "config", "configMap": {"data": {"options": options}}});
    spec["volumes"].as_array_mut().unwrap().push(options);
    let server = &mut spec["initContainers"][1];
    let more = [json!("--config"), json!("/config/options")];
    server["args"].as_array_mut().unwrap().extend(more);
    let mount = json!({"name": "config", "mountPath": "/config"});
    server["volumeMounts"].as_array_mut().unwrap().push(mount);
    manifest
}

/// Bytes that the files of a folder take.
fn taken(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let taken_by = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => taken(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(taken_by).sum()
}

fn fitted(pod: &Pod) -> usize {
    pod.log("s3").matches("what is taken fits").count()
}

on_both_stores! {
    a_config_map_that_changes_in_place_takes_effect,
    a_secret_that_is_rotated_in_place_is_in_use_without_a_restart,
}

#[test]
fn sizes_change_in_the_running_mount() {
    let bench = Bench::new();
    let options = "memory-limit = 96MiB\ncache-size = 64MiB\nstaging-size = 64MiB\n";
    let pod = bench.start(&manifest(&bench, options));
    up(&pod);
    // Not in order, so that nothing leaves before the close.
    let stages = || {
        let dd = "dd if=/dev/zero of=/s3/data/staged bs=1M seek=1 count=24; rm /s3/data/staged";
        let output = pod.exec("app", &["/bin/sh", "-c", dd]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("24+0 records out") || said.contains("No space left"), "{said}");
        said.contains("24+0 records out")
    };
    assert!(stages());
    let cache = pod.volume("cache").join("cache");
    let mut number = 0;
    // Each time something else: what is in memory does not go to the disk once more.
    let mut read = || {
        number += 1;
        bench.bucket().put_synthetic(&format!("in-{number}"), 8 * MIB, number);
        pod.shell("app", &format!("cat /s3/data/in-{number} > /dev/null"));
        taken(&cache)
    };
    wait_until("the cache is nearly full", || read() >= 48 * MIB);

    let options = "memory-limit = 48MiB\ncache-size = 16MiB\nstaging-size = 16MiB\n";
    pod.set_config("config", "options", options);
    wait_until("it is smaller", || fitted(&pod) == 1);
    assert!(!stages());
    assert!(taken(&cache) <= 16 * MIB, "{}", taken(&cache));
    // Of 48 MiB a quarter is for requests, an eighth for inodes, 288 KiB for the table of 16 MiB.
    assert!(pod.log("s3").contains("budget=31162368"), "{}", pod.log("s3"));
    for _ in 0..4 {
        read();
    }
    assert!(taken(&cache) <= 16 * MIB, "{}", taken(&cache));

    // The container's limit is 256 MiB.
    pod.set_config("config", "options", "memory-limit = 512MiB\ncache-size = 64MiB\n");
    wait_until("it is refused", || pod.log("s3").contains("the options stay as they were"));
    let options = "memory-limit = 128MiB\ncache-size = 64MiB\nstaging-size = 64MiB\n";
    pod.set_config("config", "options", options);
    wait_until("it is larger", || fitted(&pod) == 2);
    assert!(stages());
    wait_until("the cache grows again", || read() >= 32 * MIB);
    assert_eq!(pod.restarts("s3"), 0, "{}", pod.log("s3"));
    pod.delete(None);
    bench.assert_gone();
}

fn a_config_map_that_changes_in_place_takes_effect(bench: &Bench) {
    let pod = bench.start(&manifest(bench, "gid = 7"));
    up(&pod);
    pod.shell("app", "[ $(ls -ldn /s3/data | grep -c ' 7 ') = 1 ]");

    // Believed for good from here on: what somebody else adds beside it does not show.
    pod.set_config("config", "options", "gid = 8\nmetadata-ttl = indefinite\n");
    wait_until("it has changed", || pod.log("s3").contains("the options have changed"));
    assert!(pod.log("s3").contains("flags=\"gid\""), "{}", pod.log("s3"));
    let look = ["/bin/ls", "/s3/data/late"];
    assert!(!pod.exec("app", &look).status.success());
    bench.objects().put("late", b"x");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(!pod.exec("app", &look).status.success(), "its absence is believed");

    pod.set_config("config", "options", "metadata-ttl = whenever\n");
    wait_until("it is refused", || pod.log("s3").contains("the options stay as they were"));
    pod.set_config("config", "options", "");
    wait_until("it is understood again", || pod.exec("app", &look).status.success());
    assert_eq!(pod.restarts("s3"), 0);
    pod.delete(None);
    bench.assert_gone();
}

fn a_secret_that_is_rotated_in_place_is_in_use_without_a_restart(bench: &Bench) {
    let (key, secret) = bench.keys();
    let file = |secret: &str| {
        format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    };
    let mut manifest = bench.manifest(IDLE);
    let spec = &mut manifest["spec"];
    let secrets = json!({"name": "secrets", "secret": {"data": {"credentials": file(secret)}}});
    spec["volumes"].as_array_mut().unwrap().push(secrets);
    let server = &mut spec["initContainers"][1];
    let env = server["env"].as_array_mut().unwrap();
    let is_key = |name: &Value| name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY";
    env.retain(|one| !is_key(&one["name"]));
    let at = "/config/credentials";
    env.push(json!({"name": "AWS_SHARED_CREDENTIALS_FILE", "value": at}));
    let mount = json!({"name": "secrets", "mountPath": "/config", "readOnly": true});
    server["volumeMounts"].as_array_mut().unwrap().push(mount);
    let pod = bench.start(&manifest);
    up(&pod);
    let mut number = 0;
    let mut is_let_in = || {
        number += 1;
        let line = format!("echo x > /s3/data/w-{number}");
        pod.exec("app", &["/bin/sh", "-c", &line]).status.success()
    };
    assert!(is_let_in());
    pod.set_config("secrets", "credentials", &file("wrong"));
    wait_until("the new secret, which is wrong, is in use", || !is_let_in());
    pod.set_config("secrets", "credentials", &file(secret));
    wait_until("the right one is in use again", is_let_in);
    assert_eq!(pod.restarts("s3"), 0);
    pod.delete(None);
    bench.assert_gone();
}

/// What the server of a pod says at its start, which has the Secret `secrets` at `/config`.
fn said_of_secrets(mut manifest: Value, change: impl FnOnce(&mut Value)) -> String {
    let bench = Bench::new();
    let (key, secret) = bench.keys();
    let keys = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    let spec = &mut manifest["spec"];
    let secrets = json!({"name": "secrets", "secret": {"data": {"keys": keys}}});
    spec["volumes"].as_array_mut().unwrap().push(secrets);
    let servers = spec["initContainers"].as_array_mut().unwrap();
    let server = servers.iter_mut().find(|one| one["name"] == "s3").unwrap();
    server["env"] = json!(bench.env());
    let mount = json!({"name": "secrets", "mountPath": "/config"});
    server["volumeMounts"].as_array_mut().unwrap().push(mount);
    change(server);
    let pod = bench.start(&manifest);
    up(&pod);
    pod.delete(None);
    bench.assert_gone();
    pod.log("s3")
}

#[test]
fn the_log_says_at_the_start_which_credentials_need_a_new_pod() {
    let both = || {
        let bench = Bench::new();
        [bench.manifest(IDLE), bench.unprivileged(IDLE)]
    };
    let args = |server: &mut Value, at: usize, more: &[&str]| {
        let args = server["args"].as_array_mut().unwrap();
        let more: Vec<Value> = more.iter().map(|&word| json!(word)).collect();
        args.splice(at..at, more);
    };
    for manifest in both() {
        let log = said_of_secrets(manifest.clone(), |_| ());
        assert!(log.contains("the credentials come from the environment"), "{log}");
        assert!(log.contains("needs a new pod"), "{log}");
        assert!(!log.contains("/config"), "{log}");

        // A whole volume, named by a flag.
        let typed = ["--credentials-file", "/config/keys"];
        let log = said_of_secrets(manifest.clone(), |server| args(server, 1, &typed));
        assert!(log.contains("/config/keys is read anew when it is rotated"), "{log}");
        assert!(log.contains("immutable"), "{log}");

        // One file of it.
        let log = said_of_secrets(manifest, |server| {
            args(server, 1, &["--credentials-file=/keys"]);
            let mount = server["volumeMounts"].as_array_mut().unwrap().last_mut().unwrap();
            *mount = json!({"name": "secrets", "mountPath": "/keys", "subPath": "keys"});
        });
        assert!(log.contains("/keys is mounted by subPath"), "{log}");
    }
}

#[test]
fn a_config_map_that_is_malformed_is_one_line_and_a_number() {
    let bench = Bench::new();
    let mut manifest = manifest(&bench, "metadata-ttl = 5s\n");
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let more = [json!("--admin-address"), json!(format!("127.0.0.1:{port}"))];
    manifest["spec"]["initContainers"][1]["args"].as_array_mut().unwrap().extend(more);
    let pod = bench.start(&manifest);
    up(&pod);
    let failures = || {
        let page = get(port, "/metrics");
        let line = page.lines().find(|line| line.starts_with("s3pod_config_reload_failures_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(failures(), 0);
    pod.set_config("config", "options", "metadata-ttl = whenever\n");
    wait_until("it is counted", || failures() == 1);
    pod.set_config("config", "options", "metadata-ttl = 6s\n");
    wait_until("the next one is understood", || pod.log("s3").contains("the options have changed"));
    let said = pod.log("s3").matches("the options stay as they were").count();
    assert_eq!((said, failures()), (1, 1), "{}", pod.log("s3"));
    pod.delete(None);
    bench.assert_gone();
}

#[test]
fn the_logs_level_and_the_number_of_requests_change_in_the_running_mount() {
    let bench = Bench::new();
    let pod = bench.start(&manifest(&bench, "max-requests = 8\n"));
    up(&pod);
    let repeats = || pod.log("s3").matches("the request is repeated").count();
    let stumble = |name: &str| {
        bench.server().faults().add(Fault::SlowDown.on(Op::Put).key(name).times(1));
        pod.shell("app", &format!("echo x > /s3/data/{name}"));
    };
    stumble("before");
    assert_eq!(repeats(), 0, "that is no line for everybody");
    pod.set_config("config", "options", "max-requests = 2\nlog-level = debug\n");
    wait_until("it has changed", || fitted(&pod) == 1);
    stumble("after");
    assert_eq!(repeats(), 1, "{}", pod.log("s3"));

    for number in 0..4 {
        bench.bucket().put(&format!("in/{number}"), "x");
    }
    let hold = bench.server().faults().hold(Op::Get, "in/");
    pod.shell("app", "for i in 0 1 2 3; do cat /s3/data/in/$i & done > /dev/null 2>&1");
    assert!(hold.wait_for_blocking(2, patience()));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(hold.arrived(), 2, "no more than two at once");
    hold.release();
    assert_eq!(pod.restarts("s3"), 0, "{}", pod.log("s3"));
    pod.delete(None);
    bench.assert_gone();
}

/// Kubelet looks now and then, and evicts the pod whose volume is larger than its limit.
#[test]
fn what_is_cached_and_staged_stays_within_the_volumes_limit() {
    let bench = Bench::new();
    bench.bucket().put_synthetic("in", 128 * MIB, 1);
    let mut manifest = bench.manifest(
        "cat /s3/data/in > /dev/null & dd if=/dev/zero of=/s3/data/out bs=1M count=96 & \
         dd if=/dev/zero of=/s3/data/again bs=64k count=640 & wait; cat /s3/data/out > /dev/null",
    );
    manifest["spec"]["volumes"][1]["emptyDir"] = json!({"sizeLimit": "96Mi"});
    let env = manifest["spec"]["initContainers"][1]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "S3POD_DISK_LIMIT", "value": "96Mi"}));
    let pod = bench.start(&manifest);
    let cache = pod.volume("cache");
    let mut most = 0;
    wait_until("the load is over", || {
        most = most.max(taken(&cache));
        pod.has_ended("app")
    });
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert!(most > 16 * MIB && most < 96 * MIB / 100 * 95, "{most}");
    bench.assert_gone();
    assert_eq!(bench.bucket().object("out").unwrap().size, 96 * MIB);
}

/// What a plain HTTP client gets.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: pod\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
