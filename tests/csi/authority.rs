//! A store whose certificate nobody knows but the volume's Secret.
//!
//! The keys are those of `tests/store/tls`, valid to 2126; they guard nothing but tests.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3pod_testkit::csi::Code;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::kubelet::{Kubelet, refusal};

fn tls(file: &str) -> PathBuf {
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

async fn forward(listener: TcpListener, plain: SocketAddr) {
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
}

/// TLS in front of a plain server, for as long as the test lives; its URL.
fn encrypted(plain: SocketAddr) -> String {
    let (sender, port) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            sender.send(listener.local_addr().unwrap().port()).unwrap();
            forward(listener, plain).await;
        });
    });
    format!("https://localhost:{}", port.recv().unwrap())
}

#[test]
fn an_authority_of_the_secret_is_trusted_and_one_that_is_missing_is_named() {
    let kubelet = Kubelet::new();
    kubelet.stand.bucket().put("a", "hello");
    let mut call = kubelet.call("v", "pod-1");
    let endpoint = encrypted(kubelet.stand.store.address());
    call.volume_context.insert("endpointUrl".into(), endpoint);
    let (code, said) = refusal(kubelet.publish(&call));
    assert_eq!(code, Code::InvalidArgument, "{said}");
    assert!(said.contains("caCertificates") || said.contains("ca.crt"), "{said}");
    kubelet.assert_gone();

    let authority = fs::read_to_string(tls("ca.pem")).unwrap();
    call.secrets.insert("ca.crt".into(), authority.clone());
    kubelet.publish(&call).unwrap();
    let target = kubelet.target("pod-1");
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
    kubelet.unpublish("v", &target).unwrap();

    // One volume's authority is not another's, and an attribute is as good as a Secret.
    call.secrets.remove("ca.crt");
    assert_eq!(refusal(kubelet.publish(&call)).0, Code::InvalidArgument);
    call.volume_context.insert("caCertificates".into(), authority);
    kubelet.publish(&call).unwrap();
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "hello");
}
