//! The reconnect policy on paused time, over tunnels in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Body, gate, get, sockets};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use local_agent_client::{
    LocalTarget, Status,
    dial::{DialError, Dialed, Refusal},
    session::{Connect, Session},
    status::Reporter,
};
use parking_lot::Mutex;
use relay_protocol::tunnel::{self, Ended, Form, Handle, Hello, Options, Role};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// What an attempt comes to.
enum Step {
    Up,
    /// Up, and then as silent as a peer behind a dead network.
    Frozen,
    Status(u16),
}

struct Script {
    steps: Mutex<VecDeque<Step>>,
    attempts: mpsc::UnboundedSender<Instant>,
    tunnels: mpsc::UnboundedSender<Handle>,
    new_token: Arc<Notify>,
}

impl Connect for Script {
    async fn connect(&self) -> Result<Dialed, DialError> {
        self.attempts.send(Instant::now()).unwrap();
        let step = self.steps.lock().pop_front();
        match step {
            None => std::future::pending().await,
            Some(Step::Status(status)) => {
                let status = StatusCode::from_u16(status).unwrap();
                Err(DialError::Refused(Refusal::read(status, &HeaderMap::new(), b"", SystemTime::now())))
            }
            Some(step) => {
                let (mut dialed, socket) = sockets().await;
                dialed.form = Form::V1(Hello::new("local-agent-client", "0", None));
                let form = Form::V1(Hello::new("relay-server", "0", None));
                let (handle, _, driver) = tunnel::start(socket, Options::new(Role::Relay, form));
                if matches!(step, Step::Frozen) {
                    // The socket stays open, and nobody reads it.
                    tokio::spawn(async move {
                        let _driver = driver;
                        std::future::pending::<()>().await;
                    });
                } else {
                    tokio::spawn(driver.run());
                }
                self.tunnels.send(handle).unwrap();
                Ok(dialed)
            }
        }
    }

    async fn token_changed(&self) {
        self.new_token.notified().await;
    }
}

struct Run {
    start: Instant,
    attempts: mpsc::UnboundedReceiver<Instant>,
    tunnels: mpsc::UnboundedReceiver<Handle>,
    jumps: watch::Sender<u64>,
    new_token: Arc<Notify>,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Run {
    fn new(steps: Vec<Step>, target: LocalTarget) -> Self {
        let (attempt, attempts) = mpsc::unbounded_channel();
        let (tunnel, tunnels) = mpsc::unbounded_channel();
        let (jumped, jumps) = watch::channel(0);
        let new_token = Arc::new(Notify::new());
        let blank = r#"{"version":"","pid":0,"started_at":0,"relay":"","local":"","name":"","machine_id":"","connected":false,
            "connected_since":null,"host_id":null,"form":null,"rtt_ms":null,
            "requests":{"total":0,"active":0,"bytes_received":0,"bytes_sent":0},"last_error":null,"next_retry_at":null}"#;
        let (sender, status) = watch::channel(serde_json::from_str(blank).unwrap());
        let stop = CancellationToken::new();
        let connect = Script {
            steps: Mutex::new(steps.into()),
            attempts: attempt,
            tunnels: tunnel,
            new_token: new_token.clone(),
        };
        let session = Session {
            connect,
            gate: gate(target),
            reporter: Arc::new(Mutex::new(Reporter::new(sender))),
            jumps,
            stop: stop.clone(),
            chance: Box::new(|| 0.5),
        };
        let (start, task) = (Instant::now(), tokio::spawn(session.run()));
        Self { start, attempts, tunnels, jumps: jumped, new_token, status, stop, task }
    }

    /// When the next attempt is made, in seconds since the start.
    async fn attempt(&mut self) -> f64 {
        let at = self.attempts.recv().await.unwrap() - self.start;
        (at.as_secs_f64() * 100.0).round() / 100.0
    }
}

