//! What is known of one pair, and where its frames go.
//!
//! [`State::route`] is the one way of every frame, whether a socket here sent it or another relay passed it on.
//! It runs under the pair's lock and never waits: what is for somebody here is in their queue when it returns,
//! and what is not is told to the caller ([`Onward`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::frame::{Frame, Verb};
use super::metrics::Reason;
use super::recent::Party;
use super::requests::{Asked, Asker, Requests, SocketId};
use super::sessions::{Place, Sessions, Speaker};
use super::status::Gate;
use super::subscriptions::{self, Subscriptions};
use super::undelivered::About;
use super::{Admitted, Outbox, Profile, Role, Scope, policy};
use crate::backplane::Daemon;

/// A socket that takes part.
pub struct Member {
    /// Its number.
    pub id: SocketId,
    /// What its token says.
    pub who: Admitted,
    /// The way to it.
    pub out: Outbox,
    /// What the relay told it lately.
    pub gate: Mutex<Gate>,
}

impl Member {
    /// Whether both are sockets of one client.
    fn is_same_client(&self, other: &Self) -> bool {
        let name = self.who.name();
        self.who.role == other.who.role && name.is_some() && name == other.who.name()
    }
}

/// The daemon that is connected here.
pub struct Present {
    /// Its socket.
    pub member: Arc<Member>,
    /// What the other relays know it by.
    pub connection: Uuid,
    /// Whether it is being asked if it lives, because another relay says that it has the daemon.
    pub doubted: bool,
    /// Whether it was asked so, and lives.
    pub confirmed: bool,
}

impl Present {
    /// What the other relays are told of it.
    pub fn told(&self) -> Daemon {
        let who = &self.member.who;
        Daemon { connection: self.connection, machine: who.machine.clone(), generation: who.generation }
    }
}

/// Who sent a frame.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// A client or worker here.
    Client(&'a Member),
    /// The daemon here.
    Daemon,
    /// A client at another relay.
    RelayOfClient(&'a Arc<str>),
    /// The daemon at another relay.
    RelayOfDaemon,
}

/// What is left to do for a frame outside of this relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Onward {
    /// The daemon is not here. Holds the request that is to be forgotten if it is nowhere.
    ToDaemon(Option<Arc<str>>),
    /// There may be receivers at this relay, or at any.
    ToClients(Option<Arc<str>>),
}

/// What became of a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Sockets that get it, by role: daemon, client, worker.
    pub reached: [u64; 3],
    /// Why it did not get somewhere.
    pub dropped: Option<Reason>,
    /// What is left to do.
    pub onward: Option<Onward>,
    /// What its sender is answered.
    pub answer: Option<Utf8Bytes>,
}

impl Outcome {
    fn dropped(reason: Reason) -> Self {
        Self { dropped: Some(reason), ..Self::default() }
    }

    fn onward(onward: Onward) -> Self {
        Self { onward: Some(onward), ..Self::default() }
    }

    fn reach(&mut self, role: Role) {
        if let Some(count) = self.reached.get_mut(role as usize) {
            *count += 1;
        }
    }
}

/// One pair.
#[derive(Default)]
pub struct State {
    daemon: Option<Present>,
    clients: HashMap<SocketId, Arc<Member>>,
    requests: Requests,
    sessions: Sessions,
    subscriptions: Subscriptions,
    /// The relay that the daemon was last found at.
    pub remote: Option<Arc<str>>,
}

impl State {
    /// The daemon here.
    pub fn daemon(&self) -> Option<&Present> {
        self.daemon.as_ref()
    }

    /// The daemon here, if it is this connection's.
    pub fn daemon_of(&mut self, connection: Uuid) -> Option<&mut Present> {
        self.daemon.as_mut().filter(|present| present.connection == connection)
    }

