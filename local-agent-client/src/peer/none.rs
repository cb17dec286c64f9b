//! What stands for peers in a build without the feature `webrtc`: none can be made.

use super::{Answer, Caller, Offer, PeerError, Settings, StreamHandler};
use crate::status::{PeerCounts, PeerStatus};
use std::sync::Arc;
use uuid::Uuid;

/// No peers.
#[derive(Debug)]
pub enum Peers {}

#[allow(missing_docs, clippy::unused_async, reason = "nobody can call these")]
impl Peers {
    /// None.
    pub fn new(_: Settings) -> Option<Arc<Self>> {
        None
    }

    pub async fn offer(&self, _: Caller, _: Offer, _: StreamHandler) -> Result<Answer, PeerError> {
        match *self {}
    }

    pub fn close(&self, _: Uuid, _: Uuid) -> Result<(), PeerError> {
        match *self {}
    }

    pub async fn shutdown(&self) {
        match *self {}
    }

    pub fn status(&self) -> (PeerCounts, Vec<PeerStatus>) {
        match *self {}
    }
}
