//! The way to the store, and what is said where it ends early.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use s3pod::naming::Key;
use s3pod::store::s3::{Checksums, Credentials, S3Settings, S3Store};
use s3pod::store::{
    Condition, ErrorKind, ListRequest, ObjectStore, PartTag, PartTarget, Payload, Properties,
    PutRequest, Upload, UploadId,
};
use s3pod_testkit::tls;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Subject;
use crate::server::settings;

async fn connect(settings: S3Settings) -> S3Store {
    S3Store::connect(settings).await.expect("usable settings")
}

/// Why a mount of these settings would fail.
async fn probe(settings: S3Settings) -> ErrorKind {
    connect(settings).await.probe("some/prefix/").await.unwrap_err().kind().clone()
}

/// A server that answers each connection once; dropping it ends it.
struct Canned {
    address: SocketAddr,
    /// Of each request so far.
    heads: Arc<Mutex<Vec<String>>>,
    serving: tokio::task::JoinHandle<()>,
}

/// An answer to a request's head.
type Script = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

impl Canned {
    async fn answering(answer: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::serve(Box::new(move |_| answer.as_ref().to_vec()), None).await
    }

    async fn serve(script: Script, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let serving = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                match &tls {
                    Some(tls) => match tls.accept(connection).await {
                        Ok(connection) => answer_one(connection, &script, &seen).await,
                        Err(_) => continue, // The client hung up: it did not trust us.
                    },
                    None => answer_one(connection, &script, &seen).await,
                }
            }
        });
        Self { address, heads, serving }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    async fn store(&self) -> S3Store {
        connect(settings(self.address, "bucket")).await
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer_one(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    script: &Script,
    seen: &Mutex<Vec<String>>,
) {
    let mut head = vec![0; 16 * 1024];
    let length = connection.read(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..length]).into_owned();
    let answer = script(&head);
    seen.lock().unwrap().push(head);
    let _ = connection.write_all(&answer).await;
    let _ = connection.shutdown().await;
}

/// An answer of status 200 with `body`.
fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

const EMPTY_PAGE: &str = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";

pub(crate) async fn a_missing_bucket_is_named(subject: &Subject) {
    let elsewhere = S3Settings { bucket: "no-such-bucket".into(), ..subject.settings() };
    let store = connect(elsewhere.clone()).await;
    let error = store.list(&ListRequest::default()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoSuchBucket);
    assert_eq!(probe(elsewhere).await, ErrorKind::NoSuchBucket);
    subject.store.probe("").await.unwrap();
    subject.store.probe("some/prefix/").await.unwrap();
}

pub(crate) async fn wrong_credentials_are_named(subject: &Subject) {
    let mut wrong_secret = subject.settings();
    let credentials = wrong_secret.credentials.as_mut().unwrap();
    credentials.secret_access_key = "wrong".into();
    let kind = probe(wrong_secret).await;
    assert!(matches!(kind, ErrorKind::Unauthenticated(_)), "{kind:?}");
    let nobody = Credentials {
        access_key_id: "nobody".into(),
        secret_access_key: "x".into(),
        session_token: None,
    };
    let kind = probe(S3Settings { credentials: Some(nobody), ..subject.settings() }).await;
    assert!(matches!(kind, ErrorKind::Unauthenticated(_)), "{kind:?}");
}

