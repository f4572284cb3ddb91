//! The server of a node's volumes: one process each, none of them privileged.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, seteuid};
use s3pod_testkit::Op;
use serde_json::{Value, json};

use crate::stand::{Stand, USER, base64, until};

/// Memory for `count` volumes of the least size, 64 MiB and 48 MiB beside it, and not for one more.
fn room_for(count: u64) -> String {
    format!("{}MiB", count * (64 + 48))
}

fn refusal(answer: &Value) -> (String, String) {
    let text = |name: &str| answer["refused"][name].as_str().unwrap_or_default().to_owned();
    (text("kind"), text("why"))
}

/// Everything that other processes may see of one: command line and environment.
fn shown(pid: u32) -> String {
    let part = |name: &str| fs::read(Path::new("/proc").join(pid.to_string()).join(name)).unwrap();
    [part("cmdline"), part("environ")].iter().map(|part| String::from_utf8_lossy(part)).collect()
}

#[test]
fn a_volume_is_read_and_written_by_a_process_without_any_privilege() {
    let stand = Stand::new(&room_for(2));
    stand.bucket().put("a", "hello");
    let mut volume = stand.serve(&stand.order("one"));
    assert_eq!(volume.answer["init"]["major"], 7, "{}", volume.answer);
    assert_eq!(volume.read("a").unwrap(), "hello");
    fs::write(volume.point.join("b"), "written").unwrap();
    assert_eq!(stand.bucket().get("b").unwrap(), "written");

    let stats = volume.ask("/statfs");
    assert_eq!(
        (stats["total_bytes"].as_u64(), &stats["free_bytes"]),
        (Some(1 << 50), &stats["total_bytes"])
    );

    let status = fs::read_to_string(format!("/proc/{}/status", volume.pid)).unwrap();
    let has = |line: &str| status.lines().any(|found| found == line);
    assert!(
        has("CapEff:\t0000000000000000") && has("Uid:\t65534\t65534\t65534\t65534"),
        "{status}"
    );
    let secret = stand.store.secret_key();
    let shown = shown(volume.pid);
    assert!(!shown.contains(secret) && !shown.contains("the-servers"), "{shown}");
    assert!(!stand.log().contains(secret));

    volume.unmount();
    volume.await_end();
    let ending = stand.ask(&json!({"ending": {"key": "one"}}));
    assert_eq!(ending["ending"]["how"], "ended in order", "{}", stand.log());
    assert!(stand.keys().is_empty());
    let left = |folder: &str| fs::read_dir(stand.folder.path().join(folder)).unwrap().count();
    assert_eq!((left("sockets/volumes"), left("secrets/secrets")), (0, 0));
}

#[test]
fn a_server_that_is_killed_takes_no_other_volume_with_it_and_is_started_anew() {
    let stand = Stand::new(&room_for(2));
    stand.bucket().put("a", "hello");
    let mut first = stand.serve(&stand.order("first"));
    let second = stand.serve(&stand.order("second"));
    // A reader that waits when it happens.
    let hold = stand.store.faults().hold(Op::Get, "a");
    let path = first.point.join("a");
    let reader = std::thread::spawn(move || fs::read(path));
    assert!(hold.wait_for_blocking(1, std::time::Duration::from_secs(30)));
    first.kill();
    first.await_end();
    reader.join().unwrap().unwrap_err();
    hold.release();
    let ending = stand.ask(&json!({"ending": {"key": "first"}}))["ending"]["how"].to_string();
    assert!(ending.contains("was killed (SIGKILL)"), "{ending}");
    assert_eq!(stand.keys(), ["second"]);
    assert_eq!(second.read("a").unwrap(), "hello");

    let again = stand.serve(&stand.order("first"));
    assert_eq!(again.read("a").unwrap(), "hello");
    assert_eq!(stand.keys(), ["first", "second"]);
}

