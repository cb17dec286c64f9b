//! The agent's two sides: the kinds of local servers it stands in front of, and the ways it dials out.

use std::{sync::Arc, time::Duration};

use relay_protocol::{api::HostStatus, problem::Code};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{fetch, get, next_data, send, websocket},
    eventually,
    local::{OK, app},
    process::{bin, command, run},
    raw::RawConn,
    stack::{EMAIL, HOST},
    within,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_rustls::TlsAcceptor;

struct Tls {
    acceptor: TlsAcceptor,
    authority: String,
}

/// A certificate for `localhost` and 127.0.0.1, and the authority that signed it.
fn tls() -> Tls {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "system tests");
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    Tls { acceptor: TlsAcceptor::from(Arc::new(config)), authority: authority.pem() }
}

/// A TLS front before a plain server.
async fn tls_front(acceptor: TlsAcceptor, target: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let Ok(mut plain) = TcpStream::connect(target).await else { return };
                copy_bidirectional(&mut tls, &mut plain).await.ok();
            });
        }
    });
    addr
}

async fn relay_and_token() -> (Relay, String) {
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    (relay, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_https_server_is_checked_unless_told_not_to() {
    let local = LocalServer::router(app()).await;
    let tls = tls();
    let front = tls_front(tls.acceptor, local.addr).await;
    let to = format!("https://localhost:{}", front.port());
    let checked = Stack::start(&to).await;
    checked.get("/hello").await.is_problem(Code::LocalServerUnreachable);
    assert_eq!(local.counts.accepted(), 0, "a certificate that nobody vouches for was taken");
    let unchecked = Stack::with(&to, RelayOptions::default(), |a| a.arg("--insecure-local")).await;
    assert_eq!(unchecked.get("/hello").await.text(), "hello");
    let (mut ws, _) =
        websocket(unchecked.addr(), &unchecked.path("/ws"), &[]).await.expect("an upgrade over TLS");
    use futures_util::{SinkExt, StreamExt};
    ws.send("over TLS".into()).await.unwrap();
    assert_eq!(within("the echo", SOON, ws.next()).await.unwrap().unwrap(), "over TLS".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_server_may_listen_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        // Dropped with the server, and its connections with it.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((io, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut conn = RawConn::new(io);
                while let Some(head) = conn.head().await {
                    assert_eq!(head.all("host").len(), 1, "{}", head.text());
                    conn.write(OK).await.ok();
                }
            });
        }
    });
    let stack = Stack::start(&format!("unix:{}", socket.display())).await;
    assert_eq!(stack.get("/x").await.text(), "ok");
    server.abort();
    std::fs::remove_file(&socket).unwrap();
    eventually("the server's end is told", SOON, || async {
        let reply = stack.get("/x").await;
        reply.status.is_server_error() && reply.problem().code == Code::LocalServerUnreachable
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_behind_tls_is_checked_in_every_build() {
    let (relay, token) = relay_and_token().await;
    let local = LocalServer::router(app()).await;
    let tls = tls();
    let front = tls_front(tls.acceptor, relay.addr).await;
    let url = format!("https://localhost:{}", front.port());
    let mut refused = Agent::spawn(AgentOptions::new(&url, &local.url(), &token, "refused"));
    let status = refused
        .status_becomes("the certificate is named", SOON, |s| {
            s["last_error"]["message"]
                .as_str()
                .is_some_and(|e| e.to_ascii_lowercase().contains("certificate"))
        })
        .await;
    assert_eq!(status["connected"], json!(false));
    assert!(relay.find_host(&token, "refused").await.is_none());

    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, tls.authority).unwrap();
    let options = AgentOptions::new(&url, &local.url(), &token, HOST).arg("--ca").arg(ca.to_str().unwrap());
    let _agent = Agent::start(options).await;
    let host = relay.await_host(&token, HOST, HostStatus::Online).await.id;
    let session = relay.create_session(&token, host).await;
    let reply = fetch(relay.addr, get(&format!("/v1/relay/h/{host}/s/{session}/hello"))).await;
    assert_eq!(reply.text(), "hello");
    // A name that the certificate does not cover.
    let wrong = format!("https://127.0.0.2:{}", front.port());
    let options =
        AgentOptions::new(&wrong, &local.url(), &token, "wrong").arg("--ca").arg(ca.to_str().unwrap());
    let mut wrong = Agent::spawn(options);
    let status = wrong
        .status_becomes("an error", SOON, |s| {
            s["last_error"]["message"].as_str().is_some_and(|e| !e.is_empty())
        })
        .await;
    assert_eq!(status["connected"], json!(false));
}

/// A proxy that knows CONNECT alone and wants a password.
async fn proxy() -> LocalServer {
    LocalServer::raw(|mut conn| async move {
        let head = conn.head().await.expect("a request");
        let line = head.start_line();
        if head.header("proxy-authorization").as_deref() != Some("Basic dXNlcjpwQHNz") {
            conn.write("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await.ok();
            return;
        }
        let Some(target) = line.strip_prefix("CONNECT ").and_then(|l| l.strip_suffix(" HTTP/1.1")) else {
            conn.write("HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n").await.ok();
            return;
        };
        let mut to = TcpStream::connect(target).await.expect("the target");
        conn.write("HTTP/1.1 200 Connection established\r\n\r\n").await.ok();
        copy_bidirectional(&mut conn.io, &mut to).await.ok();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_dials_through_the_proxy_of_its_environment_unless_excepted() {
    let (relay, token) = relay_and_token().await;
    let local = LocalServer::router(app()).await;
    let proxy = proxy().await;
    let address = format!("http://user:p%40ss@{}", proxy.addr);
    let options = |name: &str| AgentOptions::new(&relay.url(), &local.url(), &token, name);
    let _through = Agent::start(options("through").env("HTTP_PROXY", &address)).await;
    relay.await_host(&token, "through", HostStatus::Online).await;
    assert_eq!(proxy.counts.accepted(), 1);
    let _lower = Agent::start(options("lower").env("http_proxy", &address)).await;
    assert_eq!(proxy.counts.accepted(), 2);
    let around = options("around").env("HTTP_PROXY", &address).env("NO_PROXY", "example.com,127.0.0.1");
    let _around = Agent::start(around).await;
    relay.await_host(&token, "around", HostStatus::Online).await;
    assert_eq!(proxy.counts.accepted(), 2, "NO_PROXY is not heard");
    // The local server is never reached through it.
    let host = relay.find_host(&token, "through").await.unwrap().id;
    let session = relay.create_session(&token, host).await;
    let reply = fetch(relay.addr, get(&format!("/v1/relay/h/{host}/s/{session}/hello"))).await;
    assert_eq!(reply.text(), "hello");
    assert_eq!(proxy.counts.accepted(), 2);

    let wrong = format!("http://user:wrong@{}", proxy.addr);
    let mut refused = Agent::spawn(options("refused").env("HTTP_PROXY", &wrong));
    let status = refused
        .status_becomes("the proxy is named", SOON, |s| {
            s["last_error"]["message"]
                .as_str()
                .is_some_and(|e| e.contains("407") || e.to_ascii_lowercase().contains("proxy"))
        })
        .await;
    assert!(!status.to_string().contains("wrong"), "the proxy's password is in the status: {status}");
    assert!(!refused.process.log().contains("user:wrong"), "the proxy's password is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_apart_from_a_loss() {
    let (relay, token) = relay_and_token().await;
    let local = LocalServer::router(app()).await;
    let mut agent = Agent::spawn(AgentOptions::new(&relay.url(), &local.url(), "not-a-token", HOST));
    let status = agent
        .status_becomes("the refusal is said", SOON, |s| {
            s["last_error"]["message"]
                .as_str()
                .is_some_and(|e| e.contains("401") || e.to_ascii_lowercase().contains("token"))
        })
        .await;
    assert_eq!(status["connected"], json!(false), "{status}");
    assert!(!status.to_string().contains("not-a-token"), "{status}");
    assert!(agent.process.exited().is_none(), "the token file may yet be put right");
    agent.write_token(&token);
    agent
        .status_becomes("connected with the new token", Duration::from_secs(45), |s| {
            s["connected"] == json!(true)
        })
        .await;
    assert!(!agent.process.log().contains(&token), "the token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_what_a_person_wants_to_know() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    for _ in 0..5 {
        assert_eq!(stack.get("/hello").await.text(), "hello");
    }
    let counted =
        |s: &serde_json::Value| s["requests"]["total"].as_u64() == Some(5) && s["connected"] == json!(true);
    let status = stack.agent.status_becomes("five requests", SOON, counted).await;
    let text = status.to_string();
    assert!(text.contains(&stack.addr().to_string()), "which relay: {text}");
    assert!(text.contains(&stack.host.to_string()) || text.contains(HOST), "which host: {text}");
    assert!(status.as_object().unwrap().keys().any(|k| k.contains("since")), "since when: {text}");
    assert!(
        status.as_object().unwrap().keys().any(|k| k.contains("rtt") || k.contains("round_trip")),
        "round trip: {text}"
    );
    assert!(!text.contains(&stack.token), "{text}");
    let mut plain = command(bin("local-agent-client"));
    plain.arg("status").arg("--state-dir").arg(stack.agent.state_dir());
    let out = run(plain).await;
    assert!(out.status.success() && out.stdout.to_lowercase().contains("connected"), "{out:?}");
    // Nobody is there: it says so instead of an old truth.
    let empty = tempfile::tempdir().unwrap();
    let mut none = command(bin("local-agent-client"));
    none.args(["status", "--json", "--state-dir"]).arg(empty.path());
    let out = run(none).await;
    assert!(!out.stdout.contains("\"connected\":true"), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_says_what_is_wrong_with_its_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "secret-token").unwrap();
    let token = token.to_str().unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["--relay", "ftp://x", "--to", "http://127.0.0.1:1", "--token-file", token], "ftp"),
        (&["--relay", "http://127.0.0.1:1", "--to", "gopher://x", "--token-file", token], "gopher"),
        (&["--relay", "http://127.0.0.1:1", "--token-file", token], "to"),
        (&["--to", "http://127.0.0.1:1", "--token-file", token], "relay"),
        (
            &[
                "--relay",
                "http://127.0.0.1:1",
                "--to",
                "http://127.0.0.1:1",
                "--token-file",
                token,
                "--trust",
                "everybody",
            ],
            "everybody",
        ),
    ];
    for (args, says) in cases {
        let mut agent = command(bin("local-agent-client"));
        agent
            .arg("run")
            .args(["--state-dir", dir.path().to_str().unwrap()])
            .args(args)
            .env("HOME", dir.path());
        let out = within("it ends", SOON, run(agent)).await;
        assert!(!out.status.success(), "{args:?}: {out:?}");
        assert!(out.stderr.to_lowercase().contains(says), "{args:?}: {out:?}");
        assert!(
            !out.stderr.contains("secret-token") && !out.stderr.contains("panicked"),
            "{args:?}: {out:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_takes_its_settings_from_the_environment_as_well() {
    let (relay, token) = relay_and_token().await;
    let local = LocalServer::router(app()).await;
    for (url, name) in [("RELAY_URL", "by-url"), ("VK_SHARED_RELAY_API_BASE", "by-base")] {
        let dir = tempfile::tempdir().unwrap();
        let mut agent = command(bin("local-agent-client"));
        agent
            .args(["run", "--name", name, "--state-dir"])
            .arg(dir.path())
            .env("HOME", dir.path())
            .env(url, relay.url())
            .env("RELAY_TOKEN", &token)
            .env("LOCAL_URL", local.url())
            .env("RELAY_TRUST", "relay");
        let _agent = system_tests::process::Process::start("local-agent-client", agent);
        let host = relay.await_host(&token, name, HostStatus::Online).await.id;
        let session = relay.create_session(&token, host).await;
        let reply = fetch(relay.addr, get(&format!("/v1/relay/h/{host}/s/{session}/hello"))).await;
        assert_eq!(reply.text(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_keeps_its_id_and_its_state_private() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    let before = stack.relay.find_host(&stack.token, HOST).await.unwrap();
    stack.agent.process.kill();
    stack.agent.respawn();
    stack.agent.connected().await;
    let hosts = stack.relay.hosts(&stack.token).await;
    assert_eq!((hosts.len(), &hosts[0].machine_id), (1, &before.machine_id));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for entry in std::fs::read_dir(stack.agent.state_dir()).unwrap().flatten() {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_the_agent_itself_is_never_forwarded() {
    let recorder = system_tests::local::Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    for local in ["/_relay/", "/_relay/pairing/start", "/_relay"] {
        let reply = stack.get(local).await;
        assert!(!reply.status.is_success(), "{local}: {reply:?}");
    }
    assert_eq!(recorder.count(), 0, "the agent's own prefix reached the local server");
    assert_eq!(stack.get("/_relayed").await.text(), "ok", "another path that begins alike is the app's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_response_stays_open_while_the_agent_waits() {
    // Longer than the ping interval would be cut if pings and streams disturbed each other.
    let local = LocalServer::raw(|mut conn| async move {
        conn.head().await;
        conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.ok();
        tokio::time::sleep(Duration::from_secs(5)).await;
        conn.write("1\r\nb\r\n0\r\n\r\n").await.ok();
    })
    .await;
    let options = RelayOptions::default()
        .env("RELAY_TUNNEL_PING_INTERVAL", "1s")
        .env("RELAY_TUNNEL_PING_TIMEOUT", "1s");
    let stack = Stack::with(&local.url(), options, |a| a).await;
    let mut body = send(stack.addr(), get(&stack.path("/x"))).await.unwrap().into_body();
    assert_eq!(next_data(&mut body).await.unwrap().unwrap(), "a");
    assert_eq!(within("the rest", SOON, next_data(&mut body)).await.unwrap().unwrap(), "b");
    assert!(within("the end", SOON, next_data(&mut body)).await.is_none());
}
