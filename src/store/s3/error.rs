//! What S3, the SDK and the network say, as one kind of error.
//!
//! Owns the only mapping to [`ErrorKind`]: by S3's code where there is one, else by the status,
//! else by what lies beneath. Must not know which errno follows.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;

use super::payload::LocalRead;
use crate::store::{Error, ErrorKind, Operation};

/// Longest piece of a foreign answer that is quoted, in characters.
const QUOTED: usize = 160;

/// What the SDK returned for `operation`, whose request was signed for `region`.
pub(super) fn from_sdk<E>(
    operation: Operation,
    region: &str,
    error: SdkError<E, HttpResponse>,
) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let kind = match (&error, error.raw_response()) {
        (SdkError::TimeoutError(_), _) => ErrorKind::Timeout,
        (SdkError::ServiceError(service), Some(raw)) => {
            let said = (service.err().code(), service.err().message());
            Answer::new(operation, region, raw, said).kind()
        }
        // The body of an answer that broke off was never read whole.
        (_, Some(raw)) if raw.body().bytes().is_some() => {
            Answer::new(operation, region, raw, (None, None)).kind()
        }
        _ => beneath(&error),
    };
    let request_id = error.request_id().map(str::to_owned);
    let wait = error.raw_response().and_then(retry_after);
    Error::new(operation, kind)
        .with_request_id(request_id.as_deref())
        .with_retry_after(wait)
        .with_source(chain_text(&error))
}

/// What went wrong while the body of a GET was read.
pub(super) fn from_body(error: impl StdError + Send + Sync + 'static) -> Error {
    let text = chain_text(&error);
    // The SDK's checksum error is no type of a crate it exports.
    let kind = if text.contains("checksum mismatch") {
        ErrorKind::Damaged(text)
    } else {
        match beneath(&error) {
            ErrorKind::Other(said) => ErrorKind::Connection(said),
            kind => kind,
        }
    };
    Error::new(Operation::Get, kind).with_source(chain_text(&error))
}

/// One entry of DeleteObjects' list of errors.
pub(super) fn from_code(operation: Operation, code: Option<&str>, message: Option<&str>) -> Error {
    let answer = Answer { operation, region: "", status: 0, code, message, body: b"", home: None };
    Error::new(operation, answer.kind())
}

/// True where a store may have meant our checksum headers: it names them, or says only that it
/// does not know something.
pub(super) fn may_refuse_checksums(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unsupported => true,
        ErrorKind::Other(said) => said.to_ascii_lowercase().contains("checksum"),
        _ => false,
    }
}

fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An answer that is not the one wanted.
struct Answer<'a> {
    operation: Operation,
    /// The region the request was signed for.
    region: &'a str,
    status: u16,
    code: Option<&'a str>,
    message: Option<&'a str>,
    body: &'a [u8],
    /// Where the bucket is, by the answer's header.
    home: Option<&'a str>,
}

