//! A certificate for `localhost` as files, in the forms that the proxies take, and the browser's end of TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;

/// `cert.pem`, `key.pem`, both as `combined.pem`, and the `authority.pem` that issued them, in a folder that lives as
/// long as the certificate is used.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    dir: Arc<TempDir>,
    root: CertificateDer<'static>,
}

impl Certificate {
    pub(super) fn for_localhost() -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an operator's authority");
        let authority = params.self_signed(&authority_key).expect("a certificate");
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        for (name, text) in [
            ("authority.pem", &authority.pem()),
            ("combined.pem", &format!("{certificate}{key}")),
            ("cert.pem", &certificate),
            ("key.pem", &key),
        ] {
            std::fs::write(dir.path().join(name), text).expect("a file");
        }
        Self { dir: Arc::new(dir), root: authority.der().clone() }
    }

    /// The folder; the proxy's other files lie there too.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.dir().join("authority.pem")
    }

    fn connector(&self, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// Takes what a client says without TLS to a server with TLS, by one protocol, from an address of its own: so every
/// client of this harness can speak to a proxy.
#[derive(Debug)]
pub(super) struct Line {
    /// Where it listens.
    pub(super) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    pub(super) async fn start(
        certificate: &Certificate,
        to: SocketAddr,
        from: Ipv4Addr,
        protocol: &'static [u8],
    ) -> Self {
        let connector = certificate.connector(protocol);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, connector.clone(), to, from, protocol));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, task }
    }
}

async fn pass(
    mut client: TcpStream,
    connector: TlsConnector,
    to: SocketAddr,
    from: Ipv4Addr,
    protocol: &'static [u8],
) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("all of 127.0.0.0/8 is this machine");
    let Ok(server) = socket.connect(to).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let name = ServerName::try_from("localhost").expect("a name");
    let Ok(mut server) = connector.connect(name, server).await else { return };
    assert_eq!(server.get_ref().1.alpn_protocol(), Some(protocol), "the proxy speaks it");
    copy_bidirectional(&mut client, &mut server).await.ok();
}
