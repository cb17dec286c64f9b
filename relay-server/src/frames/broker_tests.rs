//! One relay alone: the contract's section "Routing", sentence by sentence.

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::*;
use crate::frames::testing::*;
use crate::frames::{Command, POLICY, Profile, Scope, outbox};

fn alone_with(change: impl FnOnce(&mut config::frames::Frames)) -> Arc<Broker> {
    let mut limits = limits();
    change(&mut limits);
    Broker::new(&limits, &config::relays::Relays::alone(), Backplane::single().0)
}

fn alone() -> Arc<Broker> {
    alone_with(|_| ())
}

/// A daemon and two clients of one pair.
async fn three(broker: &Arc<Broker>) -> (Socket, Socket, Socket) {
    (
        Socket::attach(broker, daemon(1)).await,
        Socket::attach(broker, named("one")).await,
        Socket::attach(broker, named("two")).await,
    )
}

#[tokio::test]
async fn frames_arrive_as_they_came_and_go_to_the_sessions_owner_alone() {
    let broker = alone();
    let (mut daemon, mut one, mut two) = three(&broker).await;
    // Blanks, order, escapes and unknown keys are kept: nothing is written anew.
    let text = r#" {"seq":1,"ciphertext":"\u0041","tag":"t","iv":"i","epoch":1, "sessionId":"s","x":[1.0],"profile":"noise-ik","version":2,"type":"e2ee"}"#;
    one.attached.frame(text.into()).await.unwrap();
    let Some(Command::Text(arrived)) = daemon.commands().pop() else { panic!("nothing came") };
    assert_eq!(arrived.as_str(), text);
    two.send(&envelope("t", 1)).await;
    daemon.frames();
    for (session, to_one, to_two) in [("s", 1, 0), ("t", 0, 1), ("unknown", 0, 0)] {
        daemon.send(&envelope(session, 9)).await;
        daemon.send(&key_update(session)).await;
        assert_eq!((one.frames().len(), two.frames().len()), (2 * to_one, 2 * to_two), "{session}");
    }
    assert!(daemon.frames().is_empty(), "what nobody owns is no news for the daemon");
}

#[tokio::test]
async fn an_answer_goes_to_whoever_asked_and_gives_it_the_session() {
    let broker = alone();
    let (mut daemon, mut one, mut two) = three(&broker).await;
    // Another client had spoken in it before: the daemon's word counts more.
    two.send(&envelope("s", 1)).await;
    one.send(&key_init("r")).await;
    assert_eq!(daemon.frames(), [envelope("s", 1), key_init("r")]);
    daemon.send(&key_response("unasked", "x")).await;
    daemon.send(&key_response("r", "s")).await;
    assert_eq!(one.frames(), [key_response("r", "s")]);
    daemon.send(&key_response("r", "s")).await;
    assert!(one.frames().is_empty(), "once");
    daemon.send(&envelope("s", 1)).await;
    assert_eq!(one.frames(), [envelope("s", 1)]);
    assert!(two.frames().is_empty());
    two.send(&envelope("s", 2)).await;
    assert!(daemon.frames().is_empty(), "it is no longer his");
    one.send(&envelope("s", 3)).await;
    assert_eq!(daemon.frames(), [envelope("s", 3)]);
}

#[tokio::test]
async fn pairing_goes_there_and_back() {
    let broker = alone();
    let mut daemon = Socket::attach(&broker, daemon(1)).await;
    let mut one = Socket::attach(&broker, client(Scope::Pairing)).await;
    let mut two = Socket::attach(&broker, client(Scope::Pairing)).await;
    one.send(&offer_request("r1")).await;
    one.send(&redeem_request("r2")).await;
    assert_eq!(daemon.frames(), [offer_request("r1"), redeem_request("r2")]);
    daemon.send(&redeem_response("r1")).await;
    daemon.send(&key_response("r1", "s")).await;
    assert!(one.frames().is_empty(), "an answer to another question");
    daemon.send(&offer_response("r1")).await;
    daemon.send(&redeem_response("r2")).await;
    assert_eq!(one.frames(), [offer_response("r1"), redeem_response("r2")]);
    assert!(two.frames().is_empty());
}

