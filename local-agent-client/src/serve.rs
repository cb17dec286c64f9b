//! Serves one stream of a tunnel: an HTTP/1.1 connection whose client is the relay.
//!
//! The stream lives in one task, from its first request to its end or to the end of the upgraded
//! connection that it became. When the relay resets it, everything that belongs to it is dropped at once, the
//! connection to the local server too: nobody waits for an answer any more.

use crate::{
    forward::{Connection, Load},
    gate::Gate,
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, pin::pin, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// Bytes of the largest request head. The relay decides what it passes, up to 1 MiB of header fields
/// by configuration; the target and what the relay adds come on top. A limit, not an allocation: the
/// buffer starts small and grows with what comes.
const HEAD: usize = 1024 * 1024 + 128 * 1024;
/// Header fields of one message, in either direction: more than honest clients and servers send, and few
/// enough that reading them costs nothing to speak of.
pub const FIELDS: usize = 256;

/// Serves `io` to its end. `gone` completes when the relay has given the stream up, which reading
/// alone does not tell while a local server does not take its upload. `stop` lets the request that is
/// under way finish and takes no further one.
pub async fn connection<S>(
    io: S,
    gone: impl Future<Output = ()>,
    gate: Arc<Gate>,
    load: &Arc<Load>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Connection::new(load.clone());
    tokio::select! {
        biased;
        () = gone => tracing::debug!("the relay gave a stream up"),
        () = run(io, &connection, gate, stop) => {}
    }
}

async fn run<S>(io: S, connection: &Connection, gate: Arc<Gate>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let gate = gate.clone();
        async move { Ok::<_, Infallible>(gate.handle(request, connection).await) }
    });
    let counted = connection.load.connection();
    let served = http1::Builder::new()
        // Not ours to add: the local server's answer passes as it is.
        .auto_date_header(false)
        // The relay keeps idle connections as long as it likes; the tunnel's ping tells whether it lives.
        .header_read_timeout(None)
        .max_buf_size(HEAD)
        .max_headers(FIELDS)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    drop(counted);
    if let Err(error) = ended {
        tracing::debug!(%error, "a stream ended early");
    } else if let Some(joined) = connection.take_upgraded() {
        joined.await;
    }
}
