//! S3's error document, for the answers this layer makes itself.

use http::HeaderValue;

/// An `<Error>` document. `region` is told where the caller used the wrong one.
pub(super) fn error(code: &str, message: &str, id: &HeaderValue, region: Option<&str>) -> String {
    let region = region.map_or(String::new(), |region| format!("<Region>{region}</Region>"));
    let id = id.to_str().unwrap_or("");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message>{region}<RequestId>{id}</RequestId></Error>"
    )
}
