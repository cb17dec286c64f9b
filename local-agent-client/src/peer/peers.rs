//! All peers of an agent: who may have one, and what ends them.

use super::{
    Answer, Caller, Offer, PeerError, Settings, StreamHandler,
    actor::{Actor, Asked, Info},
    addresses::Binding,
    engine, ice, sdp,
    table::Table,
};
use crate::status::{PeerCounts, PeerStatus, now};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long an answer may take: two seconds to gather, and what surrounds them.
const ANSWER: Duration = Duration::from_secs(6);
/// How long peers have to end when the agent does.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// What is kept of one peer outside its task.
struct Entry {
    info: Arc<Info>,
    /// Lets what is under way finish first.
    finish: CancellationToken,
    stop: CancellationToken,
    /// It has ended, and everything that belonged to it.
    gone: CancellationToken,
    asks: mpsc::Sender<Asked>,
}

#[derive(Default)]
struct Shared {
    table: Mutex<Table<Entry>>,
    /// Of peers that have ended; of the others only how many were opened.
    past: Mutex<PeerCounts>,
}

/// Makes peers, and ends them.
pub struct Peers {
    binding: Binding,
    idle: Duration,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("count", &self.shared.table.lock().len()).finish_non_exhaustive()
    }
}

/// Takes a peer out of the table when its task ends, however that comes about.
struct Leave {
    id: Uuid,
    info: Arc<Info>,
    gone: CancellationToken,
    shared: Arc<Shared>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shared.table.lock().forget(self.id);
        self.gone.cancel();
        let mut past = self.shared.past.lock();
        past.bytes_sent = past.bytes_sent.saturating_add(self.info.bytes.sent.load(Relaxed));
        past.bytes_received = past.bytes_received.saturating_add(self.info.bytes.received.load(Relaxed));
    }
}

impl Peers {
    /// Peers that are made like this. `None` where none can be made: this build has no engine, or the machine has
    /// none of the addresses that were named.
    pub fn new(settings: Settings) -> Option<Arc<Self>> {
        let Settings { ports, addresses, relay_is_local, idle } = settings;
        let binding = Binding { addresses, ports, relay_is_local, found: engine::interfaces };
        let missing = binding.missing();
        if !missing.is_empty() {
            tracing::warn!(?missing, "this machine does not have these addresses of --webrtc-address");
        }
        if !missing.is_empty() && missing.len() == binding.addresses.len() {
            tracing::warn!("browsers stay on the relay: the direct path has no address");
            return None;
        }
        Some(Arc::new(Self { binding, idle, shared: Arc::default(), tasks: Mutex::default() }))
    }

    /// Answers an offer: makes a peer whose streams go to `handler`, or restarts the ICE of one.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn offer(
        &self,
        caller: Caller,
        offer: Offer,
        handler: StreamHandler,
    ) -> Result<Answer, PeerError> {
        let sdp = sdp::offered(&offer.sdp)?;
        ice::check(&offer.ice_servers)?;
        engine::reads(&offer.ice_servers)?;
        let (answer, answered) = oneshot::channel();
        let asked = Asked { sdp, answer };
        let session_ended = caller.ended.clone();
        let peer_id = match offer.peer_id {
            Some(id) => {
                self.restart(id, &caller, asked)?;
                id
            }
            None => self.start(caller, asked, offer.ice_servers, handler)?,
        };
        match timeout(ANSWER, answered).await {
            Ok(Ok(answer)) => answer.map(|sdp| Answer { peer_id, sdp }),
            // The peer ended while it was asked.
            Ok(Err(_)) if session_ended.is_cancelled() => Err(PeerError::Ended),
            Ok(Err(_)) if offer.peer_id.is_some() => Err(PeerError::NotFound),
            Ok(Err(_)) => Err(PeerError::Displaced),
            Err(_) => Err(PeerError::Failed("the engine did not answer in time".to_owned())),
        }
    }

    fn restart(&self, id: Uuid, caller: &Caller, asked: Asked) -> Result<(), PeerError> {
        let table = self.shared.table.lock();
        let entry = table.find(id, caller.owner.browser).ok_or(PeerError::NotFound)?;
        entry.asks.try_send(asked).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PeerError::Busy,
            mpsc::error::TrySendError::Closed(_) => PeerError::NotFound,
        })
    }

    fn start(
        &self,
        caller: Caller,
        asked: Asked,
        servers: Vec<ice::IceServer>,
        handler: StreamHandler,
    ) -> Result<Uuid, PeerError> {
        let id = Uuid::new_v4();
        let info = Arc::new(Info::new(now()));
        let (asks, to_do) = mpsc::channel(1);
        let (finish, stop, gone) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let entry = Entry {
            info: info.clone(),
            finish: finish.clone(),
            stop: stop.clone(),
            gone: gone.clone(),
            asks,
        };
        let has_room = self.binding.has_room();
        let before = {
            let mut table = self.shared.table.lock();
            // Its own: windows that were closed or reloaded leave some behind.
            let oldest = if has_room { None } else { table.take_oldest(caller.owner.browser) };
            let evicted = table.enter(id, caller.owner, entry).map_err(|_| PeerError::Full)?;
            evicted.or(oldest).map(|oldest| {
                oldest.stop.cancel();
                oldest.gone
            })
        };
        self.shared.past.lock().opened += 1;
        let leave = Leave { id, info: info.clone(), gone, shared: self.shared.clone() };
        let actor = Actor {
            id,
            browser: caller.owner.browser,
            session_ended: caller.ended.clone(),
            finish,
            stop,
            before,
            asks: to_do,
            info,
            handler,
            idle: self.idle,
        };
        let binding = self.binding.clone();
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let why = actor.run(asked, binding, servers).await;
            drop(caller.keeps);
            drop(leave);
            tracing::info!(peer = %id, "a peer ended: {why}");
        });
        Ok(id)
    }

    /// Ends a browser's peer, once what is under way is done: the exchange that asks for this may be.
    ///
    /// # Errors
    /// [`PeerError::NotFound`] when it has no such.
    pub fn close(&self, browser: Uuid, peer: Uuid) -> Result<(), PeerError> {
        let entry = self.shared.table.lock().take(peer, browser).ok_or(PeerError::NotFound)?;
        entry.finish.cancel();
        Ok(())
    }

    /// Ends all, and waits for them within reason: browsers that are told need not find out.
    pub async fn shutdown(&self) {
        self.shared.table.lock().clear().for_each(|entry| entry.stop.cancel());
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let ended = async { while tasks.join_next().await.is_some() {} };
        // Those that are left are aborted.
        let _ = timeout(SHUTDOWN, ended).await;
    }

    /// What there is, and what there was.
    pub fn status(&self) -> (PeerCounts, Vec<PeerStatus>) {
        let table = self.shared.table.lock();
        let mut counts = *self.shared.past.lock();
        let peers: Vec<PeerStatus> = table
            .iter()
            .map(|(id, owner, entry)| {
                let status = entry.info.status(id, owner.browser);
                counts.bytes_sent = counts.bytes_sent.saturating_add(status.bytes_sent);
                counts.bytes_received = counts.bytes_received.saturating_add(status.bytes_received);
                status
            })
            .collect();
        counts.open = peers.len();
        (counts, peers)
    }
}
