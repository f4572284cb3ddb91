//! seam
/// Repeats what failed in passing.
#[derive(Debug)]
pub struct Retry {}
/// When and how often.
#[derive(Debug, Clone)]
pub struct RetryPolicy {}
