//! The form without privileges: the node mounts, a container without any capability serves.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use s3pod_testkit::synthetic_bytes;
use serde_json::json;

use crate::bench::{BUCKET, Bench, IDLE, up, wait_until};
use crate::plugin::SOCKET;
use crate::pod::Pod;

on_both_stores! {
    a_server_without_capabilities_reads_and_writes,
}

fn a_server_without_capabilities_reads_and_writes(bench: &Bench) {
    bench.objects().put("in/a", b"hello");
    bench.objects().put("in/large", &synthetic_bytes(3, 0..24 << 20));
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
    assert!(has("Seccomp:", "2"), "{status}");
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.log("app"), "helloc\ncopy\n");
    bench.assert_gone();
    let objects = bench.objects();
    assert_eq!(objects.get("out/c").unwrap(), b"o\0e\ntwo\n");
    assert!(objects.get("out/copy") == objects.get("in/large"));
    assert!(objects.get("out/gone").is_none() && objects.get("in/a").is_some());
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
fn a_server_runs_as_whatever_user_the_cluster_assigns() {
    let bench = Bench::new();
    bench.bucket().put("a", "hello");
    let mut manifest = bench.unprivileged("cat /data/a; echo x > /data/b");
    // As OpenShift does, for all containers of a namespace.
    for place in ["/spec/initContainers/0", "/spec/containers/0"] {
        let container = manifest.pointer_mut(place).unwrap();
        container["securityContext"]["runAsUser"] = json!(1_000_620_000);
    }
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.log("app"), "hello");
    bench.assert_gone();
    assert_eq!(bench.bucket().get("b").unwrap(), "x\n");
}

#[test]
fn the_runtimes_filter_forbids_what_it_shall() {
    let bench = Bench::new();
    let mut manifest = bench.unprivileged(IDLE);
    let pod = bench.start(&manifest);
    up(&pod);
    let unshare = ["/bin/unshare", "-U", "/bin/true"];
    for container in ["s3", "app"] {
        let refused = pod.exec(container, &unshare);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("Operation not permitted"), "{said}");
    }
    pod.delete(None);
    bench.assert_gone();
    // It is the filter that does.
    let context = &mut manifest["spec"]["containers"][0]["securityContext"];
    context.as_object_mut().unwrap().remove("seccompProfile");
    let pod = Pod::start(&bench.node, "unfiltered", &manifest);
    up(&pod);
    let allowed = pod.exec("app", &unshare);
    assert!(allowed.status.success(), "{allowed:?}");
    pod.delete(None);
    bench.assert_gone();
}

#[test]
fn nobody_else_reaches_the_handoff_socket() {
    let bench = Bench::new();
    let pod = bench.start(&bench.unprivileged(IDLE));
    up(&pod);
    let socket = pod.volume("handoff").join("s3pod.sock");
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody but its user and root may connect");

    // Also where it is no matter of modes.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let stranger = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('s3pod.sock'); \
                    s.sendall(b'{\"version\":1,\"volume\":\"v\",\"lease\":2}\\n'); \
                    print(s.recv(100))";
    let ask = |user: u32| {
        let mut command = Command::new("python3");
        command.args(["-c", stranger]).uid(user).gid(user).current_dir(pod.volume("handoff"));
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    assert!(!ask(1000).contains("refused"), "a stranger is not heard");
    wait_until("the log says so", || pod.log("s3").contains("a stranger at the handoff socket"));
    assert!(ask(65534).contains("refused"), "the server's own user is, and gets an answer");
    assert!(pod.exec("app", &["/bin/ls", "/data"]).status.success());
    pod.delete(None);
    bench.assert_gone();
}

#[test]
fn a_second_server_does_not_take_the_socket_of_the_first() {
    let bench = Bench::new();
    bench.bucket().put("a", "hello");
    let pod = bench.start(&bench.unprivileged(IDLE));
    up(&pod);
    let socket = pod.volume("handoff").join("s3pod.sock");
    let number = || socket.metadata().unwrap().ino();
    let before = number();
    let second = pod.exec("s3", &["/s3pod-sidecar", "serve", BUCKET, "/handoff/s3pod.sock"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(78), "{said}");
    assert!(said.contains("another server listens there"), "{said}");
    assert!(said.contains("an emptyDir of its own"), "{said}");
    assert_eq!(number(), before, "it left everything as it was");
    let health = pod.exec("s3", &["/s3pod", "health", "--served", "/handoff/s3pod.sock"]);
    assert!(health.status.success(), "{health:?}");
    assert_eq!(pod.shell("app", "cat /data/a"), "hello");

    // What a crash leaves is in nobody's way.
    pod.crash("s3");
    wait_until("the next one serves", || {
        pod.published().handed() > 1 && pod.exec("app", &["/bin/cat", "/data/a"]).status.success()
    });
    pod.delete(None);
    bench.assert_gone();
}

/// A server that is of another pod, or of none, listens where the pod's own should: it gets no
/// descriptor, and hears no word.
#[test]
fn a_stranger_that_listens_gets_nothing() {
    let bench = Bench::new();
    let mut manifest = bench.unprivileged("true");
    // The pod has no server at all.
    manifest["spec"]["initContainers"] = json!([]);
    manifest["spec"]["containers"][0]["volumeMounts"] = json!([]);
    let pod = bench.start(&manifest);
    let listener = UnixListener::bind(pod.volume("handoff").join(SOCKET)).unwrap();
    let mut heard = Vec::new();
    let (mut stream, _) = listener.accept().unwrap();
    // Whoever may have closed without reading has written nothing either.
    let _ = stream.read_to_end(&mut heard);
    assert_eq!(heard, b"");
    drop(listener);
    wait_until("the plugin knows", || pod.published().strangers() > 0);
    assert_eq!(pod.published().handed(), 0);
    assert_eq!(pod.complete(), [0]);
    bench.assert_gone();
}