#[tokio::test]
async fn an_outstanding_request_is_nobody_elses() {
    let broker = alone();
    let (mut daemon, mut one, mut two) = three(&broker).await;
    one.send(&key_init("r")).await;
    two.send(&key_init("r")).await;
    one.send(&key_init("r")).await;
    assert_eq!(daemon.frames().len(), 2);
    daemon.send(&key_response("r", "s")).await;
    assert_eq!((one.frames().len(), two.frames().len()), (1, 0));
    two.send(&key_init("r")).await;
    assert_eq!(daemon.frames().len(), 1, "answered, the id is free");
}

#[tokio::test]
async fn scopes_and_roles_say_only_what_they_may() {
    let channel = "agent-session:a";
    let said = [
        envelope("s", 1),
        key_init("r1"),
        offer_request("r2"),
        redeem_request("r3"),
        subscription("subscribe", channel),
        transport_request("r4", "/jobs"),
        key_response("r5", "s"),
        key_update("s"),
        offer_response("r6"),
        redeem_response("r7"),
        event(channel),
        transport_response("r8"),
        json!({"type": "relay_status", "code": "DAEMON_UNAVAILABLE"}),
    ];
    let worker = who(Role::Worker);
    for (who, passed, answered) in [
        (client(Scope::Runtime), vec![0, 1], 1),
        (client(Scope::Pairing), vec![2, 3], 0),
        (client(Scope::SessionEvents), vec![], 1),
        (worker, vec![], 1),
    ] {
        let broker = alone();
        let mut daemon = Socket::attach(&broker, daemon(1)).await;
        let mut socket = Socket::attach(&broker, who.clone()).await;
        for frame in &said {
            socket.send(frame).await;
        }
        let expected: Vec<Value> = passed.iter().map(|at: &usize| said[*at].clone()).collect();
        assert_eq!(daemon.frames(), expected, "{who:?}");
        assert_eq!(socket.frames().len(), answered, "{who:?}");
    }
    // And a daemon says nothing that is a client's.
    let broker = alone();
    let (mut daemon, mut one, mut two) = three(&broker).await;
    for frame in &said[1..6] {
        daemon.send(frame).await;
    }
    assert!(one.frames().is_empty() && two.frames().is_empty() && daemon.frames().is_empty());
}

#[tokio::test]
async fn another_profile_closes_a_client_and_a_weaker_one_a_daemon() {
    let psk2 = |mut frame: Value| {
        frame["profile"] = json!("noise-ikpsk2");
        frame["pairingPeerId"] = json!("p");
        frame
    };
    for (expected, frame, closes) in [
        (Profile::NoiseIk, envelope("s", 1), false),
        (Profile::NoiseIk, psk2(envelope("s", 1)), true),
        (Profile::NoiseIk, psk2(key_init("r")), true),
        (Profile::NoiseIkPsk2, psk2(key_init("r")), false),
        (Profile::NoiseIkPsk2, key_init("r"), true),
        (Profile::NoiseIkPsk2, envelope("s", 1), true),
    ] {
        let broker = alone();
        let mut daemon = Socket::attach(&broker, daemon(1)).await;
        let client = Socket::attach(&broker, expecting(Role::Client, expected)).await;
        let closed = client.try_send(&frame).await.err().map(|close| close.code);
        assert_eq!(closed, closes.then_some(POLICY), "{expected:?} {frame}");
        assert_eq!(daemon.frames().is_empty(), closes);
    }
    for (expected, frame, closes) in [
        (Profile::NoiseIk, psk2(envelope("s", 1)), false),
        (Profile::NoiseIkPsk2, envelope("s", 1), true),
        (Profile::NoiseIkPsk2, key_response("r", "s"), true),
        (Profile::NoiseIkPsk2, psk2(key_response("r", "s")), false),
    ] {
        let broker = alone();
        let daemon = Socket::attach(&broker, expecting(Role::Daemon, expected)).await;
        let closed = daemon.try_send(&frame).await.err().map(|close| close.code);
        assert_eq!(closed, closes.then_some(POLICY), "{expected:?} {frame}");
    }
    // A daemon of which nothing is expected cannot talk a client down.
    let broker = alone();
    let daemon = Socket::attach(&broker, daemon(1)).await;
    let mut client = Socket::attach(&broker, expecting(Role::Client, Profile::NoiseIkPsk2)).await;
    client.send(&psk2(key_init("r"))).await;
    daemon.send(&key_response("r", "s")).await;
    assert!(client.frames().is_empty());
}

