//! Workers: admitted, limited, and refused what is not configured.

use serde_json::json;
use system_tests::RelayOptions;
use system_tests::broker::Socket;
use system_tests::broker::frames::{e2ee, key_exchange_init, transport_request, transport_response};

use super::{TARGET, World};

async fn worker(world: &World) -> Socket {
    world.dial("worker", Some(TARGET), json!({})).connect(world.addr()).await
}

async fn refused(worker: &mut Socket, request: &str, path: &str) {
    worker.send(&transport_request(request, path)).await;
    let answer = worker.frame().await;
    assert_eq!(answer["type"], json!("relay_transport_response"), "{path}: {answer}");
    assert_eq!(
        (&answer["requestId"], &answer["status"], &answer["code"]),
        (&json!(request), &json!(403), &json!("WORKER_TRANSPORT_DISABLED")),
        "{path}"
    );
    assert!(answer["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_is_off_unless_it_is_configured() {
    let world = World::start().await;
    let (mut daemon, mut client) = world.pair().await;
    let mut worker = worker(&world).await;
    for path in ["/", "/api/worker/x", "x"] {
        refused(&mut worker, "r", path).await;
    }
    // Nothing else of it passes, and nothing is answered.
    worker.send(&e2ee("met", 5)).await;
    worker.send(&key_exchange_init("r")).await;
    worker.send_text("nonsense").await;
    refused(&mut worker, "last", "/").await;
    client.send(&e2ee("met", 6)).await;
    daemon.expect(&e2ee("met", 6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_prefix_requests_pass_and_answers_come_back() {
    let world = World::with(RelayOptions::default().env("RELAY_WORKER_PATH_PREFIX", "/api/worker")).await;
    let (mut daemon, mut client) = world.pair().await;
    let (mut first, mut second) = (worker(&world).await, worker(&world).await);
    for (n, path) in ["/api/worker", "/api/worker/x?q=/../..", "/api/worker/a/../b", "/api//worker/x"]
        .into_iter()
        .enumerate()
    {
        let request = format!("r{n}");
        first.send(&transport_request(&request, path)).await;
        if n == 3 {
            // Two slashes are not one.
            assert_eq!(first.frame().await["status"], json!(403));
            continue;
        }
        daemon.expect(&transport_request(&request, path)).await;
        daemon.send(&transport_response(&request)).await;
        first.expect(&transport_response(&request)).await;
    }
    for path in [
        "/api/workers",
        "/api/worker/../admin",
        "/api/worker/%2e%2e/admin",
        "/api/worker/%2E./admin",
        "/api/worker/..%2fadmin",
        "/api/worker/%252e%252e/admin",
        "/api/worker\\..\\admin",
        "/api/worker/\u{0}",
        "/API/worker/x",
        "api/worker/x",
        "//host/api/worker/x",
        "http://host/api/worker/x",
        "/api/worker/%",
        "/x/../../api/worker/../secret",
    ] {
        refused(&mut second, "q", path).await;
    }
    // A client may not, and answers go to whoever asked.
    client.send(&transport_request("c", "/api/worker/x")).await;
    second.send(&transport_request("s", "/api/worker/y")).await;
    daemon.expect(&transport_request("s", "/api/worker/y")).await;
    daemon.send(&transport_response("c")).await;
    daemon.send(&transport_response("s")).await;
    second.expect(&transport_response("s")).await;
    first.nothing_came();
    client.nothing_came();
}
