//! Every route of the API against a real SQLite store.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use http::HeaderMap;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::auth::token::Verifier;
use crate::auth::token::{Claims, Secret, mint};
use crate::config::sources::Sources;
use crate::http::client_addr::client_info;
use crate::http::request_id::RequestId;

#[derive(Default)]
struct Seen {
    online: Mutex<Vec<Uuid>>,
    revoked: Mutex<Vec<Uuid>>,
    deleted: Mutex<Vec<Uuid>>,
    signed_out: Mutex<Vec<Uuid>>,
}

impl Live for Seen {
    fn session_revoked(&self, session: Uuid) {
        self.revoked.lock().push(session);
    }
    fn host_deleted(&self, host: Uuid) {
        self.deleted.lock().push(host);
    }
    fn sign_in_ended(&self, auth_session: Uuid) {
        self.signed_out.lock().push(auth_session);
    }
    fn online(&self, host: Uuid) -> bool {
        self.online.lock().contains(&host)
    }
}

struct World {
    _dir: tempfile::TempDir,
    routes: Routes,
    store: Store,
    live: Arc<Seen>,
    shutdown: Shutdown,
    secret: Secret,
}

struct Person {
    user: Uuid,
    auth_session: Uuid,
    token: String,
}

async fn world(env: &[(&str, &str)]) -> World {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap().to_owned();
    let lookup = |name: &str| {
        let own = (name == "RELAY_DATA_DIR").then(|| data.clone());
        own.or_else(|| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
            .map(Into::into)
    };
    let config = Config::load(&Sources { flag: &|_| None, env: &lookup }).unwrap();
    let secret = config.load_jwt_secret().unwrap();
    let store = Store::open(&config.store_options()).await.unwrap();
    let (live, shutdown) = (Arc::new(Seen::default()), Shutdown::default());
    let bearers = Arc::new(Bearers::new(Verifier::new(&secret), None, store.clone()));
    let api = Api::new(&config, store.clone(), secret.clone(), bearers, live.clone(), shutdown.clone())
        .named("relay-a");
    World { _dir: dir, routes: Routes::new(api), store, live, shutdown, secret }
}

impl World {
    async fn person(&self, email: &str) -> Person {
        let user = self.store.add_user(email).await.unwrap().id;
        let row = self.store.create_token(email, "test", unix_now() + 3600).await.unwrap();
        let claims = Claims { sub: user, session_id: row.id, iat: unix_now(), exp: unix_now() + 3600 };
        Person { user, auth_session: row.id, token: mint(&self.secret, &claims).unwrap() }
    }

    async fn send(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let peer = "203.0.113.9:1".parse().unwrap();
        let client = client_info(peer, None, &HeaderMap::new(), &[]);
        let context = Context { client, request_id: RequestId::random(), forwarded: false };
        self.routes.call(request.body(Body::from(body.to_owned())).unwrap(), context).await
    }

    async fn call(&self, method: &str, path: &str, person: &Person, body: &str) -> (u16, Value) {
        answer(self.send(method, path, Some(&person.token), body).await).await
    }
}

async fn answer(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() })
}

#[tokio::test]
async fn health_says_how_it_is() {
    let world = world(&[]).await;
    let (status, body) = answer(world.send("GET", "/health", None, "").await).await;
    assert_eq!(
        (status, &body["status"], &body["ok"], &body["service"]),
        (200, &json!("ok"), &json!(true), &json!("relay"))
    );
    assert!(body["uptimeMs"].is_u64());
    assert_eq!(
        (&body["relayId"], &body["relayMode"], &body["tlsEnabled"]),
        (&json!("relay-a"), &json!("single"), &json!(false))
    );
    world.shutdown.drain();
    let (status, body) = answer(world.send("GET", "/health", None, "").await).await;
    assert_eq!((status, &body["status"], &body["ok"]), (503, &json!("draining"), &json!(false)));
}

#[tokio::test]
async fn nothing_without_a_good_token() {
    let world = world(&[]).await;
    let person = world.person("a@example.com").await;
    let host = world.store.upsert_host(person.user, "m", "laptop", None).await.unwrap();
    let expired = Claims { sub: person.user, session_id: person.auth_session, iat: 0, exp: unix_now() - 120 };
    let expired = mint(&world.secret, &expired).unwrap();
    let other = Claims { sub: Uuid::new_v4(), session_id: person.auth_session, iat: 0, exp: unix_now() + 60 };
    let other = mint(&world.secret, &other).unwrap();
    let paths = [
        ("GET", "/v1/relay/hosts".to_owned()),
        ("PATCH", format!("/v1/relay/hosts/{host}")),
        ("DELETE", format!("/v1/relay/hosts/{host}")),
        ("POST", format!("/v1/relay/create/{host}")),
        ("GET", "/v1/relay/sessions".to_owned()),
        ("DELETE", format!("/v1/relay/sessions/{host}")),
        ("GET", "/v1/relay/ice-servers".to_owned()),
    ];
    for (method, path) in &paths {
        for token in [None, Some("garbage"), Some(expired.as_str()), Some(other.as_str())] {
            let response = world.send(method, path, token, "{\"name\":\"x\"}").await;
            assert_eq!(response.headers()["www-authenticate"], "Bearer", "{method} {path}");
            let (status, body) = answer(response).await;
            assert_eq!((status, &body["code"]), (401, &json!("unauthorized")), "{method} {path} {token:?}");
        }
    }
    assert_eq!(world.call("GET", "/v1/relay/hosts", &person, "").await.0, 200);
    world.store.revoke_token(person.auth_session).await.unwrap();
    assert_eq!(world.call("GET", "/v1/relay/hosts", &person, "").await.0, 401);
}

