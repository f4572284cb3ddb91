//! What s3pod is tested with: an S3 server in-process, a real one beside it, mounts, faults.
//!
//! ```text
//!   TestServer   server > wire (latency, bandwidth, faults, log) > backend (S3 in memory)
//!   TokenService STS, as far as a web identity needs it
//!   SeaweedFs    the same bucket on somebody else's server
//!   Mount        the s3pod binary on a real mount point
//!   csi          the driver's calls, as kubelet makes them
//! ```
//!
//! Promises never to depend on the `s3pod` crate: what judges it must not share its mistakes.

mod backend;
mod bucket;
mod child;
pub mod csi;
mod endpoint;
mod faults;
mod handover;
mod log;
mod mount;
mod seaweedfs;
mod server;
mod sts;
pub mod tls;
mod tools;
mod wire;

pub use backend::Etags;
pub use backend::conditions::Keeps;
pub use backend::content::synthetic_bytes;
pub use bucket::{Attributes, Bucket, ObjectInfo, UploadInfo};
pub use endpoint::{S3Endpoint, Server};
pub use faults::{Fault, Faults, Gate, Hold, Injected, Rule};
pub use log::{RequestLog, RequestRecord};
pub use mount::{Memory, Mount, MountFailure, MountOptions, is_fuse_mount};
pub use seaweedfs::SeaweedFs;
pub use server::{ServerOptions, TestServer};
pub use sts::{Assumed, TokenService};
pub use tools::tool;
pub use wire::Op;
