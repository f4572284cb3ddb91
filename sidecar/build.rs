//! Makes Rust of `proto/csi.proto`, without a compiler of Google's.
//!
//! Owns which messages are left without a `Debug` of their own: those that carry secrets or
//! tokens. Must not know who serves what.

use std::error::Error;

/// Their `Debug` is written by hand, in `csi::proto`.
const WITH_SECRETS: [&str; 5] = [
    "CreateVolumeRequest",
    "DeleteVolumeRequest",
    "ValidateVolumeCapabilitiesRequest",
    "ControllerExpandVolumeRequest",
    "NodePublishVolumeRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/csi.proto");
    let described = protox::compile(["csi.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .skip_debug(WITH_SECRETS.map(|name| format!(".csi.v1.{name}")))
        .compile_fds(described)?;
    Ok(())
}