#[tokio::test]
async fn pairs_are_pairs_and_no_joined_strings() {
    let broker = alone();
    let of = |who: Admitted, workspace: &str, target: &str| Admitted { pair: pair(workspace, target), ..who };
    let pairs = [("a", "b:c"), ("a:b", "c"), ("a", "b"), ("b", "a")];
    let mut daemons = Vec::new();
    let mut clients = Vec::new();
    for (workspace, target) in pairs {
        daemons.push(Socket::attach(&broker, of(daemon(1), workspace, target)).await);
        clients.push(Socket::attach(&broker, of(named("c"), workspace, target)).await);
    }
    for at in 0..pairs.len() {
        clients[at].send(&envelope("s", 1)).await;
        daemons[at].send(&envelope("s", 2)).await;
        for other in 0..pairs.len() {
            assert_eq!(daemons[other].frames().len(), usize::from(at == other));
            assert_eq!(clients[other].frames().len(), usize::from(at == other));
        }
    }
}

#[tokio::test]
async fn without_a_daemon_a_client_is_told_and_the_request_is_forgotten() {
    let broker = alone();
    let mut one = Socket::attach(&broker, named("one")).await;
    let two = Socket::attach(&broker, named("two")).await;
    one.send(&key_init("r")).await;
    let [status] = &one.frames()[..] else { panic!("one status") };
    assert_eq!(status["type"], "relay_status");
    assert_eq!(status["code"], "DAEMON_UNAVAILABLE");
    assert_eq!((&status["workspaceId"], &status["runtimeTargetId"]), (&json!("w"), &json!("t")));
    assert_eq!(status["retryable"], true);
    let mut daemon = Socket::attach(&broker, daemon(1)).await;
    two.send(&key_init("r")).await;
    assert_eq!(daemon.frames().len(), 1, "nobody waits for the first one's answer");
}

#[tokio::test]
async fn what_an_owner_left_stays_its_own_and_a_client_takes_over_from_itself() {
    let broker = alone();
    let (mut daemon, one, two) = three(&broker).await;
    one.send(&envelope("s", 1)).await;
    two.send(&envelope("s", 2)).await;
    assert_eq!(daemon.frames(), [envelope("s", 1)]);
    // The same client anew, while its dead socket is not known to be dead.
    let mut again = Socket::attach(&broker, named("one")).await;
    again.send(&envelope("s", 3)).await;
    daemon.send(&envelope("s", 4)).await;
    assert_eq!((daemon.frames(), again.frames()), (vec![envelope("s", 3)], vec![envelope("s", 4)]));
    // Nor does its absence make it another's.
    drop((one, again));
    two.send(&envelope("s", 5)).await;
    let stranger = Socket::attach(&broker, Admitted { user_id: Some("v".into()), ..named("one") }).await;
    stranger.send(&envelope("s", 6)).await;
    assert!(daemon.frames().is_empty());
    let mut back = Socket::attach(&broker, named("one")).await;
    back.send(&envelope("s", 7)).await;
    daemon.send(&envelope("s", 8)).await;
    assert_eq!((daemon.frames(), back.frames()), (vec![envelope("s", 7)], vec![envelope("s", 8)]));
}

#[tokio::test]
async fn a_client_id_alone_makes_nobody_the_same() {
    let broker = alone();
    let of = |user: &str| Admitted { user_id: Some(user.into()), ..named("chosen") };
    let mut daemon = Socket::attach(&broker, daemon(1)).await;
    let mut one = Socket::attach(&broker, of("u")).await;
    let mut thief = Socket::attach(&broker, of("v")).await;
    one.send(&key_init("r")).await;
    thief.send(&key_init("r")).await;
    assert_eq!(daemon.frames().len(), 1);
    daemon.send(&key_response("r", "s")).await;
    thief.send(&envelope("s", 1)).await;
    assert!(daemon.frames().is_empty());
    assert_eq!((one.frames().len(), thief.frames().len()), (1, 0));
}

#[tokio::test]
async fn clients_without_a_name_are_strangers_and_what_they_leave_is_free() {
    let broker = alone();
    let mut daemon = Socket::attach(&broker, daemon(1)).await;
    let one = Socket::attach(&broker, client(Scope::Runtime)).await;
    let two = Socket::attach(&broker, client(Scope::Runtime)).await;
    one.send(&envelope("s", 1)).await;
    two.send(&envelope("s", 2)).await;
    assert_eq!(daemon.frames(), [envelope("s", 1)]);
    drop(one);
    two.send(&envelope("s", 3)).await;
    assert_eq!(daemon.frames(), [envelope("s", 3)]);
}

