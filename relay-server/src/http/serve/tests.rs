//! The loop on real sockets: limits, slow heads, both protocols, the drain.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::sources::Sources;
use crate::http::front::{Front, HEALTH_PATH};

/// Longer than anything here takes, so that a test that hangs says where.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    addr: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<io::Result<()>>,
    /// Lets the request of `/wait` go on.
    go_on: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    /// Told when it has arrived.
    arrived: Arc<tokio::sync::Notify>,
}

async fn start(env: &[(&str, &str)]) -> Server {
    let config = Config::load(&Sources {
        flag: &|_| None,
        env: &|name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()),
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = Shutdown::default();
    let front = Arc::new(Front::new(&config, "here", shutdown.clone()));
    let (go_on, wait) = oneshot::channel();
    let go_on = Arc::new(Mutex::new(Some(go_on)));
    let wait = Arc::new(Mutex::new(Some(wait)));
    let arrived = Arc::new(tokio::sync::Notify::new());
    let service = {
        let arrived = Arc::clone(&arrived);
        move |request: Request<Incoming>, peer: Peer| {
            let (front, wait, arrived) = (Arc::clone(&front), Arc::clone(&wait), Arc::clone(&arrived));
            async move {
                let inner = |request: Request<Incoming>, _| async move {
                    if request.uri().path() == "/wait" {
                        let wait = wait.lock().unwrap().take();
                        arrived.notify_one();
                        if let Some(wait) = wait {
                            let _ = wait.await;
                        }
                    }
                    let body =
                        request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    Response::new(Body::from(format!("got {}", body.len())))
                };
                front.handle(request, peer, inner).await
            }
        }
    };
    let task = tokio::spawn(serve(listener, service, Options::new(&config), shutdown.clone()));
    Server { addr, shutdown, task, go_on, arrived }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    fn go_on(&self) {
        self.go_on.lock().unwrap().take().unwrap().send(()).unwrap();
    }

    async fn ended(self) {
        timeout(PATIENCE, self.task).await.expect("the loop ends").unwrap().unwrap();
    }
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset ends the connection as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the connection ends");
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads one response with a fixed length.
async fn response(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4096];
        let count = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("a response").unwrap();
        assert!(count > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(buffer.get(..count).unwrap()).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return text;
        }
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = start(&[]).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        say(&mut stream, "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
        let response = response(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("got 3"), "{response}");
        assert!(response.contains("x-request-id: "), "{response}");
    }
    server.shutdown.end();
    server.ended().await;
}

#[tokio::test]
async fn heads_beyond_the_limits_are_answered_with_what_is_wrong() {
    let server = start(&[("RELAY_MAX_HEADER_BYTES", "8KiB"), ("RELAY_MAX_URI_BYTES", "2KiB")]).await;
    let cases = [
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "v".repeat(8192)), "431", "header_too_large"),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "p".repeat(2048)), "414", "uri_too_long"),
    ];
    for (request, status, code) in cases {
        let mut stream = server.connect().await;
        say(&mut stream, &request).await;
        let response = response(&mut stream).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
        assert!(response.contains(&format!("\"code\":\"{code}\"")), "{response}");
    }
    // Far beyond, hyper refuses by itself what it will not even hold.
    let mut stream = server.connect().await;
    let _ =
        stream.write_all(format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "v".repeat(1 << 20)).as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    server.shutdown.end();
    server.ended().await;
}

