//! Offers of peers, and their end (PROTOCOL.md section 6.1), as they come in protected exchanges. The streams
//! of a peer come back here: each is one exchange.

use super::{
    Gate,
    own::{Inside, check, json},
    routes::NoRoute,
};
use crate::{
    peer::{Answer, Caller, Offer, Owner, PeerError, Peers, StreamHandler, ice::IceServer},
    refusal::Refusal,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use relay_protocol::{pairing::VERSION, problem::Code};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Seconds until there may be room for one more peer: some are idle.
const FULL_FOR: i64 = 30;
/// Seconds that an ICE restart takes at the most.
const BUSY_FOR: i64 = 3;

/// `POST /_relay/webrtc`
#[derive(Deserialize)]
pub(super) struct OfferRequest {
    v: u32,
    sdp: String,
    #[serde(default)]
    ice_servers: Vec<IceServer>,
    /// Restarts the ICE of this one.
    #[serde(default)]
    peer_id: Option<Uuid>,
}

#[derive(Serialize)]
struct OfferAnswer {
    v: u32,
    peer_id: Uuid,
    sdp: String,
}

impl Gate {
    fn peers(&self) -> Result<&Arc<Peers>, Refusal> {
        self.peers.as_ref().ok_or_else(|| super::own::no_route(NoRoute::NotFound))
    }

    /// Answers an offer.
    pub(super) async fn offer(
        &self,
        inside: Inside<'_>,
        request: OfferRequest,
    ) -> Result<Response<Bytes>, Refusal> {
        let peers = self.peers()?;
        self.clients.offer(inside.caller.id, (self.clock)()).map_err(|seconds| {
            Refusal::new(Code::RateLimited, "Too many offers of this browser. Wait a moment.")
                .retry_after(seconds)
        })?;
        check(request.v)?;
        let OfferRequest { sdp, ice_servers, peer_id, .. } = request;
        let session = inside.session;
        let caller = Caller {
            owner: Owner { browser: inside.caller.id, session: session.id },
            ended: session.ended.clone(),
            // A peer is a use of its session, like anything else that is under way.
            keeps: Arc::new(session.begin((self.clock)())),
        };
        let answered = peers.offer(caller, Offer { sdp, ice_servers, peer_id }, self.stream_handler()).await;
        let Answer { peer_id, sdp } = answered.map_err(refusal)?;
        json(&OfferAnswer { v: VERSION, peer_id, sdp })
    }

    /// Ends a peer of the caller's.
    pub(super) fn close_peer(&self, inside: Inside<'_>, peer: Uuid) -> Result<Response<Bytes>, Refusal> {
        self.peers()?.close(inside.caller.id, peer).map_err(refusal)?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    fn stream_handler(&self) -> StreamHandler {
        let gate = self.me.clone();
        Arc::new(move |stream, browser| {
            let gate = gate.clone();
            Box::pin(async move {
                let gone = stream.aborted();
                if let Some(gate) = gate.upgrade() {
                    gate.exchange_stream(stream, gone, browser).await;
                }
            })
        })
    }
}

fn refusal(error: PeerError) -> Refusal {
    let says = format!("{error}.");
    match error {
        PeerError::Sdp(_) | PeerError::Ice(_) | PeerError::Refused => Refusal::new(Code::BadRequest, says),
        PeerError::NotFound => Refusal::new(Code::NotFound, says),
        PeerError::Full => Refusal::new(Code::RateLimited, says).retry_after(FULL_FOR),
        PeerError::Ports(_) => {
            tracing::warn!("a browser stays on the relay: {error}");
            Refusal::new(Code::RateLimited, says).retry_after(FULL_FOR)
        }
        PeerError::Busy | PeerError::Displaced => Refusal::new(Code::RateLimited, says).retry_after(BUSY_FOR),
        PeerError::Ended => crate::forward::session_ended(),
        PeerError::Failed(why) => {
            tracing::warn!(why, "no peer could be made");
            Refusal::new(Code::Internal, "The agent could not make a peer. Its log says more.")
        }
    }
}
