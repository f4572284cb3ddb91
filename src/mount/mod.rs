//! seam
pub mod daemon;
mod failure;
mod kernel;
mod mountinfo;
mod point;
mod session;
mod shutdown;

pub use failure::Failure;
