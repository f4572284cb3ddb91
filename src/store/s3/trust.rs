//! Whom to trust: the system's certificate authorities and a PEM file of one's own.
//!
//! Owns the reading of the bundle. The HTTP client panics on a certificate it cannot read, so each
//! is tried here first. Must not know connections.

use std::path::Path;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::ConnectError;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Trust in the system's authorities and in those of `bundle`.
pub(super) fn context(bundle: Option<&Path>) -> Result<TlsContext, ConnectError> {
    let mut store = TrustStore::default();
    if let Some(path) = bundle {
        let bundle = read(path).map_err(|reason| ConnectError {
            setting: "CA bundle",
            reason: format!("{}: {reason}", path.display()),
        })?;
        store.add_pem_certificate(bundle);
    }
    TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|error| ConnectError { setting: "CA bundle", reason: error.to_string() })
}

fn read(path: &Path) -> Result<String, String> {
    // Bundles carry comments in any encoding; the certificates themselves are ASCII.
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let usable: String = certificates(&String::from_utf8_lossy(&bytes))
        .filter(|pem| is_usable(pem))
        .flat_map(|pem| [pem, "\n"].map(str::to_owned))
        .collect();
    if usable.is_empty() {
        Err("holds no certificate that can be read".to_owned())
    } else {
        Ok(usable)
    }
}

fn certificates(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices(BEGIN).map(|(start, _)| start);
    starts.filter_map(|start| {
        let end = start + text[start..].find(END)? + END.len();
        Some(&text[start..end])
    })
}

fn is_usable(pem: &str) -> bool {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .is_ok_and(|certificate| RootCertStore::empty().add(certificate).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificates_is_refused_by_name() {
        let missing = context(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/ca.pem"), "{missing}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{BEGIN}\nbm8=\n{END}\n")).unwrap();
        let bad = context(Some(file.path())).unwrap_err();
        assert!(bad.to_string().contains("no certificate"), "{bad}");
    }

    #[test]
    fn each_certificate_of_a_bundle_is_found() {
        let text = format!("# one\n{BEGIN}\na\n{END}\n# two\n{BEGIN}\nb\n{END}\n{BEGIN}\ntorn");
        let found: Vec<_> = certificates(&text).collect();
        assert_eq!(found, [format!("{BEGIN}\na\n{END}"), format!("{BEGIN}\nb\n{END}")]);
    }
}
