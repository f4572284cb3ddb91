//! CopyObject: what a copy keeps, what it drops, and the conditions on both its ends.

use std::sync::Arc;

use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, MetadataDirective, TaggingDirective,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::checksum::{derived_etag, digest, hex};
use super::conditions::{self, copy_source};
use super::object::{Object, Properties, properties_of};
use super::state::{NULL_VERSION, now};
use super::{Backend, MAX_SINGLE, tags};

/// The source as it stood when its conditions held.
pub(super) struct Source {
    pub(super) object: Arc<Object>,
    pub(super) version_id: Option<String>,
}

pub(super) fn find_source(
    backend: &Backend,
    source: &s3s::dto::CopySource,
    conditions: &conditions::Read,
) -> S3Result<Source> {
    let (bucket, key, version) = copy_source(source)?;
    backend.in_bucket(bucket, |bucket| {
        let object = bucket.object(key, version)?;
        conditions.check_source(&object)?;
        let version_id = bucket.told_version(&object);
        Ok(Source { object, version_id })
    })
}

/// What the copy's properties are made from.
struct Asked {
    replace: bool,
    given: Properties,
    replace_tags: bool,
    tags: std::collections::BTreeMap<String, String>,
}

impl Asked {
    fn parse(input: &mut CopyObjectInput) -> S3Result<Self> {
        let directive = input.metadata_directive.as_ref().map(MetadataDirective::as_str);
        let tagging = input.tagging_directive.as_ref().map(TaggingDirective::as_str);
        Ok(Self {
            replace: directive == Some(MetadataDirective::REPLACE),
            given: properties_of!(input)?,
            replace_tags: tagging == Some(TaggingDirective::REPLACE),
            tags: tags::parse_header(input.tagging.as_deref())?,
        })
    }

    /// "Without changing the object's metadata, storage class, website redirect location or
    /// encryption attributes."
    fn changes_something(&self, source: &Properties) -> bool {
        let class = self.given.shown_class();
        let class_named = self.given.storage_class.is_some();
        self.replace
            || (class_named && class != source.shown_class())
            || self.given.website_redirect.is_some()
            || self.given.encryption.is_some()
    }

    /// COPY keeps the headers and user metadata; class, encryption and redirect never carry over.
    fn properties(&self, source: &Properties) -> Properties {
        if self.replace {
            return self.given.clone();
        }
        Properties {
            storage_class: self.given.storage_class.clone(),
            encryption: self.given.encryption.clone(),
            kms_key_id: self.given.kms_key_id.clone(),
            bucket_key_enabled: self.given.bucket_key_enabled,
            website_redirect: self.given.website_redirect.clone(),
            ..source.clone()
        }
    }
}

pub(super) fn copy_object(
    backend: &Backend,
    mut req: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let destination = conditions::Write::from_headers(&req.headers)?.kept(backend.abilities.put)?;
    let input = &mut req.input;
    let source_conditions = conditions::Read {
        if_match: input.copy_source_if_match.take(),
        if_none_match: input.copy_source_if_none_match.take(),
        if_modified_since: input.copy_source_if_modified_since.take(),
        if_unmodified_since: input.copy_source_if_unmodified_since.take(),
    };
    let asked = Asked::parse(input)?;
    backend.in_bucket(&input.bucket, |_| Ok(()))?;
    let source = find_source(backend, &input.copy_source, &source_conditions)?;
    check_size(&source.object)?;
    check_self_copy(input, &asked, &source.object)?;
    let copy = copied(&source.object, &asked)?;
    let result = CopyObjectResult {
        checksum_crc32: copy.sums.checksum_crc32.clone(),
        checksum_crc32c: copy.sums.checksum_crc32c.clone(),
        checksum_crc64nvme: copy.sums.checksum_crc64nvme.clone(),
        e_tag: backend.told(copy.etag()),
        last_modified: Some(copy.modified()),
        ..CopyObjectResult::default()
    };
    let (encryption, kms_key_id) =
        (copy.properties.encryption.clone(), copy.properties.kms_key_id.clone());
    let version_id = install(backend, input, &source_conditions, &destination, copy)?;
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: source.version_id,
        version_id,
        server_side_encryption: encryption,
        ssekms_key_id: kms_key_id,
        ..CopyObjectOutput::default()
    }))
}

/// Under one lock: the source conditions hold still, the destination's hold, the copy is there.
fn install(
    backend: &Backend,
    input: &CopyObjectInput,
    source_conditions: &conditions::Read,
    destination: &conditions::Write,
    copy: Object,
) -> S3Result<Option<String>> {
    let (bucket, key, version) = copy_source(&input.copy_source)?;
    let mut buckets = backend.lock();
    let source = buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
    source_conditions.check_source(&*source.object(key, version)?)?;
    let state = buckets.get_mut(input.bucket.as_str()).ok_or_else(|| s3_error!(NoSuchBucket))?;
    destination.check(state.current(&input.key).map(AsRef::as_ref))?;
    Ok(state.install(&input.key, copy))
}

fn check_size(source: &Object) -> S3Result<()> {
    if source.content.len() > MAX_SINGLE {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy \
             source: {MAX_SINGLE}"
        ));
    }
    Ok(())
}

fn check_self_copy(input: &CopyObjectInput, asked: &Asked, source: &Object) -> S3Result<()> {
    let (bucket, key, version) = copy_source(&input.copy_source)?;
    let onto_itself = bucket == input.bucket && key == input.key && version.is_none();
    if onto_itself && !asked.changes_something(&source.properties) {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself \
             without changing the object's metadata, storage class, website redirect location \
             or encryption attributes."
        ));
    }
    Ok(())
}

/// The copy as an object: one part, so its ETag is the MD5 of the whole even where the source
/// was uploaded in parts.
fn copied(source: &Object, asked: &Asked) -> S3Result<Object> {
    let (etag, sums) = if source.parts.is_empty() {
        (source.etag.clone(), source.sums.clone())
    } else if source.content.is_synthetic() {
        (hex(&derived_etag(&format!("copy of {}", source.etag))), source.sums.clone())
    } else {
        let (md5, sums) = digest(&source.content, &source.sums)?;
        (hex(&md5), sums)
    };
    Ok(Object {
        version_id: NULL_VERSION.to_owned(),
        content: source.content.clone(),
        etag,
        parts: Vec::new(),
        sums,
        last_modified: now(),
        properties: asked.properties(&source.properties),
        tags: if asked.replace_tags { asked.tags.clone() } else { source.tags.clone() },
    })
}
