//! A paired browser in Rust: pairs by six digits, signs, and believes nothing that does not verify. It
//! follows PROTOCOL.md sections 3 and 4, and speaks to whatever stands at `addr`: the relay, or something
//! hostile in front of it.

use std::{net::SocketAddr, sync::atomic::AtomicI64, sync::atomic::Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use relay_protocol::{
    keys::{AgentDhPublicKey, AgentVerifyingKey, BrowserDhKey, BrowserSigningKey, BrowserVerifyingKey, b64},
    pairing::{
        BrowserClaims, BrowserStart, ClientInfo, Code as PairingCode, Fingerprint, FinishMessage, Psk,
        StartRequest, StartResponse, VERSION,
    },
    problem::{Code, Problem},
    record::{self, Binding, Direction, Opener, Protector},
    sealed::NoiseMessage,
    signature::{
        append_query,
        base::Answered,
        digest::{CONTENT_DIGEST, ContentDigest},
        input::SignatureInput,
        request::{self, Made, Parts, Stamp},
        response,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::client::{self, Body, Reply, full};

pub use crate::records::{Socket, Stream};

/// Asks for a record stream.
const X_RELAY_RECORDS: HeaderName = HeaderName::from_static("x-relay-records");

/// Why something did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The agent said so, by a signature that is right.
    Agent(Code),
    /// Somebody said so who is not the agent, or not provably.
    Unsigned(StatusCode, Option<Code>),
    /// What came does not verify.
    Tampered(String),
    /// The answer broke off.
    Truncated,
    /// No answer came.
    Nothing(String),
}

/// Tells that something does not verify.
pub fn tampered(what: impl ToString) -> Failure {
    Failure::Tampered(what.to_string())
}

/// A browser that was paired.
pub struct Browser {
    /// Where requests go.
    pub addr: SocketAddr,
    /// The prefix of the relay's session, without a slash at its end.
    pub prefix: String,
    /// The host.
    pub host: Uuid,
    /// The id under which the agent knows it.
    pub client_id: Uuid,
    /// Its key.
    pub key: BrowserSigningKey,
    /// The agent's key.
    pub agent: AgentVerifyingKey,
    /// Its key for sealed sessions.
    pub dh: BrowserDhKey,
    /// The agent's.
    pub agent_dh: AgentDhPublicKey,
    /// The secret that both keep.
    pub psk: Psk,
    /// The agent's clock less this one's, seconds. Tests move it.
    pub offset: AtomicI64,
}

/// A signing session.
pub struct Session<'a> {
    /// Whose.
    pub browser: &'a Browser,
    /// Its id.
    pub id: Uuid,
}

/// A whole verified answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers that are protected.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: HeaderMap,
    /// The headers of the outer response, which the relay may have changed.
    pub outer: HeaderMap,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The answer of /_relay/session.
#[derive(Debug, Deserialize)]
pub struct NewSession {
    /// Its id.
    pub session_id: Uuid,
    /// The agent's clock.
    pub agent_time: i64,
    /// The second handshake message of a sealed one.
    pub noise: Option<NoiseMessage>,
    /// Until when a sealed one takes new exchanges.
    pub rekey_at: Option<i64>,
    /// What the agent can do.
    pub features: Vec<String>,
}

/// Sends JSON to a path of the agent's own, unsigned.
pub async fn post<T: DeserializeOwned>(
    addr: SocketAddr,
    path: &str,
    body: serde_json::Value,
) -> Result<T, Failure> {
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(full(body.to_string())).expect("a request");
    let reply = client::try_fetch(addr, request).await.map_err(|e| Failure::Nothing(format!("{e:#}")))?;
    if reply.status != StatusCode::OK {
        return Err(unsigned(&reply));
    }
    serde_json::from_slice(&reply.body).map_err(tampered)
}

pub(crate) fn unsigned(reply: &Reply) -> Failure {
    let problem: Option<Problem> = serde_json::from_slice(&reply.body).ok();
    Failure::Unsigned(reply.status, problem.map(|problem| problem.code))
}

impl Browser {
    /// Pairs by six digits, over the relay's session with this prefix.
    pub async fn pair(addr: SocketAddr, prefix: &str, host: Uuid, code: &str) -> Result<Self, Failure> {
        let code = PairingCode::parse(code).expect("six digits");
        let (key, dh) = {
            let mut rng = rand::rng();
            (BrowserSigningKey::generate(&mut rng), BrowserDhKey::generate(&mut rng))
        };
        let (start, message) = BrowserStart::new(&code, host, &mut rand::rng()).map_err(tampered)?;
        let asked = StartRequest { v: VERSION, features: vec![], message: message.to_vec() };
        let path = format!("{prefix}/_relay/pairing/start");
        let answer: StartResponse = post(addr, &path, json!(asked)).await?;
        let claims = BrowserClaims {
            host_id: host,
            client: ClientInfo {
                id: Uuid::new_v4(),
                name: "a browser in a test".into(),
                browser: "Rust".into(),
                os: "Linux".into(),
                device: "desktop".into(),
            },
            ed25519: key.verifying_key(),
            x25519: dh.public_key(),
        };
        let (proved, finish) = start.prove(&answer, &claims).map_err(tampered)?;
        let answer: FinishMessage =
            post(addr, &format!("{prefix}/_relay/pairing/finish"), json!(finish)).await?;
        let paired = proved.finish(&answer).map_err(tampered)?;
        Ok(Self {
            addr,
            prefix: prefix.to_owned(),
            host,
            client_id: paired.agent.client_id,
            key,
            agent: paired.agent.ed25519,
            dh,
            agent_dh: paired.agent.x25519,
            psk: paired.psk,
            offset: AtomicI64::new(0),
        })
    }

    /// What both ends show to people.
    pub fn fingerprint(&self) -> Fingerprint {
        let own: BrowserVerifyingKey = self.key.verifying_key();
        Fingerprint::new(&self.agent, &own)
    }

    /// The agent's time as this browser believes it to be.
    pub fn now(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = i64::try_from(since.expect("after 1970").as_secs()).expect("in range");
        now + self.offset.load(Ordering::SeqCst)
    }

    /// Signs a request for a target at the agent; every header that it has is covered.
    pub fn sign(&self, key_id: Uuid, request: Request<Bytes>) -> Signed {
        let (mut parts, body) = request.into_parts();
        if !body.is_empty() {
            parts.headers.insert(CONTENT_DIGEST, ContentDigest::field_sha256(&body));
        }
        let cover: Vec<HeaderName> = parts.headers.keys().cloned().collect();
        let made = request::sign(
            &Parts {
                method: &parts.method,
                path: parts.uri.path(),
                query: parts.uri.query(),
                headers: &parts.headers,
                has_body: !body.is_empty(),
            },
            &cover,
            Stamp { created: self.now(), key_id: &key_id.to_string(), nonce: &nonce() },
            &self.key,
        )
        .expect("everything that is covered is there");
        Signed::new(parts, body, made)
    }

    /// Begins a signing session.
    pub async fn session(&self) -> Result<Session<'_>, Failure> {
        Ok(Session { browser: self, id: self.ask_session(None).await?.session_id })
    }

    /// The signed request for a session; for a sealed one with the first handshake message.
    pub fn sign_session(&self, noise: Option<&NoiseMessage>) -> Signed {
        let features = ["records", "websocket", "exchange", "sealed"];
        let mut body = json!({"v": VERSION, "host_id": self.host, "features": features});
        if let Some(noise) = noise {
            body["noise"] = json!(noise);
        }
        let request = Request::post("/_relay/session").header("content-type", "application/json");
        self.sign(self.client_id, request.body(Bytes::from(body.to_string())).expect("a request"))
    }

    /// Asks the agent for a session.
    pub async fn ask_session(&self, noise: Option<&NoiseMessage>) -> Result<NewSession, Failure> {
        let answer = self.sign_session(noise).send_buffered(self).await?;
        let made: NewSession = serde_json::from_slice(&answer.body).map_err(tampered)?;
        self.offset.fetch_add(made.agent_time - self.now(), Ordering::SeqCst);
        Ok(made)
    }

    /// The key again, for what signs records.
    pub fn signing_key(&self) -> BrowserSigningKey {
        BrowserSigningKey::from_seed(&self.key.reveal_seed())
    }
}

