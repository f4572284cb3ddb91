//! Buckets themselves: create, head, list, delete, location, versioning.

use s3s::dto::{
    Bucket, BucketLocationConstraint, BucketVersioningStatus, CreateBucketInput,
    CreateBucketOutput, DeleteBucketInput, DeleteBucketOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput, HeadBucketInput,
    HeadBucketOutput, ListBucketsOutput, PutBucketVersioningInput, PutBucketVersioningOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::state::{BucketState, Versioning};

/// The region whose location constraint is told as nothing at all.
const UNNAMED_REGION: &str = "us-east-1";

pub(super) fn create(
    backend: &Backend,
    req: &S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let mut buckets = backend.lock();
    if buckets.contains_key(&req.input.bucket) {
        return Err(s3_error!(BucketAlreadyOwnedByYou));
    }
    buckets.insert(req.input.bucket.clone(), BucketState::new());
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", req.input.bucket)) }))
}

pub(super) fn delete(
    backend: &Backend,
    req: &S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let mut buckets = backend.lock();
    let bucket = buckets.get(&req.input.bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
    if !bucket.keys.is_empty() {
        return Err(s3_error!(BucketNotEmpty));
    }
    buckets.remove(&req.input.bucket);
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(super) fn head(
    backend: &Backend,
    req: &S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    backend.in_bucket(&req.input.bucket, |_| Ok(()))?;
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region: Some(backend.region.clone()),
        ..HeadBucketOutput::default()
    }))
}

pub(super) fn list(backend: &Backend) -> S3Response<ListBucketsOutput> {
    let buckets = backend.lock();
    let row = |(name, state): (&String, &BucketState)| Bucket {
        creation_date: Some(state.created.into()),
        name: Some(name.clone()),
        ..Bucket::default()
    };
    let buckets = buckets.iter().map(row).collect();
    S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..ListBucketsOutput::default() })
}

pub(super) fn location(
    backend: &Backend,
    req: &S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    backend.in_bucket(&req.input.bucket, |_| Ok(()))?;
    let named = (backend.region != UNNAMED_REGION).then(|| backend.region.clone());
    Ok(S3Response::new(GetBucketLocationOutput {
        location_constraint: named.map(BucketLocationConstraint::from),
    }))
}

pub(super) fn put_versioning(
    backend: &Backend,
    req: &S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let status = req.input.versioning_configuration.status.as_ref();
    let versioning = match status.map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => return Err(s3_error!(IllegalVersioningConfigurationException)),
    };
    backend.in_bucket(&req.input.bucket, |bucket| {
        bucket.versioning = versioning;
        Ok(())
    })?;
    Ok(S3Response::new(PutBucketVersioningOutput {}))
}

pub(super) fn get_versioning(
    backend: &Backend,
    req: &S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let versioning = backend.in_bucket(&req.input.bucket, |bucket| Ok(bucket.versioning))?;
    let status = match versioning {
        Versioning::Never => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        ..GetBucketVersioningOutput::default()
    }))
}
