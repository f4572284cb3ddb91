//! Uploads that run while their file is written: checkpoints, and streams larger than staging.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use s3pod_testkit::{Fault, Op, RequestLog, synthetic_bytes};

use crate::bench::{close, errno, eventually, pattern, read, write};
use crate::lab::{Lab, PATIENCE};
use crate::recover;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SMALL: [&str; 4] = ["--staging-size", "64MiB", "--op-timeout", "3s"];

/// Writes the bytes `range` of an endless file.
fn stream(file: &File, range: std::ops::Range<u64>) {
    for start in range.clone().step_by(4 * MIB as usize) {
        let piece = start..range.end.min(start + 4 * MIB);
        file.write_all_at(&synthetic_bytes(9, piece), start).unwrap();
    }
}

/// Asserts that the object is the first `size` bytes of that file.
fn assert_streamed(lab: &Lab, key: &str, size: u64) {
    let bucket = lab.bucket();
    assert_eq!(bucket.object(key).unwrap().size, size);
    for start in (0..size).step_by(16 * MIB as usize) {
        let piece = start..size.min(start + 16 * MIB);
        let same = bucket.get_range(key, piece.clone()).unwrap() == synthetic_bytes(9, piece);
        assert!(same, "the bytes from {start} on differ");
    }
}

/// File bytes that were sent.
fn sent(log: &RequestLog) -> u64 {
    let sent = [Op::UploadPart, Op::Put].into_iter().flat_map(|op| log.requests_of(op));
    sent.map(|request| request.bytes_in).sum()
}

/// Opens a file past the kernel's pages of it.
fn open_direct(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path).unwrap()
}

/// What the files of the mount's cache folder occupy.
fn occupied(lab: &Lab) -> u64 {
    let mut folders = vec![lab.mount().cache_folder().unwrap()];
    let mut blocks = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            // A file that was let go in between.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                blocks += metadata.blocks();
            }
        }
    }
    blocks * 512
}

/// A mount with little staging, and a stream of 200 MiB in it, most of which has left.
fn much_streamed() -> (Lab, File) {
    let lab = Lab::empty(&SMALL);
    let file = File::create_new(lab.path("f")).unwrap();
    stream(&file, 0..200 * MIB);
    (lab, file)
}

#[test]
fn a_stream_may_be_larger_than_the_staging_area() {
    let lab = Lab::empty(&["--staging-size", "128MiB"]);
    let file = File::create(lab.path("f")).unwrap();
    for start in (0..GIB).step_by(64 * MIB as usize) {
        stream(&file, start..start + 64 * MIB);
        // Blocks of 4 KiB that a hole cuts stay.
        assert!(occupied(&lab) <= 129 * MIB, "{} bytes staged", occupied(&lab));
    }
    close(file).unwrap();
    assert_streamed(&lab, "f", GIB);
    let log = lab.count();
    let uploads = [Op::CreateUpload, Op::UploadPart, Op::CompleteUpload].map(|op| log.count(op));
    assert_eq!(uploads, [1, 128, 1], "{:?}", log.counts());
    assert_eq!(sent(&log), GIB);
}

#[test]
fn two_streams_share_a_staging_area_that_neither_fits() {
    let lab = Lab::empty(&SMALL);
    let files = ["f", "g"].map(|name| File::create(lab.path(name)).unwrap());
    for start in (0..160 * MIB).step_by(8 * MIB as usize) {
        for file in &files {
            stream(file, start..start + 8 * MIB);
        }
    }
    for file in files {
        close(file).unwrap();
    }
    assert_streamed(&lab, "f", 160 * MIB);
    assert_streamed(&lab, "g", 160 * MIB);
    let log = lab.count();
    assert_eq!((log.count(Op::CreateUpload), sent(&log)), (2, 320 * MIB));
}

