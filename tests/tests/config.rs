//! What stops the relay from starting, and who wins when several places set the same thing.

use std::net::SocketAddr;

use system_tests::{
    RelayOptions, SOON,
    client::{get, try_fetch},
    eventually,
    relay::spawn,
    tokens::SECRET,
};

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Starts a relay that must refuse to start, and returns what it said.
async fn refuses(options: RelayOptions) -> String {
    let data = tempfile::tempdir().unwrap();
    let mut process = spawn(&options, data.path(), any());
    let status = process.wait(SOON).await;
    assert!(!status.success(), "it started with {options:?}");
    // The last lines may still be on their way.
    eventually("it says why", SOON, || async { !process.log().trim().is_empty() }).await;
    let log = process.log();
    assert!(!log.contains("panicked"), "{log}");
    log
}

fn config_file(text: &str) -> (tempfile::TempDir, RelayOptions) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("relay.toml");
    std::fs::write(&file, text).unwrap();
    let args = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
    (dir, RelayOptions { args, ..RelayOptions::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_stop_the_start_and_are_named() {
    for (name, value) in [
        ("RELAY_DRAIN_TIMEOUT", "soon"),
        ("RELAY_MAX_TUNNELS_PER_HOST", "0"),
        ("RELAY_MAX_TUNNELS_PER_HOST", "-1"),
        ("RELAY_MAX_HEADER_BYTES", "lots"),
        ("RELAY_TRUSTED_PROXIES", "10.0.0.0/99"),
        ("RELAY_ALLOWED_ORIGINS", "not an origin"),
        ("RELAY_ALLOWED_ORIGINS", "*"),
        ("RELAY_LOG_FORMAT", "xml"),
        ("SERVER_DATABASE_URL", "mysql://user:hidden-password@x/y"),
        ("RELAY_ICE_SERVERS", "http://hidden-password"),
        ("RELAY_ICE_SERVERS", "turn:turn.example.com"),
        ("RELAY_ICE_SERVERS", r#"[{"urls":"turn:a","username":"u","credential":["hidden-password"]}]"#),
        ("RELAY_TURN_SECRET", "hidden-password"),
        ("RELAY_TURN_SECRET", "hidden-password-without-a-server"),
        ("RELAY_TURN_LIFETIME", "1s"),
        ("RELAY_WEBRTC", "perhaps"),
        ("RELAY_JWKS_URL", "http://keys.example.com/jwks.json"),
        ("RELAY_JWKS_ISSUER", "https://issuer.example.com"),
        ("RELAY_JWKS_AUDIENCE", "relay"),
    ] {
        let log = refuses(RelayOptions::default().env(name, value)).await;
        assert!(log.contains(name), "{name}={value} is not named: {log}");
        assert!(!log.contains("hidden-password"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_secret_is_named_and_never_shown() {
    for (name, value) in [
        ("VIBEKANBAN_REMOTE_JWT_SECRET", "c2hvcnQ="),
        (
            "VIBEKANBAN_REMOTE_JWT_SECRET",
            "this is !!! not base64 at all, but it is long enough to be a secret",
        ),
        ("RELAY_JWT_SECRET", "c2hvcnQ="),
    ] {
        let log = refuses(RelayOptions::default().env(name, value)).await;
        assert!(log.contains(name), "{name} is not named: {log}");
        assert!(!log.contains(value), "the secret is shown: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_and_bad_values_of_the_file_are_named() {
    for (text, says) in [
        ("max_tunels_per_host = 3\n", "max_tunels_per_host"),
        ("max_tunnels_per_host = \"many\"\n", "max_tunnels_per_host"),
        ("[limits]\nx = 1\n", "limits"),
        ("max_tunnels_per_host = \n", "relay.toml"),
    ] {
        let (_dir, options) = config_file(text);
        let log = refuses(options).await;
        assert!(log.contains(says), "{text:?} is not named: {log}");
    }
    let args = vec!["--config".to_owned(), "/nonexistent/relay.toml".to_owned()];
    let log = refuses(RelayOptions { args, ..RelayOptions::default() }).await;
    assert!(log.contains("/nonexistent/relay.toml"), "{log}");
    let args = vec!["--no-such-flag".to_owned()];
    let log = refuses(RelayOptions { args, ..RelayOptions::default() }).await;
    assert!(log.contains("--no-such-flag"), "{log}");
}

/// Whether a start with these succeeds, where a tiny limit on targets shows which setting won.
async fn uri_limit(options: &RelayOptions) -> usize {
    let data = tempfile::tempdir().unwrap();
    let mut process = spawn(options, data.path(), any());
    let addr: SocketAddr = process
        .line("listening", SOON, |line| {
            line.contains("listening").then_some(())?;
            line.split_once("addr=")?.1.split_whitespace().next()?.parse().ok()
        })
        .await;
    eventually("it is healthy", SOON, || async { try_fetch(addr, get("/health")).await.is_ok() }).await;
    for limit in [1024, 2048, 4096, 8192] {
        let path = format!("/{}", "x".repeat(limit + 100));
        if try_fetch(addr, get(&path)).await.expect("an answer").status == 414 {
            return limit;
        }
    }
    usize::MAX
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let default = RelayOptions::default();
    assert_eq!(uri_limit(&default).await, usize::MAX);
    let (_dir, mut options) = config_file("max_uri_bytes = \"8KiB\"\n");
    assert_eq!(uri_limit(&options).await, 8192);
    options = options.env("RELAY_MAX_URI_BYTES", "4KiB");
    assert_eq!(uri_limit(&options).await, 4096);
    options.args.extend(["--max-uri-bytes".to_owned(), "2KiB".to_owned()]);
    assert_eq!(uri_limit(&options).await, 2048);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_may_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let options = RelayOptions::default().env("VIBEKANBAN_REMOTE_JWT_SECRET_FILE", file.display());
    let relay = system_tests::Relay::start(options).await;
    let token = relay.user_with_token("a@example.com").await;
    let mut claims = system_tests::tokens::read(&token);
    claims["exp"] = serde_json::json!(system_tests::tokens::now() + 60);
    let ours = system_tests::tokens::sign(SECRET, jsonwebtoken::Algorithm::HS256, &claims);
    assert!(relay.api(http::Method::GET, "/v1/relay/hosts", &ours).await.status.is_success());
    let missing = RelayOptions::default().env("VIBEKANBAN_REMOTE_JWT_SECRET_FILE", "/nonexistent/secret");
    let log = refuses(missing).await;
    assert!(
        log.contains("VIBEKANBAN_REMOTE_JWT_SECRET_FILE") || log.contains("/nonexistent/secret"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_stops_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let addr = taken.local_addr().unwrap();
    let mut process = spawn(&RelayOptions::default(), data.path(), addr);
    assert!(!process.wait(SOON).await.success());
    eventually("it says where", SOON, || async { process.log().contains(&addr.to_string()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_json_when_asked_for() {
    let data = tempfile::tempdir().unwrap();
    let options = RelayOptions::default().env("RELAY_LOG_FORMAT", "json");
    let mut process = spawn(&options, data.path(), any());
    let line: serde_json::Value = process
        .line("listening", SOON, |line| {
            line.contains("listening").then(|| serde_json::from_str(line).expect("JSON"))
        })
        .await;
    assert!(line.to_string().contains("127.0.0.1"), "{line}");
}
