//! seam
mod failure;
mod kernel;
mod mountinfo;
mod point;
mod session;

pub use failure::Failure;
