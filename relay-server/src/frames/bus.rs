//! The broker's side of the backplane: the calls that it makes, and nothing else of it. Tests put a scripted one
//! in its place.

#[cfg(test)]
use std::sync::Arc;

use uuid::Uuid;

use crate::backplane::{Backplane, Daemon, Holder, Pair, Parcel, PublishError, Unavailable};

/// The way to the other relays.
#[derive(Clone)]
pub enum Bus {
    /// The backplane.
    Relays(Backplane),
    /// Nobody but a test.
    #[cfg(test)]
    Scripted(Arc<scripted::Scripted>),
}

impl Bus {
    /// See [`Backplane::is_single`].
    pub fn is_single(&self) -> bool {
        match self {
            Self::Relays(backplane) => backplane.is_single(),
            #[cfg(test)]
            Self::Scripted(_) => false,
        }
    }

    /// See [`Backplane::daemon_opened`].
    pub fn daemon_opened(&self, pair: &Pair, daemon: Daemon) {
        match self {
            Self::Relays(backplane) => backplane.daemon_opened(pair, daemon),
            #[cfg(test)]
            Self::Scripted(script) => script.presence.lock().push((daemon.connection, true)),
        }
    }

    /// See [`Backplane::daemon_confirmed`].
    pub fn daemon_confirmed(&self, pair: &Pair, daemon: Daemon) {
        match self {
            Self::Relays(backplane) => backplane.daemon_confirmed(pair, daemon),
            #[cfg(test)]
            Self::Scripted(script) => script.confirmed.lock().push(daemon),
        }
    }

    /// See [`Backplane::daemon_closed`].
    pub fn daemon_closed(&self, pair: &Pair, connection: Uuid) {
        match self {
            Self::Relays(backplane) => backplane.daemon_closed(pair, connection),
            #[cfg(test)]
            Self::Scripted(script) => script.presence.lock().push((connection, false)),
        }
    }

    /// See [`Backplane::daemon`].
    pub async fn daemon(&self, pair: &Pair) -> Result<Option<Holder>, Unavailable> {
        match self {
            Self::Relays(backplane) => backplane.daemon(pair).await,
            #[cfg(test)]
            Self::Scripted(script) => script.holder.lock().clone(),
        }
    }

    /// See [`Backplane::forget_daemon`].
    pub fn forget_daemon(&self, pair: &Pair) {
        match self {
            Self::Relays(backplane) => backplane.forget_daemon(pair),
            #[cfg(test)]
            Self::Scripted(script) => script.forgotten.lock().push(pair.clone()),
        }
    }

    /// See [`Backplane::publish`].
    pub async fn publish(&self, parcel: Parcel<'_>) -> Result<(), PublishError> {
        match self {
            Self::Relays(backplane) => backplane.publish(parcel).await,
            #[cfg(test)]
            Self::Scripted(script) => script.publish(parcel),
        }
    }
}

/// A backplane that answers as it is told, and remembers what it was given.
#[cfg(test)]
pub mod scripted {
    use super::*;
    use crate::backplane::BusFrame;
    use parking_lot::Mutex;

    /// What is answered, and what came.
    pub struct Scripted {
        /// The answer to who holds the daemon.
        pub holder: Mutex<Result<Option<Holder>, Unavailable>>,
        /// The answer to what is published.
        pub refuse: Mutex<Option<PublishError>>,
        /// What is taken is lost after that.
        pub loses: Mutex<bool>,
        /// What was published and not refused, with the relay that it is for.
        pub published: Mutex<Vec<(Option<Arc<str>>, BusFrame)>>,
        /// Connections that opened (`true`) and closed.
        pub presence: Mutex<Vec<(Uuid, bool)>>,
        /// Daemons that were seen to live.
        pub confirmed: Mutex<Vec<Daemon>>,
        /// Pairs of which it is to be asked anew who holds their daemon.
        pub forgotten: Mutex<Vec<Pair>>,
        /// Our own id.
        pub own: Arc<str>,
    }

    impl Scripted {
        /// Of the relay with this id; nobody holds anything.
        pub fn new(own: &str) -> Arc<Self> {
            Arc::new(Self {
                holder: Mutex::new(Ok(None)),
                refuse: Mutex::default(),
                loses: Mutex::default(),
                published: Mutex::default(),
                presence: Mutex::default(),
                confirmed: Mutex::default(),
                forgotten: Mutex::default(),
                own: own.into(),
            })
        }

        pub(super) fn publish(&self, parcel: Parcel<'_>) -> Result<(), PublishError> {
            if let Some(error) = *self.refuse.lock() {
                return Err(error);
            }
            if *self.loses.lock() {
                if let Some(sender) = parcel.sender {
                    sender.lost();
                }
                return Ok(());
            }
            let frame = BusFrame {
                pair: parcel.pair.clone(),
                machine: parcel.machine.cloned(),
                source: self.own.clone(),
                targeted: parcel.to.is_some(),
                direction: parcel.direction,
                payload: parcel.payload,
            };
            self.published.lock().push((parcel.to.cloned(), frame));
            Ok(())
        }

        /// What was published since the last call.
        pub fn take(&self) -> Vec<(Option<Arc<str>>, BusFrame)> {
            std::mem::take(&mut self.published.lock())
        }
    }
}