fn nowhere() -> LocalTarget {
    "http://127.0.0.1:9".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn losses_are_met_with_a_growing_wait_that_starts_over_after_a_stable_minute() {
    let steps = vec![Step::Up, Step::Up, Step::Status(500), Step::Up, Step::Up];
    let mut run = Run::new(steps, nowhere());
    assert_eq!(run.attempt().await, 0.0);
    let mut at = 0.0;
    // (how long the tunnel lives, the wait after it); with a chance of one half, three quarters of the ceiling.
    for (lives, wait) in [(1.0, 0.75), (2.0, 1.5)] {
        let tunnel = run.tunnels.recv().await.unwrap();
        tokio::time::sleep(Duration::from_secs_f64(lives)).await;
        tunnel.close(1012, "restart");
        at += lives + wait;
        assert!((run.attempt().await - at).abs() < 0.1, "{lives}");
    }
    assert!((run.attempt().await - (at + 3.0)).abs() < 0.1, "after a failed attempt the next step");
    at += 3.0;
    let tunnel = run.tunnels.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(run.status.borrow().connected);
    tunnel.close(1012, "restart");
    assert!((run.attempt().await - (at + 61.0 + 0.75)).abs() < 0.2, "stable: from the beginning");
    assert!(run.status.borrow().last_error.as_ref().unwrap().message.contains("restart"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_said_and_retried_rarely_but_at_once_with_another_token() {
    let mut run = Run::new(vec![Step::Status(401), Step::Status(403), Step::Up], nowhere());
    assert_eq!(run.attempt().await, 0.0);
    let second = run.attempt().await;
    assert!((30.0..=60.0).contains(&second), "{second}");
    run.status
        .wait_for(|status| status.last_error.as_ref().is_some_and(|error| error.message.contains("403")))
        .await
        .unwrap();
    assert!(run.status.borrow().next_retry_at.is_some() && !run.status.borrow().connected);
    tokio::time::sleep(Duration::from_secs(3)).await;
    run.new_token.notify_one();
    assert!((run.attempt().await - second - 3.0).abs() < 0.1);
    run.status.wait_for(|status| status.connected).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waking_up_cuts_the_wait_short() {
    let mut run =
        Run::new(vec![Step::Status(500), Step::Status(500), Step::Status(500), Step::Status(500)], nowhere());
    for _ in 0..3 {
        run.attempt().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = Instant::now();
    run.jumps.send_modify(|count| *count += 1);
    run.attempt().await;
    assert!(before.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_did_not_survive_the_sleep_is_replaced_within_three_seconds() {
    let mut run = Run::new(vec![Step::Frozen, Step::Up], nowhere());
    assert_eq!(run.attempt().await, 0.0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    run.jumps.send_modify(|count| *count += 1);
    let again = run.attempt().await;
    assert!((4.0..=5.0).contains(&again), "{again}");
    // A tunnel that answers the probe stays.
    let tunnel = {
        run.tunnels.recv().await;
        run.tunnels.recv().await.unwrap()
    };
    run.jumps.send_modify(|count| *count += 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(tunnel.ended(), None);
}

/// One request through the tunnel.
async fn ask(tunnel: &Handle) -> hyper::Result<String> {
    let stream = tunnel.open().await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(get("/")).await?;
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_drained_tunnel_is_replaced_before_it_goes_and_finishes_what_it_carries() {
    let (go, gate) = watch::channel(false);
    let (asked, mut was_asked) = mpsc::unbounded_channel();
    let router = axum::Router::new().fallback(move || {
        let (mut gate, asked) = (gate.clone(), asked.clone());
        async move {
            asked.send(()).unwrap();
            gate.wait_for(|open| *open).await.unwrap();
            "done"
        }
    });
    let mut run = Run::new(vec![Step::Up, Step::Up], LocalTarget::service(router));
    assert_eq!(run.attempt().await, 0.0);
    let old = run.tunnels.recv().await.unwrap();
    run.status.wait_for(|status| status.connected).await.unwrap();
    // The notice needs the hello of the agent.
    while old.peer().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let slow = tokio::spawn({
        let old = old.clone();
        async move { ask(&old).await }
    });
    was_asked.recv().await.unwrap();
    let told = (Instant::now() - run.start).as_secs_f64();
    assert!(old.drain(10));
    let again = run.attempt().await;
    assert!((again - told - 5.0).abs() < 0.2, "at a moment within the ten seconds: {told} {again}");
    let new = run.tunnels.recv().await.unwrap();
    assert!(run.status.borrow().connected, "never down in between");
    // Longer than an idle drained tunnel would be kept.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(old.ended(), None);
    go.send_replace(true);
    assert_eq!(slow.await.unwrap().unwrap(), "done");
    assert_eq!(ask(&new).await.unwrap(), "done");
    assert!(matches!(old.closed().await, Ended::Closed { code: 1000, .. }));
    assert_eq!(new.ended(), None);
    assert!(run.status.borrow().connected);
}

/// The next tunnel, once the agent's hello has come: a drain notice needs it.
async fn greeted(run: &mut Run) -> Handle {
    let tunnel = run.tunnels.recv().await.unwrap();
    while tunnel.peer().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tunnel
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_drained_tunnel_is_told_while_the_relay_is_away() {
    // The next attempt hangs, or fails and is waited for.
    for steps in [vec![Step::Up], vec![Step::Up, Step::Status(401)]] {
        let mut run = Run::new(steps, nowhere());
        run.attempt().await;
        let old = greeted(&mut run).await;
        assert!(old.drain(10));
        run.attempt().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(run.status.borrow().connected);
        let next = run.status.borrow().next_retry_at;
        old.close(1012, "restart");
        let soon = run.status.wait_for(|status| !status.connected);
        tokio::time::timeout(Duration::from_secs(5), soon).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let status = run.status.borrow().clone();
        assert!(status.last_error.unwrap().message.contains("restart"));
        assert_eq!(status.next_retry_at.is_some(), next.is_some(), "the attempt is still waited for");
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_accepts_and_drains_at_once_is_met_with_a_growing_wait() {
    for closes in [false, true] {
        let mut run = Run::new(vec![Step::Up, Step::Up, Step::Up], nowhere());
        let mut at = run.attempt().await;
        for wait in [0.75, 1.5, 3.0] {
            let tunnel = greeted(&mut run).await;
            assert!(tunnel.drain(0));
            if closes {
                tunnel.close(1012, "restart");
            }
            let next = run.attempt().await;
            assert!((next - at - wait).abs() < 0.2, "{closes}: {at} {next}");
            at = next;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_tunnel_and_the_session() {
    let mut run = Run::new(vec![Step::Up], nowhere());
    let tunnel = run.tunnels.recv().await.unwrap();
    run.status.wait_for(|status| status.connected).await.unwrap();
    run.stop.cancel();
    assert!(matches!(tunnel.closed().await, Ended::Closed { code: 1001, .. }));
    run.task.await.unwrap();
    assert!(!run.status.borrow().connected);
    // And one that is waiting ends at once.
    let mut run = Run::new(vec![Step::Status(401)], nowhere());
    run.attempt().await;
    run.stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), run.task).await.unwrap().unwrap();
}
