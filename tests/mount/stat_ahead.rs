//! What attributes cost after a listing: nothing until somebody needs them, and each one request.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use s3pod_testkit::{Attributes, Bucket, Fault, Op, RequestLog};

use crate::bench::{errno, eventually, names, read, shell};
use crate::lab::{Lab, PATIENCE};

/// Long enough that no test outlives it.
const LONG: [&str; 2] = ["--metadata-ttl", "10m"];
const KIB: usize = 1 << 10;

/// Files of one size in a directory with a marker.
fn filled(count: usize, size: usize) -> impl FnOnce(&Bucket) {
    move |bucket| {
        bucket.put("d/", "");
        for number in 0..count {
            bucket.put(&format!("d/{number:05}"), vec![b'x'; size]);
        }
    }
}

/// The keys of all requests of one kind, in order.
fn keys(log: &RequestLog, op: Op) -> Vec<String> {
    let mut keys: Vec<String> =
        log.requests().into_iter().filter(|one| one.op == op).map(|one| one.key).collect();
    keys.sort();
    keys
}

/// Asserts that each file below `d/` was asked about once, and nothing else but `beside`.
fn assert_one_head_each(log: &RequestLog, count: usize, beside: &[&str]) {
    let heads = keys(log, Op::Head);
    let files: Vec<&String> = heads.iter().filter(|key| !beside.contains(&key.as_str())).collect();
    let wanted: Vec<String> = (0..count).map(|number| format!("d/{number:05}")).collect();
    assert_eq!(files, wanted.iter().collect::<Vec<_>>(), "{:?}", log.counts());
}

fn ls_l(directory: &Path) -> String {
    let output = Command::new("ls").arg("-ln").arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn ls_l_of_small_files_is_one_head_each() {
    let lab = Lab::new(&LONG, filled(1_500, 10));
    assert_eq!(ls_l(&lab.path("d")).lines().count(), 1_501);
    let log = lab.count();
    assert_one_head_each(&log, 1_500, &["d", "d/"]);
    assert!(log.count(Op::List) <= 4, "{:?}", log.counts());
    assert_eq!(log.count(Op::Get), 0);
}

#[test]
fn ls_l_of_larger_files_is_one_head_each_and_they_overlap() {
    let lab = Lab::new(&LONG, filled(1_500, 2 * KIB));
    assert_eq!(ls_l(&lab.path("d")).lines().count(), 1_501);
    let log = lab.count();
    assert_one_head_each(&log, 1_500, &["d", "d/"]);
    assert!(log.count(Op::List) <= 4, "{:?}", log.counts());
    let peak = log.peak(Op::Head);
    assert!((2..=40).contains(&peak), "{peak} at once");
}

#[test]
fn ls_l_of_mixed_sizes_is_one_head_each() {
    let lab = Lab::new(&LONG, |bucket| {
        bucket.put("d/", "");
        for number in 0..600 {
            bucket.put(&format!("d/{number:05}"), vec![b'x'; number % 5 * KIB]);
        }
    });
    assert_eq!(ls_l(&lab.path("d")).lines().count(), 601);
    assert_one_head_each(&lab.count(), 600, &["d", "d/"]);
}

#[test]
fn ls_l_of_directories_is_one_head_each() {
    let lab = Lab::new(&LONG, |bucket| {
        for number in 0..100 {
            bucket.put(&format!("d/{number:03}/file"), "x");
        }
        let attributes = Attributes::with_metadata([("mode", "040700"), ("uid", "7")]);
        bucket.put_with("d/050/", "", attributes);
    });
    let listed = ls_l(&lab.path("d"));
    assert!(listed.lines().any(|line| line.starts_with("drwx------") && line.ends_with("050")));
    let log = lab.count();
    let markers = keys(&log, Op::Head).into_iter().filter(|key| key.ends_with('/')).count();
    assert_eq!(markers, 100, "{:?}", log.counts());
    assert!(log.count(Op::List) <= 3, "{:?}", log.counts());
}

#[test]
fn readdir_knows_links_and_fifos() {
    let lab = Lab::new(&LONG, |bucket| {
        let link = Attributes::with_metadata([("mode", "0120777")]);
        bucket.put_with("d/link", "target", link);
        bucket.put_with("d/pipe", "", Attributes::with_metadata([("mode", "010644")]));
        bucket.put("d/small", "x");
        bucket.put("d/large", vec![b'x'; 5000]);
    });
    let mut kinds = Vec::new();
    for entry in fs::read_dir(lab.path("d")).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let name = entry.file_name().into_string().unwrap();
        kinds.push((name, kind.is_symlink(), kind.is_fifo(), kind.is_file()));
    }
    kinds.sort();
    let want = [
        ("large", false, false, true),
        ("link", true, false, false),
        ("pipe", false, true, false),
        ("small", false, false, true),
    ];
    assert_eq!(kinds, want.map(|(name, link, fifo, file)| (name.to_owned(), link, fifo, file)));
    assert_eq!(keys(lab.log(), Op::Head), ["d", "d/link", "d/pipe", "d/small"]);
    assert_eq!(fs::read_link(lab.path("d/link")).unwrap(), Path::new("target"));
}