#[tokio::test]
async fn hosts_are_listed_renamed_and_deleted_by_their_owner() {
    let world = world(&[]).await;
    let (owner, other) = (world.person("a@example.com").await, world.person("b@example.com").await);
    let host = world.store.upsert_host(owner.user, "m", "laptop", Some("0.1.0")).await.unwrap();
    let path = format!("/v1/relay/hosts/{host}");

    let (_, list) = world.call("GET", "/v1/relay/hosts", &owner, "").await;
    assert_eq!(list["hosts"][0]["id"], json!(host));
    assert_eq!(
        (&list["hosts"][0]["status"], &list["hosts"][0]["role"]),
        (&json!("offline"), &json!("owner"))
    );
    world.live.online.lock().push(host);
    let (_, list) = world.call("GET", "/v1/relay/hosts", &owner, "").await;
    assert_eq!(list["hosts"][0]["status"], "online");
    assert_eq!(world.call("GET", "/v1/relay/hosts", &other, "").await.1, json!({"hosts": []}));

    let upper = format!("/v1/relay/hosts/{}", host.to_string().to_uppercase());
    let (status, renamed) = world.call("PATCH", &upper, &owner, "{\"name\":\"  Büro \"}").await;
    assert_eq!((status, &renamed["name"], &renamed["status"]), (200, &json!("Büro"), &json!("online")));
    let long = "x".repeat(201);
    for bad in [
        "",
        "{}",
        "[]",
        "{\"name\":\" \"}",
        "{\"name\":\"a\\nb\"}",
        "{\"name\":\"a\",\"x\":1}",
        &format!("{{\"name\":\"{long}\"}}"),
    ] {
        let (status, body) = world.call("PATCH", &path, &owner, bad).await;
        assert_eq!((status, &body["code"]), (400, &json!("bad_request")), "{bad}");
    }
    let (status, body) = world.call("PATCH", &path, &owner, &" ".repeat(64 * 1024 + 1)).await;
    assert_eq!((status, &body["code"]), (413, &json!("body_too_large")));

    // To others the host does not exist.
    for (method, body) in [("PATCH", "{\"name\":\"mine\"}"), ("DELETE", "")] {
        let (status, problem) = world.call(method, &path, &other, body).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{method}");
    }
    assert!(world.live.deleted.lock().is_empty());
    assert_eq!(world.call("DELETE", &path, &owner, "").await, (204, Value::Null));
    assert_eq!(*world.live.deleted.lock(), [host]);
    assert_eq!(world.call("DELETE", &path, &owner, "").await.0, 404);
}

#[tokio::test]
async fn sessions_are_made_listed_and_revoked() {
    let world = world(&[("RELAY_SESSION_LIFETIME", "2h")]).await;
    let (owner, other) = (world.person("a@example.com").await, world.person("b@example.com").await);
    let host = world.store.upsert_host(owner.user, "m", "laptop", None).await.unwrap();

    let (status, made) = world.call("POST", &format!("/v1/relay/create/{host}"), &owner, "").await;
    assert_eq!(status, 200);
    let session: Uuid = serde_json::from_value(made["session_id"].clone()).unwrap();
    let left = made["expires_at"].as_i64().unwrap() - unix_now();
    assert!((7190..=7200).contains(&left), "{left}");

    let (status, problem) = world.call("POST", &format!("/v1/relay/create/{host}"), &other, "").await;
    assert_eq!((status, &problem["code"]), (403, &json!("host_access_denied")));
    let nobodys = Uuid::new_v4();
    let alike = world.call("POST", &format!("/v1/relay/create/{nobodys}"), &owner, "").await;
    assert_eq!((alike.0, &alike.1["code"]), (403, &json!("host_access_denied")));
    for missing in ["not-an-id".to_owned(), host.simple().to_string()] {
        let (status, problem) = world.call("POST", &format!("/v1/relay/create/{missing}"), &owner, "").await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{missing}");
    }

    let (_, list) = world.call("GET", "/v1/relay/sessions", &owner, "").await;
    assert_eq!(
        (&list["sessions"][0]["id"], &list["sessions"][0]["host_id"]),
        (&json!(session), &json!(host))
    );
    assert_eq!(world.call("GET", "/v1/relay/sessions", &other, "").await.1, json!({"sessions": []}));
    let path = format!("/v1/relay/sessions/{session}");
    assert_eq!(world.call("DELETE", &path, &other, "").await.0, 404);
    assert!(world.live.revoked.lock().is_empty());
    assert_eq!(world.call("DELETE", &path, &owner, "").await, (204, Value::Null));
    assert_eq!(*world.live.revoked.lock(), [session]);
    assert_eq!(world.call("DELETE", &path, &owner, "").await.0, 404);
    assert_eq!(world.call("GET", "/v1/relay/sessions", &owner, "").await.1, json!({"sessions": []}));
}

