//! Puts it together from the configuration. Nothing here waits for the other side: relays, platform and databases
//! start in any order.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address;
use super::asked::{Asked, Daemons};
use super::envelope::{Key, MAX_ENVELOPE};
use super::inbox::{self, Inbox};
use super::link::{Link, Links};
use super::metrics::Metrics;
use super::outbox::{Allowance, Outbox, Sealer};
use super::platform::{MAX_BYTES, Platform};
use super::postgres::Tables;
use super::presence::Presence;
use super::redis::Redis;
use super::{Backplane, Event, Holder, Kind, Several, writer};
use crate::config::relays::Mode;
use crate::config::{Config, Database};
use crate::outbound::Client;
use crate::store::Store;

/// Events that wait for the broker; more of them wait where their bytes are counted.
const EVENTS: usize = 16;

/// What is wrong with the configuration. No text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no key to sign with.
    #[error("RELAY_BUS_HMAC_KEY is not set or of no use")]
    Key,
    /// The platform is to be called, and nothing can call it.
    #[error("RELAY_INTERNAL_KEY is not set, or TLS cannot be set up, and the platform is to be asked")]
    Platform,
    /// The URL of the database is none.
    #[error("RELAY_BACKPLANE_URL, or the URL of the relay's own database, cannot be used: {0}")]
    Postgres(String),
    /// The URL of Redis, or the file with its roots, is of no use.
    #[error("RELAY_BACKPLANE_URL or RELAY_REDIS_CA cannot be used: {0}")]
    Redis(String),
}

/// What runs besides.
struct Running {
    tasks: TaskTracker,
    stop: CancellationToken,
    inbox: Arc<Inbox>,
    sealer: Sealer,
    outbox: Arc<Outbox>,
    daemons: Arc<Daemons>,
}

