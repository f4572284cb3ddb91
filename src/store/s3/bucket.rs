//! Buckets themselves: made, and removed when they are empty.
//!
//! Owns what counts as made: a bucket that this account has already is. Must not know who wants
//! one.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};

use super::{S3Store, error};
use crate::store::{Error, ErrorKind, Operation, Result};

/// The region that S3 takes no name for.
const UNNAMED_REGION: &str = "us-east-1";

pub(super) async fn create(store: &S3Store) -> Result<bool> {
    let operation = Operation::CreateBucket;
    let is_named = store.endpoint.is_none() && &*store.region != UNNAMED_REGION;
    let place = is_named.then(|| {
        let region = BucketLocationConstraint::from(&*store.region);
        CreateBucketConfiguration::builder().location_constraint(region).build()
    });
    let send = store
        .client
        .create_bucket()
        .bucket(&*store.bucket)
        .set_create_bucket_configuration(place)
        .send();
    let answer = tokio::time::timeout(store.read_timeout, send).await;
    match answer.map_err(|_| Error::new(operation, ErrorKind::Timeout))? {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(false),
        // Some stores say so of one's own bucket too; into somebody else's one may not look.
        Err(error) if error.code() == Some("BucketAlreadyExists") => {
            let words = "a bucket of this name belongs to somebody else".to_owned();
            let refused = Error::new(operation, ErrorKind::Other(words));
            super::probe::probe(store, "").await.map(|()| false).map_err(|_| refused)
        }
        Err(error) => Err(error::from_sdk(operation, &store.region, error)),
    }
}

pub(super) async fn delete(store: &S3Store) -> Result<()> {
    let operation = Operation::DeleteBucket;
    let send = store.client.delete_bucket().bucket(&*store.bucket).send();
    let answer = tokio::time::timeout(store.read_timeout, send).await;
    match answer.map_err(|_| Error::new(operation, ErrorKind::Timeout))? {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some("BucketNotEmpty") => {
            let words = "the bucket is not empty: older versions of objects, unfinished uploads, \
                         or somebody else's objects are in it"
                .to_owned();
            Err(Error::new(operation, ErrorKind::Other(words)))
        }
        Err(error) => match error::from_sdk(operation, &store.region, error) {
            gone if *gone.kind() == ErrorKind::NoSuchBucket => Ok(()),
            error => Err(error),
        },
    }
}
