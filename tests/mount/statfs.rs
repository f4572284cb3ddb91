//! statfs(2): a bucket is never full.

use nix::sys::statvfs::statvfs;

use crate::bench::Bench;

pub(crate) fn there_is_room_and_names_may_be_255_bytes(bench: &Bench) {
    let seen = statvfs(&bench.path("")).unwrap();
    assert_eq!(seen.blocks() * seen.fragment_size(), 1 << 50);
    assert_eq!(seen.blocks_available() * seen.fragment_size(), 1 << 50);
    assert_eq!(seen.name_max(), 255);
}
