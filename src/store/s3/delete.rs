//! DELETE, of one object and of many.
//!
//! Owns what counts as deleted: an object that is gone already is. Must not know why something is
//! deleted.

use std::collections::HashMap;

use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::operation::delete_objects::DeleteObjectsOutput;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{S3Store, error};
use crate::naming::Key;
use crate::store::{Condition, Deletion, Error, ErrorKind, Operation, Result};

pub(super) async fn delete(store: &S3Store, key: &Key, condition: &Condition) -> Result<()> {
    let operation = Operation::Delete;
    let refuse = |kind| Err(Error::new(operation, kind).with_key(key));
    let if_match = match condition {
        Condition::None => None,
        Condition::Absent => return refuse(ErrorKind::Unsupported),
        Condition::Unchanged(version) => version.etag.as_deref().map(str::to_owned),
    };
    let send = store
        .client
        .delete_object()
        .bucket(&*store.bucket)
        .key(key.as_str())
        .set_if_match(if_match)
        .set_request_payer(store.payer.clone())
        .send();
    match store.within(operation, key, store.read_timeout, send).await {
        Err(error) if error.is_not_found() => match condition {
            Condition::Unchanged(_) => refuse(ErrorKind::Changed),
            _ => Ok(()),
        },
        result => result.map(drop),
    }
}

/// True for what XML 1.0 can carry: a key with another control character would spoil the whole
/// request and is deleted by itself.
fn fits_xml(key: &Key) -> bool {
    key.as_str()
        .chars()
        .all(|c| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{FFFD}' | '\u{10000}'..))
}

pub(super) async fn delete_many(
    store: &S3Store,
    objects: &[Deletion],
) -> Result<Vec<(Key, Error)>> {
    let is_alone = |one: &Deletion| !fits_xml(&one.key) || one.condition == Condition::Absent;
    let (alone, together): (Vec<_>, Vec<_>) = objects.iter().partition(|one| is_alone(one));
    let mut failed = Vec::new();
    if !together.is_empty() {
        failed = delete_together(store, &together).await?;
    }
    for Deletion { key, condition } in alone {
        if let Err(error) = delete(store, key, condition).await {
            failed.push((key.clone(), error));
        }
    }
    Ok(failed)
}

/// An entry of a DeleteObjects; its ETag is to DELETE's `If-Match` what the entry is to DELETE.
fn identifier(object: &Deletion) -> Result<ObjectIdentifier> {
    let Deletion { key, condition } = object;
    let tag = match condition {
        Condition::Unchanged(version) => version.etag.as_deref().map(str::to_owned),
        Condition::None | Condition::Absent => None,
    };
    let built = ObjectIdentifier::builder().key(key.as_str()).set_e_tag(tag).build();
    built.map_err(invalid)
}

async fn delete_together(store: &S3Store, objects: &[&Deletion]) -> Result<Vec<(Key, Error)>> {
    let operation = Operation::DeleteMany;
    let identifiers: Result<Vec<_>> = objects.iter().map(|object| identifier(object)).collect();
    let answer = delete_objects(store, identifiers?).await?;
    let asked: HashMap<&str, &Key> =
        objects.iter().map(|object| (object.key.as_str(), &object.key)).collect();
    let refused = answer.errors().iter().filter_map(|entry| {
        let key = *asked.get(entry.key()?)?;
        let error = error::from_code(operation, entry.code(), entry.message()).with_key(key);
        (!error.is_not_found()).then(|| (key.clone(), error))
    });
    Ok(refused.collect())
}

/// Deletes versions for good; the first that stays is the error.
pub(super) async fn delete_versions(store: &S3Store, objects: Vec<ObjectIdentifier>) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let answer = delete_objects(store, objects).await?;
    let refused = answer.errors().iter().map(|entry| {
        let error = error::from_code(Operation::DeleteMany, entry.code(), entry.message());
        match entry.key() {
            Some(key) => error.with_key(&Key::from(key)),
            None => error,
        }
    });
    refused.into_iter().find(|error| !error.is_not_found()).map_or(Ok(()), Err)
}

async fn delete_objects(
    store: &S3Store,
    objects: Vec<ObjectIdentifier>,
) -> Result<DeleteObjectsOutput> {
    let delete = Delete::builder().set_objects(Some(objects)).quiet(true);
    let send = store
        .client
        .delete_objects()
        .bucket(&*store.bucket)
        .delete(delete.build().map_err(invalid)?)
        .set_request_payer(store.payer.clone())
        .send();
    store.within_bucket(Operation::DeleteMany, store.attempt_timeout, send).await
}

fn invalid(error: BuildError) -> Error {
    Error::new(Operation::DeleteMany, ErrorKind::Other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_xml_cannot_carry_are_set_apart() {
        assert!(fits_xml(&Key::from("a b\t\n<&>é\u{1F980}")));
        assert!(!fits_xml(&Key::from("a\u{1}b")));
        assert!(!fits_xml(&Key::from("a\u{FFFE}b")));
    }
}
