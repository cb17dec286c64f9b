//! A relay that reads, alters, replays, reorders, cuts and invents: neither end accepts anything of it, and
//! the code never crosses it. PROTOCOL.md sections 3 to 5.

#[path = "hostile/capture.rs"]
mod capture;
#[path = "hostile/exchanges.rs"]
mod exchanges;
#[path = "hostile/pairing.rs"]
mod pairing;
#[path = "hostile/sealed.rs"]
mod sealed;
#[path = "hostile/sockets.rs"]
mod sockets;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http::{Request, Response};
use system_tests::{
    AgentOptions, LocalServer, RelayOptions, SOON, Stack,
    hostile::{Deeds, Hostile, Verdict},
    local,
    signed::Browser,
};
use tokio_tungstenite::tungstenite::Message;

type OnRequest = dyn Fn(&mut Request<Bytes>) -> Verdict + Send + Sync;
type OnResponse = dyn Fn(&str, &mut Response<Bytes>) + Send + Sync;
type OnMessage = dyn Fn(Message) -> Vec<Message> + Send + Sync;

/// What the relay does, changed from case to case.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Deed>>);

#[derive(Default)]
struct Deed {
    request: Option<Arc<OnRequest>>,
    response: Option<Arc<OnResponse>>,
    to_agent: Option<Arc<OnMessage>>,
    to_browser: Option<Arc<OnMessage>>,
}

impl Script {
    fn lock(&self) -> std::sync::MutexGuard<'_, Deed> {
        self.0.lock().expect("nobody panicked")
    }

    /// Lets everything pass again.
    fn rest(&self) {
        *self.lock() = Deed::default();
    }

    fn on_request(&self, deed: impl Fn(&mut Request<Bytes>) -> Verdict + Send + Sync + 'static) {
        self.rest();
        self.lock().request = Some(Arc::new(deed));
    }

    fn on_response(&self, deed: impl Fn(&str, &mut Response<Bytes>) + Send + Sync + 'static) {
        self.rest();
        self.lock().response = Some(Arc::new(deed));
    }

    fn on_message_to_agent(&self, deed: impl Fn(Message) -> Vec<Message> + Send + Sync + 'static) {
        self.rest();
        self.lock().to_agent = Some(Arc::new(deed));
    }

    fn on_message_to_browser(&self, deed: impl Fn(Message) -> Vec<Message> + Send + Sync + 'static) {
        self.rest();
        self.lock().to_browser = Some(Arc::new(deed));
    }
}

impl Deeds for Script {
    fn request(&self, request: &mut Request<Bytes>) -> Verdict {
        let deed = self.lock().request.clone();
        deed.map_or(Verdict::Pass, |deed| deed(request))
    }

    fn response(&self, target: &str, response: &mut Response<Bytes>) {
        let deed = self.lock().response.clone();
        if let Some(deed) = deed {
            deed(target, response);
        }
    }

    fn to_agent(&self, message: Message) -> Vec<Message> {
        let deed = self.lock().to_agent.clone();
        deed.map_or_else(|| vec![message.clone()], |deed| deed(message.clone()))
    }

    fn to_browser(&self, message: Message) -> Vec<Message> {
        let deed = self.lock().to_browser.clone();
        deed.map_or_else(|| vec![message.clone()], |deed| deed(message.clone()))
    }
}

/// A relay, an agent that believes only signatures, and something hostile in front of both.
struct Scene {
    stack: Stack,
    hostile: Hostile,
    script: Script,
}

impl Scene {
    async fn start(to: &str) -> Self {
        let stack = Stack::with(to, RelayOptions::default(), AgentOptions::paired).await;
        let script = Script::default();
        let hostile = Hostile::start(stack.addr(), script.clone()).await;
        Self { stack, hostile, script }
    }

    /// Pairs a browser, and lets nothing happen to it.
    async fn browser(&self) -> Browser {
        let (mut pair, code) = self.stack.agent.show_code().await;
        let browser = Browser::pair(self.hostile.addr, &self.stack.prefix(), self.stack.host, &code).await;
        let browser = browser.expect("a code that is right pairs");
        assert!(pair.wait(SOON).await.success(), "{}", pair.log());
        browser
    }
}

/// Flips one bit in the middle.
fn flip(bytes: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    bytes.into()
}

/// Does something once, then lets everything pass.
fn once() -> impl Fn() -> bool {
    let done = AtomicBool::new(false);
    move || !done.swap(true, Ordering::SeqCst)
}

/// The app that most cases stand in front of.
async fn app() -> LocalServer {
    LocalServer::router(local::app()).await
}
