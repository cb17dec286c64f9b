//! Exchanges of PROTOCOL.md section 5, from a paired browser in Rust: in sealed sessions, and in the signed
//! form too. As [`crate::signed`], it speaks to whatever stands at the browser's `addr`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, uri::PathAndQuery,
};
use hyper::body::{Frame, Incoming};
use relay_protocol::{
    exchange::{self, Prelude, RequestHead},
    problem::Problem,
    record::{self, Clock, Direction, Kind, MAX_DATA, Protect},
    sealed::{Initiator, NoiseMessage, Profile, SessionKeys, Start},
    signature::{digest::ContentDigest, refusal},
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    client::{self, Body, Connection, Reply, full},
    records::{FromAgent, Socket, Stream, ToAgent},
    signed::{Answer, Browser, Failure, tampered, unsigned},
};

/// A session that takes exchanges.
pub struct Session<'a> {
    /// Whose.
    pub browser: &'a Browser,
    /// Its id.
    pub id: Uuid,
    /// The keys of a sealed one.
    pub keys: Option<SessionKeys>,
    /// Until when a sealed one takes new exchanges.
    pub rekey_at: Option<i64>,
    /// The clock by which keys get old. Tests move it.
    pub clock: Clock,
    next: AtomicU64,
}

/// The browser's half of a handshake.
pub struct Handshake {
    initiator: Initiator,
    /// What goes into the request for a session.
    pub message: NoiseMessage,
}

impl Browser {
    /// Begins a handshake.
    pub fn handshake(&self, profile: Profile) -> Handshake {
        let (initiator, message) = Initiator::start(&Start {
            profile,
            key: &self.dh,
            agent: &self.agent_dh,
            psk: &self.psk,
            host_id: self.host,
            client_id: self.client_id,
        })
        .expect("good keys");
        Handshake { initiator, message: NoiseMessage { profile, message: message.to_vec() } }
    }

    /// Begins a sealed session, as browsers do.
    pub async fn sealed(&self) -> Result<Session<'_>, Failure> {
        self.sealed_by(Profile::NoiseIkPsk2).await
    }

    /// The same with another profile.
    pub async fn sealed_by(&self, profile: Profile) -> Result<Session<'_>, Failure> {
        let Handshake { initiator, message } = self.handshake(profile);
        let made = self.ask_session(Some(&message)).await?;
        let answer = made.noise.ok_or_else(|| tampered("the session is signed, not sealed"))?;
        if answer.profile != profile {
            return Err(tampered("another profile"));
        }
        let keys = initiator.finish(&answer.message).map_err(tampered)?;
        Ok(Session::new(self, made.session_id, Some(keys), made.rekey_at))
    }

    /// Begins a signed session that takes exchanges.
    pub async fn exchanges(&self) -> Result<Session<'_>, Failure> {
        let made = self.ask_session(None).await?;
        Ok(Session::new(self, made.session_id, None, None))
    }
}

/// The browser's end of one exchange: its prelude, and its records one after the other.
pub struct Exchange {
    /// What it begins with.
    pub prelude: Prelude,
    protect: ToAgent,
}

impl Exchange {
    /// The next record.
    pub fn record(&mut self, kind: Kind, payload: impl Into<Bytes>) -> Bytes {
        self.protect.protect(kind, payload.into()).expect("within the limits").to_bytes()
    }

    /// The record HEAD of a request, behind the prelude.
    pub fn begin<T>(&mut self, request: &Request<T>) -> Bytes {
        let target = request.uri().path_and_query().cloned();
        let head = RequestHead {
            method: request.method().clone(),
            target: target.unwrap_or_else(|| PathAndQuery::from_static("/")),
            headers: request.headers().clone(),
            websocket: false,
        };
        self.begin_with(&head)
    }

    /// The same from the head itself.
    pub fn begin_with(&mut self, head: &RequestHead) -> Bytes {
        let record = self.record(Kind::Head, head.encode().expect("a head"));
        [&self.prelude.to_bytes()[..], &record].concat().into()
    }
}

/// All of the browser's bytes of an exchange. They may be sent again. Tests may alter them.
#[derive(Debug, Clone)]
pub struct Whole {
    /// What they begin with.
    pub prelude: Prelude,
    /// Prelude and records.
    pub bytes: Bytes,
}

