//! Exchanges: one request and its answer, both as records (PROTOCOL.md section 5). One core, whatever carries the
//! bytes and whatever protects them.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`first`] | the first bytes of all exchanges, and the room that they have |
//! | [`begin`] | prelude and first record: whose it is, and that it is done once |
//! | [`reader`] | the browser's records from bytes |
//! | [`upload`] | the request's body on its way to the local server |
//! | [`headers`] | which headers reach the local server; pure |
//! | [`over_http`], [`stream`] | what carries an exchange: a request over the relay, a byte stream of any kind |

pub(super) mod begin;
pub(super) mod first;
mod headers;
mod over_http;
pub(super) mod reader;
mod stream;
mod upload;

use super::{
    Gate, headers as answer_headers, json_body::read_bytes, own::Inside, records::Records, routes::route,
    signed::client,
};
use crate::{
    forward::{
        self, Active, Connection, ResponseBody,
        body::Source,
        fault::Fault,
        path::{self, Owner},
        policy::Caller,
    },
    refusal::Refusal,
    trust::Browser,
};
use begin::Begun;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body;
use reader::Reader;
use relay_protocol::{exchange::RequestHead, problem::Code, record};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use upload::{Rest, Upload};
use url::{Position, Url};

/// Where an exchange came by.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// What the relay says, or the agent where there is none on the way.
    pub outer: &'a HeaderMap,
    /// The stream that carries it.
    pub connection: &'a Connection,
}

/// What was done with an exchange.
struct Answered {
    /// What is told.
    records: Records<ResponseBody>,
    /// Whether that is a refusal of the agent's and nothing else.
    refused: bool,
    /// What is left of the request, once nobody reads it any more.
    rest: oneshot::Receiver<Rest>,
}

impl Gate {
    /// Does what an exchange asks for.
    async fn answer(&self, begun: Begun<Reader>, way: Way<'_>, active: Active) -> Answered {
        let Begun { prelude, in_use, browser, head, rest: reader, protection } = begun;
        let ended = in_use.session().ended.clone();
        let (upload, rest) = Upload::new(reader, ended.clone());
        let wrong = upload.wrong();
        let head = readable(head);
        let own = head.as_ref().is_ok_and(|head| path::owner(head.target.path()) == Owner::Agent);
        let answered = match head {
            Err(refusal) => Err(refusal),
            Ok(head) if own => {
                let inside = Inside { caller: &browser, session: in_use.session(), salt: prelude.hash() };
                self.own_answer(head, upload, inside).await
            }
            Ok(head) => self.ask(head, upload, &browser, &ended, way, active).await,
        };
        let answered = match wrong.fault() {
            Some(fault) => Err(fault.refusal()),
            None => answered,
        };
        let refused = answered.is_err();
        let records = match answered {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let head = record::Head { status: parts.status, headers: parts.headers };
                let records = Records::answer(&head, body, protection, in_use, Some(wrong));
                // Who has revoked itself gets to know that it has.
                if own { records.to_its_end() } else { records }
            }
            Err(refusal) => {
                self.forwarder.stats().gate.refused(refusal.code());
                Records::error(refusal, protection, in_use)
            }
        };
        Answered { records, refused, rest }
    }

    /// An answer of the agent's own.
    async fn own_answer(
        &self,
        head: RequestHead,
        upload: Upload,
        inside: Inside<'_>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let route = route(&head.method, head.target.path());
        let body = read_bytes(upload, None).await?;
        let answer = self.own_inside(route, body, inside).await;
        self.count_sessions();
        answer.map(|answer| answer.map(ResponseBody::text))
    }

    /// The local server's answer.
    async fn ask(
        &self,
        head: RequestHead,
        mut upload: Upload,
        browser: &Browser,
        ended: &CancellationToken,
        way: Way<'_>,
        active: Active,
    ) -> Result<Response<ResponseBody>, Refusal> {
        if head.websocket {
            return Err(Fault::NotThisWay.refusal());
        }
        let bodiless = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE].contains(&head.method);
        upload.gather(bodiless).await;
        if let Some(fault) = upload.wrong().fault() {
            return Err(fault.refusal());
        }
        let (mut head, path) = self.for_local(head, browser, way.outer)?;
        if !bodiless && Body::is_end_stream(&upload) {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let mut request = Request::new(Source::Records(Box::new(upload)));
        *request.method_mut() = head.method;
        *request.uri_mut() = Uri::from(head.target);
        *request.headers_mut() = head.headers;
        let caller = client(browser.id).map_or(Caller::Unknown, Caller::Exchange);
        let forwarding = self.forwarder.forward(request, caller, way.connection, active);
        let mut response = tokio::select! {
            biased;
            () = ended.cancelled() => return Err(forward::session_ended()),
            forwarded = forwarding => forwarded?,
        };
        let clears = answer_headers::clears_cookies(response.headers());
        let cookies = answer_headers::response(response.headers_mut());
        self.take_cookies(browser, clears, &cookies, &path);
        Ok(response)
    }

    /// A request as the local server is to see it, and its path as the local server knows it.
    ///
    /// # Errors
    /// When nobody gets what it asks for.
    pub(super) fn for_local(
        &self,
        mut head: RequestHead,
        browser: &Browser,
        outer: &HeaderMap,
    ) -> Result<(RequestHead, String), Refusal> {
        if path::owner(head.target.path()) != Owner::Local {
            return Err(Refusal::new(
                Code::NotFound,
                "Paths that can be read as the agent's own are not forwarded.",
            ));
        }
        let path = self.forwarder.local_path(head.target.path());
        let cookie = self.jars.header(browser, &path, (self.clock)());
        let host = self.relay_url().and_then(|relay| HeaderValue::try_from(host_of(&relay)).ok());
        head.headers = headers::request(head.headers, outer, host, cookie);
        Ok((head, path))
    }

    /// Keeps what the answer to a request for `path` says of cookies. What it clears are those that were there before.
    pub(super) fn take_cookies(&self, browser: &Browser, clears: bool, cookies: &[HeaderValue], path: &str) {
        if clears {
            self.jars.clear(browser);
        }
        self.jars.store(browser, cookies, path, (self.clock)());
    }

    /// The relay as the agent itself knows it.
    fn relay_url(&self) -> Option<Url> {
        Url::parse(self.pairing.host().relay()).ok()
    }
}

/// What a browser says in `Host`.
fn host_of(url: &Url) -> &str {
    &url[Position::BeforeHost..Position::AfterPort]
}

/// What a HEAD says. The record was the browser's, so that it may be told what is wrong with it.
pub(super) fn readable(head: Result<RequestHead, Fault>) -> Result<RequestHead, Refusal> {
    head.map_err(Fault::refusal)
}