#[test]
fn a_header_that_is_patched_sends_its_part_again() {
    for arguments in [SMALL, ["--staging-size", "1GiB", "--op-timeout", "3s"]] {
        let lab = Lab::empty(&arguments);
        let file = File::create(lab.path("f")).unwrap();
        // As writers of mp4 and zip files do.
        let header = pattern(100);
        stream(&file, 0..160 * MIB);
        for _ in 0..10 {
            file.write_all_at(&header, 1000).unwrap();
        }
        stream(&file, 160 * MIB..161 * MIB);
        file.write_all_at(&header, 1000).unwrap();
        close(file).unwrap();
        let bucket = lab.bucket();
        assert_eq!(bucket.object("f").unwrap().size, 161 * MIB);
        assert_eq!(bucket.get_range("f", 1000..1100).unwrap(), header);
        let rest = 2000..20 * MIB;
        assert!(bucket.get_range("f", rest.clone()).unwrap() == synthetic_bytes(9, rest));
        let log = lab.count();
        // 20 parts of 8 MiB, one of 1 MiB, and the first once more.
        assert_eq!(log.count(Op::UploadPart), 22, "{:?}", log.counts());
        assert_eq!((log.count(Op::CompleteUpload), sent(&log)), (1, 169 * MIB));
        assert_eq!(log.count(Op::Get), 0, "{:?}", log.counts());
    }
}

#[test]
fn ten_fsyncs_of_a_growing_file_send_no_byte_twice() {
    for arguments in [["--staging-size", "128MiB"], ["--staging-size", "2GiB"]] {
        let lab = Lab::empty(&arguments);
        let file = File::create(lab.path("f")).unwrap();
        let size = GIB + 5;
        for step in 1..=10 {
            stream(&file, size / 10 * (step - 1)..size / 10 * step);
            file.sync_all().unwrap();
            assert_eq!(lab.bucket().object("f").unwrap().size, size / 10 * step);
        }
        stream(&file, size / 10 * 10..size);
        close(file).unwrap();
        assert_streamed(&lab, "f", size);
        let log = lab.count();
        // A part's worth of what stands before is sent with the first bytes behind it at most.
        assert!(sent(&log) <= GIB + 11 * 5 * MIB, "{} bytes up", sent(&log));
        assert_eq!(log.count(Op::Get), 0, "{:?}", log.counts());
        let uploads = (log.count(Op::CreateUpload), log.count(Op::CompleteUpload));
        assert_eq!(uploads, (11, 11), "{:?}", log.counts());
        // 13 or 14 parts of 8 MiB in each step, and what stands before in parts of 256 MiB.
        assert!(log.count(Op::UploadPart) <= 141, "{:?}", log.counts());
        assert!(log.count(Op::CopyPart) <= 30, "{:?}", log.counts());
        assert_eq!(log.count(Op::Copy), 0, "{:?}", log.counts());
    }
}

#[test]
fn a_file_goes_on_as_a_stream_after_an_fsync() {
    let lab = Lab::empty(&SMALL);
    let file = File::create(lab.path("f")).unwrap();
    stream(&file, 0..30 * MIB + 3);
    file.sync_all().unwrap();
    stream(&file, 30 * MIB + 3..300 * MIB);
    assert!(occupied(&lab) <= 65 * MIB, "{} bytes staged", occupied(&lab));
    close(file).unwrap();
    assert_streamed(&lab, "f", 300 * MIB);
    // An append to what another mount wrote is one too.
    let file = OpenOptions::new().append(true).open(lab.path("f")).unwrap();
    let mut at = 300 * MIB;
    while at < 500 * MIB {
        (&file).write_all(&synthetic_bytes(9, at..at + MIB)).unwrap();
        at += MIB;
    }
    close(file).unwrap();
    assert_streamed(&lab, "f", 500 * MIB);
    let log = lab.count();
    assert!(sent(&log) <= 500 * MIB + 2 * 5 * MIB, "{} bytes up", sent(&log));
    assert_eq!(log.count(Op::CompleteUpload), 3, "{:?}", log.counts());
}

#[test]
fn what_only_the_upload_has_can_be_read_and_written() {
    let (lab, file) = much_streamed();
    let mut bytes = vec![0; MIB as usize];
    let other = open_direct(&lab.path("f"));
    other.read_exact_at(&mut bytes, 50 * MIB - 4096).unwrap();
    assert!(bytes == synthetic_bytes(9, 50 * MIB - 4096..51 * MIB - 4096), "the bytes differ");
    assert_eq!(lab.bucket().object("f").unwrap().size, 200 * MIB, "it is complete so far");
    stream(&file, 200 * MIB..400 * MIB);
    file.write_all_at(b"changed", 250 * MIB).unwrap();
    other.read_exact_at(&mut bytes, 250 * MIB).unwrap();
    assert_eq!(&bytes[..7], b"changed");
    assert!(bytes[7..] == synthetic_bytes(9, 250 * MIB + 7..251 * MIB), "the bytes differ");
    stream(&file, 400 * MIB..420 * MIB);
    file.write_all_at(&synthetic_bytes(9, 250 * MIB..250 * MIB + 7), 250 * MIB).unwrap();
    close(file).unwrap();
    assert_streamed(&lab, "f", 420 * MIB);
}

