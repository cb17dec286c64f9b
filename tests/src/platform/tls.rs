//! The platform behind TLS with client certificates: an authority of its own, a server's and a client's
//! certificate.

use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The authority and the client's side as files, the server's in memory.
pub(super) struct Files {
    dir: TempDir,
    authority: CertificateDer<'static>,
    server: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

impl Files {
    pub(super) fn new() -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "stand-in platform");
        let authority = params.self_signed(&authority_key).expect("a certificate");
        let issuer = Issuer::new(params, authority_key);
        let issue = |name: &str, usage| {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
            params.extended_key_usages = vec![usage];
            (params.signed_by(&key, &issuer).expect("a certificate"), key)
        };
        let (server, server_key) = issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = issue("relay.test", ExtendedKeyUsagePurpose::ClientAuth);
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in [
            ("authority.pem", authority.pem()),
            ("client.pem", client.pem()),
            ("client.key", client_key.serialize_pem()),
        ] {
            std::fs::write(dir.path().join(name), text).expect("a file");
        }
        let key = PrivatePkcs8KeyDer::from(server_key.serialize_der()).into();
        Self { dir, authority: authority.der().clone(), server: (server.der().clone(), key) }
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    pub(super) fn client_cert(&self) -> PathBuf {
        self.dir.path().join("client.pem")
    }

    pub(super) fn client_key(&self) -> PathBuf {
        self.dir.path().join("client.key")
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .expect("a verifier");
        let (certificate, key) = (self.server.0.clone(), self.server.1.clone_key());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .expect("a certificate");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Serves until the task is aborted.
pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, app: axum::Router) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { return };
        let (acceptor, app) = (acceptor.clone(), app.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = TowerToHyperService::new(app);
            hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), service)
                .await
                .ok();
        });
        while connections.try_join_next().is_some() {}
    }
}
