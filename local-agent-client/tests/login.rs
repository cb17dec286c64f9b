//! Signing in against a small server that does what a relay does, and what it must not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{head, soon};
use hyper_util::client::proxy::matcher::Matcher;
use local_agent_client::{
    Agent, LocalTarget, RelayUrl, Token, TokenSource, Trust,
    dial::{Route, tls},
    login::{Device, Grant, Login, LoginError},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

/// A server that gives prepared answers in turn and keeps what it was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<String>>>,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Script {
    fn new(answers: &[String]) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.iter().cloned().collect())), asked: Arc::default() }
    }

    async fn serve(&self) -> RelayUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap()).parse().unwrap();
        let script = self.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                script.answer(socket).await;
            }
        });
        url
    }

    async fn answer(&self, mut socket: TcpStream) {
        let head = head(&mut socket).await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let mut body = vec![0; length.parse().unwrap()];
        socket.read_exact(&mut body).await.unwrap();
        self.asked.lock().unwrap().push((head, String::from_utf8(body).unwrap()));
        // Without an answer left the connection just closes.
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or_default();
        let _ = socket.write_all(answer.as_bytes()).await;
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn error(code: &str) -> String {
    answer(400, &format!(r#"{{"error":"{code}"}}"#))
}

fn device(expires_in: u64) -> String {
    answer(
        200,
        &format!(
            r#"{{"device_code":"dev-secret","user_code":"BCDF-GHJK","verification_uri":"http://r/device",
                "verification_uri_complete":"http://r/device?c=BCDF-GHJK","expires_in":{expires_in},"interval":5}}"#
        ),
    )
}

fn grant(access: &str, refresh: &str, expires_in: i64) -> String {
    answer(
        200,
        &format!(
            r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":{expires_in},"refresh_token":"{refresh}"}}"#
        ),
    )
}

struct Way(RelayUrl, Arc<rustls::ClientConfig>, Matcher);

impl Way {
    fn new(relay: RelayUrl) -> Self {
        tls::install_provider();
        let tls = Arc::new(tls::for_relay(&relay, None).unwrap());
        Self(relay, tls, Matcher::builder().build())
    }

    fn route(&self) -> Route<'_> {
        Route { relay: &self.0, address: None, tls: &self.1, proxies: &self.2 }
    }
}

/// Signs in; also gives the pauses between questions, in seconds.
async fn sign_in(script: &Script) -> (Result<Grant, LoginError>, Vec<u64>) {
    let way = Way::new(script.serve().await);
    let mut pauses = Vec::new();
    let work = async {
        let device = Device::begin(&way.route(), "my box & co").await?;
        device.wait(&way.route(), async |pause: Duration| pauses.push(pause.as_secs())).await
    };
    let granted = soon(work).await;
    (granted, pauses)
}

#[tokio::test]
async fn a_person_approves_and_slow_down_slows_down() {
    let script = Script::new(&[
        device(600),
        error("authorization_pending"),
        error("slow_down"),
        error("authorization_pending"),
        // A relay that restarts, and one that is gone for a moment.
        answer(503, ""),
        String::new(),
        grant("a.b.c", "r1", 3600),
    ]);
    let (granted, pauses) = sign_in(&script).await;
    granted.unwrap();
    assert_eq!(pauses, [5, 5, 10, 10, 20, 40]);
    let asked = script.asked();
    assert!(asked[0].0.starts_with("POST /base/v1/auth/device/code HTTP/1.1\r\n"), "{}", asked[0].0);
    assert_eq!(asked[0].1, "client_id=local-agent-client&name=my+box+%26+co");
    for (head, body) in &asked[1..] {
        assert!(head.starts_with("POST /base/v1/auth/token HTTP/1.1\r\n"), "{head}");
        assert_eq!(
            body,
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=dev-secret&client_id=local-agent-client"
        );
        assert!(!head.contains("dev-secret"), "secrets stay out of URLs");
    }
}

