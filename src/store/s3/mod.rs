//! S3, through aws-sdk-s3.
//!
//! Owns [`S3Store`] and the plain [`S3Settings`] it is made of: the only place that names the SDK.
//! Each request is sent once; repeating is the business of [`super::Retry`]. Promises: every
//! request has a deadline, every uploaded byte is covered by a checksum unless that is switched
//! off, and a body is exactly as long as promised or ends in an error. Must not know files,
//! caches or flags.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{RequestPayer, StorageClass};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::{
    Condition, CopyRequest, Deletion, Error, GetRequest, GetResponse, ListPage, ListRequest,
    ObjectHead, ObjectStore, Operation, PartTag, PartTarget, Payload, Properties, PutRequest,
    Result, Upload, UploadId, Version,
};
use crate::naming::Key;
use crate::units::ByteRange;

mod bucket;
mod client;
mod copy;
mod delete;
mod error;
mod get;
mod identity;
mod list;
mod payload;
mod probe;
mod properties;
mod put;
mod remnants;
mod route;
mod trust;
mod version;

/// Where a bucket is and how to talk to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket's name, or an access point's ARN or alias.
    pub bucket: String,
    /// An endpoint other than AWS's own.
    pub endpoint_url: Option<String>,
    /// The region; none asks the SDK's chain, then AWS where the bucket is.
    pub region: Option<String>,
    /// A named profile of the shared configuration files; it wins over the rest of the chain.
    pub profile: Option<String>,
    /// A file of profiles that alone counts, whatever the environment says.
    pub credentials_file: Option<PathBuf>,
    /// A fixed identity; none asks the SDK's chain (environment, profile, pod, instance).
    pub credentials: Option<Credentials>,
    /// Send requests without a signature, for public buckets.
    pub no_sign_request: bool,
    /// Name the bucket in the path, not in the host.
    pub force_path_style: bool,
    /// Agree to pay for the requests.
    pub requester_pays: bool,
    /// `x-amz-server-side-encryption` of new objects.
    pub sse: Option<String>,
    /// The KMS key of new objects.
    pub sse_kms_key_id: Option<String>,
    /// Storage class of new objects.
    pub storage_class: Option<String>,
    /// A PEM file of certificate authorities to trust besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// An HTTP proxy; metadata addresses are never asked through it.
    pub proxy: Option<String>,
    /// Hosts that are reached without the proxy, as in `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a request may go without a byte in either direction.
    pub read_timeout: Duration,
    /// How long the store may take over work of its own (copies, completing an upload), during
    /// which no byte need move.
    pub attempt_timeout: Duration,
    /// When checksums travel with uploads.
    pub checksums: Checksums,
}

/// A key pair, for servers that are made together with their client. What a person has belongs
/// into the environment or a profile.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
    /// The token of a session, where they belong to one.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// When checksums travel with uploads and are verified on whole downloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// Always with AWS; with other stores until one refuses them.
    #[default]
    Auto,
    /// Always: a store that refuses them cannot be written to.
    Always,
    /// Only where S3 demands them (DeleteObjects).
    WhenRequired,
}

impl S3Settings {
    /// The defaults, with AWS's own endpoint.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            endpoint_url: None,
            region: None,
            profile: None,
            credentials_file: None,
            credentials: None,
            no_sign_request: false,
            force_path_style: false,
            requester_pays: false,
            sse: None,
            sse_kms_key_id: None,
            storage_class: None,
            ca_bundle: None,
            proxy: None,
            no_proxy: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
            attempt_timeout: Duration::from_secs(120),
            checksums: Checksums::Auto,
        }
    }
}

/// A setting that cannot be used; nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConnectError {
    /// Which setting.
    pub setting: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// A bucket of an S3 store.