impl<'a> Answer<'a> {
    fn new(
        operation: Operation,
        region: &'a str,
        raw: &'a HttpResponse,
        (code, message): (Option<&'a str>, Option<&'a str>),
    ) -> Self {
        Self {
            operation,
            region,
            status: raw.status().as_u16(),
            code,
            message,
            body: raw.body().bytes().unwrap_or_default(),
            home: raw.headers().get("x-amz-bucket-region"),
        }
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            Some(code) => self.by_code(code),
            None => self.by_status(),
        }
    }

    fn by_code(&self, code: &str) -> ErrorKind {
        match code {
            "NoSuchBucket" | "InvalidBucketName" => ErrorKind::NoSuchBucket,
            // To a Complete with If-Match: the object is missing, not the upload.
            "NoSuchKey" if self.operation == Operation::CompleteUpload => ErrorKind::NotFound,
            "NoSuchKey" | "NotFound" => self.missing(),
            "NoSuchVersion" => ErrorKind::Changed,
            "NoSuchUpload" => ErrorKind::NoSuchUpload,
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => ErrorKind::Denied,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "RequestTimeTooSkewed"
            | "RequestExpired"
            | "InvalidSecurity"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "CredentialsNotSupported"
            | "UnauthorizedAccess"
            | "NotSignedUp" => ErrorKind::Unauthenticated(self.words(code)),
            "AuthorizationHeaderMalformed" => match self.other_region() {
                Some(region) => ErrorKind::WrongRegion(Some(region)),
                None => ErrorKind::Unauthenticated(self.words(code)),
            },
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "IllegalLocationConstraintException" => ErrorKind::WrongRegion(self.other_region()),
            "PreconditionFailed" => ErrorKind::Changed,
            "NotModified" => ErrorKind::NotModified,
            "ConditionalRequestConflict" | "OperationAborted" => ErrorKind::Conflict,
            "InvalidRange" => ErrorKind::InvalidRange,
            "EntityTooLarge" => ErrorKind::TooLarge,
            "InvalidRequest" if self.words(code).contains("copy source is larger") => {
                ErrorKind::TooLarge
            }
            "InvalidObjectState" => ErrorKind::Archived,
            "NotImplemented" | "XNotImplemented" | "MethodNotAllowed" => ErrorKind::Unsupported,
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded" => ErrorKind::Throttled,
            "InternalError" | "ServiceUnavailable" | "Busy" => ErrorKind::Unavailable,
            "RequestTimeout" => ErrorKind::Timeout,
            "BadDigest"
            | "IncompleteBody"
            | "InvalidDigest"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch" => ErrorKind::Damaged(self.words(code)),
            _ if matches!(self.status, 408 | 409 | 412 | 413 | 416 | 429 | 500..) => {
                self.by_status()
            }
            _ if self.status == 403 => ErrorKind::Denied,
            _ => ErrorKind::Other(self.words(code)),
        }
    }

    fn by_status(&self) -> ErrorKind {
        if self.is_foreign() {
            return ErrorKind::NotS3(self.summary());
        }
        match self.status {
            200..=299 => ErrorKind::Damaged(format!("unreadable answer: {}", self.summary())),
            304 => ErrorKind::NotModified,
            301 | 302 | 307 | 308 => ErrorKind::WrongRegion(self.other_region()),
            400 if self.other_region().is_some() => ErrorKind::WrongRegion(self.other_region()),
            // A HEAD's error has no body. Of a bucket only a token that has expired can be meant.
            400 if self.operation == Operation::Probe => {
                ErrorKind::Unauthenticated("the request was refused without a reason".into())
            }
            400 => ErrorKind::Other(
                "refused without a reason: the token may have expired, or the object have an \
                 encryption key of its own (SSE-C)"
                    .into(),
            ),
            401 => ErrorKind::Unauthenticated(self.words("401")),
            403 => ErrorKind::Denied,
            404 => self.missing(),
            405 | 501 => ErrorKind::Unsupported,
            408 => ErrorKind::Timeout,
            409 => ErrorKind::Conflict,
            412 => ErrorKind::Changed,
            413 => ErrorKind::TooLarge,
            416 => ErrorKind::InvalidRange,
            429 => ErrorKind::Throttled,
            // SlowDown to a HEAD. Of a write nobody knows whether it was done.
            503 if self.operation.is_read() => ErrorKind::Throttled,
            500.. => ErrorKind::Unavailable,
            other => ErrorKind::Other(format!("status {other}")),
        }
    }

    /// Where only a bucket was asked for, it is the bucket that is missing.
    fn missing(&self) -> ErrorKind {
        match self.operation {
            Operation::Probe | Operation::List => ErrorKind::NoSuchBucket,
            Operation::CompleteUpload | Operation::AbortUpload => ErrorKind::NoSuchUpload,
            _ => ErrorKind::NotFound,
        }
    }

    /// True for an answer that no S3 gives. A gateway's error page in front of a store that is
    /// down is no sign of a wrong endpoint; nor is the lack of a body.
    fn is_foreign(&self) -> bool {
        let text = String::from_utf8_lossy(self.body);
        let text = text.trim_start().to_ascii_lowercase();
        let is_page = !text.starts_with('<')
            || text.starts_with("<!doctype html")
            || text.starts_with("<html");
        match self.status {
            200..=299 => is_page && (self.operation == Operation::List || !text.is_empty()),
            500.. => false,
            _ => is_page && !text.is_empty(),
        }
    }

    fn other_region(&self) -> Option<String> {
        let named = self.home.map(str::to_owned).or_else(|| element(self.body, "Region"));
        named.filter(|region| region != self.region && !region.is_empty())
    }

    fn words(&self, code: &str) -> String {
        match self.message {
            Some(message) if !message.is_empty() => format!("{code}: {message}"),
            _ => code.to_owned(),
        }
    }

    fn summary(&self) -> String {
        let text = String::from_utf8_lossy(self.body);
        let quoted: String =
            text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED).collect();
        if quoted.is_empty() {
            format!("status {} without a body", self.status)
        } else {
            format!("status {}, {quoted:?}", self.status)
        }
    }
}

