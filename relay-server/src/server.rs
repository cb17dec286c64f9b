//! Puts the parts together: what a request meets, from the socket to its answer.

use std::sync::Arc;

use axum::body::Body;
use thiserror::Error;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::auth::token::Verifier;
use crate::config::{Config, OwnError};
use crate::http::front::Front;
use crate::http::routes::{Api, Live, Routes};
use crate::http::serve::{Options, serve};
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreError};

/// Why the relay stopped serving, or did not begin.
#[derive(Debug, Error)]
pub enum ServerError {
    /// What the relay keeps for itself cannot be read or made.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// The store does not answer at start.
    #[error("the store does not answer: {0}")]
    Store(#[from] StoreError),
    /// The listener failed.
    #[error("serving failed: {0}")]
    Io(#[from] std::io::Error),
}

/// A relay without tunnels.
struct NoTunnels;

impl Live for NoTunnels {
    fn session_revoked(&self, _session: Uuid) {}
    fn host_deleted(&self, _host: Uuid) {}
    fn online(&self, _host: Uuid) -> bool {
        false
    }
}

/// Serves until `shutdown` is through.
///
/// # Errors
/// See [`ServerError`].
pub async fn run(
    config: Config,
    store: Store,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), ServerError> {
    let verifier = Verifier::new(&config.load_jwt_secret()?);
    store.relay_started(&config.load_relay_id()?).await?;
    let routes = Routes::new(Api::new(&config, store, verifier, Arc::new(NoTunnels), shutdown.clone()));
    let front = Arc::new(Front::new(&config, shutdown.clone()));
    let service = move |request: http::Request<hyper::body::Incoming>, peer| {
        let (front, routes) = (Arc::clone(&front), routes.clone());
        async move {
            front
                .handle(request, peer, |request, context| async move {
                    routes.call(request.map(Body::new), context).await
                })
                .await
        }
    };
    serve(listener, service, Options::new(&config), shutdown).await?;
    Ok(())
}
