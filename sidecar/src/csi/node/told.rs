//! What a server says of a volume, in the codes of a call.
//!
//! Owns the translation. Promises: what somebody must change is final, what may pass is not. Must
//! not know what was asked.

use crate::csi::servers;
use crate::volume::Published;
use crate::volume::attributes::{attribute_of, is_option};
use crate::volume::refusal::{Code, Refusal};

/// Where a volume names those whom it trusts.
const AUTHORITIES: &str =
    "ca.crt of nodePublishSecretRef's Secret, or volumeAttributes.caCertificates";

/// A server's refusal to start a volume, with the field that somebody has to look at.
pub(super) fn refused_start(refusal: servers::Refusal, published: &Published) -> Refusal {
    use servers::Refusal as Said;
    let refusal = match refusal {
        Said::NoBucket(why) => {
            Refusal::new(Code::NotFound, format!("volumeAttributes.bucket: {why}"))
        }
        Said::Unknown(why) => {
            let (field, fix) = published.as_whom();
            let cause = without_advice(&why);
            Refusal::nobody(field, format!("{cause}; {fix}"))
        }
        Said::Denied(why) => {
            let (field, _) = published.as_whom();
            Refusal::denied(field, why)
        }
        other => refused(other),
    };
    Refusal { message: as_attributes(&refusal.message), ..refusal }
}

/// A sentence of s3pod's with its flags as a volume says them.
fn as_attributes(why: &str) -> String {
    let mut said = String::new();
    let mut rest = why;
    while let Some((before, behind)) = rest.split_once("--") {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
        let (flag, more) = behind.split_at(behind.find(|c| !is_part(c)).unwrap_or(behind.len()));
        said.push_str(before);
        match flag {
            "ca-bundle" => said.push_str(AUTHORITIES),
            flag if is_option(flag) => {
                said.push_str(&format!("volumeAttributes.{}", attribute_of(flag)));
            }
            flag => said.push_str(&format!("--{flag}")),
        }
        rest = more;
    }
    said + rest
}

/// A sentence of s3pod's without its last part, which is for whoever types its flags. A clock that
/// is wrong is wrong whoever asks.
fn without_advice(why: &str) -> &str {
    match why.rsplit_once("; ") {
        Some((cause, advice)) if !advice.contains("clock") => cause,
        _ => why,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_of_a_server_has_its_code() {
        use servers::Refusal as Said;
        let why = String::from;
        for (said, code) in [
            (Said::Full(why("w")), Code::ResourceExhausted),
            (Said::Invalid(why("w")), Code::InvalidArgument),
            (Said::NoBucket(why("w")), Code::NotFound),
            (Said::Unknown(why("w")), Code::Unauthenticated),
            (Said::Denied(why("w")), Code::PermissionDenied),
            (Said::Unavailable(why("w")), Code::Unavailable),
        ] {
            assert_eq!(refused(said), Refusal::new(code, "w"));
        }
        assert_eq!(without_advice("no such key; set AWS_ACCESS_KEY_ID"), "no such key");
        assert_eq!(
            as_attributes("no -- bucket; check --endpoint-url, --foo and --region"),
            "no -- bucket; check volumeAttributes.endpointUrl, --foo and volumeAttributes.region"
        );
        assert!(as_attributes("name it with --ca-bundle").ends_with("caCertificates"));
        let clock = "the times differ; set this machine's clock";
        assert_eq!(without_advice(clock), clock);
        assert_eq!(without_advice("no such key"), "no such key");
    }
}
