//! An object version and everything S3 keeps beside its bytes.
//!
//! Owns the list of properties that survive or not when an object is copied, and the limits on
//! user metadata. Must not know buckets or HTTP.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use s3s::dto::{Checksum, ETag, ObjectStorageClass, ServerSideEncryption, StorageClass, Timestamp};
use s3s::{S3Result, s3_error};

use super::content::Content;

/// "The user-defined metadata is limited to 2 KB in size" (S3 user guide, object metadata).
const USER_METADATA_LIMIT: usize = 2 * 1024;

/// One version of one key.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) version_id: String,
    pub(crate) content: Content,
    /// Without its quotes.
    pub(crate) etag: String,
    /// Sizes of the parts it was uploaded in; empty for a single PUT.
    pub(crate) parts: Vec<u64>,
    pub(crate) sums: Checksum,
    pub(crate) last_modified: SystemTime,
    pub(crate) properties: Properties,
    pub(crate) tags: BTreeMap<String, String>,
}

impl Object {
    pub(crate) fn etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }

    pub(crate) fn size(&self) -> i64 {
        i64::try_from(self.content.len()).expect("object sizes stay below 8 EiB")
    }

    pub(crate) fn modified(&self) -> Timestamp {
        self.last_modified.into()
    }

    /// The storage class as listings name it: always there.
    pub(crate) fn listed_class(&self) -> ObjectStorageClass {
        let class = self.properties.storage_class.as_ref();
        ObjectStorageClass::from(class.map_or("STANDARD", StorageClass::as_str).to_owned())
    }
}

/// What a PUT, Create or REPLACE copy sets and a GET or HEAD returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Properties {
    pub(crate) cache_control: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) storage_class: Option<StorageClass>,
    pub(crate) encryption: Option<ServerSideEncryption>,
    pub(crate) kms_key_id: Option<String>,
    pub(crate) bucket_key_enabled: Option<bool>,
    pub(crate) website_redirect: Option<String>,
}

impl Properties {
    pub(crate) fn check(self) -> S3Result<Self> {
        let size: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > USER_METADATA_LIMIT {
            return Err(s3_error!(
                MetadataTooLarge,
                "Your metadata headers exceed the maximum allowed metadata size"
            ));
        }
        Ok(Self { content_encoding: stored_encoding(self.content_encoding), ..self })
    }

    /// The class as HEAD and GET name it: S3 leaves STANDARD out.
    pub(crate) fn shown_class(&self) -> Option<StorageClass> {
        self.storage_class.clone().filter(|class| class.as_str() != StorageClass::STANDARD)
    }
}

/// `aws-chunked` describes the transfer, not the object: S3 does not store it.
fn stored_encoding(sent: Option<String>) -> Option<String> {
    let kept: Vec<_> = sent?
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .map(str::to_owned)
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// Builds [`Properties`] from any of the inputs that carry the same field names.
macro_rules! properties_of {
    ($input:expr) => {
        $crate::backend::object::Properties {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $input.expires.take(),
            metadata: $input.metadata.take().unwrap_or_default().into_iter().collect(),
            storage_class: $input.storage_class.take(),
            encryption: $input.server_side_encryption.take(),
            kms_key_id: $input.ssekms_key_id.take(),
            bucket_key_enabled: $input.bucket_key_enabled.take(),
            website_redirect: $input.website_redirect_location.take(),
        }
        .check()
    };
}
pub(crate) use properties_of;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_chunked_is_not_stored() {
        let stored = |sent: &str| stored_encoding(Some(sent.to_owned()));
        assert_eq!(stored("aws-chunked"), None);
        assert_eq!(stored("gzip,aws-chunked").as_deref(), Some("gzip"));
        assert_eq!(stored("gzip").as_deref(), Some("gzip"));
    }
}
