//! Daemons, clients and workers of the frame broker (`/ws`), as their own programs would speak.
//!
//! A [`Socket`] reads all the time, so that it answers pings, until it is [frozen](Socket::freeze). What it
//! read waits in order. [`frames`] makes every frame of the contract.

pub mod frames;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, StatusCode};
use relay_protocol::problem::{Code, Problem};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::SOON;

/// Enough for any frame that the relay may send.
const MAX_MESSAGE: usize = 64 << 20;

/// Where the token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Bearer`.
    Bearer,
    /// The sub-protocol `auth.<token>`.
    Protocol,
    /// `?token=`.
    Query,
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Dial {
    /// `role`, `workspaceId` and so on, in order; values are encoded.
    pub query: Vec<(String, String)>,
    /// The token and where it stands.
    pub token: Option<(Source, String)>,
    /// Sub-protocols besides the token's.
    pub protocols: Vec<String>,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Dial {
    /// With the token in the header.
    pub fn new(role: &str, workspace: &str, target: Option<&str>, token: &str) -> Self {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut query = vec![pair("role", role), pair("workspaceId", workspace)];
        query.extend(target.map(|target| pair("runtimeTargetId", target)));
        Self { query, token: Some((Source::Bearer, token.to_owned())), protocols: vec![], headers: vec![] }
    }

    /// With the token elsewhere.
    pub fn by(mut self, source: Source) -> Self {
        self.token = self.token.map(|(_, token)| (source, token));
        self
    }

    /// Offers this sub-protocol too.
    pub fn protocol(mut self, name: &str) -> Self {
        self.protocols.push(name.to_owned());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn request(&self, relay: SocketAddr) -> http::Request<()> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.query);
        let mut protocols = self.protocols.clone();
        let mut bearer = None;
        match &self.token {
            Some((Source::Bearer, token)) => bearer = Some(format!("Bearer {token}")),
            Some((Source::Protocol, token)) => protocols.push(format!("auth.{token}")),
            Some((Source::Query, token)) => {
                query.append_pair("token", token);
            }
            None => {}
        }
        let url = format!("ws://{relay}/ws?{}", query.finish());
        let mut request = url.into_client_request().expect("a request");
        let mut add = |name: &'static str, value: &str| {
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header value"));
        };
        if let Some(bearer) = bearer {
            add("authorization", &bearer);
        }
        if !protocols.is_empty() {
            add("sec-websocket-protocol", &protocols.join(", "));
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        request
    }

    /// Connects.
    ///
    /// # Errors
    /// The library's; a refusal is its `Http`.
    pub async fn try_connect(&self, relay: SocketAddr) -> Result<Socket, Error> {
        let tcp = TcpStream::connect(relay).await?;
        tcp.set_nodelay(true)?;
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let (ws, response) =
            tokio_tungstenite::client_async_with_config(self.request(relay), tcp, Some(config)).await?;
        let protocol = response.headers().get("sec-websocket-protocol").and_then(|v| v.to_str().ok());
        Ok(Socket::new(ws, protocol.map(str::to_owned)))
    }

    /// Connects and is admitted.
    pub async fn connect(&self, relay: SocketAddr) -> Socket {
        self.try_connect(relay).await.unwrap_or_else(|e| panic!("{:?}: {e}: {}", self.query, body_of(&e)))
    }

    /// Is refused with this problem before the upgrade.
    pub async fn refused(&self, relay: SocketAddr) -> Code {
        match self.try_connect(relay).await {
            Err(error @ Error::Http(_)) => {
                let text = body_of(&error);
                let problem: Problem =
                    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {error}: {text}"));
                let Error::Http(response) = error else { unreachable!() };
                assert_eq!(response.status(), StatusCode::from_u16(problem.status).expect("a status"));
                problem.code
            }
            Err(other) => panic!("{:?}: {other}", self.query),
            Ok(_) => panic!("{:?} was admitted", self.query),
        }
    }

    /// Is admitted and then closed with this code; gives the frames that came before, and the reason.
    pub async fn closed(&self, relay: SocketAddr, code: u16) -> (Vec<Value>, String) {
        let mut socket = self.connect(relay).await;
        let mut frames = Vec::new();
        loop {
            match socket.event().await {
                Event::Frame(text) => frames.push(serde_json::from_str(&text).expect("JSON")),
                Event::Closed(Some((found, reason))) => {
                    assert_eq!(found, code, "{:?}: {reason}", self.query);
                    return (frames, reason);
                }
                Event::Closed(None) => panic!("{:?}: the connection ended without a close", self.query),
            }
        }
    }
}

fn body_of(error: &Error) -> String {
    match error {
        Error::Http(response) => {
            String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned()
        }
        _ => String::new(),
    }
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A text frame.
    Frame(String),
    /// The end, with the code and the reason if there was a close.
    Closed(Option<(u16, String)>),
}