/// 16 random bytes.
fn nonce() -> String {
    b64::encode(rand::random::<[u8; 16]>())
}

/// A signed request, for a target at the agent: without the relay's prefix. Tests may alter it.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The request.
    pub request: Request<Bytes>,
    /// Its signature.
    pub signature: [u8; 64],
    /// What was signed, whatever becomes of the request: its answer must be to this.
    pub asked: Asked,
}

/// What a request was when it was signed.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The target at the agent.
    pub uri: Uri,
    /// What the signature covers.
    pub input: SignatureInput,
}

impl Signed {
    /// A request with the signature that was made for it.
    pub fn new(mut parts: http::request::Parts, body: Bytes, made: Made) -> Self {
        made.insert(&mut parts.headers);
        let asked = Asked { method: parts.method.clone(), uri: parts.uri.clone(), input: made.input };
        Self { request: Request::from_parts(parts, body), signature: made.signature, asked }
    }

    /// The request as it goes to the relay.
    pub fn outer(&self, browser: &Browser) -> Request<Body> {
        let mut outer = self.request.clone();
        let target = format!("{}{}", browser.prefix, self.request.uri());
        *outer.uri_mut() = target.parse().expect("a target");
        outer.map(|body| if body.is_empty() { client::empty() } else { full(body) })
    }

    /// Sends it and verifies an answer in one piece.
    pub async fn send_buffered(&self, browser: &Browser) -> Result<Answer, Failure> {
        let reply = client::try_fetch(browser.addr, self.outer(browser)).await;
        let reply = reply.map_err(|e| Failure::Nothing(format!("{e:#}")))?;
        let answer = self.verify(browser, reply)?;
        match answer.headers.get("content-type").map(HeaderValue::as_bytes) {
            Some(b"application/problem+json") => {
                let problem: Problem = serde_json::from_slice(&answer.body).map_err(tampered)?;
                Err(Failure::Agent(problem.code))
            }
            _ => Ok(answer),
        }
    }

