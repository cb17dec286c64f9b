//! Connections to Redis: one for commands, made when it is needed and given up at the first sign that it is of no
//! use; and, made anew each time, those that listen.
//!
//! The library's connection manager stays with one address and keeps a connection whose answers do not come. Here
//! the Sentinels are asked anew for each connection, and an answer that is late, or that says that the server is a
//! replica now, ends the connection: so a server that froze and one that was replaced are the same case.

use std::path::PathBuf;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind,
    TlsCertificates, TlsMode,
};
use tokio::sync::Mutex;

use super::url::{Place, Sentinels};
use crate::backplane::health::Failure;

/// Connecting, login included; less than a question's deadline.
const CONNECT: Duration = Duration::from_millis(1500);
/// An answer; less than a question's deadline, so that a connection without answers is given up here.
const ANSWER: Duration = Duration::from_millis(1500);

/// Why there can be no connection, whatever the other side does.
#[derive(Debug, thiserror::Error)]
pub(in crate::backplane) enum SetupError {
    #[error("{0}")]
    Url(&'static str),
    #[error("{} holds no certificates for Redis: {reason}", .path.display())]
    Ca { path: PathBuf, reason: String },
}

enum Source {
    One(Box<Client>),
    Sentinels(Box<Mutex<SentinelClient>>),
}

/// How to reach the server, and the connection for commands.
pub(in crate::backplane) struct Connections {
    source: Source,
    commands: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that the end of one does not end its successor.
    number: u64,
}

/// A connection for commands.
pub(in crate::backplane) struct Lease {
    pub(in crate::backplane) connection: MultiplexedConnection,
    number: u64,
}

impl Connections {
    pub(in crate::backplane) fn new(place: Place, ca: Option<PathBuf>) -> Result<Self, SetupError> {
        let certificates = match ca.filter(|_| place.tls()) {
            Some(path) => Some(certificates(path)?),
            None => None,
        };
        let source = match place {
            Place::One(info) => one(info, certificates).map(|client| Source::One(Box::new(client))),
            Place::Sentinels(place) => {
                sentinels(place, certificates).map(|client| Source::Sentinels(Box::new(Mutex::new(client))))
            }
        };
        let source = source.map_err(|_| SetupError::Url("it is no URL of a Redis server"))?;
        Ok(Self { source, commands: Mutex::default() })
    }

    /// The server of the moment.
    async fn client(&self) -> RedisResult<Client> {
        match &self.source {
            Source::One(client) => Ok(Client::clone(client)),
            Source::Sentinels(sentinels) => sentinels.lock().await.async_get_client().await,
        }
    }

    /// The connection for commands, made when there is none. Who waits here is one of a crowd that waits for the
    /// same connection, each with a deadline.
    pub(in crate::backplane) async fn lease(&self) -> Result<Lease, Failure> {
        let mut slot = self.commands.lock().await;
        let connection = match &slot.connection {
            Some(connection) => connection.clone(),
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT))
                    .set_response_timeout(Some(ANSWER));
                let client = self.client().await.map_err(away)?;
                let made =
                    client.get_multiplexed_async_connection_with_config(&config).await.map_err(away)?;
                slot.number += 1;
                slot.connection.insert(made).clone()
            }
        };
        Ok(Lease { connection, number: slot.number })
    }

    /// What to make of an error, and of the connection that had it.
    pub(in crate::backplane) async fn failed(&self, lease: &Lease, error: RedisError) -> Failure {
        if answers(&error) {
            return Failure::Refused(describe(&error));
        }
        let mut slot = self.commands.lock().await;
        if slot.number == lease.number {
            slot.connection = None;
        }
        away(error)
    }

    /// Gives up the connection for commands, because the server is another one now.
    pub(in crate::backplane) async fn forget(&self) {
        self.commands.lock().await.connection = None;
    }

    /// A connection that listens to these channels.
    pub(in crate::backplane) async fn listen(&self, channels: &[String]) -> Result<PubSub, Failure> {
        let work = async {
            let mut listening = self.client().await?.get_async_pubsub().await?;
            listening.subscribe(channels).await?;
            Ok(listening)
        };
        let late = |_| Failure::Away(format!("no connection within {} ms", (CONNECT + ANSWER).as_millis()));
        tokio::time::timeout(CONNECT + ANSWER, work).await.map_err(late)?.map_err(away)
    }
}

/// Whether the server itself said no, and would say yes to something else.
fn answers(error: &RedisError) -> bool {
    let of_no_use = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    );
    !of_no_use
        && !error.is_io_error()
        && !error.is_timeout()
        && !error.is_unrecoverable_error()
        && matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

fn away(error: RedisError) -> Failure {
    Failure::Away(describe(&error))
}

/// An error's text. It holds addresses, but neither passwords nor what was sent.
fn describe(error: &RedisError) -> String {
    error.to_string()
}

fn certificates(path: PathBuf) -> Result<TlsCertificates, SetupError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let unusable = |reason: String| SetupError::Ca { path: path.clone(), reason };
    let text = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    if found.map_err(|error| unusable(error.to_string()))?.is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    Ok(TlsCertificates { client_tls: None, root_cert: Some(text) })
}

fn one(info: ConnectionInfo, certificates: Option<TlsCertificates>) -> RedisResult<Client> {
    match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
}

fn sentinels(place: Sentinels, certificates: Option<TlsCertificates>) -> RedisResult<SentinelClient> {
    let mut builder = SentinelClientBuilder::new(place.addresses, place.name, SentinelServerType::Master)?
        .set_client_to_redis_db(place.db);
    if place.tls {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates);
    }
    if let Some(user) = place.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = place.password {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(user) = place.sentinel_user {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = place.sentinel_password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    builder.build()
}
