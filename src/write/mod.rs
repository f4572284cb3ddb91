//! seam
mod error;
mod extents;
mod plan;
pub use error::{Error, Result};
pub use extents::Extents;
pub use plan::{
    Edit, Limits, Origin, PartSource, Plan, PlannedPart, TooLarge, plan, stream_part_size,
};
