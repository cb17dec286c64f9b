//! What is left to do for a frame of a socket here once it was routed: the way to the other relays.
//!
//! Its socket waits for it, so that frames keep their order. What does not get there is told to the socket, whether
//! that shows at once or after the frame was queued.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Attached;
use super::broker::Broker;
use super::metrics::{Reason, Way};
use super::pair::{Member, Onward};
use super::status::Code;
use crate::backplane::{self, Direction, Parcel, PublishError};

/// A socket as the backplane knows it.
pub(super) struct Sending {
    broker: Weak<Broker>,
    member: Arc<Member>,
}

impl Sending {
    pub(super) fn new(broker: &Arc<Broker>, member: &Arc<Member>) -> Arc<dyn backplane::Sender> {
        Arc::new(Self { broker: Arc::downgrade(broker), member: member.clone() })
    }
}

impl backplane::Sender for Sending {
    fn lost(&self) {
        let Some(broker) = self.broker.upgrade() else { return };
        broker.metrics.dropped(Reason::Bus);
        broker.tell(&self.member, Code::BackplaneUnavailable, Instant::now());
    }
}

impl Attached {
    /// Does what is left to do.
    pub(super) async fn onward(&self, text: &Utf8Bytes, onward: Onward) {
        match onward {
            Onward::ToClients(relay) => {
                self.publish(relay.as_ref(), Direction::DaemonToClients, text).await;
            }
            Onward::ToDaemon(request) => {
                let reached = self.seek_daemon(text).await;
                if let (false, Some(request)) = (reached, request) {
                    self.entry.state.lock().forget_request(&request, Instant::now());
                }
            }
        }
    }

    /// Brings a client's frame to the daemon at whatever relay it is. False when it gets nowhere, and the client
    /// was told.
    async fn seek_daemon(&self, text: &Utf8Bytes) -> bool {
        let (broker, entry) = (&*self.broker, &*self.entry);
        let workspace = self.shared.as_ref().map(|shared| &shared.workspace);
        let code = match broker.ask(entry, workspace).await {
            None => Code::RateLimited,
            Some(Ok(Some(holder))) => {
                {
                    let mut state = entry.state.lock();
                    if state.remote.as_ref() != Some(&holder.relay) {
                        state.remote = Some(holder.relay.clone());
                    }
                }
                broker.redirect(&self.member, &holder);
                return self.publish(Some(&holder.relay), Direction::ClientToDaemon, text).await;
            }
            Some(Ok(None)) => {
                let mut state = entry.state.lock();
                state.remote = None;
                // It may have come here in the meantime.
                if state.reach_daemon(text) {
                    return true;
                }
                Code::DaemonUnavailable
            }
            Some(Err(backplane::Unavailable)) => Code::BackplaneUnavailable,
        };
        broker.metrics.dropped(if code == Code::RateLimited { Reason::Rate } else { Reason::NoDaemon });
        broker.tell(&self.member, code, Instant::now());
        false
    }

    async fn publish(&self, to: Option<&Arc<str>>, direction: Direction, text: &Utf8Bytes) -> bool {
        let (broker, who) = (&*self.broker, &self.member.who);
        let parcel = Parcel {
            pair: &who.pair,
            machine: who.machine.as_ref(),
            to,
            direction,
            payload: text.as_str().into(),
            sender: Some(&self.sender),
        };
        let sent = broker.bus.publish(parcel).await;
        broker.metrics.bus(if sent.is_ok() { Way::Out } else { Way::Refused });
        let code = match sent {
            Ok(()) => return true,
            Err(PublishError::Unavailable) => Code::BackplaneUnavailable,
            Err(PublishError::TooLarge) => Code::FrameTooLargeForBus,
        };
        broker.metrics.dropped(Reason::Bus);
        broker.tell(&self.member, code, Instant::now());
        false
    }
}
