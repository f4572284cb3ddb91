//! Makes a client of the driver's `csi.proto`, for whoever calls it as kubelet does.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../../sidecar/proto/csi.proto");
    let described = protox::compile(["csi.proto"], ["../../sidecar/proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(described)?;
    Ok(())
}
