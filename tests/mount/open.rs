//! open(2): what is found, what is refused, and how handles share a file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

use crate::bench::{Bench, close, errno, eventually, read, write};

pub(crate) fn a_missing_file_is_enoent(bench: &Bench) {
    assert_eq!(errno(File::open(bench.path("missing"))), Errno::ENOENT);
    assert_eq!(errno(File::open(bench.path("no/such/path"))), Errno::ENOENT);
    assert_eq!(errno(OpenOptions::new().write(true).open(bench.path("missing"))), Errno::ENOENT);
    assert_eq!(bench.keys(), [""; 0]);
}

pub(crate) fn a_file_is_no_directory(bench: &Bench) {
    write(&bench.path("f"), b"x");
    std::fs::create_dir(bench.path("d")).unwrap();
    assert_eq!(errno(File::open(bench.path("f/below"))), Errno::ENOTDIR);
    assert_eq!(errno(OpenOptions::new().write(true).open(bench.path("d"))), Errno::EISDIR);
    let mut directory = OpenOptions::new();
    let directory = directory.read(true).custom_flags(libc::O_DIRECTORY);
    assert_eq!(errno(directory.open(bench.path("f"))), Errno::ENOTDIR);
}

pub(crate) fn truncating_open_empties_the_file(bench: &Bench) {
    bench.put("f", b"old bytes");
    let file = File::create(bench.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    close(file).unwrap();
    eventually("the object is empty", || bench.object("f").unwrap().is_empty());
    write(&bench.path("f"), b"new");
    assert_eq!(bench.object("f").unwrap(), b"new");
    assert_eq!(read(&bench.path("f")), b"new");
}

pub(crate) fn a_handle_reads_and_writes_only_as_it_was_opened(bench: &Bench) {
    write(&bench.path("f"), b"abc");
    let mut reader = File::open(bench.path("f")).unwrap();
    assert_eq!(errno(reader.write(b"x")), Errno::EBADF);
    let mut writer = OpenOptions::new().write(true).open(bench.path("f")).unwrap();
    assert_eq!(errno(writer.read(&mut [0; 8])), Errno::EBADF);
    let both = OpenOptions::new().read(true).write(true).open(bench.path("f")).unwrap();
    both.write_all_at(b"B", 1).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"aBc");
}

pub(crate) fn a_temporary_file_without_a_name_is_refused(bench: &Bench) {
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_TMPFILE);
    assert_eq!(errno(options.open(bench.path(""))), Errno::EOPNOTSUPP);
}

pub(crate) fn two_handles_see_each_others_writes(bench: &Bench) {
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(bench.path("f")).unwrap()
    };
    let (one, two) = (open(), open());
    one.write_all_at(b"one.", 0).unwrap();
    two.write_all_at(b"two.", 4).unwrap();
    let mut bytes = [0; 8];
    one.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"one.two.");
    close(one).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"one.two.");
    two.write_all_at(b"TWO!", 4).unwrap();
    close(two).unwrap();
    assert_eq!(bench.object("f").unwrap(), b"one.TWO!");
}

pub(crate) fn a_running_program_is_not_truncated(bench: &Bench) {
    let program = fs::read("/bin/sleep").unwrap();
    write(&bench.path("program"), &program);
    fs::set_permissions(bench.path("program"), Permissions::from_mode(0o755)).unwrap();
    let mut running = Command::new(bench.path("program")).arg("60").spawn().unwrap();
    for flags in [OFlag::O_RDONLY | OFlag::O_TRUNC, OFlag::O_WRONLY | OFlag::O_TRUNC] {
        let opened = nix::fcntl::open(&bench.path("program"), flags, Mode::empty());
        assert_eq!(opened.err(), Some(Errno::ETXTBSY), "{flags:?}");
    }
    assert_eq!(running.try_wait().unwrap(), None, "it still runs");
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(read(&bench.path("program")) == program, "it is whole");
    // Its last RELEASE is on its own way.
    eventually("it can be replaced", || File::create(bench.path("program")).is_ok());
}
