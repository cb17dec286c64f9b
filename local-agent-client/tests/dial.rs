//! Dialling: TLS, proxies, refusals and sub-protocols, each against a small server on a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{head, soon};
use hyper_util::client::proxy::matcher::Matcher;
use local_agent_client::{
    Token,
    backoff::Cause,
    dial::{DialError, Dialer, tls},
};
use relay_protocol::{
    problem::{Code, Problem},
    tunnel::{Form, SUBPROTOCOL},
};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

fn dialer(relay: &str, ca: Option<&Path>, proxies: Matcher) -> Dialer {
    tls::install_provider();
    Dialer {
        relay: relay.parse().unwrap(),
        machine_id: "m-1".to_owned(),
        name: "my box".to_owned(),
        tls: Arc::new(tls::verified(ca).unwrap()),
        proxies,
    }
}

fn direct() -> Matcher {
    Matcher::builder().build()
}

fn token() -> Token {
    Token::new("the-token").unwrap()
}

/// Listens, and handles every connection by `serve`.
async fn listen<F, R>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(socket));
        }
    });
    address
}

/// Accepts a WebSocket, selecting the sub-protocol when `select` says so, and gives the head that came.
async fn accept(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), select: Option<&str>) -> String {
    let head = head(socket).await;
    let key =
        head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default().to_owned();
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {}\r\nx-relay-host-id: h-1\r\n",
        derive_accept_key(key.as_bytes())
    );
    if let Some(protocol) = select {
        answer += &format!("sec-websocket-protocol: {protocol}\r\n");
    }
    socket.write_all((answer + "\r\n").as_bytes()).await.unwrap();
    head
}

#[tokio::test]
async fn a_relay_may_know_the_sub_protocol_or_not() {
    for (select, plain) in [(Some(SUBPROTOCOL), false), (None, true)] {
        let seen = Arc::new(Mutex::new(String::new()));
        let heads = seen.clone();
        let address = listen(move |mut socket| {
            let heads = heads.clone();
            async move {
                *heads.lock().unwrap() = accept(&mut socket, select).await;
                let _ = socket.read_u8().await;
            }
        })
        .await;
        let dialed =
            soon(dialer(&format!("ws://{address}/base/"), None, direct()).dial(&token())).await.unwrap();
        assert_eq!(dialed.form == Form::Plain, plain);
        assert_eq!(dialed.host_id.as_deref(), Some("h-1"));
        let head = seen.lock().unwrap().clone();
        let version = env!("CARGO_PKG_VERSION");
        let line = format!(
            "GET /base/v1/relay/connect?machine_id=m-1&name=my+box&agent_version={version} HTTP/1.1\r\n"
        );
        assert!(head.starts_with(&line), "{head}");
        for header in [
            format!("host: {address}"),
            "authorization: Bearer the-token".into(),
            format!("sec-websocket-protocol: {SUBPROTOCOL}"),
        ] {
            assert!(head.lines().any(|line| line == header), "{header} in {head}");
        }
    }
}

