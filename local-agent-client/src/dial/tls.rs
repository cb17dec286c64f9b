//! Whom the agent trusts. There is no way to accept an invalid certificate of a relay.

use super::RelayUrl;
use rustls::{
    ClientConfig,
    client::danger::ServerCertVerifier,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with extra roots cannot be read or holds none.
    #[error("no certificate can be read from {path}: {reason}")]
    Ca {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The roots or the provider are not usable.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Makes aws-lc-rs the provider of this process, for libraries that ask for the default one. A
/// program that has chosen before keeps its choice.
pub fn install_provider() {
    // Fails only when there is one already, which is what we want.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The provider of this process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Trust in the operating system's roots and those in the file `ca` (PEM).
///
/// # Errors
/// When the file holds no certificate, or there are no roots at all.
pub fn verified(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let mut extra = Vec::new();
    if let Some(path) = ca {
        let unreadable = |reason: String| TlsError::Ca { path: path.to_owned(), reason };
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?
        {
            extra.push(certificate.map_err(|error| unreadable(error.to_string()))?);
        }
        if extra.is_empty() {
            return Err(unreadable("it holds none".to_owned()));
        }
    }
    let provider = provider();
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone())?;
    config(provider, Arc::new(verifier))
}

/// Trust for the way to `relay`: that of [`verified`]. A machine without roots may still speak plain HTTP to a relay
/// beside it.
///
/// # Errors
/// See [`verified`].
pub fn for_relay(relay: &RelayUrl, ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    match verified(ca) {
        Err(TlsError::Setup(error)) if !relay.is_secure() => {
            tracing::debug!(%error, "there are no roots, and none are needed");
            nobody()
        }
        config => config,
    }
}

/// Trust in nobody: every certificate is refused. For a machine without roots that needs none.
///
/// # Errors
/// When the provider is not usable.
pub(crate) fn nobody() -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

/// A client's configuration with this verifier.
pub(crate) fn config(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}
