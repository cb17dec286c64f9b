//! The common knowledge at the platform, by its HTTP interface (contract: frames, "Several relays").
//!
//! The platform knows one entry per daemon and neither connections nor generations: the newest daemon is the one
//! that was told last. So an entry is looked at before it is written or given up, and one that is another relay's is
//! left alone, unless our daemon was probed and lives. There is no call that deletes: an entry of ours is written with
//! `daemonConnected` false. Nor is there one that looks and writes in one step, so what was written is looked at again
//! soon: a relay that gave up the same daemon in that moment may have written over it.

mod publish;
mod pull;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::envelope::is_relay_id;
use super::health::{DEADLINE, Failure, Health};
use super::metrics::Metrics;
use super::presence::{Fact, Written};
use super::{Holder, Pair};
use crate::config::{SecretText, parse};
use crate::outbound::{Bounds, CallError, Client};

/// What an answer, and so a frame with all around it, may have at most.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// Deadline of a call.
const WITHIN: Duration = DEADLINE;

/// The platform, as this relay uses it.
pub(super) struct Platform {
    pub(super) health: Health,
    client: Client,
    base: String,
    key: SecretText,
    me: Holder,
    metrics: Arc<Metrics>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Upsert<'a> {
    workspace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_target_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_id: Option<&'a str>,
    relay_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_ws_base_url: Option<&'a str>,
    daemon_connected: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resolve<'a> {
    workspace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_target_id: Option<&'a str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Resolved {
    ok: bool,
    #[serde(default)]
    relay_id: Option<String>,
    #[serde(default)]
    relay_ws_base_url: Option<String>,
    #[serde(default)]
    daemon_connected: Option<bool>,
    #[serde(default)]
    machine_id: Option<String>,
}

#[derive(Deserialize)]
struct Done {
    ok: bool,
}

impl Platform {
    /// `base` is that of the calls.
    pub(super) fn new(
        client: Client,
        base: &Url,
        key: SecretText,
        me: Holder,
        metrics: Arc<Metrics>,
    ) -> Self {
        let base = base.as_str().trim_end_matches('/').to_owned();
        Self { health: Health::new("the platform", metrics.clone()), client, base, key, me, metrics }
    }

    /// Holds a daemon. Another relay's entry is written over only if this one `contests` it.
    pub(super) async fn claim(&self, pair: &Pair, fact: &Fact, contests: bool) -> Result<Written, Failure> {
        let found = self.resolve(pair).await?.filter(Resolved::live);
        let ours = found.as_ref().map(|found| found.relay_id.as_deref() == Some(&self.me.relay));
        match ours {
            Some(false) if !fact.confirmed => return Ok(Written::Lost { higher_generation: false }),
            Some(false) if !contests => return Ok(Written::Left),
            _ => {}
        }
        self.upsert(pair, fact.machine.as_deref(), true).await?;
        Ok(if ours == Some(true) { Written::Held } else { Written::Unsure })
    }

    /// Lets go a daemon, if it is still ours. Of one that was lost to another relay nothing is written.
    pub(super) async fn release(&self, pair: &Pair, told: &[Uuid]) -> Result<Written, Failure> {
        if told.is_empty() {
            return Ok(Written::Held);
        }
        match self.resolve(pair).await? {
            Some(found) if found.live() && found.relay_id.as_deref() == Some(&self.me.relay) => {
                self.upsert(pair, found.machine_id.as_deref(), false).await?;
                Ok(Written::Held)
            }
            _ => Ok(Written::Held),
        }
    }

    /// Which other relay holds a daemon.
    pub(super) async fn daemon(&self, pair: &Pair) -> Result<Option<Holder>, Failure> {
        let found = self.resolve(pair).await?.filter(Resolved::live);
        Ok(found.and_then(|found| {
            let relay = found.relay_id.filter(|relay| is_relay_id(relay) && **relay != *self.me.relay)?;
            let public_ws = found.relay_ws_base_url.as_deref().and_then(parse::ws_url);
            Some(Holder { relay: relay.into(), public_ws, internal: None })
        }))
    }

    async fn resolve(&self, pair: &Pair) -> Result<Option<Resolved>, Failure> {
        let question = Resolve { workspace_id: &pair.workspace, runtime_target_id: pair.target.as_deref() };
        let found: Resolved = match self.post("presence/resolve", &question).await {
            Err(CallError::Status(StatusCode::NOT_FOUND)) => return Ok(None),
            other => other.map_err(failure)?,
        };
        if found.ok { Ok(Some(found)) } else { Err(said_no("presence/resolve")) }
    }

    async fn upsert(&self, pair: &Pair, machine: Option<&str>, connected: bool) -> Result<(), Failure> {
        let entry = Upsert {
            workspace_id: &pair.workspace,
            runtime_target_id: pair.target.as_deref(),
            machine_id: machine,
            relay_id: &self.me.relay,
            // As in a redirect: callers add `/ws` to it.
            relay_ws_base_url: self.me.public_ws.as_ref().map(|url| url.as_str().trim_end_matches('/')),
            daemon_connected: connected,
        };
        let done: Done = self.post("presence/upsert", &entry).await.map_err(failure)?;
        if done.ok { Ok(()) } else { Err(said_no("presence/upsert")) }
    }

    async fn post<T: DeserializeOwned>(&self, call: &str, body: &impl Serialize) -> Result<T, CallError> {
        let url = Url::parse(&format!("{}/{call}", self.base))
            .map_err(|error| CallError::Failed(error.to_string()))?;
        let bounds = Bounds { within: WITHIN, max_bytes: MAX_BYTES };
        self.client.post_json(&url, self.key.reveal(), body, bounds).await
    }
}

impl Resolved {
    fn live(&self) -> bool {
        self.daemon_connected == Some(true)
    }
}

fn said_no(call: &str) -> Failure {
    Failure::Refused(format!("the platform refused {call}"))
}

fn failure(error: CallError) -> Failure {
    match error {
        // About the key between us, the moment, or the platform; or about the one thing that was asked.
        CallError::Status(
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS,
        ) => Failure::Unwell(error.to_string()),
        CallError::Status(status) if status.is_client_error() => Failure::Refused(error.to_string()),
        CallError::Status(_) => Failure::Unwell(error.to_string()),
        _ => Failure::Away(error.to_string()),
    }
}