    /// Clients and workers here.
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.daemon.is_none() && self.clients.is_empty()
    }

    /// Whether this socket listens to a channel.
    pub fn is_subscribed(&self, id: SocketId) -> bool {
        self.subscriptions.any(id)
    }

    /// This daemon is the one from now on; returns the one before.
    pub fn set_daemon(&mut self, present: Present) -> Option<Present> {
        self.remote = None;
        self.daemon.replace(present)
    }

    /// Takes the daemon out, if it is still the one that is meant.
    pub fn take_daemon(&mut self, is: impl Fn(&Present) -> bool) -> Option<Present> {
        self.daemon.take_if(|present| is(present))
    }

    /// Lets a client or worker take part.
    pub fn add_client(&mut self, member: Arc<Member>) {
        self.clients.insert(member.id, member);
    }

    /// It has gone. What it owned is found to be nobody's when it is asked for.
    pub fn remove_client(&mut self, id: SocketId) -> bool {
        self.subscriptions.gone(id);
        self.clients.remove(&id).is_some()
    }

    /// The request did not reach the daemon after all.
    pub fn forget_request(&mut self, id: &str, now: Instant) {
        self.requests.forget(id, now);
    }

    /// A frame of a client here found no daemon at the relay where it should be: who sent it. A request is forgotten,
    /// so that it may be made again.
    pub fn undelivered(&mut self, about: &About, now: Instant) -> Option<Arc<Member>> {
        let id = match about {
            About::Request(request) => self.requests.forget_of_socket(request, now)?,
            About::Session(session) => self.sessions.place(session, now)?.socket?.0,
        };
        self.clients.get(&id).cloned()
    }

    /// Puts a client's frame into the daemon's queue, if it is here.
    pub fn reach_daemon(&self, text: &Utf8Bytes) -> bool {
        self.daemon.as_ref().is_some_and(|present| present.member.out.text(text.clone()))
    }

    /// Where a frame goes. What may not be said by its sender was dropped before.
    pub fn route(&mut self, frame: &Frame<'_>, text: &Utf8Bytes, from: Origin<'_>, now: Instant) -> Outcome {
        match from {
            Origin::Client(member) => match frame {
                Frame::Subscription { verb, key, request, channel } => {
                    let denied = match verb {
                        Verb::Subscribe => {
                            self.subscriptions.subscribe(member.id, &member.who.channels, channel).err()
                        }
                        Verb::Unsubscribe => {
                            self.subscriptions.unsubscribe(member.id, channel);
                            None
                        }
                    };
                    let answer = subscriptions::answer(*key, *verb, denied, channel, request.as_deref());
                    Outcome { answer: Some(answer), ..Outcome::default() }
                }
                _ => {
                    let sender = (Asker::Socket(member.id), member.who.party());
                    self.client_says(frame, text, &sender, Some(member), now)
                }
            },
            Origin::RelayOfClient(_) if self.daemon.is_none() => Outcome::dropped(Reason::NoDaemon),
            Origin::RelayOfClient(relay) => {
                let sender = (Asker::Relay(relay.clone()), Party::Relay(relay.clone()));
                self.client_says(frame, text, &sender, None, now)
            }
            Origin::Daemon => self.daemon_says(frame, text, true, now),
            Origin::RelayOfDaemon => self.daemon_says(frame, text, false, now),
        }
    }

    fn client_says(
        &mut self,
        frame: &Frame<'_>,
        text: &Utf8Bytes,
        sender: &(Asker, Party),
        member: Option<&Member>,
        now: Instant,
    ) -> Outcome {
        let clients = &self.clients;
        let is_same = |id: &SocketId| {
            clients.get(id).is_some_and(|other| member.is_some_and(|m| m.is_same_client(other)))
        };
        let mut asks = |request, asked| {
            let same = |other: &Asker| matches!(other, Asker::Socket(id) if is_same(id));
            let taken = self.requests.ask(request, asked, sender.clone(), now, same);
            if taken { Ok(Some(request)) } else { Err(Reason::RequestTaken) }
        };
        let noted = match frame {
            Frame::Envelope { session, .. } => {
                let speaker = speaker(sender.clone());
                let claimed = self.sessions.claim(session, speaker, now, |id| clients.contains_key(&id));
                if claimed { Ok(None) } else { Err(Reason::NotOwner) }
            }
            Frame::KeyInit { request, .. } => asks(&**request, Asked::KeyExchange),
            Frame::PairingRequest { step, request } => asks(&**request, Asked::Pairing(*step)),
            Frame::TransportRequest { request, .. } => asks(&**request, Asked::Transport),
            _ => Err(Reason::NotAllowed),
        };
        let request = match noted {
            Ok(request) => request,
            Err(reason) => return Outcome::dropped(reason),
        };
        let mut outcome = Outcome::default();
        if self.reach_daemon(text) {
            outcome.reach(Role::Daemon);
        } else if member.is_some() {
            outcome.onward = Some(Onward::ToDaemon(request.map(Arc::from)));
        } else {
            outcome.dropped = Some(Reason::SlowReader);
            if let Some(request) = request {
                self.requests.forget(request, now);
            }
        }
        outcome
    }

    /// `here`: from our own daemon, so that other relays may have to hear of it. What another relay passed on
    /// goes no further.
    fn daemon_says(&mut self, frame: &Frame<'_>, text: &Utf8Bytes, here: bool, now: Instant) -> Outcome {
        let asker = match frame {
            Frame::Envelope { profile, session } => {
                let place = self.sessions.place(session, now);
                return self.to_owner(place, text, Some(*profile), here);
            }
            Frame::KeyUpdate { session } => {
                let place = self.sessions.place(session, now);
                return self.to_owner(place, text, None, here);
            }
            Frame::SessionEvent { channel } => {
                let mut outcome = self.fan_out(channel, text);
                outcome.onward = here.then_some(Onward::ToClients(None));
                return outcome;
            }
            Frame::KeyResponse { request, session, .. } => {
                let asker = self.requests.answer(request, Asked::KeyExchange, now);
                if let Some(asker) = &asker {
                    self.sessions.give(session, speaker(asker.clone()), now);
                }
                asker
            }
            Frame::PairingResponse { step, request } => {
                self.requests.answer(request, Asked::Pairing(*step), now)
            }
            Frame::TransportResponse { request } => self.requests.answer(request, Asked::Transport, now),
            _ => return Outcome::dropped(Reason::NotAllowed),
        };
        match asker {
            Some((Asker::Socket(id), party)) => {
                let mut outcome = Outcome::default();
                let right = |who: &Admitted| match frame {
                    Frame::TransportResponse { .. } => who.role == Role::Worker,
                    Frame::PairingResponse { .. } => who.scope == Some(Scope::Pairing),
                    _ => who.scope == Some(Scope::Runtime),
                };
                let id = self.socket_of(id, &party, right);
                if !self.reach_client(id, text, frame.profile(), &mut outcome) {
                    outcome.dropped = Some(Reason::NoOwner);
                }
                outcome
            }
            Some((Asker::Relay(relay), _)) if here => Outcome::onward(Onward::ToClients(Some(relay))),
            Some((Asker::Relay(_), _)) | None => Outcome::dropped(Reason::Unrequested),
        }
    }

    fn to_owner(
        &self,
        place: Option<Place>,
        text: &Utf8Bytes,
        profile: Option<Profile>,
        here: bool,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Place { socket, elsewhere } = place.unwrap_or_default();
        let reached = socket.is_some_and(|(id, party)| {
            let id = self.socket_of(id, &party, |who| who.scope == Some(Scope::Runtime));
            self.reach_client(id, text, profile, &mut outcome)
        });
        match (here, elsewhere) {
            (true, Some(relay)) => outcome.onward = Some(Onward::ToClients(Some(relay))),
            // Nobody here, and nobody is known elsewhere: some relay may know.
            (true, None) if !reached => outcome.onward = Some(Onward::ToClients(None)),
            (false, _) if !reached => outcome.dropped = Some(Reason::NoOwner),
            _ => {}
        }
        outcome
    }

    /// The socket by which a client is reached: the one it spoke on, or, when that has gone and the client has a name,
    /// the newest of its sockets with the right to hear this.
    fn socket_of(&self, id: SocketId, party: &Party, right: impl Fn(&Admitted) -> bool) -> SocketId {
        if self.clients.contains_key(&id) || !matches!(party, Party::Client(_)) {
            return id;
        }
        let theirs =
            self.clients.values().filter(|member| right(&member.who) && member.who.party() == *party);
        theirs.map(|member| member.id).max().unwrap_or(id)
    }

    /// True if the client is still here, whether or not the frame gets into its queue.
    fn reach_client(
        &self,
        id: SocketId,
        text: &Utf8Bytes,
        profile: Option<Profile>,
        outcome: &mut Outcome,
    ) -> bool {
        let Some(member) = self.clients.get(&id) else { return false };
        if !policy::may_receive(member.who.profile, profile) {
            outcome.dropped = Some(Reason::Profile);
        } else if member.out.text(text.clone()) {
            outcome.reach(member.who.role);
        } else {
            outcome.dropped = Some(Reason::SlowReader);
        }
        true
    }

    /// Puts an event into the queue of everybody here who listens to its channel.
    pub fn fan_out(&self, channel: &str, text: &Utf8Bytes) -> Outcome {
        let mut outcome = Outcome::default();
        for id in self.subscriptions.listeners(channel) {
            self.reach_client(*id, text, None, &mut outcome);
        }
        outcome
    }
}

/// The sender of a frame, by what its sessions are known again.
fn speaker((asker, party): (Asker, Party)) -> Speaker {
    match asker {
        Asker::Socket(id) => Speaker::Socket(id, party),
        Asker::Relay(relay) => Speaker::Relay(relay),
    }
}

#[cfg(test)]
#[path = "pair_tests.rs"]
mod tests;
