//! What a Kubernetes Secret says about a store: keys, and where it is.
//!
//! Owns the names of a Secret's entries, those of the Mountpoint driver among them. Promises: no
//! message and no `Debug` shows a value. Must not know which call brought the Secret.

use std::collections::HashMap;

use s3pod::config::EndpointUrl;
use s3pod::telemetry::Secret;

use super::refusal::Refusal;

/// Each entry under its own name and those that other drivers use.
const ACCESS_KEY_ID: [&str; 2] = ["accessKeyId", "key_id"];
const SECRET_ACCESS_KEY: [&str; 2] = ["secretAccessKey", "access_key"];
const SESSION_TOKEN: [&str; 2] = ["sessionToken", "session_token"];
const CA: &str = "ca.crt";
const ENDPOINT_URL: &str = "endpointUrl";
const REGION: &str = "region";

/// The longest value that a line of a credentials file is made of: session tokens have 1 or 2 KiB.
const VALUE_MAX: usize = 16 << 10;

/// A key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) access_key_id: Secret,
    pub(crate) secret_access_key: Secret,
    pub(crate) session_token: Option<Secret>,
}

/// A Secret, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreSecret {
    /// The key pair, where there is one.
    pub(crate) keys: Option<Keys>,
    /// Certificate authorities to trust besides the system's, as PEM.
    pub(crate) ca: Option<String>,
    /// Where the store is.
    pub(crate) endpoint_url: Option<String>,
    /// The region of its buckets.
    pub(crate) region: Option<String>,
}

impl StoreSecret {
    /// Reads a Secret; an empty map is none at all. `field` is what the call names it.
    pub(crate) fn read(field: &str, map: &HashMap<String, String>) -> Result<Self, Refusal> {
        let ca = map.get(CA).map(|pem| check_pem(&format!("{field}.{CA}"), pem)).transpose()?;
        Ok(Self {
            keys: keys(field, map, ca.is_some())?,
            ca,
            endpoint_url: endpoint_url(field, map)?,
            region: entry(field, map, &[REGION])?.map(plain),
        })
    }
}

fn endpoint_url(field: &str, map: &HashMap<String, String>) -> Result<Option<String>, Refusal> {
    let Some(url) = entry(field, map, &[ENDPOINT_URL])? else { return Ok(None) };
    let url = url.expose().parse::<EndpointUrl>();
    let url = url.map_err(|why| Refusal::field(format!("{field}.{ENDPOINT_URL}"), why))?;
    Ok(Some(url.as_str().to_owned()))
}

fn plain(secret: Secret) -> String {
    secret.expose().to_owned()
}

fn keys(field: &str, map: &HashMap<String, String>, has_ca: bool) -> Result<Option<Keys>, Refusal> {
    let id = entry(field, map, &ACCESS_KEY_ID)?;
    let secret = entry(field, map, &SECRET_ACCESS_KEY)?;
    let session_token = entry(field, map, &SESSION_TOKEN)?;
    let missing = |names: [&str; 2]| {
        let reason = format!(
            "the Secret has no {}; it needs accessKeyId and secretAccessKey (or key_id and \
             access_key), and may have sessionToken and ca.crt",
            names[0]
        );
        Refusal::nobody(field, reason)
    };
    match (id, secret) {
        (Some(access_key_id), Some(secret_access_key)) => {
            Ok(Some(Keys { access_key_id, secret_access_key, session_token }))
        }
        (Some(_), None) => Err(missing(SECRET_ACCESS_KEY)),
        (None, Some(_)) => Err(missing(ACCESS_KEY_ID)),
        (None, None) if session_token.is_some() => Err(missing(ACCESS_KEY_ID)),
        // A Secret may bring the authority alone, or tokens alone.
        (None, None) if has_ca || map.keys().all(|name| name.contains('/')) => Ok(None),
        (None, None) => Err(missing(ACCESS_KEY_ID)),
    }
}

/// The value under the first of `names` that is there, without the line's end that `echo` adds.
fn entry(
    field: &str,
    map: &HashMap<String, String>,
    names: &[&str],
) -> Result<Option<Secret>, Refusal> {
    let Some((name, value)) = names.iter().find_map(|name| Some((name, map.get(*name)?))) else {
        return Ok(None);
    };
    let value = value.trim();
    let is_broken = value.chars().any(|c| c.is_whitespace() || c.is_control());
    if value.is_empty() || is_broken || value.len() > VALUE_MAX {
        let reason = "is empty, longer than 16KiB, or has a space or a line's end within";
        return Err(Refusal::nobody(format!("{field}.{name}"), reason));
    }
    Ok(Some(Secret::new(value.to_owned())))
}

/// Certificates in `field`, as PEM.
pub(crate) fn check_pem(field: &str, pem: &str) -> Result<String, Refusal> {
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(pem.to_owned());
    }
    let reason = "is no PEM; it begins with -----BEGIN CERTIFICATE-----";
    Err(Refusal::field(field, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::refusal::Code;

    fn read(pairs: &[(&str, &str)]) -> Result<StoreSecret, Refusal> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        StoreSecret::read("secrets", &pairs.iter().map(owned).collect())
    }

    #[test]
    fn a_pair_of_keys_is_read_under_the_names_of_either_driver() {
        let ours = [("accessKeyId", "AKIA"), ("secretAccessKey", "s3cr3t\n")];
        let theirs = [("key_id", "AKIA"), ("access_key", "s3cr3t")];
        assert_eq!(read(&ours), read(&theirs));
        let keys = read(&ours).unwrap().keys.unwrap();
        assert_eq!(keys.secret_access_key.expose(), "s3cr3t");
        assert!(!format!("{keys:?}").contains("s3cr3t"));
    }

    #[test]
    fn a_secret_without_keys_is_nobody() {
        for pairs in [
            &[("accessKeyId", "AKIA")][..],
            &[("secretAccessKey", "s3cr3t")],
            &[("sessionToken", "s3cr3t")],
            &[("username", "me"), ("password", "s3cr3t")],
            &[("accessKeyId", ""), ("secretAccessKey", "s3cr3t")],
            &[("accessKeyId", "A\nB"), ("secretAccessKey", "s3cr3t")],
        ] {
            let refusal = read(pairs).unwrap_err();
            assert_eq!(refusal.code, Code::Unauthenticated, "{refusal}");
            assert!(refusal.message.starts_with("secrets"), "{refusal}");
            assert!(!refusal.message.contains("s3cr3t"), "{refusal}");
        }
    }

    #[test]
    fn no_secret_and_one_with_an_authority_alone_name_nobody_and_are_fine() {
        assert_eq!(read(&[]), Ok(StoreSecret::default()));
        let pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";
        let secret = read(&[("ca.crt", pem)]).unwrap();
        assert_eq!((secret.keys, secret.ca.as_deref()), (None, Some(pem)));
        assert_eq!(read(&[("ca.crt", "DER")]).unwrap_err().code, Code::InvalidArgument);
        let tokens = [("csi.storage.k8s.io/serviceAccount.tokens", "{}")];
        assert_eq!(read(&tokens), Ok(StoreSecret::default()));
    }
}