#[test]
fn a_volume_that_is_started_while_its_server_lives_gets_a_new_one() {
    let stand = Stand::new(&room_for(1));
    stand.bucket().put("a", "hello");
    let mut first = stand.serve(&stand.order("one"));
    let mut second = stand.serve(&stand.order("one"));
    first.await_end();
    assert_eq!(second.read("a").unwrap(), "hello");
    assert_ne!(first.pid, second.pid);
    assert_eq!(stand.ask(&json!({"stop": {"key": "one"}})), json!({"version": 1, "done": {}}));
    second.await_end();
    assert!(stand.keys().is_empty());
    assert_eq!(stand.ask(&json!({"stop": {"key": "never"}}))["done"], json!({}));
}

#[test]
fn a_volume_that_does_not_fit_is_refused_and_the_others_go_on() {
    let stand = Stand::new(&room_for(2));
    stand.bucket().put("a", "hello");
    let mut first = stand.serve(&stand.order("first"));
    let second = stand.serve(&stand.order("second"));
    let (kind, why) = refusal(&stand.ask(&json!({"start": stand.order("third")})));
    assert_eq!(kind, "full");
    assert!(why.contains("third needs 112MiB") && why.contains("server pods"), "{why}");
    for volume in [&first, &second] {
        assert_eq!(volume.read("a").unwrap(), "hello");
    }
    first.unmount();
    first.await_end();
    // Its memory is free once it has ended, which is what the answer waits for.
    stand.ask(&json!({"ending": {"key": "first"}}));
    let mut large = stand.order("third");
    large["memory"] = json!(65 << 20);
    assert_eq!(refusal(&stand.ask(&json!({"start": large}))).0, "full");
    assert_eq!(stand.serve(&stand.order("third")).read("a").unwrap(), "hello");
}

#[test]
fn what_cannot_be_served_is_refused_with_the_servers_own_words() {
    let stand = Stand::new(&room_for(1));
    let mut order = stand.order("one");
    order["arguments"][0] = json!("no-such-bucket");
    let (kind, why) = refusal(&stand.ask(&json!({"start": order})));
    assert_eq!(kind, "no_bucket", "{why}");
    assert!(why.contains("has no bucket `no-such-bucket`"), "{why}");
    let mut order = stand.order("one");
    order["arguments"][1] = json!("--no-such-flag");
    assert_eq!(refusal(&stand.ask(&json!({"start": order}))).0, "invalid");
    let mut order = stand.order("one");
    // A port that nobody listens at.
    order["arguments"][2] = json!("http://127.0.0.1:1");
    let volume = stand.serve(&order);
    let contact = &volume.ask("/credentials")["contact"];
    assert_eq!(contact["may_pass"], true, "a store that is away keeps nobody waiting: {contact}");
    assert!(contact["why"].as_str().unwrap().contains("http://127.0.0.1:1"), "{contact}");
    let mut order = stand.order("one");
    order["files"] = json!({});
    let (kind, why) = refusal(&stand.ask(&json!({"start": order})));
    assert_eq!(kind, "unknown", "the server's own identity is not for volumes: {why}");
    // Nothing of them is left, and there is room.
    stand.serve(&stand.order("one"));
}

#[test]
fn credentials_are_files_that_can_be_replaced_while_it_runs() {
    let stand = Stand::new(&room_for(1));
    stand.serve(&stand.order("one"));
    let folders = fs::read_dir(stand.folder.path().join("secrets/secrets")).unwrap();
    let folder = folders.map(|entry| entry.unwrap().path()).next().unwrap();
    let file = folder.join("credentials");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o400));
    assert_eq!(fs::read_to_string(&file).unwrap(), stand.credentials());
    let files = json!({"credentials": base64("new"), "token": base64("t")});
    let answer = stand.ask(&json!({"files": {"key": "one", "files": files}}));
    assert_eq!(answer["done"], json!({}), "{answer}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    assert_eq!(mode(&folder.join("token")), 0o400);
    let outside = json!({"../credentials": base64("new")});
    let answer = stand.ask(&json!({"files": {"key": "one", "files": outside}}));
    assert_eq!(refusal(&answer).0, "invalid");
    let answer = stand.ask(&json!({"files": {"key": "two", "files": {}}}));
    assert_eq!(refusal(&answer).0, "unavailable");
}