/// An exchange whose request is still being written.
pub struct Upload<'a> {
    /// Its end in the session.
    pub exchange: Exchange,
    session: &'a Session<'a>,
    body: mpsc::Sender<Frame<Bytes>>,
    response: tokio::task::JoinHandle<Result<Response<Incoming>, anyhow::Error>>,
}

impl Upload<'_> {
    /// Sends the next record.
    pub async fn send(&mut self, kind: Kind, payload: impl Into<Bytes>) -> Result<(), Failure> {
        let record = self.exchange.record(kind, payload);
        self.send_bytes(record).await
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), Failure> {
        self.body.send(Frame::data(bytes)).await.map_err(|_| Failure::Nothing("nobody reads".into()))
    }

    /// Ends the browser's bytes, and returns once the head of the answer is here.
    pub async fn answer(self) -> Result<Stream, Failure> {
        drop(self.body);
        let response = self.response.await.expect("it does not panic");
        let response = response.map_err(|e| Failure::Nothing(format!("{e:#}")))?;
        self.session.read(&self.exchange.prelude, response).await
    }
}

impl<'a> Session<'a> {
    /// A session that was made in some other way.
    pub fn new(browser: &'a Browser, id: Uuid, keys: Option<SessionKeys>, rekey_at: Option<i64>) -> Self {
        let clock: Clock = Arc::new(crate::tokens::now);
        Self { browser, id, keys, rekey_at, clock, next: AtomicU64::new(0) }
    }

    /// The prelude of the next exchange.
    pub fn prelude(&self) -> Prelude {
        Prelude { session_id: self.id, number: self.next.fetch_add(1, Ordering::SeqCst) }
    }

    fn protector(&self, prelude: &Prelude) -> ToAgent {
        match &self.keys {
            Some(keys) => ToAgent::sealed(keys, prelude, Direction::ToAgent, Arc::clone(&self.clock)),
            None => ToAgent::signed(self.browser.signing_key(), prelude.binding(), Direction::ToAgent),
        }
    }

    /// Opens the agent's records of an exchange.
    pub fn opener(&self, prelude: &Prelude) -> FromAgent {
        match &self.keys {
            Some(keys) => FromAgent::sealed(keys, prelude, Direction::ToBrowser),
            None => FromAgent::signed(self.browser.agent, prelude.binding(), Direction::ToBrowser),
        }
    }

    /// Begins the next exchange.
    pub fn exchange(&self) -> Exchange {
        self.exchange_at(self.prelude())
    }

    /// Begins one with a prelude of the test's.
    pub fn exchange_at(&self, prelude: Prelude) -> Exchange {
        Exchange { prelude, protect: self.protector(&prelude) }
    }

    /// Seals or signs a request as the next exchange.
    pub fn seal(&self, request: &Request<Bytes>) -> Whole {
        let mut exchange = self.exchange();
        let mut bytes = BytesMut::with_capacity(request.body().len() + 4096);
        bytes.extend_from_slice(&exchange.begin(request));
        let mut write = |kind, payload| {
            exchange.protect.protect(kind, payload).expect("within the limits").write(&mut bytes);
        };
        let mut rest = request.body().clone();
        while !rest.is_empty() {
            write(Kind::Data, rest.split_to(rest.len().min(MAX_DATA)));
        }
        write(Kind::End, Bytes::new());
        Whole { prelude: exchange.prelude, bytes: bytes.into() }
    }

    /// The outer request, as it goes to the relay.
    pub fn outer(&self, body: Body) -> Request<Body> {
        Request::post(format!("{}{}", self.browser.prefix, exchange::PATH))
            .header(header::CONTENT_TYPE, record::MEDIA_TYPE)
            .body(body)
            .expect("a request")
    }

    /// Sends a request and reads its whole answer.
    pub async fn fetch(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        self.send(&self.seal(&request)).await
    }

    /// A GET.
    pub async fn get(&self, target: &str) -> Result<Answer, Failure> {
        self.fetch(Request::get(target).body(Bytes::new()).expect("a request")).await
    }

    /// Sends the bytes of an exchange and reads its whole answer.
    pub async fn send(&self, whole: &Whole) -> Result<Answer, Failure> {
        self.open(whole).await?.collect().await
    }

