//! The HTTP layer around the backend: where latency, bandwidth, faults and the log live.
//!
//! Owns the life of one request on the wire. Promises that a request is logged before anything
//! else happens to it, that at most one fault applies to it, and that the backend never hears
//! of faults. Must not know what a verb does.

mod body;
mod classify;
mod connection;
mod xml;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use s3s::StdError;
use s3s::service::S3Service;

use crate::faults::{Fault, Faults};
use crate::log::{Flight, RequestLog};

pub use classify::Op;

pub(crate) use body::ResponseBody;
use body::{RequestBody, Shape};
pub(crate) use classify::Call;
pub(crate) use connection::{Connection, PacedIo};

/// Everything between a connection and the backend.
pub(crate) struct Wire {
    pub(crate) service: S3Service,
    pub(crate) log: RequestLog,
    pub(crate) faults: Faults,
    pub(crate) latency: Duration,
    /// Requests signed for another region are refused, as S3 does, where this is set.
    pub(crate) only_region: Option<String>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("latency", &self.latency).finish_non_exhaustive()
    }
}

/// Why a connection ends without, or in the middle of, an answer.
#[derive(Debug)]
pub(crate) struct Broken(StdError);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Broken {}

type Answer = Result<Response<ResponseBody>, StdError>;

impl Wire {
    /// Answers one request, or fails: then hyper closes the connection without an answer.
    pub(crate) async fn answer(
        &self,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Broken> {
        self.try_answer(connection, request).await.map_err(Broken)
    }

    async fn try_answer(&self, connection: Arc<Connection>, request: Request<Incoming>) -> Answer {
        let call = Call::of(request.method(), request.uri(), request.headers());
        let flight = self.log.start(&call, &request, connection.id());
        let fault = self.faults.take(&call);
        if let Some(fault) = &fault {
            flight.note_fault(fault);
        }
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        match fault {
            None => self.work(&connection, request, flight, None, Shape::Plain).await,
            Some(fault) => self.faulty(&connection, request, flight, fault).await,
        }
    }

    async fn faulty(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
        flight: Flight,
        fault: Fault,
    ) -> Answer {
        let mut reset_after = None;
        let mut shape = Shape::Plain;
        match &fault {
            Fault::SlowDown => return refuse(request, flight, 503, "SlowDown").await,
            Fault::InternalError => return refuse(request, flight, 500, "InternalError").await,
            Fault::Status { status, code } => return refuse(request, flight, *status, code).await,
            Fault::ErrorIn200 => return refuse(request, flight, 200, "InternalError").await,
            Fault::ResetRequest { after } => reset_after = Some(*after),
            Fault::ResetResponse { after } => shape = Shape::Reset { after: *after },
            Fault::Truncate { after } => shape = Shape::Close { after: *after },
            Fault::Stall { after } => shape = Shape::Stall { after: *after },
            Fault::FlipByte { at } => shape = Shape::Flip { at: *at },
            Fault::Drip { bytes_per_second } => {
                shape = Shape::Drip { bytes_per_second: *bytes_per_second };
            }
            Fault::Delay(time) => tokio::time::sleep(*time).await,
            Fault::Hold(gate) => gate.pass().await,
            Fault::HoldAnswer(_) | Fault::LoseResponse => {}
        }
        let answer = self.work(connection, request, flight, reset_after, shape).await;
        match fault {
            Fault::LoseResponse => Err("the response is lost after the work was done".into()),
            Fault::HoldAnswer(gate) => {
                gate.pass().await;
                answer
            }
            _ => answer,
        }
    }

    /// Hands the request to the backend and dresses its answer.
    async fn work(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
        flight: Flight,
        reset_after: Option<u64>,
        shape: Shape,
    ) -> Answer {
        if let Some(region) = self.wrong_region(&request) {
            return wrong_region(request, flight, region).await;
        }
        let live = flight.live();
        let guard = Arc::clone(connection);
        let request =
            request.map(|body| RequestBody::new(body, live, guard, reset_after).into_s3s());
        let answer = self.service.call(request).await.map_err(StdError::from)?;
        if connection.is_reset() {
            return Err("the connection is reset while its request arrives".into());
        }
        let (mut parts, body) = answer.into_parts();
        // A 304 has no body; s3s writes its error document.
        let body = if parts.status == StatusCode::NOT_MODIFIED { s3s::Body::empty() } else { body };
        if parts.status == StatusCode::NOT_MODIFIED {
            parts.headers.remove(http::header::CONTENT_TYPE);
        }
        flight.answered(parts.status);
        parts.headers.insert("x-amz-request-id", flight.request_id());
        parts.headers.insert("server", HeaderValue::from_static("s3pod-testserver"));
        let body = ResponseBody::new(body, flight, Arc::clone(connection), shape);
        Ok(Response::from_parts(parts, body))
    }

    /// The right region, if the request was signed for another one.
    fn wrong_region(&self, request: &Request<Incoming>) -> Option<&str> {
        let right = self.only_region.as_deref()?;
        let header = request.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?;
        // Credential=AKID/20260101/us-east-1/s3/aws4_request
        let scope = header.split("Credential=").nth(1)?.split(',').next()?;
        let named = scope.split('/').nth_back(2)?;
        (named != right).then_some(right)
    }
}

async fn refuse(request: Request<Incoming>, flight: Flight, status: u16, code: &str) -> Answer {
    let document = xml::error(code, "injected by a fault rule", &flight.request_id(), None);
    refusal(request, flight, status, document).await
}

async fn wrong_region(request: Request<Incoming>, flight: Flight, region: &str) -> Answer {
    let message =
        format!("The authorization header is malformed; the region is wrong; expecting '{region}'");
    let id = flight.request_id();
    let document = xml::error("AuthorizationHeaderMalformed", &message, &id, Some(region));
    let mut answer = refusal(request, flight, 400, document).await?;
    answer.headers_mut().insert("x-amz-bucket-region", HeaderValue::from_str(region)?);
    Ok(answer)
}

/// Takes the request's body in, so that a client in mid-send reads the answer, then refuses.
async fn refusal(
    request: Request<Incoming>,
    flight: Flight,
    status: u16,
    document: String,
) -> Answer {
    let live = flight.live();
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(bytes) = frame?.data_ref() {
            live.received(bytes.len());
        }
    }
    let status = StatusCode::from_u16(status)?;
    flight.answered(status);
    let response = Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, "application/xml")
        .header("x-amz-request-id", flight.request_id());
    let body = ResponseBody::new(document.into(), flight, Connection::detached(), Shape::Plain);
    Ok(response.body(body)?)
}
