//! s3pod
fn main() {}
