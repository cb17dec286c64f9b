//! What browsers are told for direct paths, and that a real TURN server takes it. PROTOCOL.md section 6.1.

use http::{Method, StatusCode};
use relay_protocol::api::{IceServer, IceServers};
use serde_json::Value;
use system_tests::{Relay, RelayOptions, stack::EMAIL, tokens, turn::Turn};

const PATH: &str = "/v1/relay/ice-servers";
const SECRET: &str = "a-secret-that-coturn-knows-too";
/// What coturn's client prints once it has an address at the server.
const ALLOCATED: &str = "Received relay addr";

async fn ask(relay: &Relay, token: &str) -> IceServers {
    let reply = relay.api(Method::GET, PATH, token).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_servers_browsers_are_told_that_there_are_none() {
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let told = ask(&relay, &token).await;
    assert!(told.ice_servers.is_empty() && told.expires_at > tokens::now(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_login_comes_from_a_file_and_reaches_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("servers.json");
    let servers = r#"[{"urls":["stun:a.example"]},{"urls":"turns:b.example:443?transport=tcp","username":"u","credential":"fixed-password"}]"#;
    std::fs::write(&file, servers).unwrap();
    let relay = Relay::start(RelayOptions::default().env("RELAY_ICE_SERVERS_FILE", file.display())).await;
    let token = relay.user_with_token(EMAIL).await;
    let reply: Value = relay.api(Method::GET, PATH, &token).await.json();
    let expected: Value = serde_json::from_str(
        r#"[{"urls":["stun:a.example"]},{"urls":["turns:b.example:443?transport=tcp"],"username":"u","credential":"fixed-password"}]"#,
    )
    .unwrap();
    assert_eq!(reply["ice_servers"], expected);
    assert!(!relay.log().contains("fixed-password"), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_webrtc_off_the_path_is_like_any_unknown_one() {
    let options = RelayOptions::default().env("RELAY_WEBRTC", "0").env("RELAY_ICE_SERVERS", "stun:a.example");
    let relay = Relay::start(options).await;
    let token = relay.user_with_token(EMAIL).await;
    let shape = |path: &'static str| {
        let (relay, token) = (&relay, &token);
        async move {
            let reply = relay.api(Method::GET, path, token).await;
            let mut body: Value = reply.json();
            body.as_object_mut().unwrap().remove("request_id");
            (reply.status, body)
        }
    };
    let unknown = shape("/v1/relay/nothing").await;
    assert_eq!(unknown.0, StatusCode::NOT_FOUND);
    assert_eq!(shape(PATH).await, unknown);
}

fn turn_entry(told: &IceServers) -> IceServer {
    let entry = told.ice_servers.iter().find(|server| server.username.is_some());
    entry.unwrap_or_else(|| panic!("no TURN server in {told:?}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn coturn_takes_these_credentials_and_no_others() {
    let turn = Turn::start(SECRET).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turn_secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let options = RelayOptions::default()
        .env("RELAY_ICE_SERVERS", format!("stun:127.0.0.1:{},{}", turn.port, turn.url()))
        .env("RELAY_TURN_SECRET_FILE", file.display())
        .env("RELAY_TURN_LIFETIME", "10m");
    let relay = Relay::start(options).await;
    let token = relay.user_with_token(EMAIL).await;
    let told = ask(&relay, &token).await;
    let entry = turn_entry(&told);
    assert_eq!(entry.urls, [turn.url()]);
    let (username, credential) = (entry.username.unwrap(), entry.credential.unwrap().0);
    // Whose it is and until when, for the TURN server's log and quota.
    let user = tokens::read(&token)["sub"].as_str().unwrap().to_owned();
    assert_eq!(username, format!("{}:{user}", told.expires_at));
    assert!((tokens::now()..=tokens::now() + 600).contains(&told.expires_at), "{}", told.expires_at);

    let good = turn.try_login(&username, &credential).await;
    assert!(good.status.success() && good.stdout.contains(ALLOCATED), "{good:?}");
    assert!(good.stdout.contains("tot_send_msgs=10, tot_recv_msgs=10"), "{good:?}");

    let later = format!("{}:{user}", told.expires_at + 1);
    let other = format!("{}:{}", told.expires_at, uuid::Uuid::new_v4());
    let elsewhere = Turn::start("a-secret-of-another-server").await;
    for (what, at, username, credential) in [
        ("another end", &turn, later.as_str(), credential.as_str()),
        ("another user", &turn, other.as_str(), credential.as_str()),
        ("a wrong credential", &turn, username.as_str(), "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("another secret", &elsewhere, username.as_str(), credential.as_str()),
    ] {
        let refused = at.try_login(username, credential).await;
        assert!(
            refused.stdout.contains("allocate sent") && !refused.stdout.contains(ALLOCATED),
            "{what}: {refused:?}"
        );
        assert!(!refused.status.success(), "{what}: {refused:?}");
    }
    let log = relay.log();
    assert!(!log.contains(&credential) && !log.contains(SECRET), "{log}");
}