#[test]
fn only_root_and_its_own_user_are_heard() {
    let stand = Stand::new(&room_for(1));
    let socket = stand.sockets().join("server.sock");
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // As if the folder's owner had been careless.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let ask_as = |uid: u32| {
        seteuid(Uid::from_raw(uid)).unwrap();
        let answer = stand.say(b"{\"version\":1,\"list\":{}}\n");
        seteuid(Uid::from_raw(0)).unwrap();
        answer
    };
    ask_as(1234).unwrap_err();
    assert_eq!(ask_as(USER).unwrap()["volumes"], json!([]));
    assert!(stand.log().contains("1234"), "{}", stand.log());
}

#[test]
fn broken_lines_harm_nobody() {
    let stand = Stand::new(&room_for(1));
    let volume = stand.serve(&stand.order("one"));
    for (line, words) in [
        ("nonsense\n", "not a request"),
        ("{}\n", "not a request"),
        ("{\"version\":2,\"list\":{}}\n", "1 is"),
        ("{\"version\":1,\"dance\":{}}\n", "not a request"),
        ("{\"version\":1,\"start\":{\"key\":\"../x\",\"arguments\":[]}}\n", "no name"),
    ] {
        let (kind, why) = refusal(&stand.say(line.as_bytes()).unwrap());
        assert!(kind == "invalid" && why.contains(words), "{line}: {why}");
    }
    // Cut off, and longer than any line may be: the answer may not be heard any more.
    let _ = stand.say(b"{\"version\":1");
    let _ = stand.say(&vec![b'x'; 4 << 20]);
    stand.bucket().put("a", "hello");
    assert_eq!(volume.read("a").unwrap(), "hello");
    assert_eq!(stand.keys(), ["one"]);
}

#[test]
fn its_end_drains_every_volume() {
    let mut stand = Stand::new(&room_for(2));
    let volumes = [stand.serve(&stand.order("one")), stand.serve(&stand.order("two"))];
    let mut open = Vec::new();
    for (volume, name) in volumes.iter().zip(["x", "y"]) {
        let mut file = File::create(volume.point.join(name)).unwrap();
        file.write_all(b"not closed").unwrap();
        open.push(file);
    }
    assert_eq!(stand.end(Signal::SIGTERM), Some(0), "{}", stand.log());
    for (mut volume, name) in volumes.into_iter().zip(["x", "y"]) {
        volume.await_end();
        assert_eq!(stand.bucket().get(name).unwrap(), "not closed");
    }
    assert!(!stand.sockets().join("server.sock").exists());
}

#[test]
fn volumes_end_with_a_server_that_is_killed_and_their_journals_go_on() {
    let mut stand = Stand::new(&room_for(1));
    let mut order = stand.order("one");
    order["arguments"].as_array_mut().unwrap().push(json!("--write-back"));
    let mut volume = stand.serve(&order);
    let hold = stand.store.faults().hold(Op::Put, "kept");
    fs::write(volume.point.join("kept"), "acknowledged").unwrap();
    assert!(hold.wait_for_blocking(1, std::time::Duration::from_secs(30)));
    // First the one that would drain, so that the journal has something left.
    volume.kill();
    volume.await_end();
    assert_eq!(stand.end(Signal::SIGKILL), None);
    hold.release();
    stand.store.faults().clear();
    stand.start(&room_for(1));
    assert!(stand.keys().is_empty());
    let volume = stand.serve(&order);
    assert_eq!(volume.read("kept").unwrap(), "acknowledged");
    until("it is in the bucket", || stand.bucket().contains("kept"));

    let mut volume = volume;
    stand.end(Signal::SIGKILL);
    volume.await_end();
    // Its descriptors are closed one after the other.
    until("nobody serves it any more", || volume.read("kept").is_err());
}