#[tokio::test]
async fn events_go_to_the_channels_listeners() {
    let broker = alone();
    let (a, b) = ("agent-session:a", "agent-session:b");
    let daemon = Socket::attach(&broker, daemon(1)).await;
    let mut listening = Socket::attach(&broker, listener(Scope::SessionEvents, &[a, b])).await;
    let mut runtime = Socket::attach(&broker, listener(Scope::Runtime, &[a])).await;
    let anywhere = Pair { workspace: "w".into(), target: None };
    let mut around =
        Socket::attach(&broker, Admitted { pair: anywhere, ..listener(Scope::SessionEvents, &[a]) }).await;
    let mut stranger = Socket::attach(&broker, client(Scope::SessionEvents)).await;
    let foreign = Admitted { pair: pair("w", "u"), ..listener(Scope::SessionEvents, &[a]) };
    let mut foreign = Socket::attach(&broker, foreign).await;
    for socket in [&listening, &runtime, &around, &stranger, &foreign] {
        socket.send(&subscription("subscribe", a)).await;
    }
    let subscribed =
        json!({"schema": "viewport.session_events.subscribed/v1", "channel": a, "requestId": "q"});
    for socket in [&mut listening, &mut runtime, &mut around, &mut foreign] {
        assert_eq!(socket.frames(), std::slice::from_ref(&subscribed));
        assert!(socket.attached.is_subscribed());
    }
    let denied = json!({"schema": "viewport.session_events.subscribe_denied/v1", "channel": a, "requestId": "q",
        "code": "CHANNEL_NOT_ALLOWED"});
    assert_eq!(stranger.frames(), [denied]);
    assert!(!stranger.attached.is_subscribed());
    daemon.send(&event(a)).await;
    daemon.send(&event(b)).await;
    for socket in [&mut listening, &mut runtime, &mut around] {
        assert_eq!(socket.frames(), [event(a)]);
    }
    assert!(stranger.frames().is_empty() && foreign.frames().is_empty());
    listening.send(&subscription("unsubscribe", a)).await;
    assert_eq!(listening.frames()[0]["schema"], "viewport.session_events.unsubscribed/v1");
    daemon.send(&event(a)).await;
    assert!(listening.frames().is_empty() && !listening.attached.is_subscribed());
    assert_eq!(runtime.frames(), [event(a)]);
}