type Ws = WebSocketStream<TcpStream>;

/// A socket that was admitted.
pub struct Socket {
    /// The sub-protocol that the relay selected.
    pub protocol: Option<String>,
    sink: SplitSink<Ws, Message>,
    events: mpsc::UnboundedReceiver<Event>,
    early: VecDeque<Event>,
    frozen: watch::Sender<bool>,
    reading: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Socket {
    fn new(ws: Ws, protocol: Option<String>) -> Self {
        let (sink, mut stream) = ws.split();
        let (tx, events) = mpsc::unbounded_channel();
        let frozen = watch::Sender::new(false);
        let mut pause = frozen.subscribe();
        let reading = tokio::spawn(async move {
            let mut close = None;
            loop {
                let message = tokio::select! {
                    biased;
                    paused = pause.wait_for(|frozen| *frozen) => match paused.is_ok() {
                        true => None,
                        false => return,
                    },
                    message = stream.next() => Some(message),
                };
                let Some(message) = message else {
                    if pause.wait_for(|frozen| !*frozen).await.is_err() {
                        return;
                    }
                    continue;
                };
                let Some(Ok(message)) = message else { break };
                match message {
                    Message::Text(text) => {
                        tx.send(Event::Frame(text.as_str().to_owned())).ok();
                    }
                    Message::Close(frame) => {
                        close = frame.map(|f| (u16::from(f.code), f.reason.as_str().to_owned()));
                    }
                    _ => {}
                }
            }
            tx.send(Event::Closed(close)).ok();
        });
        Self { protocol, sink, events, early: VecDeque::new(), frozen, reading }
    }

    /// Reads no more, and so answers no pings; the connection stays. What a stopped process does.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Reads again.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Value) {
        self.send_text(frame.to_string()).await;
    }

    /// Sends a text as it is.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.try_send(Message::text(text.into())).await.expect("the relay reads");
    }

    /// Sends any message, or tells why not.
    ///
    /// # Errors
    /// The library's.
    pub async fn try_send(&mut self, message: Message) -> Result<(), Error> {
        self.sink.send(message).await
    }

    /// What comes next.
    pub async fn event(&mut self) -> Event {
        self.event_within(SOON).await.unwrap_or_else(|| panic!("nothing comes within {SOON:?}"))
    }

    /// What comes next, if it comes in this time.
    pub async fn event_within(&mut self, time: Duration) -> Option<Event> {
        if let Some(event) = self.early.pop_front() {
            return Some(event);
        }
        tokio::time::timeout(time, self.events.recv())
            .await
            .ok()
            .map(|event| event.unwrap_or(Event::Closed(None)))
    }

    /// The next frame as it came.
    pub async fn text(&mut self) -> String {
        match self.event().await {
            Event::Frame(text) => text,
            Event::Closed(close) => panic!("closed instead of a frame: {close:?}"),
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Value {
        serde_json::from_str(&self.text().await).expect("a frame is JSON")
    }

    /// The next frame, if one comes in this time: for whoever tries again then.
    pub async fn frame_within(&mut self, time: Duration) -> Option<Value> {
        match self.event_within(time).await? {
            Event::Frame(text) => Some(serde_json::from_str(&text).expect("a frame is JSON")),
            Event::Closed(close) => panic!("closed instead of a frame: {close:?}"),
        }
    }

    /// The next frame is this one, as it was sent.
    pub async fn expect(&mut self, frame: &Value) {
        let found = self.frame().await;
        assert_eq!(&found, frame);
    }

    /// The next frame is a status with this code; gives it.
    pub async fn status(&mut self, code: &str) -> Value {
        let frame = self.frame().await;
        assert_eq!((&frame["type"], &frame["code"]), (&json!("relay_status"), &json!(code)), "{frame}");
        assert!(frame["message"].as_str().is_some_and(|text| !text.is_empty()), "{frame}");
        frame
    }

    /// Skips frames until one that `wanted` accepts.
    pub async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.frame().await;
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// The relay closes it; frames before that are skipped.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.event().await {
                Event::Frame(_) => {}
                Event::Closed(Some(close)) => return close,
                Event::Closed(None) => panic!("the connection ended without a close"),
            }
        }
    }

    /// The connection ends, with or without a close.
    pub async fn ended(&mut self) -> Option<(u16, String)> {
        loop {
            match self.event().await {
                Event::Frame(_) => {}
                Event::Closed(close) => return close,
            }
        }
    }

    /// Nothing has come up to now. Only after something else was seen that would have come later.
    pub fn nothing_came(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.early.push_back(event);
        }
        assert!(self.early.is_empty(), "{:?}", self.early);
    }

    /// Leaves as a program does that ends well.
    pub async fn leave(mut self) {
        self.sink.send(Message::Close(None)).await.ok();
        self.ended().await;
    }
}
