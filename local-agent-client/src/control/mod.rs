//! Local control: how the owner, on this very machine, sees and changes what the running agent trusts.
//!
//! An HTTP server on a loopback port that the system chooses. Commands find it by `control.json` in the state
//! folder, which only the owner can read; browsers open its page by a one-time link. Nothing of it is
//! reachable over the relay. Everybody on the machine can connect, and every page that a browser here shows can
//! make it connect: see [`guard`] and [`access`].

pub mod access;
pub mod api;
pub mod client;
mod connections;
pub mod guard;
mod routes;
mod stream;

pub use client::{Client, ControlError};

use crate::{
    state::{StateDir, StateError},
    status::Status,
    trust::Pairing,
};
use access::Access;
use connections::{Connections, Standing};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use routes::Server;
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use zeroize::{Zeroize, Zeroizing};

/// The file that tells commands where the server is and how to be let in.
pub(crate) const FILE: &str = "control.json";
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(5);
/// Bytes of it. Cookies of other local servers come along.
const MAX_HEAD: usize = 32 * 1024;
/// After an accept that failed: the system is out of something, and trying at once makes it worse.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What `control.json` holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) address: SocketAddr,
    pub(crate) secret: Secret,
}

/// A secret in JSON. Wiped when dropped, never prints.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A control server that listens already and does not answer yet.
#[derive(Debug)]
pub struct Control {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl Control {
    /// Listens at `address`, which has to be one of this machine's own; port 0 lets the system choose.
    ///
    /// # Errors
    /// When it is another machine's, or taken.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "local control listens on loopback addresses only",
            ));
        }
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells commands where the server is, and serves until the future is dropped,
    /// which cuts off what is under way.
    ///
    /// # Errors
    /// When the runtime cannot take the listener, or the file cannot be written.
    pub async fn serve(
        self,
        state: Arc<StateDir>,
        pairing: Arc<Pairing>,
        status: watch::Receiver<Status>,
    ) -> Result<Infallible, StateError> {
        let failed = |source| StateError::Io { path: state.path().join(FILE), source };
        let listener = TcpListener::from_std(self.listener).map_err(failed)?;
        let secret = access::random();
        let access = Access::new(&secret);
        let contact = Contact { address: self.address, secret: Secret(secret.as_str().to_owned()) };
        let text = serde_json::to_vec(&contact).map(Zeroizing::new);
        state.replace(FILE, &text.map_err(|error| failed(error.into()))?)?;
        let _published = Published(state);
        tracing::info!(address = %self.address, "local control: `local-agent-client page` opens its page");
        let server = Arc::new(Server { address: self.address, access: access.into(), pairing, status });
        let (mut connections, mut tasks) = (Connections::default(), JoinSet::new());
        loop {
            tokio::select! {
                // First, so that those that were cut are gone before others come.
                biased;
                _ = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) if connections.room() => {
                        let standing = Standing::default();
                        let task = tasks.spawn(connection(socket, server.clone(), standing.clone()));
                        connections.add(standing, task);
                    }
                    Ok(_) => tracing::warn!("local control has too many connections; one more was closed"),
                    Err(error) => {
                        tracing::debug!(%error, "a connection to local control failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

/// Takes the file away with the server.
struct Published(Arc<StateDir>);

impl Drop for Published {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove(FILE) {
            tracing::warn!(%error, "the file that tells where local control was stays behind");
        }
    }
}

/// One request on one connection: local ones cost nothing, and none is held open for nothing.
async fn connection(socket: tokio::net::TcpStream, server: Arc<Server>, standing: Standing) {
    let service = service_fn(|request| {
        let (server, standing) = (server.clone(), standing.clone());
        async move { Ok::<_, Infallible>(server.handle(request, &standing).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to local control ended early");
    }
}
