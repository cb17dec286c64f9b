//! Connections to other relays, kept warm, by address.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::ServiceExt;
use url::Url;

use crate::config::frames::Platform;
use crate::outbound::{self, TlsError};
use crate::pool::{Connection, MaxHead, Warm};
use crate::tunnel::pool;

/// Addresses whose connections are kept. A relay that is the sixty-fifth is served without.
const MAX_RELAYS: usize = 64;
/// Longer than what a local server may send: the other relay maps addresses and adds headers of its own.
const MAX_HEAD: MaxHead = MaxHead { bytes: 2 * pool::MAX_HEAD.bytes, headers: pool::MAX_HEAD.headers + 32 };

/// One relay's address with its connections.
pub struct Relay {
    uri: Uri,
    authority: String,
    warm: Warm,
    connector: HttpsConnector<HttpConnector>,
}

impl Relay {
    /// A warm connection, if there is one.
    pub fn reuse(&self) -> Option<Connection> {
        self.warm.reuse()
    }

    /// A fresh connection.
    ///
    /// # Errors
    /// Why it could not be made, for the log.
    pub async fn open(&self) -> Result<Connection, String> {
        let io = self.connector.clone().oneshot(self.uri.clone()).await.map_err(|error| told(&*error))?;
        self.warm.begin(io, None, MAX_HEAD).await.map_err(|error| told(&error))
    }

    /// For `Host`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// All of them.
pub struct Relays {
    connector: HttpsConnector<HttpConnector>,
    idle: Duration,
    known: Mutex<HashMap<String, Arc<Relay>>>,
}

impl Relays {
    /// None yet.
    ///
    /// # Errors
    /// [`TlsError`] when TLS cannot be set up as configured.
    pub fn new(platform: &Platform, idle: Duration) -> Result<Self, TlsError> {
        Ok(Self { connector: outbound::connector(platform)?, idle, known: Mutex::default() })
    }

    /// The relay at this internal address. `None` when the address is none.
    pub fn at(&self, internal: &Url) -> Option<Arc<Relay>> {
        let mut known = self.known.lock();
        if let Some(relay) = known.get(internal.as_str()) {
            return Some(relay.clone());
        }
        let host = internal.host_str()?;
        let authority = match internal.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        // Only the origin counts: paths are the same on all relays.
        let uri = format!("{}://{authority}/", internal.scheme()).parse().ok()?;
        let warm = Warm::new(self.idle);
        let relay = Arc::new(Relay { uri, authority, warm, connector: self.connector.clone() });
        if known.len() < MAX_RELAYS {
            known.insert(internal.as_str().to_owned(), relay.clone());
        }
        Some(relay)
    }

    /// Closes what nobody has used for a while, and forgets relays to which nothing is open.
    pub fn sweep(&self, now: Instant) {
        self.known.lock().retain(|_, relay| {
            relay.warm.sweep(now);
            !relay.warm.is_empty() || Arc::strong_count(relay) > 1
        });
    }
}