#[test]
fn find_in_list_mode_asks_for_no_head() {
    let lab = Lab::new(&["--metadata", "list"], filled(1_200, 10));
    let found = shell(&lab.path(""), "find . -type f | wc -l");
    assert_eq!(String::from_utf8(found.stdout).unwrap().trim(), "1200");
    assert_eq!(lab.count().count(Op::Head), 0);
}

#[test]
fn cat_of_a_small_file_from_a_fresh_listing_is_one_request() {
    let lab = Lab::new(&LONG, filled(10, 3 * KIB));
    assert_eq!(names(&lab.path("d")).len(), 10);
    lab.log().clear();
    for name in ["d/00005", "d/00002"] {
        assert_eq!(read(&lab.path(name)), vec![b'x'; 3 * KIB]);
    }
    lab.asserts_requests(&[(Op::Get, 2)]);
}

#[test]
fn whoever_only_looks_at_files_in_any_order_fetches_few_of_them() {
    let lab = Lab::new(&LONG, filled(100, 3 * KIB));
    names(&lab.path("d"));
    for number in (0..100).rev() {
        assert_eq!(
            fs::metadata(lab.path(&format!("d/{number:05}"))).unwrap().len(),
            3 * KIB as u64
        );
    }
    let log = lab.count();
    let asked =
        log.count(Op::Get) + keys(&log, Op::Head).iter().filter(|key| key.len() > 2).count();
    assert_eq!(asked, 100, "{:?}", log.counts());
    assert!(log.count(Op::Get) <= 4, "{:?}", log.counts());
}

#[test]
fn an_open_past_the_ttl_asks_once_and_reads_what_has_changed() {
    let lab = Lab::new(&["--metadata-ttl", "4s"], filled(10, 3 * KIB));
    read(&lab.path("d/00005"));
    read(&lab.path("d/00002"));
    lab.bucket().put("d/00005", "changed");
    thread::sleep(Duration::from_millis(4_200));
    lab.log().clear();
    assert_eq!(read(&lab.path("d/00002")), vec![b'x'; 3 * KIB]);
    assert_eq!(read(&lab.path("d/00005")), b"changed");
    let log = lab.count();
    let asked = |key: &str| -> Vec<Op> {
        log.requests().iter().filter(|one| one.key == key).map(|one| one.op).collect()
    };
    assert_eq!(asked("d/00002"), [Op::Head], "its bytes are cached");
    // The look-up finds another version under the name, which the kernel then looks up as well. It
    // gives back what it was told first: where that is heard before it asks again, it is one more.
    let of_changed = asked("d/00005");
    let (&read, heads) = of_changed.split_last().unwrap();
    assert_eq!(read, Op::Get);
    assert!(heads == [Op::Head; 2] || heads == [Op::Head; 3], "{heads:?}");
}

#[test]
fn rm_r_asks_about_no_file_that_can_only_be_one() {
    let lab = Lab::new(&LONG, filled(3_000, 4 * KIB));
    shell(&lab.path(""), "rm -r d");
    let bucket = lab.bucket();
    let log = lab.count();
    assert_eq!(bucket.keys(), [""; 0]);
    let heads = keys(&log, Op::Head);
    assert!(heads.iter().all(|key| key == "d" || key == "d/"), "{heads:?}");
    assert!(log.count(Op::DeleteMany) <= 8, "{:?}", log.counts());
}

#[test]
fn attributes_are_right_before_anybody_is_let_in() {
    let lab = Lab::new(&["--allow-other", "--uid", "65534", "--metadata-ttl", "10m"], |bucket| {
        let owned = || Attributes::with_metadata([("mode", "0100600"), ("uid", "0"), ("gid", "0")]);
        for name in ["d/a", "d/b", "d/c", "d/e"] {
            bucket.put_with(name, vec![b'x'; 5000], owned());
        }
        bucket.put_with("d/", "", Attributes::with_metadata([("mode", "041777"), ("uid", "0")]));
    });
    let open_to_all = Permissions::from_mode(0o755);
    fs::set_permissions(lab.path("").parent().unwrap(), open_to_all).unwrap();
    let look = || names(&lab.path("d"));
    look();
    let nobody = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
        command.args(arguments).current_dir(lab.path(""));
        command.output().unwrap().status.success()
    };
    // The mount's owner is nobody, and that is what a listing alone would have said of each file.
    assert!(!nobody("cat", &["d/a"]));
    look();
    assert!(!nobody("chmod", &["777", "d/b"]));
    assert!(!nobody("rm", &["-f", "d/c"]), "the directory is sticky");
    assert!(!nobody("touch", &["-d", "@0", "d/e"]));
    let mode = |name| fs::metadata(lab.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(["d/a", "d/b", "d/c", "d/e"].map(mode), [0o600; 4]);
}

