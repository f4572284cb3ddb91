//! As whom a mount asks its store.
//!
//! Owns the choice (a Secret, the pod's own identity, nobody, or whatever the server has by
//! itself) and the files that carry it to the server. Promises: nothing secret in flags or
//! `Debug`; what is rotated changes the files' bytes and nothing else. Must not know who writes
//! the files.

use std::path::Path;

use s3pod::telemetry::Secret;

use super::attributes::{Description, ROLE_ARN, STS_ENDPOINT_URL, TOKEN_AUDIENCE};
use super::refusal::Refusal;
use super::secret::Keys;

/// A file of AWS profiles: `--credentials-file`.
const CREDENTIALS: &str = "credentials";
/// The pod's token, which that file points to.
const TOKEN: &str = "token";

/// As whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// As the server: its environment, its service account, its node.
    Driver,
    /// As nobody, for public buckets.
    Anonymous,
    /// By keys of a Secret.
    Keys(Keys),
    /// As the pod, by a token that STS takes.
    Pod(WebIdentity),
    /// As whoever the pod's own sidecar is.
    Sidecar,
}

/// A token and where it is exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebIdentity {
    pub(crate) role_arn: Option<String>,
    pub(crate) sts_endpoint_url: Option<String>,
    pub(crate) token: Secret,
    pub(crate) session_name: String,
}

/// A file for the server, and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its name in the folder of its volume.
    pub(crate) name: &'static str,
    /// The flag of s3pod that names it, where one does.
    pub(crate) flag: Option<&'static str>,
    /// Its bytes.
    pub(crate) content: Secret,
}

impl Credentials {
    /// The word for the key that mounts are shared under: the kind, and never a value that could
    /// be rotated.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Driver => "driver".to_owned(),
            Self::Anonymous => "anonymous".to_owned(),
            Self::Keys(_) => "secret".to_owned(),
            Self::Pod(_) => "pod".to_owned(),
            Self::Sidecar => "sidecar".to_owned(),
        }
    }

    /// Where it stands, as people write it, and what to do where the store does not know him.
    pub(crate) const fn place_and_fix(&self) -> (&'static str, &'static str) {
        match self {
            Self::Keys(_) => (
                "nodePublishSecretRef",
                "correct accessKeyId and secretAccessKey of that Secret, and its sessionToken \
                 where the keys are for a time",
            ),
            Self::Pod(_) => (
                "volumeAttributes.roleArn",
                "let the role trust the pod's ServiceAccount, or name another role or \
                 stsEndpointUrl",
            ),
            Self::Driver => (
                "nodePublishSecretRef",
                "none is named, and the servers have no identity that the store knows; name a \
                 Secret, or a roleArn, or noSignRequest: \"true\" for a public bucket",
            ),
            Self::Anonymous => (
                "volumeAttributes.noSignRequest",
                "the bucket is not public; leave it out, and name a Secret",
            ),
            Self::Sidecar => ("the pod's sidecar", "correct the credentials of its container"),
        }
    }

    /// The files, for a server that has them in `folder`.
    pub(crate) fn files(&self, folder: &Path) -> Vec<File> {
        match self {
            Self::Driver | Self::Anonymous | Self::Sidecar => Vec::new(),
            Self::Keys(keys) => vec![profile(&of_keys(keys))],
            Self::Pod(identity) => vec![
                File { name: TOKEN, flag: None, content: identity.token.clone() },
                profile(&of_web_identity(identity, &folder.join(TOKEN))),
            ],
        }
    }
}

fn profile(lines: &[(&str, &str)]) -> File {
    let mut text = "[default]\n".to_owned();
    for (name, value) in lines {
        text.push_str(&format!("{name} = {value}\n"));
    }
    File { name: CREDENTIALS, flag: Some("credentials-file"), content: Secret::new(text) }
}

fn of_keys(keys: &Keys) -> Vec<(&'static str, &str)> {
    let mut lines = vec![
        ("aws_access_key_id", keys.access_key_id.expose()),
        ("aws_secret_access_key", keys.secret_access_key.expose()),
    ];
    lines.extend(keys.session_token.as_ref().map(|token| ("aws_session_token", token.expose())));
    lines
}

fn of_web_identity<'i>(identity: &'i WebIdentity, token: &'i Path) -> Vec<(&'static str, &'i str)> {
    let mut lines = vec![
        // MinIO takes a token without a role, and STS an empty one for none.
        ("role_arn", identity.role_arn.as_deref().unwrap_or_default()),
        ("role_session_name", &identity.session_name),
        ("web_identity_token_file", token.to_str().unwrap_or(TOKEN)),
    ];
    lines.extend(identity.sts_endpoint_url.as_deref().map(|url| ("endpoint_url", url)));
    lines
}

/// True where the volume is read as the pod.
pub(crate) fn wants_pod(description: &Description) -> bool {
    description.word(ROLE_ARN).is_some() || description.word(STS_ENDPOINT_URL).is_some()
}

/// Checks role and endpoint.
pub(crate) fn check(field: &str, description: &Description) -> Result<(), Refusal> {
    if let Some(role) = description.word(ROLE_ARN)
        && !is_role(role)
    {
        let reason = format!("`{role}` is no role; write arn:aws:iam::123456789012:role/NAME");
        return Err(Refusal::field(format!("{field}.{ROLE_ARN}"), reason));
    }
    if let Some(url) = description.word(STS_ENDPOINT_URL) {
        let checked = url.parse::<s3pod::config::EndpointUrl>();
        checked.map_err(|why| Refusal::field(format!("{field}.{STS_ENDPOINT_URL}"), why))?;
    }
    if description.word(TOKEN_AUDIENCE).is_some() && !wants_pod(description) {
        let reason = "says which token of the pod, but neither roleArn nor stsEndpointUrl is \
                      there to exchange it; add one";
        return Err(Refusal::field(format!("{field}.{TOKEN_AUDIENCE}"), reason));
    }
    Ok(())
}

fn is_role(text: &str) -> bool {
    text.starts_with("arn:")
        && text.split(':').count() >= 6
        && text.len() <= 2048
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(session_token: Option<&str>) -> Keys {
        let secret = |text: &str| Secret::new(text.to_owned());
        Keys {
            access_key_id: secret("AKIA"),
            secret_access_key: secret("s3cr3t"),
            session_token: session_token.map(secret),
        }
    }

    #[test]
    fn keys_become_a_profile() {
        let files = Credentials::Keys(keys(Some("t0k3n"))).files(Path::new("/v"));
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].flag, Some("credentials-file"));
        assert_eq!(
            files[0].content.expose(),
            "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s3cr3t\n\
             aws_session_token = t0k3n\n"
        );
        assert!(!format!("{files:?}").contains("s3cr3t"));
    }

    #[test]
    fn a_pods_token_becomes_a_file_and_a_profile_that_points_to_it() {
        let identity = WebIdentity {
            role_arn: Some("arn:aws:iam::1:role/r".to_owned()),
            sts_endpoint_url: Some("http://minio:9000".to_owned()),
            token: Secret::new("t0k3n".to_owned()),
            session_name: "ns-pod".to_owned(),
        };
        let files = Credentials::Pod(identity).files(Path::new("/v"));
        assert_eq!((files[0].name, files[0].content.expose()), ("token", "t0k3n"));
        assert_eq!(
            files[1].content.expose(),
            "[default]\nrole_arn = arn:aws:iam::1:role/r\nrole_session_name = ns-pod\n\
             web_identity_token_file = /v/token\nendpoint_url = http://minio:9000\n"
        );
    }
}
