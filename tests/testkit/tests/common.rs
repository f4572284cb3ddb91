//! An SDK client for a test server.

#![expect(dead_code, reason = "each test binary uses its own part of this")]

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use s3pod_testkit::{S3Endpoint, ServerOptions, TestServer};

/// The bucket of every test.
pub const BUCKET: &str = "bucket";

/// A server on the test's runtime, with [`BUCKET`].
pub async fn server() -> TestServer {
    TestServer::start(ServerOptions::with_bucket(BUCKET)).await.unwrap()
}

/// A client that never retries: the tests count requests.
pub fn client(server: &TestServer) -> Client {
    client_at(&server.s3_endpoint(BUCKET))
}

/// The same for any endpoint.
pub fn client_at(at: &S3Endpoint) -> Client {
    let credentials = Credentials::new(&at.access_key, &at.secret_key, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(credentials)
        .region(Region::new(at.region.clone()))
        .endpoint_url(&at.endpoint)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// The S3 code of a failed call, or the status in digits where there was no body (HEAD, 304).
pub fn code<T, E>(result: Result<T, aws_sdk_s3::error::SdkError<E>>) -> String
where
    E: aws_sdk_s3::error::ProvideErrorMetadata,
{
    match result {
        Ok(_) => "OK".to_owned(),
        Err(error) => {
            let status = error.raw_response().map(|response| response.status().as_u16());
            let code = error.as_service_error().and_then(|error| error.meta().code());
            match (code, status) {
                (Some(code), Some(status)) if status != 304 && code != "NotFound" => {
                    code.to_owned()
                }
                (_, Some(status)) => status.to_string(),
                (_, None) => "no answer".to_owned(),
            }
        }
    }
}
