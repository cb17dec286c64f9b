//! What the relays have in common, the relays themselves, and tokens for whoever connects to them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sqlx::Connection as _;
use system_tests::broker::{Dial, Socket};
use system_tests::client::{fetch, get};
use system_tests::platform::Platform;
use system_tests::postgres::Postgres;
use system_tests::redis::Redis;
use system_tests::throttle::Throttle;
use system_tests::{Relay, RelayOptions, SOON, eventually, tokens};

/// The workspace of every test; its runtime targets tell pairs apart.
pub const WORKSPACE: &str = "workspace-1";
/// The runtime target of most.
pub const TARGET: &str = "target-1";
/// What the relays sign with.
pub const KEY: &str = "the-key-that-the-relays-of-these-tests-share";
/// The database of the bus.
const BUS: &str = "bus";

/// What keeps the relays' common knowledge.
pub enum Back {
    Redis(Redis),
    /// A database that only the relays share.
    Postgres(Postgres),
    /// The relays' own database, without being told so.
    OwnPostgres(Postgres),
    /// Another one than that which knows the tokens, behind a link that can be cut.
    Platform(Platform, Throttle),
}

pub struct World {
    pub back: Back,
    /// Knows the tokens, and never fails.
    pub tokens: Platform,
}

impl World {
    async fn on(back: Back) -> Self {
        Self { back, tokens: Platform::start().await }
    }

    pub async fn redis() -> Self {
        Self::on(Back::Redis(Redis::start().await)).await
    }

    pub async fn postgres() -> Self {
        let postgres = Postgres::start().await;
        postgres.database(BUS).await;
        Self::on(Back::Postgres(postgres)).await
    }

    pub async fn own_postgres() -> Self {
        let postgres = Postgres::start().await;
        postgres.database(BUS).await;
        Self::on(Back::OwnPostgres(postgres)).await
    }

    pub async fn platform() -> Self {
        let platform = Platform::start().await;
        let link = platform.link().await;
        Self::on(Back::Platform(platform, link)).await
    }

    pub fn is_platform(&self) -> bool {
        matches!(self.back, Back::Platform(..))
    }

    /// Of a relay of this name.
    pub fn options(&self, id: &str) -> RelayOptions {
        let common = [
            ("RELAY_ID", id),
            ("RELAY_BUS_HMAC_KEY", KEY),
            // What is measured here are relays, not senders; a flood is a test of its own.
            ("RELAY_UPGRADE_RATE_PER_MINUTE", "100000"),
            ("RELAY_KEX_INIT_RATE_PER_MINUTE", "100000"),
            ("RELAY_PAIRING_RATE_PER_MINUTE", "100000"),
            ("RELAY_RUNTIME_RATE_PER_MINUTE", "10000000"),
            ("RELAY_RUNTIME_RATE_PER_MINUTE_WORKSPACE", "10000000"),
            ("RELAY_DAEMON_RUNTIME_RATE_PER_MINUTE", "10000000"),
        ];
        let mut options = self.tokens.relay(RelayOptions::default());
        for (name, value) in common {
            options = options.env(name, value);
        }
        let mode = |options: RelayOptions, mode: &str, url: &str| {
            options.env("RELAY_BACKPLANE_MODE", mode).env("RELAY_BACKPLANE_URL", url)
        };
        match &self.back {
            Back::Redis(redis) => mode(options, "redis", &redis.url()),
            Back::Postgres(postgres) => mode(options, "server", &postgres.url_as("postgres", BUS)),
            Back::OwnPostgres(postgres) => options
                .env("RELAY_BACKPLANE_MODE", "server")
                // With a database of their own relays make none.
                .env("RELAY_JWT_SECRET", tokens::SECRET)
                .database(&postgres.url_as("postgres", BUS)),
            Back::Platform(_, link) => mode(options, "server", &link.url()),
        }
    }

    pub async fn relay(&self, id: &str) -> Relay {
        Relay::start(self.options(id)).await
    }

    /// Three of them, `a`, `b` and `c`.
    pub async fn three(&self) -> [Relay; 3] {
        let (a, b, c) = tokio::join!(self.relay("a"), self.relay("b"), self.relay("c"));
        [a, b, c]
    }

    /// How somebody of this role connects, with these claims on top of the usual ones.
    pub fn dial(&self, role: &str, target: &str, more: Value) -> Dial {
        let mut claims = json!({"workspaceId": WORKSPACE, "role": role, "runtimeTargetId": target});
        if role == "client" {
            claims["scope"] = json!("runtime");
        }
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        Dial::new(role, WORKSPACE, Some(target), &self.tokens.grant(claims))
    }

    pub async fn daemon(&self, relay: &Relay) -> Socket {
        self.daemon_of(relay, TARGET, 0).await
    }

    pub async fn daemon_of(&self, relay: &Relay, target: &str, generation: i64) -> Socket {
        let claims = json!({"daemonIssueGeneration": generation, "machineId": "machine-1"});
        self.dial("workspace-daemon", target, claims).connect(relay.addr).await
    }