#[test]
fn a_stream_that_left_staging_is_cut_and_grows() {
    let (lab, file) = much_streamed();
    file.set_len(90 * MIB + 1).unwrap();
    stream(&file, 90 * MIB + 1..100 * MIB);
    close(file).unwrap();
    assert_streamed(&lab, "f", 100 * MIB);
    let (lab, file) = much_streamed();
    file.set_len(0).unwrap();
    stream(&file, 0..120 * MIB);
    close(file).unwrap();
    assert_streamed(&lab, "f", 120 * MIB);
}

#[test]
fn a_stream_that_left_staging_keeps_its_bytes_without_its_name() {
    let (lab, file) = much_streamed();
    fs::rename(lab.path("f"), lab.path("g")).unwrap();
    stream(&file, 200 * MIB..210 * MIB);
    close(file).unwrap();
    assert_streamed(&lab, "g", 210 * MIB);
    assert_eq!(lab.bucket().keys(), ["g"]);
    let (lab, file) = much_streamed();
    let reader = open_direct(&lab.path("f"));
    fs::remove_file(lab.path("f")).unwrap();
    let mut bytes = vec![0; MIB as usize];
    for at in [20 * MIB, 60 * MIB, 190 * MIB] {
        reader.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes == synthetic_bytes(9, at..at + MIB), "the bytes at {at} differ");
    }
    close(reader).unwrap();
    close(file).unwrap();
    let bucket = lab.bucket();
    lab.count();
    assert!(bucket.keys().is_empty() && bucket.uploads().is_empty());
}

#[test]
fn a_refused_complete_is_tried_again_on_the_same_upload() {
    let (lab, file) = much_streamed();
    // The last part is too small to stay one when the file goes on.
    stream(&file, 200 * MIB..200 * MIB + 1000);
    lab.break_all(Op::CompleteUpload, Fault::status(403, "AccessDenied"));
    assert_eq!(errno(file.sync_all()), Errno::EACCES);
    lab.server().faults().clear();
    stream(&file, 200 * MIB + 1000..208 * MIB);
    lab.server()
        .faults()
        .add(Fault::status(409, "ConditionalRequestConflict").on(Op::CompleteUpload));
    close(file).unwrap();
    assert_streamed(&lab, "f", 208 * MIB);
    let log = lab.count();
    assert_eq!((log.count(Op::CreateUpload), sent(&log)), (1, 208 * MIB + 1000));
}

#[test]
fn a_complete_that_was_done_unheard_is_no_loss() {
    let (lab, file) = much_streamed();
    lab.server().faults().add(Fault::LoseResponse.on(Op::CompleteUpload));
    lab.break_all(Op::Head, Fault::status(403, "AccessDenied"));
    assert_eq!(errno(file.sync_all()), Errno::EIO);
    lab.server().faults().clear();
    stream(&file, 200 * MIB..230 * MIB);
    file.write_all_at(&synthetic_bytes(9, 5..10), 5).unwrap();
    close(file).unwrap();
    assert_streamed(&lab, "f", 230 * MIB);
}

#[test]
fn an_upload_that_alone_has_bytes_is_completed_after_a_crash() {
    let (lab, file) = much_streamed();
    lab.break_all(Op::CompleteUpload, Fault::status(403, "AccessDenied"));
    assert_eq!(errno(file.sync_all()), Errno::EACCES);
    lab.mount().crash();
    drop(file);
    lab.server().faults().clear();
    let again = lab.after_crash(&SMALL);
    eventually("the upload is completed", || lab.bucket().contains("f"));
    assert_streamed(&lab, "f", 200 * MIB);
    assert!(again.unmount().unwrap().success());
    assert_eq!((lab.log().count(Op::CreateUpload), sent(lab.log())), (1, 200 * MIB));
}

