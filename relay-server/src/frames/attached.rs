//! A socket that takes part: what becomes of a text that it sent.

use std::sync::Arc;
use std::time::Instant;

use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::task::AbortOnDropHandle;

use super::broker::{Broker, Entry, REPLACED};
use super::frame::{Frame, Kind, Unfit};
use super::limits::SharedBudget;
use super::metrics::{Reason, Sender};
use super::pair::{Member, Onward, Origin};
use super::policy::{self, Verdict};
use super::status::Code;
use super::{Close, Role, TOO_LARGE, transport};

/// A socket that takes part. Dropping it ends that.
pub struct Attached {
    pub(super) broker: Arc<Broker>,
    pub(super) entry: Arc<Entry>,
    pub(super) member: Arc<Member>,
    /// What it may send.
    pub(super) own: SharedBudget,
    /// What all clients of the pair may send together.
    pub(super) shared: Option<SharedBudget>,
    pub(super) _greeting: Option<AbortOnDropHandle<()>>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.broker.detach(&self.entry, &self.member);
    }
}

impl From<Unfit> for Reason {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Json => Self::Json,
            Unfit::Unknown => Self::Unknown,
            Unfit::Field => Self::Field,
        }
    }
}

impl Attached {
    /// A text message of this socket. The next one is to wait for it: so frames keep their order.
    ///
    /// # Errors
    /// Why the socket is to be closed.
    pub async fn frame(&self, text: Utf8Bytes) -> Result<(), Close> {
        let started = Instant::now();
        let onward = self.route(&text, started)?;
        if let Some(onward) = onward {
            self.broker.onward(&self.entry, &self.member, &text, onward).await;
        }
        self.broker.metrics.routed(started.elapsed());
        Ok(())
    }

    /// A message that is no text: dropped, and charged like a frame.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn not_text(&self) -> Result<(), Close> {
        self.worthless(Reason::Binary, Instant::now());
        Ok(())
    }

    /// Whether it listens to a channel, and so is never idle.
    pub fn is_subscribed(&self) -> bool {
        self.entry.state.lock().is_subscribed(self.member.id)
    }

    /// Everything that needs no waiting. What is left is returned.
    fn route(&self, text: &Utf8Bytes, now: Instant) -> Result<Option<Onward>, Close> {
        let (broker, member) = (&*self.broker, &*self.member);
        if text.len() > broker.max_frame_bytes {
            return Err(Close { code: TOO_LARGE, reason: "the frame is too large" });
        }
        let frame = match Frame::parse(text) {
            Ok(frame) => frame,
            Err(unfit) => {
                self.worthless(unfit.into(), now);
                return Ok(None);
            }
        };
        let kind = frame.kind();
        broker.metrics.frame_in(Sender::from(member.who.role), kind);
        match policy::judge(&member.who, &frame) {
            Verdict::Pass => {}
            Verdict::Drop => {
                self.worthless(Reason::NotAllowed, now);
                return Ok(None);
            }
            Verdict::Close(close) => {
                broker.metrics.dropped(Reason::Profile);
                return Err(close);
            }
        }
        if !self.may_spend(kind, now) {
            broker.metrics.dropped(Reason::Rate);
            broker.tell(member, Code::RateLimited, now);
            return Ok(None);
        }
        if let Frame::TransportRequest { request, path } = &frame
            && !broker.lets_through(path)
        {
            broker.metrics.dropped(Reason::WorkerTransport);
            member.out.text(transport::refused(request));
            return Ok(None);
        }
        let around = broker.around(&self.entry.pair, &frame);
        let mut outcome = {
            let mut state = self.entry.state.lock();
            let from = match member.who.role {
                Role::Daemon if state.daemon().is_some_and(|present| present.member.id == member.id) => {
                    Origin::Daemon
                }
                // It gave way and does not know yet.
                Role::Daemon => return Err(REPLACED),
                Role::Client | Role::Worker => Origin::Client(member),
            };
            state.route(&frame, text, from, now)
        };
        if broker.bus.is_single() && matches!(outcome.onward, Some(Onward::ToClients(_))) {
            outcome.onward = None;
            if kind != Kind::SessionEvent && outcome.reached == [0; 3] {
                outcome.dropped = outcome.dropped.or(Some(Reason::NoOwner));
            }
        }
        broker.count(kind, &outcome);
        broker.fan_out_around(around, &frame, text);
        if let Some(answer) = outcome.answer {
            member.out.text(answer);
        }
        Ok(outcome.onward)
    }

    /// Something that may not pass: it costs its sender, and never the pair.
    fn worthless(&self, reason: Reason, now: Instant) {
        self.broker.metrics.dropped(reason);
        if !self.own.lock().take(None, now) {
            self.broker.tell(&self.member, Code::RateLimited, now);
        }
    }

    /// The pair's budget is asked last, so that who has none of its own left cannot empty it.
    fn may_spend(&self, kind: Kind, now: Instant) -> bool {
        if !self.own.lock().take(Some(kind), now) {
            return false;
        }
        match &self.shared {
            Some(shared) if matches!(kind, Kind::Envelope | Kind::TransportRequest) => {
                shared.lock().take(Some(kind), now)
            }
            _ => true,
        }
    }
}
