//! A certificate that only an authority of its own vouches for.
//!
//! Owns the files in `tests/testkit/tls`, for `localhost` and 127.0.0.1 and valid to 2126, whose
//! keys guard nothing but tests; and TLS in front of a plain server. Must not know what is served.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tls").join(name)
}

/// The bundle of the authority.
#[must_use]
pub fn authority() -> PathBuf {
    file("ca.pem")
}

/// The certificate itself.
#[must_use]
pub fn certificate() -> PathBuf {
    file("server.pem")
}

/// How a server shows the certificate.
pub fn server_config() -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::from_pem_file(certificate())?;
    let key = PrivateKeyDer::from_pem_file(file("server.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)?;
    Ok(Arc::new(config))
}

/// Encrypts in front of a plain server, as long as the process lives; the port.
pub fn encrypted(plain: SocketAddr) -> anyhow::Result<u16> {
    let acceptor = TlsAcceptor::from(server_config()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, port) = mpsc::channel();
    std::thread::spawn(move || runtime.block_on(serve(acceptor, plain, &sender)));
    port.recv()?
}

async fn serve(
    acceptor: TlsAcceptor,
    plain: SocketAddr,
    sender: &mpsc::Sender<anyhow::Result<u16>>,
) {
    let bound = TcpListener::bind(("127.0.0.1", 0)).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
    let listener = match bound {
        Ok((port, listener)) => {
            // Whoever asked waits for it.
            let _ = sender.send(Ok(port));
            listener
        }
        Err(error) => {
            let _ = sender.send(Err(error.into()));
            return;
        }
    };
    while let Ok((connection, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Somebody who does not trust us hangs up, and so may the server.
            let Ok(mut outer) = acceptor.accept(connection).await else { return };
            let Ok(mut inner) = TcpStream::connect(plain).await else { return };
            // Ends with either side.
            let _ = copy_bidirectional(&mut outer, &mut inner).await;
        });
    }
}
