//! The relay's own interface: every route, who may call it, what an error looks like.

use http::{Method, Request, StatusCode};
use relay_protocol::{
    api::{AccessRole, Health, HostStatus},
    problem::Code,
};
use serde_json::{Value, json};
use system_tests::{
    Agent, AgentOptions, LocalServer, Relay, RelayOptions, SOON, Stack,
    client::{self, Reply, empty, fetch, full, get},
    eventually,
    local::{Recorder, app},
    relay::bearer,
    stack::{EMAIL, HOST},
};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_that_the_relay_is_well() {
    let relay = Relay::start(RelayOptions::default().env("RELAY_ID", "relay-a")).await;
    let reply = fetch(relay.addr, get("/health")).await;
    assert_eq!(reply.status, StatusCode::OK);
    let health: Health = reply.json();
    assert_eq!((health.status.as_str(), health.ok, health.service.as_str()), ("ok", true, "relay"));
    assert_eq!(
        (health.relay_id.as_str(), health.relay_mode.as_str(), health.tls_enabled),
        ("relay-a", "single", false)
    );
    let later: Value = fetch(relay.addr, get("/health")).await.json();
    assert!(later["uptimeMs"].as_u64().expect("a number") >= health.uptime_ms);
    let head = fetch(relay.addr, client::request(Method::HEAD, "/health", empty())).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}

