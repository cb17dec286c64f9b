//! A platform: a real HTTP server that keeps presence and bus as the contract says, and can be made to answer badly.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::set;

const INTERNAL_KEY: &str = "the-key-between-relay-and-platform";
const BASE: &str = "/api/runtime/internal/relay";

/// How it answers to `bus/pull`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    Good,
    /// The answer breaks off.
    BrokenOff,
    /// The answer never ends.
    Endless,
    /// The answer never begins.
    Silent,
    /// Not JSON.
    Nonsense,
    /// `"ok": false`.
    Refusing,
    /// Status 500.
    Failing,
}

#[derive(Default)]
struct Memory {
    /// Workspace and target to the entry.
    presence: HashMap<(String, String), Value>,
    frames: Vec<Value>,
    last: i64,
}

struct Shared {
    memory: Mutex<Memory>,
    mood: Mutex<Mood>,
    news: Notify,
    pulls: AtomicUsize,
    resolves: AtomicUsize,
}

pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<(JoinHandle<()>, CancellationToken)>,
}

impl StandIn {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            memory: Mutex::default(),
            mood: Mutex::new(Mood::Good),
            news: Notify::new(),
            pulls: AtomicUsize::new(0),
            resolves: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Some(serve(listener, shared.clone()));
        Self { address, shared, serving }
    }

    pub fn settings(&self) -> Vec<(String, String)> {
        vec![
            set("RELAY_BACKPLANE_MODE", "server"),
            set("RELAY_BACKPLANE_URL", &format!("http://{}", self.address)),
            set("RELAY_INTERNAL_KEY", INTERNAL_KEY),
        ]
    }

    /// Every connection ends.
    pub async fn kill(&mut self) {
        if let Some((task, stop)) = self.serving.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    /// It comes back without its memory.
    pub async fn restart(&mut self) {
        self.kill().await;
        *self.shared.memory.lock() = Memory::default();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.serving = Some(serve(socket.listen(1024).unwrap(), self.shared.clone()));
    }

    pub fn push(&self, frame: Value) {
        self.shared.push(frame);
    }

    pub fn feel(&self, mood: Mood) {
        *self.shared.mood.lock() = mood;
    }

    pub fn pulls(&self) -> usize {
        self.shared.pulls.load(Ordering::Relaxed)
    }

    pub fn resolves(&self) -> usize {
        self.shared.resolves.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn push(&self, mut frame: Value) {
        let mut memory = self.memory.lock();
        memory.last += 1;
        frame["id"] = json!(memory.last);
        memory.frames.push(frame);
        drop(memory);
        self.news.notify_waiters();
    }
}

fn serve(listener: TcpListener, shared: Arc<Shared>) -> (JoinHandle<()>, CancellationToken) {
    let stop = CancellationToken::new();
    let router = Router::new().fallback(answer).with_state(shared);
    let ended = stop.clone();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = tokio::select! {
                // The connections are cut with the set.
                () = ended.cancelled() => return,
                accepted = listener.accept() => accepted.unwrap(),
            };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            connections.spawn(async move {
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    (task, stop)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.headers.get("x-relay-internal-key").is_none_or(|key| key != INTERNAL_KEY) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let key = || (body["workspaceId"].to_string(), body["runtimeTargetId"].to_string());
    let answer = match parts.uri.path().strip_prefix(BASE) {
        Some("/presence/upsert") => {
            shared.memory.lock().presence.insert(key(), body.clone());
            json!({ "ok": true })
        }
        Some("/presence/resolve") => {
            shared.resolves.fetch_add(1, Ordering::Relaxed);
            let mut entry = shared.memory.lock().presence.get(&key()).cloned().unwrap_or(json!({}));
            entry["ok"] = json!(true);
            entry
        }
        Some("/bus/publish") => {
            shared.push(body);
            json!({ "ok": true })
        }
        Some("/bus/pull") => return pull(&shared, &body).await,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    axum::Json(answer).into_response()
}

async fn pull(shared: &Shared, body: &Value) -> Response {
    shared.pulls.fetch_add(1, Ordering::Relaxed);
    let mood = *shared.mood.lock();
    let stream = |chunks: Vec<Result<Bytes, std::io::Error>>, endless: bool| {
        let tail = futures_util::stream::unfold(endless, |endless| async move {
            if !endless {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok(Bytes::from_static(b" ")), true))
        });
        let all = futures_util::StreamExt::chain(futures_util::stream::iter(chunks), tail);
        Response::new(Body::from_stream(all))
    };
    match mood {
        Mood::Good => {}
        Mood::BrokenOff => {
            let cut = std::io::Error::other("cut");
            return stream(vec![Ok(Bytes::from_static(b"{\"ok\":true,\"frames\":[{")), Err(cut)], false);
        }
        Mood::Endless => return stream(vec![Ok(Bytes::from_static(b"{\"ok\":true,\"frames\":["))], true),
        Mood::Silent => std::future::pending().await,
        Mood::Nonsense => return "<html>".into_response(),
        Mood::Refusing => return axum::Json(json!({ "ok": false })).into_response(),
        Mood::Failing => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
    let (since, limit) = (body["sinceId"].as_i64().unwrap(), body["limit"].as_u64().unwrap());
    let wait = body["waitMs"].as_u64().unwrap();
    assert!(wait <= 2000, "the contract's bound");
    let found = || -> Vec<Value> {
        let memory = shared.memory.lock();
        let new = memory.frames.iter().filter(|frame| frame["id"].as_i64().unwrap() > since);
        new.take(usize::try_from(limit).unwrap()).cloned().collect()
    };
    let mut frames = found();
    if frames.is_empty() {
        let _ = tokio::time::timeout(Duration::from_millis(wait), shared.news.notified()).await;
        frames = found();
    }
    axum::Json(json!({ "ok": true, "frames": frames })).into_response()
}
