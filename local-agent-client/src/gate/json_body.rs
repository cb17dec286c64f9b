//! The bodies of requests for the agent's own paths: small JSON, from anybody.

use crate::refusal::Refusal;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use relay_protocol::{problem::Code, signature::digest::DigestVerifier};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Bytes of the largest body: claims and messages of pairing have a tenth of it.
const MAX_BODY: usize = 64 * 1024;
/// How long such a body may take.
const MAX_TIME: Duration = Duration::from_secs(10);

/// The JSON of a whole body, checked against its digest.
pub(super) async fn read<T: DeserializeOwned>(
    body: Option<Incoming>,
    digest: Option<DigestVerifier>,
) -> Result<T, Refusal> {
    parse(&read_bytes(there(body)?, digest).await?)
}

/// A body that nobody has taken yet.
pub(super) fn there(body: Option<Incoming>) -> Result<Incoming, Refusal> {
    body.ok_or_else(|| Refusal::new(Code::BadRequest, "The body is gone."))
}

/// The JSON in a body.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        // What serde says would quote the body, which may hold anything.
        .map_err(|error| {
            Refusal::new(
                Code::BadRequest,
                format!(
                    "The body is not the JSON that belongs here (line {}, column {}).",
                    error.line(),
                    error.column()
                ),
            )
        })
}

/// The whole body, checked against its digest.
pub(super) async fn read_bytes<B>(body: B, digest: Option<DigestVerifier>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let too_large = || Refusal::new(Code::BodyTooLarge, "The body has more than 64 KiB.");
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let read = async {
        let (mut body, mut all) = (body, BytesMut::new());
        while let Some(frame) = body.frame().await {
            let broken = |_| Refusal::new(Code::BadRequest, "The body broke off.");
            let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
            if all.len() + piece.len() > MAX_BODY {
                return Err(too_large());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    };
    let bytes = tokio::time::timeout(MAX_TIME, read)
        .await
        .map_err(|_| Refusal::new(Code::RequestTimeout, "The body did not arrive in time."))??;
    if let Some(mut digest) = digest {
        digest.update(&bytes);
        digest.finish().map_err(|_| crate::forward::digest_mismatch())?;
    }
    Ok(bytes)
}
