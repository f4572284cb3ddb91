//! Stores that are not reached as Amazon's are: by other authorities, by a proxy, in a region that
//! must be known.

use s3pod::config::{Host, Way};
use s3pod_testkit::tls;

use super::*;

impl Lab {
    /// One whose process has these variables.
    async fn in_environment(variables: &[(&str, &str)]) -> Self {
        let way = Way::of(&Host::with_environment(variables.iter().copied())).unwrap();
        let lab = Self::new().await;
        Self { provisioner: Provisioner::new(Stores::default().by(way)), ..lab }
    }

    fn says(&mut self, name: &str, value: &str) {
        self.secrets.insert(name.to_owned(), value.to_owned());
    }
}

#[test]
fn who_mounts_nothing_goes_the_same_way() {
    let bundle = tempfile::NamedTempFile::new().unwrap();
    let path = bundle.path().to_str().unwrap();
    let host = Host::with_environment([
        ("AWS_CA_BUNDLE", path),
        ("https_proxy", "http://two:2"),
        ("S3POD_NO_PROXY", "a,b"),
    ]);
    let way = Way::of(&host).unwrap();
    assert_eq!(way.ca_bundle.as_deref(), Some(bundle.path()));
    let towards = |url| way.proxies.towards(url).map(|proxy| proxy.expose().to_owned());
    assert_eq!(towards(None).as_deref(), Some("http://two:2"));
    assert_eq!(towards(Some("https://store")).as_deref(), Some("http://two:2"));
    assert_eq!(towards(Some("http://store")), None);
    assert!(way.proxies.bypass.starts_with("a,b,"), "{}", way.proxies.bypass);
    let host = Host::with_environment([("AWS_CA_BUNDLE", "/no/such.pem")]);
    assert!(Way::of(&host).unwrap_err().to_string().contains("AWS_CA_BUNDLE"));
}

#[tokio::test]
async fn a_named_stores_authorities_reach_whoever_mounts() {
    let mut lab = Lab::new().await;
    let pem = std::fs::read_to_string(s3pod_testkit::tls::authority()).unwrap();
    let store = serde_json::json!({ "endpointUrl": lab.server.endpoint(), "caBundle": pem });
    let table = serde_json::json!({ "home": store }).to_string();
    lab.provisioner = Provisioner::new(Stores::parse(&table).unwrap());
    lab.secrets.remove("endpointUrl");
    let volume = lab.create(&claim("web", "pvc-1").with("store", "home")).await.unwrap();
    assert_eq!(volume.context["caCertificates"], pem);
    assert_eq!(volume.context["endpointUrl"], lab.server.endpoint());
    let told = claim("web", "pvc-2").with("store", "home").with("caCertificates", &pem);
    refused(lab.create(&told).await, Code::InvalidArgument, &["caCertificates", "caBundle"]);
}

#[tokio::test]
async fn authorities_of_the_process_are_trusted_beside_those_of_a_secret() {
    let bundle = tls::authority();
    let mut lab = Lab::in_environment(&[("AWS_CA_BUNDLE", bundle.to_str().unwrap())]).await;
    let port = tls::encrypted(lab.server.address()).unwrap();
    lab.says("endpointUrl", &format!("https://localhost:{port}"));
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    // Somebody else's authority, which would not do alone.
    lab.says("ca.crt", &std::fs::read_to_string(tls::certificate()).unwrap());
    lab.delete_to_the_end(&volume.id).await;
    assert_eq!(lab.markers(), 0);
    lab.restart();
    refused(lab.create(&claim("web", "pvc-2")).await, Code::FailedPrecondition, &["certificate"]);
}

#[tokio::test]
async fn a_proxy_of_the_process_leads_to_the_store_but_not_to_whom_it_excepts() {
    let server = TestServer::start(ServerOptions::with_bucket(BUCKET)).await.unwrap();
    let proxy = server.endpoint();
    let mut lab = Lab { server, ..Lab::in_environment(&[("HTTP_PROXY", &proxy)]).await };
    lab.says("endpointUrl", "http://store.invalid:9000");
    lab.create(&claim("web", "pvc-1")).await.unwrap();
    assert_eq!(lab.markers(), 1);
    let nobody = [("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1")];
    let lab = Lab::in_environment(&nobody).await;
    lab.create(&claim("web", "pvc-1")).await.unwrap();
    assert_eq!(lab.markers(), 1);
}

#[tokio::test]
async fn a_volume_whose_region_nobody_says_any_more_is_removed_where_its_store_says_it() {
    let mut lab = Lab::new().await;
    let options = ServerOptions {
        region: "eu-test-1".to_owned(),
        enforce_region: true,
        ..ServerOptions::with_bucket(BUCKET)
    };
    lab.server = TestServer::start(options).await.unwrap();
    lab.says("endpointUrl", &lab.server.endpoint());
    lab.says("region", "eu-test-1");
    let volume = lab.create(&claim("web", "pvc-1")).await.unwrap();
    lab.put(&["team-a/web/a"]);
    lab.secrets.remove("region");
    let range = Some(Range { required: 2 << 30, limit: 0 });
    assert_eq!(lab.provisioner.expand(&volume.id, range, &lab.secrets).await, Ok(2 << 30));
    lab.delete_to_the_end(&volume.id).await;
    assert_eq!((lab.keys(), lab.markers()), (Vec::new(), 0));

    // A class alone would have said it, and not every store does.
    let call = claim("web", "pvc-2").with("region", "eu-test-1");
    refused(lab.create(&call).await, Code::InvalidArgument, &["parameters.region", "Secret"]);
    lab.says("region", "eu-test-1");
    lab.create(&call).await.unwrap();
}
