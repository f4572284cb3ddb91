//! From settings to a client: trust, ways out, region, credentials, deadlines.
//!
//! Owns the composition of the SDK's parts. The SDK's own retries and its stalled-stream
//! protection are off: [`crate::store::Retry`] and the watchdogs of `get` and `payload` do that
//! with bounds of ours. Must not know operations, except for asking AWS where a bucket is.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, ConfigBag, Intercept, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::RequestPayer;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::{context, dyn_dispatch_hint};

use super::identity::{Identity, Source};
use super::route::{self, Routes};
use super::{Checksums, ConnectError, S3Settings, S3Store, trust};
use crate::store::Properties;

/// Where AWS answers for every bucket, if only to say where it is.
const FIRST_REGION: &str = "us-east-1";

pub(super) async fn connect(settings: S3Settings) -> Result<S3Store, ConnectError> {
    let endpoint = settings.endpoint_url.as_deref().map(check_endpoint).transpose()?;
    let trust = trust::context(settings.ca_bundle.as_deref())?;
    let proxy = route::proxy(settings.proxy.as_deref(), settings.no_proxy.as_deref())?;
    let http = SharedHttpClient::new(Routes::new(trust, proxy));
    let shared = shared(&settings, endpoint, http).await;
    let is_aws = shared.endpoint_url().is_none();
    let region = match shared.region() {
        Some(region) => region.clone(),
        None if is_aws => home_of(&settings, &shared).await,
        None => Region::from_static(FIRST_REGION),
    };
    let path_style = settings.force_path_style || shared.endpoint_url().is_some_and(is_bare_host);
    let client = client(&settings, &shared, region.clone(), path_style);
    Ok(S3Store {
        client,
        bucket: settings.bucket.as_str().into(),
        region: region.as_ref().into(),
        endpoint: shared.endpoint_url().map(Into::into),
        payer: settings.requester_pays.then_some(RequestPayer::Requester),
        defaults: Properties {
            storage_class: settings.storage_class,
            sse: settings.sse,
            sse_kms_key_id: settings.sse_kms_key_id,
            ..Properties::default()
        },
        read_timeout: settings.read_timeout,
        attempt_timeout: settings.attempt_timeout,
        checksums: AtomicBool::new(settings.checksums != Checksums::WhenRequired),
        head_checksums: AtomicBool::new(true),
        checksums_are_optional: settings.checksums == Checksums::Auto && !is_aws,
    })
}

