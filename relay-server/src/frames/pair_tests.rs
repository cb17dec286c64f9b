//! Random histories of one pair beside a model of who owns what.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::frames::testing::*;
use crate::frames::{Pending, outbox};

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(Who, u8),
    Speak(Who, u8),
    Answer { here: bool, request: u8, session: u8 },
    Reply { here: bool, session: u8 },
    Leave(u8),
    Join(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Client(u8),
    Relay(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || prop_oneof![3 => (0..4_u8).prop_map(Who::Client), 1 => (0..2_u8).prop_map(Who::Relay)];
    prop_oneof![
        3 => (who(), 0..4_u8).prop_map(|(who, request)| Step::Ask(who, request)),
        4 => (who(), 0..4_u8).prop_map(|(who, session)| Step::Speak(who, session)),
        3 => (any::<bool>(), 0..4_u8, 0..4_u8)
            .prop_map(|(here, request, session)| Step::Answer { here, request, session }),
        4 => (any::<bool>(), 0..4_u8).prop_map(|(here, session)| Step::Reply { here, session }),
        1 => (0..4_u8).prop_map(Step::Leave),
        1 => (0..4_u8).prop_map(Step::Join),
    ]
}

/// Who owns a session: a client here, by socket and seat, and the relay where it also lives.
#[derive(Default, Clone)]
struct Owned {
    here: Option<(SocketId, u8)>,
    elsewhere: Option<Arc<str>>,
}

/// Who sits here has a name, and keeps what it owns when it leaves.
fn has_name(seat: u8) -> bool {
    seat >= 2
}

struct World {
    state: State,
    now: Instant,
    next: SocketId,
    /// Who sits where now.
    seats: HashMap<u8, (Arc<Member>, Pending)>,
    /// Whoever asked and was not answered; a client by its seat too.
    asked: HashMap<u8, (Asker, u8)>,
    owned: HashMap<u8, Owned>,
    relays: [Arc<str>; 2],
    _daemon: Pending,
}

impl World {
    fn new() -> Self {
        let mut state = State::default();
        let (out, pending) = outbox(usize::MAX);
        let member = Arc::new(Member { id: 0, who: daemon(1), out, gate: Mutex::default() });
        state.set_daemon(Present { member, connection: Uuid::new_v4(), doubted: false, confirmed: false });
        let mut world = Self {
            state,
            now: Instant::now(),
            next: 1,
            seats: HashMap::new(),
            asked: HashMap::new(),
            owned: HashMap::new(),
            relays: ["b".into(), "c".into()],
            _daemon: pending,
        };
        (0..4).for_each(|seat| world.join(seat));
        world
    }

    fn join(&mut self, seat: u8) {
        if self.seats.contains_key(&seat) {
            return;
        }
        let (out, pending) = outbox(usize::MAX);
        let who = if has_name(seat) { named(&seat.to_string()) } else { who(Role::Client) };
        let member = Arc::new(Member { id: self.next, who, out, gate: Mutex::default() });
        self.next += 1;
        self.state.add_client(member.clone());
        self.seats.insert(seat, (member, pending));
    }

    fn seat(&self, id: SocketId) -> Option<u8> {
        self.seats.iter().find(|(_, (member, _))| member.id == id).map(|(seat, _)| *seat)
    }

    fn connected(&self, id: SocketId) -> bool {
        self.seats.values().any(|(member, _)| member.id == id)
    }

    /// The socket on which somebody is reached: their own, or when it has gone the one of the same name.
    fn reached_on(&self, (id, seat): (SocketId, u8)) -> Option<SocketId> {
        let own = Some(id).filter(|id| self.connected(*id));
        own.or_else(|| self.seats.get(&seat).filter(|_| has_name(seat)).map(|(member, _)| member.id))
    }

    /// Routes, and tells who got it: clients here by number.
    fn route(&mut self, frame: &serde_json::Value, from: Origin<'_>) -> (Outcome, Vec<SocketId>) {
        let text: Utf8Bytes = frame.to_string().into();
        let outcome = self.state.route(&Frame::parse(&text).unwrap(), &text, from, self.now);
        let mut reached = Vec::new();
        for (member, pending) in self.seats.values_mut() {
            let mut commands = Vec::new();
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            if pending.poll_take(&mut cx, &mut commands).is_ready() {
                assert_eq!(commands.len(), 1);
                reached.push(member.id);
            }
        }
        assert_eq!(outcome.reached[1], reached.len() as u64);
        (outcome, reached)
    }

    fn said(&mut self, who: Who, frame: &serde_json::Value) -> Option<(Asker, bool)> {
        let relays = self.relays.clone();
        let (asker, (outcome, reached)) = match who {
            Who::Client(seat) => {
                let member = self.seats.get(&seat)?.0.clone();
                (Asker::Socket(member.id), self.route(frame, Origin::Client(&member)))
            }
            Who::Relay(at) => {
                let relay = &relays[usize::from(at)];
                (Asker::Relay(relay.clone()), self.route(frame, Origin::RelayOfClient(relay)))
            }
        };
        assert!(reached.is_empty() && outcome.onward.is_none());
        assert_eq!(outcome.dropped.is_some(), outcome.reached[0] == 0);
        Some((asker, outcome.reached[0] == 1))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join(seat) => self.join(seat),
            Step::Leave(seat) => {
                if let Some((member, _)) = self.seats.remove(&seat) {
                    assert!(self.state.remove_client(member.id));
                    assert!(!self.state.remove_client(member.id), "once");
                }
            }
            Step::Ask(who, request) => {
                let Some((asker, passed)) = self.said(who, &key_init(&request.to_string())) else { return };
                let free = self.asked.get(&request).is_none_or(|(other, _)| *other == asker);
                assert_eq!(passed, free);
                if free {
                    let (Who::Client(seat) | Who::Relay(seat)) = who;
                    self.asked.insert(request, (asker, seat));
                }
            }
            Step::Speak(who, session) => {
                let Some((asker, passed)) = self.said(who, &envelope(&session.to_string(), 1)) else {
                    return;
                };
                let mut owned = self.owned.get(&session).cloned().unwrap_or_default();
                owned.here = owned.here.filter(|(id, seat)| has_name(*seat) || self.connected(*id));
                match asker {
                    Asker::Socket(id) => {
                        let seat = self.seat(id).unwrap();
                        let same =
                            |(owner, its): (SocketId, u8)| owner == id || (has_name(its) && its == seat);
                        assert_eq!(passed, owned.here.is_none_or(same));
                        if passed {
                            owned.here = Some((id, seat));
                        }
                    }
                    Asker::Relay(relay) => {
                        let known = owned.elsewhere.as_ref().map(|other| *other == relay);
                        assert_eq!(passed, known.unwrap_or(owned.here.is_none()));
                        if passed {
                            owned.elsewhere = Some(relay);
                        }
                    }
                }
                self.owned.insert(session, owned);
            }
            Step::Answer { here, request, session } => {
                let from = if here { Origin::Daemon } else { Origin::RelayOfDaemon };
                let frame = key_response(&request.to_string(), &session.to_string());
                let (outcome, reached) = self.route(&frame, from);
                match self.asked.remove(&request) {
                    None => assert_eq!((outcome.onward, reached.len()), (None, 0)),
                    Some((Asker::Socket(id), seat)) => {
                        assert_eq!(outcome.onward, None);
                        assert_eq!(reached, Vec::from_iter(self.reached_on((id, seat))));
                        // Its name is known also of who has left.
                        self.owned.insert(session, Owned { here: Some((id, seat)), elsewhere: None });
                    }
                    Some((Asker::Relay(relay), _)) => {
                        assert_eq!(outcome.onward, here.then_some(Onward::ToClients(Some(relay.clone()))));
                        assert!(reached.is_empty());
                        self.owned.insert(session, Owned { here: None, elsewhere: Some(relay) });
                    }
                }
            }
            Step::Reply { here, session } => {
                let from = if here { Origin::Daemon } else { Origin::RelayOfDaemon };
                let (outcome, reached) = self.route(&envelope(&session.to_string(), 2), from);
                let owned = self.owned.get(&session).cloned().unwrap_or_default();
                let owner = owned.here.and_then(|here| self.reached_on(here));
                assert_eq!(reached, Vec::from_iter(owner), "the owner, and nobody else");
                let onward = (here && (owned.elsewhere.is_some() || owner.is_none()))
                    .then_some(Onward::ToClients(owned.elsewhere));
                assert_eq!(outcome.onward, onward);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn frames_reach_whom_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }
}
