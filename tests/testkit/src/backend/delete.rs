//! DeleteObject and DeleteObjects.

use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    ETagCondition, Error, ObjectIdentifier,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::state::{BucketState, Deleted};
use super::{Backend, conditions};

/// "The request can contain a list of up to 1,000 keys."
const MAX_KEYS: usize = 1000;

pub(super) fn delete_object(
    backend: &Backend,
    req: &S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = &req.input;
    let conditions =
        conditions::Write { if_match: input.if_match.clone(), ..conditions::Write::default() };
    let conditions = conditions.kept(backend.abilities.delete)?;
    let deleted = backend.in_bucket(&input.bucket, |bucket| {
        conditional_delete(bucket, &input.key, input.version_id.as_deref(), &conditions)
    })?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.marker.then_some(true),
        version_id: deleted.version_id,
        ..DeleteObjectOutput::default()
    }))
}

fn conditional_delete(
    bucket: &mut BucketState,
    key: &str,
    version: Option<&str>,
    conditions: &conditions::Write,
) -> S3Result<Deleted> {
    conditions.check_delete(bucket.current(key).map(AsRef::as_ref))?;
    Ok(bucket.delete(key, version))
}

pub(super) fn delete_objects(
    backend: &Backend,
    req: &S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = &req.input;
    let objects = &input.delete.objects;
    if objects.is_empty() || objects.len() > MAX_KEYS {
        return Err(s3_error!(MalformedXML, "between 1 and 1000 keys are allowed"));
    }
    let quiet = input.delete.quiet.unwrap_or(false);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    backend.in_bucket(&input.bucket, |bucket| {
        for object in objects {
            let conditions = conditions::Write {
                if_match: object.e_tag.clone().map(ETagCondition::ETag),
                ..conditions::Write::default()
            };
            let version = object.version_id.as_deref();
            let outcome = conditions.kept(backend.abilities.delete).and_then(|conditions| {
                conditional_delete(bucket, &object.key, version, &conditions)
            });
            match outcome {
                Ok(_) if quiet => {}
                Ok(done) => deleted.push(told(object, done)),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key.clone()),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id.clone(),
                }),
            }
        }
        Ok(())
    })?;
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..DeleteObjectsOutput::default()
    }))
}

fn told(object: &ObjectIdentifier, done: Deleted) -> DeletedObject {
    let marker_id = if done.marker { done.version_id } else { None };
    DeletedObject {
        delete_marker: done.marker.then_some(true),
        delete_marker_version_id: marker_id,
        key: Some(object.key.clone()),
        version_id: object.version_id.clone(),
    }
}