fn check_endpoint(url: &str) -> Result<String, ConnectError> {
    let refuse = |reason: &str| ConnectError {
        setting: "endpoint URL",
        reason: format!("`{url}` {reason}; write it like https://s3.example.com:9000"),
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| refuse("has no scheme"))?;
    if !matches!(scheme, "http" | "https") {
        return Err(refuse("is neither http nor https"));
    }
    if rest.trim_start_matches('/').is_empty() || rest.contains(char::is_whitespace) {
        return Err(refuse("has no host"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// True for a host without a dot, like `localhost` or `minio`: nobody has a name for
/// `bucket.minio`, so the bucket goes into the path.
fn is_bare_host(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', ':']).next().unwrap_or_default();
    !host.contains('.')
}

/// What S3 and the credential providers share.
async fn shared(
    settings: &S3Settings,
    endpoint: Option<String>,
    http: SharedHttpClient,
) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .app_name(AppName::new("s3pod").expect("a plain word is a name"));
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    // The instance's own region says nothing about the bucket's, and asking for it takes seconds
    // where there is no metadata service: the chain ends with the profile.
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &settings.profile {
        profile = profile.profile_name(name);
        loader = loader.profile_name(name);
    }
    let region = RegionProviderChain::first_try(settings.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build());
    let region = region.region().await;
    let loader = credentials(loader, settings, region.clone(), http);
    let config = loader.region(Fixed(region.clone())).load().await;
    config.into_builder().region(region).build()
}

/// A profile given by name is the identity wanted: in the SDK's chain the environment would win
/// over it.
fn credentials(
    loader: ConfigLoader,
    settings: &S3Settings,
    region: Option<Region>,
    http: SharedHttpClient,
) -> ConfigLoader {
    // The providers call STS and SSO, which need some region; for S3's own requests it is the
    // bucket's that counts.
    let region = region.unwrap_or(Region::from_static(FIRST_REGION));
    if settings.no_sign_request {
        return loader.no_credentials();
    }
    if let Some(fixed) = &settings.credentials {
        let pair = (fixed.access_key_id.as_str(), fixed.secret_access_key.as_str());
        let token = fixed.session_token.clone();
        let fixed = aws_credential_types::Credentials::new(pair.0, pair.1, token, None, "settings");
        return loader.credentials_provider(fixed);
    }
    let (profile, file) = (settings.profile.clone(), settings.credentials_file.clone());
    let source = Source { profile, file, region, http };
    loader.credentials_provider(Identity::new(source))
}

/// A region that is known, or known to be unknown.
#[derive(Debug)]
struct Fixed(Option<Region>);

impl aws_config::meta::region::ProvideRegion for Fixed {
    fn region(&self) -> aws_config::meta::region::future::ProvideRegion<'_> {
        aws_config::meta::region::future::ProvideRegion::ready(self.0.clone())
    }
}

fn client(settings: &S3Settings, shared: &SdkConfig, region: Region, path_style: bool) -> Client {
    let mut builder = Builder::from(shared)
        .region(region)
        .force_path_style(path_style)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(settings.connect_timeout))
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(LenientHeaders);
    if settings.no_sign_request {
        builder = builder.allow_no_auth();
    }
    Client::from_conf(builder.build())
}

/// Only connecting is left to the SDK's clocks: its others do not see whether bytes move.
fn timeouts(connect: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(connect)
        .disable_read_timeout()
        .disable_operation_timeout()
        .disable_operation_attempt_timeout()
        .build()
}

/// Asks AWS where the bucket is: the answer's header says it, whether the bucket may be seen or
/// not. Where nobody answers, the probe will say so.
async fn home_of(settings: &S3Settings, shared: &SdkConfig) -> Region {
    let first = Region::from_static(FIRST_REGION);
    let client = client(settings, shared, first.clone(), settings.force_path_style);
    let request = client.head_bucket().bucket(&settings.bucket).send();
    let named = match tokio::time::timeout(settings.read_timeout, request).await {
        Ok(Ok(head)) => head.bucket_region().map(str::to_owned),
        Ok(Err(error)) => error
            .raw_response()
            .and_then(|raw| raw.headers().get("x-amz-bucket-region"))
            .map(str::to_owned),
        Err(_) => None,
    };
    named.map_or(first, Region::new)
}

/// Reads an answer although some header of it is not UTF-8: one odd piece of user metadata must not
/// make an object unreadable, nor hide the others.
#[derive(Debug)]
struct LenientHeaders;

#[dyn_dispatch_hint]
impl Intercept for LenientHeaders {
    fn name(&self) -> &'static str {
        "LenientHeaders"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut context::BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response_mut().headers_mut();
        let odd = headers.iter_bytes().filter(|(_, value)| std::str::from_utf8(value).is_err());
        let odd: Vec<String> = odd.map(|(name, _)| name.to_owned()).collect();
        for name in odd {
            tracing::debug!(name, "a header that is not UTF-8 is left out");
            headers.remove(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_before_anything_is_sent() {
        assert_eq!(check_endpoint("http://minio:9000/").unwrap(), "http://minio:9000");
        for bad in ["minio:9000", "ftp://minio", "http://", "https:///"] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_without_a_dot_carries_the_bucket_in_the_path() {
        assert!(is_bare_host("http://minio:9000"));
        assert!(is_bare_host("http://localhost"));
        assert!(!is_bare_host("https://s3.example.com/x"));
        assert!(!is_bare_host("http://127.0.0.1:8333"));
    }
}
