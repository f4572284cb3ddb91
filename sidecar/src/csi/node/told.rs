//! What a server says of a volume, in the codes of a call.
//!
//! Owns the translation. Promises: what somebody must change is final, what may pass is not. Must
//! not know what was asked.

use crate::csi::servers;
use crate::volume::refusal::{Code, Refusal};

/// A server's refusal as that of a call.
pub(super) fn refused(refusal: servers::Refusal) -> Refusal {
    use servers::Refusal as Said;
    let (code, why) = match refusal {
        Said::Full(why) => (Code::ResourceExhausted, why),
        Said::Invalid(why) => (Code::InvalidArgument, why),
        Said::NoBucket(why) => (Code::NotFound, why),
        Said::Unknown(why) => (Code::Unauthenticated, why),
        Said::Denied(why) => (Code::PermissionDenied, why),
        Said::Unavailable(why) => (Code::Unavailable, why),
    };
    Refusal::new(code, why)
}
