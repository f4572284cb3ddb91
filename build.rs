//! How the programs are linked.
//!
//! A program that the kernel may place anywhere has a table of all its pointers, and reads every
//! line of it when it starts: a probe does so every few seconds, in somebody's memory limit.
//! Packed, the table is a tenth as large. The C library must know that form, as glibc does since
//! 2.36; an older one refuses the program by name.

use std::process::Command;

/// The first release of glibc that knows packed tables.
const KNOWING: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[expect(clippy::disallowed_methods, reason = "so cargo speaks to a build script")]
    let is_own = std::env::var_os("TARGET") == std::env::var_os("HOST");
    if is_own && glibc().is_some_and(|version| version >= KNOWING) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The C library of this machine; none where it is another one.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
