//! Cookies of a local server: in the agent's jar, and nowhere else.

use crate::{
    common::{app, soon},
    exchanges::{both, get},
    setup::Setup,
};
use axum::{
    Router,
    extract::{Query, WebSocketUpgrade},
    http::HeaderMap,
    routing::any,
};
use http::HeaderValue;
use local_agent_client::{gate::Options, state::StateDir};
use std::{collections::HashMap, sync::Arc};

/// Sets what the query says at `/set`, and says everywhere what came.
fn router() -> Router {
    let cookies = |headers: HeaderMap| async move {
        let all: Vec<_> = headers.get_all("cookie").iter().map(|value| value.to_str().unwrap()).collect();
        all.join(" AND ")
    };
    let set = |Query(query): Query<HashMap<String, String>>| async move {
        let mut headers = HeaderMap::new();
        for cookie in query["c"].split('|') {
            headers.append("set-cookie", HeaderValue::from_str(cookie).unwrap());
        }
        (headers, "set")
    };
    let clear = || async {
        let headers = [("clear-site-data", "\"cache\", \"cookies\""), ("set-cookie", "anew=1; Path=/")];
        (headers, "cleared")
    };
    let upgrade = |headers: HeaderMap, upgrade: WebSocketUpgrade| async move {
        let came = headers.get("cookie").map(|value| value.to_str().unwrap().to_owned());
        let mut answer = upgrade.on_upgrade(move |mut socket| async move {
            let text = came.unwrap_or_default();
            let _ = socket.send(axum::extract::ws::Message::Text(text.into())).await;
            while socket.recv().await.is_some() {}
        });
        answer.headers_mut().insert("set-cookie", HeaderValue::from_static("ws=1"));
        answer
    };
    Router::new()
        .route("/set", any(set))
        .route("/clear", any(clear))
        .route("/ws", any(upgrade))
        .fallback(any(cookies))
}

#[tokio::test]
async fn they_come_back_by_path_and_are_seen_nowhere_else() {
    let setup = Setup::new(app(router()).await).await;
    let (one, two) = (setup.browser().await, setup.browser().await);
    let [sealed, signed] = both(&one).await;
    let answer =
        soon(sealed.get("/set?c=a=1;Path=/|b=2;Path=/deep;HttpOnly|c=3;Path=/;Max-Age=60")).await.unwrap();
    assert!(!answer.headers.contains_key("set-cookie") && !answer.outer.contains_key("set-cookie"));
    for (session, path, expected) in [
        (&sealed, "/", "a=1; c=3"),
        (&signed, "/", "a=1; c=3"),
        (&sealed, "/deep/er", "b=2; a=1; c=3"),
        (&sealed, "/deeper", "a=1; c=3"),
    ] {
        assert_eq!(soon(session.get(path)).await.unwrap().text(), expected, "{path}");
    }
    // What a browser says itself is not the jar's.
    let mut forged = get("/");
    forged.headers_mut().insert("cookie", HeaderValue::from_static("a=forged"));
    assert_eq!(soon(sealed.fetch(forged)).await.unwrap().text(), "a=1; c=3");
    for session in both(&two).await {
        assert_eq!(soon(session.get("/")).await.unwrap().text(), "", "another browser's");
    }
    setup.ahead.store(60, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(soon(sealed.get("/")).await.unwrap().text(), "a=1");
    soon(sealed.get("/set?c=a=;Path=/;Max-Age=0")).await.unwrap();
    assert_eq!(soon(sealed.get("/")).await.unwrap().text(), "");
    // A WebSocket's too.
    soon(sealed.get("/set?c=a=4;Path=/")).await.unwrap();
    let mut socket = soon(sealed.websocket("/ws", None)).await.unwrap();
    assert!(!socket.head.headers.contains_key("set-cookie"));
    assert_eq!(soon(socket.next()).await.unwrap().payload, "a=4");
    assert_eq!(soon(sealed.get("/")).await.unwrap().text(), "a=4; ws=1");
}

#[tokio::test]
async fn the_local_server_clears_them() {
    let setup = Setup::new(app(router()).await).await;
    let (one, two) = (setup.browser().await, setup.browser().await);
    let other = soon(two.sealed()).await.unwrap();
    soon(other.get("/set?c=b=2;Path=/")).await.unwrap();
    for session in both(&one).await {
        soon(session.get("/set?c=a=1;Path=/;Max-Age=60|c=3;Path=/")).await.unwrap();
        let answer = soon(session.get("/clear")).await.unwrap();
        for name in ["clear-site-data", "set-cookie"] {
            assert!(!answer.headers.contains_key(name) && !answer.outer.contains_key(name), "{name}");
        }
        assert_eq!(soon(session.get("/")).await.unwrap().text(), "anew=1", "what came with it stays");
    }
    assert_eq!(soon(other.get("/")).await.unwrap().text(), "b=2", "another browser's");
}

#[tokio::test]
async fn they_outlive_the_agent_and_end_with_the_browser() {
    let dir = tempfile::tempdir().unwrap();
    let files = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("cookies-")).count()
    };
    let local = app(router()).await;
    let state = Arc::new(StateDir::open(dir.path()).unwrap());
    let start = async || Setup::of(local.clone(), Options::default(), Some(state.clone())).await;
    let setup = start().await;
    let mut browser = setup.browser().await;
    let session = soon(browser.sealed()).await.unwrap();
    soon(session.get("/set?c=lasting=1;Max-Age=600|session=1")).await.unwrap();
    assert_eq!(soon(session.get("/")).await.unwrap().text(), "lasting=1; session=1");
    setup.gate.close();
    assert_eq!(files(), 1);
    drop(session);
    drop(setup);
    let again = start().await;
    browser.addr = again.addr;
    let session = soon(browser.sealed()).await.unwrap();
    assert_eq!(soon(session.get("/")).await.unwrap().text(), "lasting=1");
    let gate = again.gate.clone();
    let keeper = tokio::spawn(async move { gate.keep().await });
    again.pairing.browsers().revoke(browser.client_id).unwrap();
    soon(async {
        while files() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    keeper.abort();
}