pub(crate) async fn checksums_may_be_left_out(subject: &Subject) {
    let settings = S3Settings { checksums: Checksums::WhenRequired, ..subject.settings() };
    let store = connect(settings).await;
    let key = Key::from("f");
    let id = store.create_upload(&key, &Properties::default()).await.unwrap();
    let target = PartTarget { upload: Upload { key, id }, number: 1 };
    let bytes = Payload::Bytes(Bytes::from_static(b"without a checksum"));
    let part = store.upload_part(&target, &bytes).await.unwrap();
    assert_eq!(part.crc32, None);
    store.complete_upload(&target.upload, &[part], &Condition::None).await.unwrap();
    assert_eq!(subject.read("f").await.unwrap(), "without a checksum");
    assert!(store.delete_many(&[target.upload.key.into()]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_connection_is_named() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let kind = probe(settings(address, "bucket")).await;
    assert_eq!(kind, ErrorKind::Connection("the endpoint refused the connection".into()));
}

#[tokio::test]
async fn a_profile_that_is_missing_is_named() {
    let server = Canned::answering(ok(EMPTY_PAGE)).await;
    let profile = Some("s3pod-no-such-profile".to_owned());
    let settings = S3Settings { profile, credentials: None, ..settings(server.address, "bucket") };
    let kind = probe(settings).await;
    let ErrorKind::Unauthenticated(said) = &kind else { panic!("{kind:?}") };
    assert!(said.contains("s3pod-no-such-profile"), "{said}");
    assert!(server.heads().is_empty());
}

#[tokio::test]
async fn an_unknown_host_is_named() {
    let endpoint_url = Some("http://s3.invalid:9000".to_owned());
    let settings = S3Settings { endpoint_url, ..settings(([127, 0, 0, 1], 1).into(), "bucket") };
    let expected = "the endpoint's host name cannot be resolved";
    assert_eq!(probe(settings).await, ErrorKind::Connection(expected.into()));
}

#[tokio::test]
async fn what_is_not_s3_is_named() {
    let page = "<!DOCTYPE html><html><body>It works!</body></html>";
    let web = Canned::answering(ok(page)).await;
    let kind = probe(settings(web.address, "bucket")).await;
    assert!(matches!(&kind, ErrorKind::NotS3(said) if said.contains("It works!")), "{kind:?}");
    let ssh = Canned::answering("SSH-2.0-OpenSSH_9.6\r\n").await;
    let kind = probe(settings(ssh.address, "bucket")).await;
    assert!(matches!(kind, ErrorKind::NotS3(_)), "{kind:?}");
}

fn https(server: &Canned, ca_bundle: Option<PathBuf>) -> S3Settings {
    let endpoint_url = Some(format!("https://{}", server.address));
    S3Settings { endpoint_url, ca_bundle, ..settings(server.address, "bucket") }
}

#[tokio::test]
async fn a_failed_handshake_is_named() {
    let plain = Canned::answering("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let kind = probe(https(&plain, None)).await;
    assert!(matches!(&kind, ErrorKind::Tls(said) if said.contains("http://")), "{kind:?}");
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_by_its_bundle() {
    let acceptor = TlsAcceptor::from(tls::server_config().unwrap());
    let server = Canned::serve(Box::new(|_| ok(EMPTY_PAGE).into()), Some(acceptor)).await;
    let kind = probe(https(&server, None)).await;
    assert!(matches!(&kind, ErrorKind::Tls(said) if said.contains("--ca-bundle")), "{kind:?}");
    let trusting = connect(https(&server, Some(tls::authority()))).await;
    trusting.probe("").await.unwrap();
}

#[tokio::test]
async fn a_region_is_named_where_it_is_wrong() {
    let moved = "HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: eu-central-1\r\n\
                 Connection: close\r\nContent-Length: 0\r\n\r\n";
    let server = Canned::answering(moved).await;
    let kind = probe(settings(server.address, "bucket")).await;
    assert_eq!(kind, ErrorKind::WrongRegion(Some("eu-central-1".into())));
}

#[tokio::test]
async fn a_proxy_is_asked_for_what_is_elsewhere() {
    let proxy = Canned::answering(ok(EMPTY_PAGE)).await;
    let elsewhere = S3Settings {
        endpoint_url: Some("http://store.invalid:9000".into()),
        proxy: Some(proxy.address.to_string()),
        no_proxy: Some("other.invalid".into()),
        ..settings(proxy.address, "bucket")
    };
    let listed = connect(elsewhere.clone()).await.list(&ListRequest::default()).await.unwrap();
    assert_eq!(listed.lines, []);
    let directly = S3Settings { no_proxy: Some(".invalid".into()), ..elsewhere };
    let kind = probe(directly).await;
    assert!(matches!(&kind, ErrorKind::Connection(said) if said.contains("host")), "{kind:?}");
    let head = &proxy.heads()[0];
    assert!(head.starts_with("GET http://store.invalid:9000/bucket"), "{head}");
}

#[tokio::test]
async fn a_proxy_is_a_tunnel_for_https() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n";
    let proxy = Canned::answering(refusal).await;
    let elsewhere = S3Settings {
        endpoint_url: Some("https://store.invalid".into()),
        proxy: Some(format!("http://me:secret@{}", proxy.address)),
        ..settings(proxy.address, "bucket")
    };
    let kind = probe(elsewhere).await;
    assert!(matches!(kind, ErrorKind::Connection(_)), "{kind:?}");
    let head = &proxy.heads()[0];
    assert!(head.starts_with("CONNECT store.invalid:443"), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("proxy-authorization: basic bwu6c2vjcmv0"),
        "{head}"
    );
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let read_timeout = std::time::Duration::from_millis(100);
    let store = connect(S3Settings { read_timeout, ..settings(address, "bucket") }).await;
    let error = store.head(&Key::from("f")).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    assert_eq!(*store.probe("").await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn one_unreadable_header_does_not_hide_an_object() {
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"e\"\r\nx-amz-meta-mode: 0100644\r\n\
                 x-amz-meta-name: caf\xE9\r\nConnection: close\r\n\r\n";
    let store = Canned::answering(head).await;
    let head = store.store().await.head(&Key::from("f")).await.unwrap();
    assert_eq!(head.version.size, 5);
    assert_eq!(head.properties.user_metadata["mode"], "0100644");
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_no_success() {
    let torn = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n<?xml";
    let server = Canned::answering(torn).await;
    let upload = Upload { key: Key::from("f"), id: UploadId("id".into()) };
    let parts = [PartTag { number: 1, size: 1, etag: "\"p\"".into(), crc32: None }];
    let store = server.store().await;
    let error = store.complete_upload(&upload, &parts, &Condition::None).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Connection(_)), "{error}");
    assert!(error.is_ambiguous());
    let error = store.list(&ListRequest::default()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Connection(_)), "{error}");
}

#[tokio::test]
async fn a_listed_object_without_a_size_is_no_empty_one() {
    for size in ["", "<Size>-1</Size>"] {
        let line = format!("<Contents><Key>f</Key>{size}</Contents>");
        let page = EMPTY_PAGE.replace("<IsTruncated>", &format!("{line}<IsTruncated>"));
        let server = Canned::answering(ok(&page)).await;
        let listed = server.store().await.list(&ListRequest::default()).await;
        let error = listed.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotS3(said) if said.contains("size")), "{error}");
    }
}

#[tokio::test]
async fn checksums_are_left_out_once_a_store_refuses_them() {
    let refusal = "<Error><Code>InvalidArgument</Code><Message>Unsupported header \
                   'x-amz-checksum-crc32' received for this API call.</Message></Error>";
    let refusal = ok(refusal).replace("200 OK", "400 Bad Request");
    let script = move |head: &str| {
        if head.contains("x-amz-checksum") { refusal.clone() } else { ok("") }.into_bytes()
    };
    let server = Canned::serve(Box::new(script), None).await;
    let store = server.store().await;
    let request = PutRequest {
        key: Key::from("f"),
        properties: Properties::default(),
        condition: Condition::None,
    };
    for _ in 0..2 {
        store.put(&request, &Payload::Bytes("x".into())).await.unwrap();
    }
    let heads = server.heads();
    assert!(heads[0].contains("x-amz-checksum-crc32: jNwWgw=="), "{heads:?}");
    assert_eq!(heads.len(), 3);
    for head in &heads {
        assert!(head.contains("x-amz-content-sha256: UNSIGNED-PAYLOAD"), "{head}");
    }
    assert!(!heads[1..].concat().contains("checksum"), "{heads:?}");
}