    /// Verifies an answer in one piece.
    pub fn verify(&self, browser: &Browser, reply: Reply) -> Result<Answer, Failure> {
        let parts = response::Parts {
            status: reply.status,
            headers: &reply.headers,
            request: Answered {
                method: &self.asked.method,
                path: self.asked.uri.path(),
                query: self.asked.uri.query(),
                input: &self.asked.input,
                signature: &self.signature,
            },
            host_id: browser.host,
        };
        let Some(_) = response::verify(&parts, &browser.agent).map_err(tampered)? else {
            return Err(unsigned(&reply));
        };
        let digest = ContentDigest::from_headers(&reply.headers).map_err(tampered)?;
        let mut check = digest.ok_or_else(|| tampered("no digest"))?.verifier();
        check.update(&reply.body);
        check.finish().map_err(tampered)?;
        Ok(Answer {
            status: reply.status,
            headers: reply.headers.clone(),
            body: reply.body,
            trailers: HeaderMap::new(),
            outer: reply.headers,
        })
    }
}

impl<'a> Session<'a> {
    /// Signs a request of this session that asks for records.
    pub fn sign(&self, mut request: Request<Bytes>) -> Signed {
        request.headers_mut().insert(X_RELAY_RECORDS, HeaderValue::from_static("1"));
        self.browser.sign(self.id, request)
    }

    /// What binds the records of an exchange to it.
    pub fn binding(&self, signature: &[u8; 64]) -> Binding {
        Binding { session_id: self.id, request_hash: Sha256::digest(signature).into() }
    }

    /// Sends a request and reads its whole answer.
    pub async fn fetch(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        self.send(&self.sign(request)).await
    }

    /// A GET.
    pub async fn get(&self, target: &str) -> Result<Answer, Failure> {
        self.fetch(Request::get(target).body(Bytes::new()).expect("a request")).await
    }

    /// Sends a signed request and reads its whole answer.
    pub async fn send(&self, signed: &Signed) -> Result<Answer, Failure> {
        self.open(signed).await?.collect().await
    }

    /// Sends a signed request, and returns once the head of its answer is here.
    pub async fn open(&self, signed: &Signed) -> Result<Stream, Failure> {
        let browser = self.browser;
        let response = client::send(browser.addr, signed.outer(browser)).await;
        let response = response.map_err(|e| Failure::Nothing(format!("{e:#}")))?;
        let kind = response.headers().get("content-type").map(HeaderValue::as_bytes);
        if kind != Some(record::MEDIA_TYPE.as_bytes()) {
            let reply = Reply::collect(response).await.map_err(|_| Failure::Truncated)?;
            let answer = signed.verify(browser, reply)?;
            let problem: Problem = serde_json::from_slice(&answer.body).map_err(tampered)?;
            return Err(Failure::Agent(problem.code));
        }
        let binding = self.binding(&signed.signature);
        Stream::begin(response, Opener::signed(browser.agent, binding, Direction::ToBrowser)).await
    }

    /// Opens a WebSocket.
    pub async fn websocket(&self, target: &str, protocols: Option<&str>) -> Result<Socket, Failure> {
        let (path, made) = self.sign_upgrade(target, protocols);
        self.websocket_at(&path, &made, protocols).await
    }

    /// The path of an upgrade at the relay, and its signature.
    pub fn sign_upgrade(&self, target: &str, protocols: Option<&str>) -> (String, Made) {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut headers = HeaderMap::new();
        if let Some(protocols) = protocols {
            let value = HeaderValue::from_str(protocols).expect("a header value");
            headers.insert("sec-websocket-protocol", value);
        }
        let browser = self.browser;
        let made = request::sign_upgrade(
            &Parts { method: &Method::GET, path, query, headers: &headers, has_body: false },
            Stamp { created: browser.now(), key_id: &self.id.to_string(), nonce: &nonce() },
            &browser.key,
        )
        .expect("everything that is covered is there");
        (format!("{}{path}?{}", browser.prefix, append_query(query, &made)), made)
    }

    /// Opens a WebSocket by a path and a signature that were made before.
    pub async fn websocket_at(
        &self,
        path: &str,
        made: &Made,
        protocols: Option<&str>,
    ) -> Result<Socket, Failure> {
        let browser = self.browser;
        let headers: Vec<_> = protocols.map(|value| ("sec-websocket-protocol", value)).into_iter().collect();
        let binding = self.binding(&made.signature);
        let opener = Opener::signed(browser.agent, binding, Direction::ToBrowser);
        let protector = Protector::signed(browser.signing_key(), binding, Direction::ToAgent);
        Socket::connect(browser.addr, path, &headers, opener, protector).await
    }
}
