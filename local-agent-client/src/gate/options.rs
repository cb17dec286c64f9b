//! How a gate decides, beyond what it stands before.

use crate::{
    cookies::Jars,
    peer::Peers,
    status,
    trust::{Require, Trust},
};
use std::sync::Arc;

/// Unix seconds. A parameter, so that tests move it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a gate is told. The default is that of the command line.
pub struct Options {
    /// Whose requests reach the local server.
    pub trust: Trust,
    /// What paired browsers have to use.
    pub require: Require,
    /// The cookies of paired browsers; otherwise they end with the agent.
    pub jars: Arc<Jars>,
    /// The peers of browsers; without them browsers stay on the relay.
    pub peers: Option<Arc<Peers>>,
    /// The time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            require: Require::default(),
            jars: Arc::default(),
            peers: None,
            clock: Arc::new(status::now),
        }
    }
}
