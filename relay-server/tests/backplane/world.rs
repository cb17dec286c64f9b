//! The other side that relays have in common, whichever it is.

use serde_json::Value;
use system_tests::platform::{INTERNAL_KEY, Platform};
use system_tests::postgres::Postgres;
use system_tests::redis::Redis;
use system_tests::throttle::Throttle;

use crate::peers::Peer;

pub enum World {
    Redis(Box<Redis>),
    Postgres(Box<Postgres>),
    /// Behind a link that can be cut.
    Platform(Box<Platform>, Throttle),
}

pub fn set(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Of relays whose common knowledge is at the platform with this address.
pub fn at_platform(url: &str) -> Vec<(String, String)> {
    vec![
        set("RELAY_BACKPLANE_MODE", "server"),
        set("RELAY_BACKPLANE_URL", url),
        set("RELAY_INTERNAL_KEY", INTERNAL_KEY),
    ]
}

impl World {
    pub async fn redis() -> Self {
        Self::Redis(Box::new(Redis::start().await))
    }

    pub async fn postgres() -> Self {
        let postgres = Postgres::start().await;
        postgres.database("bus").await;
        Self::Postgres(Box::new(postgres))
    }

    pub async fn platform() -> Self {
        let platform = Platform::start().await;
        let link = platform.link().await;
        Self::Platform(Box::new(platform), link)
    }

    pub fn settings(&self) -> Vec<(String, String)> {
        match self {
            Self::Redis(redis) => {
                vec![set("RELAY_BACKPLANE_MODE", "redis"), set("RELAY_BACKPLANE_URL", &redis.url())]
            }
            Self::Postgres(postgres) => vec![
                set("RELAY_BACKPLANE_MODE", "server"),
                set("RELAY_BACKPLANE_URL", &postgres.url_as("postgres", "bus")),
            ],
            Self::Platform(_, link) => at_platform(&link.url()),
        }
    }

    pub async fn peer(&self, id: &str) -> Peer {
        Peer::start(id, &self.settings()).await
    }

    /// Puts a frame on the bus behind everybody's back.
    pub async fn inject(&self, frame: &Value) {
        match self {
            Self::Redis(redis) => {
                let channel = match frame["targetRelayId"].as_str() {
                    Some(relay) => format!("relay:bus:relay:{relay}"),
                    None => "relay:bus:all".to_owned(),
                };
                redis.cli(&["publish", &channel, &frame.to_string()]).await;
            }
            Self::Postgres(postgres) => {
                let text = |field: &str| match frame[field].as_str() {
                    Some(text) => format!("'{}'", text.replace('\'', "''")),
                    None => "null".to_owned(),
                };
                let columns = [
                    "workspaceId",
                    "runtimeTargetId",
                    "sourceRelayId",
                    "targetRelayId",
                    "direction",
                    "payload",
                    "signature",
                ]
                .map(text)
                .join(", ");
                let sql = format!(
                    "insert into relay.relay_bus_frames (workspace_id, runtime_target_id, source_relay_id, \
                     target_relay_id, direction, payload, signature, issued_at_ms) values ({columns}, {})",
                    frame["issuedAtMs"]
                );
                postgres.execute("bus", &sql).await;
            }
            Self::Platform(platform, _) => platform.inject(frame.clone()),
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Postgres(postgres) => postgres.kill(),
            Self::Platform(_, link) => link.block(true),
        }
    }

    /// It comes back; Redis and the platform have forgotten everything.
    pub async fn restart(&mut self) {
        match self {
            Self::Redis(redis) => redis.restart().await,
            Self::Postgres(postgres) => postgres.restart().await,
            Self::Platform(platform, link) => {
                platform.forget();
                link.block(false);
            }
        }
    }
}
