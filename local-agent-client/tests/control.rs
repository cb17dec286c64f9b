//! Local control over real sockets: who is answered, what a page can do, and the life of a code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::soon;
use http::Method;
use local_agent_client::{
    Agent, LocalTarget, Token, TokenSource,
    control::{
        Client, ControlError,
        api::{BrowserList, BrowserView, EndView, NewCode, PageLink, Rename, State},
    },
    trust::{NewBrowser, Outcome, Pairing},
};
use relay_protocol::{
    keys::{BrowserDhKey, BrowserSigningKey},
    pairing::{self as wire, BrowserClaims, BrowserStart, ClientInfo, Psk, StartResponse},
};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const HOST: Uuid = Uuid::from_u128(7);

/// A running agent whose relay is not there, and which knows its host's id all the same.
struct Running {
    dir: tempfile::TempDir,
    pairing: Arc<Pairing>,
    client: Client,
    address: SocketAddr,
    secret: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn random() -> impl rand::CryptoRng {
    rand::TryRngCore::unwrap_err(rand::rngs::OsRng)
}

async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::builder(
        "http://127.0.0.1:1".parse().unwrap(),
        TokenSource::Fixed(Token::new("t").unwrap()),
        "http://127.0.0.1:2".parse::<LocalTarget>().unwrap(),
    )
    .state_dir(dir.path())
    .control(SocketAddr::from(([127, 0, 0, 1], 0)))
    .build()
    .unwrap();
    let pairing = agent.pairing().clone();
    pairing.host().told(&HOST.to_string());
    let stop = CancellationToken::new();
    let task = tokio::spawn(agent.run(stop.clone()));
    let client = soon(Client::find(dir.path())).await.unwrap();
    let contact: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("control.json")).unwrap()).unwrap();
    let address = contact["address"].as_str().unwrap().parse().unwrap();
    let secret = contact["secret"].as_str().unwrap().to_owned();
    Running { dir, pairing, client, address, secret, stop, task }
}

fn claims(name: &str) -> BrowserClaims {
    BrowserClaims {
        host_id: HOST,
        client: ClientInfo {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            browser: String::new(),
            os: String::new(),
            device: String::new(),
        },
        ed25519: BrowserSigningKey::generate(&mut random()).verifying_key(),
        x25519: BrowserDhKey::generate(&mut random()).public_key(),
    }
}

fn add(pairing: &Pairing, name: &str) -> Uuid {
    let claims = claims(name);
    let new = NewBrowser {
        client: claims.client,
        ed25519: claims.ed25519,
        x25519: claims.x25519,
        psk: Psk::from_bytes(&[1; 32]),
    };
    pairing.browsers().add(new, 1000).unwrap().id
}

/// What a browser does with a code; whether it was let in.
fn use_code(pairing: &Pairing, code: &str, name: &str) -> bool {
    let code = wire::Code::parse(code).unwrap();
    let now = local_agent_client::status::now();
    let (begun, message) = BrowserStart::new(&code, HOST, &mut random()).unwrap();
    let Ok((pairing_id, message)) = pairing.start(&message, now) else { return false };
    let answer = StartResponse { v: 1, pairing_id, message };
    let (proved, message) = begun.prove(&answer, &claims(name)).unwrap();
    pairing.finish(&message, now).is_ok_and(|answer| proved.finish(&answer).is_ok())
}

impl Running {
    fn bearer(&self) -> String {
        format!("authorization: Bearer {}", self.secret)
    }

    fn origin(&self) -> String {
        format!("origin: http://{}", self.address)
    }

    /// Sends a request with these headers beside `host`, and reads the answer to its end.
    async fn send(&self, line: &str, headers: &[&str], body: &str) -> (u16, String) {
        let host = format!("host: {}", self.address);
        let mut all = vec![host.as_str()];
        all.extend(headers);
        self.send_raw(line, &all, body).await
    }

