//! Several relays: what goes to the bus, and what comes from it by the same routing.

use serde_json::{Value, json};
use url::Url;

use super::*;
use crate::backplane::PublishError;
use crate::frames::bus::scripted::Scripted;
use crate::frames::testing::*;
use crate::frames::{Command, POLICY, Profile, Scope};

struct Relay {
    broker: Arc<Broker>,
    script: Arc<Scripted>,
}

impl Relay {
    fn new(own: &str, relays: &config::relays::Relays) -> Self {
        let script = Scripted::new(own);
        let limits = config::frames::Frames { worker_path_prefix: Some("/jobs".into()), ..limits() };
        let broker = Broker::on(&limits, relays, Bus::Scripted(script.clone()));
        Self { broker, script }
    }

    fn plain(own: &str) -> Self {
        Self::new(own, &config::relays::Relays::alone())
    }

    /// The daemon is at this relay.
    fn daemon_at(&self, relay: &str) {
        *self.script.holder.lock() = Ok(Some(holder(relay)));
    }

    /// What was published: to whom, which way, what.
    fn published(&self) -> Vec<(Option<String>, Direction, Value)> {
        let line = |(to, frame): (Option<Arc<str>>, BusFrame)| {
            assert_eq!(frame.pair, pair("w", "t"));
            (to.map(|to| to.to_string()), frame.direction, serde_json::from_str(&frame.payload).unwrap())
        };
        self.script.take().into_iter().map(line).collect()
    }

    /// Another relay passes this on.
    fn hears(&self, source: &str, direction: Direction, targeted: bool, frame: &Value) {
        self.broker.bus_frame(&bus_frame(source, direction, targeted, &frame.to_string()));
    }
}

fn holder(relay: &str) -> Holder {
    Holder {
        relay: relay.into(),
        public_ws: Some(Url::parse(&format!("wss://{relay}.relays.example")).unwrap()),
        internal: None,
    }
}

fn bus_frame(source: &str, direction: Direction, targeted: bool, payload: &str) -> BusFrame {
    BusFrame {
        pair: pair("w", "t"),
        machine: None,
        source: source.into(),
        targeted,
        direction,
        payload: payload.into(),
    }
}

const UP: Direction = Direction::ClientToDaemon;
const DOWN: Direction = Direction::DaemonToClients;

fn to(relay: &str) -> Option<String> {
    Some(relay.to_owned())
}

#[tokio::test]
async fn a_client_reaches_the_daemon_at_another_relay() {
    let relay = Relay::plain("a");
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    let two = Socket::attach(&relay.broker, named("two")).await;
    relay.daemon_at("b");
    one.send(&key_init("r")).await;
    one.send(&envelope("s", 1)).await;
    two.send(&envelope("s", 2)).await;
    two.send(&key_init("r")).await;
    assert_eq!(relay.published(), [(to("b"), UP, key_init("r")), (to("b"), UP, envelope("s", 1))]);
    assert!(one.commands().is_empty());
    assert_eq!(relay.broker.snapshot().pairs[0].daemon_relay_id.as_deref(), Some("b"));
    relay.daemon_at("c");
    one.send(&envelope("s", 3)).await;
    assert_eq!(relay.published(), [(to("c"), UP, envelope("s", 3))]);
    assert_eq!(relay.broker.snapshot().pairs[0].daemon_relay_id.as_deref(), Some("c"));
}

