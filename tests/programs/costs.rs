//! What programs cost in requests, counted by our server.

use std::collections::BTreeMap;

use s3pod_testkit::{Bucket, Op, RequestLog, ServerOptions, TestServer};

use crate::stage::{mount, run};

const BUCKET: &str = "costs";
/// Files in the tree that is copied.
const FILES: usize = 20;

/// A tree of small files with modes, owners and times of their own, and a link.
const TREE: &str = r#"
    mkdir -p "$L/src/sub"
    for i in $(seq 20); do
      head -c $((i * 911)) /dev/urandom > "$L/src/sub/f$i"
      chmod $((600 + i % 8)) "$L/src/sub/f$i"
      chown $((1000 + i)):$((2000 + i)) "$L/src/sub/f$i"
      touch -d "@$((981173100 + i)).123456789" "$L/src/sub/f$i"
    done
"#;

/// A file of three parts, with a mode, an owner and a time of its own.
const LARGE: &str = r#"
    mkdir "$L/src"
    head -c 20M /dev/urandom > "$L/src/large"
    chmod 640 "$L/src/large"
    chown 1001:2001 "$L/src/large"
    touch -d @981173100.123456789 "$L/src/large"
"#;

/// Runs a script on a mount, which ends; the bucket, and what the part after `fill` cost.
fn counted(fill: impl FnOnce(&Bucket), script: &str) -> (TestServer, RequestLog) {
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    fill(&server.bucket(BUCKET));
    let mount = mount(&server.s3_endpoint(BUCKET), &[]);
    server.log().clear();
    run(&mount, script, &[]);
    assert!(mount.unmount().unwrap().success());
    let log = server.log().clone();
    (server, log)
}

/// How often each object was asked for by `op`, files of the tree alone.
fn per_file(log: &RequestLog, op: Op) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in log.requests_of(op) {
        if !request.key.ends_with('/') {
            *counts.entry(request.key).or_default() += 1;
        }
    }
    counts
}

/// Asserts that the objects carry the attributes of [`TREE`].
fn assert_attributes(bucket: &Bucket, folder: &str) {
    for number in 1..=FILES {
        let key = format!("{folder}/f{number}");
        let object = bucket.object(&key).unwrap_or_else(|| panic!("no object {key}"));
        assert_eq!(object.size, number as u64 * 911, "{key}");
        let mode = format!("0100{}", 600 + number % 8);
        assert_eq!(object.metadata("mode"), Some(mode.as_str()), "{key}");
        assert_eq!(object.metadata("uid"), Some((1000 + number).to_string().as_str()), "{key}");
        assert_eq!(object.metadata("gid"), Some((2000 + number).to_string().as_str()), "{key}");
        let time = format!("{}.123456789", 981_173_100 + number);
        assert_eq!(object.metadata("mtime"), Some(time.as_str()), "{key}");
    }
}

#[test]
fn rsync_costs_a_put_a_copy_and_a_delete_for_each_file() {
    let script = format!("{TREE}\nrsync -a \"$L/src/\" copy/");
    let (server, log) = counted(|_| {}, &script);
    assert_attributes(&server.bucket(BUCKET), "copy/sub");
    let puts = per_file(&log, Op::Put);
    assert_eq!(puts.len(), FILES, "each under its temporary name: {puts:?}");
    assert!(puts.values().all(|count| *count == 1), "{puts:?}");
    let copies = per_file(&log, Op::Copy);
    assert_eq!((copies.len(), copies.values().sum()), (FILES, FILES), "{copies:?}");
    let deletes = per_file(&log, Op::Delete);
    assert_eq!(deletes, puts, "the temporary names go");
    // The two folders are made, and each gets its times at most once; one look-up of the first.
    let folders = log.count(Op::Put) - FILES;
    assert!((3..=4).contains(&folders), "{:?}", log.counts());
    assert_eq!(log.total(), folders + 3 * FILES + 2, "{:?}", log.counts());
}

