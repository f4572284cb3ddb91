//! seam
mod error;
mod extents;
pub use error::{Error, Result};
pub use extents::Extents;
