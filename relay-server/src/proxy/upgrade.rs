//! A connection that changed its protocol: from here on the relay carries bytes.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use relay_protocol::splice;

use crate::auth::access::Exchange;
use crate::limits::AddrGuard;
use crate::shutdown::Hold;
use crate::telemetry::metrics::Opened;
use crate::tunnel::pool::Connection;

/// Joins both ends until either ends, the session ends, or nothing moves for too long.
pub(super) fn join(
    browser: OnUpgrade,
    (agent, connection): (OnUpgrade, Connection),
    exchange: Exchange,
    guard: ((AddrGuard, Hold), Opened),
    idle: std::time::Duration,
    request_id: Arc<str>,
) {
    tokio::spawn(async move {
        let _counted = guard;
        // The connection's task hands the stream over, so it lives until then.
        let upgraded = async { tokio::try_join!(browser, agent) }.await;
        drop(connection);
        let (browser, agent) = match upgraded {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, %request_id, "an upgrade did not complete");
                return;
            }
        };
        let session = exchange.session().clone();
        let joined = splice::splice(TokioIo::new(browser), TokioIo::new(agent), idle);
        tokio::select! {
            result = joined => match result {
                Ok((up, down)) => tracing::debug!(%request_id, up, down, "an upgraded connection ended"),
                Err(error) => tracing::debug!(%request_id, %error, "an upgraded connection broke"),
            },
            () = session.ended.cancelled() => tracing::debug!(%request_id, "an upgraded connection ended with its session"),
        }
    });
}
