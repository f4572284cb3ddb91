//! Lists of objects from the cluster's API.
//!
//! Owns the way there: TLS by the cluster's own authority, the token, pages. Promises: reads only;
//! the token goes nowhere but into a request's header; no answer is held that is larger than a
//! page may be. Must not know what the objects mean.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use s3pod::mount::Failure;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Objects in a page. A pod has some 10 KiB, so a page is far below [`PAGE_BYTES_MAX`].
const PAGE: usize = 200;

/// The largest object of a cluster has 1.5 MiB (etcd's limit); a page of those is no page.
const PAGE_BYTES_MAX: usize = 64 << 20;

/// The API, and who asks.
pub(super) struct Api {
    host: String,
    port: u16,
    /// TLS and the token; none for an API on this machine, behind a proxy that has both.
    secured: Option<(TlsConnector, HeaderValue)>,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(default)]
    metadata: PageMetadata,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    rest: String,
}

impl Api {
    /// The API at `url`; the files are read for https alone.
    pub(super) fn new(url: &str, token: &Path, ca: &Path) -> Result<Self, Failure> {
        let wrong = || {
            Failure::configuration(format!(
                "--api: `{url}` is no address of an API, like https://kubernetes.default.svc"
            ))
        };
        let parsed: Uri = url.parse().map_err(|_| wrong())?;
        let host = parsed.host().ok_or_else(wrong)?.to_owned();
        let (port, secured) = match parsed.scheme_str() {
            Some("http") => (80, None),
            Some("https") => (443, Some((connector(ca)?, bearer(token)?))),
            _ => return Err(wrong()),
        };
        Ok(Self { host, port: parsed.port_u16().unwrap_or(port), secured })
    }

    /// Every object at `path`, page by page.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut rest = String::new();
        loop {
            // The word is base64, of the alphabet that a query may have as it is.
            let query = format!("{path}?limit={PAGE}&continue={rest}");
            let body = self.get(&query).await?;
            let page: Page<T> = serde_json::from_slice(&body).map_err(|error| {
                Failure::passing(format!("{path}: the API's answer cannot be read: {error}"))
            })?;
            all.extend(page.items);
            rest = page.metadata.rest;
            if rest.is_empty() {
                return Ok(all);
            }
        }
    }

    async fn get(&self, path: &str) -> Result<Bytes, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::passing(format!("the API at {}:{}: {error}", self.host, self.port))
        };
        let connection = TcpStream::connect((self.host.as_str(), self.port)).await;
        let connection = connection.map_err(|error| failed(&error))?;
        let Some((tls, _)) = &self.secured else { return self.exchange(connection, path).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(&error))?;
        let connection = tls.connect(name, connection).await.map_err(|error| failed(&error))?;
        self.exchange(connection, path).await
    }

    async fn exchange(
        &self,
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
    ) -> Result<Bytes, Failure> {
        let failed = |error: hyper::Error| Failure::passing(format!("{path}: {error}"));
        let (mut sender, driven) =
            http1::handshake(TokioIo::new(connection)).await.map_err(failed)?;
        let driven = tokio::spawn(driven);
        let mut request =
            Request::get(path).header(HOST, &self.host).header(ACCEPT, "application/json");
        if let Some((_, token)) = &self.secured {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::passing(format!("{path}: {error}")))?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let body = answered(path, answer).await;
        driven.abort();
        body
    }
}

async fn answered(path: &str, answer: Response<hyper::body::Incoming>) -> Result<Bytes, Failure> {
    let path = path.split('?').next().unwrap_or(path);
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(Failure::configuration(format!(
                "{path}: the API answers {}; the ServiceAccount needs the verb list on pods and \
                 persistentvolumes of the whole cluster",
                answer.status()
            )));
        }
        status => return Err(Failure::passing(format!("{path}: the API answers {status}"))),
    }
    let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Failure::passing(format!("{path}: {error}")))?;
    Ok(body.to_bytes())
}

fn connector(ca: &Path) -> Result<TlsConnector, Failure> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::configuration(format!("--ca-file: {}: {error}", ca.display()))
    };
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        trusted.add(certificate).map_err(|error| unreadable(&error))?;
    }
    let config = ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn bearer(token: &Path) -> Result<HeaderValue, Failure> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Failure::configuration(format!("--token-file: {}: {why}", token.display()))
    };
    let text = fs::read_to_string(token).map_err(|error| unreadable(&error))?;
    let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| unreadable(&"is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}