#[tokio::test]
async fn a_slow_head_ends_with_a_408_and_a_silent_connection_without_a_word() {
    let server = start(&[("RELAY_HEADER_TIMEOUT", "200ms")]).await;
    let mut slow = server.connect().await;
    say(&mut slow, "GET / HTTP/1.1\r\nhost: a\r\n").await;
    let mut barely = server.connect().await;
    say(&mut barely, "P").await;
    let mut silent = server.connect().await;
    let mut second = server.connect().await;
    say(&mut second, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    response(&mut second).await;
    say(&mut second, "GET / HTTP/1.1\r\nho").await;
    for stream in [&mut slow, &mut barely, &mut second] {
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
    }
    assert_eq!(rest(&mut silent).await, "");
    server.shutdown.end();
    server.ended().await;
}

#[tokio::test]
async fn a_kept_connection_is_closed_when_nothing_comes() {
    let server = start(&[("RELAY_KEEP_ALIVE_TIMEOUT", "1s"), ("RELAY_HEADER_TIMEOUT", "200ms")]).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        response(&mut stream).await;
        // Longer than a head may take: waiting for a request is something else.
        sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(rest(&mut stream).await, "");
    server.shutdown.end();
    server.ended().await;
}

#[tokio::test]
async fn a_request_under_way_outlives_the_deadlines_of_heads() {
    let server = start(&[("RELAY_KEEP_ALIVE_TIMEOUT", "1s"), ("RELAY_HEADER_TIMEOUT", "100ms")]).await;
    let mut stream = server.connect().await;
    say(&mut stream, "GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sleep(Duration::from_millis(1300)).await;
    server.go_on();
    assert!(response(&mut stream).await.ends_with("got 0"));
    server.shutdown.end();
    server.ended().await;
}

#[tokio::test]
async fn connections_beyond_the_limits_are_refused_and_places_come_back() {
    let server =
        start(&[("RELAY_MAX_TCP_CONNECTIONS_PER_IP", "1"), ("RELAY_MAX_TCP_CONNECTIONS", "3")]).await;
    let mut first = server.connect().await;
    say(&mut first, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    response(&mut first).await;
    let mut second = server.connect().await;
    say(&mut second, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = rest(&mut second).await;
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    assert!(
        answer.contains("\"code\":\"too_many_connections\"") && answer.contains("retry-after: "),
        "{answer}"
    );
    drop(first);
    // The place is free once the loop has noticed; until then it answers 429.
    timeout(PATIENCE, async {
        loop {
            let mut again = server.connect().await;
            say(&mut again, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            if rest(&mut again).await.starts_with("HTTP/1.1 200 ") {
                break;
            }
        }
    })
    .await
    .unwrap();
    server.shutdown.end();
    server.ended().await;

    let env = [
        ("RELAY_TRUSTED_PROXIES", "127.0.0.1"),
        ("RELAY_MAX_TCP_CONNECTIONS_PER_IP", "1"),
        ("RELAY_MAX_TCP_CONNECTIONS", "2"),
    ];
    let server = start(&env).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        response(&mut stream).await;
        held.push(stream);
    }
    let mut third = server.connect().await;
    let answer = rest(&mut third).await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    server.shutdown.end();
    server.ended().await;
}

#[tokio::test]
async fn connections_of_other_relays_do_not_count_for_their_address() {
    use crate::forward::envelope::{Envelope, Nonce};
    use crate::forward::key::Key;
    use crate::http::client_addr::client_info;
    use crate::http::request_id::RequestId;

    const TARGET: &str = "/v1/relay/h/x/s/y/a";
    let env = [("RELAY_MAX_TCP_CONNECTIONS_PER_IP", "1"), ("RELAY_BUS_HMAC_KEY", "what-the-relays-share")];
    let server = start(&env).await;
    let config = Config::load(&Sources {
        flag: &|_| None,
        env: &|name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()),
    })
    .unwrap();
    let key = Key::derive(config.relays.hmac_key.as_ref().unwrap()).unwrap();
    let now = crate::clock::unix_ms();
    let passed_on = |count, to: &str| {
        let envelope = Envelope {
            from: "there".to_owned(),
            to: to.to_owned(),
            at: now + 1000,
            nonce: Nonce { life: 1, count },
            client: client_info("203.0.113.1:1".parse().unwrap(), None, &http::HeaderMap::new(), &[]),
            expects: false,
            id: RequestId::from_text("req-1").unwrap(),
        };
        let header = envelope.seal(&key, &http::Method::GET, TARGET).unwrap();
        let header = header.to_str().unwrap();
        format!("GET {TARGET} HTTP/1.1\r\nhost: x\r\nx-relay-forwarded: {header}\r\n\r\n")
    };
    let mut relays = Vec::new();
    for count in 1..4 {
        let mut stream = server.connect().await;
        say(&mut stream, &passed_on(count, "here")).await;
        assert!(response(&mut stream).await.starts_with("HTTP/1.1 200"));
        relays.push(stream);
    }
    // What only looks like it counts.
    let mut other = server.connect().await;
    say(&mut other, &passed_on(9, "elsewhere")).await;
    assert!(response(&mut other).await.starts_with("HTTP/1.1 4"));
    let mut beyond = server.connect().await;
    assert!(rest(&mut beyond).await.starts_with("HTTP/1.1 429"));
    // And a place that was given back is not given back again.
    drop(relays);
    let mut beyond = server.connect().await;
    assert!(rest(&mut beyond).await.starts_with("HTTP/1.1 429"));
    server.shutdown.end();
    server.ended().await;
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let server = start(&[("RELAY_HEADER_TIMEOUT", "200ms")]).await;
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let get = |path: &str| Request::get(format!("http://{}{path}", server.addr)).body(Empty::new()).unwrap();
    let waiting = sender.send_request(get("/wait"));
    let quick = sender.clone().send_request(get("/a")).await.unwrap();
    assert_eq!(quick.version(), http::Version::HTTP_2);
    server.arrived.notified().await;
    // The drain lets what is in flight finish, and closes the connection then.
    server.shutdown.drain();
    server.go_on();
    let waited = waiting.await.unwrap();
    assert_eq!(waited.into_body().collect().await.unwrap().to_bytes(), "got 0");
    drop(sender);
    timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    server.ended().await;
}

#[tokio::test]
async fn the_drain_closes_idle_connections_and_lets_requests_finish() {
    let server = start(&[]).await;
    let mut idle = server.connect().await;
    say(&mut idle, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    response(&mut idle).await;
    let mut busy = server.connect().await;
    say(&mut busy, "GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.arrived.notified().await;

    server.shutdown.drain();
    assert_eq!(rest(&mut idle).await, "");
    // Who comes now is told so, and health says it.
    for (path, ok) in [("/new", false), (HEALTH_PATH, true)] {
        let mut late = server.connect().await;
        say(&mut late, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let answer = rest(&mut late).await;
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), ok, "{answer}");
        assert_eq!(answer.contains("\"code\":\"draining\""), !ok, "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert!(!server.task.is_finished());
    server.go_on();
    let answer = rest(&mut busy).await;
    assert!(answer.contains("connection: close") && answer.ends_with("got 0"), "{answer}");
    server.ended().await;
}

#[tokio::test]
async fn a_head_that_never_ends_does_not_hold_up_the_drain() {
    let server = start(&[("RELAY_HEADER_TIMEOUT", "300s"), ("RELAY_DRAIN_TIMEOUT", "1h")]).await;
    let mut half = server.connect().await;
    say(&mut half, "GET / HTTP/1.1\r\nhost: a\r\n").await;
    let silent = server.connect().await;
    let mut other = server.connect().await;
    say(&mut other, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    rest(&mut other).await;
    server.shutdown.drain();
    server.ended().await;
    drop(silent);
}

#[tokio::test]
async fn the_drain_ends_at_its_deadline() {
    let server = start(&[("RELAY_DRAIN_TIMEOUT", "200ms")]).await;
    let mut busy = server.connect().await;
    say(&mut busy, "GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.arrived.notified().await;
    server.shutdown.drain();
    assert_eq!(rest(&mut busy).await, "");
    server.ended().await;
}

#[tokio::test]
async fn the_drain_waits_for_what_is_held_and_the_end_does_not() {
    let server = start(&[("RELAY_DRAIN_TIMEOUT", "1h")]).await;
    let hold = server.shutdown.hold();
    server.shutdown.drain();
    let mut late = server.connect().await;
    say(&mut late, "GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    rest(&mut late).await;
    assert!(!server.task.is_finished());
    drop(hold);
    server.ended().await;

    let server = start(&[("RELAY_DRAIN_TIMEOUT", "1h")]).await;
    let mut busy = server.connect().await;
    say(&mut busy, "GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.arrived.notified().await;
    server.shutdown.drain();
    // What a second signal does.
    server.shutdown.end();
    assert_eq!(rest(&mut busy).await, "");
    server.ended().await;
}
