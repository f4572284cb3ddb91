//! The first contact with the store.
//!
//! Owns the sentence that says what is wrong with a bucket, a region, a credential or an
//! endpoint, and what to write instead; and how long somebody waits for it: a mount of one's own
//! has it first, and for as long as it is told to; a mount that was handed over goes on without it
//! where the store is away. Must not know how the store is asked.
#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::failure::{Failure, Refused};
use crate::config::Config;
use crate::store::s3::S3Store;
use crate::store::{Error, ErrorKind};

/// A server that is starting gets this many tries, this long apart; a wrong address gets one.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// A server that was asked for waits so long for a word that nothing but a change would mend.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a store is asked again that has not been reached yet.
const AGAIN: Duration = Duration::from_secs(5);

/// The same where nothing is mounted before it answers.
const SOON: Duration = Duration::from_secs(1);

/// What is wrong with the first contact, until it has come about; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Contact(Arc<Mutex<Option<Failure>>>);

impl Contact {
    /// Why the store has not been reached; none once it has.
    pub(super) fn trouble(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, trouble: Option<Failure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Asks the bucket, and waits a moment for the answer. One that does not come, or may be another
/// one the next time, is noted, and no failure.
pub(super) async fn begin(store: &S3Store, config: &Config) -> Result<Contact, Failure> {
    let contact = Contact::default();
    match tokio::time::timeout(PATIENCE, probe(store, config)).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) if !failure.may_pass() => return Err(failure),
        Ok(Err(failure)) => contact.set(Some(failure)),
        Err(_) => contact.set(Some(silent(config))),
    }
    Ok(contact)
}

/// Goes on asking until there is an answer, and notes what is wrong meanwhile.
pub(super) async fn go_on(contact: Contact, store: Arc<S3Store>, config: Config) {
    while let Some(trouble) = contact.trouble() {
        tracing::warn!(%trouble, "the store has not been reached yet; the mount waits for it");
        tokio::time::sleep(AGAIN).await;
        contact.set(probe(&store, &config).await.err());
    }
}

/// Asks until there is an answer, and says each new reason why there is none. Ends without one only
/// on what no waiting mends.
pub(super) async fn wait(store: &S3Store, config: &Config) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let Err(error) = store.probe(config.prefix.as_str()).await else { return Ok(()) };
        let failure = explain(&error, config);
        if !failure.may_pass() {
            return Err(failure);
        }
        // Not the whole of its words: each request has a number of its own.
        let kind = error.kind().to_string();
        if last.as_ref() != Some(&kind) {
            tracing::warn!(trouble = %failure, "nothing is mounted before the store answers");
            last = Some(kind);
        }
        tokio::time::sleep(SOON).await;
    }
}

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
    let place = place(config);
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
        ErrorKind::Timeout => silent(config),
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

fn silent(config: &Config) -> Failure {
    Failure::passing(format!(
        "{} does not answer; check --endpoint-url, the network and the proxy",
        place(config)
    ))
}

fn place(config: &Config) -> &str {
    config.s3.endpoint_url.as_ref().map_or("AWS", |url| url.as_str())
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
