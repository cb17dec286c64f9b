//! A browser's end of a peer, played by the same engine, over real UDP on loopback.

use local_agent_client::peer::{
    Answer, Caller, Offer, Owner, PeerError, Peers, Settings, StreamHandler,
    channel::{LABEL, Messages, PROTOCOL},
};
use relay_protocol::tunnel::{self, Handle, Options, Role};
use rtc::{ice::mdns::MulticastDnsMode, peer_connection::configuration::setting_engine::SctpMaxMessageSize};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
        RTCSessionDescription, SettingEngineBuilder,
    },
};

/// Longer than anything here takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

struct Gathered(watch::Sender<u64>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Gathered {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.0.send_modify(|times| *times += 1);
        }
    }
}

pub struct Browser {
    pub connection: Arc<dyn PeerConnection>,
    pub channel: Arc<dyn DataChannel>,
    gathered: watch::Receiver<u64>,
}

pub fn reliable() -> RTCDataChannelInit {
    RTCDataChannelInit { ordered: true, protocol: PROTOCOL.to_owned(), ..RTCDataChannelInit::default() }
}

impl Browser {
    pub async fn new() -> Self {
        Self::with(LABEL, reliable()).await
    }

    /// With another channel than the right one.
    pub async fn with(label: &str, init: RTCDataChannelInit) -> Self {
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_include_loopback_candidate(true)
            // More than it may send.
            .with_sctp_max_message_size(SctpMaxMessageSize::Unbounded)
            .build();
        let (sender, gathered) = watch::channel(0);
        let connection = PeerConnectionBuilder::new()
            .with_setting_engine(settings)
            .with_data_channel_send_buffer_limit(1 << 20)
            .with_handler(Arc::new(Gathered(sender)))
            .with_udp_addrs(vec![(Ipv4Addr::LOCALHOST, 0)])
            .build()
            .await
            .unwrap();
        let connection: Arc<dyn PeerConnection> = Arc::new(connection);
        let channel = connection.create_data_channel(label, Some(init)).await.unwrap();
        Self { connection, channel, gathered }
    }

    /// A complete offer.
    pub async fn offer(&mut self) -> String {
        self.gathered.mark_unchanged();
        let offer = self.connection.create_offer(None).await.unwrap();
        self.connection.set_local_description(offer).await.unwrap();
        timeout(SOON, self.gathered.changed()).await.expect("gathering never ended").unwrap();
        self.connection.local_description().await.unwrap().sdp
    }

    pub async fn accept(&self, answer: &Answer) {
        let answer = RTCSessionDescription::answer(answer.sdp.clone()).unwrap();
        self.connection.set_remote_description(answer).await.unwrap();
    }

    /// Waits until the channel is open.
    pub async fn open(&self) {
        let open = async {
            loop {
                match self.channel.poll().await {
                    Some(DataChannelEvent::OnOpen) => return,
                    Some(_) => {}
                    None => panic!("the channel ended"),
                }
            }
        };
        timeout(SOON, open).await.expect("the channel did not open");
    }
}

/// The agent's side.
pub struct Agent {
    pub peers: Arc<Peers>,
    pub handler: StreamHandler,
    pub caller: Caller,
}

pub fn settings() -> Settings {
    Settings { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..Settings::default() }
}

pub fn caller(browser: u128, session: u128) -> Caller {
    let owner = Owner { browser: Uuid::from_u128(browser), session: Uuid::from_u128(session) };
    Caller { owner, ended: CancellationToken::new(), keeps: Arc::new(()) }
}

impl Agent {
    pub fn new(handler: StreamHandler) -> Self {
        Self::with(settings(), handler)
    }

    pub fn with(settings: Settings, handler: StreamHandler) -> Self {
        Self { peers: Peers::new(settings).unwrap(), handler, caller: caller(1, 1) }
    }

    pub async fn ask(&self, sdp: String, peer_id: Option<Uuid>) -> Result<Answer, PeerError> {
        self.ask_as(self.caller.clone(), sdp, peer_id).await
    }

    pub async fn ask_as(
        &self,
        caller: Caller,
        sdp: String,
        peer_id: Option<Uuid>,
    ) -> Result<Answer, PeerError> {
        self.offer(caller, Offer { sdp, ice_servers: Vec::new(), peer_id }).await
    }

    pub async fn offer(&self, caller: Caller, offer: Offer) -> Result<Answer, PeerError> {
        self.peers.offer(caller, offer, self.handler.clone()).await
    }

    /// An open peer.
    pub async fn connect(&self) -> Connected {
        let mut browser = Browser::new().await;
        let answer = self.ask(browser.offer().await, None).await.unwrap();
        browser.accept(&answer).await;
        browser.open().await;
        Connected::new(browser, answer)
    }

    /// Waits until so many peers are left.
    pub async fn left(&self, count: usize) {
        let left = async {
            while self.peers.status().0.open != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, left).await.unwrap_or_else(|_| panic!("{:?} are left", self.peers.status()));
    }
}

/// A peer whose streams can be used.
pub struct Connected {
    pub browser: Browser,
    pub answer: Answer,
    pub handle: Handle,
    _driver: AbortOnDropHandle<tunnel::Ended>,
}

impl Connected {
    pub fn new(browser: Browser, answer: Answer) -> Self {
        let messages = Messages::new(browser.channel.clone(), Arc::default(), Arc::default());
        // It would let itself open more streams than it may.
        let options = Options { max_streams: 300, ..Options::data_channel(Role::Browser) };
        let (handle, _, driver) = tunnel::start(messages, options);
        Self { browser, answer, handle, _driver: AbortOnDropHandle::new(tokio::spawn(driver.run())) }
    }

    /// There and back on a stream of its own.
    pub async fn round_trip(&self, data: Vec<u8>) {
        let (mut reader, mut writer) = tokio::io::split(self.handle.open().await.unwrap());
        let expected = data.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&data).await.unwrap();
            writer
        });
        let mut back = vec![0; expected.len()];
        timeout(SOON, reader.read_exact(&mut back)).await.expect("stuck").unwrap();
        assert!(back == expected, "{} bytes came back changed", expected.len());
        drop(writing.await.unwrap());
    }
}

/// Sends back what comes.
pub fn echo() -> StreamHandler {
    Arc::new(|stream, _| {
        Box::pin(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        })
    })
}
