//! What s3pod is tested with: an S3 server in-process, a real one beside it, mounts, faults.
//!
//! ```text
//!   TestServer   server > wire (latency, bandwidth, faults, log) > backend (S3 in memory)
//! ```
//!
//! Promises never to depend on the `s3pod` crate: what judges it must not share its mistakes.

mod backend;
mod bucket;
mod endpoint;
mod faults;
mod log;
mod server;
mod wire;

pub use backend::content::synthetic_bytes;
pub use bucket::{Attributes, Bucket, ObjectInfo, UploadInfo};
pub use endpoint::S3Endpoint;
pub use faults::{Fault, Faults, Gate, Hold, Injected, Rule};
pub use log::{RequestLog, RequestRecord};
pub use server::{ServerOptions, TestServer};
pub use wire::Op;
