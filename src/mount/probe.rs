//! The first contact with the store, before anything is mounted.
//!
//! Owns the sentence that says what is wrong with a bucket, a region, a credential or an
//! endpoint, and what to write instead. Must not know how the store is asked.
#![deny(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use super::failure::{Failure, Refused};
use crate::config::Config;
use crate::store::s3::S3Store;
use crate::store::{Error, ErrorKind};

/// A server that is starting gets this many tries, this long apart; a wrong address gets one.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Asks the bucket for one line of a listing.
pub(super) async fn probe(store: &S3Store, config: &Config) -> Result<(), Failure> {
    let mut tries = 1;
    loop {
        match store.probe(config.prefix.as_str()).await {
            Ok(()) => return Ok(()),
            Err(error) if may_pass(error.kind()) && tries < TRIES => {
                tracing::info!(%error, "the store does not answer yet");
                tries += 1;
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            Err(error) => return Err(explain(&error, config)),
        }
    }
}

/// True where the store itself asked for patience.
const fn may_pass(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Conflict)
}

fn explain(error: &Error, config: &Config) -> Failure {
    let bucket = &config.bucket;
    let place = config.s3.endpoint_url.as_ref().map_or("AWS", |url| url.as_str());
    match error.kind() {
        ErrorKind::NoSuchBucket | ErrorKind::NotFound => Failure::refused(
            Refused::NoBucket,
            format!(
                "{place} has no bucket `{bucket}`; check the name, --endpoint-url and --region"
            ),
        ),
        ErrorKind::Denied => Failure::refused(
            Refused::Denied,
            format!(
                "the bucket `{bucket}`: {}; the identity needs s3:ListBucket on \
                 it, and s3:GetObject, s3:PutObject and s3:DeleteObject on its objects",
                said(error)
            ),
        ),
        ErrorKind::Unauthenticated(words) => Failure::refused(
            Refused::Unknown,
            format!("{place}: {}; {}", said(error), better_credentials(words)),
        ),
        ErrorKind::WrongRegion(Some(region)) => Failure::configuration(format!(
            "the bucket `{bucket}` is in the region {region}; pass --region {region}"
        )),
        ErrorKind::WrongRegion(None) => Failure::configuration(format!(
            "the bucket `{bucket}` is in another region; pass the right --region"
        )),
        // Its words name the remedy: it depends on what the handshake failed of.
        ErrorKind::Tls(_) => Failure::configuration(format!("{place}: {}", said(error))),
        ErrorKind::NotS3(_) => Failure::configuration(format!(
            "{place}: {}; check --endpoint-url, its port and the proxy",
            said(error)
        )),
        ErrorKind::Connection(_) => Failure::passing(format!(
            "{place}: {}; check --endpoint-url, the network and the proxy",
            said(error)
        )),
        ErrorKind::Timeout => Failure::passing(format!(
            "{place} does not answer; check --endpoint-url, the network and the proxy"
        )),
        ErrorKind::Changed
        | ErrorKind::NotModified
        | ErrorKind::Conflict
        | ErrorKind::NoSuchUpload
        | ErrorKind::InvalidRange
        | ErrorKind::TooLarge
        | ErrorKind::Unsupported
        | ErrorKind::Archived
        | ErrorKind::Throttled
        | ErrorKind::Unavailable
        | ErrorKind::Damaged(_)
        | ErrorKind::NotAsStored
        | ErrorKind::Local(_)
        | ErrorKind::Other(_) => {
            Failure::passing(format!("the bucket `{bucket}` at {place}: {error}"))
        }
    }
}

/// What to do about credentials, by the code in what was said of them.
fn better_credentials(words: &str) -> &'static str {
    let has = |code: &str| words.contains(code);
    if has("Expired") || has("TokenRefreshRequired") {
        "get new ones: a new AWS_SESSION_TOKEN with its key, or `aws sso login` for a profile"
    } else if has("TooSkewed") {
        "set this machine's clock"
    } else if has("SignatureDoesNotMatch") {
        "AWS_SECRET_ACCESS_KEY (or the profile's) is not the secret of that access key"
    } else {
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a --profile, or pass \
         --no-sign-request for a public bucket"
    }
}

/// What the store, or the way to it, said, and the store's name for the request.
fn said(error: &Error) -> String {
    let kind = error.kind().to_string();
    match error.request_id() {
        Some(id) => format!("{kind} (request {id})"),
        None => kind,
    }
}