#[tokio::test]
async fn ice_servers_are_the_callers_own_and_no_cache_keeps_them() {
    let env = [
        ("RELAY_ICE_SERVERS", "stun:stun.example.com,turn:turn.example.com:3478?transport=udp"),
        ("RELAY_TURN_SECRET", "north-wind-and-the-sun"),
        ("RELAY_TURN_LIFETIME", "1h"),
    ];
    let world = world(&env).await;
    let person = world.person("a@example.com").await;
    let response = world.send("GET", "/v1/relay/ice-servers", Some(&person.token), "").await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let (status, body) = answer(response).await;
    assert_eq!(status, 200);
    let left = body["expires_at"].as_i64().unwrap() - unix_now();
    assert!((3590..=3600).contains(&left), "{left}");
    assert_eq!(body["ice_servers"][0], json!({"urls": ["stun:stun.example.com"]}));
    let turn = &body["ice_servers"][1];
    assert_eq!(turn["urls"], json!(["turn:turn.example.com:3478?transport=udp"]));
    assert_eq!(turn["username"], json!(format!("{}:{}", body["expires_at"], person.user)));
    assert_eq!(turn["credential"].as_str().unwrap().len(), 28);
    let (status, body) = answer(world.send("POST", "/v1/relay/ice-servers", None, "").await).await;
    assert_eq!((status, &body["code"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn without_webrtc_there_is_no_such_path() {
    let world = world(&[("RELAY_WEBRTC", "0"), ("RELAY_ICE_SERVERS", "stun:a")]).await;
    let person = world.person("a@example.com").await;
    let unknown = world.call("GET", "/v1/relay/nothing", &person, "").await;
    assert_eq!(unknown.0, 404);
    for method in ["GET", "POST", "DELETE"] {
        assert_eq!(world.call(method, "/v1/relay/ice-servers", &person, "").await, unknown, "{method}");
        let nobody = answer(world.send(method, "/v1/relay/ice-servers", None, "").await).await;
        assert_eq!(nobody, unknown, "{method}");
    }
}

#[tokio::test]
async fn unknown_paths_look_alike_and_wrong_methods_are_told_the_right_ones() {
    let world = world(&[("RELAY_PORTAL", "0")]).await;
    let mut bodies = Vec::new();
    for path in [
        "/",
        "/device",
        "/assets/x.js",
        "/v1/auth",
        "/v1/auth/nothing",
        "/metrics",
        "/state",
        "/v1/relay",
        "/v1/relay/hosts/",
        "/v1/relay/hosts/x/y",
        "//health",
        "/%2Fhealth",
    ] {
        let (status, body) = answer(world.send("GET", path, None, "").await).await;
        assert_eq!(status, 404, "{path}");
        bodies.push(body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    for (method, path, allow) in [
        ("POST", "/health", "GET,HEAD"),
        ("GET", "/v1/relay/create/x", "POST"),
        ("PUT", "/v1/relay/hosts/x", "PATCH,DELETE"),
    ] {
        let response = world.send(method, path, None, "").await;
        assert_eq!(response.headers()["allow"], allow, "{path}");
        let (status, body) = answer(response).await;
        assert_eq!((status, &body["code"]), (405, &json!("method_not_allowed")));
    }
}

#[tokio::test]
async fn an_address_that_calls_too_often_waits_and_health_does_not_count() {
    let world = world(&[("RELAY_API_RATE_PER_MINUTE", "3")]).await;
    for _ in 0..10 {
        assert_eq!(world.send("GET", "/health", None, "").await.status(), 200);
    }
    for _ in 0..3 {
        assert_eq!(world.send("GET", "/v1/relay/hosts", None, "").await.status(), 401);
    }
    let (status, body) = answer(world.send("GET", "/v1/relay/hosts", None, "").await).await;
    assert_eq!((status, &body["code"]), (429, &json!("rate_limited")));
}
