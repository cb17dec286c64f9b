//! A small local app to put an agent in front of: a page, a folder of files, an event stream, a
//! WebSocket echo and an upload that reports its digest.
//!
//! It knows nothing of the relay. It is opened under whatever path prefix the relay gives it, so
//! every link and every fetch of its page is relative. Whoever can reach it may be lying: requests
//! for files stay inside the served folder ([`files`]), messages and listings are bounded, and
//! nothing is held whole in memory.

mod files;

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        Path, Query, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{any, get, post},
    serve::ListenerExt as _,
};
use clap::Parser;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    convert::Infallible,
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, time::MissedTickBehavior};

/// The largest WebSocket message that is echoed: what a browser may reasonably send in one piece.
const MAX_MESSAGE: usize = 16 << 20;

/// Events are at most this far apart, so that a mistyped `ms` does not look like a dead stream.
const MAX_EVENT_GAP_MS: u64 = 60_000;

/// Bytes of one piece of `/bytes/N`: a whole number of periods of the pattern, near 64 KiB.
const PIECE: usize = PERIOD * 256;

/// The period of the pattern, a prime, so that a piece lost or repeated on the way shows.
const PERIOD: usize = 251;

#[derive(Debug, Parser)]
#[command(about = "A small local app for trying the relay", version)]
struct Args {
    /// The address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The folder that is served under /files/.
    #[arg(long, default_value = ".", value_name = "DIR")]
    root: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let root = args.root.canonicalize().with_context(|| format!("cannot serve {}", args.root.display()))?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let mut out = std::io::stdout();
    writeln!(out, "listening http://{}", listener.local_addr()?)?;
    out.flush()?;
    let listener = listener.tap_io(|socket| {
        // Without it small answers wait for the peer's delayed acknowledgement. A socket that
        // refuses the option is one that has just gone away.
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, router(root)).await?;
    Ok(())
}

fn router(root: PathBuf) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/events", get(events))
        .route("/ws", any(echo))
        .route("/upload", post(upload))
        .route("/bytes/{count}", get(bytes))
        .route("/headers", any(headers))
        .route("/files", get(|| async { Redirect::temporary("files/") }))
        .route("/files/", get(files::serve))
        .route("/files/{*path}", get(files::serve))
        .with_state(Arc::new(files::Root::new(root)))
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    /// How many events; without it the stream has no end.
    n: Option<u64>,
    /// Milliseconds from one event to the next.
    ms: Option<u64>,
}

/// An event at once and then one after every gap, each sent as it happens.
async fn events(Query(query): Query<EventsQuery>) -> Response {
    let last = query.n.unwrap_or(u64::MAX);
    let gap = Duration::from_millis(query.ms.unwrap_or(1_000).min(MAX_EVENT_GAP_MS));
    // A period of zero is refused by the timer; one microsecond means "as fast as they are read".
    let mut timer = tokio::time::interval(gap.max(Duration::from_micros(1)));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = stream::unfold((timer, 1), move |(mut timer, n)| async move {
        if n > last {
            return None;
        }
        timer.tick().await;
        let data = json!({ "n": n, "unix_ms": unix_ms() });
        Some((Ok::<_, Infallible>(Bytes::from(format!("id: {n}\ndata: {data}\n\n"))), (timer, n + 1)))
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (head, Body::from_stream(body)).into_response()
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Sends every message back as it came. The close code is answered by the library.
async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).on_upgrade(
        async |mut socket: WebSocket| {
            while let Some(Ok(message)) = socket.recv().await {
                let back = matches!(message, Message::Text(_) | Message::Binary(_));
                if back && socket.send(message).await.is_err() {
                    break;
                }
            }
        },
    )
}

/// Digests the body as it comes.
async fn upload(body: Body) -> Response {
    let mut digest = Sha256::new();
    let mut count = 0_u64;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => {
                count += piece.len() as u64;
                digest.update(&piece);
            }
            Err(error) => {
                return (StatusCode::BAD_REQUEST, format!("the upload broke off: {error}\n")).into_response();
            }
        }
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Json(json!({ "bytes": count, "sha256": digest })).into_response()
}

/// `count` bytes in which the byte at offset i is i modulo 251.
async fn bytes(Path(count): Path<u64>) -> Response {
    let piece = Bytes::from_iter((0..PIECE).map(|i| (i % PERIOD) as u8));
    let body = stream::unfold(count, move |left| {
        let piece = piece.clone();
        async move {
            let take = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            (take > 0).then(|| (Ok::<_, Infallible>(piece.slice(..take)), left - take as u64))
        }
    });
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, count.to_string()),
    ];
    (head, Body::from_stream(body)).into_response()
}

/// What arrived here, so that one can see what the relay and the agent changed. A header that came
/// more than once is a list.
async fn headers(method: Method, uri: Uri, headers: HeaderMap) -> Json<Value> {
    let mut map = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Value> =
            headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into()).collect();
        let value = match values.pop() {
            Some(only) if values.is_empty() => only,
            Some(last) => {
                values.push(last);
                Value::Array(values)
            }
            None => Value::Null,
        };
        map.insert(name.as_str().to_owned(), value);
    }
    Json(json!({ "method": method.as_str(), "target": uri.to_string(), "headers": map }))
}

/// The state of the routes: the folder.
type Folder = State<Arc<files::Root>>;