    /// Sends the bytes of an exchange, and returns once the head of its answer is here.
    pub async fn open(&self, whole: &Whole) -> Result<Stream, Failure> {
        let response = client::send(self.browser.addr, self.outer(full(whole.bytes.clone()))).await;
        self.read(&whole.prelude, response.map_err(|e| Failure::Nothing(format!("{e:#}")))?).await
    }

    /// The same on a connection that is there.
    pub async fn open_on(&self, connection: &mut Connection, whole: &Whole) -> Result<Stream, Failure> {
        let response = connection.send(self.outer(full(whole.bytes.clone()))).await;
        self.read(&whole.prelude, response.map_err(|e| Failure::Nothing(e.to_string()))?).await
    }

    /// Begins an exchange whose body the test writes.
    pub async fn upload(&self, request: Request<()>) -> Upload<'_> {
        let mut exchange = self.exchange();
        let first = exchange.begin(&request);
        let (body, outer) = client::channel();
        let (addr, outer) = (self.browser.addr, self.outer(outer));
        let response = tokio::spawn(async move { client::send(addr, outer).await });
        body.send(Frame::data(first)).await.expect("there is room");
        Upload { exchange, session: self, body, response }
    }

    /// Reads the head of an answer, or the refusal.
    async fn read(&self, prelude: &Prelude, response: Response<Incoming>) -> Result<Stream, Failure> {
        let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if response.status() == StatusCode::OK && kind == Some(record::MEDIA_TYPE.as_bytes()) {
            return Stream::begin(response, self.opener(prelude)).await;
        }
        let reply = Reply::collect(response).await.map_err(|_| Failure::Truncated)?;
        Err(self.refusal(prelude, &reply))
    }

    /// What a refusal says, and whether the agent said it of this exchange.
    pub fn refusal(&self, prelude: &Prelude, reply: &Reply) -> Failure {
        let Reply { status, headers, body, .. } = reply;
        let refusal = refusal::Refusal { status: *status, headers, prelude, host_id: self.browser.host };
        match refusal::verify(&refusal, &self.browser.agent) {
            Err(error) => return tampered(error),
            Ok(None) => return unsigned(reply),
            Ok(Some(_)) => {}
        }
        let digest = match ContentDigest::from_headers(headers) {
            Ok(Some(digest)) => digest,
            Ok(None) => return tampered("no digest"),
            Err(error) => return tampered(error),
        };
        let mut check = digest.verifier();
        check.update(body);
        match (check.finish(), serde_json::from_slice::<Problem>(body)) {
            (Ok(()), Ok(problem)) => Failure::Agent(problem.code),
            (Err(error), _) => tampered(error),
            (_, Err(error)) => tampered(error),
        }
    }

    /// Opens a WebSocket.
    pub async fn websocket(&self, target: &str, protocols: Option<&str>) -> Result<Socket, Failure> {
        let (path, exchange) = self.seal_upgrade(target, protocols);
        self.websocket_at(&path, exchange).await
    }

    /// The path of an upgrade at the relay, and the exchange that goes on in it.
    pub fn seal_upgrade(&self, target: &str, protocols: Option<&str>) -> (String, Exchange) {
        let mut exchange = self.exchange();
        let mut headers = HeaderMap::new();
        if let Some(protocols) = protocols {
            let name = HeaderName::from_static("sec-websocket-protocol");
            headers.insert(name, HeaderValue::from_str(protocols).expect("a header value"));
        }
        let target = target.parse().expect("a target");
        let head = RequestHead { method: Method::GET, target, headers, websocket: true };
        let record = exchange.record(Kind::Head, head.encode().expect("a head"));
        let query = exchange::encode_query(&exchange.prelude, &record).expect("short enough");
        (format!("{}{}?{query}", self.browser.prefix, exchange::PATH), exchange)
    }

    /// Opens a WebSocket by a path that was made before.
    pub async fn websocket_at(&self, path: &str, exchange: Exchange) -> Result<Socket, Failure> {
        let opener = self.opener(&exchange.prelude);
        Socket::connect(self.browser.addr, path, &[], opener, exchange.protect).await
    }
}
