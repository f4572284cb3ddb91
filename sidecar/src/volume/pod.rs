//! The pod that a volume is published to, as kubelet tells it.
//!
//! Owns the names under which kubelet writes pod and tokens into a call. Promises: tokens are
//! shown by nothing. Must not know what a token is exchanged for.

use std::collections::HashMap;

use s3pod::telemetry::Secret;
use serde::Deserialize;

use super::refusal::Refusal;

const NAME: &str = "csi.storage.k8s.io/pod.name";
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The audience of AWS, which needs no choice.
const AWS: &str = "sts.amazonaws.com";

/// Who mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) service_account: String,
}

impl Pod {
    /// The pod of a call; fields are empty where kubelet was not asked for it.
    pub(crate) fn read(context: &HashMap<String, String>) -> Self {
        let text = |name: &str| context.get(name).cloned().unwrap_or_default();
        Self {
            name: text(NAME),
            namespace: text(NAMESPACE),
            uid: text(UID),
            service_account: text(SERVICE_ACCOUNT),
        }
    }

    /// The pod's uid, for what is one pod's alone.
    pub(crate) fn uid(&self) -> Result<&str, Refusal> {
        if self.uid.is_empty() {
            let reason = "kubelet does not say which pod this is; the CSIDriver object needs \
                          podInfoOnMount: true";
            return Err(Refusal::field(format!("volume_context.{UID}"), reason));
        }
        Ok(&self.uid)
    }

    /// What STS writes into its logs: at most 64 of the characters that it takes.
    pub(crate) fn session_name(&self) -> String {
        let whole = format!("{}-{}", self.namespace, self.name);
        let is_taken = |c: char| c.is_ascii_alphanumeric() || "+=,.@-".contains(c);
        let name: String = whole.chars().filter(|c| is_taken(*c)).take(64).collect();
        if name.len() < 2 { "s3pod".to_owned() } else { name }
    }
}

/// True for a volume that stands in the pod's own spec.
pub(crate) fn is_inline(context: &HashMap<String, String>) -> bool {
    context.get(EPHEMERAL).is_some_and(|text| text == "true")
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

/// The pod's token for `audience`: from the Secrets of the call, where clusters of today put it,
/// else from its context.
pub(crate) fn token(
    context: &HashMap<String, String>,
    secrets: &HashMap<String, String>,
    audience: Option<&str>,
) -> Result<Secret, Refusal> {
    let text = secrets.get(TOKENS).or_else(|| context.get(TOKENS));
    let refused = |reason: String| Refusal::nobody(TOKENS, reason);
    let wanted = audience.unwrap_or(AWS);
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Err(refused(format!(
            "kubelet sent no tokens; the CSIDriver object needs tokenRequests with the audience \
             `{wanted}`, and requiresRepublish: true"
        )));
    };
    // The parser's own words could repeat a piece of a token.
    let mut tokens: HashMap<String, Token> =
        serde_json::from_str(text).map_err(|_| refused("these are no tokens".to_owned()))?;
    if let Some(found) = tokens.remove(wanted) {
        return Ok(Secret::new(found.token));
    }
    let mut known: Vec<String> = tokens.keys().map(|name| format!("`{name}`")).collect();
    known.sort();
    if let (None, 1, Some(only)) = (audience, tokens.len(), tokens.into_values().next()) {
        return Ok(Secret::new(only.token));
    }
    Err(refused(format!(
        "no token has the audience `{wanted}`, but {}; name one of them as tokenAudience, or add \
         it to tokenRequests of the CSIDriver object",
        known.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::refusal::Code;

    fn tokens(text: &str) -> HashMap<String, String> {
        HashMap::from([(TOKENS.to_owned(), text.to_owned())])
    }

    fn of(text: &str, audience: Option<&str>) -> Result<String, Refusal> {
        let (context, secrets) = (tokens(text), HashMap::new());
        let token = token(&context, &secrets, audience)?;
        Ok(token.expose().to_owned())
    }

    const TWO: &str = r#"{"sts.amazonaws.com": {"token": "t0k3n", "expirationTimestamp": "x"},
                         "minio": {"token": "m1n10", "expirationTimestamp": "x"}}"#;

    #[test]
    fn a_token_is_found_by_its_audience_and_the_only_one_without() {
        assert_eq!(of(TWO, None).unwrap(), "t0k3n");
        assert_eq!(of(TWO, Some("minio")).unwrap(), "m1n10");
        assert_eq!(of(r#"{"minio": {"token": "m1n10"}}"#, None).unwrap(), "m1n10");
        let both = token(&tokens("{}"), &tokens(TWO), None).unwrap();
        assert_eq!(both.expose(), "t0k3n", "Secrets come first");
    }

    #[test]
    fn a_token_that_is_missing_is_named_by_its_audience_and_never_shown() {
        for (text, audience, words) in [
            ("", None, "tokenRequests"),
            ("t0k3n", None, "no tokens"),
            (r#"{"a": "t0k3n"}"#, None, "no tokens"),
            (TWO, Some("vault"), "`minio`, `sts.amazonaws.com`"),
        ] {
            let refusal = of(text, audience).unwrap_err();
            assert_eq!(refusal.code, Code::Unauthenticated, "{refusal}");
            assert!(refusal.message.contains(words), "{refusal}");
            assert!(!refusal.message.contains("t0k3n"), "{refusal}");
        }
    }

    #[test]
    fn a_sessions_name_is_one_that_sts_takes() {
        let pod = |name: &str| Pod {
            name: name.to_owned(),
            namespace: "team_a".to_owned(),
            ..Pod::default()
        };
        assert_eq!(pod("web-0").session_name(), "teama-web-0");
        assert_eq!(pod(&"x".repeat(200)).session_name().len(), 64);
        assert_eq!(Pod::default().session_name(), "s3pod");
    }
}
