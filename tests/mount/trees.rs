//! Whole trees and very large files through a mount: what goes in comes out, and S3 has it.
//!
//! Needs root, /dev/fuse and CAP_SYS_ADMIN, like the mounts themselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use crc_fast::{CrcAlgorithm, Digest};
use futures::StreamExt;
use s3pod_testkit::{Mount, Op, S3Endpoint, SeaweedFs, ServerOptions, TestServer};

const FILES: usize = 5_000;
const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn seaweedfs_a_tree_of_5000_files_goes_in_and_comes_back_and_each_is_one_object() {
    let server = SeaweedFs::spawn().unwrap();
    let endpoint = server.s3_endpoint("trees").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (source, back) = (folder.path().join("source"), folder.path().join("back"));
    let files = plant(&source);
    assert_eq!(files.len(), FILES);

    let mount = Mount::start(env!("CARGO_BIN_EXE_s3pod"), &endpoint, &[]).unwrap();
    let inside = mount.path().join("tree");
    run(Command::new("cp").arg("-r").arg(&source).arg(&inside));
    // A second mount knows nothing of the first one's memory: all of it must come from S3.
    let second = Mount::start(env!("CARGO_BIN_EXE_s3pod"), &endpoint, &[]).unwrap();
    run(Command::new("cp").arg("-r").arg(second.path().join("tree")).arg(&back));
    run(Command::new("diff").arg("-r").args([&source, &back]));

    let objects = block_on(objects(&endpoint, "tree/"));
    let keys: Vec<_> = objects.keys().filter(|key| !key.ends_with('/')).cloned().collect();
    let names: Vec<_> = files.iter().map(|file| format!("tree/{}", file.display())).collect();
    assert_eq!(keys, names);
    for (key, file) in names.iter().zip(&files) {
        assert!(objects[key] == fs::read(source.join(file)).unwrap(), "{key}");
    }
    assert!(second.unmount().unwrap().success());
    assert!(mount.unmount().unwrap().success());
}

/// Copies the first regular files of `/usr/share` to `target`; their paths below it, in the order
/// of keys.
fn plant(target: &Path) -> Vec<PathBuf> {
    let root = Path::new("/usr/share");
    let mut files = Vec::new();
    walk(root, &mut files);
    for file in &mut files {
        let inside = file.strip_prefix(root).unwrap().to_owned();
        let copy = target.join(&inside);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&*file, copy).unwrap();
        *file = inside;
    }
    files.sort_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    files
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().unwrap();
        if files.len() == FILES {
            return;
        }
        if kind.is_dir() {
            walk(&entry.path(), files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {}\n{said}{found}", output.status);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future)
}

/// Every object below `prefix`, by an S3 client that knows nothing of s3pod.
async fn objects(endpoint: &S3Endpoint, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let credentials =
        Credentials::new(&endpoint.access_key, &endpoint.secret_key, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(credentials)
        .region(Region::new(endpoint.region.clone()))
        .endpoint_url(&endpoint.endpoint)
        .force_path_style(true)
        .build();
    let client = Client::from_conf(config);
    let mut pages =
        client.list_objects_v2().bucket(&endpoint.bucket).prefix(prefix).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(page.unwrap().contents().iter().map(|object| object.key().unwrap().to_owned()));
    }
    let get = async |key: String| {
        let object = client.get_object().bucket(&endpoint.bucket).key(&key).send().await.unwrap();
        (key, object.body.collect().await.unwrap().to_vec())
    };
    futures::stream::iter(keys.into_iter().map(get)).buffer_unordered(16).collect().await
}

/// The process stays under `--memory-limit` and a fixed 48 MiB; by default that is 240 MiB.
const RSS_MAX: u64 = 256 << 20;

#[test]
fn five_gib_go_in_and_come_back_in_a_quarter_gib_of_memory() {
    let server = TestServer::spawn(ServerOptions::with_bucket("large"));
    let endpoint = server.s3_endpoint("large");
    let mount = Mount::start(env!("CARGO_BIN_EXE_s3pod"), &endpoint, &[]).unwrap();
    let file = mount.path().join("five");

    let mut written = Digest::new(CrcAlgorithm::Crc64Nvme);
    let (mut writer, mut pipe) = dd_into(&file);
    let mut block = vec![0; MIB];
    for number in 0..5 * GIB / MIB as u64 {
        if number == GIB / MIB as u64 {
            // A GiB is written, the file is open, and parts have left: they do not wait for close.
            wait_until("parts have left", || parts_sent(&server) >= 8);
            assert_eq!(server.log().count(Op::CompleteUpload), 0);
        }
        fill(&mut block, number);
        written.update(&block);
        pipe.write_all(&block).unwrap();
    }
    drop(pipe);
    assert!(writer.wait().unwrap().success());
    let after_write = mount.rss_bytes().unwrap().peak;
    assert!(after_write < RSS_MAX, "{} MiB while writing", after_write >> 20);
    assert_eq!(server.bucket("large").object("five").unwrap().size, 5 * GIB);

    assert_eq!(checksum(&file), written.finalize());
    let after_read = mount.rss_bytes().unwrap().peak;
    assert!(after_read < RSS_MAX, "{} MiB while reading", after_read >> 20);
    assert!(mount.unmount().unwrap().success());
}

fn dd_into(file: &Path) -> (Child, ChildStdin) {
    let mut dd = Command::new("dd");
    dd.args(["bs=1M", "iflag=fullblock", "status=none"]).arg(format!("of={}", file.display()));
    let mut child = dd.stdin(Stdio::piped()).spawn().unwrap();
    let pipe = child.stdin.take().unwrap();
    (child, pipe)
}

/// The checksum of what dd reads from `file`.
fn checksum(file: &Path) -> u64 {
    let mut dd = Command::new("dd");
    dd.args(["bs=1M", "status=none"]).arg(format!("if={}", file.display()));
    let mut child = dd.stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let mut sum = Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut block = vec![0; MIB];
    loop {
        let length = pipe.read(&mut block).unwrap();
        if length == 0 {
            break;
        }
        sum.update(&block[..length]);
    }
    assert!(child.wait().unwrap().success());
    sum.finalize()
}

/// Different bytes in each page of 4 KiB of the file, and quickly: the pages tell where they are.
fn fill(block: &mut [u8], number: u64) {
    for (index, page) in block.chunks_exact_mut(4096).enumerate() {
        let place = number << 8 | index as u64;
        page[..8].copy_from_slice(&place.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
}

fn parts_sent(server: &TestServer) -> usize {
    let parts = server.log().requests_of(Op::UploadPart);
    parts.iter().filter(|part| part.status == Some(200)).count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let came = (0..6_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is_so()
    });
    assert!(came, "in vain: until {what}");
}