/// Asserts that what `s3pod recover` lists and saves of the stream of 200 MiB is what staging still
/// had, and that it names the rest.
fn assert_kept(lab: &Lab) {
    let cache = lab.mount().cache_folder().unwrap();
    let all = recover::kept(&cache);
    assert_eq!((all.len(), &all[0]["key"]), (1, &"f".into()), "{all:#?}");
    let ranges = |name: &str| -> Vec<(u64, u64)> {
        let ranges = all[0][name].as_array().unwrap().iter();
        ranges.map(|one| (one["start"].as_u64().unwrap(), one["end"].as_u64().unwrap())).collect()
    };
    let (present, missing) = (ranges("present"), ranges("missing"));
    assert!(present[0].0 == 0 && present[0].1 >= 16 * MIB, "its beginning goes last: {present:?}");
    assert!(missing.iter().all(|(start, _)| *start >= 16 * MIB), "{missing:?}");
    let lengths =
        |ranges: &[(u64, u64)]| ranges.iter().map(|(start, end)| end - start).sum::<u64>();
    assert!(lengths(&missing) >= 100 * MIB, "staging holds 64 MiB: {missing:?}");
    assert_eq!(lengths(&present) + lengths(&missing), 200 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("saved");
    let saved = recover::save(&cache, &all[0], &target);
    assert_eq!(saved.status.code(), Some(3), "something is missing");
    let said = String::from_utf8_lossy(&saved.stderr).into_owned();
    assert!(said.contains(&format!("{}..{}", missing[0].0, missing[0].1)), "{said}");
    let saved = File::open(&target).unwrap();
    assert_eq!(saved.metadata().unwrap().len(), 200 * MIB);
    for (start, end) in present {
        let mut bytes = vec![0; (end - start) as usize];
        saved.read_exact_at(&mut bytes, start).unwrap();
        assert!(bytes == synthetic_bytes(9, start..end), "{start}..{end} differs");
    }
}

#[test]
fn an_upload_that_is_gone_is_eio_and_says_what_is_missing() {
    let (lab, file) = much_streamed();
    for upload in lab.bucket().uploads() {
        lab.bucket().forget_upload(&upload.id);
    }
    assert_eq!(close(file), Err(Errno::EIO));
    assert!(!lab.bucket().contains("f"));
    let said = lab.mount().stderr();
    assert!(said.contains("recover") && said.contains("missing"), "{said}");
    assert_kept(&lab);
    assert!(File::open(lab.path("f")).is_err(), "the name is free");
    write(&lab.path("f"), b"new");
    assert_eq!(lab.object("f"), b"new");
}

#[test]
fn a_writer_waits_for_parts_on_their_way() {
    let lab = Lab::empty(&["--staging-size", "64MiB"]);
    let hold = lab.server().faults().hold(Op::UploadPart, "f");
    let file = File::create(lab.path("f")).unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| stream(&file, 0..100 * MIB));
        // 64 MiB hold eight parts; the last of them lacks the byte that makes it full.
        assert!(hold.wait_for_blocking(7, PATIENCE), "{} parts left", hold.arrived());
        eventually("staging is full", || occupied(&lab) >= 63 * MIB);
        hold.release();
        writing.join().unwrap();
    });
    close(file).unwrap();
    assert_streamed(&lab, "f", 100 * MIB);
}

#[test]
fn a_stream_that_cannot_leave_is_enospc_and_arrives_later() {
    let lab = Lab::empty(&SMALL);
    lab.break_all(Op::UploadPart, Fault::status(403, "AccessDenied"));
    let file = File::create(lab.path("f")).unwrap();
    let mut written = 0;
    let refused = loop {
        match file.write_all_at(&synthetic_bytes(9, written..written + MIB), written) {
            Ok(()) => written += MIB,
            Err(error) => break error,
        }
        assert!(written <= 64 * MIB, "the quota does not hold");
    };
    assert_eq!(refused.raw_os_error(), Some(Errno::ENOSPC as i32));
    lab.server().faults().clear();
    file.set_len(written).unwrap();
    stream(&file, written..100 * MIB);
    close(file).unwrap();
    assert_streamed(&lab, "f", 100 * MIB);
}

#[test]
fn committed_bytes_make_room_for_others() {
    let lab = Lab::empty(&SMALL);
    // Files that stay open keep what they wrote, as long as there is room.
    let files: Vec<File> = (0..10)
        .map(|number| {
            let file = File::create(lab.path(&number.to_string())).unwrap();
            // From the second byte on, so that none is a stream.
            file.write_all_at(&synthetic_bytes(number, 0..20 * MIB), 1).unwrap();
            file.sync_all().unwrap();
            file
        })
        .collect();
    for (number, _open) in files.iter().enumerate() {
        let want = synthetic_bytes(number as u64, 0..20 * MIB);
        assert!(read(&lab.path(&number.to_string()))[1..] == want, "{number} differs");
    }
}
