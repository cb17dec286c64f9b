//! One `RTCPeerConnection`: how it is set up, and what is asked of it.
//!
//! | setting | reason |
//! | --- | --- |
//! | explicit addresses | a wildcard leaves loopback out |
//! | no mDNS of our own | it needs a multicast socket; a browser's `.local` candidates are not looked up, its checks arrive all the same and form a peer-reflexive pair |
//! | DTLS server | the browser begins the handshake as soon as a pair works: 350 → 190 ms |
//! | local candidates and sockets anew at an ICE restart | either end's network may be another one |
//! | no bound on messages | one over the engine's bound is dropped without a word, which leaves a hole in the stream of bytes; up to 256 KiB, which is the engine's own, it is seen and ends the peer. The answer tells the bound that holds |
//! | the MTU as it is | larger packets did not arrive |

use super::{
    addresses::Binding,
    channel::SEND_BUFFER,
    ice::{IceError, IceServer},
    runtime::{PeerRuntime, Tasks},
    sdp,
};
use crate::status::PeerPath;
use rtc::{
    ice::mdns::MulticastDnsMode,
    peer_connection::{
        configuration::setting_engine::SctpMaxMessageSize,
        transport::{RTCDtlsRole, RTCIceCandidateType},
    },
    statistics::StatsSelector,
};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use webrtc::{
    data_channel::DataChannel,
    error::Error,
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
        RTCIceGatheringState, RTCIceServer, RTCPeerConnectionState, RTCSessionDescription,
        RTCStatsReportEntry, SettingEngineBuilder,
    },
};

/// How long candidates are gathered (PROTOCOL.md section 6.1).
const GATHER: Duration = Duration::from_secs(2);
/// When ICE calls a pair disconnected, when failed, and how often it asks. Failed is later than the driver's
/// ping gives a peer up: it is the one that decides.
const ICE_TIMES: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(40), Duration::from_secs(2)];
/// Channels that wait to be looked at; more are none of ours.
const CHANNELS: usize = 4;

/// What the engine tells.
struct Events {
    /// How often gathering has been completed.
    gathered: watch::Sender<u64>,
    state: watch::Sender<RTCPeerConnectionState>,
    channels: mpsc::Sender<Arc<dyn DataChannel>>,
}

// Called on the engine's own task, which must not be kept.
#[async_trait::async_trait]
impl PeerConnectionEventHandler for Events {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_modify(|times| *times += 1);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.state.send_replace(state);
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        // One that finds no place is dropped; the browser waits for it in vain.
        let _ = self.channels.try_send(channel);
    }
}

/// A connection of the engine and everything that belongs to it. Dropping it ends its tasks.
pub struct Engine {
    connection: Arc<dyn PeerConnection>,
    gathered: watch::Receiver<u64>,
    /// Where the connection stands.
    pub state: watch::Receiver<RTCPeerConnectionState>,
    /// The channels that the browser opens.
    pub channels: mpsc::Receiver<Arc<dyn DataChannel>>,
    _tasks: Arc<Tasks>,
}

impl Engine {
    /// Binds its sockets.
    pub async fn open(binding: Binding, servers: Vec<IceServer>) -> Result<Self, Error> {
        let [disconnected, failed, keep_alive] = ICE_TIMES;
        let settings = SettingEngineBuilder::new()
            .with_answering_dtls_role(RTCDtlsRole::Server)
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(true)
            .with_discard_local_candidates_during_ice_restart(true)
            .with_ice_timeouts(Some(disconnected), Some(failed), Some(keep_alive))
            .with_sctp_max_message_size(SctpMaxMessageSize::Unbounded)
            .build();
        let servers = servers.iter().map(for_engine).collect();
        let configuration = RTCConfigurationBuilder::default().with_ice_servers(servers).build();
        let (gathered_tx, gathered) = watch::channel(0);
        let (state_tx, state) = watch::channel(RTCPeerConnectionState::New);
        let (channels_tx, channels) = mpsc::channel(CHANNELS);
        let events = Events { gathered: gathered_tx, state: state_tx, channels: channels_tx };
        let (runtime, tasks) = PeerRuntime::start();
        let connection = PeerConnectionBuilder::new()
            .with_configuration(configuration)
            .with_setting_engine(settings)
            .with_data_channel_send_buffer_limit(SEND_BUFFER)
            .with_runtime(runtime)
            .with_handler(Arc::new(events))
            .with_udp_addrs(vec![binding])
            .build()
            .await?;
        Ok(Self { connection: Arc::new(connection), gathered, state, channels, _tasks: tasks })
    }

    /// Answers an offer that was checked, the first or one that restarts ICE, with the candidates of two seconds at
    /// the most.
    pub async fn answer(&mut self, offer: String) -> Result<String, Error> {
        self.gathered.mark_unchanged();
        self.connection.set_remote_description(RTCSessionDescription::offer(offer)?).await?;
        let answer = self.connection.create_answer(None).await?;
        self.connection.set_local_description(answer).await?;
        // What was found by then has to do.
        let _ = tokio::time::timeout(GATHER, self.gathered.changed()).await;
        let described = self.connection.local_description().await;
        described.map(|answer| sdp::answered(&answer.sdp)).ok_or(Error::ErrConnectionClosed)
    }

    /// What is known of the path: the kinds of its two candidates, and its round trip.
    pub async fn path(&self) -> Option<PeerPath> {
        let ice = self.connection.sctp().await?.transport().ice_transport();
        let pair = ice.get_selected_candidate_pair().await.ok()??;
        let report = self.connection.get_stats(Instant::now(), StatsSelector::None).await;
        let selected = report.iter().find_map(|entry| match entry {
            RTCStatsReportEntry::Transport(transport) => Some(transport.selected_candidate_pair_id.as_str()),
            _ => None,
        });
        let rtt = match selected.and_then(|id| report.get(id)) {
            Some(RTCStatsReportEntry::IceCandidatePair(pair)) if pair.current_round_trip_time > 0.0 => {
                Some((pair.current_round_trip_time * 1e5).round() / 100.0)
            }
            _ => None,
        };
        Some(PeerPath {
            local: kind(pair.local().typ).to_owned(),
            remote: kind(pair.remote().typ).to_owned(),
            rtt_ms: rtt,
        })
    }

    /// Ends it, and gives TURN allocations back.
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "a peer did not close cleanly");
        }
    }
}

fn for_engine(server: &IceServer) -> RTCIceServer {
    RTCIceServer {
        urls: server.urls.clone(),
        username: server.username.clone().unwrap_or_default(),
        credential: server
            .credential
            .as_ref()
            .map(|credential| credential.expose().to_owned())
            .unwrap_or_default(),
    }
}

/// Whether the engine can read what was checked already.
///
/// # Errors
/// When it cannot.
pub fn reads(servers: &[IceServer]) -> Result<(), IceError> {
    servers.iter().try_for_each(|server| for_engine(server).urls().map(drop).map_err(|_| IceError::Url))
}

/// The addresses of this machine's interfaces.
pub fn interfaces() -> Vec<IpAddr> {
    match rtc::shared::ifaces::ifaces() {
        Ok(interfaces) => {
            interfaces.into_iter().filter_map(|found| found.addr).map(|addr| addr.ip()).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "the machine's addresses cannot be listed");
            Vec::new()
        }
    }
}

fn kind(kind: RTCIceCandidateType) -> &'static str {
    match kind {
        RTCIceCandidateType::Host => "host",
        RTCIceCandidateType::Srflx => "srflx",
        RTCIceCandidateType::Prflx => "prflx",
        RTCIceCandidateType::Relay => "relay",
        _ => "unknown",
    }
}