pub struct S3Store {
    client: Client,
    bucket: Arc<str>,
    region: Arc<str>,
    endpoint: Option<Arc<str>>,
    payer: Option<RequestPayer>,
    /// What new objects get where their properties say nothing.
    defaults: Properties,
    read_timeout: Duration,
    attempt_timeout: Duration,
    checksums: AtomicBool,
    /// A HEAD asks for the object's checksum too.
    head_checksums: AtomicBool,
    /// A refusal of checksums switches them off instead of failing.
    checksums_are_optional: bool,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl S3Store {
    /// Prepares the connection: trust, proxy, region and the chain of credentials. Only where no
    /// region is known for AWS is anything sent; [`S3Store::probe`] tells whether the bucket
    /// answers.
    ///
    /// # Errors
    /// A setting that cannot be used.
    pub async fn connect(settings: S3Settings) -> Result<Self, ConnectError> {
        client::connect(settings).await
    }

    /// An object as it is seen, where new ones get another class than S3's: one that has none keeps
    /// S3's.
    fn seen(&self, mut head: ObjectHead) -> ObjectHead {
        if self.defaults.storage_class.is_some() {
            let class = StorageClass::Standard.as_str();
            head.properties.storage_class.get_or_insert_with(|| class.to_owned());
        }
        head
    }

    /// The endpoint that was asked for, by whatever setting or file; none for AWS itself.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Asks for the bucket and one line of a listing under `prefix`: what a mount does first, so
    /// that a wrong name, region, credential or endpoint is known at once and by its name.
    ///
    /// # Errors
    /// What the store or the way to it said.
    pub async fn probe(&self, prefix: &str) -> Result<()> {
        probe::probe(self, prefix).await
    }

    /// Makes the bucket; false where this account has it already.
    ///
    /// # Errors
    /// What the store said.
    pub async fn create_bucket(&self) -> Result<bool> {
        bucket::create(self).await
    }

    /// Removes the bucket, which must be empty; one that is gone already is no error.
    ///
    /// # Errors
    /// What the store said.
    pub async fn delete_bucket(&self) -> Result<()> {
        bucket::delete(self).await
    }

    /// Aborts the unfinished uploads of keys that begin with `prefix`, whoever began them.
    ///
    /// # Errors
    /// What the store said; one that cannot list uploads has none.
    pub async fn remove_uploads(&self, prefix: &str) -> Result<()> {
        remnants::remove_uploads(self, prefix).await
    }

    /// Deletes every version and delete marker of keys that begin with `prefix` for good, but of
    /// those that `is_kept` names.
    ///
    /// # Errors
    /// What the store said; one that cannot list versions keeps none.
    pub async fn remove_versions(&self, prefix: &str, is_kept: fn(&str) -> bool) -> Result<()> {
        remnants::remove_versions(self, prefix, is_kept).await
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The region that requests are signed for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Sends what carries a checksum, and once more without where the store seems to refuse
    /// checksums and doing without is allowed. Where that helped, none are sent from then on.
    async fn with_checksums<T, F>(&self, send: impl Fn(bool) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let checked = self.checksums.load(Ordering::Relaxed);
        let error = match send(checked).await {
            Err(error) if checked && error::may_refuse_checksums(&error) => error,
            result => return result,
        };
        if !self.checksums_are_optional {
            return Err(error);
        }
        let again = send(false).await;
        let helped = again.as_ref().err().is_none_or(|error| !error::may_refuse_checksums(error));
        if helped && self.checksums.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "the store takes no checksums: uploads go without");
        }
        again
    }

    /// Awaits an answer about one object for at most `patience`.
    async fn within<T, E>(
        &self,
        operation: Operation,
        key: &Key,
        patience: Duration,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let answer = self.within_bucket(operation, patience, request).await;
        answer.map_err(|error| error.with_key(key))
    }

    /// Awaits an answer about the bucket for at most `patience`.
    async fn within_bucket<T, E>(
        &self,
        operation: Operation,
        patience: Duration,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match tokio::time::timeout(patience, request).await {
            Ok(answer) => answer.map_err(|error| error::from_sdk(operation, &self.region, error)),
            Err(_) => Err(Error::new(operation, super::ErrorKind::Timeout)),
        }
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        get::head(self, key).await
    }

    async fn tags(&self, version: &Version) -> Result<Vec<(String, String)>> {
        get::tags(self, version).await
    }

    async fn get(&self, request: &GetRequest) -> Result<GetResponse> {
        get::get(self, request).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        list::list(self, request).await
    }

    async fn put(&self, request: &PutRequest, payload: &Payload) -> Result<Version> {
        put::put(self, request, payload).await
    }

    async fn create_upload(&self, key: &Key, properties: &Properties) -> Result<UploadId> {
        put::create_upload(self, key, properties).await
    }

    async fn upload_part(&self, part: &PartTarget, payload: &Payload) -> Result<PartTag> {
        put::upload_part(self, part, payload).await
    }

    async fn copy_part(
        &self,
        part: &PartTarget,
        source: &Version,
        range: ByteRange,
    ) -> Result<PartTag> {
        copy::copy_part(self, part, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        condition: &Condition,
    ) -> Result<Version> {
        put::complete_upload(self, upload, parts, condition).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        put::abort_upload(self, upload).await
    }

    async fn copy(&self, source: &Version, request: &CopyRequest) -> Result<Version> {
        copy::copy(self, source, request).await
    }

    async fn delete(&self, key: &Key, condition: &Condition) -> Result<()> {
        delete::delete(self, key, condition).await
    }

    async fn delete_many(&self, objects: &[Deletion]) -> Result<Vec<(Key, Error)>> {
        delete::delete_many(self, objects).await
    }
}