#[tokio::test]
async fn a_frame_that_cannot_be_brought_there_is_said_so() {
    let table = [
        (Ok(None), None, "DAEMON_UNAVAILABLE"),
        (Err(backplane::Unavailable), None, "BACKPLANE_UNAVAILABLE"),
        (Ok(Some(holder("b"))), Some(PublishError::Unavailable), "BACKPLANE_UNAVAILABLE"),
        (Ok(Some(holder("b"))), Some(PublishError::TooLarge), "FRAME_TOO_LARGE_FOR_BUS"),
    ];
    for (answer, refuse, code) in table {
        let relay = Relay::plain("a");
        let mut one = Socket::attach(&relay.broker, named("one")).await;
        let two = Socket::attach(&relay.broker, named("two")).await;
        *relay.script.holder.lock() = answer;
        *relay.script.refuse.lock() = refuse;
        one.send(&key_init("r")).await;
        assert_eq!(one.statuses(), [code]);
        // It heals by itself, and nobody waits for the lost one's answer.
        relay.daemon_at("b");
        *relay.script.refuse.lock() = None;
        two.send(&key_init("r")).await;
        assert_eq!(relay.published().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn what_is_lost_after_it_was_taken_is_said_too() {
    let relay = Relay::plain("a");
    *relay.script.loses.lock() = true;
    relay.daemon_at("b");
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    one.send(&key_init("r")).await;
    assert_eq!(one.statuses(), ["BACKPLANE_UNAVAILABLE"]);
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    daemon.send(&event("agent-session:1")).await;
    assert_eq!(daemon.statuses(), ["BACKPLANE_UNAVAILABLE"]);
    // Nobody is told who has gone.
    drop(one);
    daemon.send(&event("agent-session:1")).await;
}

#[tokio::test]
async fn the_local_daemon_is_asked_whatever_the_others_say() {
    let relay = Relay::plain("a");
    *relay.script.holder.lock() = Err(backplane::Unavailable);
    *relay.script.refuse.lock() = Some(PublishError::Unavailable);
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    one.send(&key_init("r")).await;
    daemon.send(&key_response("r", "s")).await;
    daemon.send(&envelope("s", 1)).await;
    assert_eq!(daemon.frames(), [key_init("r")]);
    assert_eq!(one.frames().len(), 2);
}

#[tokio::test]
async fn an_answer_goes_to_the_relay_that_asked_alone_and_so_do_the_sessions_frames() {
    let relay = Relay::plain("a");
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    let mut local = Socket::attach(&relay.broker, named("one")).await;
    relay.hears("b", UP, true, &key_init("r"));
    relay.hears("c", UP, true, &key_init("r"));
    local.send(&key_init("r")).await;
    assert_eq!(daemon.frames(), [key_init("r")], "outstanding, it is nobody else's");
    daemon.send(&key_response("r", "s")).await;
    daemon.send(&envelope("s", 1)).await;
    daemon.send(&key_update("s")).await;
    assert_eq!(
        relay.published(),
        [
            (to("b"), DOWN, key_response("r", "s")),
            (to("b"), DOWN, envelope("s", 1)),
            (to("b"), DOWN, key_update("s"))
        ]
    );
    daemon.send(&key_response("r", "s")).await;
    assert!(relay.published().is_empty() && local.frames().is_empty());
    for (request, answer) in [
        (offer_request("p"), offer_response("p")),
        (redeem_request("q"), redeem_response("q")),
        (transport_request("x", "/jobs/1"), transport_response("x")),
    ] {
        relay.hears("c", UP, true, &request);
        daemon.send(&answer).await;
        assert_eq!(relay.published(), [(to("c"), DOWN, answer)]);
    }
    assert_eq!(daemon.frames().len(), 3);
}

#[tokio::test]
async fn a_session_of_another_relay_is_learnt_from_its_frames() {
    let relay = Relay::plain("a");
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    daemon.send(&envelope("s", 1)).await;
    assert_eq!(relay.published(), [(None, DOWN, envelope("s", 1))], "nobody here owns it: some relay may");
    relay.hears("b", UP, true, &envelope("s", 2));
    daemon.send(&envelope("s", 3)).await;
    assert_eq!(daemon.frames(), [envelope("s", 2)]);
    assert_eq!(relay.published(), [(to("b"), DOWN, envelope("s", 3))]);
    // A client here owns one: no other relay's client speaks in it.
    let mut local = Socket::attach(&relay.broker, named("one")).await;
    local.send(&envelope("t", 1)).await;
    relay.hears("b", UP, true, &envelope("t", 2));
    daemon.send(&envelope("t", 3)).await;
    assert_eq!(daemon.frames(), [envelope("t", 1)]);
    assert!(relay.published().is_empty());
    assert_eq!(local.frames(), [envelope("t", 3)]);
    // It follows its client, as a redirect asks it to: both places hear it for a while.
    local.send(&envelope("s", 4)).await;
    daemon.send(&envelope("s", 5)).await;
    assert_eq!(local.frames(), [envelope("s", 5)]);
    assert_eq!(relay.published(), [(to("b"), DOWN, envelope("s", 5))]);
}

#[tokio::test]
async fn what_a_remote_daemon_says_goes_to_its_owner_here_and_no_further() {
    let relay = Relay::plain("a");
    let channel = "agent-session:a";
    let mut one = Socket::attach(
        &relay.broker,
        Admitted { client_id: Some("one".into()), ..listener(Scope::Runtime, &[channel]) },
    )
    .await;
    let mut two = Socket::attach(&relay.broker, named("two")).await;
    let mut events = Socket::attach(&relay.broker, listener(Scope::SessionEvents, &[channel])).await;
    let anywhere = Pair { workspace: "w".into(), target: None };
    let anywhere = Admitted { pair: anywhere, ..listener(Scope::SessionEvents, &[channel]) };
    let mut around = Socket::attach(&relay.broker, anywhere).await;
    relay.daemon_at("b");
    one.send(&key_init("r")).await;
    events.send(&subscription("subscribe", channel)).await;
    around.send(&subscription("subscribe", channel)).await;
    events.frames();
    around.frames();
    assert_eq!(relay.published().len(), 1, "subscriptions are answered by the client's own relay");
    for targeted in [true, false] {
        relay.hears("b", DOWN, targeted, &key_response("other", "x"));
        relay.hears("b", DOWN, targeted, &envelope("unknown", 1));
        relay.hears("b", DOWN, targeted, &key_response("r", "s"));
        relay.hears("b", DOWN, targeted, &envelope("s", 1));
        relay.hears("b", DOWN, targeted, &event(channel));
    }
    assert_eq!(one.frames(), [key_response("r", "s"), envelope("s", 1), envelope("s", 1)]);
    assert_eq!(events.frames(), [event(channel), event(channel)]);
    assert_eq!(around.frames(), [event(channel), event(channel)]);
    assert!(two.frames().is_empty());
    assert!(relay.published().is_empty(), "one hop at most");
}

#[tokio::test]
async fn events_of_a_daemon_here_go_to_every_relay() {
    let relay = Relay::plain("a");
    let channel = "agent-session:a";
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    let mut events = Socket::attach(&relay.broker, listener(Scope::SessionEvents, &[channel])).await;
    events.send(&subscription("subscribe", channel)).await;
    daemon.send(&event(channel)).await;
    assert_eq!(relay.published(), [(None, DOWN, event(channel))]);
    assert_eq!(events.frames().len(), 2);
    // Who is here hears it, whether or not the others can.
    *relay.script.refuse.lock() = Some(PublishError::Unavailable);
    daemon.send(&event(channel)).await;
    assert_eq!(events.frames(), [event(channel)]);
    assert_eq!(daemon.statuses(), ["BACKPLANE_UNAVAILABLE"]);
}

#[tokio::test]
async fn what_may_not_pass_does_not_pass_from_a_relay_either() {
    let relay = Relay::plain("a");
    let channel = "agent-session:a";
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    let mut one = Socket::attach(&relay.broker, listener(Scope::Runtime, &[channel])).await;
    one.send(&subscription("subscribe", channel)).await;
    one.send(&envelope("s", 1)).await;
    one.frames();
    daemon.frames();
    for (direction, frame) in [
        (UP, key_response("r", "s")),
        (UP, key_update("s")),
        (UP, event(channel)),
        (UP, offer_response("r")),
        (UP, transport_response("r")),
        (UP, subscription("subscribe", channel)),
        (UP, transport_request("r", "/jobs/../x")),
        (UP, envelope("s", 2)),
        (UP, json!({"type": "e2ee"})),
        (DOWN, key_init("r")),
        (DOWN, offer_request("r")),
        (DOWN, transport_request("r", "/jobs")),
        (DOWN, subscription("subscribe", channel)),
        (DOWN, json!({"type": "relay_status", "code": "RELAY_REDIRECT"})),
        (DOWN, json!([])),
    ] {
        relay.hears("b", direction, true, &frame);
        assert!(daemon.frames().is_empty() && one.frames().is_empty(), "{frame}");
    }
    for payload in ["", "{", "null", "\u{0}"] {
        relay.broker.bus_frame(&bus_frame("b", DOWN, true, payload));
    }
    let mut large = envelope("s", 3);
    large["ciphertext"] = json!("x".repeat(1 << 20));
    relay.hears("b", DOWN, true, &large);
    assert!(one.frames().is_empty() && relay.published().is_empty());
    // A weaker profile than the client's cannot come by this way either.
    let mut strict = Socket::attach(&relay.broker, expecting(Role::Client, Profile::NoiseIkPsk2)).await;
    let mut init = key_init("k");
    init["profile"] = json!("noise-ikpsk2");
    init["pairingPeerId"] = json!("p");
    strict.send(&init).await;
    relay.hears("b", DOWN, true, &key_response("k", "z"));
    assert!(strict.frames().is_empty());
}

#[tokio::test]
async fn a_frame_for_a_daemon_that_has_gone_ends_here() {
    let relay = Relay::plain("a");
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    relay.daemon_at("b");
    relay.hears("c", UP, true, &key_init("r"));
    relay.hears("c", UP, true, &envelope("s", 1));
    // Never passed on a second time; the relay that did not know better hears it.
    let [first, second] = &relay.published()[..] else { panic!("one word for each") };
    for (word, id, value) in [(first, "requestId", "r"), (second, "sessionId", "s")] {
        assert_eq!((&word.0, word.1), (&to("c"), DOWN));
        assert_eq!(
            (&word.2["type"], &word.2["code"]),
            (&json!("relay_status"), &json!("DAEMON_UNAVAILABLE"))
        );
        assert_eq!(word.2[id], json!(value));
    }
    // What is for everybody asks for no answer.
    relay.hears("c", UP, false, &envelope("s", 1));
    assert!(relay.published().is_empty());
    // And it left nothing behind.
    one.send(&key_init("r")).await;
    one.send(&envelope("s", 1)).await;
    assert_eq!(relay.published().len(), 2);
    assert!(one.commands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_in_order_and_each_connection_names_itself() {
    let relay = Relay::plain("a");
    let first = Socket::attach(&relay.broker, daemon(1)).await;
    let second = Socket::attach(&relay.broker, daemon(1)).await;
    drop(first);
    drop(second);
    let told = relay.script.presence.lock().clone();
    let [(one, true), (gone, false), (two, true), (last, false)] = told[..] else { panic!("{told:?}") };
    assert_eq!((one, two), (gone, last));
    assert_ne!(one, two);
}

fn superseded(connection: Uuid, higher_generation: bool) -> backplane::Event {
    backplane::Event::Superseded { pair: pair("w", "t"), connection, higher_generation }
}

/// Answers the probe that waits, and there must be one alone.
async fn lives(daemon: &mut Socket) {
    let mut commands = Vec::new();
    daemon.pending.take(&mut commands).await;
    match commands.pop() {
        Some(Command::Probe { answer, .. }) if commands.is_empty() => answer.send(true).unwrap(),
        other => panic!("{other:?} {commands:?}"),
    }
}

#[tokio::test]
async fn a_daemon_that_lives_stays_whoever_else_says_to_have_it() {
    let relay = Relay::plain("a");
    let mut first = Socket::attach(&relay.broker, daemon(7)).await;
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    let (connection, _) = relay.script.presence.lock()[0];
    let (events, receiver) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let bus = tokio::spawn(relay.broker.clone().run_bus(receiver, stop.clone()));
    for round in 1..2 {
        // Told twice, it is asked once; and the bus goes on while it is asked.
        events.send(superseded(connection, false)).await.unwrap();
        events.send(superseded(connection, false)).await.unwrap();
        let frame = bus_frame("b", UP, true, &envelope("x", round).to_string());
        events.send(backplane::Event::Frame(frame)).await.unwrap();
        let mut commands = Vec::new();
        while !commands.iter().any(|command| matches!(command, Command::Text(_))) {
            first.pending.take(&mut commands).await;
        }
        let mut probes = commands.into_iter().filter_map(|command| match command {
            Command::Probe { answer, .. } => Some(answer),
            _ => None,
        });
        probes.next().unwrap().send(true).unwrap();
        assert!(probes.next().is_none());
        while relay.script.confirmed.lock().len() < usize::try_from(round).unwrap() {
            tokio::task::yield_now().await;
        }
    }
    let confirmed = relay.script.confirmed.lock().pop().unwrap();
    assert_eq!((confirmed.connection, confirmed.generation), (connection, 7));
    assert_eq!(confirmed.machine.as_deref(), Some("m"));
    one.send(&envelope("s", 1)).await;
    first.send(&envelope("s", 2)).await;
    assert_eq!((first.frames(), one.frames()), (vec![envelope("s", 1)], vec![envelope("s", 2)]));
    assert_eq!(relay.script.presence.lock().len(), 1, "it has not gone");
    // Told again, another one was confirmed first: it gives way without being asked.
    events.send(superseded(connection, false)).await.unwrap();
    let mut commands = Vec::new();
    first.pending.take(&mut commands).await;
    assert!(matches!(commands[..], [Command::Close(REPLACED)]), "{commands:?}");
    assert_eq!(relay.script.presence.lock().last(), Some(&(connection, false)));
    stop.cancel();
    bus.await.unwrap();
}

#[tokio::test]
async fn who_was_asked_and_then_replaced_is_not_confirmed() {
    let relay = Relay::plain("a");
    let mut first = Socket::attach(&relay.broker, daemon(1)).await;
    let (connection, _) = relay.script.presence.lock()[0];
    relay.broker.superseded(&pair("w", "t"), connection, false);
    lives(&mut first).await;
    drop(first);
    let mut second = Socket::attach(&relay.broker, daemon(1)).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(relay.script.confirmed.lock().is_empty() && second.commands().is_empty());
    assert_eq!(relay.broker.snapshot().daemons, 1);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_another_relay_holds_gives_way() {
    let relay = Relay::plain("a");
    let mut old = Socket::attach(&relay.broker, daemon(1)).await;
    let one = Socket::attach(&relay.broker, named("one")).await;
    let (connection, _) = relay.script.presence.lock()[0];
    let (events, receiver) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let bus = tokio::spawn(relay.broker.clone().run_bus(receiver, stop.clone()));
    let event = |connection| superseded(connection, false);
    events.send(event(Uuid::new_v4())).await.unwrap();
    events
        .send(backplane::Event::Frame(bus_frame("b", UP, true, &envelope("x", 1).to_string())))
        .await
        .unwrap();
    let mut commands = Vec::new();
    old.pending.take(&mut commands).await;
    assert!(matches!(commands[..], [Command::Text(_)]), "another connection's end is not its own");
    events.send(event(connection)).await.unwrap();
    commands.clear();
    old.pending.take(&mut commands).await;
    // It is asked whether it lives, and says nothing.
    assert!(matches!(commands[..], [Command::Probe { .. }]), "{commands:?}");
    commands.clear();
    old.pending.take(&mut commands).await;
    assert!(matches!(commands[..], [Command::Close(close)] if close == REPLACED && close.code == POLICY));
    assert!(relay.script.confirmed.lock().is_empty());
    relay.daemon_at("b");
    one.send(&envelope("s", 1)).await;
    assert_eq!(relay.published(), [(to("b"), UP, envelope("s", 1))]);
    drop(old);
    assert_eq!(relay.script.presence.lock().len(), 2, "its end is told once");
    stop.cancel();
    bus.await.unwrap();
}

fn redirecting() -> config::relays::Relays {
    config::relays::Relays {
        redirect: true,
        redirect_allowed_hosts: vec![".relays.example".into()],
        public_ws_base_url: Some(Url::parse("wss://a.relays.example").unwrap()),
        ..config::relays::Relays::alone()
    }
}

/// The addresses that a socket was sent to. Waits for the first.
async fn redirects(socket: &mut Socket) -> Vec<String> {
    let mut commands = Vec::new();
    socket.pending.take(&mut commands).await;
    let address = |command| match command {
        Command::Text(text) => {
            let frame: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&frame["code"], &frame["workspaceId"]), (&json!("RELAY_REDIRECT"), &json!("w")));
            frame["relayWsBaseUrl"].as_str().unwrap().to_owned()
        }
        other => panic!("{other:?}"),
    };
    commands.into_iter().map(address).collect()
}

#[tokio::test]
async fn a_client_is_sent_to_its_daemons_relay_once_and_served_meanwhile() {
    let relay = Relay::new("a", &redirecting());
    relay.daemon_at("b");
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    assert_eq!(redirects(&mut one).await, ["wss://b.relays.example"]);
    one.send(&envelope("s", 1)).await;
    assert_eq!(relay.published().len(), 1);
    relay.daemon_at("c");
    one.send(&envelope("s", 2)).await;
    one.send(&envelope("s", 3)).await;
    assert_eq!(redirects(&mut one).await, ["wss://c.relays.example"]);
    relay.daemon_at("b");
    one.send(&envelope("s", 4)).await;
    assert!(one.commands().is_empty(), "once per address");
    assert_eq!(relay.published().len(), 3);
}

#[tokio::test]
async fn nobody_is_sent_where_the_operator_did_not_say() {
    let to =
        |address: &str| Ok(Some(Holder { public_ws: Some(Url::parse(address).unwrap()), ..holder("b") }));
    let off = config::relays::Relays { redirect: false, ..redirecting() };
    for (relays, holder) in [
        (redirecting(), to("wss://evil.example")),
        (redirecting(), to("ws://b.relays.example")),
        (redirecting(), to("wss://a.relays.example")),
        (redirecting(), Ok(Some(Holder { public_ws: None, ..holder("b") }))),
        (off, to("wss://b.relays.example")),
    ] {
        let relay = Relay::new("a", &relays);
        *relay.script.holder.lock() = holder;
        let mut one = Socket::attach(&relay.broker, named("one")).await;
        let worker = Socket::attach(&relay.broker, who(Role::Worker)).await;
        one.send(&envelope("s", 1)).await;
        worker.send(&transport_request("r", "/jobs/1")).await;
        tokio::task::yield_now().await;
        assert!(one.commands().is_empty());
        assert_eq!(relay.published().len(), 2, "and served all the same");
    }
}

#[tokio::test]
async fn with_the_daemon_here_nobody_is_sent_away() {
    let relay = Relay::new("a", &redirecting());
    relay.daemon_at("b");
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    tokio::task::yield_now().await;
    one.send(&envelope("s", 1)).await;
    assert_eq!((daemon.frames().len(), one.commands().len()), (1, 0));
}

#[tokio::test]
async fn a_workspace_asks_so_often_for_daemons_that_nobody_has_and_for_others_at_any_time() {
    let relay = Relay::plain("a");
    let of = |target: &str, who: Admitted| Admitted { pair: pair("w", target), ..who };
    let mut here = Socket::attach(&relay.broker, named("near")).await;
    relay.daemon_at("b");
    here.send(&envelope("s", 1)).await;
    assert_eq!(relay.published().len(), 1);
    // Others of the workspace ask for daemons of targets that they made up.
    *relay.script.holder.lock() = Ok(None);
    for target in 0..4 {
        let name = format!("invented-{target}");
        let mut one = Socket::attach(&relay.broker, of(&name, named(&name))).await;
        let mut heard = Vec::new();
        for seq in 1..=240 {
            one.send(&envelope("s", seq)).await;
            heard.extend(one.statuses());
        }
        let asked_too_often = heard.contains(&"RATE_LIMITED".to_owned());
        assert_eq!(asked_too_often, target >= 2, "{target}: {heard:?}");
    }
    let foreign = Admitted { pair: pair("v", "t"), ..named("foreign") };
    let mut foreign = Socket::attach(&relay.broker, foreign).await;
    foreign.send(&envelope("s", 1)).await;
    assert_eq!(foreign.statuses(), ["DAEMON_UNAVAILABLE"]);
    relay.daemon_at("b");
    here.send(&envelope("s", 2)).await;
    assert!(here.statuses().is_empty());
    assert_eq!(relay.published().len(), 1);
}

/// Two relays whose buses are tied together by hand.
struct Two(Relay, Relay);

impl Two {
    fn pass(&self) {
        for (from, to) in [(&self.0, &self.1), (&self.1, &self.0)] {
            for (target, frame) in from.script.take() {
                if target.as_deref().is_none_or(|name| *name == *to.script.own) {
                    to.broker.bus_frame(&frame);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_whole_exchange_across_two_relays() {
    let two = Two(Relay::plain("a"), Relay::plain("b"));
    let channel = "agent-session:a";
    let mut daemon = Socket::attach(&two.1.broker, daemon(1)).await;
    two.0.daemon_at("b");
    let mut one = Socket::attach(
        &two.0.broker,
        Admitted { client_id: Some("one".into()), ..listener(Scope::Runtime, &[channel]) },
    )
    .await;
    let mut other = Socket::attach(&two.0.broker, named("other")).await;
    let mut near = Socket::attach(&two.1.broker, named("near")).await;
    one.send(&subscription("subscribe", channel)).await;
    one.send(&key_init("r")).await;
    two.pass();
    assert_eq!(daemon.frames(), [key_init("r")]);
    daemon.send(&key_response("r", "s")).await;
    two.pass();
    one.send(&envelope("s", 1)).await;
    two.pass();
    for frame in [envelope("s", 2), key_update("s"), event(channel)] {
        daemon.send(&frame).await;
    }
    two.pass();
    assert_eq!(daemon.frames(), [envelope("s", 1)]);
    let heard = one.frames();
    assert_eq!(heard[1..], [key_response("r", "s"), envelope("s", 2), key_update("s"), event(channel)]);
    assert!(other.frames().is_empty() && near.frames().is_empty());
    assert!(two.0.script.take().is_empty() && two.1.script.take().is_empty(), "nothing runs in circles");
}

/// The value of a counter, with the labels as they are written.
fn counted(rendered: &str, line: &str) -> u64 {
    let value = rendered.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn what_happens_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let relay = ::metrics::with_local_recorder(&recorder, || Relay::new("a", &redirecting()));
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    let one = Socket::attach(&relay.broker, named("one")).await;
    one.send(&envelope("s", 1)).await;
    one.send(&json!({})).await;
    one.attached.not_text().await;
    daemon.send(&envelope("s", 2)).await;
    daemon.send(&key_response("unasked", "s")).await;
    daemon.send(&envelope("other", 3)).await;
    relay.hears("b", UP, true, &key_init("r"));
    relay.hears("b", UP, true, &key_init("r"));
    daemon.frames();
    let (connection, _) = relay.script.presence.lock()[0];
    relay.broker.superseded(&pair("w", "t"), connection, true);
    one.send(&envelope("s", 4)).await;
    *relay.script.refuse.lock() = Some(PublishError::Unavailable);
    relay.daemon_at("b");
    one.send(&envelope("s", 5)).await;
    drop((one, daemon));
    let rendered = recorder.handle().render();
    for (line, count) in [
        (r#"relay_frames_in_total{role="client",kind="e2ee"}"#, 3),
        (r#"relay_frames_in_total{role="daemon",kind="e2ee"}"#, 2),
        (r#"relay_frames_in_total{role="bus",kind="key_init"}"#, 2),
        (r#"relay_frames_out_total{role="daemon",kind="e2ee"}"#, 1),
        (r#"relay_frames_out_total{role="daemon",kind="key_init"}"#, 2),
        (r#"relay_frames_out_total{role="client",kind="e2ee"}"#, 1),
        (r#"relay_frames_dropped_total{reason="unknown"}"#, 1),
        (r#"relay_frames_dropped_total{reason="binary"}"#, 1),
        (r#"relay_frames_dropped_total{reason="unrequested"}"#, 1),
        (r#"relay_frames_dropped_total{reason="no_daemon"}"#, 1),
        (r#"relay_frames_dropped_total{reason="bus"}"#, 1),
        (r#"relay_frames_statuses_total{code="DAEMON_UNAVAILABLE"}"#, 1),
        (r#"relay_frames_statuses_total{code="BACKPLANE_UNAVAILABLE"}"#, 1),
        (r#"relay_frames_statuses_total{code="RELAY_REDIRECT"}"#, 1),
        (r#"relay_frames_attached_total{role="daemon"}"#, 1),
        (r#"relay_frames_detached_total{role="daemon"}"#, 1),
        (r#"relay_frames_attached_total{role="client"}"#, 1),
        (r#"relay_frames_detached_total{role="client"}"#, 1),
        (r#"relay_frames_daemons_replaced_total{by="relay"}"#, 1),
        (r#"relay_frames_bus_total{way="in"}"#, 2),
        (r#"relay_frames_bus_total{way="out"}"#, 1),
        (r#"relay_frames_bus_total{way="refused"}"#, 1),
        ("relay_frames_routing_seconds_count", 9),
    ] {
        assert_eq!(counted(&rendered, line), count, "{line}\n{rendered}");
    }
}

#[tokio::test]
async fn a_client_whose_daemon_has_moved_is_told_so_for_each_frame() {
    for somebody_is_there in [false, true] {
        let two = Two(Relay::plain("a"), Relay::plain("b"));
        let mut one = Socket::attach(&two.0.broker, named("one")).await;
        let mut other = Socket::attach(&two.0.broker, named("other")).await;
        let near = match somebody_is_there {
            true => Some(Socket::attach(&two.1.broker, named("near")).await),
            false => None,
        };
        // That is wrong: it is there no more.
        two.0.daemon_at("b");
        one.send(&envelope("s", 1)).await;
        two.pass();
        assert_eq!(one.statuses(), ["DAEMON_UNAVAILABLE"]);
        assert_eq!(*two.0.script.forgotten.lock(), [pair("w", "t")], "where it is, is asked anew");
        // A request that got nowhere is anybody's.
        other.send(&key_init("r")).await;
        two.pass();
        assert_eq!(other.statuses(), ["DAEMON_UNAVAILABLE"]);
        two.0.daemon_at("c");
        one.send(&key_init("r")).await;
        assert_eq!(two.0.published(), [(to("c"), UP, key_init("r"))]);
        assert!(one.commands().is_empty() && other.commands().is_empty());
        assert!(two.1.script.take().is_empty(), "nothing runs in circles");
        drop(near);
    }
}

#[tokio::test]
async fn relays_alone_say_that_a_frame_found_no_daemon() {
    let word = |id: &str, value: &str| {
        let mut word = json!({"type": "relay_status", "code": "DAEMON_UNAVAILABLE", "message": "m",
                              "workspaceId": "w", "runtimeTargetId": "t", "retryable": true});
        word[id] = json!(value);
        word
    };
    let relay = Relay::plain("a");
    relay.daemon_at("b");
    let mut one = Socket::attach(&relay.broker, named("one")).await;
    one.send(&envelope("s", 1)).await;
    one.send(&key_init("r")).await;
    relay.hears("c", UP, true, &key_init("far"));
    relay.published();
    // Not in this direction, not to everybody, not of what nobody here sent.
    relay.hears("b", UP, true, &word("sessionId", "s"));
    relay.hears("b", DOWN, false, &word("sessionId", "s"));
    assert!(relay.script.forgotten.lock().is_empty());
    for (id, value) in [("sessionId", "t"), ("requestId", "s"), ("requestId", "far"), ("other", "s")] {
        relay.hears("b", DOWN, true, &word(id, value));
    }
    let elsewhere =
        BusFrame { pair: pair("w", "u"), ..bus_frame("b", DOWN, true, &word("sessionId", "s").to_string()) };
    relay.broker.bus_frame(&elsewhere);
    assert!(one.commands().is_empty());
    // Nor does a daemon here.
    let mut daemon = Socket::attach(&relay.broker, daemon(1)).await;
    daemon.send(&word("sessionId", "s")).await;
    assert!(one.commands().is_empty() && daemon.commands().is_empty() && relay.published().is_empty());
    relay.hears("b", DOWN, true, &word("sessionId", "s"));
    assert_eq!(one.statuses(), ["DAEMON_UNAVAILABLE"]);
}