#[tokio::test]
async fn a_workers_requests_pass_only_below_the_prefix() {
    let refused = alone();
    let mut worker = Socket::attach(&refused, who(Role::Worker)).await;
    worker.send(&transport_request("r", "/jobs/1")).await;
    let answer = &worker.frames()[0];
    assert_eq!((&answer["status"], &answer["code"]), (&json!(403), &json!("WORKER_TRANSPORT_DISABLED")));
    let broker = alone_with(|limits| limits.worker_path_prefix = Some("/jobs".into()));
    let (mut daemon, mut one, _) = three(&broker).await;
    let mut worker = Socket::attach(&broker, who(Role::Worker)).await;
    worker.send(&transport_request("r1", "/jobs/%2e%2e/x")).await;
    worker.send(&transport_request("r2", "/jobs/1?x=1")).await;
    worker.send(&envelope("s", 1)).await;
    one.send(&transport_request("r3", "/jobs/1")).await;
    assert_eq!(daemon.frames(), [transport_request("r2", "/jobs/1?x=1")]);
    daemon.send(&transport_response("r1")).await;
    daemon.send(&transport_response("r2")).await;
    let [refusal, answer] = &worker.frames()[..] else { panic!("two answers") };
    assert_eq!((&refusal["requestId"], &refusal["status"]), (&json!("r1"), &json!(403)));
    assert_eq!(*answer, transport_response("r2"));
    assert!(one.frames().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_gives_way_only_when_it_does_not_answer() {
    let broker = alone();
    let mut first = Socket::attach(&broker, daemon(5)).await;
    // One that lives: its task answers.
    let alive = tokio::spawn(async move {
        let mut commands = Vec::new();
        first.pending.take(&mut commands).await;
        match commands.pop() {
            Some(Command::Probe { answer, .. }) => answer.send(true).unwrap(),
            other => panic!("{other:?}"),
        }
        first
    });
    assert_eq!(Socket::try_attach(&broker, daemon(5)).await.err(), Some(DAEMON_CONNECTED));
    let mut first = alive.await.unwrap();
    assert_eq!(Socket::try_attach(&broker, daemon(4)).await.err(), Some(OLDER_GENERATION));
    assert!(first.commands().is_empty(), "it was not even asked");
    // One that does not answer; meanwhile a client speaks in a session.
    let mut client = Socket::attach(&broker, named("one")).await;
    client.send(&envelope("s", 1)).await;
    let mut second = Socket::attach(&broker, daemon(5)).await;
    assert_eq!(first.close(), Some(REPLACED));
    assert_eq!(first.try_send(&envelope("s", 2)).await, Err(REPLACED), "it is no daemon any more");
    second.send(&envelope("s", 3)).await;
    assert_eq!(client.frames(), [envelope("s", 3)], "sessions survive the change");
    // Its late end takes nobody along.
    drop(first);
    client.send(&envelope("s", 4)).await;
    assert_eq!(second.frames(), [envelope("s", 4)]);
    drop(second);
    client.send(&envelope("s", 5)).await;
    assert_eq!(client.statuses(), ["DAEMON_UNAVAILABLE"]);
}

#[tokio::test(start_paused = true)]
async fn of_daemons_that_come_together_one_stays() {
    let broker = alone();
    let dead = Socket::attach(&broker, daemon(1)).await;
    let newcomers: Vec<_> = (0..8)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let (out, mut pending) = outbox(1 << 20);
                let attached = broker.attach(daemon(1), out).await?;
                // Alive from now on.
                let task = tokio::spawn(async move {
                    loop {
                        let mut commands = Vec::new();
                        pending.take(&mut commands).await;
                        for command in commands {
                            if let Command::Probe { answer, .. } = command {
                                let _ = answer.send(true);
                            }
                        }
                    }
                });
                Ok::<_, Close>((attached, task))
            })
        })
        .collect();
    let mut stayed = Vec::new();
    for newcomer in newcomers {
        match newcomer.await.unwrap() {
            Ok(one) => stayed.push(one),
            Err(close) => assert_eq!(close, DAEMON_CONNECTED),
        }
    }
    assert_eq!(stayed.len(), 1);
    drop(dead);
    assert_eq!(broker.snapshot().daemons, 1);
}

#[tokio::test]
async fn a_pair_has_so_many_clients_and_no_more() {
    let broker = alone_with(|limits| limits.max_clients_per_workspace = 3);
    let mut held = Vec::new();
    for role in [Role::Client, Role::Worker, Role::Client] {
        held.push(Socket::attach(&broker, who(role)).await);
    }
    assert_eq!(Socket::try_attach(&broker, who(Role::Client)).await.err(), Some(TOO_MANY_CLIENTS));
    assert_eq!(Socket::try_attach(&broker, who(Role::Worker)).await.err(), Some(TOO_MANY_CLIENTS));
    let _daemon = Socket::attach(&broker, daemon(1)).await;
    let elsewhere = Admitted { pair: pair("w", "u"), ..who(Role::Client) };
    let _other = Socket::attach(&broker, elsewhere).await;
    held.pop();
    held.push(Socket::attach(&broker, who(Role::Client)).await);
    assert_eq!(broker.snapshot().clients, 4);
}

