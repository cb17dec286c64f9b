//! Answers the agent's own paths (PROTOCOL.md sections 3, 4.1 and 5.1).
//!
//! Anybody whom the relay lets through gets here. Pairing is guarded by its code and slowed down here;
//! everything else wants the signature of a paired browser before its body is looked at, or comes inside an
//! exchange of one.

use super::{
    Credentials, Gate, Head,
    json_body::{parse, read, read_bytes, there},
    routes::{NoRoute, Route, route},
    sessions::{Form, Owner},
    verify::{self, Keyed},
};
use crate::{
    refusal::Refusal,
    trust::{Browser, Pairing, PairingError, Require, TrustError},
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Incoming};
use relay_protocol::{
    keys::b64,
    pairing::{
        FinishMessage, Hello, HelloAgent, StartRequest, StartResponse, VERSION, check_version,
        seal_code_with_salt,
    },
    problem::Code,
    sealed::{NoiseMessage, Responder},
    signature::digest::{CONTENT_DIGEST, ContentDigest},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// `POST /_relay/session`
#[derive(Deserialize)]
struct SessionRequest {
    v: u32,
    host_id: Uuid,
    #[serde(default)]
    features: Vec<String>,
    /// Asks for a sealed one.
    noise: Option<NoiseMessage>,
}

#[derive(Serialize)]
struct SessionAnswer<'a> {
    v: u32,
    session_id: Uuid,
    expires_at: i64,
    agent_time: i64,
    features: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise: Option<NoiseMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rekey_at: Option<i64>,
}

#[derive(Serialize)]
struct BrowserEntry<'a> {
    id: Uuid,
    name: &'a str,
    browser: &'a str,
    os: &'a str,
    device: &'a str,
    fingerprint: String,
    created_at: i64,
    last_used_at: i64,
    current: bool,
}

#[derive(Serialize)]
struct BrowserList<'a> {
    browsers: Vec<BrowserEntry<'a>>,
}

#[derive(Deserialize)]
struct Rename {
    name: String,
}

#[derive(Deserialize)]
struct CodeRequest {
    v: u32,
}

#[derive(Serialize)]
struct CodeAnswer {
    v: u32,
    sealed_code: String,
    expires_at: i64,
}

/// An answer of the agent's own.
pub(super) enum Own {
    /// To a request that was verified.
    Signed(Response<Bytes>),
    /// To anybody, never signed.
    Open(Response<Bytes>),
}

/// An exchange that asks for one of the agent's own paths.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    /// Who asks.
    pub caller: &'a Browser,
    /// The end of the session.
    pub ended: &'a CancellationToken,
    /// What a secret in the answer is bound to.
    pub salt: [u8; 32],
}

/// Whether this path looks at no signature, so that nothing about it is signed.
pub(super) fn is_open(parts: &http::request::Parts) -> bool {
    matches!(route(&parts.method, parts.uri.path()), Ok(Route::Hello | Route::Start | Route::Finish))
}

impl Gate {
    /// Answers a request below `/_relay`.
    pub(super) async fn own(
        &self,
        head: &Head<'_>,
        body: &mut Option<Incoming>,
        credentials: &Credentials,
        now: i64,
    ) -> Result<Own, Refusal> {
        let route = route(head.method, head.path).map_err(no_route)?;
        match route {
            Route::Hello => return self.hello().map(Own::Open),
            Route::Start => {
                slowed(self.starts.lock().take(now))?;
                let request = read(body.take(), None).await?;
                return self.start(request, (self.clock)()).map(Own::Open);
            }
            Route::Finish => {
                slowed(self.finishes.lock().take(now))?;
                let message = read(body.take(), None).await?;
                return self.finish(message, (self.clock)()).await.map(Own::Open);
            }
            Route::Exchange => return Err(no_route(NoRoute::NotFound)),
            Route::Session | Route::Code | Route::Browsers | Route::Rename(_) | Route::Revoke(_) => {}
        }
        let signed = match credentials {
            Credentials::Signed(signed) => signed,
            Credentials::Unreadable(error) => return Err(verify::refusal(*error, now)),
            Credentials::None => {
                return Err(Refusal::new(
                    Code::SignatureMissing,
                    "Only a paired browser may ask for this, signed.",
                ));
            }
        };
        let keyed = if route == Route::Session { Keyed::ByBrowser } else { Keyed::BySession };
        let parts = head.signed_parts(!body.as_ref().is_none_or(Body::is_end_stream));
        let (caller, verified) = self.verify(signed, &parts, keyed, now)?;
        let digest = if verified.covers(&CONTENT_DIGEST) {
            ContentDigest::from_headers(head.headers).map_err(|error| verify::refusal(error, now))?
        } else {
            None
        };
        let digest = digest.map(|digest| digest.verifier());
        let body = read_bytes(there(body.take())?, digest).await?;
        // A body may take its time. What was true before it came need not be any more.
        if caller.has_ended() {
            return Err(crate::forward::session_ended());
        }
        let caller = &caller.browser;
        let answer = match route {
            Route::Session => self.session(caller, parse(&body)?, (self.clock)()),
            route => self.of_the_paired(route, caller, &body, verified.signature_hash()).await,
        };
        answer.map(Own::Signed)
    }

