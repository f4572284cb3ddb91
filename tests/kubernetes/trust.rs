//! A store of one's own: its name from the pod's `/etc/hosts`, its certificate from an authority
//! that nobody else knows.
//!
//! The containers' root file system has the public authorities and knows no name, as the image.
//! The keys are those of `tests/store/tls`, valid to 2126; they guard nothing but tests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::bench::{Bench, wait_until};

/// The only name in the certificate.
const NAME: &str = "localhost";

fn tls(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/tls").join(file)
}

fn acceptor() -> TlsAcceptor {
    let chain = CertificateDer::from_pem_file(tls("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(tls("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    Arc::new(config).into()
}

/// TLS in front of a plain server, for as long as the test lives; its port.
fn encrypted(plain: SocketAddr) -> u16 {
    let (sender, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            sender.send(listener.local_addr().unwrap().port()).unwrap();
            let acceptor = acceptor();
            while let Ok((connection, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Somebody who does not trust us hangs up.
                    let Ok(mut outer) = acceptor.accept(connection).await else { return };
                    let mut inner = TcpStream::connect(plain).await.unwrap();
                    // Ends with either side.
                    let _ = copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
    });
    port.recv().unwrap()
}

/// A pod whose server reaches the store by its name, encrypted.
fn manifest(bench: &Bench, line: &str) -> Value {
    let port = encrypted(bench.server().address());
    let mut manifest = bench.manifest(line);
    let spec = &mut manifest["spec"];
    spec["hostAliases"] = json!([{"ip": "127.0.0.1", "hostnames": [NAME, "store.example"]}]);
    let authority = std::fs::read_to_string(tls("ca.pem")).unwrap();
    let volume = json!({"name": "config", "configMap": {"data": {"ca.pem": authority}}});
    spec["volumes"].as_array_mut().unwrap().push(volume);
    let server = &mut spec["initContainers"][1];
    let endpoint = json!({"name": "S3POD_ENDPOINT_URL", "value": format!("https://{NAME}:{port}")});
    let env = server["env"].as_array_mut().unwrap();
    env.retain(|one| one["name"] != "S3POD_ENDPOINT_URL");
    env.push(endpoint);
    let mount = json!({"name": "config", "mountPath": "/config"});
    server["volumeMounts"].as_array_mut().unwrap().push(mount);
    manifest
}

#[test]
fn an_authority_from_a_config_map_is_trusted_and_a_host_alias_is_found() {
    let bench = Bench::new();
    bench.bucket().put("a", "hello");
    let mut manifest = manifest(&bench, "cat /s3/data/a; echo x > /s3/data/b");
    let env = manifest["spec"]["initContainers"][1]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "S3POD_CA_BUNDLE", "value": "/config/ca.pem"}));
    let pod = bench.start(&manifest);
    assert_eq!(pod.complete(), [0], "{}\n{}", pod.log("app"), pod.log("s3"));
    assert_eq!(pod.log("app"), "hello");
    bench.assert_gone();
    assert_eq!(bench.bucket().get("b").unwrap(), "x\n");
}

#[test]
fn without_it_the_log_names_the_option() {
    let bench = Bench::new();
    let mut manifest = manifest(&bench, "true");
    // Not awaited: it never starts.
    let server = manifest["spec"]["initContainers"].as_array_mut().unwrap().remove(1);
    manifest["spec"]["containers"].as_array_mut().unwrap().push(server);
    let pod = bench.start(&manifest);
    wait_until("it says why", || pod.log("s3").contains("--ca-bundle"));
    pod.delete(Some(0));
    bench.assert_gone();
}
