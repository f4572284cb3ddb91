//! A static program on an empty root file system, as in the image: names become addresses.
//!
//! glibc looks names up by modules that it loads, and an image from scratch has none. Since 2.34
//! those for files and DNS are in the library itself; this shows that a static program has them.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Resolves its argument as the SDK's client does, by the standard library.
const PROGRAM: &str = r#"
use std::net::ToSocketAddrs;
fn main() {
    let name = std::env::args().nth(1).unwrap();
    let found: Vec<String> = (name.as_str(), 0).to_socket_addrs()
        .map(|all| all.map(|one| one.ip().to_string()).collect())
        .unwrap_or_else(|error| vec![error.to_string()]);
    println!("{}", found.join(" "));
}
"#;

fn build(folder: &Path) {
    let source = folder.join("resolve.rs");
    fs::write(&source, PROGRAM).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]);
    let output = rustc.arg(folder.join("root/resolve")).arg(&source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn resolve(root: &Path, name: &str) -> String {
    let mut command = Command::new("/bin/busybox");
    let output = command.arg("chroot").arg(root).args(["/resolve", name]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Answers a question for the address of `wanted` with 10.1.2.3, and others with "no such name".
fn answer(socket: &UdpSocket, wanted: &str) {
    let mut packet = [0_u8; 512];
    while let Ok((size, peer)) = socket.recv_from(&mut packet) {
        let question = &packet[12..size];
        let end = question.iter().position(|byte| *byte == 0).unwrap();
        let mut labels = Vec::new();
        let mut rest = &question[..end];
        while let Some((&length, behind)) = rest.split_first() {
            let (label, after) = behind.split_at(length.into());
            labels.push(String::from_utf8_lossy(label).into_owned());
            rest = after;
        }
        let is_known = labels.join(".") == wanted;
        let is_address = question[end + 1..end + 3] == [0, 1];
        let mut reply = packet[..2].to_vec();
        // Answer, recursion wanted and had; NXDOMAIN where the name is another.
        reply.extend([0x81, if is_known { 0x80 } else { 0x83 }]);
        reply.extend([0, 1, 0, u8::from(is_known && is_address), 0, 0, 0, 0]);
        reply.extend(&question[..end + 5]);
        if is_known && is_address {
            // The name again (a pointer), A, IN, 60 s, four bytes.
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3]);
        }
        let _ = socket.send_to(&reply, peer);
    }
}

#[test]
fn names_are_found_in_the_hosts_file_and_by_search_domains() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    build(folder.path());
    fs::write(root.join("etc/hosts"), "10.9.8.7 store.example\n").unwrap();
    // What kubelet writes.
    let resolver = "search team.svc.cluster.local svc.cluster.local cluster.local\n\
                    nameserver 127.0.0.1\noptions ndots:5\n";
    fs::write(root.join("etc/resolv.conf"), resolver).unwrap();

    // A network of this thread's own, where the port of DNS is free.
    unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
    let up = Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status();
    assert!(up.unwrap().success());
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || answer(&socket, "minio.svc.cluster.local"));

    assert_eq!(resolve(&root, "store.example"), "10.9.8.7");
    assert_eq!(resolve(&root, "minio"), "10.1.2.3", "by the second search domain");
    let unknown = resolve(&root, "nowhere.example");
    assert!(unknown.contains("lookup"), "{unknown}");
}
