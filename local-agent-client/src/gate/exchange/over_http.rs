//! Exchanges over the relay: a request that carries the browser's bytes, and an answer that carries the agent's
//! (PROTOCOL.md section 5.3).

use super::{Way, begin::Unopened, reader::Bytestream};
use crate::{
    forward::{Active, BodyError, Connection},
    gate::{
        Gate, answer, body::AnswerBody, drain, own, plain_target, routes::NoRoute, signed::outer, websocket,
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
        let answered = match (plain_target(&parts), &parts.method) {
            (Err(refusal), _) => Err(refusal.into()),
            (Ok(()), &Method::POST) => self.exchange(&parts, &mut body, connection, active).await,
            (Ok(()), &Method::GET) if websocket::is_upgrade(&parts) => {
                self.exchange_websocket(&mut parts, connection, active).await.map_err(Unopened::from)
            }
            (Ok(()), &Method::GET) => Err(Refusal::new(
                Code::UpgradeRequired,
                "This path takes POST, or an upgrade to a WebSocket.",
            )
            .into()),
            (Ok(()), _) => Err(own::no_route(NoRoute::Method("POST, GET")).into()),
        };
        match answered {
            Ok(answer) => answer,
            Err(Unopened { refusal, prelude }) => {
                self.forwarder.stats().gate.refused(refusal.code());
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

    /// Answers `POST /_relay/exchange`.
    async fn exchange(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        connection: &Connection,
        active: Active,
    ) -> Result<Response<AnswerBody>, Unopened> {
        let refused = |what: &str| Unopened::from(Refusal::new(Code::BadRequest, what));
        if parts.uri.query().is_some() {
            return Err(refused("An exchange has no query."));
        }
        if parts.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != MEDIA_TYPE) {
            return Err(refused("The body of an exchange is of the type application/vnd.relay.records."));
        }
        let body = body.take().ok_or_else(|| refused("The body is gone."))?;
        let source: Bytestream = body.map_err(BodyError::from).boxed_unsync();
        let begun = self.begin(source, None).await?;
        let way = Way { outer: &parts.headers, connection };
        let (records, _) = self.answer(begun, way, active).await;
        Ok(outer(records))
    }
}
