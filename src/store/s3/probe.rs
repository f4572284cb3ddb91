//! Whether the bucket answers, asked once before a mount.
//!
//! Owns the order of the questions: HEAD bucket, whose answer tells a wrong region, then a
//! listing, whose answer has a body and so a reason. Must not know what a mount does about it.

use super::{S3Store, list};
use crate::store::{ErrorKind, ListRequest, Operation, Result};

pub(super) async fn probe(store: &S3Store, prefix: &str) -> Result<()> {
    let send = store.client.head_bucket().bucket(&*store.bucket).send();
    let bucket = store.within_bucket(Operation::Probe, store.read_timeout, send).await;
    if let Err(error) = bucket
        && !is_vague(error.kind())
    {
        return Err(error);
    }
    let line =
        ListRequest { prefix: prefix.to_owned(), max_keys: Some(1), ..ListRequest::default() };
    list::list(store, &line).await.map(drop)
}

/// True where a HEAD, whose answer has no body, cannot tell why: s3:ListBucket may be granted for
/// a prefix only, a token may have expired, and some stores know no HEAD bucket.
const fn is_vague(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Denied
            | ErrorKind::Unauthenticated(_)
            | ErrorKind::Unsupported
            | ErrorKind::Unavailable
            | ErrorKind::Throttled
            | ErrorKind::NoSuchBucket
            | ErrorKind::Other(_)
            | ErrorKind::WrongRegion(None)
    )
}