#[tokio::test]
async fn who_sends_too_much_is_told_and_nobody_else_pays() {
    let broker = alone_with(|limits| {
        limits.kex_init_rate_per_minute = 1;
        limits.runtime_rate_per_minute = 3;
        limits.runtime_rate_per_minute_workspace = 5;
        limits.daemon_runtime_rate_per_minute = 4;
    });
    let (mut daemon, mut one, mut two) = three(&broker).await;
    for _ in 0..10 {
        one.send(&envelope("s", 1)).await;
    }
    assert_eq!(daemon.frames().len(), 3, "its own");
    let statuses = one.statuses();
    assert!(!statuses.is_empty() && statuses.iter().all(|code| code == "RATE_LIMITED"), "{statuses:?}");
    one.send(&key_init("r1")).await;
    one.send(&key_init("r2")).await;
    assert_eq!(daemon.frames(), [key_init("r1")], "key exchanges are counted apart");
    // Connecting anew fills nothing.
    drop(one);
    let one = Socket::attach(&broker, named("one")).await;
    one.send(&envelope("s", 1)).await;
    assert!(daemon.frames().is_empty());
    // The pair's has two left, whatever the first one tried.
    for _ in 0..3 {
        two.send(&envelope("t", 1)).await;
    }
    assert_eq!(daemon.frames().len(), 2);
    assert!(two.statuses().contains(&"RATE_LIMITED".to_owned()));
    for seq in 0..6 {
        daemon.send(&envelope("t", seq + 1)).await;
    }
    assert_eq!(two.frames().len(), 4);
    assert!(daemon.statuses().contains(&"RATE_LIMITED".to_owned()));
}

#[tokio::test]
async fn key_exchanges_and_pairings_of_all_clients_together_have_an_end() {
    let broker = alone_with(|limits| {
        limits.kex_init_rate_per_minute = 3;
        limits.pairing_rate_per_minute = 2;
    });
    let mut daemon = Socket::attach(&broker, daemon(1)).await;
    let (mut inits, mut offers) = (0, 0);
    for n in 0..20 {
        let name = n.to_string();
        let one = Socket::attach(&broker, named(&name)).await;
        let pairing = Admitted { scope: Some(Scope::Pairing), ..named(&name) };
        let pairing = Socket::attach(&broker, pairing).await;
        for m in 0..5 {
            one.send(&key_init(&format!("r{n}-{m}"))).await;
            pairing.send(&offer_request(&format!("p{n}-{m}"))).await;
        }
        for frame in daemon.frames() {
            let counted = if frame["type"] == "relay_key_exchange_init" { &mut inits } else { &mut offers };
            *counted += 1;
        }
    }
    assert_eq!((inits, offers), (30, 20));
    // Other frames are not counted with them.
    let one = Socket::attach(&broker, named("1")).await;
    one.send(&envelope("s", 1)).await;
    assert_eq!(daemon.frames(), [envelope("s", 1)]);
}

#[tokio::test]
async fn what_is_no_frame_goes_nowhere_and_costs_its_sender() {
    let broker = alone_with(|limits| limits.runtime_rate_per_minute = 4);
    let (mut daemon, mut one, two) = three(&broker).await;
    for text in ["", "{}", "[]", "{\"type\":\"e2ee\"}"] {
        one.attached.frame(text.into()).await.unwrap();
    }
    assert!(one.commands().is_empty(), "no answer");
    one.attached.not_text().await;
    assert_eq!(one.statuses(), ["RATE_LIMITED"]);
    one.send(&envelope("s", 1)).await;
    two.send(&envelope("t", 1)).await;
    assert_eq!(daemon.frames(), [envelope("t", 1)]);
}

/// Sends so often, and tells whether the last one is held up. One that is waits no longer than the test.
async fn is_held_up(socket: &Socket, frame: &Value, times: usize) -> bool {
    let mut held = false;
    for n in 0..times {
        let sent = socket.attached.frame(frame.to_string().into()).now_or_never();
        held = sent.map(Result::unwrap).is_none();
        assert!(!held || n + 1 == times, "already at {n}");
    }
    held
}

#[tokio::test]
async fn a_flood_is_read_no_faster_than_it_may_be_and_a_burst_is() {
    let nonsense = json!({"no": "frame"});
    let dropped_init = |n: usize| key_init(&format!("r{n}"));
    for (scope, frame) in [
        (Scope::Runtime, nonsense.clone()),
        (Scope::Runtime, envelope("s", 1)),
        (Scope::Runtime, dropped_init(1)),
        (Scope::Pairing, offer_request("p")),
        (Scope::SessionEvents, nonsense),
    ] {
        let broker = alone_with(|limits| {
            limits.runtime_rate_per_minute = 4;
            limits.kex_init_rate_per_minute = 4;
            limits.pairing_rate_per_minute = 4;
        });
        let mut daemon = Socket::attach(&broker, daemon(1)).await;
        let mut one = Socket::attach(&broker, Admitted { scope: Some(scope), ..named("one") }).await;
        let two = Socket::attach(&broker, named("two")).await;
        assert!(!is_held_up(&one, &frame, 4 + 32).await, "{scope:?} {frame}");
        assert_eq!(one.statuses(), ["RATE_LIMITED"], "{scope:?} {frame}");
        assert!(is_held_up(&one, &frame, 1).await, "{scope:?} {frame}");
        daemon.frames();
        two.send(&envelope("t", 1)).await;
        assert_eq!(daemon.frames(), [envelope("t", 1)]);
    }
}