#[test]
fn a_second_rsync_changes_nothing() {
    let script = format!(
        r#"{TREE}
        rsync -a "$L/src/" copy/
        sleep 2
        rsync -ai "$L/src/" copy/ > "$L/second"
        [ ! -s "$L/second" ]
        "#
    );
    let server = TestServer::spawn(ServerOptions::with_bucket(BUCKET));
    let endpoint = server.s3_endpoint(BUCKET);
    let first = mount(&endpoint, &[]);
    run(&first, &script, &[]);
    assert!(first.unmount().unwrap().success());
}

#[test]
fn cp_p_costs_one_put_for_each_file() {
    let script = format!("{TREE}\nmkdir copy\ncp -p \"$L\"/src/sub/* copy/");
    let (server, log) = counted(|_| {}, &script);
    assert_attributes(&server.bucket(BUCKET), "copy");
    // The folder is looked up and made.
    assert_eq!(log.counts(), [(Op::Head, 1), (Op::List, 1), (Op::Put, FILES + 1)]);
}

#[test]
fn tar_x_costs_one_put_for_each_file() {
    let script = format!("{TREE}\ntar c --format=posix -C \"$L/src\" sub | tar x");
    let (server, log) = counted(|_| {}, &script);
    assert_attributes(&server.bucket(BUCKET), "sub");
    // The folder is looked up, made, and gets its times.
    assert_eq!(log.counts(), [(Op::Head, 1), (Op::List, 1), (Op::Put, FILES + 2)]);
}

#[test]
fn chown_of_what_is_right_sends_nothing() {
    let (_server, log) = counted(
        |bucket| {
            for number in 0..50 {
                bucket.put(&format!("d/f{number}"), "bytes");
            }
        },
        "chown -R 0:0 d; chmod -R u+rw d; chgrp -R 0 d",
    );
    // Only what the walks ask: no file twice.
    let asked = log.count(Op::Head) + log.count(Op::List);
    assert_eq!(log.total(), asked, "{:?}", log.counts());
    assert!(per_file(&log, Op::Head).values().all(|count| *count == 1), "{:?}", log.counts());
}

/// Asserts that the object carries the attributes of [`LARGE`].
fn assert_large(bucket: &Bucket, key: &str) {
    let object = bucket.object(key).unwrap_or_else(|| panic!("no object {key}"));
    assert_eq!((object.size, bucket.keys().len()), (20 << 20, 1));
    let metadata = ["mode", "uid", "gid", "mtime"].map(|name| object.metadata(name).unwrap());
    assert_eq!(metadata, ["0100640", "1001", "2001", "981173100.123456789"]);
    assert_eq!(bucket.uploads(), []);
}

#[test]
fn cp_p_of_a_streamed_file_costs_one_copy_more() {
    let script = format!("{LARGE}\ncp -p \"$L/src/large\" .; cmp large \"$L/src/large\"");
    let (server, log) = counted(|_| {}, &script);
    assert_large(&server.bucket(BUCKET), "large");
    // Its metadata left with the first part, so what is set at the end goes by itself.
    let uploads = [Op::CreateUpload, Op::UploadPart, Op::CompleteUpload].map(|op| log.count(op));
    assert_eq!(uploads, [1, 3, 1], "{:?}", log.counts());
    assert_eq!((log.count(Op::Copy), log.count(Op::CopyPart)), (1, 0), "{:?}", log.counts());
    assert_eq!((log.count(Op::Put), log.count(Op::Delete)), (0, 0), "{:?}", log.counts());
}

#[test]
fn rsync_of_a_streamed_file_costs_its_upload_a_copy_and_a_delete() {
    let script = format!("{LARGE}\nrsync -a \"$L/src/large\" large; cmp large \"$L/src/large\"");
    let (server, log) = counted(|_| {}, &script);
    assert_large(&server.bucket(BUCKET), "large");
    let uploads = [Op::CreateUpload, Op::UploadPart, Op::CompleteUpload].map(|op| log.count(op));
    assert_eq!(uploads, [1, 3, 1], "{:?}", log.counts());
    // The rename is the copy that its attributes ride on.
    assert_eq!((log.count(Op::Copy), log.count(Op::Delete)), (1, 1), "{:?}", log.counts());
    assert_eq!((log.count(Op::Put), log.count(Op::CopyPart)), (0, 0), "{:?}", log.counts());
}
