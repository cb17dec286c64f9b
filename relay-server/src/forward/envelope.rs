//! What one relay tells another about a request that it passes on, as one signed header.
//!
//! ```text
//!  x-relay-forwarded: v=1;from=ID;to=ID;ts=MS;nonce=B64;client=ADDR;for=LIST;scheme=S;host=B64;expect=0|1;id=ID;sig=B64
//! ```
//! The signature covers the method, the path and query, and everything before `;sig=`, joined by `\n`, of which
//! none holds one. Each field stands there once and in this order; the host is base64url, because an authority may
//! hold what separates the fields. Nothing is read before the signature was found good.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use http::uri::Authority;
use http::{HeaderValue, Method};

use super::key::Key;
use crate::http::client_addr::{ClientInfo, Scheme};
use crate::http::request_id::RequestId;

/// Longer ones are none of ours: 32 addresses in `for`, an authority of 255 bytes, and the rest.
const MAX_LEN: usize = 4096;

/// Which request of a relay this is. No two of one relay have the same: `life` is random and new with every
/// start, and `count` only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce {
    /// The relay's life.
    pub life: u64,
    /// The request in it.
    pub count: u64,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Who passes it on.
    pub from: String,
    /// For whom it is.
    pub to: String,
    /// When it was signed, in Unix milliseconds.
    pub at: u64,
    /// Makes it good for once.
    pub nonce: Nonce,
    /// The caller as the first relay knows it.
    pub client: ClientInfo,
    /// Whether the caller itself waits for the local server's `100 Continue`; else the first relay alone does.
    pub expects: bool,
    /// The request's id.
    pub id: RequestId,
}

/// Why a header counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// This relay takes no passed-on requests, or none to this path.
    Unwanted,
    /// It is no header of ours.
    Malformed,
    /// Somebody else signed it, or for another request.
    Forged,
    /// It is for another relay.
    Misdirected,
    /// It was signed too long ago, or in the future, or before this relay began.
    Stale,
    /// It has been used.
    Replayed,
    /// More relays than are remembered have passed requests on of late.
    Crowded,
}

impl Fault {
    /// All of them, for tables.
    pub const ALL: [Fault; 7] = [
        Fault::Unwanted,
        Fault::Malformed,
        Fault::Forged,
        Fault::Misdirected,
        Fault::Stale,
        Fault::Replayed,
        Fault::Crowded,
    ];

    /// As metrics and the log name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::Unwanted => "unwanted",
            Fault::Malformed => "malformed",
            Fault::Forged => "forged",
            Fault::Misdirected => "misdirected",
            Fault::Stale => "stale",
            Fault::Replayed => "replayed",
            Fault::Crowded => "crowded",
        }
    }
}

impl Envelope {
    /// The header. `None` when a part holds what no header may.
    pub fn seal(&self, key: &Key, method: &Method, target: &str) -> Option<HeaderValue> {
        let mut nonce = [0; 16];
        nonce.first_chunk_mut::<8>()?.copy_from_slice(&self.nonce.life.to_be_bytes());
        nonce.last_chunk_mut::<8>()?.copy_from_slice(&self.nonce.count.to_be_bytes());
        let host = self.client.host.as_ref().map(Authority::as_str).unwrap_or_default();
        let mut text = format!(
            "v=1;from={};to={};ts={};nonce={};client={};for={};scheme={};host={};expect={};id={}",
            self.from,
            self.to,
            self.at,
            B64.encode(nonce),
            self.client.addr,
            self.client.forwarded_for.to_str().ok()?,
            self.client.scheme.as_str(),
            B64.encode(host),
            u8::from(self.expects),
            self.id.as_str(),
        );
        let signature = key.sign(&signed(method, target, &text));
        text.push_str(";sig=");
        B64.encode_string(signature, &mut text);
        HeaderValue::try_from(text).ok()
    }

    /// Reads the header of a request.
    ///
    /// # Errors
    /// [`Fault::Malformed`] and [`Fault::Forged`]; for whom and when is for the caller to judge.
    pub fn open(value: &HeaderValue, key: &Key, method: &Method, target: &str) -> Result<Self, Fault> {
        let whole = value.to_str().ok().filter(|text| text.len() <= MAX_LEN).ok_or(Fault::Malformed)?;
        let (text, signature) = whole.rsplit_once(";sig=").ok_or(Fault::Malformed)?;
        let signature = B64.decode(signature).map_err(|_| Fault::Malformed)?;
        if !key.verifies(&signed(method, target, text), &signature) {
            return Err(Fault::Forged);
        }
        parse(text).ok_or(Fault::Malformed)
    }
}

fn signed<'a>(method: &'a Method, target: &'a str, text: &'a str) -> [&'a [u8]; 5] {
    [method.as_str().as_bytes(), b"\n", target.as_bytes(), b"\n", text.as_bytes()]
}

fn parse(text: &str) -> Option<Envelope> {
    let mut fields = text.split(';');
    let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
    if field("v")? != "1" {
        return None;
    }
    let (from, to) = (field("from")?.to_owned(), field("to")?.to_owned());
    let at = field("ts")?.parse().ok()?;
    let nonce: [u8; 16] = B64.decode(field("nonce")?).ok()?.try_into().ok()?;
    let nonce = Nonce {
        life: u64::from_be_bytes(*nonce.first_chunk()?),
        count: u64::from_be_bytes(*nonce.last_chunk()?),
    };
    let addr: IpAddr = field("client")?.parse().ok()?;
    let forwarded_for = HeaderValue::from_str(field("for")?).ok()?;
    let scheme = match field("scheme")? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let host = B64.decode(field("host")?).ok()?;
    let host = if host.is_empty() { None } else { Some(Authority::try_from(host.as_slice()).ok()?) };
    let expects = match field("expect")? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    let id = RequestId::from_text(field("id")?)?;
    if fields.next().is_some() {
        return None;
    }
    let client = ClientInfo {
        addr: addr.to_canonical(),
        scheme,
        host,
        forwarded_for,
        from_trusted: false,
        looks_like_forgotten_proxy: false,
    };
    Some(Envelope { from, to, at, nonce, client, expects, id })
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
