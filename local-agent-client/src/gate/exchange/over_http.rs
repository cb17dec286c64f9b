//! Exchanges over the relay: a request that carries the browser's bytes, and an answer that carries the agent's
//! (PROTOCOL.md section 5.3).

use super::{Answered, Way, begin::Unopened, reader::Bytestream};
use crate::{
    forward::{Active, BodyError, Connection},
    gate::{
        DRAIN_IDLE, Gate, answer, body::AnswerBody, drain, own, plain_target, routes::NoRoute, signed::outer,
        websocket,
    },
    refusal::Refusal,
};
use http::{Method, Response, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use relay_protocol::{headers::X_REQUEST_ID, problem::Code, record::MEDIA_TYPE};

impl Gate {
    /// Answers what comes to `/_relay/exchange`. Its refusals are signed as far as it is known what they refuse.
    pub(in crate::gate) async fn over_relay(
        &self,
        mut parts: Parts,
        mut body: Option<Incoming>,
        connection: &Connection,
        active: Active,
    ) -> Response<AnswerBody> {
        let waits = parts.headers.contains_key(header::EXPECT);
        let request_id = parts.headers.get(X_REQUEST_ID).cloned();
        let answered = match plain_target(&parts) {
            Err(refusal) => Err(refusal.into()),
            Ok(()) if websocket::is_upgrade(&parts) => {
                self.exchange_websocket(&mut parts, connection, active).await.map_err(Unopened::from)
            }
            Ok(()) => self.exchange(&parts, &mut body, connection, active).await,
        };
        match answered {
            Ok(answer) => answer,
            Err(Unopened { refusal, prelude, rest, stalled }) => {
                self.forwarder.stats().gate.refused(refusal.code());
                // What did not come in time is not given more of it.
                drain(rest.filter(|_| !stalled)).await;
                drain(body.take().filter(|_| !waits)).await;
                let refusal = refusal.response(request_id.as_ref());
                match (prelude, self.pairing.host().get()) {
                    (Some(prelude), Some(host_id)) => {
                        let key = &self.pairing.keys().signing;
                        answer::refuse_exchange(refusal, &prelude, host_id, key, (self.clock)())
                    }
                    _ => answer::unsigned(refusal),
                }
            }
        }
    }

    /// Answers a request that is, or should be, `POST /_relay/exchange`.
    async fn exchange(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        connection: &Connection,
        active: Active,
    ) -> Result<Response<AnswerBody>, Unopened> {
        let gone = || Unopened::from(Refusal::new(Code::BadRequest, "The body is gone."));
        let source: Bytestream = body.take().ok_or_else(gone)?.map_err(BodyError::from).boxed_unsync();
        let begun = self.begin(source, None, well_formed(parts)).await?;
        let way = Way { outer: &parts.headers, connection };
        let Answered { records, refused, rest } = self.answer(begun, way, active).await;
        if refused
            // Whoever still holds the rest is no reason to wait for ever.
            && let Ok(Ok(rest)) = tokio::time::timeout(DRAIN_IDLE, rest).await
        {
            drain(Some(rest.reader.into_source())).await;
        }
        Ok(outer(records))
    }
}

/// Whether a request is of the one form that carries an exchange.
fn well_formed(parts: &Parts) -> Result<(), Refusal> {
    let refused = |what: &str| Err(Refusal::new(Code::BadRequest, what));
    if parts.method == Method::GET {
        return Err(Refusal::new(
            Code::UpgradeRequired,
            "This path takes POST, or an upgrade to a WebSocket.",
        ));
    }
    if parts.method != Method::POST {
        return Err(own::no_route(NoRoute::Method("POST, GET")));
    }
    if parts.uri.query().is_some() {
        return refused("An exchange has no query.");
    }
    if parts.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != MEDIA_TYPE) {
        return refused("The body of an exchange is of the type application/vnd.relay.records.");
    }
    Ok(())
}
