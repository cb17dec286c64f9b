//! The id under which the relay knows this host, kept in `host.json` from one connection to the next, so
//! that a link can be shown while the relay is away.
//!
//! It comes from the relay and is trusted with nothing: a code is bound to it so that both ends mean
//! the same host, and that is all. So a file that cannot be read is only forgotten.

use crate::state::StateDir;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// The file in the state folder.
const FILE: &str = "host.json";

#[derive(Serialize, Deserialize)]
struct File {
    relay: String,
    host_id: Uuid,
}

/// The host's id at one relay.
#[derive(Debug)]
pub struct HostId {
    relay: String,
    state: Option<Arc<StateDir>>,
    current: watch::Sender<Option<Uuid>>,
}

impl HostId {
    /// What is known of the host at `relay`.
    pub fn open(relay: String, state: Option<Arc<StateDir>>) -> Self {
        let known = state.as_ref().and_then(|state| match state.read(FILE) {
            Ok(text) => serde_json::from_slice::<File>(&text?).ok(),
            Err(error) => {
                tracing::warn!(%error, "the host's id is not known until the relay tells it");
                None
            }
        });
        let known = known.filter(|file| file.relay == relay).map(|file| file.host_id);
        Self { relay, state, current: watch::channel(known).0 }
    }

    /// The relay's URL.
    pub fn relay(&self) -> &str {
        &self.relay
    }

    /// The host's id, once the relay has told it.
    pub fn get(&self) -> Option<Uuid> {
        *self.current.borrow()
    }

    /// The id, to read or to wait for its changes.
    pub fn subscribe(&self) -> watch::Receiver<Option<Uuid>> {
        self.current.subscribe()
    }

    /// What the relay told at connecting. Something else than an id is not followed.
    pub fn told(&self, text: &str) {
        let Ok(id) = text.parse::<Uuid>() else {
            tracing::warn!("the relay told an id of this host that is not one; pairing needs one");
            return;
        };
        let before = self.current.send_replace(Some(id));
        if before == Some(id) {
            return;
        }
        if let Some(before) = before {
            tracing::warn!(%before, now = %id, "the relay knows this host under another id now");
        }
        if let Some(state) = &self.state {
            let file = File { relay: self.relay.clone(), host_id: id };
            let written = serde_json::to_vec(&file).map(|text| state.replace(FILE, &text));
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "the host's id cannot be kept");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_for_its_relay_and_follows_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(dir.path()).unwrap());
        let open = |relay: &str| HostId::open(relay.to_owned(), Some(state.clone()));
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let host = open("https://a.example");
        assert_eq!(host.get(), None);
        host.told("not an id");
        assert_eq!(host.get(), None);
        let changes = host.subscribe();
        host.told(&one.to_string());
        assert!(changes.has_changed().unwrap());
        assert_eq!(open("https://a.example").get(), Some(one));
        assert_eq!(open("https://b.example").get(), None);
        host.told(&two.to_string().to_uppercase());
        assert_eq!((host.get(), open("https://a.example").get()), (Some(two), Some(two)));
        std::fs::write(dir.path().join(FILE), "garbage").unwrap();
        assert_eq!(open("https://a.example").get(), None);
    }
}
