//! What a server says of a volume, in the codes of a call.
//!
//! Owns the translation. Promises: what somebody must change is final, what may pass is not. Must
//! not know what was asked.

use crate::csi::servers;
use crate::volume::refusal::{Code, Refusal};

/// What `s3pod` says where the store knows no such bucket...
const NO_BUCKET: &str = "has no bucket";
/// ...where the identity is known and may not...
const DENIED: &str = "the identity needs s3:ListBucket";
/// ...and where it is not known, by the remedies that it names.
const UNKNOWN: [&str; 4] = [
    "get new ones: ",
    "set this machine's clock",
    "is not the secret of that access key",
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
];

/// A server's refusal as that of a call.
pub(super) fn refused(refusal: servers::Refusal) -> Refusal {
    match refusal {
        servers::Refusal::Full(why) => Refusal::new(Code::ResourceExhausted, why),
        servers::Refusal::Unavailable(why) => Refusal::new(Code::Unavailable, why),
        servers::Refusal::Invalid(why) => Refusal::new(code(&why), why),
    }
}

fn code(why: &str) -> Code {
    if why.contains(NO_BUCKET) {
        Code::NotFound
    } else if why.contains(DENIED) {
        Code::PermissionDenied
    } else if UNKNOWN.iter().any(|words| why.contains(words)) {
        Code::Unauthenticated
    } else {
        Code::InvalidArgument
    }
}
