//! seam
/// Counts and times the requests.
#[derive(Debug)]
pub struct Metered {}