impl Backplane {
    /// Begins. Frames and news arrive at the receiver; the tasks end soon after `stop`, when the others have been
    /// told that nothing is here any more. `client` calls the platform and may be absent without one.
    ///
    /// # Errors
    /// [`StartError`]: what is configured cannot work, whoever is there. One that is away is no error.
    pub fn start(
        config: &Config,
        relay_id: &str,
        store: &Store,
        client: Option<Client>,
        stop: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<Event>, TaskTracker), StartError> {
        let tasks = TaskTracker::new();
        let relays = &config.relays;
        if matches!(relays.mode, Mode::Single) {
            tasks.close();
            let (backplane, events) = Self::single();
            return Ok((backplane, events, tasks));
        }
        let shared = relays.hmac_key.as_ref().ok_or(StartError::Key)?;
        let key = Key::new(shared.reveal().as_bytes()).ok_or(StartError::Key)?;
        let records = address::key(shared).ok_or(StartError::Key)?;
        let metrics = Arc::new(Metrics::new());
        let me = Holder {
            relay: Arc::from(relay_id),
            public_ws: relays.public_ws_base_url.clone(),
            internal: relays.internal_url.clone(),
        };
        let max_payload = config.frames.max_frame_bytes;

        let tables = |url: &str| {
            Tables::new(url, me.clone(), records.clone(), max_payload, metrics.clone())
                .map(Arc::new)
                .map_err(StartError::Postgres)
        };
        // Hosts are where the store is.
        let own = match &config.database {
            Database::Postgres(url) => Some(url),
            Database::Sqlite(_) => None,
        };
        let links = match &relays.mode {
            Mode::Redis(url) => {
                let (ca, prefix) = (relays.redis_ca.clone(), &relays.redis_key_prefix);
                let redis =
                    Redis::new(url.reveal(), ca, prefix, me.clone(), records.clone(), metrics.clone())
                        .map_err(|error| StartError::Redis(error.to_string()))?;
                let redis = Link::Redis(Arc::new(redis));
                Links { directory: Some(redis.clone()), daemons: redis }
            }
            Mode::Postgres(None) => {
                let url = own.ok_or_else(|| StartError::Postgres("there is none".to_owned()))?;
                let tables = Link::Tables(tables(url.reveal())?);
                Links { directory: Some(tables.clone()), daemons: tables }
            }
            Mode::Postgres(Some(url)) => {
                let daemons = Link::Tables(tables(url.reveal())?);
                let directory = match own.filter(|own| own.reveal() != url.reveal()) {
                    Some(own) => Link::Tables(tables(own.reveal())?),
                    None => daemons.clone(),
                };
                Links { daemons, directory: Some(directory) }
            }
            Mode::Platform(base) => {
                let key = config.platform.internal_key.clone().ok_or(StartError::Platform)?;
                let client = client.ok_or(StartError::Platform)?;
                let platform = Platform::new(client, base, key, me.clone(), metrics.clone());
                let directory = own.map(|own| tables(own.reveal())).transpose()?.map(Link::Tables);
                Links { daemons: Link::Platform(Arc::new(platform)), directory }
            }
            Mode::Single => return Err(StartError::Key),
        };
        if let Some(notice) = store_notice(config, store) {
            tracing::warn!("{notice}");
        }

        let links = Arc::new(links);
        let (inbox, waiting) = Inbox::new(me.relay.clone(), key.clone(), max_payload, metrics.clone());
        let inbox = Arc::new(inbox);
        let (events, receiver) = mpsc::channel(EVENTS);
        tasks.spawn(inbox::hand_over(waiting, events, stop.clone()));
        let allowance = match &links.daemons {
            Link::Platform(_) => Allowance::PLATFORM,
            Link::Redis(_) | Link::Tables(_) => Allowance::OTHERS,
        };
        let outbox = Arc::new(Outbox::new(max_payload, allowance));
        let daemons = Arc::new(Daemons::new());
        let sealer = Sealer::new(me.relay.clone(), key, metrics.clone());
        let presence = Arc::new(Presence::new());
        presence.relay_is_here();
        tasks.spawn(writer::write(
            presence.clone(),
            links.clone(),
            inbox.clone(),
            metrics.clone(),
            stop.clone(),
        ));
        let max_payload_json = match &links.daemons {
            Link::Platform(_) => MAX_BYTES - MAX_ENVELOPE,
            Link::Redis(_) | Link::Tables(_) => usize::MAX,
        };
        let running = Running {
            tasks: tasks.clone(),
            stop,
            inbox,
            sealer,
            outbox: outbox.clone(),
            daemons: daemons.clone(),
        };
        run(&links, running);
        tasks.close();
        let several = Several {
            presence,
            links,
            outbox,
            daemons,
            hosts: Asked::new(),
            relays: Asked::new(),
            metrics,
            max_payload,
            max_payload_json,
        };
        Ok((Self { kind: Kind::Several(Arc::new(several)) }, receiver, tasks))
    }
}

/// Starts what each other side needs.
fn run(links: &Links, running: Running) {
    let Running { tasks, stop, inbox, sealer, outbox, daemons } = running;
    match &links.daemons {
        Link::Redis(redis) => {
            tasks.spawn(redis.clone().publish(sealer, outbox, daemons, stop.clone()));
            tasks.spawn(redis.clone().listen(inbox, stop.clone()));
        }
        Link::Tables(tables) => {
            tasks.spawn(tables.clone().prepare(stop.clone()));
            tasks.spawn(tables.clone().publish(sealer, outbox, stop.clone()));
            tasks.spawn(tables.clone().listen(inbox, stop.clone()));
            tasks.spawn(tables.clone().sweep(stop.clone()));
        }
        Link::Platform(platform) => {
            tasks.spawn(platform.clone().publish(sealer, outbox, stop.clone()));
            tasks.spawn(platform.clone().pull(inbox, stop.clone()));
        }
    }
    if let Some(Link::Tables(tables)) = &links.directory {
        let apart = !matches!(&links.daemons, Link::Tables(daemons) if Arc::ptr_eq(daemons, tables));
        if apart {
            tasks.spawn(tables.clone().prepare(stop.clone()));
            tasks.spawn(tables.clone().sweep(stop));
        }
    }
}

/// What several relays cannot do with a store that each has for itself.
fn store_notice(config: &Config, store: &Store) -> Option<String> {
    let own = matches!(config.database, Database::Sqlite(_));
    let shared = !own && store.notices().iter().all(|notice| !notice.contains("run one relay only"));
    (!shared).then(|| {
        "several relays share no hosts and sessions unless they share a PostgreSQL database: tunnels are served by the relay \
         that holds them alone"
            .to_owned()
    })
}