#[tokio::test]
async fn every_other_end_is_told_apart() {
    let pending = || error("authorization_pending");
    let long = answer(200, &format!(r#"{{"access_token":"{}"}}"#, "x".repeat(200_000)));
    type Check = fn(&LoginError) -> bool;
    for (answers, check) in [
        (vec![device(600), error("access_denied")], (|e| matches!(e, LoginError::Denied)) as Check),
        (vec![device(600), error("expired_token")], |e| matches!(e, LoginError::Expired)),
        // Nobody decides: the end comes without the relay's word for it.
        (vec![device(12), pending(), pending(), pending()], |e| matches!(e, LoginError::Expired)),
        (
            vec![device(600), error("invalid_client")],
            |e| matches!(e, LoginError::Refused(text) if text.contains("invalid_client")),
        ),
        (vec![device(600), answer(200, "<html>")], |e| matches!(e, LoginError::NotARelay(_))),
        (vec![device(600), grant("two words", "r", 60)], |e| matches!(e, LoginError::NotARelay(_))),
        (
            vec![device(600), long.clone()],
            |e| matches!(e, LoginError::NotARelay(text) if text.contains("long")),
        ),
        (vec![long], |e| matches!(e, LoginError::NotARelay(_))),
        (vec![answer(200, "{}")], |e| matches!(e, LoginError::NotARelay(_))),
        (vec![answer(404, "")], |e| matches!(e, LoginError::NoSignIn)),
        // The redirect would carry the device code along; it is not followed.
        (
            vec![
                device(600),
                "HTTP/1.1 307 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned(),
            ],
            |e| matches!(e, LoginError::Refused(_)),
        ),
        (
            vec![answer(429, r#"{"detail":"Later \u001b[2J."}"#)],
            |e| matches!(e, LoginError::Refused(text) if text == "429: Later  [2J."),
        ),
        (vec!["garbage\r\n\r\n".to_owned()], |e| matches!(e, LoginError::Unreachable(_))),
        (vec![String::new()], |e| matches!(e, LoginError::Unreachable(_))),
    ] {
        let script = Script::new(&answers);
        let (granted, _) = sign_in(&script).await;
        let error = granted.unwrap_err();
        assert!(check(&error), "{error:?} after {answers:?}");
        assert!(!format!("{error:?} {error}").contains("dev-secret"));
    }
}

/// A login that was granted at `now` for 100 seconds.
async fn stored(script: &Script, dir: &std::path::Path, now: i64) -> (Login, Way) {
    let (granted, _) = sign_in(&Script::new(&[device(600), grant("first", "r1", 100)])).await;
    let way = Way::new(script.serve().await);
    let login = Login::of(dir);
    login.store(&way.0, &granted.unwrap(), now).unwrap();
    (login, way)
}

fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

#[tokio::test]
async fn a_login_is_renewed_at_half_of_its_life_or_when_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new(&[
        answer(503, ""),
        grant("second", "r2", 100),
        // Without a new refresh token the old one stays good.
        answer(200, r#"{"access_token":"third","token_type":"bearer","expires_in":100}"#),
        grant("fourth", "r4", 100),
    ]);
    let (login, way) = stored(&script, dir.path(), 1000).await;
    let fresh = async |refused: Option<&Token>, now| soon(login.fresh(&way.route(), refused, now)).await;
    assert_eq!(fresh(None, 1049).await.unwrap(), token("first"));
    assert!(script.asked().is_empty(), "nothing to do yet");
    assert_eq!(fresh(None, 1050).await.unwrap(), token("first"), "good still, though it cannot be renewed");
    assert_eq!(fresh(None, 1051).await.unwrap(), token("second"));
    assert_eq!(login.read().unwrap(), token("second"));
    assert_eq!(fresh(Some(&token("first")), 1052).await.unwrap(), token("second"), "another one was refused");
    assert_eq!(fresh(Some(&token("second")), 1052).await.unwrap(), token("third"));
    assert_eq!(fresh(None, 1500).await.unwrap(), token("fourth"), "also when it is over");
    let bodies: Vec<_> = script.asked().into_iter().map(|(_, body)| body).collect();
    let body =
        |refresh| format!("grant_type=refresh_token&refresh_token={refresh}&client_id=local-agent-client");
    assert_eq!(bodies, [body("r1"), body("r1"), body("r2"), body("r2")]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::metadata(dir.path().join("token.json")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
    let other = Way::new("http://127.0.0.1:1".parse().unwrap());
    assert!(matches!(login.fresh(&other.route(), None, 1500).await, Err(LoginError::OtherRelay(_))));
}

#[tokio::test]
async fn a_login_that_is_over_says_so_and_keeps_its_file() {
    for (answer, over) in [
        (error("invalid_grant"), true),
        (answer(500, ""), false),
        (answer(200, "{}"), false),
        (String::new(), false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let script = Script::new(&[answer]);
        let (login, way) = stored(&script, dir.path(), 1000).await;
        let error = soon(login.fresh(&way.route(), None, 2000)).await.unwrap_err();
        assert_eq!(matches!(error, LoginError::Over(_)), over, "{error:?}");
        assert_eq!(login.read().unwrap(), token("first"));
        std::fs::write(dir.path().join("token.json"), "{}").unwrap();
        assert!(matches!(login.read(), Err(LoginError::Damaged(_))));
        login.forget().unwrap();
        login.forget().unwrap();
        assert!(matches!(login.read(), Err(LoginError::NotLoggedIn(_))));
        assert_eq!(login.relay().unwrap(), None);
    }
}

#[tokio::test]
async fn two_who_renew_at_once_spend_one_refresh_token() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new(&[grant("second", "r2", 100)]);
    let (login, way) = stored(&script, dir.path(), 1000).await;
    let clone = login.clone();
    let (route, other) = (way.route(), way.route());
    let (a, b) =
        soon(async { tokio::join!(login.fresh(&route, None, 1060), clone.fresh(&other, None, 1060)) }).await;
    assert_eq!((a.unwrap(), b.unwrap()), (token("second"), token("second")));
    assert_eq!(script.asked().len(), 1);
}

#[tokio::test]
async fn a_sign_in_during_a_renewal_wins() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::default();
    let (login, way) = stored(&script, dir.path(), 1000).await;
    // A server that lets somebody else sign in before it answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay: RelayUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (granted, _) = sign_in(&Script::new(&[device(600), grant("first", "r1", 100)])).await;
    login.store(&relay, &granted.unwrap(), 1000).unwrap();
    let (newer, _) = sign_in(&Script::new(&[device(600), grant("newer", "n1", 100)])).await;
    let (other, url) = (login.clone(), relay.clone());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        head(&mut socket).await;
        other.store(&url, &newer.unwrap(), 1050).unwrap();
        socket.write_all(grant("renewed", "r2", 100).as_bytes()).await.unwrap();
        let _ = socket.read_u8().await;
    });
    let way = Way(relay, way.1, way.2);
    assert_eq!(soon(login.fresh(&way.route(), None, 1060)).await.unwrap(), token("newer"));
    assert_eq!(login.read().unwrap(), token("newer"));
}

#[tokio::test]
async fn an_agent_renews_a_login_that_the_relay_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        Script::new(&[answer(401, ""), grant("renewed", "r2", 3600), answer(503, ""), answer(503, "")]);
    let way = Way::new(script.serve().await);
    let (granted, _) = sign_in(&Script::new(&[device(600), grant("old", "r1", 3600)])).await;
    let login = Login::of(dir.path());
    login.store(&way.0, &granted.unwrap(), local_agent_client::status::now()).unwrap();
    let agent = Agent::builder(
        way.0.clone(),
        TokenSource::Login(login.clone()),
        "http://127.0.0.1:1".parse::<LocalTarget>().unwrap(),
    )
    .trust(Trust::Relay)
    .proxies(Matcher::builder().build())
    .state_dir(dir.path())
    .build()
    .unwrap();
    let stop = CancellationToken::new();
    let mut status = agent.status();
    let task = tokio::spawn(agent.run(stop.clone()));
    soon(status.wait_for(|status| status.last_error.is_some())).await.unwrap();
    let asked = script.asked();
    let token_of = |head: &str| {
        head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).map(str::to_owned)
    };
    assert_eq!(token_of(&asked[0].0).as_deref(), Some("old"));
    assert!(asked[1].0.starts_with("POST /base/v1/auth/token "), "{}", asked[1].0);
    assert_eq!(token_of(&asked[2].0).as_deref(), Some("renewed"), "and dials again at once");
    assert_eq!(login.read().unwrap(), token("renewed"));
    stop.cancel();
    soon(task).await.unwrap();
}
