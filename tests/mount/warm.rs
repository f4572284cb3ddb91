//! `s3pod warm`: what it brings is there for the next mount, and what it cannot bring is named.

use std::path::Path;
use std::process::{Command, Output};

use s3pod_testkit::{Fault, Op};

use crate::bench::{pattern, python, read};
use crate::disk_cache::{Place, unmount};

const MIB: usize = 1 << 20;

fn warm(paths: &[&Path]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_s3pod"))
        .args(["warm", "--jobs", "3"])
        .args(paths)
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_tree_is_cached_for_the_next_mount_and_costs_no_get_again() {
    let place = Place::new();
    let large = pattern(30 * MIB + 5);
    place.put("tree/large", &large);
    place.put("tree/empty", b"");
    place.put("beside", b"beside");
    for number in 0..20 {
        place.put(&format!("tree/{}/f{number}", number % 3), &pattern(1000 * number + 1));
    }
    let mount = place.mount(&[]);
    let tree = mount.path().join("tree");
    let (code, said) = warm(&[&tree]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("22 files are cached"), "{said}");
    assert_eq!(place.gets(|| assert_eq!(warm(&[&tree]).0, Some(0))), 0);
    unmount(mount);
    let mount = place.mount(&[]);
    let tree = mount.path().join("tree");
    let gets = place.gets(|| {
        assert!(read(&tree.join("large")) == large, "the bytes differ");
        for number in 0..20 {
            let bytes = read(&tree.join(format!("{}/f{number}", number % 3)));
            assert!(bytes == pattern(1000 * number + 1), "{number}: the bytes differ");
        }
    });
    assert_eq!(gets, 0);
    assert_eq!(place.gets(|| drop(read(&mount.path().join("beside")))), 1, "it was not asked for");
    unmount(mount);
}

#[test]
fn what_cannot_be_cached_is_named() {
    let place = Place::new();
    place.put("good", b"good");
    place.put("refused", &pattern(200_000));
    place.put("large", &pattern(9 * MIB));
    let mount = place.mount(&["--cache-size", "4MiB"]);
    place.break_gets_of("refused");
    let [good, refused, large] = ["good", "refused", "large"].map(|name| mount.path().join(name));
    let (code, said) = warm(&[&good, &refused]);
    assert_eq!(code, Some(1), "{said}");
    let line = |said: &str, name: &str| {
        said.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned()
    };
    assert!(line(&said, "/refused:").contains("Permission denied"), "{said}");
    assert!(said.contains("1 files are cached") && said.contains("1 failed"), "{said}");
    let (code, said) = warm(&[&large]);
    assert_eq!(code, Some(1), "{said}");
    assert!(line(&said, "/large:").contains("--cache-size"), "{said}");
    let (code, said) = warm(&[Path::new("/proc/self"), mount.path()]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/proc/self is in no mount of s3pod"), "{said}");
    unmount(mount);
}

#[test]
fn a_file_says_how_much_of_it_is_cached_and_does_not_list_that() {
    let place = Place::new();
    place.put("f", &pattern(3 * MIB));
    let mount = place.mount(&[]);
    let ask = "
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
def cached(): return os.getxattr(sys.argv[1], 'user.s3pod.cached').decode()
print(cached(), os.listxattr(sys.argv[1]))
import mmap
buffer = mmap.mmap(-1, 131072)
os.preadv(fd, [buffer], 1048576)
print(cached())";
    assert_eq!(python(ask, &mount.path().join("f")), "0 []\n131072");
    unmount(mount);
}

impl Place {
    fn break_gets_of(&self, key: &str) {
        self.server()
            .faults()
            .add(Fault::status(403, "AccessDenied").on(Op::Get).key(key).always());
    }
}
