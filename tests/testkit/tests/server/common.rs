//! Clients for a test server.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use s3pod_testkit::{S3Endpoint, ServerOptions, TestServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The bucket of every test.
pub(crate) const BUCKET: &str = "bucket";
pub(crate) const MIB: usize = 1024 * 1024;

/// A server on the test's runtime, with [`BUCKET`].
pub(crate) async fn server() -> TestServer {
    TestServer::start(ServerOptions::with_bucket(BUCKET)).await.unwrap()
}

/// A server that also takes unsigned requests, for [`raw`].
pub(crate) async fn open_server() -> TestServer {
    let options = ServerOptions { anonymous: true, ..ServerOptions::with_bucket(BUCKET) };
    TestServer::start(options).await.unwrap()
}

/// A client that never retries: the tests count requests.
pub(crate) fn client(server: &TestServer) -> Client {
    client_at(&server.s3_endpoint(BUCKET))
}

/// The same for any endpoint.
pub(crate) fn client_at(at: &S3Endpoint) -> Client {
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

/// The S3 code of a call's failure; its status in digits where there was no document (HEAD,
/// 304); "no answer" where the connection broke.
pub(crate) fn code<T, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> String {
    let Err(error) = result else { return "OK".to_owned() };
    let Some(response) = error.raw_response() else { return "no answer".to_owned() };
    let has_document = response.body().bytes().is_some_and(|bytes| bytes.starts_with(b"<?xml"));
    let code = error.as_service_error().and_then(|error| error.meta().code());
    match code {
        Some(code) if has_document => code.to_owned(),
        _ => response.status().as_u16().to_string(),
    }
}

pub(crate) async fn put(client: &Client, key: &str, body: impl Into<Bytes>) -> String {
    let body = ByteStream::from(body.into());
    let answer = client.put_object().bucket(BUCKET).key(key).body(body).send().await.unwrap();
    answer.e_tag().unwrap().to_owned()
}

pub(crate) async fn get(client: &Client, key: &str) -> Bytes {
    let answer = client.get_object().bucket(BUCKET).key(key).send().await.unwrap();
    answer.body.collect().await.unwrap().into_bytes()
}

/// One unsigned request over a connection of its own; the whole answer as text, as far as the
/// connection gave it.
pub(crate) async fn raw(server: &TestServer, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let length = body.len();
    let head =
        format!("{head}Host: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that resets in mid-request makes this fail: the answer tells.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        answer.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