#[test]
fn attributes_changed_after_a_listing_keep_what_the_object_says() {
    let lab = Lab::new(&["--attr-delay", "0s", "--metadata-ttl", "10m"], |bucket| {
        let theirs = Attributes::with_metadata([("mode", "0100640"), ("uid", "5"), ("extra", "e")]);
        bucket.put_with("d/f", vec![b'x'; 5000], theirs);
    });
    names(&lab.path("d"));
    shell(&lab.path("d"), "touch -d @1000000000 f");
    let object = lab.bucket().object("d/f").unwrap();
    let metadata = ["mode", "uid", "extra"].map(|name| object.metadata(name).unwrap());
    assert_eq!(metadata, ["0100640", "5", "e"]);
}

#[test]
fn a_file_that_went_since_the_listing_is_gone() {
    let lab = Lab::new(&LONG, filled(10, 2 * KIB));
    names(&lab.path("d"));
    lab.bucket().delete("d/00003");
    lab.bucket().put("d/00004", "of another size");
    assert_eq!(errno(fs::metadata(lab.path("d/00003"))), Errno::ENOENT);
    assert_eq!(fs::metadata(lab.path("d/00004")).unwrap().len(), 15);
    assert_eq!(read(&lab.path("d/00004")), b"of another size");
}

#[test]
fn a_link_too_large_for_a_listing_to_tell_is_one_after_all() {
    let target = "t".repeat(2000);
    let lab = Lab::new(&LONG, |bucket| {
        let link = Attributes::with_metadata([("mode", "0120777")]);
        bucket.put_with("d/link", target.clone(), link);
    });
    names(&lab.path("d"));
    assert_eq!(fs::read_link(lab.path("d/link")).unwrap(), Path::new(&target));
}

#[test]
fn small_files_that_may_not_be_looked_at_are_listed() {
    let lab = Lab::new(&LONG, filled(5, 10));
    names(&lab.path(""));
    lab.server().faults().add(Fault::status(403, "AccessDenied").on(Op::Head).key("d/0").always());
    assert_eq!(names(&lab.path("d")).len(), 5);
    assert_eq!(errno(fs::metadata(lab.path("d/00001"))), Errno::EACCES);
}

#[test]
fn questions_ahead_end_with_the_reader() {
    let lab = Lab::new(&LONG, filled(3_000, 10));
    let hold = lab.server().faults().hold_after(Op::Head, "d/0", 300);
    let mut reader = fs::read_dir(lab.path("d")).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().file_name(), "00000");
    assert!(hold.wait_for_blocking(2, PATIENCE), "questions are on their way");
    drop(reader);
    eventually("they are given up", || lab.log().under_way() == 0);
    let asked = lab.log().count(Op::Head);
    assert!(asked < 1_000, "{asked} questions");
    hold.release();
    let log = lab.count();
    assert_eq!(log.count(Op::Head), asked, "and no other is asked");
}

#[test]
fn questions_ahead_leave_room_for_others() {
    let lab = Lab::new(&LONG, filled(1_000, 10));
    let hold = lab.server().faults().hold(Op::Head, "d/0");
    let mut reader = Command::new("ls").arg("-f").arg(lab.path("d")).spawn().unwrap();
    assert!(hold.wait_for_blocking(2, PATIENCE), "questions are on their way");
    hold.release();
    assert!(reader.wait().unwrap().success());
    let peak = lab.log().peak(Op::Head);
    // Three quarters of the 64 requests there are, and those of lookups.
    assert!(peak <= 56, "{peak} at once");
    assert_one_head_each(&lab.count(), 1_000, &["d", "d/"]);
}

#[test]
fn an_edit_of_a_listed_file_keeps_its_bytes() {
    let lab = Lab::new(&LONG, filled(3, 2 * KIB));
    names(&lab.path("d"));
    let mut file = OpenOptions::new().append(true).open(lab.path("d/00001")).unwrap();
    std::io::Write::write_all(&mut file, b"end").unwrap();
    drop(file);
    File::open(lab.path("d/00001")).unwrap().sync_all().unwrap();
    let bytes = lab.object("d/00001");
    assert_eq!((bytes.len(), &bytes[2 * KIB..]), (2 * KIB + 3, b"end".as_slice()));
}
