//! A socket that takes part: what becomes of a text that it sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::task::AbortOnDropHandle;

use super::broker::{Broker, Entry, REPLACED};
use super::frame::{Frame, Kind, Unfit};
use super::limits::{Shared, SharedBudget};
use super::metrics::{Reason, Sender};
use super::pair::{Member, Onward, Origin};
use super::policy::{self, Verdict};
use super::status::Code;
use super::{Close, Role, TOO_LARGE, transport};
use crate::backplane;

/// Frames over the rate that are dropped in a row (less those within it) before nothing more is read from the
/// socket until its budget has some left again. Whoever slows down when told never gets there.
const PATIENCE: u32 = 32;

/// A socket that takes part. Dropping it ends that.
pub struct Attached {
    pub(super) broker: Arc<Broker>,
    pub(super) entry: Arc<Entry>,
    pub(super) member: Arc<Member>,
    /// The same for the backplane.
    pub(super) sender: Arc<dyn backplane::Sender>,
    /// What it may send.
    pub(super) own: SharedBudget,
    /// What all clients of the pair and of the workspace may send together.
    pub(super) shared: Option<Shared>,
    /// How far it is beyond its rate, see [`PATIENCE`].
    pub(super) over: AtomicU32,
    pub(super) _greeting: Option<AbortOnDropHandle<()>>,
}

/// What is left to do for a frame.
enum Next {
    Nothing,
    Onward(Onward),
    /// To read no further for so long: what its sender pours in waits at its own end.
    Wait(Duration),
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
    /// A text message of this socket. The next one is to wait for it: so frames keep their order, and who sends
    /// far too many is slowed down.
    ///
    /// # Errors
    /// Why the socket is to be closed.
    pub async fn frame(&self, text: Utf8Bytes) -> Result<(), Close> {
        let started = Instant::now();
        let next = self.route(&text, started)?;
        if let Next::Onward(onward) = next {
            self.onward(&text, onward).await;
            self.broker.metrics.routed(started.elapsed());
            return Ok(());
        }
        self.broker.metrics.routed(started.elapsed());
        // Nobody else's memory holds it meanwhile.
        drop(text);
        wait(next).await;
        Ok(())
    }

    /// A message that is no text: dropped, and charged like a frame.
    pub async fn not_text(&self) {
        wait(self.worthless(Reason::Binary, Instant::now())).await;
    }

    /// Whether it listens to a channel, and so is never idle.
    pub fn is_subscribed(&self) -> bool {
        self.entry.state.lock().is_subscribed(self.member.id)
    }

    /// Everything that needs no waiting. What is left is returned.
    fn route(&self, text: &Utf8Bytes, now: Instant) -> Result<Next, Close> {
        let (broker, member) = (&*self.broker, &*self.member);
        if text.len() > broker.max_frame_bytes {
            return Err(Close { code: TOO_LARGE, reason: "the frame is too large" });
        }
        // What could not pass whatever it says is not worth reading.
        if self.own.lock().is_spent(member.who.scope, now) {
            broker.metrics.dropped(Reason::Rate);
            return Ok(self.too_many(None, now));
        }
        let frame = match Frame::parse(text) {
            Ok(frame) => frame,
            Err(unfit) => return Ok(self.worthless(unfit.into(), now)),
        };
        let kind = frame.kind();
        broker.metrics.frame_in(Sender::from(member.who.role), kind);
        match policy::judge(&member.who, &frame) {
            Verdict::Pass => {}
            Verdict::Drop => return Ok(self.worthless(Reason::NotAllowed, now)),
            Verdict::Close(close) => {
                broker.metrics.dropped(Reason::Profile);
                return Err(close);
            }
        }
        if !self.own.lock().take(Some(kind), now) {
            broker.metrics.dropped(Reason::Rate);
            return Ok(self.too_many(Some(kind), now));
        }
        self.within();
        // What is shared is asked last, so that who has none of its own left cannot empty it; and when others have
        // emptied it, that is not this socket's fault.
        if self.shared.as_ref().is_some_and(|all| !all.take(kind, now)) {
            broker.metrics.dropped(Reason::Rate);
            broker.tell(member, Code::RateLimited, now);
            return Ok(Next::Nothing);
        }
        if let Frame::TransportRequest { request, path } = &frame
            && !broker.lets_through(path)
        {
            broker.metrics.dropped(Reason::WorkerTransport);
            member.out.text(transport::refused(request));
            return Ok(Next::Nothing);
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
        Ok(outcome.onward.map_or(Next::Nothing, Next::Onward))
    }

    /// Something that may not pass: it costs its sender, and nobody else.
    fn worthless(&self, reason: Reason, now: Instant) -> Next {
        self.broker.metrics.dropped(reason);
        if self.own.lock().take(None, now) {
            self.within();
            return Next::Nothing;
        }
        self.too_many(None, now)
    }

    /// Its sender's own budget for it is empty.
    fn too_many(&self, kind: Option<Kind>, now: Instant) -> Next {
        self.broker.tell(&self.member, Code::RateLimited, now);
        if self.over.fetch_add(1, Ordering::Relaxed) < PATIENCE {
            return Next::Nothing;
        }
        self.over.store(PATIENCE, Ordering::Relaxed);
        Next::Wait(self.own.lock().wait(kind, now))
    }

    /// It was within its rate. One good frame does not undo a flood.
    fn within(&self) {
        let less = |over: u32| over.checked_sub(1);
        let _ = self.over.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

async fn wait(next: Next) {
    if let Next::Wait(time) = next {
        tokio::time::sleep(time).await;
    }
}
