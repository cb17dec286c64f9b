//! A signed request to the local server, and its answer in the form that was asked for.
//!
//! Nothing of the request reaches the local server before its head is verified; its body is checked as it
//! goes. The end of the session breaks off whatever is under way, in both directions.

use super::{
    Gate, Head,
    answer::{self, Signer},
    body::AnswerBody,
    headers,
    records::Records,
    sessions::InUse,
    verify::{self, Keyed},
};
use crate::{
    forward::{
        self, Active, Connection, ResponseBody,
        body::Source,
        checked::Checked,
        fault::{Fault, Wrong},
        policy::Caller,
    },
    refusal::Refusal,
};
use http::{HeaderValue, Method, Request, Response, header, request::Parts};
use hyper::{
    body::{Body, Incoming},
    upgrade::OnUpgrade,
};
use relay_protocol::{
    headers::X_RELAY_RECORDS,
    problem::Code,
    record::{self, Binding, Direction, MEDIA_TYPE, Protector},
    signature::{
        digest::{CONTENT_DIGEST, ContentDigest},
        request::{Signed, Verified},
    },
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What is known of a signed request before it is verified.
pub(super) struct Asked<'a> {
    pub signed: &'a Signed,
    pub signer: Option<&'a Signer>,
    pub now: i64,
}

impl Gate {
    /// Verifies a request, forwards it and answers.
    pub(super) async fn signed(
        &self,
        asked: Asked<'_>,
        mut parts: Parts,
        body: &mut Option<Incoming>,
        connection: &Connection,
        active: Active,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let view = Head::new(&parts).signed_parts(!body.as_ref().is_none_or(Body::is_end_stream));
        let (caller, verified) = self.verify(asked.signed, &view, Keyed::BySession, asked.now)?;
        let Some(in_use) = caller.session else { return Err(forward::session_ended()) };
        // Without the host's id no answer could be believed.
        let Some(signer) = asked.signer else {
            return Err(self.host_id().err().unwrap_or_else(forward::session_ended));
        };
        let ended = in_use.session().ended.clone();
        let Some(body) = body.take() else { return Err(forward::session_ended()) };
        let (source, wrong) = checked(body, &parts, verified, &ended, asked.now)?;
        let as_records = verified.covers(&X_RELAY_RECORDS)
            && parts.headers.get(X_RELAY_RECORDS).is_some_and(|value| value == "1")
            // A HEAD's answer has no body that could carry them.
            && parts.method != Method::HEAD;
        headers::request(&mut parts.headers, |name| verified.covers(name));
        headers::without_bare_query(&mut parts.uri);
        // Nothing covers a change of protocols, so none leads past the signature.
        parts.extensions.remove::<OnUpgrade>();
        if as_records && !verified.covers(&header::ACCEPT_ENCODING) {
            headers::only_scriptable_codings(&mut parts.headers);
        }
        let request = Request::from_parts(parts, source);
        let from = client(caller.browser.id).map_or(Caller::Unknown, Caller::Signed);
        let forwarding = self.forwarder.forward(request, from, connection, active);
        let forwarded = tokio::select! {
            biased;
            () = ended.cancelled() => Err(forward::session_ended()),
            forwarded = forwarding => forwarded,
        };
        let forwarded = match fault(&wrong) {
            Some(refusal) => Err(refusal),
            None => forwarded,
        };
        if !as_records {
            return self.buffered(forwarded?, signer, &ended, &wrong).await;
        }
        let binding = Binding { session_id: in_use.session().id, request_hash: verified.signature_hash() };
        let key = self.pairing.keys().signing.clone();
        let protection = Protector::signed(key, binding, Direction::ToBrowser);
        match forwarded {
            Ok(response) => Ok(streamed(response, protection, in_use, wrong)),
            // Refused by the agent: signed as every refusal is.
            Err(refusal) if matches!(refusal.code(), Code::DigestMismatch | Code::SigningSessionEnded) => {
                Err(refusal)
            }
            Err(refusal) => {
                self.forwarder.stats().gate.refused(refusal.code());
                Ok(outer(Records::<ResponseBody>::error(refusal, protection, in_use)))
            }
        }
    }
}

/// The id of a browser as a header's value.
pub(super) fn client(browser: Uuid) -> Option<HeaderValue> {
    HeaderValue::try_from(browser.to_string()).ok()
}

/// What is to be said of the caller's own body, if that was wrong.
pub(super) fn fault(wrong: &Option<Wrong>) -> Option<Refusal> {
    wrong.as_ref().and_then(Wrong::fault).map(Fault::refusal)
}

/// The body as it goes on: checked, or known to be none.
fn checked(
    body: Incoming,
    parts: &Parts,
    verified: Verified<'_>,
    ended: &CancellationToken,
    now: i64,
) -> Result<(Source, Option<Wrong>), Refusal> {
    let digest = if verified.covers(&CONTENT_DIGEST) {
        ContentDigest::from_headers(&parts.headers).map_err(|error| verify::refusal(error, now))?
    } else {
        None
    };
    match (digest, body.is_end_stream()) {
        (None, true) => Ok((Source::Empty, None)),
        (Some(digest), true) => match digest.verifier().finish() {
            Ok(()) => Ok((Source::Empty, None)),
            Err(_) => Err(forward::digest_mismatch()),
        },
        (Some(digest), false) => {
            let checked = Checked::new(body, digest.verifier(), ended.clone());
            let wrong = checked.wrong();
            Ok((Source::Checked(Box::new(checked)), Some(wrong)))
        }
        // The check of what is covered has refused it already.
        (None, false) => Err(Refusal::new(Code::Uncovered, "The signature has to cover the body's digest.")),
    }
}

impl Gate {
    /// The answer in one piece. All such answers together have [`answer::BUDGET`] of memory: one takes what it
    /// may need before it is read, and keeps what it has until it is sent.
    async fn buffered(
        &self,
        response: Response<ResponseBody>,
        signer: &Signer,
        ended: &CancellationToken,
        wrong: &Option<Wrong>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let upper = response.body().size_hint().upper();
        let collected = async {
            let mut room = answer::room(&self.buffers, upper).await?;
            let response = answer::collect(response).await?;
            let used = answer::kib(response.body().len() as u64);
            drop(room.split(room.num_permits().saturating_sub(used)));
            Ok((response, room))
        };
        let collected = tokio::select! {
            biased;
            () = ended.cancelled() => Err(forward::session_ended()),
            collected = collected => collected,
        };
        if let Some(refusal) = fault(wrong) {
            return Err(refusal);
        }
        let (mut response, room) = collected?;
        let cookies = headers::response(response.headers_mut());
        let mut answer = signer.sign(response)?.map(|body| body.holding(room));
        for cookie in cookies {
            answer.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(answer)
    }
}

/// The answer as records.
fn streamed(
    response: Response<ResponseBody>,
    protection: super::records::Protection,
    in_use: InUse,
    wrong: Option<Wrong>,
) -> Response<AnswerBody> {
    let (mut parts, body) = response.into_parts();
    let cookies = headers::response(&mut parts.headers);
    let head = record::Head { status: parts.status, headers: parts.headers };
    let mut answer = outer(Records::answer(&head, body, protection, in_use, wrong));
    for cookie in cookies {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    answer
}

/// The response that carries a record stream.
pub(super) fn outer(records: Records<ResponseBody>) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::from(records));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