#[tokio::test]
async fn who_runs_into_what_others_have_used_up_is_not_held_up() {
    let broker = alone_with(|limits| limits.runtime_rate_per_minute_workspace = 1);
    let (mut daemon, mut one, two) = three(&broker).await;
    two.send(&envelope("t", 1)).await;
    assert!(!is_held_up(&one, &envelope("s", 1), 200).await);
    assert_eq!((daemon.frames().len(), one.statuses().len()), (1, 1));
}

#[tokio::test]
async fn a_frame_that_is_too_large_closes() {
    let broker = alone_with(|limits| limits.max_frame_bytes = 1000);
    let (mut daemon, one, _two) = three(&broker).await;
    let mut frame = envelope("s", 1);
    let room = 1000 - frame.to_string().len();
    frame["ciphertext"] = json!(format!("{}{}", "Y2lwaGVy", "x".repeat(room)));
    one.send(&frame).await;
    assert_eq!(daemon.frames().len(), 1);
    frame["ciphertext"] = json!(format!("{}{}", "Y2lwaGVy", "x".repeat(room + 1)));
    assert_eq!(one.try_send(&frame).await.err().map(|close| close.code), Some(1009));
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_holds_up_nobody() {
    let broker = alone();
    let daemon = Socket::attach(&broker, daemon(1)).await;
    let mut fast = Socket::attach(&broker, named("fast")).await;
    let (out, mut pending) = outbox(2000);
    let slow = broker.attach(named("slow"), out).await.unwrap();
    fast.send(&envelope("fast", 1)).await;
    slow.frame(envelope("slow", 1).to_string().into()).await.unwrap();
    for seq in 1..20 {
        daemon.send(&envelope("slow", seq)).await;
        daemon.send(&envelope("fast", seq)).await;
    }
    assert_eq!(fast.frames().len(), 19);
    let ending = pending.ending().closed().await;
    assert_eq!((ending.code, ending.reason), (POLICY, "reads too slowly"));
    let mut commands = Vec::new();
    pending.take(&mut commands).await;
    assert!(matches!(commands[..], [Command::Close(close)] if close == ending), "{commands:?}");
}

#[tokio::test]
async fn pairs_go_when_nobody_is_left_and_the_operator_sees_who_is() {
    let broker = alone();
    let (daemon, one, two) = three(&broker).await;
    let worker = Socket::attach(&broker, Admitted { pair: pair("v", "t"), ..who(Role::Worker) }).await;
    let of = |workspace: &str, daemon_connected, client_count| PairSnapshot {
        workspace_id: workspace.into(),
        runtime_target_id: Some("t".into()),
        daemon_connected,
        client_count,
        daemon_relay_id: None,
    };
    let snapshot = broker.snapshot();
    assert_eq!(snapshot.pairs, [of("v", false, 1), of("w", true, 2)]);
    assert_eq!((snapshot.daemons, snapshot.clients), (1, 3));
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(
        json["pairs"][1],
        json!({"workspaceId": "w", "runtimeTargetId": "t", "daemonConnected": true, "clientCount": 2})
    );
    drop((worker, daemon, one));
    assert_eq!(broker.pair_count(), 1);
    drop(two);
    assert_eq!(broker.pair_count(), 0);
    assert_eq!(broker.snapshot(), Snapshot::default());
}

#[tokio::test]
async fn a_daemon_that_reads_too_slowly_is_not_there() {
    let broker = alone();
    let (out, pending) = outbox(1000);
    let daemon = broker.attach(daemon(1), out).await.unwrap();
    let mut one = Socket::attach(&broker, named("one")).await;
    for seq in 1..9 {
        one.send(&envelope("s", seq)).await;
    }
    assert_eq!(one.statuses().first().map(String::as_str), Some("DAEMON_UNAVAILABLE"));
    assert_eq!(pending.ending().closed().await.code, POLICY);
    drop(daemon);
}