/// The text of `<name>` in an error's XML, which the SDK does not keep.
fn element(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    Some(value.to_owned())
}

/// The errors of a chain, outermost first. An `io::Error` hides its payload from `source`.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref::<E>())
}

/// What the chain says, without what a later line repeats. Kept instead of the SDK's error, which
/// holds the whole answer.
fn chain_text(error: &(dyn StdError + 'static)) -> String {
    let mut lines: Vec<String> = Vec::new();
    for error in chain(error) {
        let line = error.to_string();
        if lines.last().is_none_or(|last| !last.contains(&line)) {
            lines.push(line);
        }
    }
    lines.join(": ")
}

/// The kind of an error without an answer.
fn beneath(error: &(dyn StdError + 'static)) -> ErrorKind {
    let text = chain_text(error);
    if let Some(local) = find::<LocalRead>(error) {
        return ErrorKind::Local(local.to_string());
    }
    if let Some(credentials) = find::<CredentialsError>(error) {
        return ErrorKind::Unauthenticated(no_credentials(credentials));
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        return ErrorKind::Tls(tls_words(tls));
    }
    if let Some(connector) = find::<ConnectorError>(error)
        && connector.is_timeout()
    {
        return ErrorKind::Timeout;
    }
    // hyper's errors are not exported by the SDK, so they are known by their words.
    if ["invalid HTTP", "invalid URI", "message head"].iter().any(|words| text.contains(words)) {
        // The last of the chain says what was wrong; those before it, where in the SDK.
        return ErrorKind::NotS3(chain(error).last().map_or(text, ToString::to_string));
    }
    if text.contains("dns error") || text.contains("failed to lookup address") {
        return ErrorKind::Connection("the endpoint's host name cannot be resolved".to_owned());
    }
    match find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => {
            ErrorKind::Connection("the endpoint refused the connection".to_owned())
        }
        Some(io::ErrorKind::TimedOut) => ErrorKind::Timeout,
        Some(_) => ErrorKind::Connection(text),
        None if find::<ConnectorError>(error).is_some_and(|error| error.is_io()) => {
            ErrorKind::Connection(text)
        }
        None if text.contains("connection") => ErrorKind::Connection(text),
        None => ErrorKind::Other(text),
    }
}

fn no_credentials(error: &CredentialsError) -> String {
    let nowhere =
        "none found in the environment, the profile, the pod's identity or the instance's";
    match (error, error.source().map(chain_text)) {
        // What each provider of the chain lacks, one per line: the remedy is the same.
        (CredentialsError::CredentialsNotLoaded(_), Some(why)) if why.contains('\n') => {
            nowhere.to_owned()
        }
        (CredentialsError::CredentialsNotLoaded(_), Some(why)) => format!("none found: {why}"),
        (CredentialsError::CredentialsNotLoaded(_), None) => nowhere.to_owned(),
        (other, _) => chain_text(other),
    }
}

fn tls_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(_) => {
            format!("{error} (does the endpoint speak plain http://?)")
        }
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            "the certificate is signed by an unknown authority; name it with --ca-bundle".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(operation: Operation, status: u16, code: Option<&str>, body: &str) -> ErrorKind {
        let body = body.as_bytes();
        let home = None;
        Answer { operation, region: "us-east-1", status, code, message: None, body, home }.kind()
    }

    #[test]
    fn codes_decide_before_the_status() {
        let cases = [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::NoSuchBucket),
            (404, "NoSuchUpload", ErrorKind::NoSuchUpload),
            (404, "NoSuchVersion", ErrorKind::Changed),
            (403, "AccessDenied", ErrorKind::Denied),
            (403, "SomethingNew", ErrorKind::Denied),
            (403, "InvalidObjectState", ErrorKind::Archived),
            (403, "ExpiredToken", ErrorKind::Unauthenticated("ExpiredToken".into())),
            (400, "ExpiredToken", ErrorKind::Unauthenticated("ExpiredToken".into())),
            (412, "PreconditionFailed", ErrorKind::Changed),
            (409, "ConditionalRequestConflict", ErrorKind::Conflict),
            (409, "SomethingNew", ErrorKind::Conflict),
            (400, "EntityTooLarge", ErrorKind::TooLarge),
            (400, "RequestTimeout", ErrorKind::Timeout),
            (400, "BadDigest", ErrorKind::Damaged("BadDigest".into())),
            (200, "InternalError", ErrorKind::Unavailable),
            (200, "SlowDown", ErrorKind::Throttled),
            (500, "SomethingNew", ErrorKind::Unavailable),
            (501, "NotImplemented", ErrorKind::Unsupported),
            (400, "KeyTooLongError", ErrorKind::Other("KeyTooLongError".into())),
        ];
        for (status, code, expected) in cases {
            assert_eq!(kind(Operation::Get, status, Some(code), ""), expected, "{status} {code}");
        }
    }

    #[test]
    fn a_status_alone_decides_where_there_is_no_code() {
        let cases = [
            (304, ErrorKind::NotModified),
            (403, ErrorKind::Denied),
            (404, ErrorKind::NotFound),
            (412, ErrorKind::Changed),
            (416, ErrorKind::InvalidRange),
            (429, ErrorKind::Throttled),
            (500, ErrorKind::Unavailable),
            (503, ErrorKind::Throttled),
        ];
        for (status, expected) in cases {
            assert_eq!(kind(Operation::Head, status, None, ""), expected, "{status}");
        }
        assert_eq!(kind(Operation::Put, 503, None, ""), ErrorKind::Unavailable);
        assert_eq!(kind(Operation::Probe, 404, Some("NotFound"), ""), ErrorKind::NoSuchBucket);
        assert_eq!(kind(Operation::Head, 404, Some("NotFound"), ""), ErrorKind::NotFound);
    }

    #[test]
    fn a_source_above_5_gib_is_too_large_to_copy() {
        let message = "The specified copy source is larger than the maximum allowable size for a \
                       copy source: 5368709120";
        let error = from_code(Operation::Copy, Some("InvalidRequest"), Some(message));
        assert_eq!(*error.kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn a_web_page_is_not_s3_unless_a_gateway_is_in_trouble() {
        let page = "<!DOCTYPE html><html>hello</html>";
        for (status, body) in [(200, page), (404, page), (404, "404 page not found"), (200, "")] {
            let kind = kind(Operation::List, status, None, body);
            assert!(matches!(kind, ErrorKind::NotS3(_)), "{status} {body}: {kind:?}");
        }
        assert_eq!(kind(Operation::List, 502, None, page), ErrorKind::Unavailable);
        let torn = kind(Operation::CompleteUpload, 200, None, "");
        assert!(matches!(torn, ErrorKind::Damaged(_)), "{torn:?}");
    }

    #[test]
    fn the_right_region_is_named() {
        let malformed = "<Error><Code>AuthorizationHeaderMalformed</Code>\
                         <Region>eu-central-1</Region></Error>";
        let code = Some("AuthorizationHeaderMalformed");
        let expected = ErrorKind::WrongRegion(Some("eu-central-1".into()));
        assert_eq!(kind(Operation::List, 400, code, malformed), expected);
        let answer = |home| Answer {
            operation: Operation::Probe,
            region: "us-east-1",
            status: 301,
            code: None,
            message: None,
            body: b"",
            home,
        };
        assert_eq!(answer(Some("eu-central-1")).kind(), expected);
        assert_eq!(answer(None).kind(), ErrorKind::WrongRegion(None));
    }

    #[test]
    fn what_lies_beneath_is_found_through_the_chain() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(matches!(beneath(&refused), ErrorKind::Connection(_)));
        let local = io::Error::other(LocalRead::from(io::Error::other("the disk is gone")));
        assert!(matches!(beneath(&local), ErrorKind::Local(_)));
        let tls = io::Error::other(rustls::Error::HandshakeNotComplete);
        assert!(matches!(beneath(&tls), ErrorKind::Tls(_)));
        let none = io::Error::other(CredentialsError::not_loaded_no_source());
        assert!(matches!(beneath(&none), ErrorKind::Unauthenticated(_)));
    }
}