#[tokio::test]
async fn bytes_right_behind_the_handshake_are_not_lost() {
    use futures_util::StreamExt;
    let address = listen(|mut socket| async move {
        let head = head(&mut socket).await;
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap().to_owned();
        let mut answer = format!(
            "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        )
        .into_bytes();
        answer.extend_from_slice(b"\x82\x03abc");
        socket.write_all(&answer).await.unwrap();
        let _ = socket.read_u8().await;
    })
    .await;
    let mut dialed = soon(dialer(&format!("http://{address}"), None, direct()).dial(&token())).await.unwrap();
    assert_eq!(soon(dialed.socket.next()).await.unwrap().unwrap().into_data(), "abc");
}

#[tokio::test]
async fn refusals_are_told_apart_with_what_the_relay_says() {
    let refused = Cause::Refused;
    for (status, code, extra, cause, says) in [
        (401, Code::Unauthorized, "", refused, "refused the token (401)"),
        (403, Code::HostAccessDenied, "", refused, "(403)"),
        (426, Code::AgentOutdated, "", refused, "upgrade the older one"),
        (
            429,
            Code::RateLimited,
            "retry-after: 3\r\n",
            Cause::Busy { retry_after: Some(Duration::from_secs(3)) },
            "(429)",
        ),
        (503, Code::Draining, "", Cause::Busy { retry_after: None }, "(503)"),
        (500, Code::Internal, "", Cause::Unreachable, "(500)"),
    ] {
        let body = Problem::new(code, "Because of this.").to_json();
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{extra}\r\n{body}", body.len());
        let address = listen(move |mut socket| {
            let answer = answer.clone();
            async move {
                head(&mut socket).await;
                socket.write_all(answer.as_bytes()).await.unwrap();
                let _ = socket.read_u8().await;
            }
        })
        .await;
        let error =
            soon(dialer(&format!("http://{address}"), None, direct()).dial(&token())).await.unwrap_err();
        assert_eq!(error.cause(), cause, "{error}");
        assert_eq!(error.is_about_the_token(), matches!(status, 401 | 403));
        let text = error.to_string();
        assert!(text.contains(says) && text.ends_with("It says: Because of this."), "{text}");
        assert!(!format!("{error:?}{text}").contains("the-token"));
    }
}

#[tokio::test]
async fn an_endless_refusal_is_not_read_to_its_end() {
    let address = listen(|mut socket| async move {
        head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 401 x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        while socket.write_all(b"4\r\nabcd\r\n").await.is_ok() {}
    })
    .await;
    let error = soon(dialer(&format!("http://{address}"), None, direct()).dial(&token())).await.unwrap_err();
    assert!(
        matches!(&error, DialError::Refused(refusal) if refusal.status == 401 && refusal.detail.is_none()),
        "{error:?}"
    );
}

#[tokio::test]
async fn nobody_there_is_no_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = soon(dialer(&format!("http://{address}"), None, direct()).dial(&token())).await.unwrap_err();
    assert!(matches!(error, DialError::Connect { .. }), "{error:?}");
    assert_eq!(error.cause(), Cause::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_never_answers_is_given_up() {
    let address = listen(|mut socket| async move {
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let error = dialer(&format!("http://{address}"), None, direct()).dial(&token()).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout(..)), "{error:?}");
}

/// A certificate for `localhost` by a CA of our own: the server's configuration and the CA as PEM.
fn certified() -> (Arc<rustls::ServerConfig>, String) {
    tls::install_provider();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (Arc::new(config), ca_certificate.pem())
}

async fn tls_relay(config: Arc<rustls::ServerConfig>) -> SocketAddr {
    listen(move |socket| {
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        async move {
            if let Ok(mut socket) = acceptor.accept(socket).await {
                accept(&mut socket, Some(SUBPROTOCOL)).await;
                let _ = socket.read_u8().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn only_a_certificate_that_verifies_is_accepted() {
    let (config, pem) = certified();
    let port = tls_relay(config).await.port();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, pem).unwrap();

    let dialed =
        soon(dialer(&format!("wss://localhost:{port}"), Some(&ca), direct()).dial(&token())).await.unwrap();
    assert!(matches!(dialed.form, Form::V1(_)));
    let unknown =
        soon(dialer(&format!("https://localhost:{port}"), None, direct()).dial(&token())).await.unwrap_err();
    assert!(matches!(unknown, DialError::Tls(_)), "{unknown:?}");
    // The right CA, and another name than the certificate's.
    let name = soon(dialer(&format!("https://127.0.0.1:{port}"), Some(&ca), direct()).dial(&token()))
        .await
        .unwrap_err();
    assert!(matches!(name, DialError::Tls(_)), "{name:?}");
}

/// A CONNECT proxy that notes what it was asked for and answers with `status`.
async fn proxy(status: u16, asked: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    listen(move |mut socket| {
        let asked = asked.clone();
        async move {
            let head = head(&mut socket).await;
            let to = head.split(' ').nth(1).unwrap_or_default().to_owned();
            asked.lock().unwrap().push(head);
            socket.write_all(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes()).await.unwrap();
            if status == 200 {
                let mut upstream = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut upstream).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn proxies_are_used_and_no_proxy_is_honoured() {
    let (config, pem) = certified();
    let port = tls_relay(config).await.port();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let relay = format!("https://localhost:{port}");

    let asked = Arc::new(Mutex::new(Vec::new()));
    let address = proxy(200, asked.clone()).await;
    let environment = || Matcher::builder().https(format!("http://user:pass@{address}"));
    soon(dialer(&relay, Some(&ca), environment().build()).dial(&token())).await.unwrap();
    let heads = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(heads.len(), 1);
    assert!(heads[0].starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n")), "{heads:?}");
    assert!(heads[0].contains("Proxy-Authorization: Basic dXNlcjpwYXNz"), "{heads:?}");
    assert!(!heads[0].contains("the-token"), "the proxy does not see the token");

    soon(dialer(&relay, Some(&ca), environment().no("localhost").build()).dial(&token())).await.unwrap();
    assert!(asked.lock().unwrap().is_empty(), "NO_PROXY");

    let refusing = proxy(407, asked.clone()).await;
    let environment = Matcher::builder().all(format!("http://user:pass@{refusing}")).build();
    let error = soon(dialer(&relay, Some(&ca), environment).dial(&token())).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, DialError::Proxy { .. }) && text.contains("authorization") && !text.contains("pass"),
        "{text}"
    );

    let socks = Matcher::builder().all("socks5://127.0.0.1:1").build();
    let error = soon(dialer(&relay, Some(&ca), socks).dial(&token())).await.unwrap_err();
    assert!(error.to_string().contains("only http and https proxies"), "{error}");
}

#[tokio::test]
async fn an_https_local_server_is_checked_unless_told_otherwise() {
    use local_agent_client::{Agent, Status, TokenSource};
    // An agent whole, its relay plain, its local server behind a certificate of nobody's.
    let (config, _) = certified();
    let local = listen(move |socket| {
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        async move {
            if let Ok(mut socket) = acceptor.accept(socket).await {
                head(&mut socket).await;
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    for (insecure, expected) in [(true, 200), (false, 502)] {
        let (tunnels, mut tunnel) = tokio::sync::mpsc::unbounded_channel();
        let relay = listen(move |mut socket| {
            let tunnels = tunnels.clone();
            async move {
                use relay_protocol::tunnel::{Options, Role, start};
                use tokio_tungstenite::{WebSocketStream, tungstenite::protocol};
                accept(&mut socket, None).await;
                let socket = WebSocketStream::from_raw_socket(socket, protocol::Role::Server, None).await;
                let (handle, _, driver) = start(socket, Options::new(Role::Relay, Form::Plain));
                tunnels.send(handle).unwrap();
                driver.run().await;
            }
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "the-token\n").unwrap();
        let target = format!("https://localhost:{}", local.port()).parse().unwrap();
        let agent =
            Agent::builder(format!("http://{relay}").parse().unwrap(), TokenSource::File(file), target)
                .state_dir(dir.path().join("state"))
                .insecure_local(insecure)
                .trust(local_agent_client::Trust::Relay)
                .proxies(direct())
                .build()
                .unwrap();
        let mut status = agent.status();
        let stop = tokio_util::sync::CancellationToken::new();
        let running = tokio::spawn(agent.run(stop.clone()));
        let handle = soon(tunnel.recv()).await.unwrap();
        let connected: Status = soon(status.wait_for(|status| status.connected)).await.unwrap().clone();
        assert_eq!((connected.form.as_deref(), connected.host_id.as_deref()), (Some("plain"), Some("h-1")));
        let mut stream = handle.open().await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: r\r\n\r\n").await.unwrap();
        let answer = soon(head(&mut stream)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{answer}");
        // What `status` reads is there while the agent runs, and only then.
        let read = || local_agent_client::state::read_status(&dir.path().join("state")).unwrap();
        soon(async {
            while read().is_none_or(|status| status.requests.total == 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(read().unwrap().connected);
        drop(stream);
        stop.cancel();
        soon(running).await.unwrap();
        assert_eq!(read(), None);
    }
}
