//! Exchanges over the relay: a request that carries the browser's bytes, and an answer that carries the agent's
//! (PROTOCOL.md section 5.3).

use super::{Way, begin::Unopened, reader::Bytestream};
use crate::{
    forward::{Active, BodyError, Connection},
    gate::{Gate, body::AnswerBody, signed::outer},
    refusal::Refusal,
};
use http::{Response, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use relay_protocol::{problem::Code, record::MEDIA_TYPE};

impl Gate {
    /// Answers `POST /_relay/exchange`.
    pub(in crate::gate) async fn exchange(
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
