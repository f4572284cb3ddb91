//! A token service: AssumeRoleWithWebIdentity and nothing else.
//!
//! Owns which tokens it takes and what it was asked. Promises: a token that is not expected gets
//! InvalidIdentityToken, as from AWS; it ends with its owner. Must not know what the keys open.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::dto::{Timestamp, TimestampFormat};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// One question to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// `RoleArn`; empty where none was named.
    pub role: String,
    /// `RoleSessionName`.
    pub session: String,
    /// `WebIdentityToken`.
    pub token: String,
}

#[derive(Debug)]
struct State {
    keys: (String, String),
    lifetime: Duration,
    expected: Mutex<String>,
    asked: Mutex<Vec<Assumed>>,
}

/// A running token service.
#[derive(Debug)]
pub struct TokenService {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl TokenService {
    /// Gives the key pair for `lifetime` to whoever brings `token`.
    ///
    /// # Errors
    /// Where no thread or port can be had.
    pub fn spawn(keys: (&str, &str), token: &str, lifetime: Duration) -> anyhow::Result<Self> {
        let state = Arc::new(State {
            keys: (keys.0.to_owned(), keys.1.to_owned()),
            lifetime,
            expected: Mutex::new(token.to_owned()),
            asked: Mutex::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = (Arc::clone(&state), stop.clone());
        let thread =
            std::thread::Builder::new().name("token-service".to_owned()).spawn(move || {
                let (state, stop) = serving;
                runtime.block_on(stop.run_until_cancelled_owned(accept(listener, state)));
            })?;
        Ok(Self { address, state, stop, thread: Some(thread) })
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes this token from now on, and no other.
    pub fn expect(&self, token: &str) {
        token.clone_into(&mut self.state.expected.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Every question so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Assumed> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A test that panicked has said why already.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, state: Arc<State>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let answer = service_fn(move |request| answer(request, Arc::clone(&state)));
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that hangs up is no failure.
            let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let fields = form(&body);
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let asked = Assumed {
        role: field("RoleArn"),
        session: field("RoleSessionName"),
        token: field("WebIdentityToken"),
    };
    let is_taken = *state.expected.lock().unwrap_or_else(PoisonError::into_inner) == asked.token
        && field("Action") == "AssumeRoleWithWebIdentity";
    state.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let (status, text) = if is_taken { (200, assumed(&state)) } else { (400, refused()) };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}

/// `application/x-www-form-urlencoded`
fn form(body: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(body).replace('+', " ");
    let decoded =
        |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

#[expect(clippy::disallowed_methods, reason = "a client believes the real time")]
fn assumed(state: &State) -> String {
    let (id, secret) = &state.keys;
    let mut end = Vec::new();
    let moment = Timestamp::from(SystemTime::now() + state.lifetime);
    // A vector takes whatever is written.
    let _ = moment.format(TimestampFormat::DateTime, &mut end);
    let end = String::from_utf8_lossy(&end);
    format!(
        "<AssumeRoleWithWebIdentityResponse \
         xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
         <SessionToken>session</SessionToken><Expiration>{end}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
}

fn refused() -> String {
    "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
     <Code>InvalidIdentityToken</Code><Message>the token is not taken</Message></Error>\
     </ErrorResponse>"
        .to_owned()
}
