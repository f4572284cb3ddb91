//! Which way a request takes: directly, or through a proxy; plain, or over TLS.
//!
//! Owns [`Routes`], the HTTP client of the SDK and of its credential providers. Promises: the
//! metadata services of instances and pods, which hand out credentials, are never asked through a
//! proxy; certificates are loaded only when something is asked over TLS. Must not know S3.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use aws_smithy_http_client::{Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::ConnectError;

/// Idle connections are closed before S3 does it (after about 20 s): a request on a connection
/// that is being closed is lost.
const IDLE: Duration = Duration::from_secs(15);
/// Idle connections kept per host. Each costs up to 400 KiB of buffers.
const IDLE_PER_HOST: usize = 64;
/// At most so many sets of timeouts have connections of their own. The SDK uses one for S3 and one
/// for each kind of credential provider.
const MAX_SETS: usize = 16;

/// The instance's, the task's and the pod's metadata service.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023)),
];

/// True for the host of a URL that is a metadata service.
fn is_metadata(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok_and(|address| METADATA.contains(&address))
}

/// The proxy of the settings.
pub(super) fn proxy(
    url: Option<&str>,
    no_proxy: Option<&str>,
) -> Result<Option<ProxyConfig>, ConnectError> {
    let Some(url) = url.map(str::trim).filter(|url| !url.is_empty()) else { return Ok(None) };
    // As curl does: a bare host and port is an HTTP proxy.
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let mut proxy = ProxyConfig::all(url).map_err(|error| ConnectError {
        setting: "proxy",
        reason: without_password(&error.to_string()),
    })?;
    if let Some(rules) = no_proxy {
        proxy = proxy.no_proxy(rules);
    }
    Ok(Some(proxy))
}

/// An error may quote the URL, and the URL may hold a password.
fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(at)) if start + 3 < at => {
            format!("{}***{}", &text[..start + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

/// To connect, and to the head of an answer.
type Timeouts = (Option<Duration>, Option<Duration>);

/// The ways out, one set of connections per set of timeouts.
#[derive(Debug)]
pub(super) struct Routes {
    trust: TlsContext,
    proxy: Option<ProxyConfig>,
    sets: Mutex<HashMap<Timeouts, SharedHttpConnector>>,
}

impl Routes {
    pub(super) fn new(trust: TlsContext, proxy: Option<ProxyConfig>) -> Self {
        Self { trust, proxy, sets: Mutex::default() }
    }

    fn build(&self, settings: &HttpConnectorSettings) -> SharedHttpConnector {
        let direct = builder(settings, None);
        let plain = builder(settings, self.proxy.clone());
        let (tls, trust) = (plain.clone(), self.trust.clone());
        SharedHttpConnector::new(Ways {
            direct: Arc::new(direct.build_http()),
            plain: Arc::new(plain.build_http()),
            tls: LazyLock::new(Box::new(move || secure(tls, trust))),
        })
    }
}

fn builder(settings: &HttpConnectorSettings, proxy: Option<ProxyConfig>) -> ConnectorBuilder {
    let mut builder = Connector::builder()
        .connector_settings(settings.clone())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST);
    builder.set_proxy_config(proxy);
    builder
}

fn secure(builder: ConnectorBuilder, trust: TlsContext) -> Connector {
    builder.tls_provider(Provider::rustls(CryptoMode::AwsLc)).tls_context(trust).build()
}

impl HttpClient for Routes {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = sets.get(&timeouts) {
            return connector.clone();
        }
        let connector = self.build(settings);
        if sets.len() < MAX_SETS {
            sets.insert(timeouts, connector.clone());
        }
        connector
    }
}

/// A way for each kind of address.
struct Ways {
    direct: Arc<Connector>,
    plain: Arc<Connector>,
    tls: LazyLock<Connector, Box<dyn FnOnce() -> Connector + Send + Sync>>,
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ways").finish_non_exhaustive()
    }
}

impl HttpConnector for Ways {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match way(request.uri()) {
            Way::Direct => self.direct.call(request),
            Way::Plain => self.plain.call(request),
            Way::Tls => self.tls.call(request),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Plain,
    Tls,
}

fn way(uri: &str) -> Way {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("https", uri));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    };
    match (is_metadata(host), scheme.eq_ignore_ascii_case("http")) {
        (true, true) => Way::Direct,
        (_, true) => Way::Plain,
        (_, false) => Way::Tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_asked_directly() {
        for uri in [
            "http://169.254.169.254/latest/meta-data/",
            "http://169.254.170.2/creds",
            "http://169.254.170.23:80/v1/credentials",
            "http://[fd00:ec2::254]/latest",
            "http://[fd00:ec2:0:0::23]:80/v1",
        ] {
            assert_eq!(way(uri), Way::Direct, "{uri}");
        }
        assert_eq!(way("http://169.254.169.253/"), Way::Plain);
        assert_eq!(way("http://minio:9000/bucket"), Way::Plain);
        assert_eq!(way("https://s3.amazonaws.com/bucket"), Way::Tls);
    }

    #[test]
    fn a_proxy_may_be_written_without_a_scheme() {
        assert!(proxy(Some("proxy:3128"), None).unwrap().is_some());
        assert!(proxy(Some(" "), None).unwrap().is_none());
        assert!(proxy(None, Some("*")).unwrap().is_none());
        assert!(proxy(Some("socks5://proxy:1080"), None).is_err());
    }

    #[test]
    fn a_password_is_not_repeated() {
        assert_eq!(without_password("bad: http://me:secret@host"), "bad: http://***@host");
        assert_eq!(without_password("bad: http://host"), "bad: http://host");
    }
}