    /// Answers an exchange that asks for one of the agent's own paths.
    pub(super) async fn own_inside(
        &self,
        route: Result<Route, NoRoute>,
        body: Bytes,
        inside: Inside<'_>,
    ) -> Result<Response<Bytes>, Refusal> {
        if inside.ended.is_cancelled() {
            return Err(crate::forward::session_ended());
        }
        self.of_the_paired(route.map_err(no_route)?, inside.caller, &body, inside.salt).await
    }

    /// What a paired browser may ask for, signed or inside an exchange. A secret in the answer is bound to the
    /// request by `salt`.
    async fn of_the_paired(
        &self,
        route: Route,
        caller: &Browser,
        body: &[u8],
        salt: [u8; 32],
    ) -> Result<Response<Bytes>, Refusal> {
        match route {
            Route::Code => self.code(caller, parse(body)?, &salt, (self.clock)()),
            Route::Browsers => self.browsers(caller),
            Route::Rename(id) => self.rename(caller, id, parse(body)?).await,
            Route::Revoke(id) => self.revoke(id).await,
            Route::Hello | Route::Start | Route::Finish | Route::Session | Route::Exchange => {
                Err(no_route(NoRoute::NotFound))
            }
        }
    }

    fn hello(&self) -> Result<Response<Bytes>, Refusal> {
        let info = Pairing::agent_info();
        json(&Hello {
            v: VERSION,
            host_id: self.host_id()?,
            agent: HelloAgent { name: info.name, version: info.version },
            features: info.features,
            trust: self.trust.as_str().to_owned(),
            require: self.require.as_str().map(str::to_owned),
        })
    }

    fn start(&self, request: StartRequest, now: i64) -> Result<Response<Bytes>, Refusal> {
        check(request.v)?;
        let (pairing_id, message) = self.pairing.start(&request.message, now).map_err(not_paired)?;
        json(&StartResponse { v: VERSION, pairing_id, message })
    }

    async fn finish(&self, message: FinishMessage, now: i64) -> Result<Response<Bytes>, Refusal> {
        let answer = self.on_disk(move |pairing| pairing.finish(&message, now)).await?.map_err(not_paired)?;
        json(&answer)
    }

    fn session(
        &self,
        browser: &Browser,
        request: SessionRequest,
        now: i64,
    ) -> Result<Response<Bytes>, Refusal> {
        check(request.v)?;
        let host_id = self.host_id()?;
        if request.host_id != host_id {
            return Err(Refusal::new(Code::BadRequest, "The request is meant for another host."));
        }
        let (form, noise) = match &request.noise {
            None if self.require == Require::Sealed => return Err(super::sealed_required()),
            None => (Form::Signed, None),
            Some(noise) => self.handshake(browser, host_id, noise)?,
        };
        let owner = Owner { browser: browser.id, key: browser.ed25519, revoked: browser.revoked() };
        let session = self.sessions.open(Uuid::new_v4(), owner, form, now);
        // Revoked while it was asked for: the token that was taken is cancelled, and so is the session.
        if session.ended.is_cancelled() {
            return Err(Refusal::new(Code::NotPaired, "The browser was revoked just now."));
        }
        let ours = Pairing::agent_info().features;
        let both = ours.iter().filter(|ours| request.features.contains(ours)).map(String::as_str);
        json(&SessionAnswer {
            v: VERSION,
            session_id: session.id,
            expires_at: session.expires_at(),
            agent_time: now,
            features: both.collect(),
            noise,
            rekey_at: session.rekey_at(),
        })
    }

    /// Answers the handshake of a sealed session.
    fn handshake(
        &self,
        browser: &Browser,
        host_id: Uuid,
        asked: &NoiseMessage,
    ) -> Result<(Form, Option<NoiseMessage>), Refusal> {
        let responder = Responder {
            profile: asked.profile,
            key: &self.pairing.keys().dh,
            browser: &browser.x25519,
            psk: &browser.psk,
            host_id,
            client_id: browser.id,
        };
        let (message, keys) = responder
            .respond(&asked.message)
            .map_err(|error| Refusal::new(error.code(), "The handshake failed: pair this browser anew."))?;
        let answer = NoiseMessage { profile: asked.profile, message: message.to_vec() };
        Ok((Form::Sealed(keys), Some(answer)))
    }

