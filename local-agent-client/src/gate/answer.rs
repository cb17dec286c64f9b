//! Answers in one piece: the agent's own, its refusals, and a local server's for callers that do not
//! take records (PROTOCOL.md section 4.3).
//!
//! Between the agent and the browser sits a relay that may answer in the agent's name; the signature
//! tells the two apart, and binds the answer to the request that it answers.

use super::{body::AnswerBody, headers};
use bytes::{Bytes, BytesMut};
use http::{Method, Response, Uri, header};
use http_body::Body;
use http_body_util::BodyExt;
use relay_protocol::{
    exchange::Prelude,
    headers::RELAY_EXCHANGE,
    keys::AgentSigningKey,
    problem::Code,
    signature::{
        base::Answered, digest::CONTENT_DIGEST, digest::ContentDigest, input::Parsed, refusal, response,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::{forward::BodyError, refusal::Refusal};

/// The largest body that is kept to be signed as one piece. Larger ones go as records.
pub const MAX_BODY: usize = 8 * 1024 * 1024;
/// How long such a body may take.
pub const MAX_TIME: Duration = Duration::from_secs(60);

/// All such bodies together, until they are sent.
pub const BUDGET: u64 = 128 * 1024 * 1024;
/// How long an answer waits for its part of the budget.
const ROOM_TIME: Duration = Duration::from_secs(10);

/// KiB that so many bytes take, never none.
pub fn kib(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(usize::MAX)
}

/// Takes of the budget what a body may need that has `upper` bytes at the most, as far as that is known.
///
/// # Errors
/// `too_many_streams` when others do not give theirs back in time.
pub async fn room(budget: &Arc<Semaphore>, upper: Option<u64>) -> Result<OwnedSemaphorePermit, Refusal> {
    let most = upper.unwrap_or(MAX_BODY as u64).min(MAX_BODY as u64);
    let wanted = u32::try_from(kib(most)).unwrap_or(u32::MAX);
    match tokio::time::timeout(ROOM_TIME, budget.clone().acquire_many_owned(wanted)).await {
        Ok(Ok(room)) => Ok(room),
        _ => Err(Refusal::new(
            Code::TooManyStreams,
            "Too many answers are being signed in one piece at once. Ask for record streams (x-relay-records: 1).",
        )),
    }
}

/// Signs answers to one request.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The agent's key.
    pub key: Arc<AgentSigningKey>,
    /// The `keyid`.
    pub host_id: Uuid,
    /// The request's method. The answer to a HEAD has no body.
    pub method: Method,
    /// The request's target, as it is signed.
    pub uri: Uri,
    /// The request's signature, right or wrong: the browser looks whether it is its own.
    pub request: Parsed,
    /// The agent's clock, Unix seconds.
    pub now: i64,
}

impl Signer {
    /// Signs `answer`; its headers lose what the relay would change on the way.
    ///
    /// # Errors
    /// When the local server sent more headers than a signature covers.
    pub fn sign(&self, mut answer: Response<Bytes>) -> Result<Response<AnswerBody>, Refusal> {
        headers::signed_response(answer.headers_mut());
        let body: &[u8] = if self.method == Method::HEAD { &[] } else { answer.body() };
        let digest = ContentDigest::field_sha256(body);
        answer.headers_mut().insert(CONTENT_DIGEST, digest);
        let parts = response::Parts {
            status: answer.status(),
            headers: answer.headers(),
            request: Answered {
                method: &self.method,
                path: self.uri.path(),
                query: self.uri.query(),
                input: &self.request.input,
                signature: &self.request.signature,
            },
            host_id: self.host_id,
        };
        let made = response::sign(&parts, self.now, &*self.key).map_err(|error| {
            Refusal::new(
                Code::LocalServerFailed,
                format!("The local server's answer cannot be signed: {error}."),
            )
        })?;
        made.insert(answer.headers_mut());
        Ok(answer.map(AnswerBody::plain))
    }

    /// Signs a refusal.
    pub fn refuse(&self, refusal: Response<String>) -> Response<AnswerBody> {
        // A problem has two headers: it can always be signed.
        self.sign(refusal.map(Bytes::from)).unwrap_or_else(|refusal| unsigned(refusal.response(None)))
    }
}

/// Signs the refusal of an exchange over the relay (PROTOCOL.md section 5.3). Nothing else of the request is signed:
/// what binds the two is the prelude.
pub fn refuse_exchange(
    told: Response<String>,
    prelude: &Prelude,
    host_id: Uuid,
    key: &AgentSigningKey,
    now: i64,
) -> Response<AnswerBody> {
    let mut answer = told.map(Bytes::from);
    headers::signed_response(answer.headers_mut());
    let digest = ContentDigest::field_sha256(answer.body());
    answer.headers_mut().insert(CONTENT_DIGEST, digest);
    answer.headers_mut().insert(RELAY_EXCHANGE, refusal::header_value(prelude));
    let parts = refusal::Refusal { status: answer.status(), headers: answer.headers(), prelude, host_id };
    match refusal::sign(&parts, now, key) {
        Ok(made) => made.insert(answer.headers_mut()),
        // A refusal of the agent's own has all that it takes.
        Err(error) => tracing::warn!(%error, "a refusal could not be signed"),
    }
    answer.map(AnswerBody::plain)
}

/// Makes an answer that is not signed.
pub fn unsigned(answer: Response<String>) -> Response<AnswerBody> {
    answer.map(|text| AnswerBody::plain(Bytes::from(text)))
}

/// Reads a local server's answer to its end, to be signed as one piece. Trailers are left out.
///
/// # Errors
/// When it is too large, too slow, or breaks off.
pub async fn collect<B>(answer: Response<B>) -> Result<Response<Bytes>, Refusal>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let too_much = || {
        Refusal::new(
            Code::ResponseTooLarge,
            "The answer has more than 8 MiB or takes longer than 60 s. Ask for it as a record stream (x-relay-records: 1).",
        )
    };
    let (mut parts, body) = answer.into_parts();
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_much());
    }
    let read = tokio::time::timeout(MAX_TIME, read(body));
    let bytes = match read.await {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) | Err(_) => return Err(too_much()),
        Ok(Err(_)) => {
            return Err(Refusal::new(
                Code::LocalServerFailed,
                "The local server broke off in the middle of its answer. Its own log says more.",
            ));
        }
    };
    parts.headers.remove(header::TRAILER);
    Ok(Response::from_parts(parts, bytes))
}

/// The whole body; `None` when it is larger than [`MAX_BODY`].
async fn read<B>(mut body: B) -> Result<Option<Bytes>, BodyError>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        if first.len() + all.len() + piece.len() > MAX_BODY {
            return Ok(None);
        }
        // Most answers are one piece, which need not be copied.
        if first.is_empty() && all.is_empty() {
            first = piece;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&piece);
    }
    Ok(Some(if all.is_empty() { first } else { all.freeze() }))
}
