//! The way into a tunnel of this relay.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use relay_protocol::problem::Code;
use relay_protocol::tunnel::{Ended, OpenError};

use super::send::{Failed, Way, sender_broke_off};
use crate::http::problem::Refusal;
use crate::pool::Connection;
use crate::tunnel::Tunnel;

/// A tunnel to send a request into.
pub(super) struct Into<'a> {
    pub(super) tunnel: &'a Tunnel,
    /// How long opening a stream may take.
    pub(super) open_timeout: Duration,
}

impl Way for Into<'_> {
    type Failure = Refusal;

    fn reuse(&self) -> Option<Connection> {
        self.tunnel.pool.reuse()
    }

    fn was_stale(&self) {
        self.tunnel.pool.was_stale();
    }

    async fn open(&self) -> Result<Connection, Refusal> {
        match tokio::time::timeout(self.open_timeout, self.tunnel.pool.open()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(OpenError::TooMany)) => Err(too_many_streams()),
            Ok(Err(OpenError::Ended)) => Err(lost(self.tunnel)),
            Err(_) => Err(unresponsive()),
        }
    }

    fn sign(&self, _: &mut Request<Body>) -> Result<(), Refusal> {
        Ok(())
    }

    fn ended(&self) -> bool {
        self.tunnel.handle.ended().is_some()
    }

    fn failure(&self, why: Failed) -> Refusal {
        match why {
            Failed::Unsent => lost(self.tunnel),
            Failed::NotTaken => too_many_streams(),
            Failed::Unresponsive => unresponsive(),
            Failed::Silent(time) => Refusal::new(
                Code::ResponseTimeout,
                format!("The local server has not begun to answer for {} s.", time.as_secs()),
            ),
            Failed::BrokeOff(error) => broke_off(self.tunnel, &error),
        }
    }
}

fn too_many_streams() -> Refusal {
    Refusal::new(
        Code::TooManyStreams,
        "Every stream that this host may have is in use; try again in a moment.",
    )
}

fn unresponsive() -> Refusal {
    Refusal::new(
        Code::AgentUnresponsive,
        "The agent is connected and does not take requests. It may be suspended or overloaded; restart it if it stays so.",
    )
}

fn lost(tunnel: &Tunnel) -> Refusal {
    match tunnel.handle.ended() {
        Some(Ended::Silent) => unresponsive(),
        _ => Refusal::new(
            Code::TunnelLost,
            "The connection to the host was lost. The agent reconnects by itself; try again.",
        ),
    }
}

fn broke_off(tunnel: &Tunnel, error: &hyper::Error) -> Refusal {
    if tunnel.handle.ended().is_some() {
        return lost(tunnel);
    }
    tracing::debug!(%error, "an exchange broke off");
    sender_broke_off(error).unwrap_or_else(|| {
        Refusal::new(
            Code::TunnelLost,
            "The agent broke off before it had answered; what was sent may have had an effect.",
        )
    })
}