/// Every route that wants a token, with an id that nobody has.
fn guarded() -> Vec<(Method, String)> {
    let id = Uuid::new_v4();
    vec![
        (Method::GET, "/v1/relay/connect?machine_id=m&name=n&agent_version=1".to_owned()),
        (Method::POST, format!("/v1/relay/create/{id}")),
        (Method::GET, "/v1/relay/hosts".to_owned()),
        (Method::PATCH, format!("/v1/relay/hosts/{id}")),
        (Method::DELETE, format!("/v1/relay/hosts/{id}")),
        (Method::GET, "/v1/relay/sessions".to_owned()),
        (Method::DELETE, format!("/v1/relay/sessions/{id}")),
        (Method::GET, "/v1/relay/ice-servers".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_guarded_route_refuses_a_caller_without_a_good_token() {
    let relay = Relay::start(RelayOptions::default()).await;
    for (method, path) in guarded() {
        for authorization in
            [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Bearer x.y.z"), Some("Basic YTpi")]
        {
            let mut request = Request::builder().method(&method).uri(&path);
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let reply = fetch(relay.addr, request.body(empty()).unwrap()).await;
            assert_eq!(reply.problem().code, Code::Unauthorized, "{method} {path} {authorization:?}");
            let challenge = reply.header("www-authenticate").unwrap_or_default().to_ascii_lowercase();
            assert!(challenge.starts_with("bearer"), "RFC 9110 section 11.6.1: {method} {path}: {reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_is_no_token() {
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    for name in ["token", "access_token", "authorization"] {
        fetch(relay.addr, get(&format!("/v1/relay/hosts?{name}={token}")))
            .await
            .is_problem(Code::Unauthorized);
    }
    assert!(!relay.log().contains(&token), "a query reached the log");
}

/// What is left of a 404 when the request's own id is taken away.
fn shape(reply: &Reply) -> (Value, Vec<(String, String)>) {
    let mut body: Value = reply.json();
    body.as_object_mut().unwrap().remove("request_id");
    let headers = reply
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"))
        .map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned()))
        .collect();
    (body, headers)
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_are_off_look_exactly_like_paths_that_are_not() {
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let unknown = fetch(relay.addr, get("/nothing-of-this-name")).await;
    unknown.is_problem(Code::NotFound);
    for path in [
        "/state",
        "/logs",
        "/metrics",
        "/admin",
        "/v1/relay",
        "/v1/relay/",
        "/v1/relay/nothing",
        "/v1/relayx/hosts",
    ] {
        let reply = fetch(relay.addr, get(path)).await;
        assert_eq!(shape(&reply), shape(&unknown), "{path}");
        let with_token = relay.api(Method::GET, path, &token).await;
        assert_eq!(shape(&with_token), shape(&unknown), "{path} with a user's token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_path_with_a_wrong_method_says_which_are_allowed() {
    let relay = Relay::start(RelayOptions::default()).await;
    let token = relay.user_with_token(EMAIL).await;
    let id = Uuid::new_v4();
    let cases = [
        (Method::POST, "/health".to_owned(), "GET"),
        (Method::GET, format!("/v1/relay/create/{id}"), "POST"),
        (Method::PUT, "/v1/relay/hosts".to_owned(), "GET"),
        (Method::PUT, format!("/v1/relay/hosts/{id}"), "PATCH"),
        (Method::PUT, format!("/v1/relay/sessions/{id}"), "DELETE"),
    ];
    for (method, path, allowed) in cases {
        let reply = relay.api(method.clone(), &path, &token).await;
        assert_eq!(reply.problem().code, Code::MethodNotAllowed, "{method} {path}");
        assert!(reply.header("allow").unwrap_or_default().contains(allowed), "{method} {path}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_the_id_under_which_it_was_logged() {
    let relay = Relay::start(RelayOptions::default()).await;
    for path in ["/health", "/nothing", "/v1/relay/hosts"] {
        let reply = fetch(relay.addr, get(path)).await;
        let id = reply.header("x-request-id").unwrap_or_else(|| panic!("{path}: {reply:?}")).to_owned();
        if reply.status != StatusCode::OK {
            assert_eq!(reply.problem().request_id.as_deref(), Some(id.as_str()), "{path}");
            eventually("the request is in the log", SOON, || async { relay.log().contains(&id) }).await;
        }
        let again = fetch(relay.addr, get(path)).await;
        assert_ne!(again.header("x-request-id"), Some(id.as_str()), "two requests, one id");
    }
    // Whatever a caller claims as its id must not forge lines of the log.
    let forged =
        Request::builder().uri("/nothing").header("x-request-id", "a b\tc=\"d\"").body(empty()).unwrap();
    let reply = fetch(relay.addr, forged).await;
    assert_ne!(reply.header("x-request-id"), Some("a b\tc=\"d\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_made_listed_used_and_revoked() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let reply =
        stack.relay.api(Method::POST, &format!("/v1/relay/create/{}", stack.host), &stack.token).await;
    let made: relay_protocol::api::CreatedSession = reply.json();
    assert!(made.expires_at > system_tests::tokens::now());
    assert_eq!(reply.header("cache-control"), Some("no-store"), "the answer is a credential: {reply:?}");
    assert_eq!(stack.get("/hello").await.text(), "hello");

    let sessions = stack.relay.sessions(&stack.token).await;
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    assert!(sessions.iter().all(|s| s.host_id == stack.host));
    assert!(sessions[0].created_at >= sessions[1].created_at, "newest first: {sessions:?}");

    let path = format!("/v1/relay/sessions/{}", stack.session);
    let gone = stack.relay.api(Method::DELETE, &path, &stack.token).await;
    assert!(gone.status.is_success(), "{gone:?}");
    // On the relay that handled it, revocation is felt at once.
    stack.get("/hello").await.is_problem(Code::SessionExpired);
    assert!(stack.relay.sessions(&stack.token).await.iter().all(|s| s.id != stack.session));
    let again = stack.relay.api(Method::DELETE, &path, &stack.token).await;
    assert!(again.status.is_success() || again.problem().code == Code::NotFound, "{again:?}");
    // The other session goes on.
    let other = format!("/v1/relay/h/{}/s/{}/hello", stack.host, made.session_id);
    assert_eq!(fetch(stack.addr(), get(&other)).await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_session_ends_what_it_has_open() {
    let local = LocalServer::raw(|mut conn| async move {
        conn.head().await;
        conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.ok();
        conn.rest().await;
    })
    .await;
    let stack = Stack::start(&local.url()).await;
    let mut body = client::send(stack.addr(), get(&stack.path("/events"))).await.unwrap().into_body();
    assert_eq!(client::next_data(&mut body).await.unwrap().unwrap(), "a");
    let path = format!("/v1/relay/sessions/{}", stack.session);
    assert!(stack.relay.api(Method::DELETE, &path, &stack.token).await.status.is_success());
    let end = tokio::time::timeout(std::time::Duration::from_secs(5), client::next_data(&mut body)).await;
    assert!(
        matches!(end, Ok(Some(Err(_)))),
        "a revoked session's stream goes on, or looks complete: {end:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_listed_renamed_and_deleted() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let host = stack.relay.find_host(&stack.token, HOST).await.unwrap();
    assert_eq!((host.id, host.status, host.role), (stack.host, HostStatus::Online, AccessRole::Owner));
    assert!(
        host.last_seen_at.is_some() && host.agent_version.is_some() && !host.machine_id.is_empty(),
        "{host:?}"
    );

    let path = format!("/v1/relay/hosts/{}", stack.host);
    let renamed = stack.relay.api_json(Method::PATCH, &path, &stack.token, json!({"name": "Büro 2"})).await;
    assert!(renamed.status.is_success(), "{renamed:?}");
    assert_eq!(stack.relay.hosts(&stack.token).await[0].name, "Büro 2");
    for bad in [
        json!({"name": ""}),
        json!({"name": "x".repeat(201)}),
        json!({"name": 7}),
        json!({}),
        json!([]),
        json!({"name": "a", "status": "online"}),
        json!({"name": "a\nb"}),
    ] {
        let reply = stack.relay.api_json(Method::PATCH, &path, &stack.token, bad.clone()).await;
        assert_eq!(reply.problem().code, Code::BadRequest, "{bad}");
    }
    let not_json = bearer(Method::PATCH, &path, &stack.token).body(full("{\"name\":")).unwrap();
    fetch(stack.addr(), not_json).await.is_problem(Code::BadRequest);
    assert_eq!(stack.relay.hosts(&stack.token).await[0].name, "Büro 2");

    let deleted = stack.relay.api(Method::DELETE, &path, &stack.token).await;
    assert!(deleted.status.is_success(), "{deleted:?}");
    stack.get("/hello").await.is_problem(Code::SessionExpired);
    assert!(stack.relay.sessions(&stack.token).await.is_empty());
    assert!(stack.relay.hosts(&stack.token).await.iter().all(|h| h.id != stack.host));
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_host_and_no_host_at_all_answer_alike() {
    let local = LocalServer::router(app()).await;
    let stack = Stack::start(&local.url()).await;
    let stranger = stack.relay.user_with_token("stranger@example.com").await;
    assert!(stack.relay.hosts(&stranger).await.is_empty());
    assert!(stack.relay.sessions(&stranger).await.is_empty());
    let nobodys = Uuid::new_v4();
    let name = json!({"name": "mine now"});
    let calls: [(Method, &str, Option<Value>); 4] = [
        (Method::POST, "/v1/relay/create/", None),
        (Method::PATCH, "/v1/relay/hosts/", Some(name)),
        (Method::DELETE, "/v1/relay/hosts/", None),
        (Method::DELETE, "/v1/relay/sessions/", None),
    ];
    for (method, path, body) in calls {
        let real = if path.contains("sessions") { stack.session } else { stack.host };
        let mut replies = Vec::new();
        for id in [real, nobodys] {
            let path = format!("{path}{id}");
            let reply = match &body {
                Some(body) => stack.relay.api_json(method.clone(), &path, &stranger, body.clone()).await,
                None => stack.relay.api(method.clone(), &path, &stranger).await,
            };
            let problem = reply.problem();
            assert!(
                matches!(problem.code, Code::HostAccessDenied | Code::NotFound),
                "{method} {path}: {problem:?}"
            );
            replies.push((problem.code, problem.title));
        }
        assert_eq!(replies[0], replies[1], "{method} {path} tells whether the id exists");
    }
    // Nothing of it had an effect.
    assert_eq!(stack.get("/hello").await.text(), "hello");
    assert_eq!(stack.relay.hosts(&stack.token).await[0].name, HOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_taken_in_upper_case_and_in_no_other_form() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let upper = |id: Uuid| id.to_string().to_uppercase();
    let reply =
        stack.relay.api(Method::POST, &format!("/v1/relay/create/{}", upper(stack.host)), &stack.token).await;
    assert!(reply.status.is_success(), "{reply:?}");
    let path = format!("/v1/relay/h/{}/s/{}/x", upper(stack.host), upper(stack.session));
    assert_eq!(fetch(stack.addr(), get(&path)).await.text(), "ok");
    assert_eq!(recorder.last().0.target(), b"/x");

    let seen = recorder.count();
    let (host, session) = (stack.host, stack.session);
    for path in [
        format!("/v1/relay/h/{}/s/{session}/x", host.simple()),
        format!("/v1/relay/h/{host}/s/{}/x", session.simple()),
        format!("/v1/relay/h/%7B{host}%7D/s/{session}/x"),
        format!("/v1/relay/h/urn:uuid:{host}/s/{session}/x"),
        format!("/v1/relay/h/{host}%20/s/{session}/x"),
        format!("/v1/relay/h//{host}/s/{session}/x"),
        format!("//v1/relay/h/{host}/s/{session}/x"),
        format!("/v1/relay/h/{host}/S/{session}/x"),
        format!("/v1/relay/h/{host}/s/{session}x"),
        format!("/v1/relay/./h/{host}/s/{session}/x"),
        format!("/v1/relay/a/../h/{host}/s/{session}/x"),
        format!("/v1/relay/h/{host}%2Fs/{session}/x"),
        format!("/x/v1/relay/h/{host}/s/{session}/x"),
        format!("/v1/relay/h/{session}/s/{host}/x"),
    ] {
        let reply = fetch(stack.addr(), get(&path)).await;
        let code = reply.problem().code;
        assert!(
            matches!(code, Code::NotFound | Code::BadRequest | Code::SessionExpired | Code::HostAccessDenied),
            "{path}: {code:?}"
        );
    }
    assert_eq!(recorder.count(), seen, "a path that does not match exactly was forwarded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_opens_its_own_host_alone() {
    let recorder = Recorder::start().await;
    let stack = Stack::start(&recorder.server.url()).await;
    let other = Recorder::start().await;
    let _agent =
        Agent::start(AgentOptions::new(&stack.relay.url(), &other.server.url(), &stack.token, "second"))
            .await;
    let second = stack.relay.await_host(&stack.token, "second", HostStatus::Online).await;
    // Whether the other id is a host's or nobody's makes no difference.
    let mut answers = Vec::new();
    for host in [second.id, Uuid::new_v4()] {
        let crossed = format!("/v1/relay/h/{host}/s/{}/x", stack.session);
        answers.push(fetch(stack.addr(), get(&crossed)).await.problem().code);
    }
    assert!(matches!(answers[0], Code::SessionExpired | Code::HostAccessDenied), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
    let unknown = format!("/v1/relay/h/{}/s/{}/x", stack.host, Uuid::new_v4());
    fetch(stack.addr(), get(&unknown)).await.is_problem(Code::SessionExpired);
    assert_eq!((recorder.count(), other.count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_host_says_so_to_programs_and_to_people() {
    let local = LocalServer::router(app()).await;
    let mut stack = Stack::start(&local.url()).await;
    let evil = json!({"name": "<script>alert(1)</script>"});
    let path = format!("/v1/relay/hosts/{}", stack.host);
    assert!(stack.relay.api_json(Method::PATCH, &path, &stack.token, evil).await.status.is_success());
    stack.agent.process.kill();
    stack.relay.await_host(&stack.token, "<script>alert(1)</script>", HostStatus::Offline).await;

    let reply = stack.get("/hello").await;
    reply.is_problem(Code::HostOffline);
    let after: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=600).contains(&after), "{after}");

    let navigation =
        stack.request("GET", "/hello").header("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let page = stack.fetch(navigation.body(empty()).unwrap()).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.header("content-type").unwrap().starts_with("text/html"), "{page:?}");
    assert!(page.header("retry-after").is_some());
    assert_eq!(page.header("cache-control"), Some("no-store"), "a stored page would outlive the outage");
    let html = page.text();
    assert!(!html.contains("<script>alert"), "the name of a host is not escaped: {html}");
    assert!(html.contains("&lt;script&gt;"), "the page names the host: {html}");
    let retries = html.contains("http-equiv=\"refresh\"")
        || html.contains("<script")
        || page.header("refresh").is_some();
    assert!(retries, "the page retries by itself: {html}");
    assert!(!html.contains(&stack.session.to_string()), "the session id stands in the page");
    // The session is checked first: nobody learns of a host through a path that he guessed.
    let guessed = format!("/v1/relay/h/{}/s/{}/hello", stack.host, Uuid::new_v4());
    fetch(stack.addr(), get(&guessed)).await.is_problem(Code::SessionExpired);

    stack.agent.respawn();
    stack.agent.connected().await;
    eventually("the host is back", SOON, || async { stack.get("/hello").await.text() == "hello" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_reaches_a_log() {
    let local = LocalServer::router(app()).await;
    let secret = system_tests::tokens::SECRET;
    let options = RelayOptions::default().env("RELAY_JWT_SECRET", secret);
    let stack = Stack::with(&local.url(), options, |a| a).await;
    let canaries = ["canary-cookie", "canary-query", "canary-basic", "canary-body", "canary-referer"];
    let request = stack
        .request("POST", "/echo?access_token=canary-query")
        .header("cookie", "session=canary-cookie")
        .header("authorization", "Basic canary-basic")
        .header("referer", format!("http://{}{}?t=canary-referer", stack.addr(), stack.prefix()))
        .body(full("canary-body"))
        .unwrap();
    assert_eq!(stack.fetch(request).await.status, StatusCode::OK);
    // Errors are where secrets slip out.
    let other = Uuid::new_v4();
    fetch(stack.addr(), get(&format!("/v1/relay/h/{}/s/{other}/x", stack.host)))
        .await
        .is_problem(Code::SessionExpired);
    let bad = format!("{}x", stack.token);
    stack.relay.api(Method::GET, "/v1/relay/hosts", &bad).await.is_problem(Code::Unauthorized);
    drop(local);
    stack.get("/hello?access_token=canary-query").await.is_problem(Code::LocalServerUnreachable);
    let path = format!("/v1/relay/sessions/{}", stack.session);
    stack.relay.api(Method::DELETE, &path, &stack.token).await;
    let last = stack.get("/hello").await;
    let last = last.header("x-request-id").unwrap();
    eventually("the last request is logged", SOON, || async { stack.relay.log().contains(last) }).await;

    let logs = stack.relay.log() + &stack.agent.process.log();
    let (other, session) = (other.to_string(), stack.session.to_string());
    let mut secrets = vec![stack.token.as_str(), secret, session.as_str(), other.as_str()];
    secrets.extend(canaries);
    for secret in secrets {
        let line = logs.lines().find(|l| l.contains(secret));
        assert_eq!(line, None, "{secret} is in a log");
    }
}