    fn code(
        &self,
        caller: &Browser,
        request: CodeRequest,
        salt: &[u8; 32],
        now: i64,
    ) -> Result<Response<Bytes>, Refusal> {
        check(request.v)?;
        let issued = self.pairing.issue_code_by(caller, now).map_err(not_paired)?;
        let sealed = seal_code_with_salt(&issued.code, &caller.psk, salt)
            .map_err(|_| Refusal::new(Code::Internal, "The code could not be sealed."))?;
        let sealed_code = b64::encode(sealed);
        json(&CodeAnswer { v: VERSION, sealed_code, expires_at: issued.expires_at })
    }

    fn browsers(&self, caller: &Browser) -> Result<Response<Bytes>, Refusal> {
        let list = self.pairing.browsers().list();
        json(&BrowserList { browsers: list.iter().map(|browser| self.entry(browser, caller)).collect() })
    }

    fn entry<'a>(&self, browser: &'a Browser, caller: &Browser) -> BrowserEntry<'a> {
        BrowserEntry {
            id: browser.id,
            name: &browser.name,
            browser: &browser.browser,
            os: &browser.os,
            device: &browser.device,
            fingerprint: self.pairing.fingerprint(browser).to_string(),
            created_at: browser.created_at,
            last_used_at: browser.last_used_at(),
            current: browser.id == caller.id,
        }
    }

    async fn rename(&self, caller: &Browser, id: Uuid, wanted: Rename) -> Result<Response<Bytes>, Refusal> {
        let renamed = self.on_disk(move |pairing| pairing.browsers().rename(id, &wanted.name)).await?;
        let renamed = renamed.map_err(not_changed)?;
        json(&self.entry(&renamed, caller))
    }

    async fn revoke(&self, id: Uuid) -> Result<Response<Bytes>, Refusal> {
        let revoked =
            self.on_disk(move |pairing| pairing.browsers().revoke(id)).await?.map_err(not_changed)?;
        tracing::info!(browser = %id, name = revoked.name, "a browser was revoked by a signed request");
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    /// What waits for the disk does not hold up the requests of others.
    async fn on_disk<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Pairing) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let pairing: Arc<Pairing> = self.pairing.clone();
        tokio::task::spawn_blocking(move || change(&pairing))
            .await
            .map_err(|_| Refusal::new(Code::Internal, "The agent could not do this. Its log says more."))
    }
}

/// There is nothing at a path, or not for this method.
pub(super) fn no_route(none: NoRoute) -> Refusal {
    match none {
        NoRoute::NotFound => Refusal::new(Code::NotFound, "The agent answers nothing under this path."),
        NoRoute::Method(allow) => {
            Refusal::new(Code::MethodNotAllowed, format!("This path takes {allow}.")).allow(allow)
        }
    }
}

fn slowed(taken: Result<(), i64>) -> Result<(), Refusal> {
    taken.map_err(|seconds| {
        Refusal::new(Code::RateLimited, "Too many attempts to pair. Wait a moment.").retry_after(seconds)
    })
}

fn check(v: u32) -> Result<(), Refusal> {
    check_version(v).map_err(|code| {
        let side = if code == Code::AgentOutdated { "The agent" } else { "The browser's side" };
        Refusal::new(code, format!("{side} is too old for the other. Upgrade it."))
    })
}

fn not_paired(error: PairingError) -> Refusal {
    let refusal = Refusal::new(error.code(), format!("{error}."));
    match error.retry_after() {
        Some(seconds) => refusal.retry_after(seconds),
        None => refusal,
    }
}

fn not_changed(error: TrustError) -> Refusal {
    if error.code() == Code::Internal {
        tracing::warn!(%error, "the list of browsers could not be changed");
        // Where files lie is nobody's business over there.
        return Refusal::new(
            Code::Internal,
            "The list of browsers could not be written. The agent's log says more.",
        );
    }
    Refusal::new(error.code(), format!("{error}."))
}

fn json(answer: &impl Serialize) -> Result<Response<Bytes>, Refusal> {
    let text =
        serde_json::to_vec(answer).map_err(|_| Refusal::new(Code::Internal, "The answer has no JSON."))?;
    let mut response = Response::new(Bytes::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
