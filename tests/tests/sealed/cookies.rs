//! Cookies stay with the agent: a jar for each paired browser, which no relay and no page sees.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use axum::http::header;
use system_tests::process::run;

/// `/set` sets cookies, of which one outlives a restart; every answer is what came as `cookie`.
fn app() -> Router {
    static LOGINS: AtomicUsize = AtomicUsize::new(0);
    let told = |headers: &HeaderMap| {
        headers.get("cookie").map_or(String::new(), |value| value.to_str().expect("text").to_owned())
    };
    let set = move |headers: HeaderMap| async move {
        let login = LOGINS.fetch_add(1, Ordering::SeqCst);
        let mut response = HeaderMap::new();
        for cookie in [
            format!("kept=login-{login}; Max-Age=3600; HttpOnly; Secure; Path=/"),
            "passing=yes; Path=/app".to_owned(),
        ] {
            response.append(header::SET_COOKIE, cookie.parse().expect("a value"));
        }
        (response, told(&headers))
    };
    let gone = |_: HeaderMap| async { ([(header::SET_COOKIE, "kept=; Max-Age=0; Path=/")], "") };
    Router::new()
        .route("/set", get(set))
        .route("/gone", get(gone))
        .route("/cookies", get(move |headers: HeaderMap| async move { told(&headers) }))
        .route("/app/cookies", get(move |headers: HeaderMap| async move { told(&headers) }))
}

async fn cookies(session: &Session<'_>, target: &str) -> Vec<String> {
    let text = session.get(target).await.expect("an answer").text();
    let mut all: Vec<String> = text.split("; ").filter(|c| !c.is_empty()).map(ToOwned::to_owned).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn each_browser_has_a_jar_that_survives_a_restart_and_ends_with_the_pairing() {
    let server = LocalServer::router(app()).await;
    let mut stack = Stack::paired(&server.url()).await;
    let (one, two) = (stack.browser().await, stack.browser().await);
    {
        let (first, second) =
            (one.sealed().await.expect("a session"), two.exchanges().await.expect("a session"));
        let set = first.get("/set").await.expect("an answer");
        assert!(!set.headers.contains_key("set-cookie") && !set.outer.contains_key("set-cookie"), "{set:?}");
        let kept = cookies(&first, "/cookies").await;
        assert_eq!(kept.len(), 1, "{kept:?}: by path");
        assert!(kept[0].starts_with("kept=login-"), "{kept:?}");
        assert_eq!(cookies(&first, "/app/cookies").await, [kept[0].clone(), "passing=yes".to_owned()]);
        // The other browser has its own, whatever its form.
        assert!(cookies(&second, "/cookies").await.is_empty());
        second.get("/set").await.expect("an answer");
        assert_ne!(cookies(&second, "/cookies").await, kept);
        // A jar belongs to the browser, not to its session.
        assert_eq!(cookies(&one.exchanges().await.expect("a session"), "/cookies").await, kept);

        restart(&mut stack).await;
        let first = one.sealed().await.expect("a session");
        assert_eq!(cookies(&first, "/app/cookies").await, kept, "the one without a lifetime is gone");

        // The server takes it back.
        let second = two.sealed().await.expect("a session");
        assert_eq!(cookies(&second, "/cookies").await.len(), 1);
        second.get("/gone").await.expect("an answer");
        assert!(cookies(&second, "/cookies").await.is_empty());
    }
    // Nobody finds a cookie of a browser that was revoked.
    let value = cookies(&one.sealed().await.expect("a session"), "/cookies").await[0].clone();
    let (_, value) = value.split_once('=').expect("a value");
    assert!(holds(&stack, value), "the jar is in the state folder");
    let id = one.client_id.to_string();
    let revoked = run(stack.agent.command(&["browsers", "revoke", &id])).await;
    assert!(revoked.status.success(), "{revoked:?}");
    eventually("the jar is gone", SOON, || async { !holds(&stack, value) }).await;
}

/// Whether any file of the agent's state has this in it.
fn holds(stack: &Stack, needle: &str) -> bool {
    let mut folders = vec![stack.agent.state_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(path)
                && bytes.windows(needle.len()).any(|part| part == needle.as_bytes())
            {
                return true;
            }
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_that_the_relay_adds_go_nowhere() {
    let server = LocalServer::router(app()).await;
    let stack = Stack::paired(&server.url()).await;
    let browser = stack.browser().await;
    let session = browser.sealed().await.expect("a session");
    let whole = session.seal(&request("GET", "/cookies", ""));
    let mut outer = session.outer(system_tests::client::full(whole.bytes.clone()));
    outer.headers_mut().insert("cookie", "kept=the-relays; other=1".parse().unwrap());
    let response = system_tests::client::send(stack.addr(), outer).await.expect("an answer");
    let stream = system_tests::records::Stream::begin(response, session.opener(&whole.prelude)).await;
    assert_eq!(stream.expect("a head").collect().await.expect("an answer").text(), "");
}
