//! seam
/// Bounds the requests in flight.
#[derive(Debug)]
pub struct Limit {}
