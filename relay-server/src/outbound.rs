//! What the relay calls over HTTP: the platform, key sets, identity providers.
//!
//! Whoever answers may be slow, broken, or somebody else. So every call has a deadline for the whole of it, an
//! answer is read no further than its bound, redirects are not followed (they would carry the internal key
//! elsewhere), and nothing but a complete answer is an answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::config::frames::Platform;

/// How long an idle connection is kept; shorter than servers keep theirs, as a rule.
const IDLE: Duration = Duration::from_secs(20);

/// Why there is no answer. The texts name no secret and quote nothing of the answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No complete answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// It could not be reached, or broke off.
    #[error("{0}")]
    Failed(String),
    /// The answer is longer than it may be.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// It answered that it did not.
    #[error("the answer was {0}")]
    Status(StatusCode),
    /// The answer is not what was asked for.
    #[error("the answer is not the JSON that was expected: {0}")]
    Malformed(String),
}

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file with certificates or a key is of no use.
    #[error("{} holds no {what}: {reason}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why it does not.
        reason: String,
    },
    /// The library refuses them.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// How long a call may take and how much it may bring.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Deadline of the whole call.
    pub within: Duration,
    /// The answer's body at most.
    pub max_bytes: usize,
}

/// A silent peer is noticed after 15 + 3 × 5 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Opens connections for HTTP/1.1, with TLS where the address says so: with the system's roots and those that the
/// configuration names.
///
/// # Errors
/// [`TlsError`] for files that are of no use.
pub fn connector(platform: &Platform) -> Result<HttpsConnector<HttpConnector>, TlsError> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.enforce_http(false);
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls(platform)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector))
}

/// A pool of connections. Clones share it.
#[derive(Clone)]
pub struct Client {
    http: Legacy<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// With the system's roots and those that the configuration names.
    ///
    /// # Errors
    /// [`TlsError`] for files that are of no use.
    pub fn new(platform: &Platform) -> Result<Self, TlsError> {
        let https = connector(platform)?;
        let http = Legacy::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(https);
        Ok(Self { http })
    }

    /// One call. Any status is an answer.
    ///
    /// # Errors
    /// [`CallError`], but never its [`CallError::Status`] or [`CallError::Malformed`].
    pub async fn call(
        &self,
        request: Request<Full<Bytes>>,
        bounds: Bounds,
    ) -> Result<Response<Bytes>, CallError> {
        let whole = async {
            let response = self.http.request(request).await.map_err(|error| failed(&error))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, bounds.max_bytes).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    CallError::TooLarge(bounds.max_bytes)
                } else {
                    CallError::Failed(error.to_string())
                }
            })?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(bounds.within, whole).await.unwrap_or(Err(CallError::TimedOut(bounds.within)))
    }

    /// The JSON at this address.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_json<T: DeserializeOwned>(&self, url: &Url, bounds: Bounds) -> Result<T, CallError> {
        let request = Request::get(url.as_str()).header(http::header::ACCEPT, "application/json");
        self.json(request.body(Full::default()), bounds).await
    }

    /// What the platform says to this, with the internal key.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        url: &Url,
        internal_key: &str,
        body: &impl Serialize,
        bounds: Bounds,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::Malformed(error.to_string()))?;
        let request = Request::post(url.as_str())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .header("x-relay-internal-key", internal_key);
        self.json(request.body(Full::from(body)), bounds).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: http::Result<Request<Full<Bytes>>>,
        bounds: Bounds,
    ) -> Result<T, CallError> {
        let request = request.map_err(|error| CallError::Failed(error.to_string()))?;
        let response = self.call(request, bounds).await?;
        if !response.status().is_success() {
            return Err(CallError::Status(response.status()));
        }
        serde_json::from_slice(response.body()).map_err(|error| CallError::Malformed(shape(&error)))
    }
}

/// What is wrong with a text, without a word of it: it may hold claims and keys.
fn shape(error: &serde_json::Error) -> String {
    format!("{:?} at line {} column {}", error.classify(), error.line(), error.column())
}

fn failed(error: &hyper_util::client::legacy::Error) -> CallError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    CallError::Failed(text)
}

fn tls(platform: &Platform) -> Result<ClientConfig, TlsError> {
    let provider =
        CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
    let extra = platform.ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
        // A container without roots calls without TLS, or not at all.
        Err(error) => {
            tracing::debug!(%error, "there are no roots to trust");
            builder.with_root_certificates(rustls::RootCertStore::empty())
        }
    };
    Ok(match &platform.client_cert {
        Some((cert, key)) => {
            let key_text = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
                path: key.clone(),
                what: "private key",
                reason: error.to_string(),
            })?;
            builder.with_client_auth_cert(certificates(cert)?, key_text)?
        }
        None => builder.with_no_client_auth(),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |reason: String| TlsError::File { path: path.to_owned(), what: "certificate", reason };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?.collect();
    let found = found.map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() { Err(unusable("it is empty".to_owned())) } else { Ok(found) }
}