    pub async fn client(&self, relay: &Relay) -> Socket {
        self.client_of(relay, TARGET).await
    }

    pub async fn client_of(&self, relay: &Relay, target: &str) -> Socket {
        self.dial("client", target, json!({})).connect(relay.addr).await
    }

    pub async fn client_with(&self, relay: &Relay, claims: Value) -> Socket {
        self.dial("client", TARGET, claims).connect(relay.addr).await
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        match &mut self.back {
            Back::Redis(redis) => redis.kill(),
            Back::Postgres(postgres) | Back::OwnPostgres(postgres) => postgres.kill(),
            Back::Platform(_, link) => link.block(true),
        }
    }

    /// It is back; Redis has forgotten everything.
    pub async fn restart(&mut self) {
        match &mut self.back {
            Back::Redis(redis) => redis.restart().await,
            Back::Postgres(postgres) | Back::OwnPostgres(postgres) => postgres.restart().await,
            Back::Platform(_, link) => link.block(false),
        }
    }

    /// Puts frames on the bus behind everybody's back.
    pub async fn inject(&self, frames: &[Value]) {
        match &self.back {
            Back::Redis(redis) => {
                let messages: Vec<_> =
                    frames.iter().map(|frame| (channel(frame), frame.to_string().into_bytes())).collect();
                redis.publish(&messages).await;
            }
            Back::Postgres(postgres) | Back::OwnPostgres(postgres) => {
                let text = |frame: &Value, field: &str| frame[field].as_str().map(str::to_owned);
                // The relays make it.
                let there = "select to_regclass('relay.relay_bus_frames')::text";
                eventually("the table is there", SOON, || async {
                    !postgres.text(BUS, there).await.is_empty()
                })
                .await;
                let mut connection = postgres.connect(BUS).await;
                // As relays do it: whoever has read up to a number has missed none below it.
                for some in frames.chunks(500) {
                    let mut together = connection.begin().await.expect("a transaction");
                    sqlx::query("select pg_advisory_xact_lock($1)")
                        .bind(0x7265_6c61_7962_7573_i64)
                        .execute(&mut *together)
                        .await
                        .expect("it is our turn");
                    for frame in some {
                        let mut insert = sqlx::query(
                            "insert into relay.relay_bus_frames (issued_at_ms, workspace_id, runtime_target_id, \
                             machine_id, source_relay_id, target_relay_id, direction, payload, signature) \
                             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                        )
                        .bind(frame["issuedAtMs"].as_i64());
                        for field in [
                            "workspaceId",
                            "runtimeTargetId",
                            "machineId",
                            "sourceRelayId",
                            "targetRelayId",
                            "direction",
                            "payload",
                            "signature",
                        ] {
                            insert = insert.bind(text(frame, field));
                        }
                        insert.execute(&mut *together).await.expect("it is inserted");
                    }
                    together.commit().await.expect("it is there");
                }
                sqlx::query("select pg_notify('relay_bus_all', '')")
                    .execute(&mut connection)
                    .await
                    .expect("it notifies");
            }
            Back::Platform(platform, _) => frames.iter().for_each(|frame| platform.inject(frame.clone())),
        }
    }
}

fn channel(frame: &Value) -> String {
    match frame["targetRelayId"].as_str() {
        Some(relay) => format!("relay:bus:relay:{relay}"),
        None => "relay:bus:all".to_owned(),
    }
}

/// It answers, and quickly enough.
pub async fn healthy(relay: &Relay) {
    assert_eq!(fetch(relay.addr, get("/health")).await.status, 200);
}

/// Unix milliseconds.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    i64::try_from(now.as_millis()).expect("a time")
}

/// A frame on the bus, not signed yet.
pub fn bus_frame(
    source: &str,
    to: Option<&str>,
    direction: &str,
    issued_at_ms: i64,
    payload: &Value,
) -> Value {
    let mut frame = json!({
        "workspaceId": WORKSPACE, "runtimeTargetId": TARGET, "sourceRelayId": source, "direction": direction,
        "payload": payload.to_string(), "issuedAtMs": issued_at_ms, "signature": "",
    });
    if let Some(to) = to {
        frame["targetRelayId"] = json!(to);
    }
    frame
}

/// The same, signed with this key as the contract says: nothing of the relay's code.
pub fn signed(mut frame: Value, key: &str) -> Value {
    let text = |field: &str| frame[field].as_str().unwrap_or_default().to_owned();
    let lines = [
        text("workspaceId"),
        text("runtimeTargetId"),
        text("machineId"),
        text("sourceRelayId"),
        text("targetRelayId"),
        text("direction"),
        frame["issuedAtMs"].to_string(),
        text("payload"),
    ]
    .join("\n");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    mac.update(lines.as_bytes());
    frame["signature"] = json!(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
    frame
}