    async fn send_raw(&self, line: &str, headers: &[&str], body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\n{}\r\ncontent-length: {length}\r\n\r\n", headers.join("\r\n"));
        socket.write_all((head + body).as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(socket.read_to_string(&mut answer)).await.unwrap();
        let status = answer.split(' ').nth(1).expect("a status line").parse().unwrap();
        (status, answer)
    }

    /// Opens a page session: its path and its cookie.
    async fn page(&self) -> (String, String) {
        let link: PageLink = self.client.ask(Method::POST, "/api/page", None::<&()>).await.unwrap();
        let key = link.url.strip_prefix(&format!("http://{}/#", self.address)).unwrap();
        let body = format!(r#"{{"key":"{key}"}}"#);
        let (status, answer) = self.send("POST /session", &[&self.origin()], &body).await;
        assert_eq!(status, 201, "{answer}");
        let again = self.send("POST /session", &[&self.origin()], &body).await;
        assert_eq!(again.0, 401, "a key opens once");
        let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let opened: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let cookie = format!("cookie: theirs=1; {}", cookie.split(';').next().unwrap());
        (opened["path"].as_str().unwrap().to_owned(), cookie)
    }

    async fn end(self) {
        self.stop.cancel();
        soon(self.task).await.unwrap();
        assert!(!self.dir.path().join("control.json").exists(), "it goes with the server");
        // Whoever holds the pairing holds the state folder.
        drop(self.pairing);
        let gone = Client::find(self.dir.path()).await;
        assert!(matches!(gone, Err(ControlError::NotRunning(_))));
    }
}

#[tokio::test]
async fn strangers_and_foreign_pages_get_nothing() {
    let running = start().await;
    let (bearer, origin, port) = (running.bearer(), running.origin(), running.address.port());
    let (page, cookie) = running.page().await;
    let state = format!("GET {page}api/state");
    let code = format!("POST {page}api/code");
    let wrong_cookie = cookie.replace("agent_control=", "agent_control=A");
    for (line, headers, expected) in [
        // Nobody.
        ("GET /api/state", vec![], 401),
        ("GET /api/state", vec!["authorization: Bearer wrong"], 401),
        ("GET /api/events", vec![], 401),
        ("POST /api/pair", vec![], 401),
        ("POST /api/code", vec![origin.as_str()], 401),
        ("POST /api/page", vec![origin.as_str()], 401),
        ("GET /nothing", vec![], 401),
        ("GET /api/state", vec![bearer.as_str()], 200),
        // The cookie is good below its own path, with the right value, and not for what only commands may do.
        (&state, vec![&cookie], 200),
        (&state, vec![&wrong_cookie], 401),
        ("GET /api/state", vec![&cookie], 401),
        (&format!("POST {page}api/page"), vec![&cookie, &origin], 404),
        (&format!("POST {page}api/pair"), vec![&cookie, &origin], 404),
        // What changes something has to name its origin beside a cookie; a foreign one is refused.
        (&code, vec![&cookie], 403),
        (&code, vec![&cookie, "origin: https://evil.example"], 403),
        (&code, vec![&cookie, "origin: http://127.0.0.1:3000"], 403),
        (&code, vec![&cookie, "origin: null"], 403),
        (&code, vec![&cookie, &origin, "sec-fetch-site: same-site"], 403),
        (&state, vec![&cookie, "sec-fetch-site: cross-site"], 403),
        (&code, vec![&cookie, &origin, "sec-fetch-site: same-origin"], 201),
        ("POST /session", vec![], 403),
        // Even the secret does not speak for a foreign page, and no page is shown to one.
        ("GET /api/state", vec![&bearer, "origin: https://evil.example"], 403),
        ("GET /", vec!["sec-fetch-site: cross-site"], 403),
        ("GET /", vec![], 200),
        ("GET /page.js", vec![], 200),
        ("PUT /api/state", vec![&bearer], 404),
        ("DELETE /api/browsers/not-an-id", vec![&bearer], 404),
    ] {
        let (status, answer) = running.send(line, &headers, "").await;
        assert_eq!(status, expected, "{line} {headers:?}\n{answer}");
        assert!(answer.contains("content-security-policy: default-src 'none';"), "{answer}");
        assert!(
            answer.contains("x-content-type-options: nosniff") && answer.contains("no-store"),
            "{answer}"
        );
        assert!(!answer.contains("access-control-"), "{answer}");
    }
    // DNS rebinding: the name in the address bar is the attacker's.
    for host in [
        "host: evil.example".to_owned(),
        format!("host: evil.example:{port}"),
        format!("host: 127.0.0.1.nip.io:{port}"),
        "host: 127.0.0.1".to_owned(),
        format!("host: {}\r\nhost: evil.example", running.address),
    ] {
        for line in ["GET /", "GET /page.js", "GET /api/state", "POST /session"] {
            let (status, answer) = running.send_raw(line, &[&host, &bearer], "").await;
            assert!((400..=403).contains(&status), "{line} {host}: {answer}");
        }
    }
    running.end().await;
}

#[tokio::test]
async fn what_is_too_large_or_too_slow_is_cut_off() {
    let running = start().await;
    let id = add(&running.pairing, "b");
    let line = format!("PATCH /api/browsers/{id}");
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(8000));
    let (status, _) = running.send(&line, &[&running.bearer()], &large).await;
    assert_eq!(status, 413);
    for body in ["", "{}", "[]", "{\"name\":7}", "{\"name\":\"a\",\"more\":1}", "\u{fffd}"] {
        let (status, _) = running.send(&line, &[&running.bearer()], body).await;
        assert_eq!(status, 400, "{body}");
    }
    let padding = format!("x-padding: {}", "x".repeat(64 * 1024));
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: {}\r\n{padding}\r\n\r\n", running.address);
    // The server may close before it has taken everything.
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = soon(socket.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    // A head that never comes is not waited for, and others are answered meanwhile.
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (status, _) = running.send("GET /", &[], "").await;
    assert_eq!(status, 200);
    let mut rest = Vec::new();
    let _ = soon(silent.read_to_end(&mut rest)).await;
    running.end().await;
}

#[tokio::test]
async fn whoever_only_holds_connections_does_not_lock_the_owner_out() {
    let running = start().await;
    let id = add(&running.pairing, "lost");
    // A page and a terminal that wait for what happens, from before the crowd came.
    let mut events = TcpStream::connect(running.address).await.unwrap();
    let head =
        format!("GET /api/events HTTP/1.1\r\nhost: {}\r\n{}\r\n\r\n", running.address, running.bearer());
    events.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut events, "lost").await;
    let (code, waiting) = running.client.pair(None).await.unwrap();
    // More come than there is room for, and new ones all the time.
    let mut held = Vec::new();
    for round in 0..3 {
        for _ in 0..64 {
            let mut socket = TcpStream::connect(running.address).await.unwrap();
            let _ = socket.write_all(b"GET / HTTP/1.1\r\n").await;
            held.push(socket);
        }
        let list: BrowserList = running.client.ask(Method::GET, "/api/browsers", None::<&()>).await.unwrap();
        assert_eq!(list.browsers.len(), 1, "round {round}");
    }
    running.client.ask::<()>(Method::DELETE, &format!("/api/browsers/{id}"), None::<&()>).await.unwrap();
    read_until(&mut events, r#""browsers":[]"#).await;
    assert!(use_code(&running.pairing, &code.code, "found"));
    let outcome = soon(waiting.ended()).await.unwrap().outcome;
    assert!(matches!(outcome, Outcome::Paired { .. }), "{outcome:?}");
    drop(held);
    running.end().await;
}

/// Reads until this has come.
async fn read_until(socket: &mut TcpStream, wanted: &str) {
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let read = soon(socket.read(&mut piece)).await.unwrap();
        assert_ne!(read, 0, "it ended before {wanted}: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..read]);
    }
}

#[tokio::test]
async fn connections_are_few_and_the_oldest_stranger_makes_room() {
    let running = start().await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut socket = TcpStream::connect(running.address).await.unwrap();
        let _ = socket.write_all(b"GET").await;
        held.push(socket);
    }
    // Who came first and has not shown who they are makes room for whoever comes.
    let mut byte = [0];
    let read = soon(held[0].read(&mut byte)).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    let state: State = running.client.ask(Method::GET, "/api/state", None::<&()>).await.unwrap();
    assert_eq!(state.browsers.len(), 0);
    drop(held);
    running.end().await;
}

#[tokio::test]
async fn browsers_are_listed_renamed_and_revoked() {
    let running = start().await;
    let (one, two) = (add(&running.pairing, "one"), add(&running.pairing, "two"));
    let revoked = running.pairing.browsers().get(one).unwrap().revoked();
    let list = async || -> BrowserList {
        running.client.ask(Method::GET, "/api/browsers", None::<&()>).await.unwrap()
    };
    assert_eq!(list().await.browsers.len(), 2);
    let path = format!("/api/browsers/{one}");
    let rename = |name: &str| Rename { name: name.to_owned() };
    let renamed: BrowserView =
        running.client.ask(Method::PATCH, &path, Some(&rename("phone"))).await.unwrap();
    assert_eq!((renamed.name.as_str(), renamed.fingerprint.len()), ("phone", 19));
    let refused: Result<BrowserView, _> = running.client.ask(Method::PATCH, &path, Some(&rename("\n"))).await;
    assert!(matches!(refused, Err(ControlError::Refused(problem)) if problem.status == 400));
    running.client.ask::<()>(Method::DELETE, &path, None::<&()>).await.unwrap();
    soon(revoked.cancelled()).await;
    let again = running.client.ask::<()>(Method::DELETE, &path, None::<&()>).await;
    assert!(matches!(again, Err(ControlError::Refused(problem)) if problem.status == 404));
    let left = list().await.browsers;
    assert_eq!(left.iter().map(|browser| browser.id).collect::<Vec<_>>(), [two]);
    let kept = std::fs::read_to_string(running.dir.path().join("browsers.json")).unwrap();
    assert!(kept.contains(&two.to_string()) && !kept.contains(&one.to_string()));
    running.end().await;
}

#[tokio::test]
async fn whoever_waits_for_a_code_hears_how_it_ends() {
    let running = start().await;
    let (code, waiting) = running.client.pair(None).await.unwrap();
    assert_eq!(code.link, format!("http://127.0.0.1:1/#/pair/{HOST}"));
    assert!(!code.link.contains(&code.code) && code.code.len() == 6);
    let contender = use_code(&running.pairing, &code.code, "Anna's phone");
    assert!(contender);
    let EndView { outcome, .. } = soon(waiting.ended()).await.unwrap();
    assert!(matches!(&outcome, Outcome::Paired { name, .. } if name == "Anna's phone"), "{outcome:?}");

    let (code, waiting) = running.client.pair(None).await.unwrap();
    let wrong = if code.code == "000000" { "000001" } else { "000000" };
    assert!(!use_code(&running.pairing, wrong, "guesser"));
    assert_eq!(soon(waiting.ended()).await.unwrap().outcome, Outcome::FailedGuess);
    assert!(!use_code(&running.pairing, &code.code, "too late"));

    let (_, first) = running.client.pair(None).await.unwrap();
    let (code, second) = running.client.pair(None).await.unwrap();
    assert_eq!(soon(first.ended()).await.unwrap().outcome, Outcome::Replaced);
    // Nobody waits any more: the code is void.
    let mut view = running.pairing.view();
    assert!(view.borrow().outstanding.is_some());
    drop(second);
    soon(view.wait_for(|view| view.outstanding.is_none())).await.unwrap();
    let outcome = view.borrow().outcome(code.number).cloned();
    assert_eq!(outcome, Some(Outcome::Withdrawn));

    let state: State = running.client.ask(Method::GET, "/api/state", None::<&()>).await.unwrap();
    assert_eq!((state.failed_guesses.count, state.browsers.len(), state.code), (1, 1, None));
    // An agent that ends tells whoever waits.
    let (_, waiting) = running.client.pair(None).await.unwrap();
    running.stop.cancel();
    assert!(matches!(soon(waiting.ended()).await, Err(ControlError::Unreachable(_))));
    running.end().await;
}

#[tokio::test]
async fn a_page_is_told_of_every_change_but_never_of_a_code_it_did_not_ask_for() {
    let running = start().await;
    let (page, cookie) = running.page().await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    let head = format!(
        "GET {page}api/events HTTP/1.1\r\nhost: {}\r\nsec-fetch-site: same-origin\r\n{cookie}\r\n\r\n",
        running.address
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut read = String::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut until = async |what: &str| {
        while !read.contains(what) {
            let length = soon(socket.read(&mut buffer)).await.unwrap();
            assert!(length > 0, "{what} in {read}");
            read.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        std::mem::take(&mut read)
    };
    let first = until("\n\n").await;
    assert!(first.contains("content-type: text/event-stream"), "{first}");
    let code: NewCode = running.client.ask(Method::POST, "/api/code", None::<&()>).await.unwrap();
    let event = until(&format!(r#""code":{{"number":{}"#, code.number)).await;
    assert!(!event.contains(&format!("\"{}\"", code.code)), "{event}");
    assert!(use_code(&running.pairing, &code.code, "tablet"));
    let event = until(r#""outcome":"paired""#).await + &until("tablet").await;
    assert!(!event.contains(&format!("\"{}\"", code.code)), "{event}");
    let id = running.pairing.browsers().list()[0].id;
    running.client.ask::<()>(Method::DELETE, &format!("/api/browsers/{id}"), None::<&()>).await.unwrap();
    until(r#""browsers":[]"#).await;
    // The page asks for a code of its own, and ends it.
    let (status, answer) =
        running.send(&format!("POST {page}api/code"), &[&cookie, &running.origin()], "").await;
    assert_eq!(status, 201);
    assert!(answer.contains(r#""qr":["000"#), "{answer}");
    let (status, _) =
        running.send(&format!("DELETE {page}api/code"), &[&cookie, &running.origin()], "").await;
    assert_eq!(status, 204);
    until(r#""outcome":"withdrawn""#).await;
    running.end().await;
}

#[test]
fn local_control_stays_on_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || {
        Agent::builder(
            "http://127.0.0.1:1".parse().unwrap(),
            TokenSource::Fixed(Token::new("t").unwrap()),
            "http://127.0.0.1:2".parse::<LocalTarget>().unwrap(),
        )
        .state_dir(dir.path())
    };
    let everywhere = builder().control(SocketAddr::from(([0, 0, 0, 0], 0))).build();
    assert!(everywhere.err().unwrap().to_string().contains("loopback"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(builder().control(taken.local_addr().unwrap()).build().is_err());
    assert!(Path::new(dir.path()).join("lock").exists());
}

#[tokio::test]
async fn without_control_there_is_a_word_about_it() {
    let dir = tempfile::tempdir().unwrap();
    // Left behind by one that was killed.
    std::fs::write(dir.path().join("control.json"), r#"{"address":"127.0.0.1:9","secret":"x"}"#).unwrap();
    let agent = Agent::builder(
        "http://127.0.0.1:1".parse().unwrap(),
        TokenSource::Fixed(Token::new("t").unwrap()),
        "http://127.0.0.1:2".parse::<LocalTarget>().unwrap(),
    )
    .state_dir(dir.path())
    .build()
    .unwrap();
    let task = tokio::spawn(agent.run(CancellationToken::new()));
    while dir.path().join("control.json").exists() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(soon(Client::find(dir.path())).await, Err(ControlError::Off)));
    task.abort();
}
